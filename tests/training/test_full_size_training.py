"""Full-size training on tiny checkpoints of the real classes: from clips to a model that is loaded and walked."""

import csv
import json
import shutil
from dataclasses import replace
from pathlib import Path

import numpy as np
import pytest
import tiny_checkpoints
import torch
from diffusers import WanTransformer3DModel
from safetensors.torch import load_file, save_file
from stand_ins import Wall
from tiny_geometry import save_depth_anything
from tiny_wan import TRAINED, tiny_wan_world_model

from mirage_env.cli import main
from mirage_env.datasets.clips import Clips, write_clips
from mirage_env.datasets.latent_clips import LatentClips
from mirage_env.errors import ClipError, DatasetError, InvalidOptionError, ModelNotFoundError
from mirage_env.evaluation import export_rooms
from mirage_env.images import frames_from_uint8
from mirage_env.interfaces import STATIC, Readout
from mirage_env.models.io.published_checkpoints import convert, published_branch
from mirage_env.models.io.state_dicts import WEIGHTS
from mirage_env.models.small.refiner import BareReadout
from mirage_env.models.wan.chunk_denoiser import ChunkDenoiser
from mirage_env.models.wan.pipeline_parts import config_of, sources_of
from mirage_env.models.wan.side_branch import ControlBranch
from mirage_env.models.wan.video_codec import WanCodec
from mirage_env.models.world_model_loader import load_world_model
from mirage_env.rooms.clips import rooms_clip
from mirage_env.training import finetune, finetune_parts, stages
from mirage_env.training.conditioning import Batch, ConditionSampler, Noise
from mirage_env.training.encoding import encode_clips
from mirage_env.training.finetune import run
from mirage_env.training.finetune_options import Finetune, loop_config
from mirage_env.training.finetune_parts import training_denoiser, training_sources
from mirage_env.training.importing import ImportClips, ImportRe10k, import_clips, import_re10k, read_captions
from mirage_env.training.loop import LoopConfig
from mirage_env.training.lora import add_lora
from mirage_env.training.stages import Variant, train_denoiser, velocity_loss

SIZE, F = tiny_checkpoints.IMAGE_SIZE, 8


@pytest.fixture(autouse=True)
def _seeded():
    torch.manual_seed(0)


@pytest.fixture(autouse=True, scope="module")
def _few_sampler_steps():
    with pytest.MonkeyPatch.context() as patch:
        patch.setattr(finetune_parts, "BRANCH_STEPS", 3)
        yield


def seeded(seed: int = 0) -> torch.Generator:
    return torch.Generator().manual_seed(seed)


@pytest.fixture(scope="module")
def model(tmp_path_factory) -> Path:
    folder = tiny_checkpoints.save_pipeline(tmp_path_factory.mktemp("wan") / "model")
    save_depth_anything(folder / "depth")
    return folder


@pytest.fixture(scope="module")
def source(tmp_path_factory) -> Path:
    """Two walks of two windows as videos, one without its video, and one that is too short."""
    out = tmp_path_factory.mktemp("re10k") / "data"
    export_rooms.run(export_rooms.ExportConfig(out, worlds=2, chunks=4, size=SIZE, split="train", frozen=True))
    good = sorted((out / "train").glob("*.txt"))[0]
    lines = good.read_text().splitlines()
    (out / "train" / "without.txt").write_text("\n".join(["https://rooms.invalid/watch?v=gone", *lines[1:]]))
    (out / "train" / "short.txt").write_text("\n".join(lines[:6]))
    (out / "captions.txt").write_text(f"{good.stem} a sunny room\n")
    return out


def options(model: Path, source: Path, data: Path, **changes) -> ImportRe10k:
    given = {"scale": 1.0, "fps": 8.0, "device": "cpu", "captions": source / "captions.txt", **changes}
    return ImportRe10k(model=str(model), data=data, source=source, **given)


@pytest.fixture(scope="module")
def imported(model, source, tmp_path_factory):
    """The data set of these clips, all of a wall, and what was told of it."""
    data = tmp_path_factory.mktemp("data") / "set.zarr"
    given = options(model, source, data)
    return data, import_re10k(given, replace(given.load(None), depth=Wall()))


