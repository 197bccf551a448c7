"""A view as a mesh: its picture on the surface that its depth makes, to be drawn from other cameras.

Tokens say what a cell of eight pixels shows; where a surface ends within a cell they cannot say, and what is read a
fraction of a cell aside has to be guessed by a network. Who looks at what a view showed can be shown its very pixels:
a vertex for every depth, two triangles between four of them, and none where depth jumps.
"""

from __future__ import annotations

from collections.abc import Iterable, Sequence
from concurrent.futures import ThreadPoolExecutor
from dataclasses import dataclass, replace
from functools import cached_property

import numpy as np
import torch
from numpy.typing import NDArray
from torch import Tensor
from torch.nn import functional as F

from mirage_env.camera import Camera
from mirage_env.memory.masks import mean_colour, widened
from mirage_env.readout.triangles_numba import Drawn, draw_triangles, nothing_drawn

JUMP = 0.06
"""Inverse depth of neighbours differs by such a share, at least, where a surface ends ..."""
STEEPER = 2.0
"""... and by so many times as much as beside them: on a plane that is seen aslant it differs as much everywhere."""
EDGE, WIDE = 5, 9
"""Side of the square of pixels in which a blurred edge of depth lies, and of one in which a slope goes on."""
BLURRED = 1.12
"""Far over near depth in such a square, from which on it holds an edge."""
OVERLAP = 2.0
"""Pixels within the border of a picture up to which a mesh goes on that lies beyond it."""
SURE = 0.03
"""Inverse depth of a pixel that is surely on one side of an edge differs by such a share from the extreme there."""


@dataclass(frozen=True, eq=False)
class ViewMesh:
    """A picture on a surface of m x n vertices."""

    image: Tensor  # [3, H, W] in [-1, 1]; perhaps more channels
    points: NDArray[np.float32]  # [m, n, 3] metres from `anchor`
    anchor: NDArray[np.float64]  # [3] world
    x: NDArray[np.float32]  # [n] columns of the picture that the vertices show, pixels
    y: NDArray[np.float32]  # [m] rows
    whole: NDArray[np.bool_]  # [m - 1, n - 1, 2] triangles that are there
    cover: NDArray[np.float32]  # [m, n] it is seen where this is more than a half

    @staticmethod
    def of(
        image: Tensor,  # [3, H, W]
        depth: Tensor,  # [m, n] metres, 0 where there is nothing
        camera: Camera,
        cover: Tensor | None = None,  # [m, n] how much of the surface is there, all if not said
    ) -> ViewMesh:
        """The mesh of a view, with a vertex for every depth; it reaches up to the borders of the picture."""
        (height, width), (m, n) = image.shape[-2:], depth.shape
        metres = depth.numpy().astype(np.float64)
        x, y = (np.arange(n) + 0.5) * width / n, (np.arange(m) + 0.5) * height / m
        x[[0, -1]], y[[0, -1]] = (0.0, width), (0.0, height)
        K = camera.K_image
        rays = np.stack(np.broadcast_arrays((x - K[0, 2]) / K[0, 0], (y[:, None] - K[1, 2]) / K[1, 1], 1.0), -1)
        points = (rays * metres[..., None]) @ camera.T_world_cam[:3, :3].T
        return ViewMesh(
            image,
            points.astype(np.float32),
            camera.position,
            x.astype(np.float32),
            y.astype(np.float32),
            _triangles(metres),
            np.ones(metres.shape, np.float32) if cover is None else cover.numpy(),
        )

    def beside(self, camera: Camera) -> ViewMesh:
        """The part of it that lies beyond the borders of a camera's picture, and a little more."""
        offset = (self.anchor - camera.position).astype(np.float32)
        seen = (self.points + offset) @ (camera.T_world_cam[:3, :3] @ camera.K_image.T).astype(np.float32)
        ends = np.concatenate([seen[..., :2], (camera.width, camera.height) * seen[..., 2:] - seen[..., :2]], -1)
        return self.part((OVERLAP * seen[..., 2] - ends.min(-1)) / camera.K_image[0, 0])

    def part(self, within: NDArray[np.floating]) -> ViewMesh:  # [m, n] metres from what cuts it, linear in space
        """The part of it where a distance is positive; it ends between vertices."""
        apart = np.linalg.norm(np.diff(self.points, axis=1), axis=-1)[:-1][self.whole.any(-1)]
        if not len(apart):
            return self
        cover = np.clip(0.5 + 0.5 * within / np.median(apart), 0.0, 1.0)
        return replace(self, cover=np.minimum(self.cover, cover.astype(np.float32)))

    @cached_property
    def corners(self) -> NDArray[np.float64]:  # [8, 3] world, metres
        """Corners of a box around the mesh."""
        square = self.whole.any(-1)
        there = np.pad(square, ((0, 1), (0, 1))) | np.pad(square, ((1, 0), (1, 0)))
        there |= np.pad(square, ((0, 1), (1, 0))) | np.pad(square, ((1, 0), (0, 1)))
        if not there.any():
            return np.empty((0, 3))
        ends = np.stack([self.points[there].min(0), self.points[there].max(0)]).astype(np.float64)
        return np.stack(np.meshgrid(*ends.T), -1).reshape(8, 3) + self.anchor


