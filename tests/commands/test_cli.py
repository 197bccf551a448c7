"""The command line does the whole job, goes on where it was stopped, and names the option at fault."""

import json
import re
import subprocess
import sys

import numpy as np
import pytest
from PIL import Image
from repository import ROOT
from worlds import open_minded_model

from mirage_env.cli import COMMANDS, main
from mirage_env.models.world_model_loader import load_world_model, save_world_model
from mirage_env.store import CacheWriter, load_frames, load_world, open_cache


@pytest.fixture(scope="module")
def model(tmp_path_factory):
    """Folder of a tiny model."""
    folder = tmp_path_factory.mktemp("models") / "tiny"
    save_world_model(open_minded_model(), folder)
    return str(folder)


@pytest.fixture(scope="module")
def walked(tmp_path_factory, model):
    """Folder of a walk of two chunks in test room 3."""
    out = tmp_path_factory.mktemp("walks") / "walk"
    assert main(["walk", "--seed", "3", "--chunks", "2", "--store-frames", "--model", model, "--out", str(out)]) == 0
    return out


def picture(path):
    with Image.open(path) as image:
        return np.asarray(image)


def run(capsys, *arguments):
    code = main([str(a) for a in arguments])
    captured = capsys.readouterr()
    return code, captured.out, captured.err


@pytest.fixture
def photo(tmp_path):
    """An image of 60 x 40 whose middle is red, with its depth files."""
    image = np.zeros((40, 60, 3), np.uint8)
    image[:, 10:50] = (200, 30, 30)
    Image.fromarray(image).save(tmp_path / "photo.png")
    depth = np.full((40, 60), 2.0, np.float32)
    depth[:, :10] = 9.0
    np.save(tmp_path / "depth.npy", depth)
    Image.fromarray((depth * 1000).astype(np.uint16)).save(tmp_path / "depth.png")
    return tmp_path / "photo.png"


def test_walk_leaves_video_sheet_and_cache(walked, model):
    assert {p.name for p in walked.iterdir()} == {"walk.mp4", "contact_sheet.png", "curves.png", "cache.zarr"}
    info = open_cache(walked / "cache.zarr")
    assert (info.chunks, len(info.cameras), info.has_frames) == (2, 9, True)
    assert info.points > 0
    assert load_frames(walked / "cache.zarr").shape == (9, 32, 32, 3)
    height, width, _ = picture(walked / "contact_sheet.png").shape
    assert width > height > 4 * 128, "four rows of enlarged frames"
    assert (walked / "walk.mp4").stat().st_size > 1000


def test_walk_tells_what_it_measured(tmp_path, capsys, model):
    code, out, _ = run(
        capsys, "walk", "--seed", 5, "--chunks", 1, "--path", "orbit", "--model", model, "--out", tmp_path
    )
    assert code == 0
    for words in ("1 chunks, 4 frames", "frames/s", "points", "per chunk", "coverage", "dB PSNR", "contact_sheet.png"):
        assert words in out


def test_walk_shows_a_page_and_records(tmp_path, capsys, model, monkeypatch):
    pytest.importorskip("rerun", reason="no Rerun: pip install 'mirage-env[record]'")
    monkeypatch.setenv("DISPLAY", "")
    monkeypatch.delenv("WAYLAND_DISPLAY", raising=False)
    out, record = tmp_path / "w", tmp_path / "w.rrd"
    arguments = ["walk", "--seed", 3, "--chunks", 1, "--model", model, "--out", out, "--show", "--record", record]
    code, text, _ = run(capsys, *arguments)
    assert code == 0
    assert "there is no display" in text
    assert f"{out / 'walk.html'}" in text
    assert str(record) in text
    assert "against truth" in (out / "walk.html").read_text()
    from rerun.chunk import RrdReader

    entities = {chunk.entity_path for chunk in RrdReader(record).stream()}
    assert {"/world/camera/imagined", "/world/camera/true", "/world/memory/0", "/plots/coverage"} <= entities
    code, _, error = run(capsys, *arguments[:-4], tmp_path / "other", "--record", record)
    assert code == 2
    assert "--record" in error
    assert not (tmp_path / "other").exists(), "nothing was walked"


def test_same_seed_gives_the_same_world(tmp_path, walked, model):
    arguments = ["walk", "--seed", "3", "--chunks", "2", "--store-frames", "--model", model]
    assert main([*arguments, "--out", str(tmp_path)]) == 0
    assert np.array_equal(load_frames(tmp_path / "cache.zarr"), load_frames(walked / "cache.zarr"))


