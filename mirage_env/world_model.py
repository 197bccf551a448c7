"""The whole method on one page: encode, lift, read out, generate, decode, filter, re-encode, write.

`WorldModel` holds the networks, `WorldState` is the world: a value, which is forked by keeping it and never changed.
"""

from __future__ import annotations

from collections.abc import Callable, Sequence
from dataclasses import dataclass, field, replace

import numpy as np
import torch
from numpy.typing import NDArray
from torch import Tensor

from mirage_env.camera import Camera, check_paths, pluecker_rays
from mirage_env.config.world import WorldModelConfig
from mirage_env.files.any_picture import Picture
from mirage_env.images import fit_views
from mirage_env.interfaces import (
    ChunkGenerator,
    DepthEstimator,
    Guidance,
    LatentCodec,
    Memory,
    Readout,
    ReadoutRefiner,
    Reference,
    StartViews,
    StaticSegmenter,
)
from mirage_env.memory.depth_from_motion import DepthFromMotion
from mirage_env.memory.depth_scale import align_depth
from mirage_env.memory.filters import keep_cells, labelled, with_sky
from mirage_env.memory.floor import Floor, grounded
from mirage_env.memory.latent import LatentMemory, splat_batch
from mirage_env.memory.lifting import depth_to_grid
from mirage_env.memory.mirrored import Mirror
from mirage_env.memory.mover_tracking import Views, movers_after, tracked
from mirage_env.memory.movers import marked, read_with_movers
from mirage_env.memory.references import chosen, reference_latents, remembered
from mirage_env.memory.shown_frames import encoded, last_frames
from mirage_env.memory.standing import held, standing
from mirage_env.memory.true_views import with_views, written_start
from mirage_env.memory.view_drawings import ViewDrawings
from mirage_env.readout.zbuffer import Splat
from mirage_env.world_state import Chunk, WorldState, in_groups

Cameras = Sequence[Camera]
Given = tuple[Tensor | None, Tensor] | None  # depth, if it was measured, and labels of true views


