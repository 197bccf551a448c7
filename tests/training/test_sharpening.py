"""Losses that make pictures crisp, patches that grow, stages on decoded pictures, and one command for all of them."""

import json
import logging
from dataclasses import replace

import numpy as np
import pytest
import torch
from tiny import tiny_world_model
from torch import nn
from torch.nn import functional as F

from mirage_env.config.world import MemoryConfig
from mirage_env.datasets.clips import Clips, write_clips
from mirage_env.errors import InvalidOptionError
from mirage_env.evaluation.metrics import gradient_energy
from mirage_env.models.small.detail_head import DetailHead
from mirage_env.models.small.refiner import exact_refiner
from mirage_env.models.wan.chunk_denoiser import ChunkDenoiser
from mirage_env.models.world_model_loader import load_world_model
from mirage_env.rooms.clips import rooms_clip
from mirage_env.training.clip_views import sizes_of, views_of, wobbled
from mirage_env.training.closed_loop import train_closed_loop
from mirage_env.training.loop import LoopConfig, train
from mirage_env.training.perceptual import Game, energy_gap, lattice, pixel_loss
from mirage_env.training.sharpen import sharpen_decoder, sharpen_refiner, sharpness
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


def pictures(seed: int = 0) -> torch.Tensor:
    coarse = torch.rand(2, 3, 16, 16, generator=torch.Generator().manual_seed(seed)) * 2 - 1
    return F.interpolate(coarse, size=(64, 64), mode="bilinear")


# Losses


def test_gradient_energy_is_none_on_a_plain_wall_and_falls_with_blur():
    assert not gradient_energy(torch.full((1, 3, 8, 8), 0.3)).any()
    blurred = F.avg_pool2d(pictures(), 5, 1, 2)
    assert sharpness(pictures(), pictures()) == pytest.approx(1.0)
    assert sharpness(blurred, pictures()) < 0.7


def test_the_energy_gap_asks_for_as_much_detail_as_there_is_and_no_more():
    truth = pictures()
    softer, harder = F.avg_pool2d(truth, 9, 1, 4), truth + 0.2 * torch.randn_like(truth)
    assert energy_gap(truth, truth) == 0.0
    assert min(energy_gap(softer, truth), energy_gap(harder, truth)) > 0.05
    # Another picture that is as sharp is right: what is there is for others to judge.
    assert energy_gap(truth.flip(-1), truth) < energy_gap(softer, truth)


def test_a_lattice_is_what_all_cells_have_in_common():
    pattern = torch.randn(3, 8, 8).repeat(1, 8, 8)[None]
    noise = torch.randn(1, 3, 64, 64)
    assert lattice(pattern, 8) == pytest.approx(float(pattern.var((-2, -1), unbiased=False).mean()), rel=0.1)
    assert lattice(noise, 8) < 0.05
    assert lattice(torch.full((2, 3, 64, 64), 0.5), 8) == 0.0


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


def test_the_generator_learns_in_the_loop_and_goes_on_where_it_stopped(clips, tmp_path, wide):
    before = copies(wide.generator)
    quick = replace(QUICK, save_every=1)
    parts = (wide.config, tiny_world_model().codec, wide.refiner, wide.generator, None)
    refiner, denoiser = train_closed_loop(clips, tmp_path, quick, *parts)
    moved = changed(before, denoiser)
    assert any("detail" in name for name in moved)
    assert any("patch_embedding" in name for name in moved)
    assert not any("norm_q" in name or "norm_k" in name for name in moved)
    rows = (tmp_path / "log.csv").read_text().splitlines()
    train_closed_loop(clips, tmp_path, replace(quick, steps=3), wide.config, parts[1], refiner, denoiser, None)
    assert (tmp_path / "log.csv").read_text().splitlines()[: len(rows)] == rows


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
    assert adapted == ("record", "scene", "export")
    with pytest.raises(InvalidOptionError, match="sharp-world"):
        TrainAll(tmp_path, only=("dept",))


def test_flat_or_short_or_other_clips_are_refused_before_training(clips, tmp_path):
    with pytest.raises(InvalidOptionError, match="--size"):
        run(TrainAll(tmp_path / "a", clips=clips.folder, size=128))
    made = [rooms_clip(1, "train", FRAMES, 64)]
    flat = write_clips(tmp_path / "flat", iter([replace(c, images=np.full_like(c.images, 128)) for c in made]), 1, {})
    with pytest.raises(InvalidOptionError, match="flat"):
        run(TrainAll(tmp_path / "b", clips=flat.folder, size=64))
    short = write_clips(tmp_path / "short", iter([rooms_clip(1, "train", 4, 64)]), 1, {})
    with pytest.raises(InvalidOptionError, match="frames"):
        run(TrainAll(tmp_path / "c", clips=short.folder, size=64))


def test_one_command_adapts_the_shipped_model_and_a_second_call_has_nothing_to_do(clips, tmp_path, caplog):
    options = TrainAll(tmp_path, clips=clips.folder, size=64, from_="rooms", steps=1, threads=1, name="mine")
    with caplog.at_level(logging.INFO):
        told = run(options)
    assert "stage 1 of 6, record" in caplog.text
    assert str(tmp_path / "model") in told
    model = load_world_model(tmp_path / "model")
    assert (model.config.name, model.config.image_size) == ("mine", (64, 64))
    done = json.loads((tmp_path / "runs" / "done.json").read_text())
    assert tuple(done) == options.stages
    caplog.clear()
    run(options)
    assert "stage" not in caplog.text