def test_walk_goes_on_from_a_cache(tmp_path, walked, model, capsys):
    code, out, _ = run(
        capsys, "walk", "--cache", walked / "cache.zarr", "--path", "forward", "--chunks", 1, "--model", model,
        "--out", tmp_path,
    )  # fmt: skip
    assert code == 0
    assert "against truth" not in out
    assert open_cache(tmp_path / "cache.zarr").chunks == 3
    assert open_cache(walked / "cache.zarr").chunks == 2, "the old cache stays as it was"
    again = ["walk", "--cache", tmp_path / "cache.zarr", "--chunks", 1, "--model", model, "--out", tmp_path]
    assert run(capsys, *again)[0] == 2, "the video is there already"
    assert run(capsys, *again, "--overwrite")[0] == 0
    assert open_cache(tmp_path / "cache.zarr").chunks == 4


def test_walk_from_an_image_sees_its_middle(tmp_path, photo, model, capsys, caplog):
    code, _, _ = run(capsys, "walk", "--image", photo, "--chunks", 1, "--model", model, "--out", tmp_path / "w")
    assert code == 0
    assert "centre-cropped and resized to 32 x 32" in caplog.text
    sheet = picture(tmp_path / "w" / "contact_sheet.png").astype(int)
    assert (np.abs(sheet[6:134, 112:240] - (200, 30, 30)).max(-1) < 10).all()


@pytest.mark.parametrize("depth", ["depth.npy", "depth.png"])
def test_depth_file_places_the_first_points(tmp_path, photo, depth, model):
    out, depth = tmp_path / "w", photo.with_name(depth)
    arguments = ["walk", "--image", photo, "--depth", depth, "--fov", 80, "--chunks", 1, "--model", model, "--out", out]
    assert main([str(a) for a in arguments]) == 0
    state = load_world(out / "cache.zarr", load_world_model(model))
    assert np.allclose(state.memory.blocks[0].positions()[:, 2], 2.0, atol=1e-4)
    focal = 0.5 * 60 / np.tan(np.radians(40)) * 32 / 40
    assert state.camera.K_image[0, 0] == pytest.approx(focal)


def test_pose_file_is_walked_in_whole_chunks(tmp_path, model, capsys, caplog):
    poses = [[0.03 * i, 0, 0, 1, 0, 0, 0] for i in range(11)]
    (tmp_path / "poses.json").write_text(json.dumps(poses))
    arguments = ["walk", "--seed", 3, "--path", tmp_path / "poses.json", "--model", model, "--out", tmp_path / "w"]
    code, out, _ = run(capsys, *arguments)
    assert code == 0
    assert "2 chunks, 8 frames" in out
    assert "last 2 poses are left out" in caplog.text
    cameras = open_cache(tmp_path / "w" / "cache.zarr").cameras
    assert np.allclose((cameras[0].T_cam_world @ cameras[-1].T_world_cam)[:3, 3], [0.24, 0, 0])


def test_interrupt_keeps_what_there_is(tmp_path, model, capsys, monkeypatch):
    monkeypatch.setattr(CacheWriter, "append", _interrupting(3))
    code, out, _ = run(capsys, "walk", "--seed", 3, "--chunks", 8, "--model", model, "--out", tmp_path)
    assert code == 130
    assert "2 chunks, 8 frames (stopped)" in out
    assert open_cache(tmp_path / "cache.zarr").chunks == 2
    assert (tmp_path / "walk.mp4").stat().st_size > 1000
    assert picture(tmp_path / "contact_sheet.png").shape[0] > 4 * 128
    monkeypatch.undo()
    arguments = ["walk", "--cache", tmp_path / "cache.zarr", "--chunks", 1, "--model", model, "--out", tmp_path]
    assert run(capsys, *arguments, "--overwrite")[0] == 0
    assert open_cache(tmp_path / "cache.zarr").chunks == 3


def _interrupting(call):
    append, calls = CacheWriter.append, []

    def interrupted(*arguments):
        calls.append(1)
        if len(calls) == call:
            raise KeyboardInterrupt
        append(*arguments)

    return interrupted


def test_look_tells_and_draws(tmp_path, walked, model, capsys):
    code, out, _ = run(capsys, "look", walked / "cache.zarr")
    assert code == 0
    for words in ("tiny", "2 chunks", "points in", "per frame", "on disk", "extent", " m"):
        assert words in out
    code, out, _ = run(capsys, "look", walked / "cache.zarr", "--out", tmp_path / "map.png", "--model", model)
    assert code == 0
    assert max(picture(tmp_path / "map.png").shape) in (800, 801)


