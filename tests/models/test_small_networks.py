"""The networks behind the Protocols: refiner, codec, depth, segmentation."""

import copy
import math
from dataclasses import replace

import numpy as np
import pytest
import torch
from stand_ins import path, picture
from tiny import tiny_depth, tiny_segmentation, tiny_world_model

from mirage_env.camera import Camera
from mirage_env.config.world import ReadoutConfig, WorldModelConfig
from mirage_env.interfaces import MOVER, SKY, STATIC, Readout
from mirage_env.memory.latent import LatentMemory
from mirage_env.models.offload import PlacedDepth, cast
from mirage_env.models.small.conv_codec import ConvCodec
from mirage_env.models.small.depth_unet import DepthUNet, hints, ray_tangents
from mirage_env.models.small.efficientnet_lite import EfficientNetLite, SameConv2d
from mirage_env.models.small.refiner import WINNER_CHANNELS, BareReadout, ConvRefiner, winner_channels

T, C, GRID = 5, 8, (4, 4)
BATCH_NORM = ("weight", "bias", "running_mean", "running_var")
CAMERA = Camera.from_fov(1.2, 32, 32)


@pytest.fixture(autouse=True)
def _seeded():
    torch.manual_seed(0)


def a_readout(seed: int = 0, quarters: bool = False) -> Readout:
    """Readout of a memory written from one view, at a path that leaves it: some cells seen, some not."""
    rng = torch.Generator().manual_seed(seed)
    memory = LatentMemory.empty(WorldModelConfig("tiny", (32, 32), GRID, C, readout=ReadoutConfig(quarters=quarters)))
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


def test_refiner_sees_the_quarters_of_its_cells_where_there_are_any():
    refiner, readout = ConvRefiner(C, width=8, blocks=1, quarters=True).eval(), a_readout(quarters=True)
    assert torch.equal(refiner.refine(readout), readout.latent)  # untrained
    for parameter in refiner.parameters():
        torch.nn.init.normal_(parameter, std=0.1, generator=torch.Generator().manual_seed(1))
    blind = replace(readout, quarters=torch.empty(0))
    told, plain = refiner.refine(readout), refiner.refine(blind)
    assert (told - plain).abs().amax((1, 2, 3)).min() > 1e-3
    other = replace(readout, quarters=readout.quarters.flip(1))
    assert not torch.allclose(refiner.refine(other), told)
    assert not told[(readout.observed == 0)[:, None].expand_as(told)].any()


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


# Depth


def depth_network(scale: float = 0.3, **options: float) -> DepthUNet:
    """Random weights; depth stays between near and far unless the scale is large."""
    network = tiny_depth(**options).eval()
    with torch.no_grad():
        network.unet.head[0].weight *= scale
    return network


def lens(zoom: float) -> Camera:
    """A lens of that many times the canonical focal length."""
    focal = zoom * tiny_depth().config.canonical_focal * 32
    return Camera(np.eye(4), np.array([[focal, 0, 16], [0, focal, 16], [0, 0, 1]]), 32, 32)


def test_depth_is_positive_and_between_near_and_far():
    depth = depth_network(300.0, near=0.5, far=4.0).estimate(torch.randn(2, 3, 32, 32), [CAMERA, CAMERA])
    assert depth.shape == (2, 32, 32)
    assert depth.min() == 0.5
    assert depth.max() == 4.0


def test_longer_lens_sees_its_image_farther_away_and_every_image_has_its_own():
    network, images = depth_network(), torch.rand(2, 3, 32, 32)
    known = 1.0 + torch.rand(2, *GRID)
    cameras, zooms = [lens(1.0), lens(2.0)], torch.tensor([1.0, 2.0])[:, None, None]
    rays = ray_tangents(torch.from_numpy(np.stack([c.K_image for c in cameras])).float(), (32, 32))
    expected = network(images, known / zooms, rays).exp() * zooms
    torch.testing.assert_close(network.estimate(images, cameras, known), expected)
    assert expected.min() > network.config.near
    assert expected.max() < network.config.far


def test_depth_of_a_bfloat16_network_is_as_finely_graded_as_that_of_a_float32_one():
    exact, images = depth_network(), torch.rand(2, 3, 32, 32)
    half = (images.device, torch.bfloat16)
    rounded = PlacedDepth(cast(copy.deepcopy(exact), *half), *half)
    cameras, known = [lens(1.0), lens(1.3)], 1.0 + torch.rand(2, *GRID)
    depth, same = rounded.estimate(images, cameras, known), exact.estimate(images, cameras, known)
    assert depth.unique().numel() > 0.9 * same.unique().numel()
    torch.testing.assert_close(depth, same, rtol=0.03, atol=0.0)
    with torch.autocast("cpu", torch.bfloat16):  # as in training
        assert exact(images, known, torch.zeros(2, 2, 32, 32)).dtype == torch.float32


