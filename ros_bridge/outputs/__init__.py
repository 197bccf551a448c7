"""Outputs: publishers of frames, transforms, memory, requested views and diagnostics."""
