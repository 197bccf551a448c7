"""Camera files of others: every format gives the cameras it was written from; what is wrong is named."""

import json
import struct

import numpy as np
import pytest
from PIL import Image

from mirage_env import cli
from mirage_env.datasets.camera_files import CameraPath, Lens, contradictions, read_cameras
from mirage_env.errors import InvalidCameraError, InvalidOptionError, InvalidPoseError, MirageError
from mirage_env.poses import inverse, pose_from_rotation_vector, vector_from_pose

RNG = np.random.default_rng(7)
POSES = [pose_from_rotation_vector(RNG.normal(size=3), 0.6 * RNG.normal(size=3)) for _ in range(5)]
K = (500.0, 510.0, 321.5, 239.25)
MATRIX = np.array([[K[0], 0, K[2]], [0, K[1], K[3]], [0, 0, 1]])
OPENGL = np.diag([1.0, -1.0, -1.0, 1.0])


def lines(rows) -> str:
    return "\n".join(" ".join(repr(float(x)) for x in row) for row in rows) + "\n"


def colmap_images():
    for i, T in enumerate(POSES):
        vector = vector_from_pose(inverse(T))
        yield i + 1, [*vector[3:], *vector[:3]], f"frame {i:03}.png"


def colmap_text(folder):
    model = folder / "sparse" / "0"
    model.mkdir(parents=True)
    (model / "cameras.txt").write_text("# c\n1 PINHOLE 640 480 " + " ".join(map(repr, K)) + "\n")
    images = "".join(f"{i} {' '.join(map(repr, map(float, p)))} 1 {n}\n\n" for i, p, n in colmap_images())
    (model / "images.txt").write_text("# images\n" + images)
    (model / "points3D.txt").write_text("1 0.5 1.5 2.5 255 0 0 0.1 1 0\n")
    return folder


def colmap_binary(folder):
    (folder / "cameras.bin").write_bytes(struct.pack("<QiiQQ4d", 1, 1, 1, 640, 480, *K))
    data = struct.pack("<Q", len(POSES))
    for i, pose, name in colmap_images():
        data += struct.pack("<i7di", i, *pose, 1) + name.encode() + b"\0" + struct.pack("<Q", 1)
        data += struct.pack("<ddq", 1.0, 2.0, -1)
    (folder / "images.bin").write_bytes(data)
    points = (
        struct.pack("<Q", 1) + struct.pack("<Q3d3BdQ", 1, 0.5, 1.5, 2.5, 0, 0, 0, 0.1, 1) + struct.pack("<ii", 1, 0)
    )
    (folder / "points3D.bin").write_bytes(points)
    return folder


def nerfstudio(folder, **more):
    frames = [{"file_path": f"images/{i}.png", "transform_matrix": (T @ OPENGL).tolist()} for i, T in enumerate(POSES)]
    lens = {"fl_x": K[0], "fl_y": K[1], "cx": K[2], "cy": K[3], "w": 640, "h": 480, "camera_model": "OPENCV"}
    (folder / "transforms.json").write_text(json.dumps({**lens, **more, "frames": frames}))
    return folder


def npz(folder, name="cameras.npz", **arrays):
    np.savez(folder / name, **arrays)
    return folder / name


def vipe(folder):
    for kind, data in (("pose", np.stack(POSES)), ("intrinsics", np.tile(K, (5, 1)))):
        (folder / kind).mkdir()
        np.savez(folder / kind / "video.npz", data=data, inds=np.arange(5))
    return folder / "pose" / "video.npz"


def text(folder, rows, head=""):
    (folder / "poses.txt").write_text(head + lines(rows))
    return folder / "poses.txt"


def tum(T, i):
    v = vector_from_pose(T)
    return [0.1 * i, *v[:3], *v[4:], v[3]]


def open3d_json(folder):
    entry = {"class_name": "PinholeCameraParameters"}
    intrinsic = {
        "width": 640,
        "height": 480,
        "intrinsic_matrix": (MATRIX - [[0, 0, 0.5], [0, 0, 0.5], [0, 0, 0]]).T.ravel(),
    }
    intrinsic["intrinsic_matrix"] = intrinsic["intrinsic_matrix"].tolist()
    parameters = [{**entry, "extrinsic": inverse(T).T.ravel().tolist(), "intrinsic": intrinsic} for T in POSES]
    (folder / "trajectory.json").write_text(
        json.dumps({"class_name": "PinholeCameraTrajectory", "parameters": parameters})
    )
    return folder / "trajectory.json"


