"""The command line does the whole job, goes on where it was stopped, and names the option at fault."""

import json
import re
import signal
import subprocess
import sys
from dataclasses import replace

import numpy as np
import pytest
from PIL import Image
from repository import ROOT
from worlds import open_minded_model

import mirage_env
from mirage_env.cli import _load, _options_type, main
from mirage_env.commands.tree import MIRAGE
from mirage_env.memory.floor import Floor
from mirage_env.models.world_model_loader import load_world_model, save_world_model
from mirage_env.store import CacheWriter, load_frames, load_world, open_cache, save_world


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
    for words in ("1 chunk, 4 frames", "frames/s", "points", "per chunk", "coverage", "dB PSNR", "contact_sheet.png"):
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
        capsys, "walk", walked / "cache.zarr", "--path", "forward", "--chunks", 1, "--model", model,
        "--out", tmp_path,
    )  # fmt: skip
    assert code == 0
    assert "against truth" not in out
    assert open_cache(tmp_path / "cache.zarr").chunks == 3
    assert open_cache(walked / "cache.zarr").chunks == 2, "the old cache stays as it was"
    again = ["walk", tmp_path, "--chunks", 1, "--model", model, "--out", tmp_path]
    assert run(capsys, *again)[0] == 2, "the video is there already"
    assert run(capsys, *again, "--overwrite")[0] == 0
    assert open_cache(tmp_path / "cache.zarr").chunks == 4


def test_walk_from_an_image_sees_its_middle(tmp_path, photo, model, capsys, caplog):
    arguments = ["--chunks", 1, "--model", model, "--out", tmp_path / "w", "--camera-height", 1.3]
    code, _, _ = run(capsys, "walk", "--image", photo, *arguments)
    assert code == 0
    assert load_world(tmp_path / "w/cache.zarr", load_world_model(model)).floor == Floor((0.0, -1.0, 0.0), -1.3)
    assert "centre-cropped to 67% of 60 x 40 pixels" in caplog.text
    assert "degrees wide" in caplog.text
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


@pytest.mark.parametrize("number", [signal.SIGINT, signal.SIGTERM, signal.SIGHUP])
def test_signal_to_stop_keeps_what_there_is(tmp_path, model, capsys, monkeypatch, number):
    monkeypatch.setattr(CacheWriter, "append", _interrupting(3, number))
    code, out, _ = run(capsys, "walk", "--seed", 3, "--chunks", 8, "--model", model, "--out", tmp_path)
    assert code == 130
    assert "chunks, " in out
    assert "(stopped)" in out
    chunks = open_cache(tmp_path / "cache.zarr").chunks
    assert 2 <= chunks < 8
    assert (tmp_path / "walk.mp4").stat().st_size > 1000
    assert picture(tmp_path / "contact_sheet.png").shape[0] > 4 * 128
    assert picture(tmp_path / "curves.png").shape[0] > 100
    if number != signal.SIGINT:
        return
    monkeypatch.undo()
    arguments = ["walk", tmp_path, "--chunks", 1, "--model", model, "--out", tmp_path]
    assert run(capsys, *arguments, "--overwrite")[0] == 0
    assert open_cache(tmp_path / "cache.zarr").chunks == chunks + 1


