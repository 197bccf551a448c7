"""Draws docs/ros_frames.png: the frames of the ROS bridge, by its own conversions.

python docs/draw_frames.py
"""

from pathlib import Path

import matplotlib.pyplot as plt
import numpy as np
from matplotlib.axes import Axes

from ros_bridge.messages import R_BODY_OPTICAL

AXES = (("x", "#d62728"), ("y", "#2ca02c"), ("z", "#1f77b4"))
BACK, SIDE = np.array([0.5, 0.42]), np.array([-0.95, 0.0])  # x and y of the map on the paper


def on_paper(points: np.ndarray) -> np.ndarray:  # [N, 3] in the map -> [N, 2]
    """An oblique view from behind and above: forward goes up to the right, left to the left."""
    return points[:, :1] * BACK + points[:, 1:2] * SIDE + points[:, 2:] * np.array([0.0, 1.0])


def draw_frame(ax: Axes, T: np.ndarray, name: str, below: str, length: float = 0.75) -> None:  # T_map_frame
    ends = T[:3, 3] + length * T[:3, :3].T
    start, *tips = on_paper(np.vstack([T[:3, 3], ends]))
    for (axis, colour), tip in zip(AXES, tips, strict=True):
        ax.annotate("", tip, start, arrowprops={"arrowstyle": "-|>", "color": colour, "lw": 2.2, "shrinkA": 0})
        ax.text(*(tip + 0.16 * (tip - start)), axis, color=colour, ha="center", va="center", fontsize=12)
    ax.text(start[0], start[1] - 1.15, name, ha="center", family="monospace", fontsize=11, weight="bold")
    ax.text(start[0], start[1] - 1.28, below, ha="center", va="top", fontsize=9, color="0.35")


def pose(x: float, y: float, R: np.ndarray | None = None) -> np.ndarray:
    T = np.eye(4)
    T[:3, :3] = np.eye(3) if R is None else R
    T[:2, 3] = x, y
    return T


def main() -> None:
    figure, ax = plt.subplots(figsize=(10, 3.4))
    places = [pose(0.0, 0.0), pose(0.0, -3.4), pose(0.0, -6.8, R_BODY_OPTICAL)]
    words = [
        ("map", "REP-103, z up, at the start view\n~/pose, ~/path, ~/points, ~/goal_pose"),
        ("base_link", "x forward, y left, z up\ncmd_vel"),
        ("camera_optical_frame", "x right, y down, z forward\nimages, depth, camera_info"),
    ]
    for T, (name, below) in zip(places, words, strict=True):
        draw_frame(ax, T, name, below)
    for T, U, label in zip(places, places[1:], ["/tf\nhow it moves", "/tf_static\nsame place"], strict=False):
        a, b = on_paper(np.stack([T[:3, 3] + [0, -0.9, 0], U[:3, 3] + [0, 1.15, 0]]))
        ax.annotate("", b, a, arrowprops={"arrowstyle": "->", "color": "0.5", "lw": 1.5, "ls": "--"})
        ax.text(*(0.5 * (a + b) + [0.0, 0.12]), label, ha="center", va="bottom", fontsize=9, color="0.35")
    centres = on_paper(np.stack([T[:3, 3] for T in places]))
    (left, low), (right, high) = centres.min(0) - (1.5, 1.8), centres.max(0) + np.array([1.5, 1.2])
    ax.set(xlim=(left, right), ylim=(low, high), aspect="equal")
    ax.axis("off")
    figure.savefig(Path(__file__).with_name("ros_frames.png"), dpi=110, bbox_inches="tight")


if __name__ == "__main__":
    main()
