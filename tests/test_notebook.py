"""Cells of a notebook show worlds: what IPython's own formatter makes of them."""

import io
import json
import re
import sys
from base64 import b64decode

import gymnasium
import numpy as np
import pytest

pytest.importorskip("IPython", reason="no IPython: pip install 'mirage-env[test]'")

from IPython.core.interactiveshell import InteractiveShell
from PIL import Image
from repository import ROOT
from stand_ins import picture, walled_world_model
from videos import read_video
from worlds import cameras_from

from mirage_env import notebook
from mirage_env.errors import MissingPackageError
from mirage_env.memory.latent import LatentMemory
from mirage_env.store import open_cache, save_world
from mirage_env.viz.html import table_html
from mirage_env.viz.pictures import memory_map
from mirage_env.viz.walk_curves import WalkCurves


@pytest.fixture(scope="module")
def model():
    return walled_world_model()


@pytest.fixture(scope="module")
def walked(model):
    """A start view and two chunks."""
    walked = [model.start(picture(1), seed=1)]
    for _ in range(2):
        state = walked[-1][1]
        walked.append(model.step(state, cameras_from(state.camera, model)))
    return walked


@pytest.fixture
def shell():
    return InteractiveShell()


@pytest.fixture
def html_of(shell, model):
    """What a cell that ends with a value shows of it, or None."""
    notebook.enable(model, shell)
    return lambda value: shell.display_formatter.format(value)[0].get("text/html")


def pictures(html):
    return [
        np.asarray(Image.open(io.BytesIO(b64decode(data)))) for data in re.findall(r"image/png;base64,([^\"]+)", html)
    ]


def video(html, folder):
    (data,) = re.findall(r"video/mp4;base64,([^\"]+)", html)
    (folder / "cell.mp4").write_bytes(b64decode(data))
    return read_video(folder / "cell.mp4")[1]


def test_chunks_are_a_video_of_all_their_frames(html_of, walked, tmp_path):
    chunks = [chunk for chunk, _ in walked]
    assert len(video(html_of(chunks[1]), tmp_path)) == 4
    shown = video(html_of(chunks), tmp_path)
    assert len(shown) == 9
    first = ((chunks[0].frames[0].numpy() + 1.0) * 127.5).mean((1, 2))
    assert np.abs(shown[0].mean((0, 1)) - first).max() < 6


def test_memory_is_its_map_in_the_models_colours(html_of, model, walked):
    state = walked[-1][1]
    (shown,) = pictures(html_of(state.memory))
    path = [camera for chunk, _ in walked for camera in chunk.cameras]
    assert (shown == memory_map(state.memory, model.codec, path, notebook.MAP_SIDE)).mean() > 0.99
    assert f"{state.memory.points} points" in html_of(state.memory)


def test_world_tells_where_it_stands(html_of, walked):
    shown = html_of(walked[-1][1])
    assert len(pictures(shown)) == 1
    assert "after 2 chunks" in shown


def test_empty_memory_is_shown_too(html_of, model):
    assert len(pictures(html_of(LatentMemory.empty(model.config)))) == 1


def test_cache_is_a_table_and_its_path(html_of, model, walked, tmp_path):
    save_world(tmp_path / "a.zarr", walked[-1][1], model, [chunk for chunk, _ in walked])
    shown = html_of(open_cache(tmp_path / "a.zarr"))
    assert "a.zarr" in shown
    assert f"{walked[-1][1].memory.points} points" in shown
    assert len(pictures(shown)) == 1


def test_curves_of_a_walk_are_plots(html_of, walked):
    curves = WalkCurves()
    for chunk, state in walked:
        curves(chunk, state)
    (shown,) = pictures(html_of(curves))
    assert shown.std() > 10


@pytest.mark.parametrize("value", [[], [1, 2], ["text"], {"a": 1}, 3])
def test_other_values_are_shown_as_ever(html_of, value):
    assert html_of(value) is None


def test_list_that_is_not_all_chunks_is_shown_as_ever(html_of, walked):
    assert html_of([walked[0][0], 1]) is None


def test_extension_shows_memories_by_age(shell, walked):
    shell.run_line_magic("load_ext", "mirage_env.notebook")
    shown = shell.display_formatter.format(walked[-1][1].memory)[0]["text/html"]
    (image,) = pictures(shown)
    path = [camera for chunk, _ in walked for camera in chunk.cameras]
    assert (image == memory_map(walked[-1][1].memory, None, path, notebook.MAP_SIDE)).mean() > 0.99


def test_texts_are_never_html():
    assert table_html([("<b>", "<script>")]).count("&lt;") == 2


def test_outside_a_notebook_it_says_so(monkeypatch):
    with pytest.raises(MissingPackageError, match="no notebook"):
        notebook.enable()
    monkeypatch.setitem(sys.modules, "IPython", None)
    with pytest.raises(MissingPackageError, match="pip install ipython"):
        notebook.enable()


SHORT = "chunks_of_a_walk, steps, worlds, rollout, episodes, size = 1, 2, 2, 1, 1, (64, 64)"


def test_first_steps_run_from_top_to_bottom(shell, tmp_path, monkeypatch):
    monkeypatch.chdir(tmp_path)
    monkeypatch.setattr("IPython.get_ipython", lambda: shell)
    make_vec = gymnasium.make_vec
    short = {"max_episode_steps": 2}
    monkeypatch.setattr(gymnasium, "make_vec", lambda *given, **options: make_vec(*given, **{**options, **short}))
    shown = {}
    for cell in json.loads((ROOT / "examples/first_steps.ipynb").read_text())["cells"]:
        text = "".join(cell["source"])
        if cell["cell_type"] != "code" or "%pip" in text:
            continue
        assert cell["outputs"] == [], "clear the outputs: they would tell of another model"
        done = shell.run_cell(text)
        done.raise_error()
        shown[cell["id"]] = shell.display_formatter.format(done.result)[0]
        if "parameters" in cell["metadata"].get("tags", ()):
            assert set(re.findall(r"^\w+(?= =)", text, re.MULTILINE)) == set(re.findall(r"\w+", SHORT.split(" = ")[0]))
            shell.run_cell(SHORT)
    assert all("video/mp4" in shown[name]["text/html"] for name in ("start", "left", "right"))
    assert "the memory from above" in shown["memory"]["text/html"]
    assert "image/png" in shown["curve"]
    assert {path.name for path in (tmp_path / "agent").iterdir()} >= {"policy", "curve.png", "evaluations.json"}