def test_rays_of_a_lens_are_those_of_its_camera():
    camera = Camera(np.eye(4), np.array([[20.0, 0, 11], [0, 25.0, 17], [0, 0, 1]]), 24, 32)
    rays = ray_tangents(torch.tensor(camera.K_image)[None], (24, 32))[0]
    points = np.array([[(u + 0.5 - 11) / 20.0, (v + 0.5 - 17) / 25.0] for v in (0, 23) for u in (0, 31)])
    np.testing.assert_allclose(rays[:, ::23, ::31].reshape(2, 4).T, points, rtol=1e-12)


@pytest.mark.parametrize("size", [(32, 32), (40, 64), (30, 18)])
def test_depth_of_any_even_size_has_the_size_of_its_image(size):
    camera = Camera.from_fov(1.2, *size)
    assert depth_network().estimate(torch.rand(1, 3, *size), [camera]).shape == (1, *size)


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


def test_coarse_hint_is_the_mean_of_the_known_cells_alone():
    known = torch.zeros(1, 8, 8)
    known[0, 0, :2] = torch.tensor([1.0, 4.0])
    coarse = hints(known, torch.zeros(1, 2, 32, 32), torch.Size((2, 2)))
    torch.testing.assert_close(coarse[0, 0], torch.tensor([[0.5 * math.log(4.0) - 1.0, 0.0], [0.0, 0.0]]))
    torch.testing.assert_close(coarse[0, 1], torch.tensor([[2 / 16, 0.0], [0.0, 0.0]]))


def test_published_weights_of_the_encoder_go_where_they_belong():
    """The names of the published file, in its order, with what lies behind our last stage."""
    names = ["_conv_stem.weight", *(f"_bn0.{n}" for n in BATCH_NORM)]
    blocks = [block for stage in EfficientNetLite((4,) * 6, 4).stages for block in stage]
    for i, block in enumerate(blocks):
        kinds = ["expand", "depthwise", "project"][-sum(isinstance(m, torch.nn.Conv2d) for m in block.layers) :]
        for j, kind in enumerate(kinds):
            names += [
                f"_blocks.{i}._{kind}_conv.weight",
                *(f"_blocks.{i}._bn{j + 3 - len(kinds)}.{n}" for n in BATCH_NORM),
            ]
    encoder = EfficientNetLite((4,) * 6, 4)
    own = {n: torch.rand_like(v) for n, v in encoder.state_dict().items() if not n.endswith("tracked")}
    published = dict(zip(names, own.values(), strict=True)) | {"_conv_head.weight": torch.zeros(3)}
    encoder.load_imagenet(published)
    with pytest.raises(RuntimeError, match="weights were given"):
        encoder.load_imagenet(dict(list(published.items())[:5]))
    for name, value in own.items():
        assert torch.equal(encoder.state_dict()[name], value), name


@pytest.mark.parametrize(("size", "kernel"), [(8, 3), (7, 3), (8, 5), (9, 5)])
def test_same_convolution_looks_where_tensorflow_does(size, kernel):
    """Odd padding lies behind; a shift by half a step would spoil published weights without an error."""
    conv = SameConv2d(1, 1, kernel, 2, bias=False)
    image = torch.rand(1, 1, size, size)
    total = max((-(-size // 2) - 1) * 2 + kernel - size, 0)
    padded = torch.zeros(1, 1, size + total, size + total)
    padded[..., total // 2 : total // 2 + size, total // 2 : total // 2 + size] = image
    expected = torch.nn.functional.conv2d(padded, conv.weight, stride=2)
    assert expected.shape[-1] == -(-size // 2)
    torch.testing.assert_close(conv(image), expected)


def test_autocast_leaves_grouped_convolutions_exact_whose_gradient_is_slow_in_bfloat16():
    conv = SameConv2d(2, 2, 3, groups=2, bias=False)
    with torch.no_grad():
        conv.weight.zero_()[:, 0, 1, 1:] = torch.tensor([1.0 + 2.0**-9, -1.0])  # bfloat16 would make 1 and -1 of them
    with torch.autocast("cpu", torch.bfloat16):
        out = conv(torch.ones(1, 2, 4, 4, dtype=torch.bfloat16))
    assert out.dtype == torch.bfloat16
    assert (out[..., :3] == 2.0**-9).all()


# Segmentation


def test_every_pixel_gets_one_of_the_three_labels():
    labels = tiny_segmentation().eval().segment(torch.randn(2, 3, 32, 48))
    assert labels.shape == (2, 32, 48)
    assert labels.dtype == torch.int64
    assert set(labels.unique().tolist()) <= {STATIC, MOVER, SKY}


def test_label_is_the_one_with_the_largest_logit():
    network, images = tiny_segmentation().eval(), torch.randn(1, 3, 32, 32)
    logits, labels = network(images), network.segment(images)
    assert torch.equal(logits.gather(1, labels[:, None])[:, 0], logits.amax(1))
