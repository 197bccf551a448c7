"""Training: the loop, what samples are made of, every stage, and the way from clips to a model folder."""

import csv
from dataclasses import fields, replace
from pathlib import Path
from types import SimpleNamespace

import numpy as np
import pytest
import torch
from stand_ins import Labels, Recorder, Wall
from tiny import tiny_depth, tiny_segmentation, tiny_world_model
from torch import nn

from mirage_env.camera import pluecker_rays
from mirage_env.config.world import FilterConfig, MemoryConfig, ReadoutConfig
from mirage_env.datasets.clip_store import LatentClip
from mirage_env.datasets.clips import Clips, write_clips
from mirage_env.datasets.latent_clips import LatentClips
from mirage_env.errors import InvalidOptionError, ModelNotFoundError
from mirage_env.interfaces import MOVER
from mirage_env.memory.latent import LatentMemory
from mirage_env.models.small.conv_codec import ConvCodec
from mirage_env.models.small.depth_unet import ray_tangents
from mirage_env.models.small.refiner import BareReadout, ConvRefiner
from mirage_env.models.world_model_loader import load_world_model
from mirage_env.rooms.clips import rooms_clip
from mirage_env.tokens.blocks import MemoryBlock
from mirage_env.training.conditioning import ConditionSampler, Noise
from mirage_env.training.encoding import channel_importance, encode_clips
from mirage_env.training.imagining import imagine_clips
from mirage_env.training.loop import LoopConfig
from mirage_env.training.lora import add_lora, lora_state
from mirage_env.training.pipeline import run
from mirage_env.training.scene import (
    ScenePair,
    depth_loss,
    imagenet,
    known_depth,
    new_pair,
    scene_batch,
    train_scene,
)
from mirage_env.training.stage0 import random_frames, train_codec
from mirage_env.training.stage_config import TrainConfig
from mirage_env.training.stages import Variant, blank, flow_loss, train_denoiser, train_refiner

T, P, C, GRID, FRAMES = 5, 1, 8, (4, 4), 10
CONFIG = replace(tiny_world_model().config, filters=FilterConfig(edge_share=1.0))
QUICK = LoopConfig(steps=30, lr=3e-3, warmup=3, ema=0.8, log_every=5, bf16=False)


@pytest.fixture(autouse=True)
def _seeded():
    torch.manual_seed(0)


@pytest.fixture(scope="module")
def clips(tmp_path_factory) -> Clips:
    """Two walks through rooms, seen small."""
    made = (rooms_clip(seed, "train", FRAMES, 32) for seed in (1, 2))
    return write_clips(tmp_path_factory.mktemp("clips"), made, 2, {})


@pytest.fixture(scope="module")
def data(clips, tmp_path_factory) -> LatentClips:
    return encode_clips(clips, tmp_path_factory.mktemp("latents") / "set.zarr", CONFIG, tiny_world_model().codec)


def seeded(seed: int = 0) -> torch.Generator:
    return torch.Generator().manual_seed(seed)


def rows(folder: Path) -> list[dict[str, float]]:
    with (folder / "log.csv").open() as file:
        return [{k: float(v) for k, v in row.items()} for row in csv.DictReader(file)]


def same_weights(a: nn.Module, b: nn.Module) -> bool:
    ours, theirs = a.state_dict(), b.state_dict()
    return ours.keys() == theirs.keys() and all(torch.equal(v, theirs[k]) for k, v in ours.items())


# Clips on the latent grid


def latents(clip: LatentClip) -> torch.Tensor:  # [F, C, h, w]
    return clip.clean(range(len(clip)))


def test_encoded_clips_hold_what_every_sample_needs(clips, data):
    assert len(data) == len(clips)
    clip = data[1]
    assert latents(clip).shape == (FRAMES, C, *GRID)
    assert clip.depth.shape == clip.keep.shape == (FRAMES, 2, *GRID)
    assert clip.keep.any()
    assert data.importance().shape == (C,)
    assert data.imagined(1) is None
    assert clip.provenance["clip"] == 1
    images = clips.image_batch(np.full(FRAMES, 1), np.arange(FRAMES))
    assert torch.equal(latents(clip), tiny_world_model().codec.encode(images).half().float())
    for ours, theirs in zip(clip.cameras(range(FRAMES)), clips.cameras(1, range(FRAMES)), strict=True):
        assert np.array_equal(ours.T_world_cam, theirs.T_world_cam)
        assert np.array_equal(ours.K_image, theirs.K_image)