def _interrupting(call, number):
    append, calls = CacheWriter.append, []

    def interrupted(*arguments):
        calls.append(1)
        if len(calls) == call:
            signal.raise_signal(number)
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
        ("walk --out OUT", "one of --seed, --image and a saved WORLD to start from; none was given"),
        ("walk --out OUT --seed 1 --image a.png", "--seed and --image were given"),
        ("walk WALKED --out OUT --seed 1", "--seed and WORLD were given"),
        ("walk --out OUT --seed 1 --depth a.npy", "--depth goes with --image"),
        ("walk --out OUT --seed 1 --fov 60", "--fov goes with --image"),
        ("walk C --out OUT --estimate-depth", "--estimate-depth goes with --seed"),
        ("walk C --out OUT --prompt x", "--prompt: a saved world has its own"),
        ("walk --out OUT --seed -1", "--seed: it is -1"),
        ("walk --out OUT --seed 99999999999999999999", "--seed: it is 9+; give a number from 0 to"),
        ("walk --out OUT --image POSES --model TINY", "its bytes are of another kind"),
        ("walk --out OUT --seed 1 --path NAN --model TINY", r"--path: a pose vector is \[nan(, nan){6}\]; give 7"),
        ("walk --out OUT --seed seven", "--seed: 'seven' is no INT"),
        ("walk --out OUT --sede 7", "Perhaps you meant: --seed"),
        ("walk --seed 7", "missing .* --out"),
        ("walk --out OUT --seed", "--seed"),
        ("walk --out OUT --seed 1 --chunks 0", "--chunks: it is 0"),
        ("walk --out OUT --seed 1 --animation a.mp4", "--animation: a.mp4 is neither .webp nor .gif"),
        ("walk --out OUT --seed 1 --threads 0", "--threads: it is 0"),
        ("walk --out OUT --seed 1 --turn -9", "--turn: it is -9 degrees"),
        ("walk --out OUT --seed 1 --model nowhere", "--model: no world model 'nowhere'"),
        ("walk --out OUT --seed 1 --device tpu9", "--device: device 'tpu9' is not available here"),
        ("walk --out OUT --seed 1 --steps 0 --model TINY", "--steps: .*steps is 0"),
        ("walk --out OUT --seed 1 --size -2 --model TINY", "--size or --turn: size of a path is -2"),
        ("walk --out OUT --seed 1 --path nowhere --model TINY", "--path: there is no pose file nowhere"),
        ("walk --out OUT --seed 1 --prompt x --model TINY", "--prompt: the model .* reads no text"),
        ("walk --out OUT --seed 1 --offload half", "--offload.*'none', 'model', 'group'"),
        (
            "walk --out OUT --seed 1 --path POSES --chunks 9 --model TINY",
            "--chunks: .*enough for 1 chunk of 4; 9 were",
        ),
        ("walk --out OUT --image nowhere.png --model TINY", "--image: nowhere.png is no image"),
        ("walk --out OUT --image PHOTO --depth nowhere.npy --model TINY", "--depth: nowhere.npy is no depth map"),
        ("walk --out OUT --image PHOTO --depth PHOTO --model TINY", "--depth: .* of mode RGB"),
        ("walk --out OUT --image PHOTO --depth SMALL --model TINY", r"--depth: .*shape \(7, 5\)"),
        ("walk --out OUT --image PHOTO --fov 200 --model TINY", "--fov: it is 200 degrees"),
        ("walk --out OUT --image PHOTO --camera-height 20", r"--camera-height: camera_height is 20.*\[0.05, 10\]"),
        ("walk WALKED --out OUT --camera-height 1", "--camera-height: a saved world has its own"),
        ("view --image PHOTO --camera-height 0 --no-browser", "--camera-height: camera_height is 0"),
        ("view WALKED --camera-height 1 --no-browser", "--camera-height: a saved world has its own"),
        ("walk nowhere.zarr --out OUT --model TINY", "WORLD: there is no cache at nowhere.zarr"),
        ("walk --out WALKED --seed 1 --model TINY", "--out: .*walk.mp4 is there already.*--overwrite"),
        ("look", "missing .* WORLD"),
        ("look CACHE --out map.jpg", "--out: map.jpg is no .png"),
        ("view --image nowhere.png --no-browser", "--image: nowhere.png cannot be read .*; give a JPEG or PNG"),
        ("look nowhere.zarr", "no cache at nowhere.zarr"),
        ("look CACHE --out OUT.png --model nowhere", "--model: no world model 'nowhere'"),
        ("view WALKED --image a.png", "--image and WORLD were both given"),
        ("view --port 70000", "--port: it is 70000; give a number from 0 to 65535"),
        ("view nowhere.zarr --no-browser --port 0", "no cache at nowhere.zarr"),
        ("play C --env Rooms/World-v0", "WORLD: Rooms/World-v0 is no learned world"),
        ("export nowhere --to wav --out OUT", "'minari'"),
        ("export nowhere --out OUT", "nowhere"),
        ("rollout nowhere", "--out: give a folder"),
        ("rollout --out OUT --policy nosuch", "the policy is 'nosuch'; choose one of random"),
        ("train-policy --out OUT --env Nope-v0", "no environment 'Nope-v0'"),
        ("serve --token-file nowhere --worlds OUT", "--token-file: nowhere cannot be read"),
        (
            "serve --certificate nowhere --key nowhere --worlds OUT",
            "nowhere cannot be used .*; give a certificate",
        ),
        ("eval loop --out OUT --worlds 0", "eval loop: worlds and batch must be at least 1"),
        ("rollout --out OUT --policy-options speed", "is no name=value"),
        ("model", "expected one of .check, convert, embed"),
        ("model chekc rooms", "did you mean check"),
        ("model check castle", "castle"),
        ("eval", "expected one of .loop, parts"),
        ("eval taste", "there is no command 'taste'; give one of loop, parts, clips, speed"),
        ("eval loop --out OUT --worlds many", "--worlds: 'many' is no INT|--worlds: invalid literal"),
        ("eval cameras", "missing .* --true"),
        ("train codex --out OUT", "did you mean codec"),
        ("train codec", "missing .* --out"),
        ("train codec --out OUT --size 20", "--size is 20; give a multiple of 16"),
        ("train codec --out OUT --minutes 0", "--minutes"),
        ("ros EMPTY", "there is no command ''; give one of world, policy"),
        ("ros dance", "there is no command 'dance'; give one of world, policy"),
        ("ros --domain 300", "from 0 to 101"),
        ("ros --resume", "--store"),
        ("doctor --jsno", "Perhaps you meant: --json"),
        ("wlak --seed 7", "there is no command 'wlak'; did you mean walk"),
        ("dance", "no command 'dance'; give one of walk, view"),
        ("--sede 7", "--sede"),
    ],
)
def test_mistake_is_one_line_that_names_the_way_out(arguments, says, tmp_path, photo, walked, model, capsys):
    poses = tmp_path / "poses.npy"
    np.save(poses, np.tile(np.eye(4), (6, 1, 1)))
    np.save(tmp_path / "nan.npy", np.full((5, 7), np.nan))
    np.save(tmp_path / "small.npy", np.ones((7, 5), np.float32))
    places = {
        "OUT": tmp_path / "out", "TINY": model, "PHOTO": photo, "POSES": poses, "WALKED": walked,
        "CACHE": walked / "cache.zarr", "SMALL": tmp_path / "small.npy", "OUT.png": tmp_path / "out.png",
        "EMPTY": "", "NAN": tmp_path / "nan.npy",
    }  # fmt: skip
    code, _, err = run(capsys, *(places.get(word, word) for word in arguments.split()))
    lines = [line for line in err.strip().splitlines() if "the first start compiles" not in line]
    assert code == 2
    assert len(lines) == 1, err
    assert re.search(says, lines[0]), err
    assert not (tmp_path / "out").exists(), "a mistake leaves no half-made folder"


