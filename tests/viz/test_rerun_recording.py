"""Recordings are read back with Rerun's own reader and hold what the walk showed, when it showed it."""

import io
import subprocess
import sys
from collections import defaultdict

import gymnasium
import numpy as np
import pytest

pytest.importorskip("rerun", reason="no Rerun: pip install 'mirage-env[record]'")

from PIL import Image
from rerun.chunk import RrdReader
from stand_ins import picture, start_view, walled_world_model
from tiny_wan import tiny_wan_world_model
from worlds import cameras_from

from mirage_env.envs.world import MirageEnv
from mirage_env.errors import InvalidOptionError, MissingPackageError
from mirage_env.images import frames_to_uint8
from mirage_env.viz.rerun_files import FARTHEST, Recording, key_of, metres, record_logs
from mirage_env.viz.rerun_recorders import RecordWorld, WorldRecording


def read(path, line="frame"):
    """Every row of a recording: entity -> time -> component -> value."""
    rows = defaultdict(lambda: defaultdict(dict))
    for chunk in RrdReader(path).stream():
        batch = chunk.to_record_batch()
        for row in batch.drop_columns([name for name in ("log_time",) if name in batch.schema.names]).to_pylist():
            rows[chunk.entity_path][row.get(line)] |= {k: v for k, v in row.items() if v is not None}
    return rows


def image_of(row):
    blob = next(value for name, value in row.items() if name.endswith(":blob"))[0]
    with Image.open(io.BytesIO(bytes(blob))) as image:
        return np.asarray(image)


def scalars(rows, name):
    return {time: row["Scalars:scalars"][0] for time, row in rows[name].items()}


@pytest.fixture(scope="module")
def model():
    return walled_world_model()


@pytest.fixture(scope="module")
def walked(model):
    """A start view and three chunks of four frames."""
    return walk(model)


def walk(model):
    walked = [model.start(picture(1), seed=1)]
    for _ in range(3):
        state = walked[-1][1]
        walked.append(model.step(state, cameras_from(state.camera, model)))
    return walked


@pytest.fixture(scope="module")
def rows(tmp_path_factory, model, walked):
    path = tmp_path_factory.mktemp("recordings") / "new" / "world.rrd"
    with WorldRecording(path, model, lambda camera, frame: (np.full((32, 32, 3), frame, np.uint8), None)) as record:
        for chunk, state in walked:
            record(chunk, state)
    return read(path)


