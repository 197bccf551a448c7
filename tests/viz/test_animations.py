"""A moving picture of a walk shows every frame, the true one beside it, and stays small."""

import io

import numpy as np
import pytest
from PIL import Image
from worlds import open_minded_model, walk

from mirage_env.errors import InvalidOptionError
from mirage_env.viz import Animation
from mirage_env.viz.animations import LABEL, encode


def noise(count, side=64):
    return list(np.random.default_rng(0).integers(0, 256, (count, side, side, 3), np.uint8))


@pytest.mark.parametrize("ending", [".webp", ".gif"])
def test_small_pictures_keep_all_frames_and_their_time(ending):
    frames = [np.full((32, 32, 3), 40 * i, np.uint8) for i in range(5)]
    with Image.open(io.BytesIO(encode(frames, ending, fps=8.0))) as picture:
        assert picture.n_frames == 5
        shown = []
        for i in range(5):
            picture.seek(i)
            picture.load()
            shown.append(np.asarray(picture.convert("RGB")).mean())
            assert picture.info["duration"] == pytest.approx(125, abs=5)
    assert np.allclose(shown, [40 * i for i in range(5)], atol=6)


@pytest.mark.parametrize("ending", [".webp", ".gif"])
@pytest.mark.parametrize("most", [40_000, 20_000])
def test_large_pictures_are_made_to_fit(ending, most):
    data = encode(noise(8), ending, 8.0, most)
    assert len(data) <= most
    with Image.open(io.BytesIO(data)) as picture:
        assert picture.n_frames >= 1


def test_what_cannot_fit_is_refused():
    with pytest.raises(InvalidOptionError, match="fewer chunks"):
        encode(noise(4), ".webp", 8.0, 100)
    with pytest.raises(InvalidOptionError, match="no frames"):
        encode([], ".webp", 8.0)


def test_true_frames_stand_beside_the_imagined_ones(tmp_path):
    model = open_minded_model()
    true = np.full((32, 32, 3), 200, np.uint8)
    seen = []

    def truth(camera, frame):
        seen.append(frame)
        return true, np.ones((32, 32), bool)

    animation = Animation(tmp_path / "sub" / "drive.webp", 4.0, truth)
    walked = walk(model, 2)
    for chunk, state in walked:
        animation(chunk, state)
    animation.write()
    count = sum(len(chunk.frames) for chunk, _ in walked)
    assert seen == list(range(count))
    with Image.open(tmp_path / "sub" / "drive.webp") as picture:
        height, width = picture.height - LABEL, picture.width
        assert picture.n_frames == count
        assert width == 2 * height
        left = np.asarray(picture.convert("RGB"))[LABEL + 4 :, : width // 2 - 4]
    assert np.abs(left.astype(int) - 200).max() < 12
    assert [path.name for path in (tmp_path / "sub").iterdir()] == ["drive.webp"]


def test_other_endings_are_refused(tmp_path):
    with pytest.raises(InvalidOptionError, match="neither"):
        Animation(tmp_path / "drive.mp4", 4.0)
