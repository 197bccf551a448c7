"""The kernels of the readout on CUDA; `zbuffer_triton.py` launches them and says what they do together.

Sizes: W worlds with V views each, M tiles in all; `j` counts the views of a world. Addresses of blocks come as int64.
"""

import triton
import triton.language as tl


@triton.jit
def see(corner, step, world, P, planes, count, visible, folded, total, views, LANES: tl.constexpr):
    """List the tiles that may show in view j of their world, and fold its projection into them."""
    j = tl.program_id(1)
    tile = tl.program_id(0) * LANES + tl.arange(0, LANES)
    here = tile < total
    view = tl.load(world + tile, here, 0) * views + j
    x, y, z = (
        tl.load(corner + 3 * tile, here, 0.0),
        tl.load(corner + 3 * tile + 1, here, 0.0),
        tl.load(corner + 3 * tile + 2, here, 0.0),
    )
    sx, sy, sz = (
        tl.load(step + 3 * tile, here, 0.0),
        tl.load(step + 3 * tile + 1, here, 0.0),
        tl.load(step + 3 * tile + 2, here, 0.0),
    )
    seen = here
    for p in tl.static_range(5):
        plane = planes + view * 20 + 4 * p
        a, b, c, d = tl.load(plane), tl.load(plane + 1), tl.load(plane + 2), tl.load(plane + 3)
        farthest = a * x + b * y + c * z + d
        farthest += 65535.0 * (tl.maximum(a, 0.0) * sx + tl.maximum(b, 0.0) * sy + tl.maximum(c, 0.0) * sz)
        seen = seen & (farthest >= 0.0)
    for row in tl.static_range(3):
        a, b = tl.load(P + view * 12 + 4 * row), tl.load(P + view * 12 + 4 * row + 1)
        c, d = tl.load(P + view * 12 + 4 * row + 2), tl.load(P + view * 12 + 4 * row + 3)
        out = folded + (j * 12 + 4 * row).to(tl.int64) * total + tile
        tl.store(out, (a * sx).to(tl.float32), seen)
        tl.store(out + total, (b * sy).to(tl.float32), seen)
        tl.store(out + 2 * total, (c * sz).to(tl.float32), seen)
        tl.store(out + 3 * total, (((a * x + b * y) + c * z) + d).to(tl.float32), seen)
    number = seen.to(tl.int32)
    place = tl.atomic_add(count + j, tl.sum(number)) + tl.cumsum(number) - 1
    tl.store(visible + j.to(tl.int64) * total + place, tile, seen)


@triton.jit
def _project(xyz, stride, footprint, folded, total, j, tile, lane, f, near, here):
    """u, v (cells), z (metres) and size (cells) of tokens; the shapes of tile and lane broadcast."""
    x_at = tl.load(xyz + tile).to(tl.pointer_type(tl.int16)) + lane
    apart = tl.load(stride + tile).to(tl.int64)
    a = (tl.load(x_at, here, 0).to(tl.int32) & 0xFFFF).to(tl.float32)
    b = (tl.load(x_at + apart, here, 0).to(tl.int32) & 0xFFFF).to(tl.float32)
    c = (tl.load(x_at + 2 * apart, here, 0).to(tl.int32) & 0xFFFF).to(tl.float32)
    m = folded + j.to(tl.int64) * 12 * total + tile
    z = ((tl.load(m + 8 * total) * a + tl.load(m + 9 * total) * b) + tl.load(m + 10 * total) * c) + tl.load(
        m + 11 * total
    )
    inverse = tl.div_rn(tl.full(z.shape, 1.0, tl.float32), tl.where(z > near, z, 1.0))
    u = ((tl.load(m) * a + tl.load(m + total) * b) + tl.load(m + 2 * total) * c) + tl.load(m + 3 * total)
    v = ((tl.load(m + 4 * total) * a + tl.load(m + 5 * total) * b) + tl.load(m + 6 * total) * c) + tl.load(
        m + 7 * total
    )
    half_bits = tl.load(tl.load(footprint + tile).to(tl.pointer_type(tl.int16)) + lane, here, 0).to(tl.int32)
    metres = (half_bits << 13).to(tl.float32, bitcast=True) * 5.192296858534828e33
    return u * inverse, v * inverse, z, metres * (f * inverse)