def open3d_log(folder):
    (folder / "t.log").write_text("".join(f"{i} {i} {i + 1}\n{lines(T)}" for i, T in enumerate(POSES)))
    return folder / "t.log"


STACK = np.stack(POSES)
FORMATS = {
    "COLMAP text": (colmap_text, "COLMAP text", True),
    "COLMAP binary": (colmap_binary, "COLMAP binary", True),
    "COLMAP by a file of it": (lambda f: colmap_binary(f) / "images.bin", "COLMAP binary", True),
    "nerfstudio": (nerfstudio, "nerfstudio", True),
    "instant-ngp": (lambda f: nerfstudio(f, aabb_scale=16) / "transforms.json", "instant-ngp", True),
    "ViPE": (vipe, "ViPE", True),
    "VGGT": (lambda f: npz(f, extrinsic=inverse(STACK)[:, :3], intrinsic=np.tile(MATRIX, (5, 1, 1))), "VGGT", True),
    "VGGT with batch": (
        lambda f: npz(f, extrinsic=inverse(STACK)[None, :, :3], intrinsic=np.tile(MATRIX, (1, 5, 1, 1))),
        "VGGT",
        True,
    ),
    "MASt3R": (lambda f: npz(f, cams2world=STACK, intrinsics=np.tile(MATRIX, (5, 1, 1))), "MASt3R", True),
    "DUSt3R": (lambda f: npz(f, im_poses=STACK, focals=np.full(5, 500.0), pp=np.tile(K[2:], (5, 1))), "DUSt3R", None),
    "Matrix-Game": (lambda f: npz(f, c2w=STACK, K=MATRIX), "Matrix-Game", True),
    "KITTI": (lambda f: text(f, [T[:3].ravel() for T in POSES]), "KITTI", False),
    "TUM": (lambda f: text(f, [tum(T, i) for i, T in enumerate(POSES)], "# timestamp tx ...\n"), "TUM", False),
    "RealEstate10K": (
        lambda f: text(
            f, [[i, 0.8, 1.1, 0.5, 0.5, 0, 0, *inverse(T)[:3].ravel()] for i, T in enumerate(POSES)], "https://x\n"
        ),
        "RealEstate10K",
        None,
    ),
    "Open3D JSON": (open3d_json, "Open3D", True),
    "Open3D log": (open3d_log, "Open3D log", False),
    "matrices as text": (lambda f: text(f, [T.ravel() for T in POSES]), "matrices", False),
}


@pytest.mark.parametrize(("write", "name", "has_lens"), FORMATS.values(), ids=FORMATS)
def test_every_format_gives_the_cameras_it_was_written_from(tmp_path, write, name, has_lens):
    path = read_cameras(write(tmp_path))
    assert name in path.format
    assert path.why
    np.testing.assert_allclose(path.T_world_cam, STACK, atol=1e-6)
    if has_lens:
        for i in range(len(path)):
            lens = path.lens(i)
            assert lens is not None
            assert (lens.fx, lens.fy, lens.cx, lens.cy) == pytest.approx(K, abs=1e-6)
    elif has_lens is False:
        assert path.lens(0) is None


def test_lenses_without_an_image_size_are_kept_and_said(tmp_path, capsys):
    row = [0.0, 0.8, 1.1, 0.5, 0.4, 0, 0, *np.eye(4)[:3].ravel()]
    path = read_cameras(text(tmp_path, [row, [1e6, *row[1:]]]))
    lens = path.lens(1)
    assert (lens.relative, lens.fx, lens.fy, lens.cx, lens.cy) == (True, 0.8, 1.1, 0.5, 0.4)
    assert (path.from_start, path.times.tolist()) == (True, [0.0, 1.0])
    assert not [said for said in contradictions(path) if "square" in said or "field" in said]
    cli.main(["camera", str(tmp_path / "poses.txt")])
    assert "fx 0.8000, cx 0.5000 of the width" in capsys.readouterr().out
    blender = {"camera_angle_x": 0.7, "frames": [{"transform_matrix": np.eye(4).tolist()}]}
    (tmp_path / "transforms.json").write_text(json.dumps(blender))
    assert read_cameras(tmp_path).fov == 0.7
    cli.main(["camera", str(tmp_path)])
    assert "field of view 40.1 degrees" in capsys.readouterr().out


