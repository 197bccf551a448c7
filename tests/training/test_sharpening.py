"""Losses that make pictures crisp, patches that grow, stages on decoded pictures, and one command for all of them."""

import json
import logging
import math
from dataclasses import replace
from types import SimpleNamespace

import gymnasium as gym
import numpy as np
import pytest
import torch
from tiny import tiny_depth, tiny_segmentation, tiny_world_model
from torch import nn
from torch.nn import functional as F

from mirage_env.config.world import MemoryConfig
from mirage_env.datasets import record_environment
from mirage_env.datasets.clips import Clips, write_clips
from mirage_env.datasets.start_views import home_view, load_start_views, save_start_views
from mirage_env.errors import ClipError, InvalidOptionError, WeightsError
from mirage_env.evaluation import loop, network_parts, own_clips
from mirage_env.evaluation.metrics import gradient_energy, psnr
from mirage_env.interfaces import SKY
from mirage_env.models.small.detail_head import DetailHead
from mirage_env.models.small.refiner import exact_refiner
from mirage_env.models.wan.chunk_denoiser import ChunkDenoiser
from mirage_env.models.world_model_loader import load_world_model
from mirage_env.rooms.clips import rooms_clip
from mirage_env.training import sharp_detail, unseen
from mirage_env.training.clip_views import sizes_of, views_of, wobbled
from mirage_env.training.closed_loop import train_closed_loop
from mirage_env.training.imagined_walks import ClosedLoop, Networks, Painters, seen
from mirage_env.training.loop import LoopConfig, train
from mirage_env.training.perceptual import (
    Game,
    balance,
    colour_loss,
    energy_gap,
    lattice,
    local_lattice,
    pixel_loss,
    seam_loss,
)
from mirage_env.training.scene import ScenePair
from mirage_env.training.scene_in_loop import followed, train_scene_in_loop
from mirage_env.training.sharp_detail import train_sharp_detail
from mirage_env.training.sharpen import NEARER, remembered_near, sharpen_decoder, sharpen_refiner, sharpness
from mirage_env.training.unseen import train_unseen
from mirage_env.training.whole_run import SHARES, TrainAll, run
from mirage_env.training.wider_patches import wider_branch, wider_transformer

QUICK = LoopConfig(steps=2, lr=1e-3, warmup=1, ema=0.5, log_every=1, bf16=False)
FRAMES = 12


@pytest.fixture(autouse=True)
def _seeded():
    torch.manual_seed(0)


@pytest.fixture(scope="module")
def clips(tmp_path_factory) -> Clips:
    """Two walks through rooms."""
    made = (rooms_clip(seed, "train", FRAMES, 64) for seed in (1, 2))
    return write_clips(tmp_path_factory.mktemp("clips"), made, 2, {})


@pytest.fixture(scope="module")
def wide():
    """A tiny model at 64 x 64 with dense start views, detail and patches of 4 x 4 cells."""
    model = tiny_world_model()
    old, sampler = model.generator, replace(model.config.sampler, exact=0.05, anchored=True)
    detail = DetailHead(latent_channels=8, width=8, blocks=1)
    denoiser = ChunkDenoiser(wider_transformer(old.transformer), wider_branch(old.branch), sampler, detail=detail)
    config = replace(model.config.at((64, 64)), sampler=sampler, memory=MemoryConfig(shifts=2))
    return replace(model, config=config, generator=denoiser, refiner=exact_refiner(model.refiner))


def networks_of(model, scene=None):
    return Networks(model.config, tiny_world_model().codec, model.refiner, model.generator, scene)


def pictures(seed: int = 0) -> torch.Tensor:
    coarse = torch.rand(2, 3, 16, 16, generator=torch.Generator().manual_seed(seed)) * 2 - 1
    return F.interpolate(coarse, size=(64, 64), mode="bilinear")


# Losses


def test_gradient_energy_is_none_on_a_plain_wall_and_falls_with_blur():
    assert not gradient_energy(torch.full((1, 3, 8, 8), 0.3)).any()
    blurred = F.avg_pool2d(pictures(), 5, 1, 2)
    assert sharpness(pictures(), pictures()) == pytest.approx(1.0)
    assert sharpness(blurred, pictures()) < 0.7


