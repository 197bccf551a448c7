"""Sky stays out of the memory whatever the depth model makes of it, and nothing else does."""

import numpy as np
import pytest
import torch
from torch import Tensor
from torch.nn import functional as F

from mirage_env.camera import Camera
from mirage_env.config.world import FilterConfig
from mirage_env.memory.filters import keep_cells
from mirage_env.models.geometry.inverse_depth import default_fit
from mirage_env.models.geometry.sky import SkylessDepth, from_top

H, W, GRID, NEAR, FAR = 176, 320, (11, 20), 0.1, 50.0
CAMERA = Camera.from_fov(1.3, H, W)
KEEP_EDGES = FilterConfig(edge_jump=10.0, edge_share=1.0)


def noise(amount: float, seed: int, cells: int = 1) -> Tensor:  # [3, H, W]
    grain = torch.randn(1, 1, H // cells, W // cells, generator=torch.Generator().manual_seed(seed))
    return amount * F.interpolate(grain, (H, W), mode="bilinear")[0].expand(3, H, W)


def painted(color, grain: float = 0.0, seed: int = 0, cells: int = 1) -> Tensor:  # [3, H, W] in [0, 1]
    return (torch.tensor(color)[:, None, None].expand(3, H, W) + noise(grain, seed, cells)).clamp(0, 1)


def a_sky(kind: str, seed: int) -> Tensor:  # [3, H, W] in [0, 1]
    """Blue above and pale below, with soft clouds; overcast; or at dusk."""
    down = torch.linspace(0, 1, H)[None, :, None].expand(3, H, W)
    high, low = {
        "clear": ((0.25, 0.45, 0.85), (0.75, 0.85, 0.97)),
        "overcast": ((0.78, 0.80, 0.84), (0.88, 0.89, 0.91)),
        "dusk": ((0.28, 0.32, 0.50), (0.45, 0.50, 0.70)),
    }[kind]
    plain = torch.tensor(high)[:, None, None] * (1 - down) + torch.tensor(low)[:, None, None] * down
    return (plain + noise(0.02, seed, cells=16)).clamp(0, 1)


def street(kind: str, seed: int) -> tuple[Tensor, Tensor, Tensor]:
    """Houses left and right, a road, and sky between and above them: image, depth, where the sky is."""
    rows, columns = torch.meshgrid(torch.arange(H), torch.arange(W), indexing="ij")
    roofs = 40 + 20 * torch.sin(columns / 25.0)
    is_sky = rows < torch.where((columns > 130) & (columns < 190), torch.tensor(90.0), roofs)
    road = rows > 110
    house = painted((0.55, 0.45, 0.38), 0.12, seed)
    image = torch.where(is_sky, a_sky(kind, seed), torch.where(road, painted((0.35, 0.35, 0.36), 0.06, seed), house))
    depth = torch.where(road, 600.0 / (rows - 60.0).clamp_min(1.0), torch.tensor(12.0))
    return image, depth, is_sky


def room(seed: int) -> tuple[Tensor, Tensor, Tensor]:
    """A white ceiling, pale walls, a floor, and a window with daylight."""
    rows = torch.arange(H)[:, None].expand(H, W)
    image = torch.where(rows < 50, painted((0.93, 0.93, 0.92)), painted((0.80, 0.79, 0.76), 0.02, seed))
    image = torch.where(rows > 130, painted((0.5, 0.35, 0.25), 0.05, seed), image)
    depth = torch.linspace(1.5, 4.0, W).expand(H, W) + 0.5 * (rows - 90).abs() / 90
    return image, depth, torch.zeros(H, W, dtype=torch.bool)


class Metric:
    """What a metric model does: it ends at its largest depth, and puts the sky at or near that end."""

    def __init__(self, depth: Tensor, is_sky: Tensor, end: float, sky_at: float) -> None:
        self.depth, self.end = torch.where(is_sky, sky_at * end, depth.clamp(max=end)), end

    def estimate(self, images, cameras, known=None):
        return self.depth.clamp(NEAR, FAR)[None].clone()

    def reach(self, cameras):
        return torch.full((len(cameras),), min(self.end, FAR))


class Relative(Metric):
    """What a relative model does where nothing is known: its median becomes 3 m, its farthest 2 % lie at `far`."""

    def __init__(self, depth: Tensor, is_sky: Tensor) -> None:
        inverse = torch.where(is_sky, 0.002, 1.0 / depth) + 1e-5 * torch.rand(H, W)
        fit = default_fit(inverse.numpy().astype(np.float64), 3.0, FAR)
        self.depth, self.end = 1.0 / (fit.scale * inverse + fit.shift).clamp_min(1.0 / FAR), FAR


ALL = torch.ones(H, W, dtype=torch.bool)
MODELS = {
    "indoor, ends at 20.4 m": lambda d, s: Metric(d, s, 20.4, 1.0),
    "indoor, before its end": lambda d, s: Metric(d, s, 20.4, 0.8),
    "outdoor, ends at 80 m": lambda d, s: Metric(d, s, 80.0, 0.61),
    "outdoor, ends at 48.8 m": lambda d, s: Metric(d, s, 48.8, 0.97),
    "without an end": lambda d, s: Metric(d, s, 1e4, 1.0),
    "relative": Relative,
}
VIEWS = {
    **{f"pure {kind} sky": (a_sky(kind, 1), torch.full((H, W), 10.0), ALL) for kind in ("clear", "dusk")},
    **{f"street, {kind}": street(kind, 2) for kind in ("clear", "overcast", "dusk")},
    "room": room(3),
}


@pytest.mark.parametrize("view", VIEWS.values(), ids=VIEWS)
@pytest.mark.parametrize("model", MODELS.values(), ids=MODELS)
def test_at_most_two_in_a_hundred_sky_cells_are_written_and_the_rest_is(model, view):
    image, depth, is_sky = view
    estimator = SkylessDepth(model(depth, is_sky))
    found = estimator.estimate(2 * image[None] - 1, [CAMERA])
    labels = torch.zeros(1, H, W, dtype=torch.int64)
    keep = keep_cells(found, labels, GRID, KEEP_EDGES, NEAR, FAR)[0]
    share = F.avg_pool2d(is_sky[None].float(), H // GRID[0])[0]
    if is_sky.any():
        assert keep[share == 1.0].float().mean() <= 0.02
    if not is_sky.all():
        bare = keep_cells(model(depth, is_sky).estimate(image, [CAMERA]), labels, GRID, KEEP_EDGES, NEAR, FAR)[0]
        assert keep[share == 0.0].sum() >= 0.95 * bare[share == 0.0].sum()
        assert keep[share == 0.0].float().mean() >= 0.8


def test_without_the_test_the_sky_would_be_written():
    image, depth, is_sky = VIEWS["pure clear sky"]
    found = Metric(depth, is_sky, 20.4, 1.0).estimate(2 * image[None] - 1, [CAMERA])
    assert keep_cells(found, torch.zeros(1, H, W, dtype=torch.int64), GRID, KEEP_EDGES, NEAR, FAR).all()


def test_only_what_hangs_together_with_the_top_grows():
    mask = torch.zeros(1, 6, 6, dtype=torch.bool)
    mask[0, 0, 0] = mask[0, 1, 1] = mask[0, 2, 1] = mask[0, 4:, 4:] = True
    grown = from_top(mask)
    assert grown.sum() == 3
    assert not grown[0, 4:].any()
