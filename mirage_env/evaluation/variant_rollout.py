"""One batch of worlds: the true views of their walks, what a variant shows along them, and how the two compare."""

from __future__ import annotations

from collections.abc import Callable, Sequence
from dataclasses import dataclass, replace

import numpy as np
import torch
from numpy.typing import NDArray
from torch import Tensor

from mirage_env.evaluation.loop_walks import LoopWalk
from mirage_env.evaluation.metrics import dilate, mean, psnr, ssim
from mirage_env.images import frames_from_uint8
from mirage_env.memory.rgb import cells_to_pixels
from mirage_env.rooms import Room
from mirage_env.world_model import WorldModel
from mirage_env.world_state import Chunk

MOVER_MARGIN = 2
"""Pixels by which mover masks are grown: anti-aliased borders and contact shadows."""
NEW_VIEW_CHUNKS = 2
"""Chunks whose first visits count as new views."""


@dataclass(frozen=True)
class Truth:
    """True views along a walk of N frames, the start view included."""

    seed: int
    walk: LoopWalk
    images: NDArray[np.uint8]  # [N, H, W, 3]
    still: Tensor  # [N, H, W] bool, pixels well away from movers

    @property
    def frames(self) -> Tensor:  # [N, 3, H, W] in [-1, 1]
        return frames_from_uint8(self.images)


@dataclass(frozen=True)
class Rollout:
    """Views of a variant along a walk of N frames; frame 0 is the start image."""

    frames: Tensor  # [N, 3, H, W]
    seen: Tensor  # [N, H, W] bool, pixels of cells that the memory knew before the frame was made
    readouts: dict[str, Tensor]  # "bare" and "refined": [N, 3, H, W], where asked for
    coverage: list[float]  # per chunk, share of cells
    points: list[int]  # after the start view and after each chunk
    nbytes: list[int]
    depth: Tensor  # [1 + chunks, H, W] metres, of the start view and of the last frame of each chunk


def true_views(seed: int, room: Room, walk: LoopWalk, start: float, seconds: float) -> Truth:
    """Render a walk that begins at time `start` and takes `seconds` per frame (0: time stands still)."""
    views = [room.render(camera, start + i * seconds) for i, camera in enumerate(walk.cameras)]
    movers = torch.from_numpy(np.stack([v.mover for v in views]))
    return Truth(seed, walk, np.stack([v.image for v in views]), ~dilate(movers, MOVER_MARGIN))


@torch.inference_mode()
def roll_out(
    model: WorldModel,
    truths: Sequence[Truth],  # B worlds whose walks are equally long
    seed: int = 0,
    readouts: bool = False,
    progress: Callable[[int], object] | None = None,
    prompt: str = "",
) -> list[Rollout]:
    """Walk B worlds together, from the true start image with estimated depth.

    Args:
        model: the variant.
        truths: where to start and where to go.
        seed: seed of the noise; world and seed determine it.
        readouts: decode the bare and the refined readout too.
        progress: called with B after every chunk.
        prompt: what the worlds look like, for models that read text.
    """
    size, per_chunk = model.config.image_size, model.config.frames_per_chunk
    model = replace(model, config=replace(model.config, first_chunk_latents=None))  # walks have chunks of one length
    opened = [
        model.start(t.images[0], t.walk.cameras[0], seed=seed * 1_000_003 + t.seed, prompt=prompt) for t in truths
    ]
    states = [state for _, state in opened]
    shown = [[chunk.frames] for chunk, _ in opened]
    seen = [[torch.ones(1, *size, dtype=torch.bool)] for _ in truths]
    decoded = [{"bare": [c.frames], "refined": [c.frames]} if readouts else {} for c, _ in opened]
    coverage: list[list[float]] = [[] for _ in truths]
    points, nbytes = [[s.memory.points] for s in states], [[s.memory.nbytes] for s in states]
    depth = [[chunk.depth[-1:].float().cpu()] for chunk, _ in opened]
    for first in range(1, len(truths[0].walk.cameras), per_chunk):
        before = states
        chunks, states = model.step_batch(before, [t.walk.cameras[first : first + per_chunk] for t in truths])
        for i, (chunk, state) in enumerate(zip(chunks, states, strict=True)):
            shown[i].append(chunk.frames.float().cpu())
            seen[i].append(pixels_known(chunk))
            if readouts:
                still = before[i].latents[-1]
                decoded[i]["bare"].append(model.codec.decode_chunk(chunk.readout.latent, still).float().cpu())
                decoded[i]["refined"].append(model.codec.decode_chunk(chunk.known, still).float().cpu())
            coverage[i].append(chunk.coverage)
            points[i].append(state.memory.points)
            nbytes[i].append(state.memory.nbytes)
            depth[i].append(chunk.depth[-1:].float().cpu())
        if progress is not None:
            progress(len(truths))
    return [
        Rollout(
            torch.cat(shown[i]),
            torch.cat(seen[i]),
            {name: torch.cat(parts) for name, parts in decoded[i].items()},
            coverage[i],
            points[i],
            nbytes[i],
            torch.cat(depth[i]),
        )
        for i in range(len(truths))
    ]


def pixels_known(chunk: Chunk) -> Tensor:  # [F, H, W] bool
    """Pixels of cells that the memory knew before the chunk was made.

    Where there is one latent for several frames, each frame has the pixels of the next key frame.
    """
    frames, _, height, width = chunk.frames.shape
    pixels = cells_to_pixels(chunk.readout.observed > 0, (height, width))
    return pixels.repeat_interleave(frames // len(pixels), 0)


def measure(
    truth: Truth,
    frames: Tensor,  # [N, 3, H, W]
    seen: Tensor,  # [N, H, W] bool
    first: Tensor | None = None,  # [N, 3, H, W] what was shown at the first visit, `frames` itself if not given
) -> dict[str, float]:
    """All figures of one walk: PSNR in dB, SSIM; movers of both frames are masked.

    `first_*`: revisit against first visit; `truth_*`: revisit against the simulator at the same moment; `then_*`:
    against the simulator at the moment of the first visit (time frozen); `new_*`: new views of the first chunks
    against the simulator. `*_seen` and `*_unseen` count only the cells that the memory knew or did not know.
    """
    first, true, walk = frames if first is None else first, truth.frames, truth.walk
    early, late = (torch.tensor(x, dtype=torch.long) for x in zip(*walk.revisits, strict=True))
    still = truth.still[early] & truth.still[late]
    figures = {
        "first_psnr": psnr(frames[late], first[early], still),
        "first_ssim": ssim(frames[late], first[early], still),
        "first_seen_psnr": psnr(frames[late], first[early], still & seen[late]),
        "truth_psnr": psnr(frames[late], true[late], still),
        "truth_ssim": ssim(frames[late], true[late], still),
        "truth_seen_psnr": psnr(frames[late], true[late], still & seen[late]),
        "then_psnr": psnr(frames[late], true[early], still),
    }
    back = set(late.tolist())
    new = [f for f in range(1, len(frames)) if walk.chunk_of(f) <= NEW_VIEW_CHUNKS and f not in back]
    still = truth.still[new]
    figures |= {
        "new_psnr": psnr(frames[new], true[new], still),
        "new_seen_psnr": psnr(frames[new], true[new], still & seen[new]),
        "new_unseen_psnr": psnr(frames[new], true[new], still & ~seen[new]),
    }
    return {name: mean(values.tolist()) for name, values in figures.items()}