@pytest.fixture
def data(imported) -> LatentClips:
    return LatentClips(imported[0])


# Importing


def test_bad_clips_are_skipped_and_listed(imported):
    place, told = imported
    assert told == {"clips": 2, "skipped": 2, "imported": 2}
    listed = [json.loads(line) for line in (place / "skipped-0-of-1.jsonl").read_text().splitlines()]
    reasons = {entry["clip"]: entry["reason"] for entry in listed}
    assert "a chunk needs 9" in reasons["short"]
    assert "gone" in reasons["without"]


def test_import_goes_on_where_it_was_stopped(model, source, imported, tmp_path):
    copy = tmp_path / "set.zarr"
    shutil.copytree(imported[0], copy)
    names = LatentClips(copy).names
    kept = (copy / "clips" / f"{names[0]}.zarr.zip").stat().st_mtime_ns
    (copy / "clips" / f"{names[1]}.zarr.zip").unlink()
    assert import_re10k(options(model, source, copy)) == {"clips": 2, "skipped": 2, "imported": 1}
    assert (copy / "clips" / f"{names[0]}.zarr.zip").stat().st_mtime_ns == kept
    again, before = LatentClips(copy)[1], LatentClips(imported[0])[1]
    assert np.array_equal(again.latents, before.latents)


def test_shards_share_the_clips(model, source, tmp_path):
    for shard in range(2):
        import_re10k(options(model, source, tmp_path / "set.zarr", shard=shard, shards=2))
    assert len(LatentClips(tmp_path / "set.zarr")) == 2


def test_clips_have_the_cameras_and_frames_of_their_videos(model, source, data):
    """Videos lose a little, so latents are compared roughly; cameras are exact."""
    clip = data[0]
    assert len(clip) == 1 + 2 * 2
    truth = export_rooms._truth(
        export_rooms.ExportConfig(source, chunks=4, size=SIZE, split="train", frozen=True), int(data.names[0][5:9])
    )
    for f, camera in zip(range(len(clip)), clip.cameras(range(len(clip))), strict=True):
        assert np.allclose(camera.T_world_cam, truth.walk.cameras[4 * f].T_world_cam, atol=1e-6)
        assert np.allclose(camera.K_image, truth.walk.cameras[4 * f].K_image, atol=1e-3)
    codec = load_world_model(model, dtype=torch.float32, text_encoder=False).codec
    still = codec.encode(frames_from_uint8(np.asarray(truth.images[:1])))[0]
    assert (torch.from_numpy(clip.anchors[0]).float() - still).abs().mean() < 0.1 * still.abs().mean()
    assert clip.provenance["link"] == f"https://rooms.invalid/watch?v={data.names[0]}"
    assert clip.provenance["metres_per_unit"] == 1.0


def test_captions_are_embedded_once_and_empty_ones_too(model, data):
    assert [data[i].text for i in range(2)] == ["a sunny room", ""]
    text = load_world_model(model, prompt_cache=None).generator.text
    torch.testing.assert_close(data.embedded("a sunny room"), text(["a sunny room"])[0].float(), atol=1e-3, rtol=1e-2)
    assert data.info.text_length == 512
    assert len(list((data.path / "texts").glob("*.zip"))) == 2


def test_captions_come_as_json_or_lines(tmp_path):
    (tmp_path / "a.json").write_text('{"one": "a red chair"}')
    (tmp_path / "a.txt").write_text("one a red chair\n\ntwo\n")
    assert read_captions(tmp_path / "a.json") == {"one": "a red chair"}
    assert read_captions(tmp_path / "a.txt") == {"one": "a red chair", "two": ""}
    (tmp_path / "b.json").write_text('["one"]')
    with pytest.raises(InvalidOptionError, match="must be an object"):
        read_captions(tmp_path / "b.json")
    with pytest.raises(InvalidOptionError, match=r"No such file.*give a file of captions"):
        read_captions(tmp_path / "nowhere.txt")