def test_a_tint_costs_what_it_is_and_texture_nothing():
    plain, texture = torch.rand(2, 3, 64, 48), torch.ones(2, 3, 64, 48)
    texture[..., ::2] = -1.0
    everywhere, nowhere = torch.ones(2, 1, 64, 48), torch.zeros(2, 1, 64, 48)
    assert float(colour_loss(plain + 0.1, plain, everywhere)) == pytest.approx(0.1, abs=1e-5)
    assert float(colour_loss(plain + texture, plain, everywhere)) == pytest.approx(0.0, abs=1e-5)
    assert colour_loss(plain + 0.1, plain, nowhere) == 0.0


def test_the_energy_gap_asks_for_as_much_detail_as_there_is_and_no_more():
    truth = pictures()
    softer, harder = F.avg_pool2d(truth, 9, 1, 4), truth + 0.2 * torch.randn_like(truth)
    assert energy_gap(truth, truth) == 0.0
    assert min(energy_gap(softer, truth), energy_gap(harder, truth)) > 0.05
    # Another picture that is as sharp is right: what is there is for others to judge.
    assert energy_gap(truth.flip(-1), truth) < energy_gap(softer, truth)


def test_a_seam_counts_where_the_known_ends_and_a_wrong_shade_does_not():
    observed, plain = torch.ones(1, 1, 8, 8), torch.zeros(1, 3, 64, 64)
    observed[..., 4:] = 0.0
    still = torch.ones(1, 1, 64, 64)
    at_the_border, elsewhere = plain.clone(), plain.clone()
    at_the_border[..., 32:] = 0.2
    elsewhere[..., 56:] = 0.2
    for flip in (False, True):  # along either side
        made, far, seen = ((v.mT if flip else v) for v in (at_the_border, elsewhere, observed))
        assert seam_loss(made, plain, seen, still) > 1e-3
        assert seam_loss(made, plain, seen, 0.0 * still) == 0.0
        for same in (far, plain + 0.3):
            assert seam_loss(same, plain, seen, still) == 0.0


def test_a_lattice_is_what_all_cells_have_in_common():
    pattern = torch.randn(3, 8, 8).repeat(1, 8, 8)[None]
    noise = torch.randn(1, 3, 64, 64)
    assert lattice(pattern, 8) == pytest.approx(float(pattern.var((-2, -1), unbiased=False).mean()), rel=0.1)
    assert lattice(noise, 8) < 0.05
    assert lattice(torch.full((2, 3, 64, 64), 0.5), 8) == 0.0


def test_a_lattice_of_its_own_in_every_place_counts_and_texture_does_not():
    truth, ones = 0.1 * pictures(), torch.ones(2, 1, 64, 64)
    sign = torch.ones(64, 64)
    sign[:32, :32] = sign[32:, 32:] = -1.0  # all cells of the picture have nothing in common
    stripes = (0.1 * (torch.arange(64) % 8 == 0)).expand(64, 64)
    drawn, noise = truth + sign * stripes, truth + 0.035 * torch.randn(truth.shape)
    assert float(lattice(drawn - truth, 8)) < 1e-8
    assert (drawn - truth).std() == pytest.approx(float((noise - truth).std()), rel=0.1)
    assert float(local_lattice(drawn, truth, ones, 8)) > 5 * float(local_lattice(noise, truth, ones, 8))
    assert not local_lattice(truth, drawn, ones, 8).any()  # none is asked for
    assert not local_lattice(drawn, truth, 0.0 * ones, 8).any()


def test_what_weighs_nothing_is_not_compared():
    truth = pictures()
    weight = torch.ones(2, 1, 64, 64)
    weight[..., 32:] = 0.0
    other = torch.where(weight > 0, truth, torch.randn_like(truth))
    assert pixel_loss(other, truth, weight) == pytest.approx(float(pixel_loss(truth, truth, weight)))
    assert energy_gap(other * weight, truth * weight, weight) == 0.0


def test_in_the_game_each_side_learns_from_its_own_loss_only():
    game, image = Game(after=0), nn.Parameter(pictures())
    game.learning(pictures(1), image).backward()
    assert image.grad is None
    assert all(p.grad is not None for p in game.discriminator.parameters())
    game.zero_grad(set_to_none=True)
    game.fooling(image, step=0).backward()
    assert image.grad is not None
    assert all(p.grad is None for p in game.discriminator.parameters())


def test_the_discriminator_has_the_first_steps_to_itself():
    assert Game(after=5).fooling(pictures(), step=4) == 0.0
    assert Game(after=5).fooling(pictures(), step=5) != 0.0