def leaves(command=MIRAGE, path=()):
    """Commands that are no groups, with the words that name them."""
    for name, part in command.parts.items():
        yield from leaves(part, (*path, name)) if part.parts else [(" ".join((*path, name)), part)]


@pytest.mark.parametrize(("name", "command"), list(leaves()), ids=lambda value: value if isinstance(value, str) else "")
def test_every_command_explains_itself_as_its_group_does(name, command, capsys):
    path = name.split()
    options = _options_type(command, path[-1:], path)
    assert callable(_load(command.run, path))
    assert command.named_in_options or options.__doc__.splitlines()[0] == command.summary
    code, out, err = run(capsys, *path, "--help")
    assert (code, err) == (0, "")
    assert out.startswith("usage: mirage ")
    assert "--help" in out


@pytest.mark.parametrize("group", ["", *(name for name, part in MIRAGE.parts.items() if part.parts)])
def test_group_lists_its_commands(group, capsys):
    code, out, _ = run(capsys, *group.split(), "--help")
    parts = (MIRAGE.parts[group] if group else MIRAGE).parts
    assert code == 0
    for name, part in parts.items():
        assert re.search(rf"• {name} +{re.escape(part.summary.split()[0])}", out), name
    assert run(capsys)[1] == run(capsys, "--help")[1]


