"""The kernels once more as slow, obvious Python loops over single numbers. The tests compare the two."""

import math
from collections import defaultdict
from collections.abc import Sequence

import numpy as np

from mirage_env.camera import Camera
from mirage_env.config import FilterConfig, ReadoutConfig
from mirage_env.interfaces import STATIC
from mirage_env.splat import Splat


def splat(
    xyz: np.ndarray,  # [N, 3] world
    footprint: np.ndarray,  # [N] metres
    newest: np.ndarray,  # [N] larger = newer
    cameras: Sequence[Camera],
    grid: tuple[int, int],
    config: ReadoutConfig,
    near: float,
) -> Splat:
    """Winner of every cell: see `mirage_env.splat`."""
    h, w = grid
    shape = (len(cameras), h, w)
    result = Splat(np.full(shape, -1), np.zeros(shape), np.zeros((len(cameras), 2, h, w)), np.zeros(shape))
    for v, camera in enumerate(cameras):
        K_latent = camera.K_at(h, w)
        place = {}  # point -> x, y in cells, z in metres, log of its footprint over the cell's
        inside, covering = defaultdict(list), defaultdict(list)  # cell -> points
        for i, point in enumerate(xyz.astype(np.float64)):
            q = camera.T_cam_world @ [*point, 1.0]
            if not q[2] > near:
                continue
            x, y, _ = K_latent @ q[:3] / q[2]
            size = float(footprint[i]) * K_latent[0, 0] / q[2]  # cells
            place[i] = (x, y, q[2], math.log(size))
            if 0 <= x < w and 0 <= y < h:
                inside[int(y), int(x)].append(i)
            reach = 0.5 * min(config.footprint * size, config.footprint_cap)
            for row in range(h):
                for col in range(w):
                    if config.footprint and abs(x - col - 0.5) <= reach and abs(y - row - 0.5) <= reach:
                        covering[row, col].append(i)
        for row in range(h):
            for col in range(w):
                first = _best(inside[row, col], place, row, col, newest, config)
                second = _best(covering[row, col], place, row, col, newest, config)
                best = first
                if second >= 0 and (first < 0 or place[first][2] > (1 + config.depth_tolerance) * place[second][2]):
                    best = second
                result.winner[v, row, col] = best
                if best >= 0:
                    x, y, z, log_size = place[best]
                    result.depth[v, row, col] = z
                    result.offset[v, :, row, col] = x - col - 0.5, y - row - 0.5
                    result.scale[v, row, col] = log_size
    return result


def _best(points: list[int], place: dict, row: int, col: int, newest: np.ndarray, config: ReadoutConfig) -> int:
    """Best point of a cell: nearest, or best fit near the nearest; then the newest; then the lowest index. Or -1."""
    if not points:
        return -1
    nearest = min(place[i][2] for i in points)

    def rank(i: int) -> tuple[float, int, int]:
        x, y, z, log_size = place[i]
        if config.winner == "nearest":
            return z, -newest[i], i
        return math.hypot(x - col - 0.5, y - row - 0.5) + abs(log_size), -newest[i], i

    tolerance = config.depth_tolerance if config.winner == "best_fit" else 0.0
    return min((i for i in points if place[i][2] <= nearest * (1 + tolerance)), key=rank)


def depth_to_grid(depth: np.ndarray, grid: tuple[int, int], samples: int = 4) -> np.ndarray:  # [H, W] -> [h, w]
    """Lower median of evenly spread samples of every cell."""
    h, w = grid
    rows, cols = (_samples(size // cells, samples) for size, cells in zip(depth.shape, grid, strict=True))
    result = np.zeros(grid, depth.dtype)
    for row in range(h):
        for col in range(w):
            block = depth[row * depth.shape[0] // h :, col * depth.shape[1] // w :]
            values = sorted(block[y, x] for y in rows for x in cols)
            result[row, col] = values[(len(values) - 1) // 2]
    return result


def _samples(stride: int, samples: int) -> list[int]:
    samples = min(samples, stride)
    return [round(i * (stride - 1) / max(samples - 1, 1)) for i in range(samples)]


def keep_cells(
    depth: np.ndarray,  # [H, W]
    labels: np.ndarray,  # [H, W]
    grid: tuple[int, int],
    config: FilterConfig,
    near: float,
    far: float,
) -> np.ndarray:  # [h, w] bool
    """Cells of one view that may be remembered."""
    height, width = depth.shape
    valid = [[math.isfinite(d) and near < d < far for d in row] for row in depth]
    inverse = [[1 / depth[y, x] if valid[y][x] else 1 / far for x in range(width)] for y in range(height)]
    stride_y, stride_x = height // grid[0], width // grid[1]
    keep = np.zeros(grid, bool)
    for row in range(grid[0]):
        for col in range(grid[1]):
            moving = edges = broken = 0
            for y in range(row * stride_y, (row + 1) * stride_y):
                for x in range(col * stride_x, (col + 1) * stride_x):
                    moving += labels[y, x] != STATIC
                    broken += labels[y, x] == STATIC and not valid[y][x]
                    jump = 0.0
                    if 0 < x < width - 1:
                        jump = abs(inverse[y][x + 1] - 2 * inverse[y][x] + inverse[y][x - 1])
                    if 0 < y < height - 1:
                        jump = max(jump, abs(inverse[y + 1][x] - 2 * inverse[y][x] + inverse[y - 1][x]))
                    edges += jump / inverse[y][x] > config.edge_jump
            pixels = stride_y * stride_x
            keep[row, col] = (
                broken == 0 and moving <= config.dynamic_share * pixels and edges <= config.edge_share * pixels
            )
    return keep
