"""The WorldScore adapter: camera paths by name, samples, and the folders that the toolkit reads."""

import itertools
import json
import math
from dataclasses import replace

import numpy as np
import pytest
from hypothesis import given
from hypothesis import strategies as st
from PIL import Image
from stand_ins import picture, walled_world_model

from mirage_env.camera import Camera
from mirage_env.cli import main
from mirage_env.datasets.realestate10k import read_video_frames
from mirage_env.errors import ClipError, InvalidImageError, InvalidOptionError
from mirage_env.evaluation import worldscore
from mirage_env.evaluation.worldscore_cameras import FOCAL, MOTIONS, key_cameras, path_cameras, their_matrices
from mirage_env.evaluation.worldscore_data import read_samples
from mirage_env.poses import rotation_angle

START = Camera.from_fov(1.3, 32, 32)
paths = st.lists(st.sampled_from(sorted(MOTIONS)), min_size=1, max_size=3)


class Prompts:
    """Passes generation on and remembers what it was told to show."""

    def __init__(self, part):
        self.part, self.prompts = part, []

    def generate(self, *args, **kwargs):
        self.prompts += kwargs["prompts"]
        return self.part.generate(*args, **kwargs)


MODEL = walled_world_model()
PER_CHUNK = MODEL.config.frames_per_chunk


def load(name):
    return MODEL


def sample(movement, name, path, **changes):
    texts = ["A room.", "A hall", "A garden", "A street"][: len(path) + 1]
    static = {"scene_type": "indoor", "prompt_list": texts, "content_list": [[]] * len(texts)}
    dynamic = {"motion_type": "fluid", "prompt": "Water flows", "objects": ["water"], "masks": []}
    kind = static if movement == "static" else dynamic
    image = f"./{movement}/photorealistic/images/kitchens/{name}.jpg"
    entry = {"visual_movement": movement, "visual_style": "photorealistic", "style": "real photo.", "image": image}
    return {**entry, **kind, "camera_path": list(path), **changes}


@pytest.fixture
def data(tmp_path):
    """A made-up data set: two static samples, one of three scenes, and a dynamic one."""
    root = tmp_path / "WorldScore-Dataset"
    listed = {
        "static": [
            sample("static", "000", ["pan_left"]),
            sample("static", "001", ["push_in", "orbit_right", "move_left"]),
        ],
        "dynamic": [sample("dynamic", "000", ["fixed"])],
    }
    for movement, entries in listed.items():
        (root / movement).mkdir(parents=True)
        (root / movement / f"{movement}.json").write_text(json.dumps(entries))
        for number, entry in enumerate(entries):
            file = root / entry["image"]
            file.parent.mkdir(parents=True, exist_ok=True)
            Image.fromarray(picture(number)).resize((80, 60)).save(file)
    return root


def toolkit_matrices(path, frames):
    """The toolkit's cameras, worked out in its own axes: x left, y up, z forward, world to camera."""
    turn = math.radians(30.0)

    def about_y(angle):
        c, s = math.cos(angle), math.sin(angle)
        return np.array([[c, 0, -s, 0], [0, 1, 0, 0], [s, 0, c, 0], [0, 0, 0, 1.0]])

    def shift(x=0.0, z=0.0):
        T = np.eye(4)
        T[0, 3], T[2, 3] = x, z
        return T

    motions = {
        "push_in": shift(z=-1),
        "pull_out": shift(z=1),
        "move_left": shift(x=-0.5),
        "move_right": shift(x=0.5),
        "pan_left": about_y(turn),
        "pan_right": about_y(-turn),
        "orbit_left": shift(z=1) @ about_y(-turn) @ shift(z=-1),
        "orbit_right": shift(z=1) @ about_y(turn) @ shift(z=-1),
        "fixed": np.eye(4),
    }
    keys = [np.eye(4)]
    for name in path:
        keys.append(motions[name] @ keys[-1])
    shown = [keys[0]]
    for a, b in itertools.pairwise(keys):
        angle = math.atan2(*(b[:3, :3] @ a[:3, :3].T)[[2, 0], 0])
        for i in range(1, frames):
            share = i / (frames - 1)
            T = about_y(share * angle) @ np.block([[a[:3, :3], np.zeros((3, 1))], [np.zeros((1, 3)), np.ones((1, 1))]])
            T[:3, 3] = (1 - share) * a[:3, 3] + share * b[:3, 3]
            shown.append(T)
    return np.stack([np.linalg.inv(np.diag([-1.0, 1.0, -1.0, 1.0]) @ T) for T in shown])


