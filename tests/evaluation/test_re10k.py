"""The RealEstate10K adapter, run for real on walks exported from the simulator."""

import dataclasses
import inspect
import json
import math
import shutil
from dataclasses import replace

import numpy as np
import pytest
import torch
from stand_ins import walled_world_model

from mirage_env.camera import Camera
from mirage_env.cli import main
from mirage_env.datasets.realestate10k import PoseList, read_pose_list, write_pose_list
from mirage_env.datasets.reprojection import OPENGL
from mirage_env.errors import ClipError, InvalidOptionError
from mirage_env.evaluation import export_rooms, loop, re10k
from mirage_env.evaluation.clip_scale import fit_scale
from mirage_env.evaluation.loop_walks import FAMILIES
from mirage_env.evaluation.metrics import PSNR_LIMIT, psnr
from mirage_env.evaluation.published_figures import RE10K, RE10K_COLUMNS, WORLDSCORE, WORLDSCORE_COLUMNS
from mirage_env.evaluation.re10k_clips import find_clips, read_clip
from mirage_env.evaluation.variant_rollout import Rollout
from mirage_env.images import frames_from_uint8
from mirage_env.models.model_options import ModelOptions
from mirage_env.models.world_model_loader import load_world_model
from mirage_env.poses import pose_from_rotation_vector
from mirage_env.rooms import Room

TINY = walled_world_model()
PER_CHUNK = TINY.config.frames_per_chunk
FRAMES = 2 * PER_CHUNK + 1


def load(name):
    return TINY


@pytest.fixture(scope="module")
def data(tmp_path_factory):
    """Three walks of 9 frames of 32 x 32 pixels, as images, their lengths in units of 0.5 m."""
    out = tmp_path_factory.mktemp("rooms") / "data"
    config = export_rooms.ExportConfig(
        out, worlds=3, chunks=4, frames_per_chunk=PER_CHUNK, size=(32, 32), images=True, frozen=True, unit=0.5
    )
    export_rooms.run(config)
    return out


def views(data, number=0, **changes):
    clip = find_clips(data, "test")[number]
    options = {"size": (32, 32), "frames": FRAMES, "frames_per_second": 8.0, **changes}
    return read_clip(clip, data, "test", **options)


def config(data, out, **changes):
    return re10k.Re10kConfig(data, out, **{"scale": 0.5, "lpips": "none", "sheets": 1, "batch": 2, **changes})


@pytest.fixture(scope="module")
def results(data, tmp_path_factory):
    out = tmp_path_factory.mktemp("run")
    return re10k.run(config(data, out), load), out


class TestExport:
    @pytest.mark.parametrize("family", FAMILIES)
    def test_walk_is_the_way_out_of_the_closed_loop(self, family, tmp_path):
        """The same world, start view and poses as `mirage eval loop` measures."""
        options = loop.LoopConfig(chunks=4)
        lap = 2 if family == "orbit" else 4
        (truth,) = loop._truths(options, TINY, [1], family, 4, lap)
        export_rooms.run(
            export_rooms.ExportConfig(
                tmp_path, 1, 1, family, chunks=4, frames_per_chunk=PER_CHUNK, size=(32, 32), images=True
            )
        )
        shown = views(tmp_path)
        assert np.array_equal(shown.images, truth.images[:FRAMES])
        for ours, theirs in zip(shown.cameras, truth.walk.cameras, strict=False):
            assert np.allclose(ours.T_world_cam, theirs.T_world_cam, atol=1e-6)
            assert np.allclose(ours.K_image, theirs.K_image, atol=1e-4)

    def test_video_loses_little(self, tmp_path):
        options = export_rooms.ExportConfig(tmp_path / "video", worlds=1, chunks=2, frames_per_chunk=4, size=(64, 64))
        for images in (False, True):
            export_rooms.run(replace(options, out=tmp_path / str(images), images=images))
        video, exact = (views(tmp_path / str(i), size=(64, 64), frames=5).images for i in (False, True))
        assert psnr(frames_from_uint8(video), frames_from_uint8(exact)).min() > 34.0

    def test_poses_in_other_axes_are_refused_with_the_cause(self, tmp_path):
        export_rooms.run(
            export_rooms.ExportConfig(tmp_path, worlds=1, chunks=4, size=(64, 64), images=True, frozen=True)
        )
        (path,) = (tmp_path / "test").glob("*.txt")
        poses = read_pose_list(path)
        write_pose_list(path, replace(poses, T_cam_world=OPENGL @ poses.T_cam_world))
        with pytest.raises(ClipError, match=f"clip {path.stem}, frames .* OpenGL axes"):
            views(tmp_path, size=(64, 64), frames=17)

    def test_folder_with_something_in_it_is_left_alone(self, data):
        with pytest.raises(ClipError, match="not empty"):
            export_rooms.run(export_rooms.ExportConfig(data))

    def test_impossible_options_are_refused(self, tmp_path):
        with pytest.raises(InvalidOptionError, match="zigzag"):
            export_rooms.ExportConfig(tmp_path, family="zigzag")
        with pytest.raises(InvalidOptionError, match="worlds is 0"):
            export_rooms.ExportConfig(tmp_path, worlds=0)


