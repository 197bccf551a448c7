"""Clips of RealEstate10K and of everything kept in its layout: a pose list beside a video or a folder of its frames.

A pose list is text: the video's link, then a row per frame: `timestamp fx fy cx cy 0 0` and the 3 x 4 matrix
`T_cam_world` row by row. Timestamps are microseconds from the start of the video; intrinsics are shares of the image's
width (fx, cx) and height (fy, cy); axes are OpenCV's. Lengths have no unit: each clip is scaled as its own
reconstruction left it (Zhou et al. 2018, arXiv 1805.09817, section 4). A folder of frames has one image per row, named
by its timestamp.
"""

from __future__ import annotations

from collections.abc import Iterator, Sequence
from dataclasses import dataclass
from pathlib import Path

import numpy as np
from numpy.typing import NDArray

from mirage_env.camera import Camera
from mirage_env.datasets.videos import check_gap, decoded, nearest_frames
from mirage_env.errors import ClipError, InvalidImageError
from mirage_env.files import read_text
from mirage_env.poses import Matrix, inverse, rigid

COLUMNS = 19
"""Numbers in a row of a pose list."""
IMAGE_SUFFIXES = (".png", ".jpg", ".jpeg", ".webp")
_LINKS = ("http://", "https://")
Picture = NDArray[np.uint8]


@dataclass(frozen=True, eq=False)
class PoseList:
    """Cameras of N frames of one video. Arrays are read-only.

    Raises:
        ClipError: arrays of different lengths, or timestamps that do not increase.
    """

    url: str
    """The video's link; empty where the list has none."""
    timestamps_us: NDArray[np.int64]  # [N], microseconds
    intrinsics: NDArray[np.float64]  # [N, 4] fx, fy, cx, cy as shares of the image's width and height
    T_cam_world: NDArray[np.float64]  # [N, 4, 4], in units of the list's own

    def __post_init__(self) -> None:
        lengths = {len(self.timestamps_us), len(self.intrinsics), len(self.T_cam_world)}
        if len(lengths) != 1 or (np.diff(self.timestamps_us) <= 0).any():
            raise ClipError(f"a pose list has parts of {sorted(lengths)} rows; give one, with timestamps that increase")
        for array in (self.timestamps_us, self.intrinsics, self.T_cam_world):
            array.setflags(write=False)

    def __len__(self) -> int:
        return len(self.timestamps_us)

    def __getitem__(self, rows: slice | Sequence[int]) -> PoseList:
        """Some of the rows."""
        chosen = np.arange(len(self))[rows]
        return PoseList(self.url, self.timestamps_us[chosen], self.intrinsics[chosen], self.T_cam_world[chosen])


def read_pose_list(path: str | Path) -> PoseList:
    """Read a pose list.

    Raises:
        ClipError: no such file, a row that is not 19 finite numbers or no rigid motion (named by its line), or no row.
    """
    path = Path(path)
    lines = read_text(path, error=ClipError, advice="give a pose list of RealEstate10K").splitlines()
    url, rows, poses = "", [], []
    for number, line in enumerate(lines, 1):
        if number == 1 and line.startswith(_LINKS):
            url = line.strip()
        elif line.strip():
            try:
                row = np.array([float(word) for word in line.split()])
                if len(row) != COLUMNS or not np.isfinite(row).all():
                    raise ClipError(f"{len(row)} columns, {int(np.isfinite(row).sum())} of them finite")
                poses.append(rigid(matrix_of_row(row)))
            except ValueError as error:
                raise ClipError(
                    f"{path}, line {number}: {error}; a row is {COLUMNS} numbers: a timestamp, fx fy cx cy, two "
                    "zeros and the 3 x 4 matrix T_cam_world"
                ) from error
            rows.append(row)
    if not rows:
        raise ClipError(f"{path} holds no pose")
    table = np.stack(rows)
    return PoseList(url, table[:, 0].astype(np.int64), table[:, 1:5].copy(), np.stack(poses))


def write_pose_list(path: str | Path, poses: PoseList) -> None:
    """Write a pose list that `read_pose_list` reads."""
    lines = [poses.url] if poses.url else []
    for time, intrinsics, T in zip(poses.timestamps_us, poses.intrinsics, poses.T_cam_world, strict=True):
        numbers = [*intrinsics, 0.0, 0.0, *T[:3].ravel()]
        lines.append(" ".join([str(int(time)), *(f"{x:.9f}" for x in numbers)]))
    Path(path).write_text("\n".join(lines) + "\n")