class TestCameras:
    @given(path=paths, frames=st.integers(2, 6))
    def test_cameras_are_the_toolkits_wherever_the_world_begins(self, path, frames):
        start = START.at(key_cameras(["orbit_left", "push_in"], START)[-1].T_world_cam)
        cameras = path_cameras(path, start, frames)
        assert np.allclose(their_matrices(cameras), toolkit_matrices(path, frames), atol=1e-9)

    @pytest.mark.parametrize(
        ("name", "position", "yaw"),
        [
            ("push_in", (0, 0, 1), 0),
            ("pull_out", (0, 0, -1), 0),
            ("move_left", (-0.5, 0, 0), 0),
            ("move_right", (0.5, 0, 0), 0),
            ("pan_left", (0, 0, 0), -30),
            ("pan_right", (0, 0, 0), 30),
            ("orbit_left", (-0.5, 0, 1 - math.sqrt(0.75)), 30),
            ("orbit_right", (0.5, 0, 1 - math.sqrt(0.75)), -30),
            ("fixed", (0, 0, 0), 0),
        ],
    )
    def test_motion_leads_where_its_name_says(self, name, position, yaw):
        """x to the right, z forward, yaw to the right."""
        end = key_cameras([name], START, speed=2.0)[-1]
        assert np.allclose(end.position, 2.0 * np.array(position))
        forward = end.T_world_cam[:3, 2]
        assert math.degrees(math.atan2(forward[0], forward[2])) == pytest.approx(yaw, abs=1e-9)

    @pytest.mark.parametrize("name", ["orbit_left", "orbit_right"])
    def test_orbit_keeps_its_centre_in_the_middle_of_the_picture(self, name):
        end = key_cameras([name], START)[-1]
        seen = end.T_cam_world @ [0.0, 0.0, 1.0, 1.0]
        assert np.allclose(seen[:3], [0, 0, 1])

    @given(path=paths, frames=st.integers(2, 9))
    def test_path_passes_every_key_camera_and_turns_steadily(self, path, frames):
        cameras, keys = path_cameras(path, START, frames), key_cameras(path, START)
        assert len(cameras) == len(path) * (frames - 1) + 1
        for camera, key in zip(cameras[:: frames - 1], keys, strict=True):
            assert np.allclose(camera.T_world_cam, key.T_world_cam)
        for scene in range(len(path)):
            part = cameras[scene * (frames - 1) : (scene + 1) * (frames - 1) + 1]
            turns = [rotation_angle(a.T_cam_world @ b.T_world_cam) for a, b in itertools.pairwise(part)]
            assert np.allclose(turns, turns[0], atol=1e-6)

    def test_unknown_or_empty_paths_are_refused(self):
        with pytest.raises(InvalidOptionError, match="'tilt_up' is unknown; WorldScore has push_in"):
            path_cameras(["tilt_up"], START, 5)
        with pytest.raises(InvalidOptionError, match="empty"):
            path_cameras([], START, 5)
        with pytest.raises(InvalidOptionError, match="1 frames"):
            path_cameras(["fixed"], START, 1)


class TestSamples:
    def test_samples_have_the_folders_of_the_toolkit(self, data):
        static, dynamic = read_samples(data, "static"), read_samples(data, "dynamic")
        assert [str(s.folder) for s in static] == [f"static/photorealistic/indoor/kitchens/00{i}" for i in (0, 1)]
        assert [str(s.folder) for s in dynamic] == ["dynamic/photorealistic/fluid/000"]

    def test_prompts_are_one_per_scene_in_the_words_of_the_toolkit(self, data):
        one, three = read_samples(data, "static")
        still = "Everything in the scene remains completely motionless."
        assert one.prompts == [f"Camera pan left. A hall. real photo.. {still}"]
        assert [p.split(". ")[:2] for p in three.prompts] == [
            ["Camera push in", "A hall"],
            ["Camera orbit right", "A garden"],
            ["Camera move left", "A street"],
        ]
        assert read_samples(data, "dynamic")[0].prompts == ["Camera fixed. Water flows. real photo."]

    @pytest.mark.parametrize(
        ("changes", "says"),
        [
            ({"camera_path": None}, "entry 0 of .* lacks camera_path"),
            ({"prompt_list": ["A room."]}, "fewer texts than camera motions, 1"),
            ({"scene_type": "../../.."}, "must lie below the output"),
        ],
    )
    def test_entry_that_cannot_be_used_is_refused_by_its_number(self, data, changes, says):
        entry = {**sample("static", "000", ["fixed"]), **changes}
        entries = [{k: v for k, v in entry.items() if v is not None}]
        (data / "static" / "static.json").write_text(json.dumps(entries))
        with pytest.raises(ClipError, match=says):
            read_samples(data, "static")

    def test_missing_list_is_refused(self, tmp_path):
        with pytest.raises(ClipError, match=r"static\.json.*WorldScore-Dataset"):
            read_samples(tmp_path, "static")


