"""Depth models in packages of their own. What needs a package is skipped where it is not installed."""

import builtins
import json
from pathlib import Path

import numpy as np
import pytest
import torch
from safetensors.torch import load_file, save_file

from mirage_env.camera import Camera
from mirage_env.config.geometry import DepthConfig
from mirage_env.config.world import FilterConfig, WorldModelConfig
from mirage_env.errors import InvalidOptionError, MissingPackageError, WeightsError
from mirage_env.memory.filters import keep_cells
from mirage_env.models.geometry.loader import load_depth
from mirage_env.models.geometry.packaged_depth import DepthAnything3, MapAnything, PackagedDepth

H, W, F, GRID = 64, 96, 4, (8, 12)
CONFIG = WorldModelConfig("tiny", (H, W), GRID, 8, near=1e-3, far=1e4)


def sideways(step: float) -> list[Camera]:
    """Cameras that go to the right, looking ahead."""
    first, motion = Camera.from_fov(1.2, H, W), np.eye(4)
    motion[0, 3] = step
    cameras = [first]
    for _ in range(F - 1):
        cameras.append(cameras[-1].moved(motion))
    return cameras


@pytest.fixture
def images() -> torch.Tensor:
    return torch.rand(F, 3, H, W, generator=torch.Generator().manual_seed(0)) * 2 - 1


@pytest.fixture
def without_packages(monkeypatch):
    """As where neither package is installed."""
    real = builtins.__import__

    def refuse(name, *args, **kwargs):
        if name.partition(".")[0] in ("depth_anything_3", "mapanything"):
            raise ModuleNotFoundError(f"No module named {name!r}")
        return real(name, *args, **kwargs)

    monkeypatch.setattr(builtins, "__import__", refuse)


@pytest.mark.parametrize(
    ("config", "package"),
    [
        ({"model_name": "da3-small"}, "pip install --no-deps depth-anything-3"),
        ({"info_sharing_config": {}, "geometric_input_config": {}}, "pip install 'mapanything"),
    ],
)
def test_a_missing_package_comes_with_its_install_line(config, package, tmp_path, without_packages):
    (tmp_path / "config.json").write_text(json.dumps(config))
    with pytest.raises(MissingPackageError, match=package):
        load_depth(tmp_path, CONFIG)


# What both have in common


SETTINGS = {
    "device": torch.device("cpu"),
    "dtype": torch.float32,
    "longest": 112,
    "near": 1e-3,
    "far": 1e4,
    "start_depth": 3.0,
    "min_cells": 32,
    "min_confidence": 2.0,
}


