"""Depth models of the transformers library: tiny checkpoints of the real classes, loaded as those of the hub are."""

import json
import shutil
from dataclasses import replace
from pathlib import Path

import numpy as np
import pytest
import tiny_geometry
import torch
from safetensors.torch import load_file, save_file
from tiny import tiny_world_model
from transformers import DepthAnythingForDepthEstimation
from transformers.models.dpt.image_processing_pil_dpt import DPTImageProcessorPil

from mirage_env.camera import Camera
from mirage_env.config.geometry import DepthConfig, GeometryConfig
from mirage_env.config.world import WorldModelConfig
from mirage_env.errors import InvalidOptionError, ModelNotFoundError, WeightsError
from mirage_env.images import frames_from_uint8
from mirage_env.memory.lifting import depth_to_grid
from mirage_env.models.geometry import pretrained_depth
from mirage_env.models.geometry.loader import HYPERSIM_FOCAL, VIRTUAL_KITTI_FOCAL, load_depth

H, W, GRID, F = 64, 96, (8, 12), 3
BARE = GeometryConfig(depth=DepthConfig(skip_sky=False))
CONFIG = WorldModelConfig("tiny", (H, W), GRID, 8, near=1e-3, far=1e4, geometry=BARE)
CAMERAS = [Camera.from_fov(1.2, H, W)] * F
KINDS = ("metric", "relative", "prompted", "depth_pro", "zoedepth")


@pytest.fixture(scope="module")
def checkpoints(tmp_path_factory) -> dict[str, Path]:
    """One folder per kind, in the layout of the hub."""
    root = tmp_path_factory.mktemp("depth")
    with torch.random.fork_rng():
        torch.manual_seed(0)
        return {
            "metric": tiny_geometry.save_depth_anything(root / "metric"),
            "relative": tiny_geometry.save_depth_anything(root / "relative", max_depth=None),
            "prompted": tiny_geometry.save_prompt_depth_anything(root / "prompted"),
            "depth_pro": tiny_geometry.save_depth_pro(root / "depth_pro"),
            "zoedepth": tiny_geometry.save_zoedepth(root / "zoedepth"),
        }


@pytest.fixture
def load(checkpoints):
    def load(kind: str, config: WorldModelConfig = CONFIG, dtype: torch.dtype = torch.float32, **settings):
        start = str(checkpoints["metric"])
        spec = DepthConfig(model=str(checkpoints[kind]), **{"start_model": start, "skip_sky": False} | settings)
        return load_depth(spec, config, "cpu", dtype)

    return load


@pytest.fixture
def photos(rng) -> np.ndarray:  # [F, H, W, 3] uint8
    waves = np.sin(np.mgrid[:H, :W].sum(0)[..., None] / rng.uniform(4, 20, (F, 1, 1, 3)))
    return np.round(127.5 + 100.0 * waves).astype(np.uint8)


@pytest.fixture
def images(photos) -> torch.Tensor:
    return frames_from_uint8(photos)


def zoomed(factor: float) -> list[Camera]:
    K_image = CAMERAS[0].K_image * np.array([[factor], [factor], [1.0]])
    K_image[:2, 2] = CAMERAS[0].K_image[:2, 2]
    return [Camera(np.eye(4), K_image, H, W)] * F


# What all of them promise


@pytest.mark.parametrize("kind", KINDS)
def test_depth_is_metres_of_the_images_size_between_near_and_far(kind, load, images):
    depth = load(kind).estimate(images, CAMERAS)
    assert depth.shape == (F, H, W)
    assert depth.dtype == torch.float32
    near, far = depth.quantile(0.3).item(), depth.quantile(0.7).item()
    assert near < far
    known = depth_to_grid(depth, GRID)
    bounded = load(kind, replace(CONFIG, near=near, far=far)).estimate(images, CAMERAS, known)
    assert bounded.min().item() == pytest.approx(near)
    assert bounded.max().item() == pytest.approx(far)


@pytest.mark.parametrize("kind", KINDS)
def test_no_view_depends_on_the_others(kind, load, images):
    estimator = load(kind)
    known = 2.0 * depth_to_grid(estimator.estimate(images, CAMERAS), GRID)
    known[1, :4] = 0.0
    for given in (None, known):
        together = estimator.estimate(images, CAMERAS, given)
        alone = [
            estimator.estimate(images[i : i + 1], CAMERAS[:1], None if given is None else given[i : i + 1])
            for i in range(F)
        ]
        if kind != "prompted" or given is None:  # its prompt is in one scale for all
            torch.testing.assert_close(1.0 / together, 1.0 / torch.cat(alone), rtol=1e-3, atol=1e-4)


@pytest.mark.parametrize("kind", KINDS)
def test_half_precision_says_nearly_the_same(kind, load, images):
    exact, rounded = load(kind).estimate(images, CAMERAS), load(kind, dtype=torch.bfloat16).estimate(images, CAMERAS)
    assert rounded.dtype == torch.float32
    inverse, near = 1.0 / exact, 1.0 / rounded
    assert (inverse - near).abs().median() < 0.05 * inverse.median()
    assert rounded.unique().numel() > 0.9 * exact.unique().numel()  # bfloat16 would make terraces


