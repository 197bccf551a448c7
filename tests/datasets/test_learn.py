"""Learning a world from a recording: what was recorded is read back, with either registration, in constant memory."""

import json
import math
from dataclasses import replace

import numpy as np
import pytest
from PIL import Image
from rgbd_folders import T_COLOR_DEPTH, room_walk, write_tum
from stand_ins import picture
from tiny import tiny_world_model
from videos import write_mp4
from worlds import open_minded_model

from mirage_env import cli, load_world, load_world_model
from mirage_env.camera import Camera
from mirage_env.datasets import Clips, PoseList, write_pose_list
from mirage_env.datasets.import_recording import ClipsConfig, import_recording
from mirage_env.datasets.learn import LearnConfig, learn_world
from mirage_env.datasets.metric_scale import depth_ratio, scale_from_distances, scale_from_ratios
from mirage_env.datasets.recordings import (
    PosedView,
    ReadConfig,
    Recording,
    filtered_depth,
    find_scales,
    open_recording,
    registered_depth,
)
from mirage_env.errors import ClipError, InvalidOptionError, MirageError
from mirage_env.fit_view import fit_view
from mirage_env.poses import inverse, pose_from_rotation_vector, vector_from_pose

SIZE = (48, 64)


@pytest.fixture(scope="module")
def model():
    return tiny_world_model()


@pytest.fixture(scope="module")
def walk():
    return room_walk(3, 12, SIZE)


def oracle(walk) -> Recording:
    room, cameras = walk

    def views():
        for i, camera in enumerate(cameras):
            view = room.render(camera, samples=1)
            yield PosedView(view.image, camera, view.depth, str(i))

    return Recording("oracle", len(cameras), views, True, True)


@pytest.fixture(scope="module", params=[False, True], ids=["registered", "depth camera of its own"])
def folder(request, walk, tmp_path_factory):
    return write_tum(tmp_path_factory.mktemp("rgbd") / "room", *walk, own_depth_camera=request.param)


def test_rgbd_folder_gives_the_views_that_were_recorded(walk, folder):
    room, cameras = walk
    recording = open_recording(folder)
    views = list(recording.views())
    assert recording.has_depth
    assert recording.metric
    assert len(views) == recording.count == len(cameras)
    errors, known = [], []
    for view, camera in zip(views, cameras, strict=True):
        true = room.render(camera, samples=1)
        np.testing.assert_allclose(view.camera.T_world_cam, camera.T_world_cam, atol=1e-6)
        np.testing.assert_allclose(view.camera.K_image, camera.K_image, atol=1e-9)
        assert np.array_equal(view.image, true.image)
        both = (view.depth > 0) & (true.depth < 7.0)
        errors.append(np.abs(view.depth / true.depth - 1.0)[both])
        known.append(both.mean())
    assert np.median(np.concatenate(errors)) < 0.015
    assert np.mean(known) > 0.4


@pytest.fixture(scope="module")
def oracles():
    """The shipped model at half its size, a walk, and what a memory of its true depth shows."""
    model, walk = load_world_model("rooms", image_size=(128, 128)), room_walk(4, 12, (240, 320))
    return model, walk, learn_world(model, oracle(walk), LearnConfig(hold_out=4))[1]


@pytest.mark.parametrize("own_depth_camera", [False, True], ids=["registered", "depth camera of its own"])
def test_learned_world_is_read_back_as_well_as_the_oracles(tmp_path, own_depth_camera, oracles):
    """The recording's depth is noisy, with holes; the oracle's is true."""
    model, walk, truth = oracles
    source = open_recording(write_tum(tmp_path / "room", *walk, own_depth_camera))
    _, found = learn_world(model, source, LearnConfig(hold_out=4))
    assert found.held_out == truth.held_out == 3
    assert truth.coverage > 0.7
    assert found.psnr > truth.psnr - 0.5
    assert found.coverage > 0.85 * truth.coverage


def test_view_that_shows_nothing_new_is_no_key_frame(model):
    camera, depth = Camera.from_fov(1.2, 32, 32), np.full((32, 32), 3.0, np.float32)
    still = Recording("still", 9, lambda: iter([PosedView(picture(), camera, depth)] * 9), True, True)
    _, report = learn_world(model, still, LearnConfig(hold_out=0))
    assert (report.views, report.key_frames) == (9, 1)
    assert math.isnan(report.psnr)


