"""Tiny video decoders: what a file in the published layout says, frame by frame, and nothing else."""

import pytest
import torch
from safetensors.torch import save_file
from tiny_wan import CHANNELS, tiny_vae
from torch import Tensor
from torch.nn import functional as F

from mirage_env.errors import InvalidOptionError, WeightsError
from mirage_env.models.wan.tiny_decoder import load_tiny_decoder
from mirage_env.models.wan.video_codec import WanCodec

WIDTHS = (12, 10, 8, 6)


def published(channels: int = CHANNELS, first_frames: int = 1) -> dict[str, Tensor]:
    """Random weights by the published names: three stages of three memory blocks, an encoder beside them."""
    g = torch.Generator().manual_seed(0)
    shapes = {"decoder.1": (WIDTHS[0], channels, 3), "decoder.22": (12, WIDTHS[3], 3), "encoder.0": (64, 12, 3)}
    for start, width, after, frames in zip((3, 9, 15), WIDTHS, WIDTHS[1:], (first_frames, 2, 2), strict=False):
        for block in range(start, start + 3):
            for layer, inputs in ((0, 2 * width), (2, width), (4, width)):
                shapes[f"decoder.{block}.conv.{layer}"] = (width, inputs, 3)
        shapes[f"decoder.{start + 4}.conv"] = (frames * width, width, 1)
        shapes[f"decoder.{start + 5}"] = (after, width, 3)
    weights = {f"{name}.weight": 0.4 * torch.randn(o, i, k, k, generator=g) for name, (o, i, k) in shapes.items()}
    biased = [n for n, (_, _, k) in shapes.items() if k == 3 and n not in ("decoder.8", "decoder.14", "decoder.20")]
    return weights | {f"{name}.bias": 0.1 * torch.randn(shapes[name][0], generator=g) for name in biased}


def frame_by_frame(weights: dict[str, Tensor], latents: Tensor) -> Tensor:  # [T, C, h, w] -> [4 T - 3, 3, H, W]
    """The same, one latent after the other, each block with the frame that it saw before."""
    before: dict[str, Tensor] = {}

    def conv(name: str, x: Tensor) -> Tensor:
        weight = weights[f"{name}.weight"]
        return F.conv2d(x[None], weight, weights.get(f"{name}.bias"), padding=weight.shape[-1] // 2)[0]

    def block(name: str, x: Tensor) -> Tensor:
        past = before.get(name, torch.zeros_like(x))
        before[name] = x
        y = conv(f"{name}.conv.0", torch.cat([x, past])).relu()
        return (conv(f"{name}.conv.4", conv(f"{name}.conv.2", y).relu()) + x).relu()

    def stage(frames: list[Tensor], start: int, more: int) -> list[Tensor]:
        made = []
        for x in frames:
            for i in range(start, start + 3):
                x = block(f"decoder.{i}", x)
            x = x.repeat_interleave(2, 1).repeat_interleave(2, 2)
            grown = conv(f"decoder.{start + 4}.conv", x).split(len(x))
            made += [conv(f"decoder.{start + 5}", y) for y in grown[-more:]]
        return made

    shown = []
    for latent in latents:
        frames = [conv("decoder.1", 3.0 * torch.tanh(latent / 3.0)).relu()]
        for start, more in ((3, 1), (9, 2), (15, 2)):
            frames = stage(frames, start, more)
        shown += [F.pixel_shuffle(conv("decoder.22", x.relu()), 2).clamp(0.0, 1.0) for x in frames]
    return 2.0 * torch.stack(shown)[3:] - 1.0


@pytest.mark.parametrize("first_frames", [1, 2])
@torch.inference_mode()
def test_a_file_in_the_published_layout_decodes_as_frame_by_frame(tmp_path, first_frames):
    weights = published(first_frames=first_frames)
    save_file(weights, tmp_path / "taew2_2.safetensors")
    codec = WanCodec(tiny_vae(), load_tiny_decoder(tmp_path / "taew2_2.safetensors")).eval()
    latents = torch.randn(3, CHANNELS, 2, 2, generator=torch.Generator().manual_seed(1))
    expected = frame_by_frame(weights, latents)
    assert expected.shape == (9, 3, 32, 32)
    assert expected.std() > 0.1
    frames = codec.decode_chunk(latents[1:], latents[0])
    torch.testing.assert_close(frames, expected[1:], rtol=1e-5, atol=1e-5)
    stills = torch.cat([frame_by_frame(weights, latent[None]) for latent in latents])
    torch.testing.assert_close(codec.decode(latents), stills, rtol=1e-5, atol=1e-5)


def test_files_of_another_layout_or_codec_are_refused(tmp_path):
    def loaded(weights, name="file.safetensors"):
        save_file(weights, tmp_path / name)
        return load_tiny_decoder(tmp_path / name)

    (tmp_path / "taew2_2.pth").write_bytes(b"\x80\x04.")
    with pytest.raises(WeightsError, match="save_file"):
        load_tiny_decoder(tmp_path / "taew2_2.pth")
    with pytest.raises(WeightsError, match="TAEHV"):
        loaded({"decoder.1.weight": torch.zeros(4, 4, 3, 3)})
    with pytest.raises(WeightsError, match=r"unexpected decoder.30.weight"):
        loaded({**published(), "decoder.30.weight": torch.zeros(1)})
    with pytest.raises(WeightsError, match=r"missing decoder.9.conv.0.weight"):
        loaded({k: v for k, v in published().items() if k != "decoder.9.conv.0.weight"})
    with pytest.raises(InvalidOptionError, match=r"taew2_2 for Wan2.2"):
        WanCodec(tiny_vae(), loaded(published(channels=CHANNELS + 1)))
