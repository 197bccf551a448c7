"""Convert actions of a policy to velocities and goals of a body: pure NumPy, no node.

An action is the one of `Mirage/World-v0`: the next camera in the frame of the current one, in optical axes, as shares
of a largest step and turn. Out comes a velocity or a goal in the body axes of REP-103.
"""

from __future__ import annotations

from typing import Any

import numpy as np
from numpy.typing import ArrayLike, NDArray
from PIL import Image

from mirage_env.errors import InvalidActionError
from mirage_env.fit_view import centre_crop
from mirage_env.poses import pose_from_rotation_vector
from ros_bridge.messages.optical_frames import Matrix, ros_pose_from_matrix, wxyz_from_xyzw


def motion_of(action: ArrayLike, max_translation: float, max_rotation: float) -> Matrix:  # [6] -> [4, 4]
    """`T_cam_next` in optical axes; components beyond [-1, 1] are clipped.

    Raises:
        InvalidActionError: not six finite numbers.
    """
    share = np.asarray(action, np.float64)
    if share.shape != (6,) or not np.isfinite(share).all():
        raise InvalidActionError(f"the policy chose {share.tolist()}; it must give 6 finite numbers in [-1, 1]")
    share = np.clip(share, -1.0, 1.0)
    return pose_from_rotation_vector(max_translation * share[:3], max_rotation * share[3:])


def observation_of(
    image: NDArray[np.uint8],  # [H, W, 3]
    T_world_cam: Matrix,
    size: tuple[int, int] | None = None,  # H, W
) -> dict[str, Any]:
    """`pixels` and `agent_pos` as `Mirage/World-v0` gives them; another image size is cropped and resized to `size`."""
    if size is not None and image.shape[:2] != size:
        height, width = size
        box = centre_crop((image.shape[1], image.shape[0]), width / height)
        picture = Image.fromarray(image).resize((width, height), Image.Resampling.BILINEAR, box)
        image = np.asarray(picture)
    position, xyzw = ros_pose_from_matrix(T_world_cam)
    pose = np.concatenate([position, wxyz_from_xyzw(xyzw)])
    return {"pixels": image.copy(), "agent_pos": pose.astype(np.float32)}