@dataclass(frozen=True)
class WorldModel:
    """The networks of a world model and its configuration."""

    config: WorldModelConfig
    codec: LatentCodec
    depth: DepthEstimator
    segmenter: StaticSegmenter
    refiner: ReadoutRefiner
    generator: ChunkGenerator
    identity: str  # fingerprint of weights and configuration; a cache tells by it which model wrote it
    memory_factory: Callable[[WorldModelConfig], Memory] = LatentMemory.empty
    start_views: StartViews | None = None  # of the world that the networks were trained on
    mirror: Mirror = field(default_factory=Mirror)  # what worlds may be where they were never seen
    drawings: ViewDrawings = field(default_factory=ViewDrawings)  # true views, as they are seen from elsewhere

    @torch.inference_mode()
    def start(
        self,
        image: Picture,
        camera: Camera | None = None,
        depth: NDArray[np.floating] | None = None,  # [H, W] metres
        seed: int = 0,
        prompt: str = "",
        labels: NDArray[np.integer] | None = None,  # [H, W] STATIC, MOVER, SKY
        negative_prompt: str | None = None,
        guidance_scale: float | None = None,
        camera_height: float | None = None,
    ) -> tuple[Chunk, WorldState]:
        """Open a world from one view: encode, estimate depth if none is given, filter, lift, write.

        Args:
            image: RGB of the configured image size.
            camera: where it was taken, in pixels of the picture; at the world's origin with the field of view of EXIF
                or of the configuration if not given.
            depth: true z-depth, metres; 0 or NaN where it was not measured, as of the sky, or inf there.
            seed, prompt: of the world's noise; what the world should look like, for models that read text.
            labels, negative_prompt, guidance_scale: what the segmenter sees, and the model's own, if not given.
            camera_height: metres above a level floor, to which estimated depth is fitted; None: not known.

        Raises:
            InvalidImageError: no picture that can be read, or one beyond the limits.
            InvalidDepthError, InvalidCameraError: another image size, or negative depth.
            InvalidOptionError: a guidance scale that is negative or not finite, or a height out of range.
        """
        view = fit_views([image], [camera], [depth], [labels], self.config.image_size, self.config.fov)
        (camera,), frames, floor = view.cameras, view.frames, Floor.below(view.cameras[0], camera_height)
        metres = grounded(self.depth, floor).estimate(frames, [camera]) if view.metres is None else view.metres
        kinds = labelled(self.segmenter, frames, view.metres, self.config.far) if view.labels is None else view.labels
        keep, latents = self._keep(metres, kinds), self.codec.encode(frames)
        true = (latents, frames, with_sky(metres, kinds, [camera], self.config.memory.sky), keep, [camera])
        memory, dense = written_start(self.memory_factory(self.config), self.codec, true, self.config.memory.shifts)
        readout, seen = memory.read([camera], now=0), Views(dense, metres, kinds, [camera], np.zeros(1), real=True)
        state = WorldState(
            memory=with_views(memory, frames, view.metres),
            camera=camera,
            latents=(recent := latents.repeat(1 + self.config.preceding_latents, 1, 1, 1)),
            chunk=0,
            noise=torch.Generator().manual_seed(seed).get_state(),
            prompt=prompt,
            references=remembered((), Reference(latents[0], camera, 0), self.config.references),
            guidance=Guidance(guidance_scale, negative_prompt),
            shown=torch.zeros_like(recent) if self.config.preceding_readouts else None,
            front=last_frames(self.codec, self.config, frames, [camera]),
            movers=tracked((), seen, memory, self.config),
            floor=floor,
        )
        return Chunk((camera,), frames, metres, kinds, keep, readout, self.refiner.refine(readout), latents), state

    def step(self, state: WorldState, cameras: Sequence[Camera]) -> tuple[Chunk, WorldState]:
        """Generate the next chunk: one camera per new frame (`config.frames_of(state.chunk)`).

        Raises:
            InvalidCameraError: not one camera per new frame, or another image size.
        """
        (chunk,), (after,) = self.step_batch([state], [cameras])
        return chunk, after

    @torch.inference_mode()
    def step_batch(
        self, states: Sequence[WorldState], cameras: Sequence[Sequence[Camera]]
    ) -> tuple[list[Chunk], list[WorldState]]:
        """Step many worlds with one call of the generator per length of chunk; others change the last bits at most.

        Raises:
            InvalidCameraError: no world, not one path per world, not one camera per new frame, or another image size.
        """
        check_paths(cameras, [self.config.frames_of(state.chunk) for state in states], self.config.image_size)
        c, lengths = self.config, [self.config.lengths_of(state.chunk) for state in states]
        if len(set(lengths)) > 1:
            return in_groups(self.step_batch, lengths, states, cameras)
        clean = lengths[0][1]
        fronts = [state.clean(clean) for state in states]
        views = [(*front[1], *path[c.key_frames]) for front, path in zip(fronts, cameras, strict=True)]
        splats = splat_batch([s.memory for s in states], views)
        seen = list(zip(states, views, splats, strict=True))
        readouts, movers = zip(*(read_with_movers(s, v, x, c, past=clean) for s, v, x in seen), strict=True)
        given = [self._filled(s, v, r) for s, v, r in zip(states, views, readouts, strict=True)]
        known = torch.stack([self._known(f[0], r) for f, r in zip(fronts, given, strict=True)])
        references = [chosen(s.memory, s.references, v, c.references, x, c.best_reference_first) for s, v, x in seen]
        before = [state.preceding(c.first_chunk_preceding) for state in states]
        latents = self.generator.generate(
            known=known,
            readout=given,
            rays=torch.stack([torch.from_numpy(pluecker_rays(v, *c.latent_size)) for v in views]),
            preceding=[s.latents[past] for s, past in zip(states, before, strict=True)],
            generators=(generators := [state.generator() for state in states]),
            references=[reference_latents(bank, known[0, :0]) for bank in references],
            prompts=[s.prompt for s in states],
            guidance=[s.guidance for s in states],
            preceding_readout=[s.shown[past] for s, past in zip(states, before, strict=True) if s.shown is not None],
            chunks=[s.chunk for s in states],
            clean=clean,
            cameras=[(*front[1], *path) for front, path in zip(fronts, cameras, strict=True)],
        )
        chunks, after = [], []
        for i, state in enumerate(states):
            # Clean latents but the first are decoded too, for what the codec carries over; their frames were shown.
            frames = self.codec.decode_chunk(latents[i, 1:], first=latents[i, 0])[-len(cameras[i]) :]
            frames = self.drawings.over(frames, self, state, cameras[i], readouts[i][clean:], movers[i][clean:])
            look = replace(self, depth=grounded(self.depth, state.floor))._look
            chunk = look(frames, cameras[i], given[i][clean:], known[i][clean:], latents[i, clean:].clone())
            chunks.append(chunk := marked(chunk.reading(readouts[i][clean:]), movers[i][clean:]))
            after.append(replace(self._remember(state, chunk, splats[i][clean:]), noise=generators[i].get_state()))
        return chunks, after

    @torch.inference_mode()
    def observe(
        self,
        state: WorldState,
        images: Sequence[Picture] | NDArray[np.uint8],  # F
        cameras: Sequence[Camera],  # F, each in pixels of its picture
        depth: Sequence[NDArray[np.floating]] | NDArray[np.floating] | None = None,  # [F, H, W] metres
        labels: Sequence[NDArray[np.integer]] | NDArray[np.integer] | None = None,  # [F, H, W]
    ) -> tuple[Chunk, WorldState]:
        """Write real views, of any kind and size that `start` takes, as `step` writes imagined ones.

        Raises:
            InvalidImageError, InvalidDepthError: as `start`.
            InvalidCameraError: no view at all, not one camera per image, or another image size.
        """
        view = fit_views(images, cameras, depth, labels, self.config.image_size, self.config.fov)
        cameras, frames, splat = view.cameras, view.frames, state.memory.splat(view.cameras)
        readout, movers = read_with_movers(state, cameras, splat, self.config, real=True)
        known, latents = self.refiner.refine(readout), self.codec.encode(frames)
        kinds = labelled(self.segmenter, frames, view.metres, self.config.far) if view.labels is None else view.labels
        look = replace(self, depth=DepthFromMotion(self.depth, kinds, state.memory, state.floor))._look
        chunk = marked(look(frames, cameras, readout, known, latents, (view.metres, kinds)), movers, real=True)
        return chunk, self._remember(state, chunk, splat, real=True).with_views(frames, view.metres, cameras)

    def _known(self, front: Tensor, readout: Readout) -> Tensor:  # [T, C, h, w]
        """Refined readout of a chunk; it begins with the clean latents shared with the chunk before."""
        return torch.cat([front, self.refiner.refine(readout[len(front) :])])

    def _filled(self, state: WorldState, views: Cameras, readout: Readout) -> Readout:
        """Readout for the generator: what was never seen is guessed, who stands still knows all that they saw last."""
        readout = self.mirror.filled(readout, state.memory, views, self.codec, self.refiner, self.config)
        stands = standing(state.camera, views) & (self.config.sampler.exact > 0.0)
        return held(readout, state.latents[-1], stands, self.config.far)

    def _look(
        self, frames: Tensor, cameras: Cameras, readout: Readout, known: Tensor, latents: Tensor, given: Given = None
    ) -> Chunk:
        """See what may be remembered of frames: of all of them, or of one for every latent."""
        stride = len(frames) // len(latents)
        shown, seen_from = frames[stride - 1 :: stride], cameras[stride - 1 :: stride]
        metres, labels = given or (None, self.segmenter.segment(shown))
        known_depth = readout.surface(self.config.far)
        depth = self.depth.estimate(shown, seen_from, known=known_depth) if metres is None else metres
        keep, fit = self._keep(depth, labels), None
        if self.config.alignment.enabled and metres is None:
            cells = depth_to_grid(depth.float().cpu(), self.config.latent_size).numpy()
            fit = align_depth(cells, known_depth.cpu().numpy(), keep.cpu().numpy(), self.config.alignment)
            depth = depth * fit.scale  # what now lies beyond near or far is not kept
            keep = self._keep(depth, labels) & (not fit.refused)
        return Chunk(tuple(cameras), frames, depth, labels, keep, readout, known, latents, fit)

    def _remember(self, state: WorldState, chunk: Chunk, splat: Splat, real: bool = False) -> WorldState:
        """Re-encode the frames, lift the cells that were kept, write them; `splat`: what the key cameras showed."""
        now, (latents, recent, begins) = state.chunk + 1, encoded(self.codec, self.config, state, chunk)
        depth = with_sky(chunk.depth, chunk.labels, chunk.key_cameras, self.config.memory.sky)
        views = (latents, chunk.frames[chunk.key_frames], depth, chunk.keep, chunk.key_cameras)
        memory = state.memory.write(*views, now, splat, int(real and self.config.memory.shifts > 0))
        last = Reference(recent[-1], chunk.cameras[-1], memory.frames - 1)
        return replace(
            state,
            memory=memory,
            camera=chunk.cameras[-1],
            latents=recent[-len(state.latents) :],
            chunk=now,
            shown=state.shown_after(chunk.readout, len(recent) - len(state.latents)),
            references=remembered(state.references, last, self.config.references),
            front=begins,
            movers=movers_after(state, chunk, latents, memory, self.config, real),
        )

    def _keep(self, depth: Tensor, labels: Tensor) -> Tensor:
        return keep_cells(depth, labels, (c := self.config).latent_size, c.filters, c.near, c.far, c.memory.sky > 0.0)