class TestClips:
    def test_lengths_are_metres_after_scaling(self, data):
        clip = views(data)
        for one, metres in zip(clip.cameras, clip.scaled(0.5), strict=True):
            assert np.allclose(metres.position, 0.5 * one.position)
            assert np.array_equal(metres.T_world_cam[:3, :3], one.T_world_cam[:3, :3])

    @pytest.mark.parametrize(("rate", "every", "expected"), [(8.0, 0, 4), (30.0, 0, 1), (60.0, 0, 1), (8.0, 3, 3)])
    def test_rows_are_those_nearest_to_the_rate_of_the_model(self, data, rate, every, expected, tmp_path):
        """Of a list at 30 frames/s, a model of 8 frames/s takes about every fourth row, one of 60 takes each once."""
        poses = read_pose_list(find_clips(data, "test")[0].poses)
        rows = np.arange(9)
        many = PoseList(
            poses.url,
            (1e6 * np.arange(45) / 30).astype(np.int64),
            poses.intrinsics[rows].repeat(5, 0),
            poses.T_cam_world[rows].repeat(5, 0),
        )
        folder = tmp_path / "frames" / "a"
        folder.mkdir(parents=True)
        (tmp_path / "test").mkdir()
        write_pose_list(tmp_path / "test" / "a.txt", many)
        source = sorted((data / "frames").glob("*/0.png"))[0]
        for time in many.timestamps_us:
            shutil.copy(source, folder / f"{time}.png")
        clip = views(tmp_path, frames=9, frames_per_second=rate, every=every)
        taken = [int(np.abs(many.T_cam_world - c.T_cam_world).sum((1, 2)).argmin()) for c in clip.cameras]
        assert len(taken) == 9
        assert all(abs(row - expected * i) <= 5 for i, row in enumerate(taken))
        with pytest.raises(ClipError, match=r"has .* frames at this rate; the walk needs 99"):
            views(tmp_path, frames=99, frames_per_second=rate, every=every)

    def test_video_is_found_by_the_id_in_its_link(self, data, tmp_path):
        export_rooms.run(
            export_rooms.ExportConfig(tmp_path / "d", 1, chunks=2, frames_per_chunk=4, size=(32, 32), frozen=True)
        )
        (video,) = (tmp_path / "d" / "videos").iterdir()
        elsewhere = tmp_path / "elsewhere"
        elsewhere.mkdir()
        moved = shutil.move(video, elsewhere / "abcDEF_-1.mp4")
        path = find_clips(tmp_path / "d", "test")[0].poses
        path.write_text(
            path.read_text().replace(f"rooms.invalid/watch?v={video.stem}", "www.youtube.com/watch?v=abcDEF_-1")
        )
        with pytest.raises(ClipError, match="neither a folder of frames nor a video abcDEF_-1"):
            views(tmp_path / "d", frames=5)
        assert views(tmp_path / "d", frames=5, videos=moved.parent).images.shape == (5, 32, 32, 3)

    def test_folder_without_lists_is_refused(self, tmp_path):
        with pytest.raises(ClipError, match="no pose lists"):
            find_clips(tmp_path, "test")

    def test_named_clips_are_taken_in_the_order_of_their_names_file(self, data, tmp_path):
        first, second, third = find_clips(data, "test")
        (tmp_path / "names").write_text(f"{third.name}\n{first.name}\n")
        assert find_clips(data, "test", tmp_path / "names") == [third, first]
        (tmp_path / "names").write_text(f"{second.name}\nother\n")
        with pytest.raises(ClipError, match=r"1 clips that .* such as other"):
            find_clips(data, "test", tmp_path / "names")
        with pytest.raises(ClipError, match=r"No such file.*give a list of names"):
            find_clips(data, "test", tmp_path / "none")

    def test_seed_of_a_clip_depends_on_its_name_alone(self, data):
        clips = find_clips(data, "test")
        assert len({clip.seed for clip in clips}) == len(clips)
        assert clips[1].seed == find_clips(data, "test")[1].seed