class _Truth:
    """The true depth of a room, in metres (`DepthEstimator`)."""

    def __init__(self, world: int) -> None:
        from mirage_env.rooms import Room

        self.room = Room.generate(world, "train")

    def estimate(self, images, cameras, known=None):
        return torch.stack([torch.from_numpy(self.room.render(c).depth).float().clamp(max=50.0) for c in cameras])


def test_scale_of_the_poses_is_fitted_to_the_depth(model, tmp_path):
    """Lists in units of 0.4 m: the first camera is where the room's own is, so its depth is the truth."""
    export = export_rooms.ExportConfig(
        tmp_path / "src", worlds=1, chunks=4, size=SIZE, split="train", frozen=True, images=True, unit=0.4
    )
    (name,) = export_rooms.run(export)
    parts = options(model, tmp_path / "src", tmp_path / "set.zarr", captions=None, scale=None).load(None)
    first = export_rooms._truth(export, 0).walk.cameras[0]
    room = _Truth(0)

    class Depth:
        def estimate(self, images, cameras, known=None):
            moved = [c.at(first.T_world_cam) for c in cameras[:1]]
            return room.estimate(images[:1], moved).expand(len(images), -1, -1)

    parts = replace(parts, depth=Depth())
    import_re10k(options(model, tmp_path / "src", tmp_path / "set.zarr", captions=None, scale=None), parts)
    clip = LatentClips(tmp_path / "set.zarr")[0]
    assert clip.provenance["metres_per_unit"] == pytest.approx(0.4, rel=0.05)
    assert name == LatentClips(tmp_path / "set.zarr").names[0]
    wrong = options(model, tmp_path / "src", tmp_path / "wrong.zarr", captions=None, scale=400.0)
    with pytest.raises(DatasetError, match="can be used"):
        import_re10k(wrong, parts)
    assert "poses may be in millimetres" in (tmp_path / "wrong.zarr/skipped-0-of-1.jsonl").read_text()


def test_nothing_usable_is_refused_with_where_it_says_why(model, source, tmp_path):
    (tmp_path / "names").write_text("short")
    with pytest.raises(DatasetError, match="skipped-0-of-1"):
        import_re10k(options(model, source, tmp_path / "set.zarr", names=tmp_path / "names"))
    with pytest.raises(ClipError, match="no pose lists"):
        import_re10k(options(model, tmp_path / "empty", tmp_path / "set.zarr", captions=None))


@pytest.mark.parametrize(
    ("changes", "says"), [({"windows": 0}, "--windows"), ({"shard": 2}, "--shard"), ({"fps": 0.0}, "--fps")]
)
def test_import_options_out_of_range_are_refused(model, source, tmp_path, changes, says):
    with pytest.raises(InvalidOptionError, match=says):
        options(model, source, tmp_path, **changes)


def test_recorded_clips_of_any_environment_become_a_data_set(model, tmp_path):
    recorded = rooms_clip(3, "train", 2 * F + 1, 96)
    cropped = replace(recorded, **{n: getattr(recorded, n)[:, 16:80] for n in ("images", "depth", "labels")})
    write_clips(tmp_path / "clips", iter([cropped]), 1, {"source": "rooms"})
    place = tmp_path / "set.zarr"
    made = import_clips(ImportClips(str(model), place, source=tmp_path / "clips", prompt="a room", device="cpu"))
    clip = made[0]
    assert (len(clip), clip.text) == (5, "a room")
    true = Clips(tmp_path / "clips").depth[0, ::4].astype(np.float32)
    assert clip.depth[:, 0].max() <= max(true.max(), 50.0)
    assert not np.array_equal(clip.depth[:, 0], clip.depth[:, 1])
    static = (Clips(tmp_path / "clips").labels[0, ::4] == STATIC).reshape(5, 4, 16, 6, 16).all((2, 4))
    assert clip.keep[:, 0][static].all()


# Samples