def round_room(camera: Camera) -> np.ndarray:
    """Depth from the middle of a round room."""
    v, u = np.mgrid[: camera.height, : camera.width] + 0.5
    rays = np.linalg.solve(camera.K_image, np.stack([u, v, np.ones_like(u)]).reshape(3, -1))
    return (3.0 / np.linalg.norm(rays, axis=0)).reshape(u.shape).astype(np.float32)


@pytest.mark.parametrize("how", ["learn", "import"])
def test_one_view_is_held_at_a_time(model, how, tmp_path):
    alive, most = set(), [0]

    class Counted(np.ndarray):
        def __del__(self):
            alive.discard(id(self))

    def views():
        for i in range(30):
            image = np.asarray(picture(i)).copy().view(Counted)
            alive.add(id(image))
            most[0] = max(most[0], len(alive))
            camera = Camera.from_fov(1.2, 32, 32, pose_from_rotation_vector([0, 0, 0], [0, 0.3 * i, 0]))
            yield PosedView(image, camera, round_room(camera))
            del image

    recording = Recording("stream", 30, views, True, True)
    if how == "learn":
        learn_world(model, recording, LearnConfig(hold_out=0))
    else:
        assert len(import_recording(recording, tmp_path, ClipsConfig(frames=5, size=(16, 16)))) == 6
    assert most[0] <= 3


# What contradicts itself


def spoiled(walk, change) -> Recording:
    def views():
        yield from (change(view) for view in oracle(walk).views())

    return replace(oracle(walk), views=views)


def reposed(view, T):
    return replace(view, camera=view.camera.at(T))


