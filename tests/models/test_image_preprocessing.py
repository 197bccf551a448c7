"""Images the way pretrained networks want them, compared with the libraries' own image processors."""

import numpy as np
import pytest
import torch
from transformers.models.dpt.image_processing_pil_dpt import DPTImageProcessorPil
from transformers.models.zoedepth.image_processing_pil_zoedepth import ZoeDepthImageProcessorPil

from mirage_env.errors import InvalidOptionError
from mirage_env.images import frames_from_uint8
from mirage_env.models.geometry.image_preprocessing import IMAGENET_MEAN, IMAGENET_STD, ImageRule
from mirage_env.models.geometry.loader import RULES

FLOAT = (torch.device("cpu"), torch.float32)


def photographs(rng: np.random.Generator, height: int, width: int) -> np.ndarray:  # [2, H, W, 3]
    """Smooth colours with an edge, as uint8."""
    y, x = np.mgrid[:height, :width]
    waves = np.sin(x[..., None] / rng.uniform(9, 30, (2, 1, 1, 3)) + y[..., None] / rng.uniform(9, 30, (2, 1, 1, 3)))
    waves[:, :, width // 3 :] *= -1.0
    return np.round(127.5 + 120.0 * waves).astype(np.uint8)


@pytest.mark.parametrize("size", [(176, 320), (704, 1280), (120, 90), (60, 60)])
def test_depth_anything_sees_what_its_own_processor_shows_it(size, rng):
    images = photographs(rng, *size)
    settings = {
        "size": {"height": 98, "width": 98},
        "ensure_multiple_of": 14,
        "keep_aspect_ratio": True,
        "image_mean": list(IMAGENET_MEAN),
        "image_std": list(IMAGENET_STD),
        "resample": 3,
    }
    theirs = DPTImageProcessorPil(**settings)(list(images), return_tensors="pt").pixel_values
    ours = RULES["depth_anything"].configured(settings).prepare(frames_from_uint8(images), *FLOAT)
    assert ours.shape == theirs.shape
    assert (ours - theirs).abs().max() < 3 / 255 / min(IMAGENET_STD)  # PIL rounds to whole levels, twice


@pytest.mark.parametrize("size", [(176, 320), (240, 100)])
def test_zoedepth_sees_what_its_own_processor_shows_it(size, rng):
    images = photographs(rng, *size)
    settings = {"size": {"height": 96, "width": 128}, "ensure_multiple_of": 32, "resample": 2}
    theirs = ZoeDepthImageProcessorPil(**settings)(list(images), return_tensors="pt").pixel_values
    ours = RULES["zoedepth"].configured(settings).prepare(frames_from_uint8(images), *FLOAT)
    torch.testing.assert_close(ours, theirs, rtol=0, atol=1e-4)


@pytest.mark.parametrize("kind", RULES)
def test_what_a_network_says_of_a_place_comes_back_to_that_place(kind):
    height, width = 160, 224
    rule = RULES[kind].configured({"size": {"height": 128, "width": 128}})
    x = torch.linspace(-0.9, 0.9, width).expand(height, width)
    y = torch.linspace(-0.9, 0.9, height)[:, None].expand(height, width)
    ramp = torch.stack([x, y, x])[None]
    seen = rule.prepare(ramp, *FLOAT)
    for channel, wanted in ((0, x), (1, y)):
        values = seen[:, channel] * rule.std[channel] + rule.mean[channel]
        back = rule.restore(values, height, width)[0] * 2.0 - 1.0
        assert back.shape == (height, width)
        assert (back - wanted)[2:-2, 2:-2].abs().max() < 1.5 / 128  # a pixel of the network's input


def test_sides_are_multiples_and_the_image_changes_as_little_as_it_may():
    rule = ImageRule((518, 518), 14, keep_aspect=True)
    assert rule.network_size(704, 1280) == (518, 938)
    assert rule.network_size(1280, 704) == (938, 518)
    assert rule.network_size(100, 200) == (252, 518)
    assert ImageRule((518, 518), 14).network_size(704, 1280) == (518, 518)


def test_an_image_of_the_right_size_is_only_normalised():
    image = torch.rand(1, 3, 28, 42) * 2 - 1
    seen = ImageRule((28, 42), mean=(0.5, 0.5, 0.5), std=(0.5, 0.5, 0.5)).prepare(image, *FLOAT)
    torch.testing.assert_close(seen, image)


@pytest.mark.parametrize(
    "settings",
    [
        {"size": {"shortest_edge": 5}},
        {"size": {"height": 0, "width": 5}},
        {"resample": 17},
        {"image_mean": [0.5]},
        {"image_std": [0.5, 0.5, 0.0]},
        {"image_std": 3},
        {"ensure_multiple_of": "x"},
    ],
)
def test_settings_that_make_no_sense_are_refused(settings):
    with pytest.raises(InvalidOptionError, match=r"preprocessor_config\.json"):
        RULES["depth_anything"].configured(settings)