# Patches


def test_wider_patches_see_and_say_the_same_of_a_picture_of_twice_the_size():
    """At the start they see the mean over each two by two cells, and say the same of all four."""
    old = tiny_world_model().generator.transformer.eval()
    wide = wider_transformer(old).eval()
    small = torch.randn(1, 8, 3, 4, 4)
    large = small.repeat_interleave(2, -1).repeat_interleave(2, -2)
    text, time = torch.zeros(1, 1, 8), torch.full((1, 3 * 4), 500.0)
    with torch.no_grad():
        said = old(small, time, text, return_dict=False)[0]
        wider = wide(large, time, text, return_dict=False)[0]
    torch.testing.assert_close(wider, said.repeat_interleave(2, -1).repeat_interleave(2, -2), rtol=1e-4, atol=1e-5)


def test_a_wider_branch_embeds_the_same_of_a_condition_of_twice_the_size():
    old = tiny_world_model().generator.branch
    wide = wider_branch(old)
    small = torch.randn(1, old.patch_embedding.in_channels, 2, 4, 4)
    large = small.repeat_interleave(2, -1).repeat_interleave(2, -2)
    torch.testing.assert_close(wide.patch_embedding(large), old.patch_embedding(small), rtol=1e-4, atol=1e-5)


# Views