def _triangles(depth: NDArray[np.float64]) -> NDArray[np.bool_]:  # [m, n] -> [m - 1, n - 1, 2]
    """Triangles between vertices that have a depth, without a jump along an upright or level side."""
    inverse = np.where(depth > 0.0, 1.0 / np.where(depth > 0.0, depth, 1.0), np.nan)
    across, down = _jumps(inverse), _jumps(inverse.T).T
    there = depth > 0.0
    corners = there[:-1, 1:] & there[1:, :-1]
    upper = corners & there[:-1, :-1] & ~(across[:-1] | down[:, :-1])
    lower = corners & there[1:, 1:] & ~(across[1:] | down[:, 1:])
    return np.stack([upper, lower], -1)


def _jumps(inverse: NDArray[np.float64]) -> NDArray[np.bool_]:  # [m, n] -> [m, n - 1]
    """Steps between neighbours in a row at which a surface ends."""
    step = np.nan_to_num(np.abs(np.diff(inverse, axis=1)))
    wide = np.pad(step, ((0, 0), (1, 1)))  # beyond the borders nothing is steep
    beside = np.maximum(wide[:, :-2], wide[:, 2:])
    largest = np.nan_to_num(np.fmax(inverse[:, :-1], inverse[:, 1:]))
    return (step > JUMP * largest) & (step > STEEPER * beside)


def sharp_edges(
    depth: Tensor,  # [H, W] metres
    image: Tensor,  # [3, H, W]
) -> Tensor:  # [H, W] metres
    """Depth whose pixels on a blurred edge take the depth of one of its sides: of the one whose colour they have."""
    inverse = 1.0 / depth[None, None]
    near, far = _most(inverse, EDGE), -_most(-inverse, EDGE)
    slope = _most(inverse, WIDE) + _most(-inverse, WIDE) > 1.5 * (near - far)
    edge = (near > BLURRED * far) & ~slope
    sides = [mean_colour(image[None], edge & side, WIDE) for side in _sure(inverse, near, far)]
    (at_near, has_near), (at_far, has_far) = sides
    like_near = ((image - at_near) ** 2).sum(1, True) < ((image - at_far) ** 2).sum(1, True)
    nearer = torch.where(has_near & has_far, like_near, inverse - far > near - inverse)
    nearer = F.avg_pool2d(nearer.float(), 3, 1, 1) > 0.5  # as most pixels around it: an outline has no teeth
    sharp = torch.where(edge, torch.where(nearer, near, far), inverse)
    return (1.0 / torch.where(widened(edge, 3) & ~slope, _broader(sharp), sharp))[0, 0]


def broader_outlines(depth: Tensor) -> Tensor:  # [H, W] metres
    """Depth whose edges are sharp, with what is near a pixel broader: that one still shows half of it."""
    return (1.0 / _broader(1.0 / depth[None, None]))[0, 0]


def _broader(inverse: Tensor) -> Tensor:
    """Triangles end in the middle of a pixel, and the next one still shows half of what is near."""
    beside = _most(inverse, 3)
    return torch.where(beside > BLURRED * inverse, beside, inverse)


