"""What a walk leaves for eyes: curves, a page, and a browser that is opened only where there is one."""

from dataclasses import replace

import numpy as np
import pytest
import torch
from PIL import Image
from stand_ins import picture, walled_world_model
from tiny_wan import tiny_wan_world_model
from worlds import cameras_from, walk

from mirage_env.commands.walk_outputs import Start
from mirage_env.commands.walk_outputs import walk as walk_along
from mirage_env.store import CacheWriter
from mirage_env.viz import walk_page
from mirage_env.viz.pictures import LABEL_WIDTH, MARGIN
from mirage_env.viz.walk_curves import WalkCurves, depth_change, picture_of, plot_walk
from mirage_env.viz.walk_page import CACHE, CURVES, SHEET, VIDEO, has_display, open_page, write_page


@pytest.fixture(scope="module")
def walked():
    return walk(walled_world_model(), 3)


def test_curves_are_those_of_the_chunks(walked):
    curves = WalkCurves()
    for chunk, state in walked:
        curves(chunk, state)
    assert curves.chunk == [0, 1, 2, 3]
    assert curves.coverage == [0.0, *(chunk.coverage for chunk, _ in walked[1:])]
    assert curves.points == [state.memory.points for _, state in walked]
    assert np.isnan(curves.depth_change[0])
    assert all(0.0 <= change < 0.5 for change in curves.depth_change[1:])


@pytest.mark.parametrize("factor", [0.9, 1.0, 1.25])
def test_depth_change_is_how_far_depth_and_memory_differ(walked, factor):
    chunk = walked[1][0]
    depth = factor * chunk.readout.depth.repeat_interleave(8, -1).repeat_interleave(8, -2)
    assert depth_change(replace(chunk, depth=depth)) == pytest.approx(abs(factor - 1.0), abs=1e-6)


def test_depth_change_of_what_nobody_knew_is_no_number(walked):
    chunk = walked[1][0]
    assert np.isnan(depth_change(replace(chunk, keep=torch.zeros_like(chunk.keep))))


@pytest.mark.parametrize(("truth", "panels"), [(False, 3), (True, 4)])
def test_plots_show_what_there_is(walked, truth, panels):
    curves = WalkCurves()
    for chunk, state in walked:
        curves(chunk, state)
    if truth:
        curves.psnr, curves.psnr_known = [30.0, 29.0, 28.0], [31.0, float("nan"), 29.0]
    figure = plot_walk(curves)
    assert len(figure.axes) == panels
    shown = {tuple(line.get_xdata()) for axes in figure.axes for line in axes.lines}
    assert shown == ({(0, 1, 2, 3), (1, 2, 3)} if truth else {(0, 1, 2, 3)})
    assert picture_of(figure).shape[2] == 3


def test_plots_of_a_walk_that_went_nowhere_are_empty():
    assert picture_of(plot_walk(WalkCurves())).size > 0


def test_page_shows_every_file_and_escapes_what_it_is_told(tmp_path):
    page = write_page(tmp_path, [("<i>", "a & b")], np.zeros((8, 8, 3), np.uint8))
    text = page.read_text()
    for name in (VIDEO, SHEET, CURVES):
        assert f'src="{name}"' in text
    assert "&lt;i&gt;" in text
    assert "a &amp; b" in text
    assert f"mirage view {tmp_path / CACHE}" in text


@pytest.mark.parametrize(
    ("environment", "platform", "found"),
    [
        ({}, "linux", False),
        ({"DISPLAY": ""}, "linux", False),
        ({"DISPLAY": ":0"}, "linux", True),
        ({"WAYLAND_DISPLAY": "wayland-0"}, "linux", True),
        ({}, "darwin", True),
    ],
)
def test_display_is_found(environment, platform, found):
    assert has_display(environment, platform) is found


def test_browser_is_opened_where_there_is_a_display(tmp_path, monkeypatch):
    opened = []
    monkeypatch.setenv("DISPLAY", ":0")
    monkeypatch.setattr(walk_page.webbrowser, "open", lambda address: opened.append(address) is None)
    assert "shown in the browser" in open_page(tmp_path / "walk.html")
    assert opened == [(tmp_path / "walk.html").as_uri()]


@pytest.mark.parametrize("display", ["", ":0"])
def test_without_display_or_browser_it_says_how_to_see_the_page(tmp_path, monkeypatch, display):
    monkeypatch.setenv("DISPLAY", display)
    monkeypatch.delenv("WAYLAND_DISPLAY", raising=False)
    monkeypatch.setattr(walk_page.sys, "platform", "linux")
    monkeypatch.setattr(
        walk_page.webbrowser, "open", lambda address: False if display else pytest.fail("a browser was opened")
    )
    assert "python -m http.server --bind 127.0.0.1" in open_page(tmp_path / "walk.html")


def test_sheet_of_a_walk_shows_frames_that_have_a_latent(tmp_path):
    model = tiny_wan_world_model()
    image = np.repeat(picture(1), 2, 0).repeat(2, 1)
    chunk, state = model.start(image, seed=1)
    cameras = [camera for _ in range(2) for camera in cameras_from(state.camera, model)]
    told = []
    figures = walk_along(
        model,
        Start(state, chunk, CacheWriter.create(tmp_path / CACHE, state, model, [chunk])),
        cameras,
        tmp_path,
        lambda camera, frame: (image, np.ones((64, 64), bool)),
        progress=False,
        subscribers=[lambda chunk, state: told.append(state.chunk)],
    )
    assert told == figures.curves.chunk == [0, 1, 2]
    assert len(figures.curves.psnr) == len(figures.curves.psnr_known) == 2
    with Image.open(tmp_path / SHEET) as sheet:
        assert sheet.width == LABEL_WIDTH + 5 * (2 * 64 + MARGIN) + MARGIN, "the start and two latents per chunk"
    with Image.open(tmp_path / CURVES) as curves:
        assert curves.width > curves.height