def test_samples_have_references_prompts_and_the_past(model, data):
    config = config_of(training_sources(stage(model, data, Path("unused")), data))
    (batch,) = ConditionSampler(data, config).draw(2, seeded(1))
    assert batch.latents.shape == (2, 3, 48, 4, 6)
    assert batch.preceding.shape == (2, 2, 48, 4, 6)
    assert batch.text.shape == (2, 512, tiny_checkpoints.TEXT_DIM)
    assert {len(b.prompts) for b in ConditionSampler(data, config).draw(2, seeded(1))} == {2}
    seen = [ConditionSampler(data, config).draw(1, seeded(i))[0] for i in range(30)]
    counts = {0 if b.references is None else b.references.shape[1] for b in seen}
    assert max(counts) >= 1
    anchors = {a.tobytes() for i in range(2) for a in data[i].anchors}
    for b in seen:
        if b.references is not None:
            assert all(r.half().numpy().tobytes() in anchors for r in b.references[0])
            assert not any(torch.equal(r, b.latents[0, 0]) for r in b.references[0])


def test_text_is_dropped_as_often_as_asked(model, data):
    config = config_of(training_sources(stage(model, data, Path("unused")), data))
    named = LatentClips(data.path, data.names[:1])

    def prompts(share):
        sampler = ConditionSampler(named, config, Noise(no_text=share))
        return [sampler.draw(1, seeded(i))[0].prompts[0] for i in range(20)]

    assert set(prompts(0.0)) == {"a sunny room"}
    assert set(prompts(1.0)) == {""}
    assert 0 < prompts(0.5).count("") < 20


# Loss


def a_denoiser(**changes) -> ChunkDenoiser:
    """Wide enough to learn the tiny world's tokens by heart."""
    torch.manual_seed(0)
    sizes = {"num_attention_heads": 4, "attention_head_dim": 32, "ffn_dim": 256, "num_layers": 3, **changes}
    net = WanTransformer3DModel(in_channels=8, out_channels=8, text_dim=8, freq_dim=32, **sizes)
    return ChunkDenoiser(net, ControlBranch.from_transformer(net, ("known", "observed", "rays"), (0, 2)), TRAINED)


@pytest.fixture(scope="module")
def tiny_data(tmp_path_factory) -> LatentClips:
    """A walk of three windows as the tiny codec sees it."""
    world, out = tiny_wan_world_model(), tmp_path_factory.mktemp("tiny")
    clips = write_clips(out / "clips", iter([rooms_clip(1, "train", 25, 64)]), 1, {})
    return encode_clips(clips, out / "set.zarr", world.config, world.codec)


class OneBatch(ConditionSampler):
    """Draws the same batch every time."""

    def draw(self, batch, generator, readouts=()):
        return super().draw(batch, seeded(3), readouts)


def test_loss_is_the_error_of_the_velocity(tiny_data):
    """A network that predicts nothing has the error |eps - z|^2, whatever the noise levels are."""
    config = tiny_wan_world_model().config
    (batch,) = ConditionSampler(tiny_data, config).draw(2, seeded())
    denoiser = a_denoiser()
    for parameter in denoiser.transformer.proj_out.parameters():
        torch.nn.init.zeros_(parameter)
    loss = velocity_loss(Variant(denoiser, BareReadout(), config.readout), batch, seeded(5), drop=0.0)["loss"]
    generator = seeded(5)
    torch.rand(2, generator=generator)  # what drops memories
    noise = torch.randn(batch.latents.shape, generator=generator)
    assert loss.item() == pytest.approx(((noise - batch.latents)[:, 1:] ** 2).mean().item(), rel=1e-3)


def test_every_frame_has_a_shifted_noise_level_of_its_own_and_frame_0_none(tiny_data):
    config = tiny_wan_world_model().config
    (batch,) = ConditionSampler(tiny_data, config).draw(64, seeded())
    denoiser, asked = a_denoiser(num_layers=3), []

    def predict(x, sigma, prior, preceding, cond, references, text):
        asked.append((x, sigma))
        return x

    denoiser.predict = predict
    velocity_loss(Variant(denoiser, BareReadout(), config.readout), batch, seeded())
    x, sigma = asked[0]
    assert torch.equal(x[:, 0], batch.latents[:, 0])
    assert sigma.shape == (64, 3)
    assert not sigma[:, 0].any()
    sigma = sigma[:, 1:]
    assert sigma.unique().numel() == sigma.numel()
    shift = TRAINED.shift
    plain = sigma / (shift - (shift - 1.0) * sigma)
    assert plain.min() >= 0.0009
    assert plain.max() < 1.0
    assert plain.mean() == pytest.approx(0.5, abs=0.05)