def test_names_points_times_and_sizes_are_kept(tmp_path):
    colmap = read_cameras(colmap_text(tmp_path))
    assert colmap.names[2] == "frame 002.png"
    assert colmap.points.tolist() == [[0.5, 1.5, 2.5]]
    assert (colmap.lens(0).width, colmap.lens(0).height) == (640, 480)
    assert read_cameras(colmap_binary(tmp_path / "sparse" / "0")).points.tolist() == [[0.5, 1.5, 2.5]]
    assert read_cameras(text(tmp_path, [tum(T, i) for i, T in enumerate(POSES)])).times == pytest.approx(
        0.1 * np.arange(5)
    )


@pytest.mark.parametrize(
    ("model", "values", "expected"),
    [
        ("SIMPLE_PINHOLE", [500, 320, 240], (500, 500, 320, 240)),
        ("SIMPLE_RADIAL", [500, 320, 240, 0.1], (500, 500, 320, 240, 0.1, 0, 0, 0)),
        ("RADIAL", [500, 320, 240, 0.1, 0.2], (500, 500, 320, 240, 0.1, 0.2, 0, 0)),
        ("OPENCV", [500, 510, 320, 240, 0.1, 0.2, 0.3, 0.4], (500, 510, 320, 240, 0.1, 0.2, 0.3, 0.4)),
        ("OPENCV_FISHEYE", [500, 510, 320, 240, 1, 2, 3, 4], (500, 510, 320, 240, 1, 2, 3, 4)),
    ],
)
def test_lenses_of_colmap_are_those_of_opencv(tmp_path, model, values, expected):
    colmap_text(tmp_path)
    (tmp_path / "sparse/0/cameras.txt").write_text(f"1 {model} 640 480 {' '.join(map(str, values))}\n")
    lens = read_cameras(tmp_path).lens(0)
    assert (lens.fx, lens.fy, lens.cx, lens.cy, *lens.distortion) == pytest.approx(expected)
    assert lens.model == ("pinhole" if len(expected) == 4 else "fisheye" if "FISH" in model else "opencv")


@pytest.mark.parametrize("model", ["opencv", "fisheye"])
def test_undistorted_image_is_that_of_the_pinhole(model):
    """A dot goes where the model says that it comes from."""
    pytest.importorskip("cv2")
    k = (0.12, -0.03, 0.0, 0.0) if model == "opencv" else (0.05, 0.01, 0.0, 0.0)
    lens = Lens(90.0, 95.0, 64.0, 48.0, 96, 128, k, model)
    x, y = 0.35, -0.2
    if model == "opencv":
        r2 = x * x + y * y
        scale = 1 + k[0] * r2 + k[1] * r2**2
    else:
        r = np.hypot(x, y)
        t = np.arctan(r)
        scale = t * (1 + k[0] * t**2 + k[1] * t**4) / r
    v, u = np.mgrid[:96, :128] + 0.5
    seen = (lens.fx * x * scale + lens.cx, lens.fy * y * scale + lens.cy)
    blob = np.exp(-((u - seen[0]) ** 2 + (v - seen[1]) ** 2) / 8.0)
    straight = lens.undistort((255 * blob).astype(np.uint8))
    twice = Lens(180.0, 190.0, 128.0, 96.0, 192, 256, k, model)
    assert np.array_equal(twice.undistort((255 * blob).astype(np.uint8)), straight), "the image was made smaller"
    straight = straight.astype(float)
    centre = (straight * u).sum() / straight.sum(), (straight * v).sum() / straight.sum()
    assert centre == pytest.approx((lens.fx * x + lens.cx, lens.fy * y + lens.cy), abs=0.2)


def put(folder, name, content):
    file = folder / name
    file.write_bytes(content) if isinstance(content, bytes) else file.write_text(content)
    return file


def damaged(folder, name, how):
    colmap_binary(folder)
    file = folder / name
    file.write_bytes(how(file.read_bytes()))
    return folder


def scaled(T):
    return T @ np.diag([2.0, 2.0, 2.0, 1.0])


