"""The networks behind the Protocols: refiner, codec, depth, segmentation."""

import numpy as np
import pytest
import torch
from stand_ins import path, picture
from tiny import tiny_world_model

from mirage_env.camera import Camera
from mirage_env.config.world import WorldModelConfig
from mirage_env.interfaces import MOVER, SKY, STATIC, Readout
from mirage_env.memory.latent import LatentMemory
from mirage_env.models.small.conv_codec import ConvCodec
from mirage_env.models.small.depth_unet import DepthUNet
from mirage_env.models.small.refiner import WINNER_CHANNELS, BareReadout, ConvRefiner, winner_channels
from mirage_env.models.small.segmentation_unet import SegmentationUNet
from mirage_env.models.small.unet import UNet

T, C, GRID = 5, 8, (4, 4)
NARROW = (4, 8, 8, 8)
CAMERA = Camera.from_fov(1.2, 32, 32)


@pytest.fixture(autouse=True)
def _seeded():
    torch.manual_seed(0)


def a_readout(seed: int = 0) -> Readout:
    """Readout of a memory written from one view, at a path that leaves it: some cells seen, some not."""
    rng = torch.Generator().manual_seed(seed)
    memory = LatentMemory.empty(WorldModelConfig("tiny", (32, 32), GRID, C))
    latents, images = torch.randn(1, C, *GRID, generator=rng), torch.zeros(1, 3, 32, 32)
    keep = torch.ones(1, *GRID, dtype=torch.bool)
    written = memory.write(latents, images, torch.full((1, 32, 32), 2.0), keep, [CAMERA], born=0)
    readout = written.read([CAMERA, *path(CAMERA, turn=0.8)], now=3)
    assert 0.0 < readout.observed.mean() < 1.0
    return readout


# Refiner


def test_what_the_memory_did_not_show_stays_zero():
    refiner = tiny_world_model().refiner
    readout = a_readout()
    unseen = (readout.observed == 0)[:, None]
    assert not refiner.refine(readout)[unseen.expand(-1, C, -1, -1)].any()
    assert not winner_channels(readout)[unseen.expand(-1, WINNER_CHANNELS, -1, -1)].any()


def test_winner_channels_tell_every_property_of_the_winner():
    readout = a_readout()
    seen = readout.observed > 0
    channels = winner_channels(readout)
    assert channels.shape == (T, WINNER_CHANNELS, *GRID)
    assert torch.equal(channels[:, :2], readout.offset)
    assert torch.equal(channels[:, 2], readout.scale)
    torch.testing.assert_close(channels[:, 3][seen], 1.0 / readout.depth[seen])
    assert (channels[:, 4][seen] > 0).all()
    assert channels.abs().max() < 5.0


def test_untrained_refiner_changes_nothing():
    readout = a_readout()
    assert torch.equal(ConvRefiner(C, width=8, blocks=1).refine(readout), readout.latent)
    assert torch.equal(BareReadout().refine(readout), readout.latent)


def test_refiner_treats_every_camera_for_itself():
    refiner, readout = tiny_world_model().refiner, a_readout()
    together = refiner.refine(readout)
    alone = torch.cat([refiner.refine(readout[t]) for t in range(T)])
    torch.testing.assert_close(together, alone, rtol=1e-5, atol=1e-5)


# Codec