class TestRun:
    @pytest.fixture
    def out(self, data, tmp_path):
        config = worldscore.WorldScoreConfig(data, tmp_path / "out")
        assert worldscore.run(config, load) == worldscore.GeneratedVideos(3, 0)
        return tmp_path / "out" / "worldscore_output"

    def test_every_sample_has_what_the_toolkit_reads(self, out):
        folder = out / "static/photorealistic/indoor/kitchens/001"
        assert {p.name for p in folder.iterdir()} == {
            "frames",
            "videos",
            "input_image.png",
            "image_data.json",
            "camera_data.json",
            "poses.json",
            "time.txt",
        }
        frames = 3 * PER_CHUNK + 1
        names = sorted(p.name for p in (folder / "frames").iterdir())
        assert names == [f"{i:03d}.png" for i in range(frames)]
        told = json.loads((folder / "image_data.json").read_text())
        assert told["num_scenes"] == 3
        assert told["total_frames"] == frames
        assert told["anchor_frame_idx"] == [0, PER_CHUNK, 2 * PER_CHUNK, 3 * PER_CHUNK]
        assert told["content_list"] == [[]] * 4
        cameras = json.loads((folder / "camera_data.json").read_text())
        assert (cameras["focal_length"], cameras["scale"]) == (FOCAL, 1.0)
        assert np.allclose(cameras["cameras_interp"], toolkit_matrices(told["camera_path"], PER_CHUNK + 1))
        assert np.allclose(cameras["cameras"], np.array(cameras["cameras_interp"])[told["anchor_frame_idx"]])
        assert not (out / "dynamic/photorealistic/fluid/000/camera_data.json").exists()

    def test_first_frame_is_the_input_image_and_the_video_shows_all(self, out):
        folder = out / "static/photorealistic/indoor/kitchens/000"
        first, given = (np.asarray(Image.open(folder / name)) for name in ("frames/000.png", "input_image.png"))
        assert np.array_equal(first, given)
        times = (np.arange(PER_CHUNK + 1) * 1e6 / MODEL.config.frames_per_second).astype(int)
        assert len(read_video_frames(folder / "videos" / "output.mp4", times, (32, 32))) == PER_CHUNK + 1

    def test_what_is_there_is_not_made_again_and_what_is_damaged_is(self, out, data):
        config = worldscore.WorldScoreConfig(data, out.parent)
        assert worldscore.run(config, load) == worldscore.GeneratedVideos(0, 3)
        (out / "static/photorealistic/indoor/kitchens/001/frames/005.png").unlink()
        assert worldscore.run(config, load) == worldscore.GeneratedVideos(1, 2)

    def test_model_is_described_for_the_toolkit(self, out):
        lines = (out.parent / "mirage.yaml").read_text().splitlines()
        assert lines == [
            "model: mirage",
            f"runs_root: {out.parent}",
            "resolution: [32, 32]",
            "generate_type: i2v",
            f"frames: {PER_CHUNK + 1}",
            "fps: 8",
        ]

    def test_each_scene_is_told_its_own_text(self, data, tmp_path):
        watched = Prompts(MODEL.generator)
        config = worldscore.WorldScoreConfig(data, tmp_path / "o", movements=("static",))
        worldscore.run(config, lambda name: replace(MODEL, generator=watched))
        assert watched.prompts == [p for s in read_samples(data, "static") for p in s.prompts]

    def test_shards_share_the_samples(self, data, tmp_path):
        config = worldscore.WorldScoreConfig(data, tmp_path / "o", movements=("static",), shards=2)
        made = [worldscore.run(replace(config, shard=i), load).made for i in (0, 1)]
        assert made == [1, 1]
        assert worldscore.run(replace(config, shards=1), load) == worldscore.GeneratedVideos(0, 2)

    def test_frames_that_fill_no_whole_chunk_are_made_all_the_same(self, data, tmp_path):
        config = worldscore.WorldScoreConfig(data, tmp_path / "o", frames=4, samples=1, movements=("static",))
        worldscore.run(config, load)
        assert len(list((tmp_path / "o").glob("**/frames/*.png"))) == 4

    def test_wrong_options_and_images_are_refused(self, data, tmp_path):
        with pytest.raises(InvalidOptionError, match="shard is 2 of 2"):
            worldscore.WorldScoreConfig(data, shards=2, shard=2)
        with pytest.raises(InvalidOptionError, match="movements"):
            worldscore.WorldScoreConfig(data, movements=("fast",))
        with pytest.raises(InvalidOptionError, match="frames 1"):
            worldscore.WorldScoreConfig(data, frames=1)
        next(data.glob("static/**/000.jpg")).write_bytes(b"no image")
        with pytest.raises(InvalidImageError, match="no image"):
            worldscore.run(worldscore.WorldScoreConfig(data, tmp_path / "o"), load)


def test_shipped_model_makes_samples_from_the_command_line(data, tmp_path, capsys):
    arguments = ["--data", str(data), "--out", str(tmp_path / "o"), "--samples", "1", "--movements", "dynamic"]
    assert main(["eval", "worldscore", *arguments]) == 0
    shown = capsys.readouterr().out
    assert "1 worlds generated" in shown
    assert "run_evaluate.py --model_name mirage" in shown
    assert "not measured here" in shown
    assert len(list((tmp_path / "o").glob("**/frames/*.png"))) == 9