@pytest.mark.parametrize("name", ["branch", "lora"])
def test_loss_falls_on_one_batch(tiny_data, tmp_path, name):
    config, denoiser = tiny_wan_world_model().config, a_denoiser()
    trainable = list(denoiser.branch.parameters())
    if name == "lora":
        trainable += add_lora(denoiser.transformer, rank=8)
    loop = LoopConfig(
        steps=40, lr=5e-3, betas=(0.0, 0.999), weight_decay=1e-3, warmup=5, ema=0.9, log_every=10, bf16=False
    )
    variant = Variant(denoiser, BareReadout(), config.readout)
    train_denoiser(variant, trainable, OneBatch(tiny_data, config), tmp_path, loop, batch=2, drop=0.0)
    losses = [float(row["loss"]) for row in rows(tmp_path)]
    assert losses[0] > 1.0
    assert losses[-1] < 0.4 * losses[0]


def test_gradient_checkpointing_changes_no_gradient(tiny_data):
    config = tiny_wan_world_model().config
    (batch,) = ConditionSampler(tiny_data, config).draw(1, seeded(2))

    def gradients(checkpointing):
        denoiser = a_denoiser().train()
        for layer in denoiser.branch.after_proj:
            torch.nn.init.eye_(layer.weight)
        if checkpointing:
            denoiser.transformer.enable_gradient_checkpointing()
            denoiser.branch.enable_gradient_checkpointing()
        velocity_loss(Variant(denoiser, BareReadout(), config.readout), batch, seeded(), drop=0.0)["loss"].backward()
        return {name: p.grad for name, p in denoiser.branch.named_parameters() if p.grad is not None}

    kept, twice = gradients(False), gradients(True)
    assert kept.keys() == twice.keys()
    assert any(g.abs().max() > 0 for g in kept.values())
    for name, gradient in kept.items():
        torch.testing.assert_close(twice[name], gradient, rtol=1e-5, atol=1e-7)


# Stages


def stage(model: Path, data: LatentClips, out: Path, name="branch", **changes) -> Finetune:
    given = {"steps": 4, "lr": 1e-3, "warmup": 1, "batch": 2, "rank": 4, "held_out": 1, "device": "cpu", "log_every": 1}
    return Finetune(name, str(model), data.path, out, **{**given, "save_every": 2, "sample_every": 0, **changes})


def rows(folder: Path) -> list[dict[str, str]]:
    with (folder / "log.csv").open() as file:
        return [{k: v for k, v in row.items() if k != "seconds"} for row in csv.DictReader(file)]


@pytest.fixture(scope="module")
def trained(model, imported, tmp_path_factory) -> Path:
    """All stages, four steps each, with a data set of their own since it gets what was imagined."""
    out = tmp_path_factory.mktemp("run")
    shutil.copytree(imported[0], out / "set.zarr")
    data = LatentClips(out / "set.zarr")
    run(stage(model, data, out, sample_every=4))
    run(stage(model, data, out, "imagine", chunks=2))
    run(stage(model, data, out, "lora"))
    return out


def test_stages_make_a_model_that_is_loaded_and_walked(model, trained):
    world = load_world_model(
        model,
        dtype=torch.float32,
        control=trained / "stage2" / "control",
        lora=trained / "stage2" / "lora",
        text_encoder=False,
        prompts=None,
    )
    config = world.config
    assert (config.preceding_latents, config.references, config.frames_per_second) == (2, 4, 8.0)
    assert not config.sampler.placement.enabled
    assert config.sampler.prediction == "flow"
    world = replace(world, generator=ChunkDenoiser(world.generator.transformer, world.generator.branch, config.sampler))
    _, state = world.start(np.full((*SIZE, 3), 90, np.uint8))
    for _ in range(2):
        chunk, state = world.step(state, [state.camera] * config.frames_per_chunk)
        assert chunk.frames.shape == (F, 3, *SIZE)
        assert chunk.frames.isfinite().all()