def smooth_images(count: int = 24) -> torch.Tensor:  # [count, 3, 32, 32], zero mean
    images = torch.from_numpy(np.stack([picture(i) for i in range(count // 2)])).permute(0, 3, 1, 2) / 127.5 - 1.0
    return torch.cat([images, -images])


def test_fitted_codec_starts_as_the_best_linear_code():
    images = smooth_images()
    codec = ConvCodec(latent_channels=C, width=8, deep_width=8, blocks=1)
    codec.fit_linear(images)
    patches = torch.nn.functional.unfold(images, 8, stride=8).transpose(1, 2).reshape(-1, 192).double()
    _, _, components = torch.linalg.svd(patches, full_matrices=False)  # the mean of these images is zero
    best = patches @ components[:C].T @ components[:C]
    coded = codec.reconstruct(codec.encode(images))
    ours = torch.nn.functional.unfold(coded, 8, stride=8).transpose(1, 2).reshape(-1, 192).double()
    torch.testing.assert_close(ours, best, rtol=0, atol=1e-4)


def test_fitted_codec_has_latents_of_unit_scale():
    images = smooth_images()
    codec = ConvCodec(latent_channels=C, width=8, deep_width=8, blocks=1)
    codec.fit_linear(images)
    latents = codec.encode(images)
    torch.testing.assert_close(latents.square().mean((0, 2, 3)), torch.ones(C), rtol=1e-2, atol=1e-2)


def test_calibrated_codec_has_latents_of_zero_mean_and_unit_deviation():
    images = smooth_images()
    codec = tiny_world_model().codec
    before = codec.reconstruct(codec.encode(images))
    codec.calibrate(images)
    latents = codec.encode(images)
    torch.testing.assert_close(latents.mean((0, 2, 3)), torch.zeros(C), rtol=0, atol=1e-4)
    torch.testing.assert_close(latents.std((0, 2, 3)), torch.ones(C), rtol=0, atol=1e-3)
    torch.testing.assert_close(codec.reconstruct(latents), before, rtol=1e-4, atol=1e-4)


@pytest.mark.parametrize("size", [(32, 32), (16, 48), (8, 8)])
def test_codec_has_one_latent_per_image_and_eight_pixels_per_cell(size):
    codec = tiny_world_model().codec
    images = 2.0 * torch.rand(3, 3, *size) - 1.0
    latents = codec.encode(images)
    assert latents.shape == (3, C, size[0] // 8, size[1] // 8)
    assert codec.decode(latents).shape == images.shape


def test_decoded_images_lie_in_range_whatever_the_latents():
    images = tiny_world_model().codec.decode(100.0 * torch.randn(2, C, *GRID))
    assert images.min() >= -1.0
    assert images.max() <= 1.0


def test_codec_treats_every_image_for_itself():
    codec = tiny_world_model().codec
    images = smooth_images(6)
    torch.testing.assert_close(codec.encode(images)[3:4], codec.encode(images[3:4]), rtol=1e-4, atol=1e-5)


# U-Net


@pytest.mark.parametrize("size", [(16, 16), (32, 48), (80, 16)])
def test_unet_keeps_any_size_that_is_a_multiple_of_sixteen(size):
    assert UNet(2, 3, NARROW).eval()(torch.randn(1, 2, *size)).shape == (1, 3, *size)


# Depth


def depth_network(**options) -> DepthUNet:
    """Random weights whose depth stays between near and far."""
    network = DepthUNet(widths=NARROW, **options).eval()
    with torch.no_grad():
        network.unet.head[0].weight *= 0.3
    return network


def lens(zoom: float) -> Camera:
    """A lens of that many times the canonical focal length."""
    focal = zoom * DepthUNet(widths=NARROW).config.canonical_focal * 32
    return Camera(np.eye(4), np.array([[focal, 0, 16], [0, focal, 16], [0, 0, 1]]), 32, 32)


def test_depth_is_positive_and_between_near_and_far():
    network = DepthUNet(widths=NARROW, near=0.5, far=4.0).eval()
    with torch.no_grad():
        network.unet.head[0].weight *= 100.0
    depth = network.estimate(torch.randn(2, 3, 32, 32), [CAMERA, CAMERA])
    assert depth.shape == (2, 32, 32)
    assert depth.min() == 0.5
    assert depth.max() == 4.0


def test_longer_lens_sees_the_same_image_farther_away():
    network, images = depth_network(), torch.rand(1, 3, 32, 32)
    canonical = network.estimate(images, [lens(1.0)])
    torch.testing.assert_close(network.estimate(images, [lens(2.0)]), 2.0 * canonical)
    assert canonical.min() > network.config.near
    assert canonical.max() < 0.5 * network.config.far


def test_known_depth_scales_with_the_lens_too():
    network, images, known = depth_network(), torch.rand(1, 3, 32, 32), 1.0 + torch.rand(1, *GRID)
    canonical = network.estimate(images, [lens(1.0)], known)
    torch.testing.assert_close(network.estimate(images, [lens(2.0)], 2.0 * known), 2.0 * canonical)


def test_every_image_has_its_own_lens():
    network, images = depth_network(), torch.rand(1, 3, 32, 32)
    depth = network.estimate(images.repeat(2, 1, 1, 1), [lens(1.0), lens(1.5)])
    torch.testing.assert_close(depth[1], 1.5 * depth[0])


def test_known_depth_changes_the_estimate_where_it_is_known():
    network, images = depth_network(), torch.rand(1, 3, 64, 64)
    camera = CAMERA.resized(64, 64)
    known = torch.zeros(1, 8, 8)
    nothing = network.estimate(images, [camera])
    torch.testing.assert_close(network.estimate(images, [camera], known), nothing, rtol=0, atol=0)
    known[0, 0, 0] = 1.0
    near, far = network.estimate(images, [camera], known), network.estimate(images, [camera], 3.0 * known)
    assert (near[0, :8, :8] != nothing[0, :8, :8]).any()
    assert (near[0, :8, :8] != far[0, :8, :8]).any()


# Segmentation


def test_every_pixel_gets_one_of_the_three_labels():
    labels = SegmentationUNet(widths=NARROW).eval().segment(torch.randn(2, 3, 32, 48))
    assert labels.shape == (2, 32, 48)
    assert labels.dtype == torch.int64
    assert set(labels.unique().tolist()) <= {STATIC, MOVER, SKY}


def test_label_is_the_one_with_the_largest_logit():
    network, images = SegmentationUNet(widths=NARROW).eval(), torch.randn(1, 3, 32, 32)
    logits, labels = network(images), network.segment(images)
    assert torch.equal(logits.gather(1, labels[:, None])[:, 0], logits.amax(1))
