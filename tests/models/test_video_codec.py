"""A codec with four frames per latent behind the protocol of the world model."""

from concurrent.futures import ThreadPoolExecutor

import pytest
import torch
from tiny_wan import CHANNELS, SIZE, tiny_vae

from mirage_env.errors import InvalidImageError
from mirage_env.models.wan.video_codec import WanCodec


@pytest.fixture(scope="module")
def codec():
    return WanCodec(tiny_vae()).eval()


@pytest.fixture(scope="module")
def video():
    """9 frames that change a little from one to the next."""
    generator = torch.Generator().manual_seed(0)
    start, way = torch.rand(3, *SIZE, generator=generator), torch.rand(3, *SIZE, generator=generator)
    return torch.stack([2.0 * start - 1.0 + 0.05 * i * way for i in range(9)]).clamp(-1.0, 1.0)


@torch.inference_mode()
def test_stills_do_not_know_each_other(codec, video):
    together = codec.encode(video)
    assert together.shape == (9, CHANNELS, 4, 4)
    for image, latent in zip(video, together, strict=True):
        torch.testing.assert_close(codec.encode(image[None])[0], latent)
    decoded = codec.decode(together)
    assert decoded.shape == video.shape
    torch.testing.assert_close(codec.decode(together[3:4])[0], decoded[3])


@torch.inference_mode()
def test_a_chunk_is_the_tail_of_the_whole_video(codec, video):
    """Encoded and decoded with the frame before it, as one video of 1 + s K frames."""
    first = codec.encode(video[:1])[0]
    shared = codec.decode(first[None])
    whole = torch.cat([shared, video[1:]]).transpose(0, 1)[None]
    mean, std = codec.mean, codec.std
    expected = (codec.vae.encode(whole).latent_dist.mode() - mean) / std
    latents = codec.encode_chunk(video[1:], first)
    assert latents.shape == (2, CHANNELS, 4, 4)
    torch.testing.assert_close(latents, expected[0].transpose(0, 1)[1:])
    frames = codec.vae.decode(torch.cat([first[None], latents]).transpose(0, 1)[None] * std + mean).sample
    torch.testing.assert_close(codec.decode_chunk(latents, first), frames[0].transpose(0, 1)[1:])
    assert len(frames[0, 0]) == 9


@torch.inference_mode()
def test_a_latent_of_a_chunk_depends_on_the_frames_before_and_not_on_those_after(codec, video):
    first = codec.encode(video[:1])[0]
    latents = codec.encode_chunk(video[1:], first)
    later = video.clone()
    later[5:] *= -1.0
    assert torch.equal(codec.encode_chunk(later[1:], first)[0], latents[0])
    earlier = codec.encode_chunk(video[1:], codec.encode(-video[:1])[0])
    assert not torch.allclose(earlier[0], latents[0])


@torch.inference_mode()
def test_latents_are_normalised_by_the_statistics_of_the_configuration(codec, video):
    raw = codec.vae.encode(video[:1, :, None].contiguous()).latent_dist.mode()[:, :, 0]
    torch.testing.assert_close(codec.encode(video[:1]), (raw - 0.1) / 0.5)


def test_frames_that_make_no_whole_latents_are_refused(codec, video):
    with pytest.raises(InvalidImageError, match=r"7 frames .* 4 frames per latent; give a multiple"):
        codec.encode_chunk(video[:7], torch.zeros(CHANNELS, 4, 4))


def test_threads_do_not_mix_their_videos(codec, video):
    """The autoencoder keeps features of past frames while it works; each call has its own."""
    clips = [video, -video, video.flip(0), video.roll(1, 1)]

    @torch.inference_mode()
    def there_and_back(clip):  # [9, 3, H, W]
        first = codec.encode(clip[:1])[0]
        latents = codec.encode_chunk(clip[1:], first)
        return latents, codec.decode_chunk(latents, first)

    alone = [there_and_back(clip) for clip in clips]
    with ThreadPoolExecutor(2) as pool:
        together = list(pool.map(there_and_back, clips * 3))
    for (latents, frames), (expected_latents, expected_frames) in zip(together, alone * 3, strict=True):
        assert torch.equal(latents, expected_latents)
        assert torch.equal(frames, expected_frames)
    assert codec.vae.state_dict().keys() == tiny_vae().state_dict().keys()