def test_without_networks_what_is_estimated_is_the_truth(data):
    assert np.array_equal(data[0].depth[:, 0], data[0].depth[:, 1])
    assert np.array_equal(data[0].keep[:, 0], data[0].keep[:, 1])


def test_networks_decide_what_is_estimated(clips, data, tmp_path):
    movers = Labels(torch.full((32, 32), MOVER))
    walled, plain = encode_clips(clips, tmp_path, CONFIG, tiny_world_model().codec, Wall(), movers)[0], data[0]
    assert np.array_equal(walled.depth[:, 0], plain.depth[:, 0])
    assert ((walled.depth[:, 1] > 1.9) & (walled.depth[:, 1] < 2.5)).all()
    assert np.array_equal(walled.keep[:, 0], plain.keep[:, 0])
    assert not walled.keep[:, 1].any()


def test_importance_is_how_much_a_channel_changes_the_picture():
    gain = torch.tensor([0.5, 1.0, 2.0])[:, None, None]
    codec = SimpleNamespace(decode=lambda latents: latents * gain)
    importance = channel_importance(codec, torch.randn(64, 3, *GRID))
    assert importance.mean() == pytest.approx(1.0)
    torch.testing.assert_close(importance / importance[1], torch.tensor([0.25, 1.0, 4.0]), rtol=0.2, atol=0)


# Samples


def equal_batches(a, b) -> bool:
    if not all(torch.equal(getattr(a, n), getattr(b, n)) for n in ("latents", "preceding", "rays", "importance")):
        return False
    pairs = zip(a.readout, b.readout, strict=True)
    return all(torch.equal(getattr(x, f.name), getattr(y, f.name)) for x, y in pairs for f in fields(x))


def test_a_draw_is_determined_by_its_generator_alone(data):
    sampler = ConditionSampler(data, CONFIG)
    (first,) = sampler.draw(3, seeded(4))
    torch.rand(5)
    np.random.default_rng().random()
    (second,) = ConditionSampler(data, CONFIG).draw(3, seeded(4))
    (other,) = sampler.draw(3, seeded(5))
    assert equal_batches(first, second)
    assert not equal_batches(first, other)


def place(data: LatentClips, chunk: torch.Tensor) -> tuple[int, int]:
    """(clip, first frame) that a chunk of true latents is from."""
    for c in range(len(data)):
        known = latents(data[c])
        for f in range(P, FRAMES - T + 1):
            if torch.equal(known[f + 1 : f + T], chunk[1:]):
                return c, f
    raise LookupError


def test_samples_are_chunks_of_the_clips_with_what_came_before(data):
    (batch,) = ConditionSampler(data, CONFIG).draw(16, seeded())
    assert batch.latents.shape == (16, T, C, *GRID)
    assert batch.preceding.shape == (16, P, C, *GRID)
    assert batch.references is None
    assert batch.text is None
    starts = 0
    for i in range(16):
        c, f = place(data, batch.latents[i])
        known = latents(data[c])
        assert torch.equal(batch.latents[i, 0], known[f])
        starts += torch.equal(batch.preceding[i, -1], batch.latents[i, 0])
        assert torch.equal(batch.preceding[i, -1], batch.latents[i, 0]) or torch.equal(
            batch.preceding[i, -1], known[f - 1]
        )
        cameras = data[c].cameras(range(f, f + T))
        rays = pluecker_rays(cameras, *GRID)
        assert torch.equal(batch.rays[i], torch.from_numpy(rays))
        assert batch.readout[i].latent.shape == (T, C, *GRID)
    assert 0 < starts < 16


def test_some_samples_have_no_memory_and_most_have_one(data):
    (batch,) = ConditionSampler(data, CONFIG).draw(40, seeded())
    empty = sum(not r.observed.any() for r in batch.readout)
    assert 0 < empty < 20


def test_every_readout_rule_reads_the_same_memories(data):
    rules = [CONFIG.readout, ReadoutConfig(winner="nearest", footprint=0.0)]
    ours, papers = ConditionSampler(data, CONFIG).draw(24, seeded(), rules)
    assert torch.equal(ours.latents, papers.latents)
    assert torch.equal(ours.rays, papers.rays)
    for a, b in zip(ours.readout, papers.readout, strict=True):
        assert (a.observed >= b.observed).all()  # a point that covers more shows no less
    assert any((a.observed > b.observed).any() for a, b in zip(ours.readout, papers.readout, strict=True))