@triton.jit
def _log_size(size):
    """`splat.log_size`."""
    bits = size.to(tl.int32, bitcast=True)
    exponent = (bits >> 23) - 127
    mantissa = ((bits & 0x7FFFFF) | 0x3F800000).to(tl.float32, bitcast=True)
    large = mantissa > 1.4142135
    mantissa = tl.where(large, mantissa * 0.5, mantissa)
    exponent = tl.where(large, exponent + 1, exponent)
    t = tl.div_rn(mantissa - 1.0, mantissa + 1.0)
    t2 = t * t
    series = t2 * (t2 * (t2 * 0.14285714285714285 + 0.2) + 0.3333333333333333) + 1.0
    return exponent.to(tl.float32) * 0.6931472 + t * 2.0 * series


@triton.jit
def _compete(depths, keys, cell, row, col, u, v, z, size, order, widen, active, STEP: tl.constexpr, FIT: tl.constexpr):
    """Take the minimum of each cell. Looking before saves most atomics: a value that was seen only falls."""
    if STEP == 0:
        bits = z.to(tl.int32, bitcast=True)
        tl.atomic_min(depths + cell, bits, mask=active & (bits < tl.load(depths + cell, active, 0)), sem="relaxed")
    else:
        rank = z
        if FIT:
            nearest = tl.load(depths + cell, active, 0).to(tl.float32, bitcast=True)
            active = active & (z <= nearest * widen)
            x, y = u - (col.to(tl.float32) + 0.5), v - (row.to(tl.float32) + 0.5)
            rank = tl.sqrt_rn(x * x + y * y) + tl.abs(_log_size(size))
        key = (rank.to(tl.int32, bitcast=True).to(tl.int64) << 32) | order
        tl.atomic_min(keys + cell, key, mask=active & (key < tl.load(keys + cell, active, 0)), sem="relaxed")


@triton.jit
def enter(
    count, visible, xyz, stride, footprint, tokens, world, focal, folded, total, depths, keys, near, widen, reach,
    widest, views, h, w, STEP: tl.constexpr, FIT: tl.constexpr, LAYERS: tl.constexpr, MOST: tl.constexpr,
    GROUP: tl.constexpr, TILE: tl.constexpr,
):  # fmt: skip
    """Let the tokens of the visible tiles compete for their cells: STEP 0 by depth, 1 by rank."""
    j = tl.program_id(1)
    lane = tl.arange(0, TILE)[None, :]
    listed = tl.load(count + j)
    for start in range(tl.program_id(0) * GROUP, listed, tl.num_programs(0) * GROUP):
        slot = start + tl.arange(0, GROUP)
        tile = tl.load(visible + j.to(tl.int64) * total + slot, slot < listed, 0)[:, None]
        here = (slot[:, None] < listed) & (lane < tl.load(tokens + tile))
        view = tl.load(world + tile) * views + j
        f = tl.load(focal + 3 * view)
        u, v, z, size = _project(xyz, stride, footprint, folded, total, j, tile, lane, f, near, here)
        here = here & (z > near)
        order = tile.to(tl.int64) * TILE + lane
        base = view * LAYERS * h * w
        inside = here & (u >= 0.0) & (u < w) & (v >= 0.0) & (v < h)
        col, row = tl.where(inside, u, 0.0).to(tl.int32), tl.where(inside, v, 0.0).to(tl.int32)
        _compete(depths, keys, base + row * w + col, row, col, u, v, z, size, order, widen, inside, STEP, FIT)
        if LAYERS == 2:
            r = tl.minimum(reach * size, widest)
            x, y = r * tl.load(focal + 3 * view + 1), r * tl.load(focal + 3 * view + 2)
            # Clamped before they become integers: a token beside the camera is millions of cells away.
            top = tl.minimum(tl.maximum(tl.ceil(v - y - 0.5), 0.0), h).to(tl.int32)
            bottom = tl.minimum(tl.maximum(tl.floor(v + y - 0.5), -1.0), h - 1).to(tl.int32)
            left = tl.minimum(tl.maximum(tl.ceil(u - x - 0.5), 0.0), w).to(tl.int32)
            right = tl.minimum(tl.maximum(tl.floor(u + x - 0.5), -1.0), w - 1).to(tl.int32)
            for k in range(MOST * MOST):
                row, col = top + k // MOST, left + k % MOST
                covered = here & (row <= bottom) & (col <= right)
                cell = tl.where(covered, base + h * w + row * w + col, 0)
                _compete(depths, keys, cell, row, col, u, v, z, size, order, widen, covered, STEP, FIT)