def test_stage_one_trains_the_branch_and_stage_two_goes_on_with_it(trained):
    first, second = (load_file(trained / s / "control" / WEIGHTS) for s in ("stage1", "stage2"))
    start = ControlBranch.from_transformer(
        tiny_checkpoints.transformer(), ("known", "observed", "winner", "rays"), (0,)
    )
    assert first.keys() == second.keys() == start.state_dict().keys()
    assert first["after_proj.0.weight"].abs().max() > 0
    near = (second["after_proj.0.weight"].float() - first["after_proj.0.weight"].float()).abs().max()
    assert 0 < near < 0.02
    lora = load_file(trained / "stage2" / "lora" / "pytorch_lora_weights.safetensors")
    assert len(lora) == 3 * 4 * 2
    assert all(v.any() for k, v in lora.items() if "lora_B" in k)
    assert next(v.shape[0] for k, v in lora.items() if "lora_A" in k) == 4


def test_sample_videos_show_the_state_of_a_step(trained):
    from imageio_ffmpeg import count_frames_and_secs

    (video,) = (trained / "runs" / "branch" / "samples").glob("*.mp4")
    assert video.stem == "0000004"
    assert count_frames_and_secs(str(video))[0] == 1 + F


def test_clips_are_imagined_where_the_memory_saw_them(trained):
    data = LatentClips(trained / "set.zarr")
    for i in range(len(data)):
        dream, clip = data.imagined(i), data[i]
        assert np.array_equal(dream.anchors[0], clip.anchors[0])
        assert not np.array_equal(dream.latents, clip.latents)
        assert not np.array_equal(dream.anchors, clip.anchors)
        assert np.isfinite(dream.latents).all()


@pytest.mark.parametrize("name", ["branch", "lora"])
def test_stopped_stage_goes_on_bit_for_bit(model, data, trained, tmp_path, monkeypatch, name):
    """Dropout of the LoRA and everything else that is random included."""
    for run_name in ("whole", "broken"):
        shutil.copytree(trained / "stage1", tmp_path / run_name / "stage1")
    run(stage(model, data, tmp_path / "whole", name))
    calls = []

    def stops(*arguments, **more):
        calls.append(1)
        if len(calls) == 2 * 3:  # in the third step, of two parts
            raise KeyboardInterrupt
        return velocity_loss(*arguments, **more)

    with monkeypatch.context() as patched:
        patched.setattr(stages, "velocity_loss", stops)
        with pytest.raises(KeyboardInterrupt):
            run(stage(model, data, tmp_path / "broken", name))
    run(stage(model, data, tmp_path / "broken", name))
    assert rows(tmp_path / "broken" / "runs" / name) == rows(tmp_path / "whole" / "runs" / name)
    ours, theirs = (load_file(tmp_path / n / "runs" / name / "checkpoint-4.safetensors") for n in ("broken", "whole"))
    assert ours.keys() == theirs.keys()
    assert all(torch.equal(v, theirs[k]) for k, v in ours.items())


def test_few_clips_can_be_imagined_in_few_steps(model, data, trained, tmp_path):
    shutil.copytree(trained / "stage1", tmp_path / "stage1")
    shutil.copytree(data.path, tmp_path / "set.zarr")
    run(stage(model, LatentClips(tmp_path / "set.zarr"), tmp_path, "imagine", dream_steps=1, dream_clips=1))
    again = LatentClips(tmp_path / "set.zarr")
    assert again.imagined(0) is not None
    assert again.imagined(1) is None
    first = LatentClips(trained / "set.zarr").imagined(0)
    assert not np.array_equal(again.imagined(0).latents, first.latents)


def test_papers_condition_is_the_bare_readout_and_the_mask(model, data, tmp_path):
    run(stage(model, data, tmp_path, paper=True, steps=1))
    config = json.loads((tmp_path / "stage1" / "control" / "config.json").read_text())
    assert config["parts"] == ["readout", "observed"]


@pytest.mark.parametrize(("every", "layers"), [(4, [0]), (2, [0, 2]), (1, [0, 1, 2])])
def test_a_new_branch_has_a_side_block_for_so_many_main_blocks(model, data, tmp_path, every, layers):
    asked = stage(model, data, tmp_path, every=every)
    sources = training_sources(asked, data)
    denoiser = training_denoiser(asked, sources, config_of(sources), data, torch.device("cpu"))
    assert list(denoiser.branch.config.layers) == layers


