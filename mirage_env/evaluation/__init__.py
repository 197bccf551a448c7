"""How good the imagined worlds are, measured against the rooms simulator on worlds of the test split.

`loop` walks away and comes back, `components` measures the networks one by one, `speed` measures time and memory.
"""