@pytest.mark.parametrize(
    ("arguments", "says"),
    [
        ("walk --out OUT", "one of --seed, --image and --cache"),
        ("walk --out OUT --seed 1 --image a.png", "one of --seed, --image and --cache"),
        ("walk --out OUT --seed 1 --depth a.npy", "--depth goes with --image"),
        ("walk --out OUT --seed 1 --fov 60", "--fov goes with --image"),
        ("walk --out OUT --cache C --estimate-depth", "--estimate-depth goes with --seed"),
        ("walk --out OUT --seed -1", "--seed: it is -1"),
        ("walk --out OUT --seed 1 --chunks 0", "--chunks: it is 0"),
        ("walk --out OUT --seed 1 --threads 0", "--threads: it is 0"),
        ("walk --out OUT --seed 1 --model nowhere", "--model: no world model 'nowhere'"),
        ("walk --out OUT --seed 1 --steps 0 --model TINY", "--steps: .*steps is 0"),
        ("walk --out OUT --seed 1 --size -2 --model TINY", "--size or --turn: size of a path is -2"),
        ("walk --out OUT --seed 1 --path nowhere --model TINY", "--path: there is no pose file nowhere"),
        (
            "walk --out OUT --seed 1 --path POSES --chunks 9 --model TINY",
            "--chunks: .*enough for 1 chunks of 4; 9 were",
        ),
        ("walk --out OUT --image nowhere.png --model TINY", "--image: nowhere.png is no image"),
        ("walk --out OUT --image PHOTO --depth nowhere.npy --model TINY", "--depth: nowhere.npy is no depth map"),
        ("walk --out OUT --image PHOTO --depth PHOTO --model TINY", "--depth: .* of mode RGB"),
        ("walk --out OUT --image PHOTO --depth SMALL --model TINY", r"--depth: .*shape \(7, 5\)"),
        ("walk --out OUT --image PHOTO --fov 200 --model TINY", "--fov: field of view"),
        ("walk --out OUT --cache nowhere.zarr --model TINY", "--cache: there is no cache at nowhere.zarr"),
        ("walk --out WALKED --seed 1 --model TINY", "--out: .*walk.mp4 is there already.*--overwrite"),
        ("look nowhere.zarr", "no cache at nowhere.zarr"),
        ("look CACHE --out OUT.png --model nowhere", "--model: no world model 'nowhere'"),
        ("dance", "no command 'dance'"),
    ],
)
def test_mistake_is_one_message_about_the_option(arguments, says, tmp_path, photo, walked, model, capsys):
    poses = tmp_path / "poses.npy"
    np.save(poses, np.tile(np.eye(4), (6, 1, 1)))
    np.save(tmp_path / "small.npy", np.ones((7, 5), np.float32))
    places = {
        "OUT": tmp_path / "out", "TINY": model, "PHOTO": photo, "POSES": poses, "WALKED": walked,
        "CACHE": walked / "cache.zarr", "SMALL": tmp_path / "small.npy", "OUT.png": tmp_path / "out.png",
    }  # fmt: skip
    code, _, err = run(capsys, *(places.get(word, word) for word in arguments.split()))
    assert code == 2
    assert "Traceback" not in err
    assert len(err.strip().splitlines()) == 1 or arguments == "dance"
    assert re.search(says, err), err
    assert not (tmp_path / "out").exists(), "a mistake leaves no half-made folder"


@pytest.mark.parametrize(
    "command", ["walk", "look", "train", "train import-re10k", "eval loop", "eval parts", "eval speed"]
)
def test_every_command_explains_itself(command, capsys):
    if command == "train":  # its stages have options of their own
        assert main(["train", "--help"]) == 0
    else:
        with pytest.raises(SystemExit) as left:
            main([*command.split(), "--help"])
        assert left.value.code == 0
    assert f"mirage {command}" in capsys.readouterr().out


def test_what_cannot_be_measured_is_refused_with_what_can(capsys):
    code, _, err = run(capsys, "eval", "taste")
    assert code == 2
    assert all(word in err for word in ("'taste'", "eval loop", "eval parts", "eval speed"))


def test_alone_it_says_what_can_be_done(capsys):
    code, out, _ = run(capsys)
    assert code == 0
    assert len(out.splitlines()) == 5
    assert all(f"mirage {command}" in out for command in COMMANDS)


def test_help_loads_nothing_heavy():
    code = "import sys; from mirage_env.cli import main; main([]); print(*sys.modules, file=sys.stderr)"
    done = subprocess.run([sys.executable, "-c", code], cwd=ROOT, capture_output=True, text=True, check=True)
    assert not {"torch", "zarr", "diffusers", "transformers", "numba"} & set(done.stderr.split())


def test_it_runs_as_a_program(tmp_path, model):
    command = [sys.executable, "-m", "mirage_env.cli", "walk", "--seed", "1", "--chunks", "1", "--model", model]
    done = subprocess.run([*command, "--out", tmp_path / "w"], cwd=ROOT, capture_output=True, text=True, check=False)
    assert done.returncode == 0, done.stderr
    assert "1 chunks, 4 frames" in done.stdout
    assert "frame/s" in done.stderr, "a progress bar"
    refused = subprocess.run([*command, "--out", tmp_path / "w"], cwd=ROOT, capture_output=True, text=True, check=False)
    assert refused.returncode == 2
    assert refused.stderr.startswith("mirage walk: --out")