def test_every_frame_is_there_at_its_time(rows, walked):
    frames = np.concatenate([frames_to_uint8(chunk.frames) for chunk, _ in walked])
    assert set(rows["/world/camera/imagined"]) == set(range(13))
    for number, frame in enumerate(frames):
        row = rows["/world/camera/imagined"][number]
        assert row["chunk"] == -(-number // 4)
        assert np.abs(image_of(row).astype(int) - frame).mean() < 8
        assert np.abs(image_of(rows["/world/camera/true"][number]).astype(int) - number).max() <= 2


def test_poses_and_intrinsics_are_those_of_the_cameras(rows, walked):
    cameras = [camera for chunk, _ in walked for camera in chunk.cameras]
    for number, camera in enumerate(cameras):
        row = rows["/world/camera"][number]
        assert np.allclose(row["Transform3D:translation"][0], camera.position, atol=1e-6)
        rotation = np.reshape(row["Transform3D:mat3x3"][0], (3, 3)).T  # stored by columns
        assert np.allclose(rotation, camera.T_world_cam[:3, :3], atol=1e-6)
        assert np.allclose(np.reshape(row["Pinhole:image_from_camera"][0], (3, 3)).T, camera.K_image, atol=1e-4)
    last = [time for time in rows["/world/path"] if time is not None][-1]
    (line,) = rows["/world/path"][last]["LineStrips3D:strips"]
    assert np.allclose(line, [camera.position for camera in cameras], atol=1e-6)


def test_depth_labels_and_masks_are_those_of_the_chunks(rows, walked):
    number = 0
    for chunk, _ in walked:
        for depth, labels, keep in zip(chunk.depth.numpy(), chunk.labels.numpy(), chunk.keep.numpy(), strict=True):
            assert np.abs(image_of(rows["/world/camera/depth"][number]) / 1000.0 - depth).max() <= 0.0005 + 1e-6
            for name, wanted in (("labels", labels), ("kept", keep.repeat(8, 0).repeat(8, 1))):
                shown = rows[f"/world/camera/{name}"][number]["SegmentationImage:buffer"][0]
                assert np.array_equal(np.array(shown, np.uint8).reshape(32, 32), wanted)
            number += 1


def test_start_view_was_not_known_and_later_views_are_where_the_memory_shows_them(rows, walked):
    assert not image_of(rows["/world/camera/known_depth"][0]).any()
    chunk = walked[2][0]
    wanted = (1000.0 * chunk.readout.depth[1].numpy()).round().repeat(8, 0).repeat(8, 1)
    assert wanted.any()
    assert np.abs(image_of(rows["/world/camera/known_depth"][6]) - wanted).max() <= 1


def test_memory_of_the_last_moment_is_the_memory(rows, walked):
    """Blocks that were merged or changed are taken away, so what is left is what the last state holds."""
    left = []
    for name in [name for name in rows if name.startswith("/world/memory/")]:
        moments = rows[name]
        if not any("Clear:is_recursive" in row for row in moments.values()):
            left += [np.array(row["Points3D:positions"]) for row in moments.values()]
    memory = walked[-1][1].memory
    wanted = np.concatenate([block.positions() for block in memory.blocks])
    found = np.concatenate(left)
    assert len(found) == memory.points > 0
    assert np.allclose(np.sort(found, axis=0), np.sort(wanted, axis=0), atol=1e-5)


def test_figures_are_on_the_same_time_line(rows, walked):
    coverage = scalars(rows, "/plots/coverage")
    assert coverage == {4 * i: pytest.approx(chunk.coverage if i else 0.0) for i, (chunk, _) in enumerate(walked)}
    assert scalars(rows, "/plots/points")[12] == walked[-1][1].memory.points


def test_frames_between_latents_have_an_image_and_a_pose_and_no_depth(tmp_path):
    model = tiny_wan_world_model()
    start = model.start(np.repeat(picture(1), 2, 0).repeat(2, 1), seed=1)
    step = model.step(start[1], cameras_from(start[1].camera, model))
    truth = np.zeros((64, 64, 3), np.uint8)
    with WorldRecording(tmp_path / "a.rrd", model, lambda camera, frame: (truth, None)) as record:
        record(*start)
        record(*step)
    rows = read(tmp_path / "a.rrd")
    for name in ("imagined", "true"):
        assert set(rows[f"/world/camera/{name}"]) == set(range(9))
    for name in ("depth", "known", "known_depth"):
        assert set(rows[f"/world/camera/{name}"]) == {0, 4, 8}
    assert set(rows["/world/camera/labels"]) - {None} == {0, 4, 8}


def test_recording_changes_nothing_of_the_walk(walked, model):
    again = walk(model)
    assert all((a.frames == b.frames).all() for (a, _), (b, _) in zip(walked, again, strict=True))


def test_interrupted_recording_is_readable_up_to_the_interrupt(tmp_path, model, walked):
    def interrupted():
        with WorldRecording(tmp_path / "a.rrd", model) as record:
            record(*walked[0])
            record(*walked[1])
            raise KeyboardInterrupt

    with pytest.raises(KeyboardInterrupt):
        interrupted()
    assert set(read(tmp_path / "a.rrd")["/world/camera/imagined"]) == set(range(5))


def test_nothing_is_overwritten_unless_it_is_said(tmp_path):
    (tmp_path / "a.rrd").write_bytes(b"mine")
    with pytest.raises(InvalidOptionError, match="there already"):
        Recording(tmp_path / "a.rrd")
    assert (tmp_path / "a.rrd").read_bytes() == b"mine"
    with Recording(tmp_path / "a.rrd", overwrite=True) as recording:
        recording.scalars({"loss": 1.0}, "losses", step=3)
    assert scalars(read(tmp_path / "a.rrd", "step"), "/losses/loss") == {3: 1.0}


def test_file_that_cannot_be_written_is_an_error(tmp_path):
    with pytest.raises(OSError, match="directory"):
        Recording(tmp_path, overwrite=True)


def test_environment_is_recorded_through_a_wrapper(tmp_path, model):
    env = RecordWorld(MirageEnv(model, start_view, info_frames=True), tmp_path / "env.rrd")
    env.reset(seed=1)
    total = sum(float(env.step(np.full(6, 0.2, np.float32))[1]) for _ in range(2))
    points = env.unwrapped.get_world().memory.points
    env.reset(seed=2)
    env.close()
    rows = read(tmp_path / "env.rrd")
    assert set(rows["/world/camera/imagined"]) == set(rows["/world/camera/depth"]) == set(range(10))
    assert scalars(rows, "/plots/return")[8] == total
    assert scalars(rows, "/plots/points")[8] == points
    assert len(rows["/world/path"][9]["LineStrips3D:strips"][0]) == 1, "a new episode has a new path"


def test_simulator_is_recorded_without_a_model(tmp_path):
    env = RecordWorld(gymnasium.make("Rooms/World-v0", image_size=(32, 32)), tmp_path / "rooms.rrd")
    env.reset(seed=1)
    env.close()
    rows = read(tmp_path / "rooms.rrd")
    assert set(rows["/world/camera/imagined"]) == {0}
    assert not any(name.startswith("/world/memory") for name in rows)


def test_environment_without_chunks_is_refused(tmp_path):
    with pytest.raises(InvalidOptionError, match="no shown_frames"):
        RecordWorld(gymnasium.make("CartPole-v1"), tmp_path / "a.rrd")


def test_losses_of_several_runs_lie_on_one_time_line(tmp_path):
    for name, loss in (("codec", 0.5), ("base", 0.25)):
        (tmp_path / f"{name}.csv").write_text(f"step,seconds,lr,loss\n50,1.5,0.001,{loss}\n100,3,0.0005,{loss / 2}\n")
    record_logs({name: tmp_path / f"{name}.csv" for name in ("codec", "base")}, tmp_path / "runs.rrd")
    rows = read(tmp_path / "runs.rrd", "step")
    assert scalars(rows, "/losses/codec/loss") == {50: 0.5, 100: 0.25}
    assert scalars(rows, "/losses/base/loss") == {50: 0.25, 100: 0.125}
    assert scalars(rows, "/losses/base/lr") == {50: 0.001, 100: 0.0005}


@pytest.mark.parametrize("text", ["a,b\n1,2\n", "step,loss\n1,high\n", "step,loss\n1\n"])
def test_log_that_is_none_is_refused_before_anything_is_written(tmp_path, text):
    (tmp_path / "log.csv").write_text(text)
    with pytest.raises(InvalidOptionError, match=r"log\.csv"):
        record_logs({"run": tmp_path / "log.csv"}, tmp_path / "runs.rrd")
    assert not (tmp_path / "runs.rrd").exists()


@pytest.mark.parametrize(("frames", "keys", "found"), [(4, 4, [0, 1, 2, 3]), (8, 2, [3, 7]), (1, 1, [0])])
def test_key_frames_are_the_last_of_their_groups(frames, keys, found):
    assert [i for i in range(frames) if key_of(i, frames, keys) is not None] == found
    assert [key_of(i, frames, keys) for i in found] == list(range(keys))


def test_depth_that_16_bits_cannot_hold_is_no_surface():
    depth = metres(np.array([[0.0, 1.2345, FARTHEST + 1.0, np.inf]]))
    with Image.open(io.BytesIO(bytes(depth.blob.as_arrow_array().to_pylist()[0]))) as image:
        assert np.asarray(image).tolist() == [[0, 1234, 0, 0]]


def test_recorded_file_is_whole_for_reruns_own_check(tmp_path, model, walked):
    with WorldRecording(tmp_path / "a.rrd", model) as record:
        record(*walked[0])
    command = [sys.executable, "-m", "rerun", "rrd", "verify", str(tmp_path / "a.rrd")]
    done = subprocess.run(command, capture_output=True, text=True, check=True)
    assert "verified without error" in done.stdout + done.stderr


def test_without_rerun_the_error_names_the_extra(monkeypatch):
    monkeypatch.setitem(sys.modules, "rerun", None)
    for name in ("rerun_files", "rerun_recorders"):
        monkeypatch.delitem(sys.modules, f"mirage_env.viz.{name}")
    with pytest.raises(MissingPackageError, match=r"mirage-env\[record\]"):
        __import__("mirage_env.viz.rerun_recorders")
