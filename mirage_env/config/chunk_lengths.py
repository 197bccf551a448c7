"""Lengths of chunks: how many latents and frames each chunk of a world has."""

from __future__ import annotations

from itertools import pairwise

from mirage_env.errors import InvalidOptionError


class ChunkLengths:
    """Everything that depends on a chunk's length, from four settings of `WorldModelConfig`."""

    chunk_latents: int
    clean_latents: int
    first_chunk_latents: int | None
    temporal_stride: int

    def check_lengths(self) -> None:
        """Compare the settings with each other: what is clean must lie within the chunk before.

        Raises:
            InvalidOptionError: no chunk, or one that is too short.
        """
        front, new = self.clean_latents, (self.chunk_latents - self.clean_latents, self.latents_of(0) - 1)
        if front < 1 or min(new) < (front if front > 1 else 1):
            raise InvalidOptionError(
                f"chunk_latents is {self.chunk_latents}, clean_latents {front} and first_chunk_latents "
                f"{self.first_chunk_latents}; give at least one clean latent, and as many new ones in every chunk"
            )
        if front > 1 and self.temporal_stride == 1:
            raise InvalidOptionError(
                f"clean_latents is {front}; more than one needs a codec with several frames per latent"
            )

    @property
    def frames_per_chunk(self) -> int:
        """F: new image frames per chunk, those before it not counted; a first chunk may have more (`frames_of`)."""
        return self.temporal_stride * (self.chunk_latents - self.clean_latents)

    @property
    def front(self) -> int:
        """Length of `WorldState.front`: none where the still of the last frame is all that a chunk begins with."""
        return self.clean_latents if self.clean_latents > 1 else 0

    def clean_of(self, chunk: int) -> int:
        """Clean latents at the front of the chunk that follows `chunk` others."""
        return self.clean_latents if chunk else 1

    def latents_of(self, chunk: int) -> int:
        """T of the chunk that follows `chunk` others, the clean ones counted."""
        if chunk:
            return self.chunk_latents
        return self.first_chunk_latents or 1 + self.chunk_latents - self.clean_latents

    def lengths_of(self, chunk: int) -> tuple[int, int]:
        """`latents_of` and `clean_of`: chunks of which both are equal go through the network together."""
        return self.latents_of(chunk), self.clean_of(chunk)

    def frames_of(self, chunk: int) -> int:
        """F of the chunk that follows `chunk` others: so many cameras it takes."""
        return self.temporal_stride * (self.latents_of(chunk) - self.clean_of(chunk))

    def frames_in(self, chunks: int, after: int = 0) -> int:
        """New frames of so many chunks that follow `after` others."""
        return sum(self.frames_of(after + i) for i in range(chunks))

    def pieces(self, frames: int, after: int = 0) -> list[slice]:
        """Whole chunks that so many frames fill, after `after` others; the last one ends beyond them if need be."""
        ends = [0]
        while ends[-1] < frames:
            ends.append(ends[-1] + self.frames_of(after + len(ends) - 1))
        return [slice(a, b) for a, b in pairwise(ends)]

    @property
    def most_latents(self) -> int:
        """T of the longest chunk."""
        return max(self.chunk_latents, self.latents_of(0))

    @property
    def window_frames(self) -> int:
        """Image frames after the first that training shows as one chunk: clips are encoded in such windows."""
        return self.temporal_stride * (self.chunk_latents - 1)