def _most(x: Tensor, side: int) -> Tensor:
    return F.max_pool2d(x, side, 1, side // 2)


def _sure(inverse: Tensor, near: Tensor, far: Tensor) -> tuple[Tensor, Tensor]:
    return inverse > (1.0 - SURE) * near, inverse < (1.0 + SURE) * far


def drawn(
    layers: Sequence[Sequence[ViewMesh]],
    cameras: Sequence[Camera],  # T
) -> tuple[Tensor, Tensor, Tensor]:  # [T, 3, H, W], [T, H, W], [T, H, W] metres
    """Draw meshes for some cameras: images, the layer that each pixel shows, and how far away it is.

    Where nothing is seen images are 0, the layer is -1 and the depth infinite.

    Of the meshes of one layer the nearest is seen; those of a later layer only where none of the earlier ones is.
    """
    meshes = [(number, mesh) for number, layer in enumerate(layers) for mesh in layer]
    with ThreadPoolExecutor(max(torch.get_num_threads(), 1)) as pool:
        views = list(pool.map(lambda camera: _drawn(meshes, camera), cameras))
    mesh, place, depth, share = (torch.from_numpy(np.stack(some)).transpose(0, 1) for some in zip(*views, strict=True))
    pictures, place = [mesh.image for _, mesh in meshes], place.movedim(2, -1)
    images, shown, metres = _colours(pictures, mesh[0], place[0]), mesh[0].clone(), depth[0].clone()
    part = (mesh[1] >= 0) & (depth[1] < depth[0])
    some = torch.where(shown[part] >= 0, share[1][part], (share[1][part] > 0.5).float())  # before nothing: all or none
    images[part] = torch.lerp(images[part], _colours(pictures, mesh[1][part], place[1][part]), some[:, None])
    shown[part] = torch.where(some > 0.5, mesh[1][part], shown[part])
    metres[part] = torch.where(some > 0.5, depth[1][part], metres[part])
    layer = torch.tensor([*(layer for layer, _ in meshes), -1])[shown.long()]
    return images.permute(0, 3, 1, 2), layer, metres


def drawn_before(
    meshes: Sequence[ViewMesh],
    camera: Camera,
    depth: NDArray[np.float32],  # [H, W] metres
) -> Tensor:  # [C, H, W], 0 where none of them is
    """Draw meshes for one camera where they are nearer than that."""
    result = nothing_drawn(camera.height, camera.width)
    mesh, place, metres, _ = result
    metres[0] = depth
    _draw(enumerate(meshes), camera, np.ones(depth.shape, np.bool_), result)
    at = torch.from_numpy(place[0]).movedim(0, -1)
    return _colours([mesh.image for mesh in meshes], torch.from_numpy(mesh[0]), at).movedim(-1, 0)


def _colours(pictures: Sequence[Tensor], number: Tensor, place: Tensor) -> Tensor:  # [..., C]
    """Colours of pictures [C, H, W] at places [..., 2], by the number of the picture; 0 where that is negative."""
    colours = torch.zeros(*number.shape, len(pictures[0]) if pictures else 3)
    for index in map(int, np.flatnonzero(np.bincount(number.numpy().ravel() + 1)[1:])):
        image, shown = pictures[index], number == index
        there = place[shown] / place.new_tensor([image.shape[-1], image.shape[-2]]) * 2.0 - 1.0
        # Cubic: what is between pixels stays as sharp as they are.
        colour = F.grid_sample(image[None], there[None, None], "bicubic", "border", align_corners=False)
        colours[shown] = colour[0, :, 0].T.clamp(-1.0, 1.0)
    return colours


def _drawn(meshes: Sequence[tuple[int, ViewMesh]], camera: Camera) -> Drawn:
    """Draw the meshes of all layers in one view."""
    result = nothing_drawn(camera.height, camera.width)
    for layer in sorted({layer for layer, _ in meshes}):
        free = result[0][0] < 0
        if not free.any():
            break
        _draw(((number, mesh) for number, (of, mesh) in enumerate(meshes) if of == layer), camera, free, result)
    return result


def _draw(
    meshes: Iterable[tuple[int, ViewMesh]],  # with their numbers
    camera: Camera,
    free: NDArray[np.bool_],  # [H, W]
    result: Drawn,
) -> None:
    """Draw meshes over what a view shows, in the pixels that are free."""
    R = camera.T_world_cam[:3, :3].T
    for number, mesh in meshes:
        if _in_view(mesh, camera):
            P = camera.K_image @ np.hstack([R, (R @ (mesh.anchor - camera.position))[:, None]])
            about = (mesh.points, mesh.x, mesh.y, mesh.whole, mesh.cover, number, free)
            draw_triangles(np.ascontiguousarray(P, np.float32), *about, *result)


def _in_view(mesh: ViewMesh, camera: Camera) -> bool:
    """Check that a mesh may be seen: not all of its box lies behind the camera or beyond one border of the picture."""
    ends = (mesh.corners - camera.position) @ camera.T_world_cam[:3, :3] @ camera.K_image.T  # [8, 3]
    size = np.array([camera.width, camera.height])
    before, after = (ends[:, :2] < 0.0).all(0), (ends[:, :2] > size * ends[:, 2:]).all(0)
    return bool((ends[:, 2] > 0.0).any() and not before.any() and not after.any())