@pytest.mark.parametrize("kind", KINDS)
def test_it_walks_in_a_world(kind, load, checkpoints, rng):
    model = tiny_world_model()
    small = replace(model.config, near=1e-3, far=1e4)
    model = replace(model, config=small, depth=load(kind, small))
    chunk, state = model.start(rng.integers(0, 255, (32, 32, 3), np.uint8))
    for _ in range(2):
        chunk, state = model.step(state, [state.camera] * model.config.frames_per_chunk)
    assert torch.isfinite(chunk.depth).all()


# Metric


def test_metric_depth_is_what_the_library_says(load, checkpoints, images, photos):
    settings = json.loads((checkpoints["metric"] / "preprocessor_config.json").read_text())
    means = {"image_mean": [0.485, 0.456, 0.406], "image_std": [0.229, 0.224, 0.225]}
    seen = DPTImageProcessorPil(**settings, **means)(list(photos), return_tensors="pt").pixel_values
    network = DepthAnythingForDepthEstimation.from_pretrained(checkpoints["metric"])
    with torch.inference_mode():
        theirs = network(seen).predicted_depth
    theirs = torch.nn.functional.interpolate(theirs[:, None], (H, W), mode="bilinear")[:, 0]
    ours = load("metric", lens_correction=False).estimate(images, CAMERAS)
    assert (ours - theirs).abs().mean() < 0.03 * theirs.mean()


@pytest.mark.parametrize("kind", ["metric", "depth_pro", "zoedepth"])
def test_the_same_image_through_a_longer_lens_is_farther_away(kind, load, images):
    estimator = load(kind)
    near, far = estimator.estimate(images, CAMERAS), estimator.estimate(images, zoomed(2.0))
    torch.testing.assert_close(far, 2.0 * near)


def test_without_lens_correction_the_lens_does_not_matter(load, images):
    estimator = load("metric", lens_correction=False)
    assert torch.equal(estimator.estimate(images, CAMERAS), estimator.estimate(images, zoomed(2.0)))


def test_the_lens_that_a_model_was_trained_for_needs_no_correction(load, images):
    focal = CAMERAS[0].K_image[0, 0] * 84 / W  # the network sees 56 x 84 pixels
    corrected = load("metric", canonical_focal=focal).estimate(images, CAMERAS)
    torch.testing.assert_close(corrected, load("metric", lens_correction=False).estimate(images, CAMERAS))


@pytest.mark.parametrize(("max_depth", "focal"), [(20, HYPERSIM_FOCAL), (80, VIRTUAL_KITTI_FOCAL), (7, 0.0)])
def test_the_lens_follows_from_the_published_depth_range(max_depth, focal, tmp_path):
    folder = tiny_geometry.save_depth_anything(tmp_path / "model", max_depth)
    assert load_depth(folder, CONFIG, "cpu", torch.float32).canonical_focal == focal


def test_the_input_size_can_be_chosen(load, images):
    assert load("metric", input_size=28).network.rule.network_size(H, W) == (28, 42)
    assert load("metric", input_size=28).estimate(images, CAMERAS).shape == (F, H, W)


# Relative


def test_relative_depth_takes_scale_and_shift_from_what_the_memory_shows(load, images, rng):
    estimator = load("relative", min_cells=16)
    inverse = estimator.network.run(images)
    true = 1.0 / (0.05 * inverse + 0.02)
    known = depth_to_grid(true, GRID)
    known[:, :, 4:9] = 0.0
    wrong = torch.from_numpy(rng.random(known.shape) < 0.2)
    known = torch.where(wrong & (known > 0.0), 0.3 * known, known)
    torch.testing.assert_close(estimator.estimate(images, CAMERAS, known), true, rtol=0.02, atol=0.0)


def test_relative_depth_of_a_start_view_has_its_median_at_the_start_depth(load, images):
    for start in (2.0, 7.0):
        depth = load("relative", start_depth=start).estimate(images, CAMERAS)
        assert depth.flatten(1).median(1).values == pytest.approx([start] * F, rel=0.01)
        nothing = load("relative", start_depth=start).estimate(images, CAMERAS, torch.zeros(F, *GRID))
        torch.testing.assert_close(nothing, depth)


# Prompted


def test_a_prompted_model_opens_a_world_with_its_metric_model(load, images):
    alone = load("metric").estimate(images, CAMERAS)
    assert torch.equal(load("prompted").estimate(images, CAMERAS), alone)
    assert torch.equal(load("prompted").estimate(images, CAMERAS, torch.zeros(F, *GRID)), alone)