def matrix_of_row(
    row: NDArray[np.float64],  # [19]
) -> Matrix:  # [4, 4]
    """`T_cam_world` of one row of a pose list; whether it is a rigid motion is not looked at."""
    return np.vstack([row[7:].reshape(3, 4), [0.0, 0.0, 0.0, 1.0]])


def camera_of(
    poses: PoseList,
    index: int,
    frame_size: tuple[int, int],  # H, W of the video
    size: tuple[int, int],  # H, W after the crop
    scale: float = 1.0,
) -> Camera:
    """Camera of a row, for the frame that `read_video_frames` gives at `size`: cropped to its shape, then resized.

    Args:
        poses: the pose list.
        index: row of the list.
        frame_size: size of the frames before the crop (`video_size`).
        size: of the image that the camera is for.
        scale: metres per unit of the list's lengths.

    Raises:
        InvalidCameraError: intrinsics that no camera has.
    """
    height, width = frame_size
    fx, fy, cx, cy = poses.intrinsics[index] * (width, height, width, height)
    left, top, right, bottom = _crop(frame_size, size)
    K_crop = np.array([[fx, 0.0, cx - left], [0.0, fy, cy - top], [0.0, 0.0, 1.0]])
    K_image = np.diag([size[1] / (right - left), size[0] / (bottom - top), 1.0]) @ K_crop
    T_world_cam = inverse(poses.T_cam_world[index])
    T_world_cam[:3, 3] *= scale
    return Camera(T_world_cam, K_image, *size)


def video_size(path: str | Path) -> tuple[int, int]:  # H, W
    """Size of the frames of a video, or of a folder of frames.

    Raises:
        ClipError: nothing there that can be read.
    """
    path = Path(path)
    if path.is_dir():
        return _open(next(iter(_images(path).values()))).shape[:2]
    for _, frame in decoded(path, 0, last=0):
        return frame.shape[:2]
    raise ClipError(f"{path} is no video that can be read: ffmpeg finds no frame in it")


def read_video_frames(
    path: str | Path,
    timestamps_us: Sequence[int] | NDArray[np.int64],  # N increasing
    size: tuple[int, int] | None = None,  # H, W
) -> Picture:  # [N, H, W, 3]
    """The frames of a video, or of a folder of frames, nearest to those timestamps.

    Args:
        path: a video that ffmpeg reads, or a folder of images named by their timestamps.
        timestamps_us: microseconds from the start of the video.
        size: crop the centre to this shape and resize to this size; None leaves the frames as they are.

    Raises:
        ClipError: it cannot be read, or has no frame within `TOLERANCE_US` of a timestamp.
    """
    path, wanted = Path(path), [int(t) for t in timestamps_us]
    if not wanted:
        raise ClipError(f"no frame of {path} was asked for; give at least one timestamp")
    frames = _nearest_images(path, wanted) if path.is_dir() else nearest_frames(path, wanted)
    return np.stack([frame if size is None else _fit(frame, size) for frame in frames])


def _nearest_images(folder: Path, wanted: Sequence[int]) -> Iterator[Picture]:
    images = _images(folder)
    times = np.array(sorted(images))
    for time in wanted:
        nearest = int(times[np.abs(times - time).argmin()])
        check_gap(folder, time, nearest)
        yield _open(images[nearest])


def _images(folder: Path) -> dict[int, Path]:
    """Images of a folder by timestamp."""
    found = {int(f.stem): f for f in folder.iterdir() if f.suffix.lower() in IMAGE_SUFFIXES and f.stem.isdecimal()}
    if not found:
        raise ClipError(f"{folder} holds no frames; they are images named by their timestamps, such as 52553000.png")
    return found


def _open(file: Path) -> Picture:
    from mirage_env.files import open_picture

    try:
        return np.asarray(open_picture(file))
    except InvalidImageError as error:
        raise ClipError(str(error)) from error


def _fit(frame: Picture, size: tuple[int, int]) -> Picture:
    """The centre of a frame in the shape of `size`, resized to it."""
    from PIL import Image

    height, width = frame.shape[:2]
    if (height, width) == size:
        return frame
    resized = Image.fromarray(frame).resize(size[::-1], Image.Resampling.LANCZOS, _crop((height, width), size))
    return np.asarray(resized)


def _crop(frame_size: tuple[int, int], size: tuple[int, int]) -> tuple[float, float, float, float]:
    from mirage_env.fit_view import centre_crop

    return centre_crop((frame_size[1], frame_size[0]), size[1] / size[0])