def test_views_at_half_size_have_the_cameras_of_their_pictures(clips):
    whole, half = (views_of(clips, 0, [3], size) for size in ((64, 64), (32, 32)))
    odd = views_of(clips, 0, [3], (40, 40))
    assert torch.equal(odd.depth[0, 5], whole.depth[0, 8, torch.arange(40) * 64 // 40])
    assert np.allclose(odd.cameras[0].K_at(64, 64), whole.cameras[0].K_image)
    assert float(odd.images.mean()) == pytest.approx(float(whole.images.mean()), abs=0.02)
    torch.testing.assert_close(half.images, F.avg_pool2d(whole.images, 2))
    assert torch.equal(half.depth, whole.depth[:, ::2, ::2])
    np.testing.assert_allclose(2 * half.cameras[0].K_image[:2], whole.cameras[0].K_image[:2])
    assert sizes_of(clips) == [(64, 64)]


def test_wobbled_depth_is_wrong_smoothly_and_sky_stays_sky():
    depth = torch.full((2, 64, 64), 3.0)
    depth[:, :8] = torch.inf
    wrong = wobbled(depth, 0.04, torch.Generator().manual_seed(0))
    assert torch.isinf(wrong[:, :8]).all()
    ratio = wrong[:, 8:] / 3.0
    assert 0.01 < float((ratio - 1.0).abs().mean()) < 0.2
    assert float((ratio[:, 1:] / ratio[:, :-1] - 1.0).abs().max()) < 0.02


def test_world_is_seen_with_the_models_networks_or_else_with_the_truth(clips):
    views, random = views_of(clips, 0, [0, 1], (64, 64)), torch.Generator()
    other = seen(views, views.images, None, None, 0.0, random)
    torch.testing.assert_close(other.depth, views.depth)
    assert torch.equal(other.labels, views.labels)
    scene, known = ScenePair(tiny_depth(), tiny_segmentation()).eval(), torch.full((2, 8, 8), 3.0)
    with torch.no_grad():
        own = seen(views, views.images, scene, known, 0.02, random)
        assert torch.equal(own.depth, scene.depth.estimate(views.images, views.cameras, known))
        assert torch.equal(own.labels, scene.segmentation.segment(views.images))


# Stages


def changed(before: dict[str, torch.Tensor], module: nn.Module) -> set[str]:
    return {name for name, value in module.state_dict().items() if not torch.equal(value, before[name])}


def copies(module: nn.Module) -> dict[str, torch.Tensor]:
    return {name: value.clone() for name, value in module.state_dict().items()}


def test_sharpening_the_decoder_leaves_the_latent_space_alone(clips, tmp_path):
    codec = tiny_world_model().codec
    before = copies(codec)
    after = sharpen_decoder(clips, tmp_path, QUICK, codec, None, batch=3)
    assert changed(before, after)
    assert all(name.startswith("decoder.") for name in changed(before, after))


def test_sharpening_the_refiner_leaves_what_is_exact_alone(clips, tmp_path, wide):
    codec, refiner = tiny_world_model().codec, exact_refiner(tiny_world_model().refiner)
    before = copies(refiner)
    after = sharpen_refiner(clips, tmp_path, QUICK, wide.config, codec, refiner, None, views=2)
    assert changed(before, after)
    assert after.config.exact == 0.1


def test_the_refiner_sees_what_is_as_fine_as_its_frame_and_what_is_coarser(clips, wide):
    """Half of the memories are of smaller pictures: what was seen from farther away than it is looked at."""
    generator, scales, (view,) = torch.Generator().manual_seed(0), [], views_of(clips, 0, [6], (64, 64)).cameras
    codec = tiny_world_model().codec
    for _ in range(24):
        memory = remembered_near(clips, 0, 6, codec, wide.config, generator)
        assert memory.grid == wide.config.latent_size
        readout = memory.read([view], now=1)
        scales.append(float(readout.scale[readout.observed > 0].median()))
    scales = np.array(scales)
    assert 6 <= (scales > 0.2).sum() <= 16
    assert scales.max() < math.log(NEARER) + 0.3


def test_the_generator_learns_in_the_loop_and_goes_on_where_it_stopped(clips, tmp_path, wide):
    before = copies(wide.generator)
    quick = replace(QUICK, save_every=1)
    networks = networks_of(wide, ScenePair(tiny_depth(), tiny_segmentation()))
    train_closed_loop(clips, tmp_path, quick, networks, None)
    moved = changed(before, wide.generator)
    assert any("detail" in name for name in moved)
    assert any("patch_embedding" in name for name in moved)
    assert not any("norm_q" in name or "norm_k" in name for name in moved)
    rows = (tmp_path / "log.csv").read_text().splitlines()
    train_closed_loop(clips, tmp_path, replace(quick, steps=3), networks, None)
    assert (tmp_path / "log.csv").read_text().splitlines()[: len(rows)] == rows


def test_only_the_detail_of_what_is_unseen_learns_in_latents(clips, wide, tmp_path, monkeypatch):
    monkeypatch.setattr(unseen, "ALONE", 20)
    before = copies(wide.generator)
    train_unseen(clips, tmp_path, replace(QUICK, steps=24, lr=1e-3), networks_of(wide))
    moved = changed(before, wide.generator)
    assert moved
    assert all(name.startswith("detail") for name in moved)
    rows = np.genfromtxt(tmp_path / "log.csv", delimiter=",", names=True)
    assert rows["hold"][0] == 0.0  # what is known is to stay as the head had it
    assert rows["unseen"][12:20].mean() < rows["unseen"][:8].mean()
    assert not rows["fooling"][:20].any()
    assert rows["fooling"][20:].all()


def test_refiner_detail_and_decoder_learn_together_from_what_was_drawn(clips, wide, tmp_path, monkeypatch):
    monkeypatch.setattr(sharp_detail, "KEPT", 8)
    monkeypatch.setattr(sharp_detail, "EVERY", 3)
    drawn, draw = [], sharp_detail.Replay.draw
    monkeypatch.setattr(sharp_detail.Replay, "draw", lambda *a: (drawn.append(len(a[0].kept)), draw(*a)))
    networks = networks_of(wide, ScenePair(tiny_depth(), tiny_segmentation()))
    generator, codec, refiner = (copies(part) for part in (wide.generator, networks.codec, networks.refiner))
    train_sharp_detail(clips, tmp_path, replace(QUICK, steps=16), networks, None)
    assert len(drawn) < 8  # most steps learn from worlds of the steps before
    assert max(drawn) == 8
    assert all(name.startswith("detail") for name in changed(generator, wide.generator))
    assert all(name.startswith("decoder.") for name in changed(codec, networks.codec))
    assert changed(generator, wide.generator)
    assert changed(codec, networks.codec)
    assert changed(refiner, networks.refiner)


def test_the_discriminator_pulls_as_hard_as_the_error():
    made = torch.randn(2, 4, 8, 8, requires_grad=True)
    error, fooling = 0.01 * made.abs().mean(), 30.0 * (made**2).sum()
    factor = balance(error, fooling, made)
    pulls = [torch.autograd.grad(of, made, retain_graph=True)[0].norm() for of in (error, factor * fooling)]
    assert float(pulls[1]) == pytest.approx(float(pulls[0]), rel=1e-4)
    assert not balance(error, torch.zeros(()), made).any()


def test_what_was_imagined_before_or_is_mirrored_is_told_as_it_was_shown(clips, wide):
    painters = Painters(wide.refiner, wide.generator).eval()
    codec, generator = tiny_world_model().codec, torch.Generator().manual_seed(0)
    loop, every = ClosedLoop(clips, codec, painters, None), torch.arange(1, 5)
    with torch.no_grad():
        walk = loop.begin(0, 1, wide.config, generator)
        drawn = loop.draw(0, walk, wide.config, generator)
        before = views_of(clips, 0, range(2, 6), wide.config.image_size)
        assert not drawn.mirrored.any()
        assert torch.equal(loop.targets(walk, drawn, before, every)[0], before.images)  # nothing was imagined yet
        half = torch.zeros_like(drawn.mirrored)
        half[..., :2] = True
        images, repeated = loop.targets(walk, replace(drawn, mirrored=half), before, every)
        cut = images.shape[-1] * 2 // half.shape[-1]
        assert torch.equal(images[..., :cut], codec.decode(drawn.prior[1:]).float()[..., :cut])
        assert torch.equal(images[..., cut:], before.images[..., cut:])
        assert torch.equal(repeated[0, 0, 0], (torch.arange(images.shape[-1]) < cut).float())

        after, imagined = loop.go_on(0, walk, drawn, wide.config, generator)
        drawn = loop.draw(0, after, wide.config, generator)
        age = torch.zeros_like(drawn.readout.age)  # of imagined cells
        known = replace(drawn, readout=replace(drawn.readout, age=age, observed=torch.ones_like(age)))
        images, repeated = loop.targets(after, known, imagined.true, every)
        true = replace(known, readout=replace(known.readout, age=age + 9.0))
        none, nowhere = loop.targets(after, true, imagined.true, every)
    again = (repeated > 0).expand_as(images)
    first = again[0] & (imagined.frames[0] != before.images[0])  # the first view is written first, at its own pixels
    assert first.any()
    close = (images[0] - imagined.frames[0].clamp(-1, 1)).abs() < 0.02
    assert close[first].float().mean() > 0.9  # all but what later views put before it
    assert torch.equal(images[~again], imagined.true.images[~again])
    assert torch.equal(none, imagined.true.images)
    assert not nowhere.any()


def test_depth_and_labels_learn_from_imagined_frames(clips, tmp_path, wide):
    scene = ScenePair(tiny_depth(), tiny_segmentation())
    before, generator = copies(scene), copies(wide.generator)
    train_scene_in_loop(clips, tmp_path, replace(QUICK, steps=2), networks_of(wide, scene), batch=2)
    moved = changed(before, scene)
    assert any(name.startswith("depth") for name in moved)
    assert any(name.startswith("segmentation") for name in moved)
    assert not any("running" in name for name in moved)  # one world is no sample of all
    assert not changed(generator, wide.generator)


@pytest.mark.parametrize(("wrong", "taken"), [(1.0, 1.0), (1.1, 1.1), (0.4, 1 / 1.15), (3.0, 1.15)])
def test_a_memorys_scale_is_followed_as_far_as_it_is_right(wrong, taken):
    depth = torch.full((1, 64, 64), 2.0)
    known = torch.full((1, 8, 8), 2.0 * wrong)
    known[:, 4:] = 0.0
    assert float(followed(known, depth)) == pytest.approx(taken)
    assert float(followed(torch.zeros_like(known), depth)) == 1.0


def test_clips_in_a_mirror_are_seen_by_a_mirrored_camera(clips):
    mirror, point = clips.mirrored(), np.array([0.3, -0.2, 2.0, 1.0])
    mirrored = point * [-1.0, 1.0, 1.0, 1.0]
    for here, there in zip(clips.cameras(0, [3]), mirror.cameras(0, [3]), strict=True):
        (x, y, z), (x_, y_, z_) = (
            camera.K_image @ (np.linalg.inv(camera.T_world_cam) @ p)[:3]
            for camera, p in ((here, point), (there, mirrored))
        )
        assert (x_ / z_, y_ / z_) == pytest.approx((here.width - x / z, y / z))
    whole, other = (views_of(c, 0, [3], (64, 64)) for c in (clips, mirror))
    assert torch.equal(whole.images.flip(-1), other.images)
    assert torch.equal(whole.depth.flip(-1), other.depth)
    assert torch.equal(whole.labels.flip(-1), other.labels)


def test_clips_at_every_second_frame_are_those_of_a_faster_camera(clips):
    faster = clips.every(2)
    assert faster.frames == FRAMES // 2
    assert np.array_equal(faster.images[1, 3], clips.images[1, 6])
    assert np.array_equal(faster.cameras(1, [3])[0].T_world_cam, clips.cameras(1, [6])[0].T_world_cam)
    assert clips.frames == FRAMES


def test_parameters_may_learn_at_a_pace_of_their_own(tmp_path):
    module = nn.ParameterDict({"slow": nn.Parameter(torch.zeros(1)), "fast": nn.Parameter(torch.zeros(1))})

    def loss_fn(step, generator):
        return {"loss": (module["slow"] - 1.0).pow(2).sum() + (module["fast"] - 1.0).pow(2).sum()}

    config = replace(QUICK, steps=1, weight_decay=0.0, ema=0.0)
    trained = train(module, loss_fn, tmp_path, config, pace=lambda name: 3.0 if name == "fast" else 1.0)
    assert trained["fast"].item() == pytest.approx(3.0 * trained["slow"].item(), rel=1e-3)


# One command


def test_stages_are_chosen_by_name_or_by_what_they_train(tmp_path):
    assert TrainAll(tmp_path).stages == tuple(SHARES)
    assert "base" not in TrainAll(tmp_path, from_="rooms").stages
    adapted = TrainAll(tmp_path, from_="rooms", only=("depth,segmentation",)).stages
    assert adapted == ("record", "scene", "export", "evaluate")
    with pytest.raises(InvalidOptionError, match="sharp-world"):
        TrainAll(tmp_path, only=("dept",))


def test_flat_or_short_or_other_clips_are_refused_before_training(clips, tmp_path):
    with pytest.raises(InvalidOptionError, match="--size"):
        run(TrainAll(tmp_path / "a", clips=clips.folder, size=128))
    made = [rooms_clip(1, "train", FRAMES, 64)]
    flat = write_clips(tmp_path / "flat", iter([replace(c, images=np.full_like(c.images, 128)) for c in made]), 1, {})
    with pytest.raises(InvalidOptionError, match="flat"):
        run(TrainAll(tmp_path / "b", clips=flat.folder, size=64))
    turned = [replace(c, poses=c.poses @ np.diag([1.0, -1.0, -1.0, 1.0])) for c in made]  # OpenGL's axes
    strange = write_clips(tmp_path / "strange", iter(turned), 1, {})
    with pytest.raises(ClipError, match=r"strange, clip 0.* OpenGL"):
        run(TrainAll(tmp_path / "d", clips=strange.folder, size=64))
    short = write_clips(tmp_path / "short", iter([rooms_clip(1, "train", 4, 64)]), 1, {})
    with pytest.raises(InvalidOptionError, match="frames"):
        run(TrainAll(tmp_path / "c", clips=short.folder, size=64))


@pytest.fixture(scope="module")
def own(tmp_path_factory):
    """What the documentation records, trained as it says: nine frames a clip, one step a stage."""
    folder = tmp_path_factory.mktemp("own")
    env = gym.make("Rooms/World-v0", info_frames=True, image_size=(64, 64), samples=1)
    clips = record_environment(env, folder / "clips", clips=2, frames=9)
    options = TrainAll(folder / "run", clips=clips.folder, size=64, from_="rooms", steps=1, threads=1, name="mine")
    return clips, options, run(options)


def test_one_command_adapts_the_shipped_model_and_a_second_call_has_nothing_to_do(own, caplog):
    _, options, told = own
    assert str(options.out / "model") in told
    model = load_world_model(options.out / "model")
    assert (model.config.name, model.config.image_size) == ("mine", (64, 64))
    done = json.loads((options.out / "runs" / "done.json").read_text())
    assert tuple(done) == options.stages
    with caplog.at_level(logging.INFO):
        run(options)
    assert "stage" not in caplog.text


def test_a_run_ends_with_an_evaluated_model_and_its_card(own):
    _, options, _ = own
    measured = json.loads((options.out / "model" / "evaluation.json").read_text())
    assert not measured.pop("held_out")
    assert {"codec_psnr", "psnr", "depth_abs_rel", "labels_right"} <= set(measured)
    assert all(map(math.isfinite, measured.values()))
    card = (options.out / "model" / "README.md").read_text()
    assert '# "mine"' in card
    assert "also trained on" in card
    assert f"{measured['codec_psnr']:.3g}" in card
    assert all(f"| {stage} |" in card for stage in options.stages if stage != "evaluate")


def test_a_model_of_another_world_begins_there_with_its_lens(own):
    """Never in a room of ours: the first frame is one of the clips it was trained on."""
    clips, options, _ = own
    env = gym.make("Mirage/World-v0", model=options.out / "model", info_frames=True)
    _, info = env.reset(seed=3)
    assert any(np.array_equal(info["frames"][0], clips.images[i, 0]) for i in range(2))
    np.testing.assert_allclose(info["intrinsics"], clips.intrinsics[0])
    model = env.unwrapped.model
    assert model.config.trained_on == "Rooms/World-v0"
    assert model.config.fov == pytest.approx(2.0 * np.arctan(32.0 / clips.intrinsics[0, 0, 0]))
    bare = gym.make("Mirage/World-v0", model=replace(model, start_views=None))
    with pytest.raises(InvalidOptionError, match="trained on Rooms/World-v0"):
        bare.reset(seed=3)
    view = home_view(model, 0)
    assert view.labels.shape == (64, 64)
    with pytest.raises(InvalidOptionError, match="keeps no start views; give an image"):
        home_view(replace(model, start_views=None), 0)


def test_damaged_start_views_are_refused(own, tmp_path):
    clips, _, _ = own
    save_start_views(clips, tmp_path)
    assert len(load_start_views(tmp_path).images) == 2
    np.save(tmp_path / "start_views/labels.npy", np.zeros((1, 2, 2), np.uint8))
    with pytest.raises(WeightsError, match="do not belong together"):
        load_start_views(tmp_path)
    (tmp_path / "start_views/depth.npy").write_bytes(b"no array")
    with pytest.raises(WeightsError, match="copy the model again"):
        load_start_views(tmp_path)
    assert load_start_views(tmp_path / "elsewhere") is None


def test_rooms_are_not_measured_with_a_model_of_another_world(own, tmp_path):
    model = load_world_model(own[1].out / "model")
    for measure, config in ((loop, loop.LoopConfig()), (network_parts, network_parts.PartsConfig())):
        with pytest.raises(InvalidOptionError, match=r"'mine' was trained on 'Rooms/World-v0'.*mirage eval clips"):
            measure.run(replace(config, out=tmp_path), lambda name: model)


def test_own_clips_are_measured_against_copying_the_start(own, tmp_path):
    clips, options, _ = own
    model = load_world_model(options.out / "model")
    config = own_clips.ClipsEvalConfig(clips.folder, "mine", tmp_path, sheets=1)
    results = own_clips.run(config, lambda name: model)
    assert results["count"] == 2
    frames = torch.from_numpy(np.array(clips.images)).permute(0, 1, 4, 2, 3) / 127.5 - 1.0
    still = [psnr(frames[i, :1].expand(8, -1, -1, -1), frames[i, 1:]).mean() for i in range(2)]
    copied = results["walks"]["copy"]["new_psnr"].mean
    assert copied == pytest.approx(float(np.mean(still)), abs=1.5)  # movers and their shadows do not count
    assert np.isfinite(results["walks"]["generated"]["truth_psnr"].mean)
    assert 0.0 < results["parts"]["depth_abs_rel"].mean
    assert "copy of the start" in (tmp_path / "clips.md").read_text()
    assert (tmp_path / "sheet.png").is_file()
    with pytest.raises(InvalidOptionError, match="import or record clips of that size"):
        own_clips.run(config, lambda name: load_world_model("rooms"))


def test_unknown_depth_of_a_clip_is_no_sky(clips):
    """A cell with a hole is lifted from its measured pixels."""
    world = tiny_world_model().config.at((64, 64))
    whole = views_of(clips, 0, [0], (64, 64))
    holes = SimpleNamespace(**{n: getattr(clips, n) for n in ("images", "labels", "cameras")}, depth=clips.depth.copy())
    holes.depth[:, :, ::4, ::4] = 0.0
    views = views_of(holes, 0, [0], (64, 64))
    assert not torch.isinf(views.depth[views.labels != SKY]).any()
    assert views.keep(world).sum() > 0.9 * whole.keep(world).sum() > 0