def test_the_prompt_is_what_the_memory_shows_and_the_metric_model_in_its_scale(load, images, monkeypatch):
    estimator, prompts = load("prompted", min_cells=16), []
    run = pretrained_depth.DepthNetwork.run

    def listen(self, images, prompt=None):
        prompts.append(prompt)
        return run(self, images, prompt)

    monkeypatch.setattr(pretrained_depth.DepthNetwork, "run", listen)
    alone = depth_to_grid(load("metric").estimate(images, CAMERAS), GRID)
    known = 3.0 * alone
    known[:, :, 5:] = 0.0
    prompts.clear()
    estimator.estimate(images, CAMERAS, known)
    torch.testing.assert_close(prompts[-1], 3.0 * alone)


def test_depth_follows_the_prompt(load, images):
    known = 1.0 + torch.rand(F, *GRID)
    near, far = (load("prompted").estimate(images, CAMERAS, k) for k in (known, 10.0 * known))
    torch.testing.assert_close(far, 10.0 * near, rtol=1e-3, atol=1e-3)


def test_a_flat_prompt_does_no_harm(load, images):
    depth = load("prompted").estimate(images, CAMERAS, torch.full((F, *GRID), 4.0))
    assert torch.isfinite(depth).all()
    assert depth.median().item() == pytest.approx(4.0, rel=0.1)


# Depth Pro


def test_depth_pro_guesses_the_lens_from_the_images(load, images):
    estimator = load("depth_pro")
    degrees = estimator.network.outputs(images)["field_of_view"]
    torch.testing.assert_close(estimator.field_of_view(images), torch.deg2rad(degrees))


def test_depth_pro_without_its_lens_part_says_so(images, tmp_path):
    estimator = load_depth(tiny_geometry.save_depth_pro(tmp_path, lens=False), CONFIG, "cpu", torch.float32)
    assert estimator.estimate(images, CAMERAS).shape == (F, H, W)
    with pytest.raises(InvalidOptionError, match="give the field of view"):
        estimator.field_of_view(images)


# Loading


@pytest.fixture
def copied(checkpoints, tmp_path) -> Path:
    return Path(shutil.copytree(checkpoints["metric"], tmp_path / "copy"))


def change_weights(folder: Path, change) -> None:
    weights = load_file(folder / "model.safetensors")
    change(weights)
    save_file(weights, folder / "model.safetensors", metadata={"format": "pt"})


@pytest.mark.parametrize(
    ("change", "says"),
    [
        (lambda w: w.pop("head.conv3.bias"), "missing head.conv3.bias"),
        (lambda w: w.update(extra=torch.zeros(2)), "unexpected extra"),
        (lambda w: w.update({"head.conv3.bias": torch.zeros(3)}), "head.conv3.bias has shape"),
        (lambda w: w["head.conv2.bias"].fill_(torch.nan), "head.conv2.bias holds NaN"),
    ],
)
def test_weights_that_do_not_fit_are_listed(change, says, copied):
    change_weights(copied, change)
    with pytest.raises(WeightsError, match=says):
        load_depth(copied, CONFIG)


def test_a_truncated_file_is_refused(copied):
    file = copied / "model.safetensors"
    file.write_bytes(file.read_bytes()[:-100])
    with pytest.raises(WeightsError, match="damaged"):
        load_depth(copied, CONFIG)


def test_pickled_weights_are_refused(copied):
    (copied / "model.safetensors").rename(copied / "pytorch_model.bin")
    with pytest.raises(WeightsError, match="pickled"):
        load_depth(copied, CONFIG)


def test_a_config_that_is_none_is_refused(copied):
    (copied / "config.json").write_text("{")
    with pytest.raises(InvalidOptionError, match="no JSON"):
        load_depth(copied, CONFIG)
    (copied / "config.json").write_text('{"model_type": "bert"}')
    with pytest.raises(InvalidOptionError, match="'bert'"):
        load_depth(copied, CONFIG)
    with pytest.raises(InvalidOptionError, match="'bert'"):
        load_depth(DepthConfig(model=str(copied), kind="transformers"), CONFIG)


@pytest.mark.parametrize("name", ["no/such/folder", "/nowhere", ""])
def test_a_model_that_is_nowhere_is_not_found(name):
    with pytest.raises((ModelNotFoundError, InvalidOptionError), match="folder"):
        load_depth(name, CONFIG)


def test_the_model_and_its_settings_may_stand_in_the_configuration_of_the_world(checkpoints, tmp_path):
    geometry = GeometryConfig(depth=DepthConfig(model=str(checkpoints["relative"]), start_depth=7.0, skip_sky=False))
    replace(CONFIG, geometry=geometry).save(tmp_path)
    config = WorldModelConfig.load(tmp_path)
    assert config.geometry == geometry
    assert load_depth(None, config).start_depth == 7.0
    assert isinstance(load_depth(checkpoints["metric"], config), pretrained_depth.MetricDepth)


@pytest.mark.parametrize(
    "settings",
    [
        {"kind": "moge"},
        {"start_depth": 0.0},
        {"start_depth": float("inf")},
        {"min_cells": 2},
        {"min_confidence": -1.0},
        {"canonical_focal": float("nan")},
        {"input_size": -14},
    ],
)
def test_settings_out_of_range_are_refused(settings):
    with pytest.raises(InvalidOptionError, match=next(iter(settings))):
        DepthConfig(**settings)