@pytest.mark.parametrize(
    ("change", "says"),
    [
        (
            lambda v: reposed(v, v.camera.T_world_cam @ np.diag([1.0, -1, -1, 1])),
            r"oracle, 0 and \d: .* if .* OpenGL axes",
        ),
        (lambda v: reposed(v, inverse(v.camera.T_world_cam)), "world-to-camera: invert"),
        (lambda v: replace(v, depth=v.depth * 1000), "oracle, 0.*millimetres"),
        (lambda v: replace(v, depth=v.depth / 1000), "positions were divided by 1000"),
        (lambda v: replace(v, depth=-v.depth), "positive"),
        (lambda v: replace(v, depth=0.0 * v.depth.clip(0, 9)), "first 12 depth maps is measured"),
        (lambda v: replace(v, image=v.image // 255), "of one colour"),
        (lambda v: replace(v, image=np.eye(*SIZE, dtype=np.uint8)[..., None] * np.full(3, 255, np.uint8)), "stuck"),
    ],
)
def test_recording_that_contradicts_itself_is_refused_before_anything_is_made(model, walk, tmp_path, change, says):
    with pytest.raises(MirageError, match=says):
        learn_world(model, spoiled(walk, change))
    with pytest.raises(MirageError, match=says):
        import_recording(spoiled(walk, change), tmp_path, ClipsConfig(frames=4, size=(32, 32), rate=None))
    assert not (tmp_path / "clips.json").exists()


# Depth


def test_filter_removes_what_no_surface_measures_and_keeps_the_rest():
    depth = np.full((20, 20), 3.0, np.float32)
    depth[:, 10:] = 5.0
    depth[5, 5] = 4.0  # alone
    depth[:, 10] = 4.0  # flying between the surfaces
    depth[0, 0], depth[1, 15], depth[15, 15] = 0.01, 90.0, np.inf
    found = filtered_depth(depth, 0.1, 50.0)
    assert found[5, 5] == found[0, 0] == found[1, 15] == 0.0
    assert not found[2:-2, 10].any()
    assert found[15, 15] == np.inf
    assert (found[8:, 2:8] == 3.0).all()
    assert (found[8:13, 13:] == 5.0).all()


def test_registered_depth_is_what_the_image_camera_would_measure(walk):
    room, cameras = walk
    to = cameras[0]
    of = Camera.from_fov(1.1, *SIZE, to.T_world_cam @ T_COLOR_DEPTH)
    found, true = registered_depth(room.render(of).depth, of, to), room.render(to).depth
    both = found > 0
    assert both.mean() > 0.4
    assert np.median(np.abs(found[both] / true[both] - 1.0)) < 0.01


def test_what_a_narrow_depth_camera_does_not_see_is_not_written(walk, tmp_path):
    """Outside its field of view the image has no depth: unknown, neither sky nor a guess."""
    recording = open_recording(write_tum(tmp_path / "room", *walk, own_depth_camera=True, depth_fov=0.6))
    view = next(iter(recording.views()))
    assert (view.depth[18:30, 24:40] > 0).mean() > 0.7
    assert not view.depth[:, :8].any()
    assert not view.depth[:, -8:].any()
    state, _ = learn_world(open_minded_model(), recording, LearnConfig(most_views=1, hold_out=0))
    seen = state.memory.read([state.camera], now=1).observed[0] > 0
    assert seen[1:3, 1:3].any()
    assert not seen[:, 0].any()
    assert not seen[:, -1].any()


# Photographs, videos, scale


def photographs(folder, walk, unit=1.0, depth=False, points=True):
    """A COLMAP model of the walk with its images, lengths in another unit."""
    room, cameras = walk
    (folder / "sparse").mkdir(parents=True)
    (folder / "images").mkdir()
    K = cameras[0].K_image
    numbers = f"{K[0, 0]} {K[1, 1]} {K[0, 2]} {K[1, 2]}"
    (folder / "sparse/cameras.txt").write_text(f"1 PINHOLE {SIZE[1]} {SIZE[0]} {numbers}\n")
    rows, cloud = [], []
    for i, camera in enumerate(cameras):
        view = room.render(camera, samples=1)
        Image.fromarray(view.image).save(folder / f"images/{i:03}.png")
        T = camera.T_world_cam.copy()
        T[:3, 3] /= unit
        v = vector_from_pose(inverse(T))
        rows.append(f"{i + 1} {' '.join(map(repr, map(float, [*v[3:], *v[:3]])))} 1 {i:03}.png\n\n")
        y, x = np.mgrid[4:48:8, 4:64:8].reshape(2, -1)
        x, y = x[np.isfinite(view.depth[y, x])], y[np.isfinite(view.depth[y, x])]
        rays = np.linalg.solve(K, np.stack([x + 0.5, y + 0.5, np.ones(len(x))])) * view.depth[y, x]
        cloud.append((camera.T_world_cam[:3, :3] @ rays + camera.T_world_cam[:3, 3:]).T / unit)
    (folder / "sparse/images.txt").write_text("".join(rows))
    listed = np.concatenate(cloud) if points else np.zeros((0, 3))
    text = "".join(f"{i} {x} {y} {z} 0 0 0 0.1\n" for i, (x, y, z) in enumerate(listed))
    (folder / "sparse/points3D.txt").write_text(text)
    return folder


class TrueDepth:
    """Estimates the depth of a room, in metres, by looking."""

    def __init__(self, room, unit):
        self.room, self.unit = room, unit

    def estimate(self, images, cameras, known=None):
        import torch

        poses = [c.T_world_cam.copy() for c in cameras]
        for T in poses:
            T[:3, 3] *= self.unit
        return torch.from_numpy(
            np.stack([self.room.render(c.at(T)).depth for c, T in zip(cameras, poses, strict=True)])
        )


class Shrunk(TrueDepth):
    """Estimates two thirds of the depth."""

    def estimate(self, images, cameras, known=None):
        return super().estimate(images, cameras) / 1.5


def test_scale_of_photographs_is_found_from_depth_and_points(model, walk, tmp_path):
    recording = open_recording(photographs(tmp_path / "photos", walk, unit=2.5))
    assert not recording.metric
    scale = find_scales(recording, ReadConfig(), SIZE, TrueDepth(walk[0], 2.5)).cameras
    assert scale.factor == pytest.approx(2.5, rel=0.03)
    assert abs(scale.factor / 2.5 - 1.0) < 4 * scale.error + 0.02
    assert scale.samples > 5


def test_photographs_without_depth_become_a_world(model, walk, tmp_path):
    state, report = learn_world(model, open_recording(photographs(tmp_path / "photos", walk, unit=2.5)))
    assert report.scale is not None
    assert report.views == 12
    assert state.memory.points > 0


def test_scale_from_known_distances():
    positions = np.array([[0.0, 0, 0], [1, 0, 0], [0, 2, 0], [0, 0, 3]])
    scale = scale_from_distances(positions, [(0, 1, 0.5), (0, 2, 1.0), (0, 3, 1.53)])
    assert scale.factor == pytest.approx(0.5, rel=0.01)
    assert 0.0 <= scale.error < 0.05
    for wrong in ([], [(0, 9, 1.0)], [(0, 1, -1.0)], [(1, 1, 1.0)]):
        with pytest.raises(InvalidOptionError):
            scale_from_distances(positions, wrong)
    with pytest.raises(InvalidOptionError, match="no view"):
        scale_from_ratios([])


def unitless(recording: Recording, unit: float, depth: bool = True) -> Recording:
    """The same recording with cameras in another unit, that nothing tells."""

    def views():
        for view in recording.views():
            T = view.camera.T_world_cam.copy()
            T[:3, 3] /= unit
            yield replace(view, camera=view.camera.at(T), depth=view.depth if depth else None)

    positions = np.stack([v.camera.position for v in views()])
    return replace(recording, views=views, metric=False, has_depth=depth, positions=positions)


@pytest.mark.parametrize("unit", [0.01, 2.5])
def test_scale_of_cameras_is_found_from_measured_depth_alone(walk, unit):
    scale = find_scales(unitless(oracle(walk), unit), ReadConfig(), SIZE, None).cameras
    assert scale.factor == pytest.approx(unit, rel=0.06)
    assert abs(scale.factor / unit - 1.0) < 4.0 * scale.error + 0.01


def test_scale_of_estimated_depth_is_found_from_a_view_with_known_motion(walk):
    """The estimate is a third too near; the cameras are in metres."""
    short = replace(oracle(walk), has_depth=False)
    factor = find_scales(short, ReadConfig(), SIZE, Shrunk(walk[0], 1.0)).depth
    assert factor.factor == pytest.approx(1.5, rel=0.06)
    still = [next(iter(oracle(walk).views()))] * 5
    silent = Recording("still", 5, lambda: iter(still), False, True)
    assert find_scales(silent, ReadConfig(), SIZE, Shrunk(walk[0], 1.0)).depth is None
    free = unitless(oracle(walk), 2.5, depth=False)
    assert find_scales(free, ReadConfig(), SIZE, TrueDepth(walk[0], 2.5)).cameras.factor == pytest.approx(2.5, rel=0.06)


def test_positions_in_millimetres_are_refused_by_estimated_depth(walk):
    wrong = replace(unitless(oracle(walk), 0.001, depth=False), metric=True)
    with pytest.raises(ClipError, match=r"multiplied by 0.00\d+; they may be in millimetres.* --scale 0.00"):
        find_scales(wrong, ReadConfig(), SIZE, TrueDepth(walk[0], 0.001))
    told = find_scales(wrong, ReadConfig(scale=0.001), SIZE, TrueDepth(walk[0], 0.001))
    assert (told.factor, told.depth.factor) == (0.001, pytest.approx(1.0, rel=0.06))


def test_known_distances_scale_the_cameras(walk, model):
    cameras = walk[1]
    far = float(np.linalg.norm(cameras[0].position - cameras[8].position))
    recording = unitless(oracle(walk), 2.5)
    config = LearnConfig(distances=((0, 8, far),))
    _, report = learn_world(model, recording, config)
    assert report.scale.factor == pytest.approx(2.5, rel=1e-6)
    with pytest.raises(InvalidOptionError, match="one by one"):
        find_scales(oracle(walk), config, SIZE, None)
    with pytest.raises(InvalidOptionError, match="both given"):
        LearnConfig(scale=1.0, distances=((0, 1, 1.0),))


def test_too_few_points_say_nothing_about_a_view():
    camera = Camera.from_fov(1.0, 16, 16)
    assert depth_ratio(np.full((16, 16), 4.0), camera, np.array([[0.0, 0, 2.0]])) is None
    points = np.array([[0.01 * i, 0, 2.0] for i in range(9)])
    assert depth_ratio(np.full((16, 16), 4.0), camera, points) == pytest.approx(2.0)


def test_video_with_a_pose_file_becomes_a_world_where_it_was_taken(model, walk, tmp_path, capsys, monkeypatch):
    room, cameras = walk
    frames = np.stack([room.render(c, samples=1).image for c in cameras])
    write_mp4(tmp_path / "walk.mp4", frames, 10)
    vectors = [vector_from_pose(c.T_world_cam) for c in cameras]
    rows = [" ".join(f"{x:.9f}" for x in (0.1 * i, *v[:3], *v[4:], v[3])) for i, v in enumerate(vectors)]
    (tmp_path / "poses.txt").write_text("\n".join(rows))
    seeing = replace(model, depth=TrueDepth(room, 1.0))
    monkeypatch.setattr("mirage_env.models.model_options.ModelOptions.load", lambda self, name: seeing)
    lens = ["--focal", str(cameras[0].K_image[0, 0]), "--size", str(SIZE[0]), str(SIZE[1])]
    source = [str(tmp_path / "walk.mp4"), "--cameras", str(tmp_path / "poses.txt"), *lens]
    assert cli.main(["learn", *source, "--out", str(tmp_path / "world.zarr"), "--hold-out", "4"]) == 0
    assert "of 12 views written" in capsys.readouterr().out
    state = load_world(tmp_path / "world.zarr", model)
    there = cameras[3].resized(48, 64)
    camera = fit_view(frames[3], (32, 32), there).camera
    shown = state.memory.read([camera], now=9)
    known = (shown.observed[0] > 0).numpy()
    true = room.render(camera, samples=1).depth[4::8, 4::8]
    assert known.any()
    assert np.median(np.abs(shown.depth[0].numpy() / true - 1.0)[known]) < 0.15
    clips = tmp_path / "clips"
    assert cli.main(["import", *source, "--out", str(clips), "--frames", "6", "--pixels", "32", "--rate", "10"]) == 0
    np.testing.assert_allclose(Clips(clips).poses[1], [c.T_world_cam for c in cameras[6:]], atol=1e-6)
    for count in (6, 24):  # without times the first pose is of the first frame, and nothing says where they part
        np.save(tmp_path / "poses.npy", np.resize([c.T_world_cam for c in cameras], (count, 4, 4)))
        with pytest.raises(InvalidOptionError, match=f"has 12 frames and .* {count} poses"):
            open_recording(tmp_path / "walk.mp4", tmp_path / "poses.npy")


def test_nerfstudio_folder_with_depth(walk, tmp_path):
    room, cameras = walk
    frames = []
    for i, camera in enumerate(cameras[:3]):
        view = room.render(camera, samples=1)
        Image.fromarray(view.image).save(tmp_path / f"{i}.png")
        np.save(tmp_path / f"{i}.npy", np.where(np.isfinite(view.depth), view.depth, 0.0))
        matrix = (camera.T_world_cam @ np.diag([1.0, -1, -1, 1])).tolist()
        frames.append({"file_path": f"{i}", "depth_file_path": f"{i}.npy", "transform_matrix": matrix})
    K = cameras[0].K_image
    lens = {"fl_x": K[0, 0], "fl_y": K[1, 1], "cx": K[0, 2], "cy": K[1, 2], "w": SIZE[1], "h": SIZE[0]}
    (tmp_path / "transforms.json").write_text(json.dumps({**lens, "frames": frames}))
    views = list(open_recording(tmp_path).views())
    for view, camera in zip(views, cameras, strict=False):
        np.testing.assert_allclose(view.camera.T_world_cam, camera.T_world_cam, atol=1e-9)
        assert np.median(np.abs(view.depth / room.render(camera, samples=1).depth - 1.0)) < 1e-6
    blender = {"camera_angle_x": 2.0 * math.atan(0.5 * SIZE[1] / K[0, 0]), "frames": frames}
    (tmp_path / "transforms.json").write_text(json.dumps(blender))
    view = next(iter(open_recording(tmp_path).views()))
    np.testing.assert_allclose(view.camera.K_image, K, atol=1e-9)


def test_pose_list_tells_lens_and_place_in_its_video(walk, tmp_path):
    """As RealEstate10K does: shares of the image, times from the start of the video."""
    room, cameras = walk
    frames = np.stack([room.render(c, samples=1).image for c in cameras])
    write_mp4(tmp_path / "walk.mp4", frames, 10)
    K, last = cameras[0].K_image, range(7, 12)
    shares = np.array([K[0, 0] / SIZE[1], K[1, 1] / SIZE[0], K[0, 2] / SIZE[1], K[1, 2] / SIZE[0]])
    poses = PoseList(
        "",
        np.array([100_000 * i for i in last]),
        np.tile(shares, (5, 1)),
        np.stack([cameras[i].T_cam_world for i in last]),
    )
    write_pose_list(tmp_path / "list.txt", poses)
    views = list(open_recording(tmp_path / "walk.mp4", tmp_path / "list.txt").views())
    for view, i in zip(views, last, strict=True):
        np.testing.assert_allclose(view.camera.K_image, K, atol=1e-6)
        assert np.abs(view.image.astype(int) - frames[i]).mean() < 6.0


@pytest.mark.parametrize(
    ("make", "says"),
    [
        (lambda f: f / "nowhere", "there is no recording"),
        (lambda f: f, "no COLMAP model"),
        (lambda f: (f / "a.mp4").write_bytes(b"x") and f / "a.mp4", "--cameras"),
        (
            lambda f: (
                (f / "rgb.txt").write_text("0 a.png")
                and (f / "groundtruth.txt").write_text("0 0 0 0 0 0 0 1\n9 0 0 0 0 0 0 1")
                and f
            ),
            "--focal",
        ),
    ],
)
def test_what_is_no_recording_is_refused(tmp_path, make, says):
    with pytest.raises(MirageError, match=says):
        open_recording(make(tmp_path))


def test_nothing_is_interpolated_where_tracking_was_lost(walk, tmp_path, caplog):
    """Poses of .1 to .3 s and .9 to 1.1 s, not in order, as merged recordings have them."""
    folder = write_tum(tmp_path / "room", *walk)
    truth = (folder / "groundtruth.txt").read_text().splitlines()
    (folder / "groundtruth.txt").write_text("\n".join([*truth[10:], *truth[2:5]]))
    found = list(open_recording(folder).views())
    assert [view.name for view in found] == [f"rgb/{i:04}.png" for i in (1, 2, 3, 9, 10, 11)]
    for view, i in zip(found, (1, 2, 3, 9, 10, 11), strict=True):
        np.testing.assert_allclose(view.camera.T_world_cam, walk[1][i].T_world_cam, atol=1e-6)
    assert "5 images lie in gaps" in caplog.text


def test_photographs_that_are_not_there_are_told(walk, tmp_path, caplog):
    room, cameras = walk
    folder = photographs(tmp_path / "colmap", (room, cameras[:3]))
    (folder / "images/001.png").unlink()
    assert [view.name for view in open_recording(folder).views()] == ["000.png", "002.png"]
    assert "1 of 3 images are not there, such as 001.png" in caplog.text


def test_file_names_of_a_recording_do_not_lead_out_of_it(walk, tmp_path):
    folder = write_tum(tmp_path / "room", walk[0], walk[1][:2])
    rows = (folder / "rgb.txt").read_text().replace("rgb/0000.png", "../../secret.png")
    (folder / "rgb.txt").write_text(rows)
    with pytest.raises(MirageError, match="leads out"):
        list(open_recording(folder).views())


def test_command_writes_a_world_that_goes_on(model, folder, tmp_path, capsys, monkeypatch):
    monkeypatch.setattr("mirage_env.models.model_options.ModelOptions.load", lambda self, name: model)
    out = tmp_path / "worlds/room.zarr"
    assert cli.main(["learn", str(folder), "--out", str(out), "--hold-out", "4"]) == 0
    said = capsys.readouterr().out
    assert "views written" in said
    assert "read back at" in said
    state = load_world(out, model)
    chunk, _ = model.step(state, [state.camera] * model.config.frames_per_chunk)
    assert chunk.coverage > 0.3
    assert cli.main(["learn", str(folder), "--out", str(out)]) == 2
    assert "--overwrite" in capsys.readouterr().err
