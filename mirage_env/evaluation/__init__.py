"""Evaluation of imagined worlds, against the rooms simulator and on data of others (docs/evaluation.md).

Against the simulator, on worlds of the test split: `loop` walks away and comes back, `network_parts` measures the
networks one by one, `speed` measures time and memory. On data of others: `re10k` walks along the cameras of clips,
`worldscore` makes the videos that the WorldScore toolkit scores.
"""

import lazy_loader

__getattr__, __dir__, __all__ = lazy_loader.attach_stub(__name__, __file__)
