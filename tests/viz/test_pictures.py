"""Videos play and have the frames' colours, sheets show the frames, maps show the world from above."""

from dataclasses import replace

import numpy as np
import pytest
import torch
from PIL import Image
from videos import read_video

from mirage_env.camera import Camera
from mirage_env.config.world import WorldModelConfig
from mirage_env.errors import InvalidImageError, InvalidOptionError
from mirage_env.memory.latent import LatentMemory
from mirage_env.poses import pose_from_rotation_vector
from mirage_env.tokens.blocks import Frames
from mirage_env.tokens.packing import Tokens, pack
from mirage_env.viz.pictures import (
    BACKGROUND,
    MARGIN,
    UNSEEN,
    VideoWriter,
    contact_sheet,
    enlarge,
    feature_colours,
    mark_unseen,
    memory_map,
    write_video,
)

RED, GREEN, BLUE = (200, 30, 30), (30, 160, 40), (40, 60, 200)
CONFIG = WorldModelConfig("colours", (32, 32), (4, 4), 3)


class ColourCodec:
    """A latent is the colour of its patch."""

    def encode(self, images):
        return torch.nn.functional.avg_pool2d(images, 8)

    def decode(self, latents):
        return latents.repeat_interleave(8, -1).repeat_interleave(8, -2)


def plain(colour, height=32, width=32):
    return np.full((height, width, 3), colour, np.uint8)


# Videos


@pytest.mark.parametrize("size", [(32, 32), (33, 47), (128, 128), (300, 500)])
def test_video_plays_everywhere_and_keeps_frames(tmp_path, size):
    frames = np.stack([plain(colour, *size) for colour in (RED, GREEN, BLUE)])
    write_video(tmp_path / "a.mp4", frames, fps=5)
    about, read = read_video(tmp_path / "a.mp4")
    assert "yuv420p" in about
    assert " 5 fps" in about
    height, width = read.shape[1:3]
    assert height % 2 == width % 2 == 0
    factor = max(1, round(384 / min(size)))
    assert (height - factor * size[0], width - factor * size[1]) in {(0, 0), (0, 1), (1, 0), (1, 1)}
    assert len(read) == 3
    for frame, colour in zip(read, (RED, GREEN, BLUE), strict=True):
        assert np.abs(frame.mean((0, 1)) - colour).max() < 12


def test_interrupted_video_plays_up_to_the_interrupt(tmp_path):
    def interrupted():
        with VideoWriter(tmp_path / "a.mp4", 8.0) as video:
            video.write(plain(RED)[None].repeat(4, 0))
            raise KeyboardInterrupt

    with pytest.raises(KeyboardInterrupt):
        interrupted()
    assert len(read_video(tmp_path / "a.mp4")[1]) == 4


@pytest.mark.parametrize(
    ("frames", "says"),
    [
        (np.zeros((2, 32, 32), np.uint8), "uint8"),
        (np.zeros((2, 32, 32, 3), np.float32), "float32"),
        (np.zeros((0, 32, 32, 3), np.uint8), r"\[0, 32"),
    ],
)
def test_video_of_no_frames_is_refused(tmp_path, frames, says):
    with pytest.raises(InvalidImageError, match=says):
        write_video(tmp_path / "a.mp4", frames, 8.0)


@pytest.mark.parametrize("frames", [1, 40])
def test_video_that_cannot_be_written_is_an_error(tmp_path, frames):
    with pytest.raises(OSError, match=r"could not write .*nowhere"):
        write_video(tmp_path / "nowhere" / "a.mp4", plain(RED)[None].repeat(frames, 0), 8.0)


def test_video_keeps_one_size_and_needs_a_rate(tmp_path):
    with VideoWriter(tmp_path / "a.mp4", 8.0) as video:
        video.write(plain(RED)[None])
        with pytest.raises(InvalidImageError, match="keep one size"):
            video.write(plain(RED, 16, 16)[None])
    with pytest.raises(InvalidOptionError, match="frame rate is 0"):
        VideoWriter(tmp_path / "b.mp4", 0.0)


# Contact sheets


def test_sheet_shows_the_rows_under_each_other():
    sheet = contact_sheet([("true", [plain(RED)] * 3), ("imagined", [plain(BLUE)] * 3)], scale=2)
    tiles = sheet[:, 112:]
    assert (tiles[MARGIN : MARGIN + 64, :64] == RED).all()
    assert (tiles[2 * MARGIN + 64 : 2 * MARGIN + 128, :64] == BLUE).all()
    assert (sheet[:MARGIN] == BACKGROUND).all()
    assert (sheet[:, :112] != BACKGROUND).any(), "labels"


@pytest.mark.parametrize(("frames", "columns", "shown"), [(3, 8, 3), (8, 8, 8), (20, 8, 8), (5, 1, 1)])
def test_sheet_shows_evenly_spread_columns(frames, columns, shown):
    sheet = contact_sheet([("row", [plain((i, i, i)) for i in range(frames)])], columns)
    assert sheet.shape[1] == 112 + shown * (32 + MARGIN) + MARGIN
    greys = [int(sheet[10, 112 + c * (32 + MARGIN), 0]) for c in range(shown)]
    assert greys[0] == 0
    assert shown == 1 or greys[-1] == frames - 1
    assert greys == sorted(set(greys))