EXACT = Noise(latent=0.0, depth=0.0)


@pytest.mark.parametrize("frame", [0, 7])
def test_reading_where_a_frame_was_written_gives_its_latents(data, frame):
    config = replace(CONFIG, readout=ReadoutConfig(footprint=0.0), memory=MemoryConfig(features="float16"))
    sampler, clip = ConditionSampler(data, config, EXACT), data[1]
    memory = sampler.write(LatentMemory.empty(config), np.random.default_rng(0), clip, range(frame, frame + 1))
    readout = memory.read(clip.cameras([frame]), now=1)
    keep = torch.from_numpy(clip.keep[frame, 0])
    assert keep.any()
    assert torch.equal(readout.observed[0] > 0, keep)
    assert torch.equal(readout.latent[0][:, keep], latents(clip)[frame][:, keep])


def test_memory_holds_latents_of_its_clip_and_nothing_else(data):
    config = replace(CONFIG, memory=MemoryConfig(features="float16"))
    sampler = ConditionSampler(data, config, EXACT)
    own = {row.tobytes() for row in latents(data[1]).half().permute(0, 2, 3, 1).reshape(-1, C).numpy()}
    for seed in range(8):
        memory = sampler.memory(np.random.default_rng(seed), data[1], 4)
        assert {row.tobytes() for block in memory.blocks for row in block.feature} <= own


def test_memory_of_a_sample_has_the_errors_that_walking_makes(data):
    def blocks(noise):
        sampler = ConditionSampler(data, CONFIG, noise)
        rngs = [np.random.default_rng(seed) for seed in range(6)]
        return [sampler.write(LatentMemory.empty(CONFIG), rng, data[0], range(1)).blocks[0] for rng in rngs]

    def same(ours, theirs, content):
        pairs = zip(ours, theirs, strict=True)
        return [np.array_equal(content(a)[a.cell.argsort()], content(b)[b.cell.argsort()]) for a, b in pairs]

    exact = blocks(EXACT)
    noisy, displaced = blocks(Noise(latent=0.5, depth=0.0)), blocks(Noise(latent=0.0, depth=0.1))
    assert all(same(noisy, exact, MemoryBlock.positions))
    assert all(same(displaced, exact, MemoryBlock.values))
    assert not any(same(displaced, exact, MemoryBlock.positions))
    assert 0 < sum(same(noisy, exact, MemoryBlock.values)) < 6  # some frames are written clean


def test_clips_shorter_than_a_chunk_are_refused_with_the_length_needed(data):
    with pytest.raises(InvalidOptionError, match="at least 12"):
        ConditionSampler(data, replace(CONFIG, chunk_latents=12))


def test_clips_of_just_one_chunk_train_as_a_world_that_begins(data):
    sampler = ConditionSampler(data, replace(CONFIG, chunk_latents=FRAMES))
    (batch,) = sampler.draw(2, seeded())
    assert batch.latents.shape[1] == FRAMES
    for preceding, latents in zip(batch.preceding, batch.latents, strict=True):
        assert torch.equal(preceding[-1], latents[0]), "the start view precedes itself"


# Imagined clips


@pytest.fixture(scope="module")
def imagined(clips, tmp_path_factory):
    """The clips as the tiny model imagines them, and what its parts were asked."""
    folder = tmp_path_factory.mktemp("imagined") / "set.zarr"
    model = tiny_world_model()
    data = encode_clips(clips, folder, CONFIG, model.codec)
    model = replace(model, config=CONFIG, refiner=Recorder(model.refiner), generator=Recorder(model.generator))
    imagine_clips(data, model, batch=len(clips))
    return LatentClips(folder), model


def test_imagined_clips_keep_the_truth_where_the_memory_saw_nothing(clips, imagined):
    result, model = imagined
    readouts = [args[0] for args, _, _ in model.refiner.of("refine")]
    generated = [chunk for _, _, chunk in model.generator.of("generate")]
    assert len(generated) == (FRAMES - 1) // (T - 1)
    for c in range(len(clips)):
        ours, truth = latents(result.imagined(c)), latents(result[c])
        assert torch.equal(ours[0], truth[0])
        for k, chunk in enumerate(generated):
            seen = readouts[k * len(clips) + c].observed[1:, None] > 0
            frames = slice(k * (T - 1) + 1, (k + 1) * (T - 1) + 1)
            clean = model.codec.encode(model.codec.decode(chunk[c, 1:])).half().float()
            assert torch.equal(ours[frames] * ~seen, truth[frames] * ~seen)
            torch.testing.assert_close(ours[frames] * seen, clean * seen, rtol=1e-2, atol=1e-2)
            assert seen.any()


