"""Preview of a chunk as soon as its frames are decoded, before its depth is known and it is written to memory."""

from __future__ import annotations

from collections.abc import Callable, Sequence
from dataclasses import replace

from torch import Generator, Tensor

from mirage_env.camera import Camera
from mirage_env.interfaces import ChunkGenerator, Guidance, LatentCodec, Readout
from mirage_env.viewer.world_tree import Sight
from mirage_env.world_model import WorldModel


def watched(model: WorldModel, cameras: Sequence[Camera], show: Callable[[Sight], None]) -> WorldModel:
    """The same model, for one step along `cameras`: it shows the frames of the chunk when they are there.

    Its parts pass on what they are given and what they make, so the step is the same bit for bit.
    """
    generator = _Generator(model.generator)
    return replace(model, generator=generator, codec=_Codec(model.codec, generator, tuple(cameras), show))


class _Generator:
    """Remembers what the memory knew of the chunk (`ChunkGenerator`)."""

    def __init__(self, part: ChunkGenerator) -> None:
        self._part = part

    def generate(
        self,
        known: Tensor,  # [B, T, C, h, w]
        readout: Sequence[Readout],  # B
        rays: Tensor,
        preceding: Sequence[Tensor],
        generators: Sequence[Generator],
        references: Sequence[Tensor] = (),
        prompts: Sequence[str] = (),
        guidance: Sequence[Guidance] = (),
        preceding_readout: Sequence[Tensor] = (),
        chunks: Sequence[int] = (),
        clean: int = 1,
        cameras: Sequence[Sequence[Camera]] = (),
    ) -> Tensor:
        self.known, self.observed = known[0, clean:], readout[0].observed[clean:]
        return self._part.generate(
            known=known,
            readout=readout,
            rays=rays,
            preceding=preceding,
            generators=generators,
            references=references,
            prompts=prompts,
            guidance=guidance,
            preceding_readout=preceding_readout,
            chunks=chunks,
            clean=clean,
            cameras=cameras,
        )


class _Codec:
    """Shows the frames that it decodes (`LatentCodec`)."""

    def __init__(
        self, part: LatentCodec, generator: _Generator, cameras: tuple[Camera, ...], show: Callable[[Sight], None]
    ) -> None:
        self._generator, self._cameras, self._show = generator, cameras, show
        self._part = part
        self.encode, self.decode = part.encode, part.decode
        self.encode_chunk, self.encode_video = part.encode_chunk, part.encode_video

    def decode_chunk(self, latents: Tensor, first: Tensor) -> Tensor:
        frames = self._part.decode_chunk(latents, first)
        self._show(
            Sight.of(frames[-len(self._cameras) :], self._cameras, self._generator.known, self._generator.observed)
        )
        return frames
