"""Read any camera file: the format is found by what the file holds, and how it was found is kept."""

from __future__ import annotations

from pathlib import Path

from mirage_env.datasets.camera_files.arrays import as_poses, read_npz_cameras
from mirage_env.datasets.camera_files.colmap import find_model, read_colmap
from mirage_env.datasets.camera_files.folders import find_trajectory, read_pose_folder
from mirage_env.datasets.camera_files.nerfstudio import read_json_cameras
from mirage_env.datasets.camera_files.path import CameraPath
from mirage_env.datasets.camera_files.text import read_text
from mirage_env.errors import InvalidOptionError
from mirage_env.files import read_json, read_npy, read_regular

MOST_BYTES = 2**28


def read_cameras(path: str | Path) -> CameraPath:
    """Cameras of a file or folder.

    | what | how it is recognised | axes and direction |
    |---|---|---|
    | COLMAP | `cameras` and `images`, `.txt` or `.bin`, in the folder or in `sparse/0` | w2c, OpenCV |
    | nerfstudio, instant-ngp, Blender | `transforms.json` or another JSON with `frames` | c2w, OpenGL |
    | Open3D | JSON with `parameters`; a log of 5 lines a pose | w2c, OpenCV; c2w |
    | ViPE, VGGT, MASt3R, Matrix-Game | `.npz`, by the names of its arrays | OpenCV |
    | KITTI, TUM, RealEstate10K | text of 12, 8 or 19 columns | c2w, c2w, w2c, OpenCV |
    | a folder of 4 x 4 texts | ScanNet, 7-Scenes | c2w, OpenCV |
    | matrices, vectors | JSON list, `.npy`, text of 16 columns | c2w, OpenCV |

    Raises:
        InvalidOptionError: nothing there, or no format that is known.
        InvalidPoseError: a pose that is no rigid motion, named by its number and likely cause.
        InvalidCameraError: intrinsics that no lens has.
    """
    path = Path(path)
    if not path.exists():
        raise InvalidOptionError(f"there is no camera file {path}; give a file or COLMAP folder that is there")
    if path.is_dir() or path.name.split(".")[0] in ("images", "cameras", "points3D"):
        if (model := find_model(path)) is not None:
            return read_colmap(model)
        if (path / "transforms.json").is_file():
            return read_cameras(path / "transforms.json")
        if path.is_dir():
            return _of_folder(path)
    if path.suffix == ".json":
        return read_json_cameras(read_json(path, most_bytes=MOST_BYTES, advice="give a camera file"), path.name)
    try:
        if path.suffix == ".npz":
            return read_npz_cameras(path)
        if path.suffix == ".npy":
            why = ("an array: camera to world in OpenCV axes, metres",)
            return CameraPath(f"npy ({path.name})", as_poses(read_npy(path), str(path)), why, metric=True)
        text = read_regular(path, MOST_BYTES).decode("utf-8-sig")
    except (OSError, ValueError) as error:
        if type(error).__module__ == "mirage_env.errors":
            raise
        raise InvalidOptionError(f"{path} is no camera file that can be read ({error})") from error
    return read_text(text, path.name)


def _of_folder(folder: Path) -> CameraPath:
    """Cameras of a folder that is no reconstruction: of the list of poses in it, or of its texts of a pose each."""
    if (place := find_trajectory(folder)) is not None:
        return read_cameras(place)
    if folder.name in ("pose", "poses") and any(folder.glob("*.txt")):
        return read_pose_folder(folder)
    raise InvalidOptionError(
        f"{folder} holds no COLMAP model (cameras and images, .txt or .bin), no transforms.json and no list of poses "
        "that is known by its name; name the file"
    )
