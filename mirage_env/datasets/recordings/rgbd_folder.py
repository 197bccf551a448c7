"""RGB-D folders of numbered files: `color/`, `depth/` and their poses, as Open3D, Redwood and ScanNet lay them out."""

from __future__ import annotations

from collections.abc import Iterator
from pathlib import Path

import numpy as np

from mirage_env.camera import Camera
from mirage_env.datasets.camera_files import CameraPath, Lens, read_cameras
from mirage_env.datasets.camera_files.colmap import find_model
from mirage_env.datasets.camera_files.folders import find_trajectory, number_of
from mirage_env.datasets.recordings.tum import in_pixels_of_image, read_depth, read_lenses
from mirage_env.datasets.recordings.view import PosedView, Recording
from mirage_env.errors import InvalidOptionError
from mirage_env.files import read_json_object, read_regular
from mirage_env.files.pictures import open_picture

COLORS, DEPTHS = ("color", "rgb", "image", "images"), ("depth", "depths")
LENSES = ("camera_intrinsic.json", "intrinsic.json")
"""Of Open3D: width, height, and a matrix column by column, pixel centres at whole numbers."""
SCANNET = ("intrinsic/intrinsic_color.txt", "intrinsic/intrinsic_depth.txt")
IMAGES, MAPS = (".png", ".jpg", ".jpeg"), (".png", ".npy", ".tif", ".tiff")
MOST_BYTES = 2**16


def is_rgbd_folder(folder: Path) -> bool:
    """Return whether a folder is laid out so, and no camera file says otherwise."""
    if not folder.is_dir() or (folder / "transforms.json").is_file() or find_model(folder) is not None:
        return False
    return _part(folder, COLORS) is not None and _part(folder, DEPTHS) is not None


def open_rgbd_folder(folder: Path, cameras: Path | None, lens: Lens | None, depth_scale: float) -> Recording:
    """Open a folder of numbered images and depth maps.

    Args:
        folder: with `color` (or `rgb`, `image`), `depth`, and poses: a list of one for every image, or a folder of one
            file for each.
        cameras: the poses, where they lie elsewhere.
        lens: intrinsics where no file tells them.
        depth_scale: units of 16-bit depth images per metre.

    Raises:
        InvalidOptionError: no poses, not one for every image, no image with depth, or no lens.
    """
    place = cameras or find_trajectory(folder)
    if place is None:
        raise InvalidOptionError(f"{folder} holds images and depth but no poses; give them: --cameras")
    path = read_cameras(place)
    images, maps = _numbered(folder, COLORS, IMAGES), _numbered(folder, DEPTHS, MAPS)
    posed = _posed(path, list(images), place)
    frames = [number for number in images if number in maps and number in posed]
    if not frames:
        raise InvalidOptionError(
            f"{folder}: {len(images)} images, {len(maps)} depth maps and {len(path)} poses have no number in common"
        )
    color, depth_lens, T_color_depth = read_lenses(folder)
    color = color or _lens_beside(folder) or lens
    if depth_lens is None and (folder / SCANNET[1]).is_file():
        depth_lens = _matrix_lens(folder / SCANNET[1])

    def views() -> Iterator[PosedView]:
        """Views of the frames that have depth and a pose."""
        for number in frames:
            image = np.asarray(open_picture(images[number], "RGB", upright=False))
            height, width = image.shape[:2]
            glass = path.lens(posed[number]) or color
            if glass is None:
                raise InvalidOptionError(f"{folder} tells no lens; put a {LENSES[0]} in it, or give --focal and --size")
            camera = Camera(
                path.T_world_cam[posed[number]], glass.K_image, glass.height or height, glass.width or width
            )
            camera = camera.resized(height, width)
            depth = in_pixels_of_image(read_depth(maps[number], depth_scale), camera, glass, depth_lens, T_color_depth)
            yield PosedView(glass.undistort(image), camera, depth, images[number].name)

    return Recording(f"RGB-D folder with {path.format}", len(frames), views, True, path.metric)


def _part(folder: Path, names: tuple[str, ...]) -> Path | None:
    return next((folder / name for name in names if (folder / name).is_dir()), None)


def _numbered(folder: Path, names: tuple[str, ...], endings: tuple[str, ...]) -> dict[int, Path]:
    """Files by the number of their frame, in its order."""
    part = _part(folder, names)
    files = [] if part is None else [file for file in part.iterdir() if file.suffix.lower() in endings]
    found = {number_of(file.name): file for file in files}
    if len(found) < len(files):
        raise InvalidOptionError(f"{part}: two files have one number; images, depth and poses are matched by it")
    return dict(sorted(found.items()))


def _posed(path: CameraPath, numbers: list[int], place: Path) -> dict[int, int]:
    """Index of the pose of every frame: by its number where files have one, else in their order."""
    if path.names:
        return {number_of(name): index for index, name in enumerate(path.names)}
    if len(path) != len(numbers):
        raise InvalidOptionError(f"{place} has {len(path)} poses, there are {len(numbers)} images; give one for each")
    return {number: index for index, number in enumerate(numbers)}


def _lens_beside(folder: Path) -> Lens | None:
    """The lens in a file of Open3D or ScanNet."""
    if (folder / SCANNET[0]).is_file():
        return _matrix_lens(folder / SCANNET[0])
    file = next((folder / name for name in LENSES if (folder / name).is_file()), None)
    if file is None:
        return None
    said = read_json_object(file)
    try:
        K = np.asarray(said["intrinsic_matrix"], np.float64).reshape(3, 3).T
        return Lens(K[0, 0], K[1, 1], K[0, 2] + 0.5, K[1, 2] + 0.5, int(said["height"]), int(said["width"]))
    except (KeyError, TypeError, ValueError, OverflowError) as error:
        raise InvalidOptionError(
            f"{file} lacks a lens ({error!r}); give width, height and an intrinsic_matrix of 9 numbers"
        ) from error


def _matrix_lens(file: Path) -> Lens:
    try:
        K = np.array(read_regular(file, MOST_BYTES).decode().split(), np.float64).reshape(4, 4)
    except (OSError, ValueError) as error:
        raise InvalidOptionError(f"{file} holds no 4 x 4 matrix ({error})") from error
    return Lens(K[0, 0], K[1, 1], K[0, 2] + 0.5, K[1, 2] + 0.5)