class TestScale:
    @pytest.fixture(scope="class")
    @classmethod
    def walk(cls, tmp_path_factory):
        """A walk of 17 frames in units of 0.4 m, with the true depth of its first."""
        out = tmp_path_factory.mktemp("scale")
        export_rooms.run(
            export_rooms.ExportConfig(out, 1, 2, chunks=4, size=(64, 64), images=True, frozen=True, unit=0.4)
        )
        shown = views(out, size=(64, 64), frames=17)
        view = Room.generate(2, "test").render(shown.scaled(0.4)[0])
        return shown, torch.from_numpy(view.depth)

    @pytest.mark.parametrize("factor", [1.0, 0.2, 6.0])
    def test_scale_of_a_walk_is_found_within_three_percent(self, walk, factor):
        shown, depth = walk
        found = fit_scale(shown.images, depth, shown.scaled(1.0 / factor))
        assert found.found
        assert found.metres == pytest.approx(0.4 * factor, rel=0.03)

    def test_scale_follows_the_depth_it_is_fitted_to(self, walk):
        shown, depth = walk
        once, thrice = (fit_scale(shown.images, k * depth, shown.cameras).metres for k in (1.0, 3.0))
        assert thrice == pytest.approx(3.0 * once, rel=0.02)

    def test_turn_on_the_spot_has_no_scale(self):
        room = Room.generate(2, "test")
        start = room.start_camera(np.random.default_rng(0), 32, 32)
        cameras = [start.moved(pose_from_rotation_vector([0, 0, 0], [0, 0.05 * i, 0])) for i in range(5)]
        shown = [room.render(camera) for camera in cameras]
        found = fit_scale(np.stack([v.image for v in shown]), torch.from_numpy(shown[0].depth), cameras)
        assert (found.found, found.metres) == (False, 1.0)


class TestRun:
    def test_every_clip_is_measured_frame_by_frame(self, results):
        found, out = results
        assert (found["clips"], found["left_out"]) == (3, {})
        assert all(len(found["by_frame"][m]) == FRAMES - 1 for m in ("psnr", "ssim"))
        figures = ("psnr", "ssim", "psnr_c", "ssim_c", "revisit_psnr", "same_depth")
        assert all(math.isfinite(found["figures"][m].mean) for m in figures)
        assert json.loads((out / "results.json").read_text())["figures"]["psnr"]["count"] == 3
        assert len(list(out.glob("*.png"))) == 1

    def test_what_was_measured_and_what_was_published_stand_in_tables_of_their_own(self, results):
        tables = [block for block in (results[1] / "table.md").read_text().split("\n\n") if block.startswith("|")]
        (ours,) = [t for t in tables if t.startswith("| measured here")]
        (theirs,) = [t for t in tables if t.startswith("| published by others")]
        assert TINY.identity in ours
        assert "arXiv" not in ours
        assert TINY.identity not in theirs
        assert theirs.count("arXiv") == len(RE10K)
        assert "18.38" in theirs

    def test_figures_repeat_themselves_and_do_not_depend_on_who_walks_along(self, results, data, tmp_path):
        again = re10k.run(config(data, tmp_path / "again"), load)
        assert again["records"] == results[0]["records"]
        alone = re10k.run(config(data, tmp_path / "alone", clips=2, batch=1), load)
        for one, other in zip(alone["records"], results[0]["records"], strict=False):
            assert np.allclose(one["frames"]["psnr"], other["frames"]["psnr"], atol=0.01)

    def test_stopped_run_goes_on_and_asks_for_no_clip_twice(self, results, data, tmp_path):
        found, out = results
        lines = (out / "clips.jsonl").read_text().splitlines(keepends=True)
        (tmp_path / "clips.jsonl").write_text("".join(lines[:2]) + lines[2][:40])
        starts = []
        watched = replace(TINY, depth=_Counting(TINY.depth, starts))
        again = re10k.run(config(data, tmp_path), lambda name: watched)
        assert again["records"] == found["records"]
        assert sum(count == 1 for count in starts) == 1

    def test_results_of_other_settings_are_not_mixed(self, results, data):
        with pytest.raises(InvalidOptionError, match="other settings"):
            re10k.run(config(data, results[1], chunks=1), load)

    def test_clip_that_cannot_be_used_is_left_out_with_the_reason(self, data, tmp_path):
        copy = tmp_path / "data"
        shutil.copytree(data, copy)
        broken = sorted((copy / "frames").iterdir())[1]
        shutil.rmtree(broken)
        found = re10k.run(config(copy, tmp_path / "out"), load)
        assert found["clips"] == 2
        assert list(found["left_out"]) == [broken.name]
        assert "Left out: 1 clips" in (tmp_path / "out" / "table.md").read_text()
        shutil.copytree(data / "frames" / broken.name, broken)
        assert re10k.run(config(copy, tmp_path / "out"), load)["clips"] == 3

    def test_data_of_which_nothing_can_be_used_is_an_error(self, data, tmp_path):
        with pytest.raises(ClipError, match=r"none of the 3 clips.*needs 81"):
            re10k.run(config(data, tmp_path, chunks=20), load)

    def test_perfect_views_have_no_error_and_a_wrong_end_shows_in_the_closed_loop_only(self, data):
        truth = re10k._there_and_back(TINY, views(data), 0.5)
        assert len(truth.walk.cameras) == 2 * FRAMES - 1
        assert np.array_equal(truth.walk.cameras[0].T_world_cam, truth.walk.cameras[-1].T_world_cam)
        frames = truth.frames.clone()
        seen, depth = torch.ones_like(truth.still), torch.ones(5, 32, 32)
        right = re10k._figures(truth, Rollout(frames, seen, {}, [], [], [1], depth), None)
        assert set(right["frames"]["psnr"]) == {PSNR_LIMIT}
        assert right["closed"]["psnr"] == right["revisit_psnr"] == PSNR_LIMIT
        frames[-1] = -frames[-1]
        wrong = re10k._figures(truth, Rollout(frames, seen, {}, [], [], [1], depth), None)
        assert wrong["frames"] == right["frames"]
        assert wrong["closed"]["psnr"] < 20.0

    def test_impossible_options_are_refused(self, data):
        with pytest.raises(InvalidOptionError, match="chunks"):
            re10k.Re10kConfig(data, chunks=0)
        with pytest.raises(InvalidOptionError, match="scale is -1"):
            re10k.Re10kConfig(data, scale=-1.0)