def test_version_is_that_of_the_package(capsys):
    assert run(capsys, "--version") == (0, f"mirage {mirage_env.__version__}\n", "")


@pytest.mark.parametrize("shell", ["bash", "zsh"])
def test_completion_knows_commands_and_their_options(shell, capsys):
    code, out, _ = run(capsys, "--tyro-print-completion", shell)
    assert code == 0
    assert all(word in out for word in ("walk", "train-policy", "--estimate-depth", "export-rooms"))


def test_text_of_a_world_is_shown_not_obeyed(tmp_path, walked, capsys):
    source = open_cache(walked / "cache.zarr")
    loaded = open_minded_model()
    state = load_world(walked / "cache.zarr", replace(loaded, identity=source.identity))
    evil = replace(state, prompt="a \x1b]0;title\x07\x9b31m room")
    save_world(tmp_path / "evil.zarr", evil, replace(loaded, identity="tiny-\x1b[2J"))
    code, out, err = run(capsys, "look", tmp_path / "evil.zarr")
    assert code == 0
    assert "\\x1b" in out
    assert all(c.isprintable() or c in "\n\t" for c in out + err)


def test_reader_that_leaves_early_is_no_error():
    """`mirage --help | head -1`."""
    command = [sys.executable, "-m", "mirage_env.cli", "--help"]
    with subprocess.Popen(command, cwd=ROOT, stdout=subprocess.PIPE, stderr=subprocess.PIPE) as run:
        run.stdout.close()
        said = run.stderr.read()
    assert said == b""


def test_help_loads_nothing_heavy():
    asked = [[], ["eval", "--help"], ["train", "--help"], ["ros", "--help"]]
    code = f"print([main(words) for words in {asked}], *sys.modules, file=sys.stderr)"
    code = f"import sys; from mirage_env.cli import main; {code}"
    done = subprocess.run([sys.executable, "-c", code], cwd=ROOT, capture_output=True, text=True, check=True)
    assert done.stderr.startswith("[0, 0, 0, 0]")
    assert not {"torch", "zarr", "diffusers", "transformers", "numba"} & set(done.stderr.split())


def test_it_runs_as_a_program(tmp_path, model):
    command = [sys.executable, "-m", "mirage_env.cli", "walk", "--seed", "1", "--chunks", "1", "--model", model]
    done = subprocess.run([*command, "--out", tmp_path / "w"], cwd=ROOT, capture_output=True, text=True, check=False)
    assert done.returncode == 0, done.stderr
    assert "1 chunk, 4 frames" in done.stdout
    said = done.stderr.splitlines()
    assert "walk: 100 %, 4 of 4 frames" in said, "a line of progress, for there is no terminal"
    expected = ("walk: ", "path loop is made", "the first start compiles")
    assert all(line.startswith(expected) for line in said), done.stderr
    wrong = [sys.executable, "-m", "mirage_env.cli", "dance"]
    refused = subprocess.run(wrong, cwd=ROOT, capture_output=True, text=True, check=False)
    assert refused.returncode == 2
    [line] = refused.stderr.splitlines()
    assert "no command 'dance'" in line