def test_frames_beyond_the_last_whole_chunk_stay_true(data, imagined):
    last = (FRAMES - 1) // (T - 1) * (T - 1)
    assert torch.equal(latents(imagined[0].imagined(1))[last + 1 :], latents(data[1])[last + 1 :])


def test_imagined_past_enters_half_of_the_samples_and_never_the_target(data, imagined):
    (batch,) = ConditionSampler(imagined[0], CONFIG).draw(16, seeded())
    changed = 0
    for i in range(16):
        c, f = place(data, batch.latents[i])
        past = latents(imagined[0].imagined(c))[f]
        is_true = torch.equal(batch.latents[i, 0], latents(data[c])[f])
        assert is_true or torch.equal(batch.latents[i, 0], past)
        changed += not is_true
    assert 0 < changed < 16


def test_clips_that_were_imagined_are_not_imagined_again(imagined):
    data, model = imagined
    before = len(model.generator.calls)
    imagine_clips(data, model)
    assert len(model.generator.calls) == before


# Stage 0


def test_random_frames_are_frames_of_the_clips(clips):
    clip, frame = random_frames(clips, 200, seeded())
    assert set(clip) == set(range(len(clips)))
    assert set(frame) == set(range(FRAMES))


def test_known_depth_is_the_truth_with_noise_and_holes_or_nothing():
    known, factor = known_depth(torch.full((64, 32, 32), 3.0), GRID, seeded())
    seen = known > 0
    assert known.shape == (64, *GRID)
    errors = (known / (3.0 * factor) - 1.0).abs()[seen]
    assert (errors < 0.2).float().mean() > 0.97
    assert (errors > 0.2).any()
    share = seen.float().mean((1, 2))
    assert (share == 0).sum() > 10
    assert ((share > 0) & (share < 1)).sum() > 10
    assert (factor[share == 0] == 1.0).all()
    assert (factor[share > 0.2] != 1.0).all()


def test_untrained_networks_begin_with_what_imagenet_taught():
    published = imagenet()
    pair = new_pair(largest=128)
    for network in (pair.depth, pair.segmentation):
        own = network.unet.encoder.state_dict()
        assert torch.equal(own["stem.0.weight"], published["_conv_stem.weight"])
        assert torch.equal(own["stages.5.3.layers.7.running_var"], published["_blocks.14._bn2.running_var"])
        assert network.config.largest == 128


def test_depth_loss_lets_one_factor_count_once_and_ignores_what_was_not_measured():
    true = torch.rand(2, 16, 16, generator=seeded())
    valid = torch.rand(2, 16, 16, generator=seeded()) > 0.3
    loss, metric = depth_loss(torch.where(valid, true + 0.5, torch.nan), true, valid)
    torch.testing.assert_close(metric, torch.tensor(0.5))
    torch.testing.assert_close(loss, metric)
    uneven = true + 0.5 * torch.randn(true.shape, generator=seeded())
    loss, metric = depth_loss(uneven, true, valid)
    assert loss > 1.5 * metric


@pytest.mark.parametrize("flipped", [False, True])
def test_batch_of_the_scene_shows_every_pixel_where_its_lens_says(flipped):
    """A texture that says its own ray, so that image and lens can be compared after a crop and a flip."""
    rays = ray_tangents(torch.tensor([[[20.0, 0, 15], [0, 20, 17], [0, 0, 1]]]), (32, 32))
    sign = -1.0 if flipped else 1.0
    one = SimpleNamespace(
        image_batch=lambda clip, frame: torch.cat([rays, rays[:, :1]], 1).repeat(len(clip), 1, 1, 1),
        depth=2.0 + rays[0, 1].numpy()[None, None].repeat(3, 1),
        labels=np.zeros((1, 3, 32, 32), np.uint8),
        intrinsics=np.array([[[20.0, 0, 15], [0, 20, 17], [0, 0, 1]]]),
        frames=3,
    )
    clips = type("OneClip", (SimpleNamespace,), {"__len__": lambda self: 1})(**vars(one))
    lenses = set()
    for seed in range(4):
        images, depth, _, K = scene_batch(clips, 2, seeded(seed), flipped)
        shown, place = images[:, :2].clone(), ray_tangents(K, (32, 32))
        shown[:, 0] *= sign
        inner = (..., slice(2, -2), slice(2, -2))  # a crop's border has no neighbours to be resampled from
        torch.testing.assert_close(shown[inner], place[inner], rtol=0, atol=0.06)
        torch.testing.assert_close(depth[inner], 2.0 + place[:, 1][inner], rtol=0, atol=0.06)
        lenses.add(round(float(K[0, 0, 0]), 3))
    assert len(lenses) > 1