WRONG = {
    "missing": (lambda f: f / "nothing.txt", InvalidOptionError, "there is no camera file"),
    "empty folder": (lambda f: f, InvalidOptionError, "no COLMAP model"),
    "empty text": (lambda f: put(f, "a.txt", ""), InvalidOptionError, "0 columns"),
    "seven columns": (lambda f: put(f, "a.txt", "1 2 3 4 5 6 7\n"), InvalidOptionError, "7 columns.*8: TUM"),
    "ragged": (lambda f: put(f, "a.txt", lines([range(8), range(12)])), InvalidOptionError, "8 columns"),
    "words": (lambda f: put(f, "a.txt", "a b c d e f g h\n"), InvalidOptionError, "give numbers"),
    "binary as text": (lambda f: put(f, "a.txt", b"\xff\xfe\x00"), InvalidOptionError, "no camera file"),
    "wxyz as TUM": (lambda f: text(f, [[0, 1, 2, 3, 1, 1, 0, 0]]), InvalidOptionError, "length 1.41"),
    "scaled KITTI": (
        lambda f: text(f, [scaled(T)[:3].ravel() for T in POSES]),
        InvalidPoseError,
        "pose 0.*rotation times 2",
    ),
    "mirrored": (
        lambda f: text(f, [(T @ np.diag([1, 1, -1, 1]))[:3].ravel() for T in POSES]),
        InvalidPoseError,
        "left-handed",
    ),
    "NaN": (lambda f: text(f, [[np.nan] * 12]), InvalidPoseError, "NaN"),
    "NaN among times": (
        lambda f: text(f, [[0, 1, 2, 3, 0, 0, 0, 1], [1, np.nan, 2, 3, 0, 0, 0, 1]]),
        InvalidPoseError,
        "pose 1.*not finite",
    ),
    "panorama": (
        lambda f: nerfstudio(f, camera_model="EQUIRECTANGULAR") / "transforms.json",
        InvalidOptionError,
        "camera_model is EQUIRECTANGULAR",
    ),
    "transposed": (lambda f: npz(f, c2w=STACK.transpose(0, 2, 1)), InvalidPoseError, "transposed"),
    "npz without poses": (lambda f: npz(f, depth=np.zeros((2, 3))), InvalidOptionError, "give poses as one of"),
    "npz of objects": (lambda f: npz(f, c2w=np.array([{}], object)), InvalidOptionError, "no .npz that can be read"),
    "npz of words": (lambda f: npz(f, c2w=np.array(["a"])), InvalidOptionError, "give numbers"),
    "npz shape": (lambda f: npz(f, c2w=np.zeros((3, 3))), InvalidOptionError, r"shape \(3, 3\)"),
    "npz lenses": (lambda f: npz(f, c2w=STACK, K=np.zeros((2, 3, 3))), InvalidOptionError, "for 5 cameras"),
    "zero focal": (lambda f: npz(f, c2w=STACK, K=np.zeros((3, 3))), InvalidCameraError, "positive focal"),
    "broken zip": (lambda f: put(f, "a.npz", b"PK\x03\x04xx"), InvalidOptionError, "no .npz"),
    "JSON keys": (lambda f: put(f, "a.json", '{"a": 1}'), InvalidOptionError, "frames"),
    "vector of a list": (lambda f: put(f, "a.json", "[[1, 0, 0, 9, 0, 0, 0]]"), InvalidPoseError, "pose 0.*length 9"),
    "broken JSON": (lambda f: put(f, "a.json", "{"), InvalidOptionError, "a.json"),
    "frames of numbers": (lambda f: put(f, "a.json", '{"frames": [1]}'), InvalidOptionError, "transform_matrix"),
    "short matrix": (
        lambda f: put(f, "a.json", '{"frames": [{"transform_matrix": [[1, 2]]}]}'),
        InvalidOptionError,
        r"shape \(1, 2\)",
    ),
    "no frames": (lambda f: put(f, "a.json", '{"frames": []}'), InvalidPoseError, "0 poses"),
    "COLMAP model": (
        lambda f: (colmap_text(f), put(f / "sparse/0", "cameras.txt", "1 FOV 640 480 1 2 3 4 5\n"), f)[-1],
        InvalidOptionError,
        "undistort the images",
    ),
    "COLMAP cut": (lambda f: damaged(f, "images.bin", lambda d: d[:-30]), InvalidOptionError, "COLMAP model"),
    "COLMAP count": (
        lambda f: damaged(f, "images.bin", lambda d: struct.pack("<Q", 2**60) + d[8:]),
        InvalidOptionError,
        "COLMAP model",
    ),
    "COLMAP camera": (
        lambda f: damaged(f, "cameras.bin", lambda d: d[:12] + struct.pack("<i", 99) + d[16:]),
        InvalidOptionError,
        "number 99",
    ),
    "Open3D log": (
        lambda f: put(f, "a.log", "1 2 3\n" + lines(np.eye(4)[:3]) + "1 2 3\n"),
        InvalidOptionError,
        "pose 0",
    ),
}


@pytest.mark.parametrize(("write", "error", "says"), WRONG.values(), ids=WRONG)
def test_wrong_file_is_named_by_its_cause(tmp_path, write, error, says):
    with pytest.raises(error, match=says) as caught:
        read_cameras(write(tmp_path))
    assert isinstance(caught.value, MirageError)


