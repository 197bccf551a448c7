"""State of a world besides memory and camera, so that it continues as if it had never been saved."""

from __future__ import annotations

import zlib
from collections.abc import Mapping
from dataclasses import dataclass
from typing import Any

import numpy as np
import torch
from numpy.typing import NDArray

from mirage_env.camera import Camera
from mirage_env.interfaces import Reference
from mirage_env.memory.movers import Movers
from mirage_env.memory.references import BANK
from mirage_env.store.format.arrays import REFERENCE_NUMBERS
from mirage_env.store.format.mover_rows import MOVER_NUMBERS, TOKEN_NUMBERS, mover_rows, movers_from
from mirage_env.world_state import WorldState

NAMES = ("latents", "noise", "bank", "views", "movers", "mover_tokens")
"""Arrays `state/*`; `bank` and `views` only where the model takes references, or begins chunks with a front; the last
two where it keeps movers."""


@dataclass(frozen=True, eq=False)
class Resumable:
    """The arrays `state/*` of one step."""

    latents: NDArray[np.float32]  # [1 + P, C, h, w]; twice as many where read-out latents (`shown`) follow them
    noise: NDArray[np.uint8]
    bank: NDArray[np.float32]  # [N, C, h, w] latents of the references, then of the front
    views: NDArray[np.float64]  # [N, 26] their cameras, and the numbers of their frames
    mover_numbers: NDArray[np.float64]  # [M, MOVER_NUMBERS] of each mover
    mover_tokens: NDArray[np.float32]  # [N of all, 4 + C]

    @staticmethod
    def of(state: WorldState) -> Resumable:
        recent = state.latents if state.shown is None else torch.cat([state.latents, state.shown])
        latents = recent.float().cpu().numpy()
        kept = (*state.references, *state.front)
        bank = [r.latent.float().cpu().numpy() for r in kept]
        views = [np.hstack([r.camera.T_world_cam.ravel(), r.camera.K_image.ravel(), r.frame]) for r in kept]
        return Resumable(
            latents,
            state.noise.cpu().numpy(),
            np.stack(bank) if bank else latents[:0],
            np.stack(views) if views else np.zeros((0, REFERENCE_NUMBERS)),
            *mover_rows(state.movers, latents.shape[1]),
        )

    def references(
        self, image_size: tuple[int, int], front: int
    ) -> tuple[tuple[Reference, ...], tuple[Reference, ...]]:
        """The references, and the `front` latents that the next chunk begins with.

        Raises:
            ValueError: there are fewer.
        """
        if len(self.bank) < front:
            raise ValueError(f"{len(self.bank)} latents instead of the {front} that the next chunk begins with")
        frames = np.nan_to_num(self.views[:, 25], nan=-1, posinf=-1, neginf=-1).clip(-1, 2**31)
        kept = tuple(
            Reference(
                torch.from_numpy(latent.copy()),
                Camera(view[:16].reshape(4, 4), view[16:25].reshape(3, 3), *image_size),
                int(frame),
            )
            for latent, view, frame in zip(self.bank, self.views, frames, strict=True)
        )
        return kept[: len(kept) - front], kept[len(kept) - front :]

    def movers(self) -> Movers:
        """The movers.

        Raises:
            ValueError: numbers that no mover has.
        """
        return movers_from(self.mover_numbers, self.mover_tokens, self.latents.shape[2:])

    def rows(self, places: Mapping[str, int]) -> dict[str, NDArray[Any]]:
        """The arrays by name that have places, filled up to as many by zeros."""
        arrays: list[NDArray[Any]] = [self.latents, self.noise, self.bank, self.views]
        arrays += [self.mover_numbers, self.mover_tokens]
        return {name: _filled(a, places[name]) for name, a in zip(NAMES, arrays, strict=True) if name in places}

    @staticmethod
    def from_rows(rows: dict[str, NDArray[Any]]) -> Resumable:
        latents = rows["latents"]
        bank, views = rows.get("bank", latents[:0]), rows.get("views", np.zeros((0, REFERENCE_NUMBERS)))
        numbers = rows.get("movers", np.zeros((0, MOVER_NUMBERS)))
        tokens = rows.get("mover_tokens", np.zeros((0, TOKEN_NUMBERS + latents.shape[1]), np.float32))
        used, moves = views.any(1), numbers.any(1)  # neither a camera nor a mover is all zeros
        return Resumable(latents, rows["noise"], bank[used], views[used], numbers[moves], tokens)


def slots_for(references: int, front: int) -> int:
    """Places in the bank of a model that takes so many references, and begins chunks with such a front."""
    return BANK * references + front


def state_checksum(rows: dict[str, NDArray[Any]]) -> int:
    crc32 = 0
    for name in NAMES:
        if name in rows:
            crc32 = zlib.crc32(np.ascontiguousarray(rows[name]).tobytes(), crc32)
    return crc32


def _filled(values: NDArray[Any], slots: int) -> NDArray[Any]:
    if len(values) == slots:
        return values
    filled = np.zeros((slots, *values.shape[1:]), values.dtype)
    filled[: len(values)] = values[:slots]
    return filled