class _Counting:
    """Passes depth estimation on, counting the images of each call."""

    def __init__(self, part, counts):
        self.part, self.counts = part, counts

    def estimate(self, images, cameras, known=None):
        self.counts.append(len(images))
        return self.part.estimate(images, cameras, known)


def test_shipped_model_walks_exported_rooms_from_the_command_line(tmp_path, capsys):
    data, out = tmp_path / "data", tmp_path / "out"
    assert main(["eval", "export-rooms", "--out", str(data), "--worlds", "1", "--chunks", "2", "--frozen"]) == 0
    assert "mirage eval re10k --data" in capsys.readouterr().out
    assert main(["eval", "re10k", "--data", str(data), "--out", str(out), "--chunks", "1", "--lpips", "none"]) == 0
    assert "published by others" in capsys.readouterr().out
    found = json.loads((out / "results.json").read_text())
    assert found["clips"] == found["scale"]["fitted"] == 1
    assert found["figures"]["psnr"]["mean"] > 22.0
    assert found["figures"]["psnr_c"]["mean"] > 22.0
    assert 0.6 < found["scale"]["metres"]["mean"] < 1.6
    assert found["figures"]["same_depth"]["mean"] > 0.7
    assert found["figures"]["reprojection"]["mean"] < 1.0


def test_model_is_loaded_as_the_options_say(data, capsys):
    """Every option is one of `load_world_model`, and reaches it."""
    known = inspect.signature(load_world_model).parameters
    options = {f.name: f.default for f in dataclasses.fields(ModelOptions)}
    assert all(known[name].default == default for name, default in options.items())
    assert ModelOptions().load("rooms").identity == load_world_model("rooms").identity
    with pytest.raises(InvalidOptionError, match="small model"):
        ModelOptions(offload="model").load("rooms")
    assert main(["eval", "re10k", "--data", str(data), "--quantise", "int8"]) == 2
    assert "quantise is 'int8'" in capsys.readouterr().err


def test_published_rows_have_a_figure_for_every_column():
    assert all(len(row.figures) == len(RE10K_COLUMNS) for row in RE10K)
    assert all(len(row.figures) == len(WORLDSCORE_COLUMNS) for row in WORLDSCORE)


def test_camera_of_an_exported_room_has_its_field_of_view(data):
    camera = views(data).cameras[0]
    assert isinstance(camera, Camera)
    assert 2 * math.atan(0.5 * 32 / camera.K_image[0, 0]) == pytest.approx(math.radians(75.0), abs=1e-6)