# Contradictions


def level_walk(count=20, step=0.1) -> np.ndarray:
    """Cameras that go forward with y down."""
    poses = np.tile(np.eye(4), (count, 1, 1))
    poses[:, 2, 3] = step * np.arange(count)
    return poses


def test_sound_path_has_no_contradiction():
    assert (
        contradictions(CameraPath("p", level_walk(), lenses=(Lens(500, 500, 320, 240, 480, 640),), metric=True)) == []
    )


def test_camera_that_turns_on_the_spot_does_not_jump_when_it_goes_on():
    poses = level_walk()
    rounded = np.repeat(poses, 4, axis=0) + 1e-16 * np.eye(4)[2][:, None] * np.eye(4)[3]
    rounded[1::4, 0, 3] += 1e-15
    assert not [found for found in contradictions(CameraPath("p", rounded, metric=True)) if "jumps" in found]


@pytest.mark.parametrize(
    ("change", "says"),
    [
        (
            lambda p: {"T_world_cam": np.concatenate([p[:10], p[10:] + 9 * np.eye(4)[2][:, None] * np.eye(4)[3]])},
            "1 jumps",
        ),
        (lambda p: {"T_world_cam": np.tile(p[:1], (5, 1, 1))}, "one point"),
        (lambda p: {"T_world_cam": level_walk(step=100.0)}, "centimetres or millimetres"),
        (lambda p: {"T_world_cam": p @ pose_from_rotation_vector([0, 0, 0], [0, 0, np.pi / 2])}, "up is the world's"),
        (lambda p: {"T_world_cam": p + np.diag([4e-3, 0, 0, 0])}, "projected to SO"),
        (lambda p: {"points": p[:, :3, 3].mean(0) + 0.01 * np.eye(3)}, "scene's depth"),
        (lambda p: {"lenses": (Lens(500, 500, 32, 24, 480, 640),)}, "principal point"),
        (lambda p: {"lenses": (Lens(5, 5, 320, 240, 480, 640),)}, "field of view"),
        (lambda p: {"lenses": (Lens(500, 900, 320, 240, 480, 640),)}, "not square"),
    ],
)
def test_contradictions_are_said(change, says):
    poses = level_walk()
    values = {"T_world_cam": poses, "metric": True, **change(poses)}
    found = contradictions(CameraPath("p", **values))
    assert any(says in line for line in found), found


@pytest.mark.parametrize(
    ("comment", "unit", "order"),
    [
        ("\ufeff# timestamp x y z qx qy qz qw\r\n", 1.0, [0, 1, 2, 3, 4, 5, 6, 7]),
        ("#timestamp, p_x [m], p_y, p_z, q_w [], q_x, q_y, q_z\n", 1e9, [0, 1, 2, 3, 7, 4, 5, 6]),
        ("#timestamp,p_RS_R_x [m],p_RS_R_y [m],q_RS_w [],q_RS_x [],q_RS_y []\n", 1e9, [0, 1, 2, 3, 7, 4, 5, 6]),
    ],
    ids=["marked as UTF-8", "EuRoC", "EuRoC, long names"],
)
def test_poses_with_times_are_read_by_their_comment_unit_and_order(tmp_path, comment, unit, order):
    vectors = [vector_from_pose(T) for T in POSES]
    rows = np.array([[1.4e9 + i, *v[:3], *v[4:], v[3]] for i, v in enumerate(vectors)])[::-1, order] * [unit, *[1] * 7]
    (tmp_path / "poses.csv").write_text(comment + lines(rows).replace(" ", ","), encoding="utf-8")
    found = read_cameras(tmp_path / "poses.csv")
    np.testing.assert_allclose(found.T_world_cam, POSES, atol=1e-9)
    np.testing.assert_allclose(found.times, 1.4e9 + np.arange(5), atol=1e-5)
    assert "sorted by time" in found.why[0]


def test_command_reports_and_draws(tmp_path, capsys):
    file = nerfstudio(tmp_path) / "transforms.json"
    assert cli.main(["camera", str(file), "--out", str(tmp_path / "frusta.png")]) == 0
    said = capsys.readouterr().out
    for words in ("nerfstudio", "5 cameras", "OpenGL axes", "fx 500.00", "640 x 480"):
        assert words in said
    with Image.open(tmp_path / "frusta.png") as image:
        assert (np.asarray(image) < 250).any()
    assert cli.main(["camera", str(tmp_path / "none.txt")]) == 2
