"""The readout in plain torch (`zbuffer.py`), on any device: the reference that is always there.

Every operation is one elementwise call in the order that `zbuffer.py` fixes, and winners are minima, which no order of
threads can change. (Writing by index and trusting that the last write wins is undefined, even on a CPU.)
"""

from __future__ import annotations

from collections.abc import Iterator, Sequence
from dataclasses import dataclass

import numpy as np
import torch
from torch import Tensor

from mirage_env.camera import Camera
from mirage_env.readout.device_tiles import Tiles, on_device
from mirage_env.readout.zbuffer import Rule, Splat, by_block, frustums, projected
from mirage_env.tokens.blocks import TILE, MemoryBlock

CPU = torch.device("cpu")


def splat_torch(
    blocks: Sequence[MemoryBlock],
    cameras: Sequence[Camera],
    grid: tuple[int, int],
    rule: Rule,
    threads: int,  # not used: torch has its own
    device: torch.device = CPU,
) -> Splat:
    """Winners of every cell of V views (`Backend`), computed on `device`."""
    found = Splat.empty(len(cameras), grid)
    if not blocks:
        return found
    P, focal = projected(cameras, grid)
    planes = torch.from_numpy(frustums(P, rule, *grid)).to(device)
    tiles = Tiles.of(blocks, device)
    xyz = torch.cat([on_device(b.xyz, device) for b in reversed(blocks)], 1)
    footprint = torch.cat([on_device(b.footprint, device).view(torch.int16) for b in reversed(blocks)])
    for view in range(len(cameras)):
        seen = torch.nonzero(_in_view(planes[view], tiles)).squeeze(1)
        tile, token = _tokens(tiles, seen)
        m = _fold(torch.from_numpy(P[view]).to(device), tiles, tile)
        f, wide, high = focal[view].tolist()
        place = _project(m, f, rule, xyz[:, token], footprint[token])
        visible = torch.nonzero(place.z > float(rule.near)).squeeze(1)
        tile, token, place = tile[visible], token[visible], place[visible]
        chosen, offset = _winners(place, (wide, high), grid, rule)
        cells = chosen >= 0
        winner = chosen[cells]
        where = cells.cpu().numpy().reshape(grid)
        found.block[view][where] = tiles.block[tile[winner]].cpu().numpy()
        before = torch.cumsum(tiles.count, 0) - tiles.count - tiles.start  # of the tile's block, in the joined arrays
        found.token[view][where] = (token[winner] - before[tile[winner]]).cpu().numpy()
        found.depth[view][where] = place.z[winner].cpu().numpy()
        found.scale[view][where] = log_size(place.size[winner]).cpu().numpy()
        found.offset[view][:, where] = offset.cpu().numpy()
    return found


def gather_torch(
    blocks: Sequence[MemoryBlock], found: Splat, device: torch.device
) -> tuple[Tensor, Tensor]:  # [V, h, w, C], [V, h, w]
    """Features and birth of the winners on `device`, 0 where there is none (`splat.gather`)."""
    channels = blocks[0].channels if blocks else 0
    feature = torch.zeros((found.block.size, channels), device=device)
    born = np.zeros(found.block.size, np.int32)
    for number, cells, token in by_block(found):
        block = blocks[number]
        born[cells] = block.born[np.searchsorted(block.first, token, side="right") - 1]
        own = torch.from_numpy(token).to(device).long()
        values = on_device(block.feature, device)[own].float()
        if len(block.gain):
            values = values * on_device(block.gain, device)[own].float()[:, None]
        feature[torch.from_numpy(cells).to(device)] = values
    shape = found.block.shape
    return feature.reshape(*shape, channels), torch.from_numpy(born).to(device).reshape(shape)


@dataclass(frozen=True, eq=False)
class _Place:
    """Places of tokens in a view: u, v (cells), z (metres), size (cells), all [n] float32."""

    u: Tensor
    v: Tensor
    z: Tensor
    size: Tensor

    def __getitem__(self, index: Tensor) -> _Place:
        return _Place(self.u[index], self.v[index], self.z[index], self.size[index])


def _in_view(planes: Tensor, tiles: Tiles) -> Tensor:  # [5, 4] -> [M]
    """Tiles whose box does not lie beyond one of the planes."""
    farthest = tiles.corner @ planes[:, :3].T + 65535.0 * tiles.step @ planes[:, :3].clamp_min(0.0).T + planes[:, 3]
    return (farthest >= 0.0).all(1)


def _tokens(tiles: Tiles, seen: Tensor) -> tuple[Tensor, Tensor]:  # [n], [n]
    """Tile, and index in the joined arrays, of every token of the tiles `seen`, in order."""
    count = tiles.count.long()
    first = torch.cumsum(count, 0) - count
    tile = torch.repeat_interleave(seen, count[seen])
    within = torch.arange(TILE, device=seen.device).expand(len(seen), TILE)
    within = within[within < count[seen][:, None]]
    return tile, first[tile] + within


def _fold(P: Tensor, tiles: Tiles, tile: Tensor) -> Tensor:  # [3, 4] -> [3, 4, n] float32
    """Projection with each token's tile folded in."""
    x, y, z = tiles.corner.T
    folded = P[:, :3, None] * tiles.step.T
    last = ((P[:, 0, None] * x + P[:, 1, None] * y) + P[:, 2, None] * z) + P[:, 3, None]
    return torch.cat([folded, last[:, None]], 1).float()[:, :, tile]


