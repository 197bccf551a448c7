"""Rigid motions that Hypothesis draws."""

import numpy as np
from hypothesis import strategies as st

from mirage_env.poses import pose_from_rotation_vector


@st.composite
def motions(draw) -> np.ndarray:  # [4, 4]
    """Rigid motions with rotation angles from 0 to just below pi, small ones as likely as large ones."""
    numbers = st.floats(-1.0, 1.0)
    axis = np.array([draw(numbers) for _ in range(3)])
    length = np.linalg.norm(axis)
    axis = axis / length if length > 0.1 else np.array([0.0, 0.0, 1.0])
    angle = draw(st.one_of(st.just(0.0), st.floats(-12.0, 0.49).map(lambda e: 10.0**e), st.floats(0.0, 3.14)))
    return pose_from_rotation_vector([10.0 * draw(numbers) for _ in range(3)], angle * axis)