def test_codec_training_improves_on_the_linear_code(clips, tmp_path):
    codec = ConvCodec(latent_channels=C, width=8, deep_width=16, blocks=1)
    images = clips.image_batch(*random_frames(clips, 32, seeded()))
    codec.fit_linear(images)
    linear = (codec.reconstruct(codec.encode(images)) - images).square().mean().item()
    trained = train_codec(clips, tmp_path, replace(QUICK, steps=40), codec, batch=4)
    coded = trained.reconstruct(trained.encode(images))
    assert (coded - images).square().mean() < 0.95 * linear
    latents = trained.encode(clips.image_batch(*random_frames(clips, 256, seeded(QUICK.seed))))
    torch.testing.assert_close(latents.std((0, 2, 3)), torch.ones(C), rtol=1e-2, atol=1e-2)


def test_scene_training_learns_depth_and_labels(clips, tmp_path):
    pair = ScenePair(tiny_depth(), tiny_segmentation())
    trained = train_scene(clips, tmp_path, replace(QUICK, lr=1e-2), pair, batch=4, grid=GRID)
    logged = rows(tmp_path)
    assert logged[-1]["abs_log"] < 0.8 * logged[0]["abs_log"]
    assert logged[-1]["cross_entropy"] < 0.8 * logged[0]["cross_entropy"]
    images = clips.image_batch(*random_frames(clips, 2, seeded()))
    assert trained.depth.estimate(images, clips.cameras(0, [0, 1])).shape == (2, 32, 32)


# Refiner and denoiser


class OneBatch(ConditionSampler):
    """Draws the same batch every time."""

    def draw(self, batch, generator, readouts=()):
        return super().draw(batch, seeded(3), readouts)


def a_variant(refiner=None) -> Variant:
    return Variant(tiny_world_model().generator, refiner or BareReadout(), CONFIG.readout)


def test_refiner_training_beats_the_bare_readout(data, tmp_path):
    refiner = train_refiner(OneBatch(data, CONFIG), tmp_path, QUICK, ConvRefiner(C, width=16, blocks=1), batch=4)
    logged = rows(tmp_path)
    assert logged[0]["bare"] == pytest.approx(logged[-1]["bare"])
    assert logged[-1]["loss"] < 0.7 * logged[-1]["bare"]
    (batch,) = OneBatch(data, CONFIG).draw(4, seeded())
    assert refiner.refine(batch.readout[0]).isfinite().all()


def test_denoiser_training_overfits_one_batch(data, tmp_path):
    variant, sampler = a_variant(), OneBatch(data, CONFIG)
    (batch,) = sampler.draw(3, seeded())
    before = flow_loss(variant, batch, seeded(), drop=0.0)["loss"]
    trained = train_denoiser(
        variant, variant.denoiser.parameters(), sampler, tmp_path, replace(QUICK, steps=60, lr=1e-2), drop=0.0
    )
    with torch.no_grad():
        after = flow_loss(trained, batch, seeded(), drop=0.0)["loss"]
    assert after < 0.6 * before
    assert set(rows(tmp_path)[0]) >= {"loss", "seen", "unseen"}


def test_branch_training_leaves_the_backbone_as_it_is(data, tmp_path):
    variant = a_variant()
    trained = train_denoiser(
        variant, variant.denoiser.branch.parameters(), OneBatch(data, CONFIG), tmp_path, replace(QUICK, steps=3)
    )
    fresh = tiny_world_model().generator
    assert same_weights(trained.denoiser.transformer, fresh.transformer)
    assert not same_weights(trained.denoiser.branch, fresh.branch)