@pytest.mark.parametrize("frozen", [False, True])
def test_a_frozen_branch_and_its_norms_are_not_trained(model, data, tmp_path, monkeypatch, frozen):
    given = {}

    def train(denoiser, loss, folder, config, sample):
        given.update(branch=denoiser.branch, backbone=denoiser.transformer)
        return denoiser

    monkeypatch.setattr(stages, "train", train)
    monkeypatch.setattr(finetune, "save_stage", lambda *_, **__: None)
    control = tiny_checkpoints.save_control(tmp_path / "control")
    run(stage(model, data, tmp_path, "lora", control=str(control), frozen_branch=frozen, branch_norms=True))
    trained = {name for name, p in given["branch"].named_parameters() if p.requires_grad}
    assert trained == (set() if frozen else {name for name, _ in given["branch"].named_parameters()})
    assert {name for name, p in given["backbone"].named_parameters() if p.requires_grad and "lora" not in name} == set()
    assert any(p.requires_grad for p in given["backbone"].parameters())


def test_norms_of_a_branch_are_trained_where_asked_only(monkeypatch, tmp_path):
    monkeypatch.setattr(stages, "train", lambda denoiser, *_: denoiser)
    for asked in (False, True):
        net = a_denoiser()
        variant = Variant(net, BareReadout(), None)
        norms = net.branch if asked else None
        train_denoiser(variant, net.branch.parameters(), None, tmp_path, LoopConfig(steps=1, bf16=True), norms=norms)
        for name, p in net.named_parameters():
            if ".norm_q." in name or ".norm_k." in name:
                own = asked and name.startswith("branch.")
                assert (p.requires_grad, p.dtype) == (own, torch.float32 if own else torch.bfloat16)


@torch.no_grad()
def test_chunks_that_overlap_learn_from_what_is_new_alone():
    """The first window of a clip begins with its still alone, others with all that overlaps, clean and uncounted."""
    config = replace(tiny_wan_world_model().config, preceding_latents=0, chunk_latents=7, clean_latents=3)
    assert config.window_frames == 24
    latents = torch.randn(2, 7, 8, 4, 4, generator=seeded(1))
    batch = Batch(
        latents, latents[:, :0], [_nothing(7)] * 2, torch.zeros(2, 7, 6, 4, 4), torch.ones(8, 1, 1), clean=(1, 3)
    )
    denoiser, asked = a_denoiser(), []

    def predict(x, sigma, *_):
        asked.append((x, sigma))
        return torch.full_like(x, 7.0)

    denoiser.predict = predict
    found = velocity_loss(Variant(denoiser, BareReadout(), config.readout), batch, seeded())
    x, sigma = asked[0]
    assert [int((row == 0.0).sum()) for row in sigma] == [1, 3]
    assert torch.equal(x[1, :3], latents[1, :3])
    new = torch.cat([((7.0 - latents[i, c:]) / sigma[i, c:, None, None, None]) ** 2 for i, c in enumerate((1, 3))])
    assert found["loss"].item() == pytest.approx(new.mean().item(), rel=1e-5)


def _nothing(views: int) -> Readout:
    zero = torch.zeros(views, 4, 4)
    return Readout(torch.zeros(views, 8, 4, 4), zero, zero, torch.zeros(views, 2, 4, 4), zero, zero)


