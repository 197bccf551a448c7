"""How good the imagined worlds are (docs/evaluation.md).

Against the rooms simulator, on worlds of the test split: `loop` walks away and comes back, `components` measures the
networks one by one, `speed` measures time and memory. On data of others: `re10k` walks along the cameras of clips,
`worldscore` makes the videos that the WorldScore toolkit scores. The measures are `metrics`, `lpips`, `camera_errors`
and `consistency`.
"""