@pytest.mark.parametrize(("pixels", "is_kept"), [(1, True), (40, False)])
def test_cells_that_the_model_does_not_trust_for_the_most_part_stay_out_of_the_memory(pixels, is_kept):
    estimator = PackagedDepth(torch.nn.Identity(), **SETTINGS)
    confidence = torch.full((1, H, W), 3.0)
    for i in range(pixels):
        confidence[0, 16 + i // 8, 24 + i % 8] = 1.9  # in cell (2, 3)
    depth = estimator.finished(torch.full((1, H, W), 4.0), torch.zeros(1, 3, H, W), None, confidence)
    static = torch.zeros(1, H, W, dtype=torch.int64)
    kept = keep_cells(depth, static, GRID, FilterConfig(edge_share=1.0), CONFIG.near, CONFIG.far)
    assert kept[0, 2, 3] == is_kept
    assert kept.sum() == kept.numel() - (not is_kept)


def test_sky_is_far_and_so_stays_out_of_the_memory():
    estimator = PackagedDepth(torch.nn.Identity(), **SETTINGS)
    sky = torch.zeros(1, H, W, dtype=torch.bool)
    sky[0, :16] = True
    depth = estimator.finished(torch.full((1, H, W), 4.0), torch.zeros(1, 3, H, W), sky, None)
    static = torch.zeros(1, H, W, dtype=torch.int64)
    kept = keep_cells(depth, static, GRID, FilterConfig(edge_share=1.0), CONFIG.near, CONFIG.far)
    assert torch.equal(kept, (torch.arange(8) >= 2)[None, :, None].expand(1, *GRID))


def test_poses_are_relative_to_the_first_camera_and_lenses_those_of_the_networks_image():
    estimator = PackagedDepth(torch.nn.Identity(), **SETTINGS)
    cameras = sideways(0.5)
    moved = [camera.at(cameras[2].T_world_cam @ camera.T_world_cam) for camera in cameras]
    torch.testing.assert_close(estimator.poses(moved), estimator.poses(cameras))
    assert estimator.poses(cameras)[:, 0, 3].tolist() == pytest.approx([0.0, 0.5, 1.0, 1.5])
    size = estimator.rule(torch.zeros(1, 3, H, W)).network_size(H, W)
    assert size == (70, 112)
    fx, fy, cx, cy = (estimator.intrinsics(cameras, size)[0][i, j].item() for i, j in ((0, 0), (1, 1), (0, 2), (1, 2)))
    assert (cx, cy) == pytest.approx((56.0, 35.0))
    assert (fx / 112, fy / 70) == pytest.approx((cameras[0].K_image[0, 0] / W, cameras[0].K_image[1, 1] / H))


# MapAnything


class Published(torch.nn.Module):
    """Result of `infer` by MapAnything's documentation, for a wall at 4 m with sky above and a doubtful column.

    The package is on no index, so the tests cannot have the real one.
    """

    def infer(self, views, use_amp, amp_dtype, apply_mask):
        for view in views:
            assert set(view) == {"img", "data_norm_type", "intrinsics", "camera_poses", "is_metric_scale"}
            assert view["img"].shape == (1, 3, 70, 112)
            assert view["intrinsics"].shape == (1, 3, 3)
            assert view["camera_poses"].shape == (1, 4, 4)
        clear, sure = torch.ones(1, 70, 112, dtype=torch.bool), torch.full((1, 70, 112), 5.0)
        clear[:, :14], sure[:, :, -7:] = False, 1.0
        depth = torch.full((1, 70, 112, 1), 4.0)
        return [{"depth_z": depth, "conf": sure, "non_ambiguous_mask": clear} for _ in views]


def test_map_anything_is_asked_and_understood_as_documented(images):
    depth = MapAnything(Published(), **SETTINGS).estimate(images, sideways(0.2))
    assert depth.shape == (F, H, W)
    assert (depth[:, 20:, :80] == 4.0).all()
    assert (depth[:, :8, :80] == SETTINGS["far"]).all()
    assert torch.isinf(depth[:, :, -3:]).all()


# Depth Anything 3


@pytest.fixture(scope="module")
def any_view(tmp_path_factory) -> Path:
    """The smallest any-view model with random weights, as on the hub (35 M parameters)."""
    pytest.importorskip("depth_anything_3", reason="Depth Anything 3 is not installed")
    from depth_anything_3.cfg import create_object, load_config
    from depth_anything_3.registry import MODEL_REGISTRY

    folder = tmp_path_factory.mktemp("da3")
    with torch.random.fork_rng():
        torch.manual_seed(0)
        network = create_object(load_config(MODEL_REGISTRY["da3-small"]))
    weights = {f"model.{key}": value.contiguous().clone() for key, value in network.state_dict().items()}
    save_file(weights, folder / "model.safetensors")
    (folder / "config.json").write_text('{"model_name": "da3-small"}')
    return folder


def load(folder: Path, **settings):
    return load_depth(DepthConfig(str(folder), input_size=112, **settings), CONFIG, "cpu", torch.float32)


def test_any_view_depth_has_the_scale_of_what_is_known(any_view, images):
    known = torch.zeros(F, *GRID)
    known[:, 2:6] = 5.0
    depth = load(any_view).estimate(images, sideways(0.2), known)
    assert depth.shape == (F, H, W)
    assert depth.median().item() == pytest.approx(5.0, rel=0.05)


def test_else_that_of_the_distances_between_the_cameras(any_view, images):
    near, far = (load(any_view).estimate(images, sideways(step)) for step in (0.2, 2.0))
    # Poses reach the network in units of their own spread, so it sees the same both times.
    torch.testing.assert_close(far, 10.0 * near, rtol=1e-3, atol=0.0)


def test_else_the_median_is_the_start_depth(any_view, images):
    estimator = load(any_view, start_depth=7.0)
    assert estimator.estimate(images, sideways(0.0)).median().item() == pytest.approx(7.0)
    assert estimator.estimate(images[:1], sideways(0.0)[:1]).median().item() == pytest.approx(7.0)


def test_the_poses_reach_the_network(any_view, images):
    known = torch.full((F, *GRID), 3.0)
    forward, motion = [Camera.from_fov(1.2, H, W)], np.eye(4)
    motion[2, 3] = 0.2
    for _ in range(F - 1):
        forward.append(forward[-1].moved(motion))
    estimator = load(any_view)
    ahead, aside = (estimator.estimate(images, path, known) for path in (forward, sideways(0.2)))
    assert not torch.allclose(ahead, aside, rtol=1e-5)


def test_what_the_model_does_not_trust_has_no_depth(any_view, images):
    sure = load(any_view).estimate(images, sideways(0.2))
    assert torch.isfinite(sure).all()
    estimator = load(any_view, min_confidence=1e6)
    assert torch.isinf(estimator.estimate(images, sideways(0.2))).all()


def test_the_world_draws_from_no_shared_noise(any_view, images):
    estimator, before = load(any_view), torch.random.get_rng_state()
    estimator.estimate(images, sideways(0.2))
    assert torch.equal(torch.random.get_rng_state(), before)


def test_weights_are_loaded_strictly(any_view, tmp_path):
    weights = load_file(any_view / "model.safetensors")
    weights["model.head.extra"] = weights.pop(next(iter(weights)))
    save_file(weights, tmp_path / "model.safetensors")
    (tmp_path / "config.json").write_text('{"model_name": "da3-small"}')
    with pytest.raises(WeightsError, match=r"missing .*unexpected model\.head\.extra"):
        load(tmp_path)
    (tmp_path / "config.json").write_text('{"model_name": "da3-unheard-of"}')
    with pytest.raises(InvalidOptionError, match="unheard-of"):
        load(tmp_path)


def test_nested_depth_is_metres_and_its_sky_is_far(images):
    pytest.importorskip("depth_anything_3", reason="Depth Anything 3 is not installed")
    from depth_anything_3.cfg import load_config
    from depth_anything_3.model import NestedDepthAnything3Net
    from depth_anything_3.registry import MODEL_REGISTRY

    metric = load_config(MODEL_REGISTRY["da3metric-large"])
    metric.net.update(name="vits", out_layers=[5, 7, 9, 11])
    metric.head.update(dim_in=384, features=64, out_channels=[48, 96, 192, 384])
    with torch.random.fork_rng():
        torch.manual_seed(0)
        network = NestedDepthAnything3Net(load_config(MODEL_REGISTRY["da3-small"]), metric).eval()
    settings = SETTINGS | {"min_confidence": 0.0}
    estimator = DepthAnything3(network, preset="da3nested-giant-large", **settings)
    depth = estimator.estimate(images, sideways(0.2))
    assert depth.shape == (F, H, W)
    assert torch.isfinite(depth).all()
    last = [m for m in network.da3_metric.head.scratch.sky_output_conv2 if isinstance(m, torch.nn.Conv2d)][-1]
    torch.nn.init.constant_(last.bias, 100.0)
    assert (estimator.estimate(images, sideways(0.2)) == 1e4).all()