def test_fine_tuning_goes_on_from_spatias_layout(model, tmp_path):
    """Branch and update train from its condition, whose encodings are set, and what comes out walks in its rounds."""
    torch.manual_seed(0)
    branch = ControlBranch.from_transformer(tiny_checkpoints.transformer(), ("render", "mask"), (0, 2))
    save_file(published_branch(branch.state_dict(), "module."), tmp_path / "branch.safetensors")
    (control,) = convert(tmp_path / "branch.safetensors", tmp_path / "spatia", "spatia", (0, 2), head_width=24)
    settings = control / "mirage.json"
    said = json.loads(settings.read_text())
    settings.write_text(json.dumps(said | {"sampler": said["sampler"] | {"steps": 1}}))
    clips = write_clips(tmp_path / "clips", (rooms_clip(i, "train", 25, 64) for i in range(2)), 2, {})
    config = config_of(sources_of(model, control, chunk_latents=7, image_size=(64, 64)))
    data = encode_clips(clips, tmp_path / "set.zarr", config, WanCodec(tiny_checkpoints.autoencoder()).eval())
    assert data.info.window == 6
    run(stage(model, data, tmp_path, "lora", control=str(control), steps=1, sample_every=1))
    assert float(rows(tmp_path / "runs" / "lora")[-1]["loss"]) < float("inf")
    out = tmp_path / "stage2"
    world = load_world_model(model, control=out / "control", lora=out / "lora", dtype=torch.float32, steps=1)
    assert [world.config.frames_of(n) for n in range(2)] == [120, 16]
    assert world.generator.branch.mask_latents is not None


def test_batch_is_shared_by_processes_and_parts():
    options = Finetune("branch", "m", Path("d"), Path("o"), batch=64, chunks=2)
    loop = loop_config(options, processes=8, bf16=True)
    assert loop.accumulate == 4
    assert (loop.steps, loop.lr, loop.betas, loop.weight_decay) == (8000, 1e-5, (0.0, 0.999), 1e-3)
    assert loop_config(replace(options, stage="lora"), 1, True).lr == 1e-4
    with pytest.raises(InvalidOptionError, match="give 66"):
        loop_config(replace(options, chunks=1), processes=6, bf16=True)


@pytest.mark.parametrize(("changes", "says"), [({"batch": 0}, "--batch"), ({"text_drop": 1.5}, "--text-drop")])
def test_stage_options_out_of_range_are_refused(changes, says):
    with pytest.raises(InvalidOptionError, match=says):
        Finetune("branch", "m", Path("d"), Path("o"), **changes)


def test_what_does_not_go_together_is_refused(model, data, tmp_path):
    with pytest.raises(ModelNotFoundError, match="run `mirage train branch` first"):
        run(stage(model, data, tmp_path, "lora"))
    with pytest.raises(InvalidOptionError, match="small model"):
        run(stage(Path("rooms"), data, tmp_path))
    other = tmp_path / "other"
    shutil.copytree(model, other)
    tiny_checkpoints.change_weights(other / "vae" / WEIGHTS, lambda weights, name: weights[name].add_(1.0))
    shutil.copytree(data.path, tmp_path / "set.zarr")
    with pytest.raises(DatasetError, match="another codec"):
        run(stage(other, LatentClips(tmp_path / "set.zarr"), tmp_path, "branch", sample_every=1, steps=1))


def test_commands_say_what_they_did_and_what_is_wrong(model, source, tmp_path, capsys):
    place = tmp_path / "set.zarr"
    words = f"train import-re10k {source} --model {model} --data {place} --scale 1 --fps 8 --device cpu --no-text"
    assert main(words.split()) == 0
    assert "has 2 of these clips (2 could not be used)" in capsys.readouterr().out
    assert LatentClips(place).info.text_length == 0
    assert main(["train"]) == 2
    assert "import-re10k" in capsys.readouterr().err
    assert main(["train", "fsdp"]) == 0
    assert Path(capsys.readouterr().out.strip()).is_file()
    arguments = f"train branch --model {model} --data {tmp_path / 'nowhere'} --out {tmp_path} --device cpu"
    assert main(arguments.split()) == 2
    assert "there is no data set" in capsys.readouterr().err


def test_shard_configuration_is_one_that_accelerate_reads():
    import yaml
    from accelerate.commands.config.config_args import load_config_from_file

    from mirage_env.commands.train import FSDP_CONFIG

    config = load_config_from_file(str(FSDP_CONFIG))
    assert str(config.distributed_type) in ("FSDP", "DistributedType.FSDP")
    fsdp = yaml.safe_load(FSDP_CONFIG.read_text())["fsdp_config"]
    net = tiny_checkpoints.transformer()
    assert fsdp["fsdp_transformer_layer_cls_to_wrap"] in {type(block).__name__ for block in net.blocks}