@triton.jit
def resolve(
    keys, xyz, stride, footprint, tokens, world, focal, folded, total, block, first, names, numbers, near, widen,
    cells, views, h, w, LAYERS: tl.constexpr, LANES: tl.constexpr, TILE: tl.constexpr,
):  # fmt: skip
    """Choose between the layers and describe the winner of every cell."""
    index = tl.program_id(0) * LANES + tl.arange(0, LANES)
    here = index < cells
    view, cell = index // (h * w), index % (h * w)
    j = view % views
    key = tl.load(keys + view * LAYERS * h * w + cell, here, 0)
    won = here & (key < 0x7FFFFFFFFFFFFFFF)
    order = tl.where(won, key & 0xFFFFFFFF, 0)
    tile, lane = (order // TILE).to(tl.int32), (order % TILE).to(tl.int32)
    f = tl.load(focal + 3 * view, here, 0.0)
    u, v, z, size = _project(xyz, stride, footprint, folded, total, j, tile, lane, f, near, won)
    if LAYERS == 2:
        key = tl.load(keys + (view * LAYERS + 1) * h * w + cell, here, 0)
        covered = here & (key < 0x7FFFFFFFFFFFFFFF)
        order = tl.where(covered, key & 0xFFFFFFFF, 0)
        other, place = (order // TILE).to(tl.int32), (order % TILE).to(tl.int32)
        u2, v2, z2, size2 = _project(xyz, stride, footprint, folded, total, j, other, place, f, near, covered)
        shown = covered & ((won == 0) | (z > widen * z2))
        tile, lane = tl.where(shown, other, tile), tl.where(shown, place, lane)
        u, v, z, size = (
            tl.where(shown, u2, u),
            tl.where(shown, v2, v),
            tl.where(shown, z2, z),
            tl.where(shown, size2, size),
        )
        won = won | covered
    row, col = cell // w, cell % w
    tl.store(names + index, tl.where(won, tl.load(block + tile), -1).to(tl.int32), here)
    tl.store(names + cells + index, tl.where(won, tl.load(first + tile) + lane, -1).to(tl.int32), here)
    out = numbers + view * 4 * h * w + cell
    tl.store(out, tl.where(won, u - (col.to(tl.float32) + 0.5), 0.0), here)
    tl.store(out + h * w, tl.where(won, v - (row.to(tl.float32) + 0.5), 0.0), here)
    tl.store(out + 2 * h * w, tl.where(won, z, 0.0), here)
    tl.store(out + 3 * h * w, tl.where(won, _log_size(size), 0.0), here)


@triton.jit
def gather(table, names, feature, born, cells, channels, CELLS: tl.constexpr, WIDE: tl.constexpr):
    """Table rows: addresses of feature, gain (0: float16 features), first and born; number of tiles."""
    cell = tl.program_id(0) * CELLS + tl.arange(0, CELLS)
    here = cell < cells
    block = tl.load(names + cell, here, -1)
    token = tl.load(names + cells + cell, here, 0)
    here = here & (block >= 0)
    row = table + 5 * tl.where(here, block, 0)
    first = tl.load(row + 2).to(tl.pointer_type(tl.int32))
    # 24 halvings find a tile among sixteen million.
    low, high = tl.zeros([CELLS], tl.int32), tl.load(row + 4).to(tl.int32)
    for _ in range(24):
        middle = (low + high) // 2
        right = tl.load(first + middle, here, 0) <= token
        low, high = tl.where(right, middle, low), tl.where(right, high, middle)
    tl.store(born + cell, tl.load(tl.load(row + 3).to(tl.pointer_type(tl.int32)) + low, here, 0), here)

    channel = tl.arange(0, WIDE)[None, :]
    wanted = here[:, None] & (channel < channels)
    at = token[:, None].to(tl.int64) * channels + channel
    address, gain = tl.load(row)[:, None], tl.load(row + 1)
    small = (gain != 0)[:, None]
    units = tl.load(address.to(tl.pointer_type(tl.int8)) + at, wanted & small, 0).to(tl.float32)
    unit = tl.load(gain.to(tl.pointer_type(tl.float16)) + token, here & (gain != 0), 0.0).to(tl.float32)
    values = tl.load(address.to(tl.pointer_type(tl.float16)) + at, wanted & (small == 0), 0.0).to(tl.float32)
    out = feature + cell[:, None].to(tl.int64) * channels + channel
    tl.store(out, tl.where(small, units * unit[:, None], values), wanted)
