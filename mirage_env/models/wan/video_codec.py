"""The latent codec of the Wan family: a causal video autoencoder, s = 4 frames per latent after the first.

A video of 1 + 4 K frames has 1 + K latents. The first frame is a still with a latent of its own; each later latent
stands for four frames and depends on those before. A chunk is therefore decoded and encoded together with the still
that it begins at (paper, section on chunks).
"""

from __future__ import annotations

import copy

import torch
from diffusers import AutoencoderKLWan
from torch import Tensor, nn

from mirage_env.errors import InvalidImageError, InvalidOptionError
from mirage_env.models.wan.tiny_decoder import TIME, TinyDecoder


class WanCodec(nn.Module):
    """`AutoencoderKLWan` behind `LatentCodec`; latents are normalised by the statistics in its configuration.

    Args:
        vae: the autoencoder.
        tiny: decodes in its place.

    Raises:
        InvalidOptionError: a tiny decoder of other latents.
    """

    def __init__(self, vae: AutoencoderKLWan, tiny: TinyDecoder | None = None) -> None:
        super().__init__()
        self.vae, self.tiny = vae, tiny
        self.temporal_stride = int(vae.config.scale_factor_temporal)
        self.spatial_stride = int(vae.config.scale_factor_spatial)
        if tiny is not None:
            made = (tiny.decoder[1].in_channels, 8 * tiny.patch, TIME[1] * TIME[2])
            wanted = (vae.config.z_dim, self.spatial_stride, self.temporal_stride)
            if made != wanted:
                raise InvalidOptionError(
                    f"the tiny decoder has {made} latent channels, pixels and frames per latent, the codec {wanted}; "
                    "give the one of this model: taew2_2 for Wan2.2-TI2V-5B"
                )
        shape = (1, vae.config.z_dim, 1, 1, 1)
        self.register_buffer("mean", torch.tensor(vae.config.latents_mean).view(shape), persistent=False)
        self.register_buffer("std", torch.tensor(vae.config.latents_std).view(shape), persistent=False)
        self.mean: Tensor
        self.std: Tensor

    def encode(self, images: Tensor) -> Tensor:  # [F, 3, H, W] -> [F, C, h, w]
        """Each image as a still."""
        return self._encode(images[:, :, None])[:, :, 0]

    def decode(self, latents: Tensor) -> Tensor:  # [F, C, h, w] -> [F, 3, H, W]
        """Each latent as a still."""
        return self._decode(latents[:, :, None])[:, :, 0]

    def encode_video(self, frames: Tensor) -> Tensor:  # [1 + s K, 3, H, W] -> [1 + K, C, h, w]
        """Encode a still and the frames that follow it."""
        return self._encode(frames.transpose(0, 1)[None])[0].transpose(0, 1)

    def encode_chunk(
        self,
        frames: Tensor,  # [s K, 3, H, W]
        first: Tensor,  # [C, h, w]
    ) -> Tensor:  # [K, C, h, w]
        """See `LatentCodec.encode_chunk`.

        Raises:
            InvalidImageError: the frames do not make whole latents.
        """
        if len(frames) % self.temporal_stride:
            raise InvalidImageError(
                f"{len(frames)} frames were given to a codec with {self.temporal_stride} frames per latent; give a "
                "multiple of that"
            )
        video = torch.cat([self.decode(first[None].to(frames)), frames]).transpose(0, 1)[None]
        return self._encode(video)[0].transpose(0, 1)[1:]

    def decode_chunk(
        self,
        latents: Tensor,  # [K, C, h, w]
        first: Tensor,  # [C, h, w]
    ) -> Tensor:  # [s K, 3, H, W]
        """See `LatentCodec.decode_chunk`."""
        video = torch.cat([first[None].to(latents), latents]).transpose(0, 1)[None]
        return self._decode(video)[0].transpose(0, 1)[1:]

    def _encode(self, video: Tensor) -> Tensor:  # [B, 3, 1 + s K, H, W] -> [B, C, 1 + K, h, w]
        latents = self._vae_of_one_call().encode(video, return_dict=False)[0].mode()
        return (latents - self.mean.to(latents)) / self.std.to(latents)

    def _decode(self, latents: Tensor) -> Tensor:  # [B, C, 1 + K, h, w] -> [B, 3, 1 + s K, H, W]
        if self.tiny is not None:
            return self.tiny(latents)
        latents = latents * self.std.to(latents) + self.mean.to(latents)
        return self._vae_of_one_call().decode(latents, return_dict=False)[0].clamp(-1.0, 1.0)

    def _vae_of_one_call(self) -> AutoencoderKLWan:
        """The autoencoder with a causal cache of its own.

        diffusers keeps the features of past frames as attributes of the module, so threads that share it would mix
        their videos. A shallow copy shares the weights and has its own attributes.
        """
        return copy.copy(self.vae)