@pytest.mark.parametrize(
    "rows",
    [
        [],
        [("a", [])],
        [("a", [plain(RED)]), ("b", [plain(RED), plain(RED)])],
        [("a", [plain(RED), plain(RED, 16, 16)])],
    ],
)
def test_ragged_sheets_are_refused(rows):
    with pytest.raises(InvalidImageError, match="same number of frames"):
        contact_sheet(rows)


def test_unseen_cells_are_tinted_and_no_others():
    observed = np.array([[1.0, 0.0], [1.0, 1.0]], np.float32)
    image = mark_unseen(plain(BLUE), observed)
    assert (image[:16, :16] == BLUE).all()
    assert (image[16:] == BLUE).all()
    assert np.abs(image[:16, 16:].astype(int) - (np.array(BLUE) + UNSEEN) / 2).max() <= 1


def test_enlarging_by_one_changes_nothing():
    image = np.random.default_rng(0).integers(0, 256, (8, 8, 3), dtype=np.uint8)
    assert np.array_equal(enlarge(image, 1), image)
    assert enlarge(image, 3).shape == (24, 24, 3)


# Maps


def memory_of(points, colours):
    """A memory of single points with those colours."""
    feature, none = (np.array(colours) / 127.5 - 1.0).astype(np.float32), np.zeros(len(points), int)
    size, frames = np.full(len(points), 0.3, np.float32), Frames.of([standing()], (4, 4), 0)
    block = pack(Tokens(np.array(points, float), feature, size, none, none, frames), 0)
    return replace(LatentMemory.empty(CONFIG), blocks=(block,))


def standing(yaw=0.0):
    """A camera 1.4 m above the floor z = 0, looking along +y for yaw 0."""
    upright = pose_from_rotation_vector([0, 0, 1.4], [-np.pi / 2, 0, 0])
    return Camera.from_fov(1.3, 32, 32, pose_from_rotation_vector([0, 0, 0], [0, 0, yaw]) @ upright)


def place_of(picture, colour):
    """Mean (row, column) of a colour, None where it is not."""
    found = np.argwhere(np.abs(picture.astype(int) - colour).max(-1) < 12)
    return found.mean(0) if len(found) else None


def test_feature_colours_are_those_the_codec_decodes():
    rng = np.random.default_rng(0)
    colours = rng.integers(20, 236, (3000, 3))
    features = (colours / 127.5 - 1.0).astype(np.float16)
    assert np.abs(feature_colours(features, ColourCodec()).astype(int) - colours).max() <= 2


@pytest.mark.parametrize("upside", ["z up", "y down"])
def test_map_shows_ahead_above_and_right_to_the_right(upside):
    ahead, right, left = [0, 3, 0], [2, 1, 0], [-2, 1, 0]
    camera, points = standing(), np.array([ahead, right, left], float)
    if upside == "y down":
        T = np.linalg.inv(pose_from_rotation_vector([0, 0, 0], [-np.pi / 2, 0, 0]))
        camera, points = camera.at(T @ camera.T_world_cam), points @ T[:3, :3].T
    picture = memory_map(memory_of(points, [RED, GREEN, BLUE]), ColourCodec(), [camera])
    (red, green, blue) = (place_of(picture, c) for c in (RED, GREEN, BLUE))
    assert red[0] < min(green[0], blue[0])
    assert blue[1] < red[1] < green[1]


def test_higher_points_hide_lower_ones_and_ceilings_are_cut_off():
    points = [[1, 2, 0.0], [1, 2, 0.8], [1, 2, 2.5], [-1, 2, 0.0]]
    for order in ([0, 1, 2, 3], [3, 2, 1, 0]):
        colours = np.array([RED, GREEN, BLUE, (90, 90, 90)])
        picture = memory_map(memory_of(np.array(points)[order], colours[order]), ColourCodec(), [standing()])
        assert place_of(picture, GREEN) is not None
        assert place_of(picture, RED) is None
        assert place_of(picture, BLUE) is None


def test_map_of_an_empty_memory_shows_the_path():
    walk = [standing().moved(pose_from_rotation_vector([0, 0, 0.1 * i], [0, 0, 0])) for i in range(20)]
    picture = memory_map(LatentMemory.empty(CONFIG), ColourCodec(), walk, side=200)
    assert picture.dtype == np.uint8
    assert max(picture.shape[:2]) in (200, 201)
    start, end = place_of(picture, (40, 150, 70)), place_of(picture, (200, 50, 45))
    assert end[0] < start[0]
    assert end[1] == pytest.approx(start[1], abs=3)


def test_a_far_outlier_does_not_shrink_the_map():
    rng = np.random.default_rng(0)
    points = [*rng.uniform([-2, 0, 0], [2, 4, 0.1], (400, 3)), [0.0, 500.0, 0.0]]
    picture = memory_map(memory_of(points, [RED] * 401), ColourCodec(), [standing()], side=300)
    assert (np.abs(picture.astype(int) - RED).max(-1) < 12).mean() > 0.3


def test_pictures_are_saved_as_they_are(tmp_path):
    picture = memory_map(memory_of([[0, 2, 0]], [RED]), ColourCodec(), [standing()], side=120)
    Image.fromarray(picture).save(tmp_path / "map.png")
    with Image.open(tmp_path / "map.png") as saved:
        assert np.array_equal(np.asarray(saved), picture)