def _project(m: Tensor, focal: float, rule: Rule, xyz: Tensor, footprint: Tensor) -> _Place:
    a, b, c = (xyz.int() & 0xFFFF).float()
    x, y, z = (((row[0] * a + row[1] * b) + row[2] * c) + row[3] for row in m)
    inverse = torch.ones_like(z) / torch.where(z > float(rule.near), z, 1.0)
    metres = (footprint.int() << 13).view(torch.float32) * 2.0**112  # float16 to float32, as the other kernels do
    return _Place(x * inverse, y * inverse, z, metres * (focal * inverse))


def _winners(
    place: _Place, shape: tuple[float, float], grid: tuple[int, int], rule: Rule
) -> tuple[Tensor, Tensor]:  # [h w], [2, observed]
    """Token that wins each cell, or -1, and the offset of each winner."""
    h, w = grid
    inside = (place.u >= 0.0) & (place.u < w) & (place.v >= 0.0) & (place.v < h)
    own = torch.nonzero(inside).squeeze(1)
    entries = [(own, place.v[own].long() * w + place.u[own].long())]
    chosen = _best(place, entries, grid, rule)
    if rule.reach > 0.0:
        second = _best(place, list(_covered(place, shape, grid, rule)), grid, rule)
        behind = (
            place.z[chosen] > float(np.float32(1.0) + rule.behind) * place.z[second] if len(place.z) else chosen < 0
        )
        chosen = torch.where((second >= 0) & ((chosen < 0) | behind), second, chosen)
    cell = torch.nonzero(chosen >= 0).squeeze(1)
    x, y = _offset(place[chosen[cell]], cell, w)
    return chosen, torch.stack([x, y])


def _covered(
    place: _Place, shape: tuple[float, float], grid: tuple[int, int], rule: Rule
) -> Iterator[tuple[Tensor, Tensor]]:
    """Tokens and a cell that each covers, for every place in the largest footprint, `shape` (x, y) as wide as high."""
    h, w = grid
    r = (float(np.float32(0.5) * rule.reach) * place.size).clamp_max(float(np.float32(0.5) * rule.widest))
    x, y = r * shape[0], r * shape[1]
    top, bottom = torch.ceil(place.v - y - 0.5).clamp(0, h), torch.floor(place.v + y - 0.5).clamp(-1, h - 1)
    left, right = torch.ceil(place.u - x - 0.5).clamp(0, w), torch.floor(place.u + x - 0.5).clamp(-1, w - 1)
    top, bottom, left, right = top.long(), bottom.long(), left.long(), right.long()
    if len(r):
        for down in range(int((bottom - top).max()) + 1):
            for across in range(int((right - left).max()) + 1):
                token = torch.nonzero((top + down <= bottom) & (left + across <= right)).squeeze(1)
                yield token, (top[token] + down) * w + left[token] + across


def _best(place: _Place, entries: list[tuple[Tensor, Tensor]], grid: tuple[int, int], rule: Rule) -> Tensor:  # [h w]
    """Winner of each cell of a layer, or -1, among tokens that are entered for cells."""
    h, w = grid
    nearest = torch.full((h * w,), torch.inf, device=place.z.device)
    for token, cell in entries:
        nearest.scatter_reduce_(0, cell, place.z[token], "amin")
    limit = nearest * float(np.float32(1.0) + rule.tolerance)
    none = torch.iinfo(torch.int64).max
    key = torch.full((h * w,), none, device=place.z.device)
    for token, cell in entries:
        # What lies beyond the limit is left out, not sent to one spare cell: there every write would wait for the last.
        near = torch.nonzero(place.z[token] <= limit[cell]).squeeze(1)
        token, cell = token[near], cell[near]
        rank = place.z[token]
        if rule.tolerance > 0.0:
            x, y = _offset(place[token], cell, w)
            rank = torch.sqrt(x * x + y * y) + log_size(place.size[token]).abs()
        # Ranks are not negative, and such floats sort as their bits do.
        key.scatter_reduce_(0, cell, (rank.view(torch.int32).long() << 32) | token, "amin")
    return torch.where(key < none, key & 0xFFFFFFFF, -1)


def _offset(place: _Place, cell: Tensor, w: int) -> tuple[Tensor, Tensor]:
    row, col = torch.div(cell, w, rounding_mode="floor"), cell % w
    return place.u - (col.float() + 0.5), place.v - (row.float() + 0.5)


def log_size(size: Tensor) -> Tensor:
    """`splat.log_size`."""
    bits = size.view(torch.int32)
    exponent = (bits >> 23) - 127
    mantissa = ((bits & 0x7FFFFF) | 0x3F800000).view(torch.float32)
    large = mantissa > float(np.float32(1.4142135))
    mantissa = torch.where(large, mantissa * 0.5, mantissa)
    exponent = torch.where(large, exponent + 1, exponent)
    t = (mantissa - 1.0) / (mantissa + 1.0)
    t2 = t * t
    series = t2 * (t2 * (t2 * float(np.float32(1 / 7)) + float(np.float32(0.2))) + float(np.float32(1 / 3))) + 1.0
    return exponent.float() * float(np.float32(0.6931472)) + t * 2.0 * series