def test_lora_training_changes_only_the_adapters_and_the_branch(data, tmp_path):
    variant = a_variant()
    lora = add_lora(variant.denoiser.transformer, rank=2)
    before = {k: v.clone() for k, v in variant.denoiser.transformer.state_dict().items()}
    trainable = [*lora, *variant.denoiser.branch.parameters()]
    trained = train_denoiser(variant, trainable, OneBatch(data, CONFIG), tmp_path, replace(QUICK, steps=3))
    after = trained.denoiser.transformer.state_dict()
    assert all(torch.equal(after[k], v) for k, v in before.items() if "lora_" not in k)
    assert all(v.any() for k, v in lora_state(trained.denoiser.transformer).items() if "lora_B" in k)
    assert not same_weights(trained.denoiser.branch, tiny_world_model().generator.branch)


def test_dropped_memory_tells_the_network_nothing(data):
    (one,), (two,) = (ConditionSampler(data, CONFIG).draw(4, seeded(s)) for s in (0, 1))
    variant = a_variant()
    nn.init.normal_(variant.denoiser.branch.before_proj.weight, std=0.1)
    mixed = replace(one, readout=two.readout)

    def loss(batch, drop):
        with torch.no_grad():
            return flow_loss(variant, batch, seeded(), drop)["loss"].item()

    assert loss(one, 1.0) == loss(mixed, 1.0)
    assert loss(one, 0.0) != loss(mixed, 0.0)


def test_blank_readout_is_what_an_empty_memory_shows(data):
    (batch,) = ConditionSampler(data, CONFIG).draw(1, seeded(1))
    empty = LatentMemory.empty(CONFIG).read(data[0].cameras(range(T)), now=1)
    for f in fields(empty):
        ours = getattr(blank(batch.readout[0]), f.name)
        assert torch.equal(ours, getattr(empty, f.name))
        assert ours.shape == getattr(batch.readout[0], f.name).shape


# From clips to a model folder


@pytest.fixture(scope="module")
def trained_folder(tmp_path_factory) -> Path:
    """Every stage for one step, ours and the paper's."""
    out = tmp_path_factory.mktemp("train")
    config = TrainConfig("record", out, steps=1, clips=2, frames=10, size=32, threads=1)
    for stage in ("record", "codec", "scene", "encode", "refiner", "base", "branch", "imagine", "lora", "export"):
        run(replace(config, stage=stage, sample_every=int(stage == "branch")))
    for stage in ("branch", "lora", "export"):
        run(replace(config, stage=stage, paper=True))
    return out


@pytest.mark.parametrize("name", ["model", "model-paper"])
def test_all_stages_make_a_model_that_can_be_loaded_and_walked(trained_folder, name):
    model = load_world_model(trained_folder / name)
    image = Clips(trained_folder / "clips" / "train").images[0, 0]
    _, state = model.start(image)
    chunk, _ = model.step(state, [state.camera] * model.config.frames_per_chunk)
    assert chunk.frames.shape == (8, 3, 32, 32)
    assert chunk.frames.isfinite().all()


def test_stages_show_samples_where_they_are_asked_for(trained_folder):
    shown = sorted(p.relative_to(trained_folder / "runs") for p in (trained_folder / "runs").rglob("*.mp4"))
    assert [str(p) for p in shown] == ["branch/samples/0000001.mp4"]


def test_paper_variant_reads_as_the_paper_does(trained_folder):
    ours, papers = (load_world_model(trained_folder / name) for name in ("model", "model-paper"))
    assert papers.config.readout == ReadoutConfig(winner="nearest", footprint=0.0)
    assert isinstance(papers.refiner, BareReadout)
    assert not papers.config.sampler.couple
    assert tuple(papers.generator.branch.config.parts) == ("readout", "observed")
    assert tuple(ours.generator.branch.config.parts) == ("known", "observed", "winner", "rays")


def test_stage_without_those_before_it_says_what_is_missing(trained_folder, tmp_path):
    config = TrainConfig("codec", tmp_path, steps=1, size=32, threads=1)
    with pytest.raises(InvalidOptionError, match="no clips"):
        run(config)
    (tmp_path / "clips").symlink_to(trained_folder / "clips")
    with pytest.raises(ModelNotFoundError, match="codec"):
        run(replace(config, stage="encode"))
