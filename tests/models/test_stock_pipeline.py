"""Stock Wan2.2-TI2V as its users run it: guidance, steps and timesteps, compared with diffusers' own pipeline."""

from dataclasses import replace

import numpy as np
import pytest
import torch
from diffusers import FlowMatchEulerDiscreteScheduler, UniPCMultistepScheduler, WanImageToVideoPipeline
from PIL import Image
from tiny_checkpoints import IMAGE_SIZE, save_pipeline
from tiny_geometry import save_depth_anything
from tiny_wan import letters, tiny_transformer, tiny_wan_world_model

from mirage_env.config.sampler import SamplerConfig
from mirage_env.errors import InvalidOptionError
from mirage_env.interfaces import Guidance, Readout
from mirage_env.models.wan.chunk_denoiser import ChunkDenoiser
from mirage_env.models.wan.guidance import Guide
from mirage_env.models.world_model_loader import load_world_model
from mirage_env.store import load_world, save_world

PROMPT = "a red chair in the rain"
T = 3


@pytest.fixture(scope="module")
def folder(tmp_path_factory):
    folder = tmp_path_factory.mktemp("stock")
    save_pipeline(folder / "wan")
    (folder / "wan" / "mirage.json").write_text('{"image_size": [64, 96], "chunk_latents": 3}')
    save_depth_anything(folder / "depth")
    return folder


def load(folder, **options):
    options = {"dtype": torch.float32, "depth": folder / "depth", "prompt_cache": None, **options}
    return load_world_model(folder / "wan", **options)


def nothing_seen(channels: int = 48, h: int = 4, w: int = 6) -> Readout:
    maps = {name: torch.zeros(T, h, w) for name in ("observed", "depth", "scale", "age")}
    return Readout(latent=torch.zeros(T, channels, h, w), offset=torch.zeros(T, 2, h, w), **maps)


def image() -> np.ndarray:
    return np.random.default_rng(0).integers(0, 255, (*IMAGE_SIZE, 3)).astype(np.uint8)


def chunk_of(model, latent: torch.Tensor, seed: int, **how) -> torch.Tensor:  # [T, C, h, w]
    """A chunk that begins at a latent, where the memory shows nothing."""
    known = torch.zeros(1, T, *latent.shape)
    known[0, 0] = latent
    return model.generator.generate(
        known=known,
        readout=[nothing_seen()],
        rays=torch.zeros(1, T, 6, 4, 6),
        preceding=[known[0, :0]],
        generators=[torch.Generator().manual_seed(seed)],
        **how,
    )[0]


@pytest.mark.parametrize("batched", [True, False], ids=["one call", "two calls"])
@torch.inference_mode()
def test_stock_weights_with_their_defaults_give_what_diffusers_pipeline_gives(folder, batched):
    model = load(folder)
    sampler = model.config.sampler
    assert (sampler.steps, sampler.shift, sampler.guidance_scale) == (50, 5.0, 5.0)
    model.generator.batch_guidance = batched
    pipeline = WanImageToVideoPipeline.from_pretrained(folder / "wan", image_encoder=None, image_processor=None)
    pipeline.set_progress_bar_config(disable=True)
    noise = torch.randn(T, 48, 4, 6, generator=torch.Generator().manual_seed(5))
    expected = pipeline(
        image=Image.fromarray(image()),
        prompt_embeds=model.generator.text([PROMPT]),
        negative_prompt_embeds=model.generator.text([sampler.negative_prompt]),
        height=IMAGE_SIZE[0],
        width=IMAGE_SIZE[1],
        num_frames=4 * (T - 1) + 1,
        num_inference_steps=50,
        guidance_scale=5.0,
        latents=noise.transpose(0, 1)[None],
        output_type="latent",
    ).frames[0]
    _, state = model.start(image())
    found = chunk_of(model, state.latents[-1], seed=5, prompts=[PROMPT])
    assert (found - expected.transpose(0, 1)).abs().max() < 1e-5 * expected.abs().max()


@pytest.mark.parametrize("steps", [3, 20, 50])
@pytest.mark.parametrize("shift", [3.0, 5.0])
@pytest.mark.parametrize("solver", ["unipc", "euler"])
def test_noise_levels_and_timesteps_are_those_of_diffusers_schedulers(solver, shift, steps):
    if solver == "unipc":
        theirs = UniPCMultistepScheduler(prediction_type="flow_prediction", use_flow_sigmas=True, flow_shift=shift)
    else:
        theirs = FlowMatchEulerDiscreteScheduler(shift=shift)
    theirs.set_timesteps(steps)
    config = SamplerConfig(
        steps, shift, "flow", solver=solver, schedule="diffusers", integer_timesteps=solver == "unipc"
    )
    backbone = Listening()
    chunk = ChunkDenoiser(backbone, None, config).generate(**inputs())
    assert chunk.isfinite().all()
    assert torch.tensor(backbone.times).tolist() == pytest.approx(theirs.timesteps.tolist(), abs=1e-3)
    if solver == "unipc":
        assert backbone.times == theirs.timesteps.tolist()


def test_the_table_of_wans_own_code_is_that_of_the_release():
    config = SamplerConfig(20, 5.0, "flow", solver="unipc", schedule="wan", integer_timesteps=True)
    backbone = Listening()
    denoiser = ChunkDenoiser(backbone, None, config)
    assert [1000 * s for s in denoiser.sigmas()][-3:] == pytest.approx([356.888, 208.16, 0.0], abs=1e-3)
    denoiser.generate(**inputs())
    assert backbone.times[0] == 999.0
    assert backbone.times[-2:] == [356.0, 208.0]


class Listening(torch.nn.Module):
    """A silent backbone that keeps the timesteps of the last frame."""

    def __init__(self) -> None:
        super().__init__()
        self.net = tiny_transformer()
        self.config, self.patch_embedding = self.net.config, self.net.patch_embedding
        self.times = []

    def forward(self, tokens, timestep, text, return_dict):
        self.times.append(float(timestep[0, -1]))
        return (torch.zeros_like(tokens),)


def inputs(channels: int = 8) -> dict:
    return {
        "known": torch.zeros(1, T, channels, 4, 4),
        "readout": [nothing_seen(channels, 4, 4)],
        "rays": torch.zeros(1, T, 6, 4, 4),
        "preceding": [torch.zeros(0, channels, 4, 4)],
        "generators": [torch.Generator().manual_seed(0)],
    }


# Guidance


def denoiser(**sampler) -> ChunkDenoiser:
    config = SamplerConfig(3, 5.0, "flow", couple=False, solver="unipc", **sampler)
    return ChunkDenoiser(tiny_transformer(), None, config, letters).eval()


@torch.no_grad()
def generate(net: ChunkDenoiser, *guidance: Guidance, prompts=("a",)) -> torch.Tensor:
    one = inputs()
    many = {
        "known": one["known"].expand(len(prompts), -1, -1, -1, -1),
        "readout": one["readout"] * len(prompts),
        "rays": one["rays"].expand(len(prompts), -1, -1, -1, -1),
        "preceding": one["preceding"] * len(prompts),
        "generators": [torch.Generator().manual_seed(i) for i in range(len(prompts))],
    }
    return net.generate(**many, prompts=prompts, guidance=guidance)


def test_a_scale_of_one_is_no_guidance_and_of_zero_the_negative_prompt_alone():
    plain = denoiser()
    assert torch.equal(generate(denoiser(guidance_scale=1.0, negative_prompt="x")), generate(plain))
    negative = generate(denoiser(guidance_scale=0.0, negative_prompt="x"))
    torch.testing.assert_close(negative, generate(plain, prompts=("x",)), rtol=1e-4, atol=1e-5)


def test_a_world_has_its_own_guidance_in_any_company():
    net = denoiser(guidance_scale=4.0, negative_prompt="x")
    given = (Guidance(), Guidance(1.0), Guidance(2.0, "y"), Guidance(None, "z"))
    together = generate(net, *given, prompts=("a",) * 4)
    for i, one in enumerate(given):
        alone = generate(net, *([one] * 4), prompts=("a",) * 4)[i]
        torch.testing.assert_close(together[i], alone, rtol=1e-4, atol=1e-5)
    assert not torch.allclose(together[0], together[3])
    other = denoiser(guidance_scale=2.0, negative_prompt="y")
    torch.testing.assert_close(together[2], generate(other, prompts=("a",) * 4)[2], rtol=1e-4, atol=1e-5)


def test_guidance_rests_outside_its_interval():
    never = denoiser(guidance_scale=5.0, negative_prompt="x", guidance_interval=(0.0, 0.0))
    assert torch.equal(generate(never), generate(denoiser()))
    half = generate(denoiser(guidance_scale=5.0, negative_prompt="x", guidance_interval=(0.0, 0.9)))
    assert not torch.allclose(half, generate(denoiser()))
    assert not torch.allclose(half, generate(denoiser(guidance_scale=5.0, negative_prompt="x")))


def test_zero_star_scales_the_negative_prediction_to_fit_best():
    config = SamplerConfig(guidance_rule="zero_star")
    x, positive = torch.randn(2, T, 4, 2, 2), torch.randn(2, T, 4, 2, 2)
    negative = x - 3.0 * (x - positive)  # three times the velocity: fits when scaled by a third
    guide = Guide(torch.tensor([5.0, 2.0]), torch.zeros(2, 1, 1), config, batched=True)
    torch.testing.assert_close(guide.combine(x, positive, negative), positive)


def test_guidance_without_a_text_encoder_is_refused():
    net = denoiser()
    net.text = None
    with pytest.raises(InvalidOptionError, match=r"guidance_scale is 3\.0.*reads no prompts"):
        generate(net, Guidance(3.0))


@pytest.mark.parametrize("scale", [-1.0, float("nan"), float("inf")])
def test_impossible_scales_are_refused(scale):
    for make in (Guidance, lambda s: SamplerConfig(guidance_scale=s)):
        with pytest.raises(InvalidOptionError, match="guidance_scale is"):
            make(scale)


def test_options_of_the_sampler_go_with_any_name_and_leave_the_identity(folder):
    plain = load(folder)
    options = {"steps": 7, "shift": 3.0, "solver": "euler", "guidance_scale": 2.0, "negative_prompt": "fog"}
    model = load(folder, **options)
    for name, value in options.items():
        assert getattr(model.config.sampler, name) == getattr(model.generator.sampler, name) == value
    assert model.identity == plain.identity
    rooms = load_world_model("rooms", steps=2)
    assert rooms.generator.sampler.steps == 2
    assert load_world_model("rooms").generator.sampler.steps == 1


def test_steps_take_the_place_of_fixed_timesteps(folder, tmp_path):
    sampler = load(folder).config.sampler
    (folder / "wan" / "mirage.json").write_text(
        '{"image_size": [64, 96], "chunk_latents": 3, "sampler": {"timesteps": [1000, 500]}}'
    )
    assert load(folder).config.sampler.timesteps == (1000, 500)
    assert load(folder, steps=4).config.sampler.timesteps == ()
    (folder / "wan" / "mirage.json").write_text('{"image_size": [64, 96], "chunk_latents": 3}')
    assert load(folder).config.sampler == sampler


def test_guidance_and_past_readouts_are_kept_with_a_world(tmp_path):
    model = tiny_wan_world_model()
    model = replace(model, config=replace(model.config, preceding_readouts=True))
    picture = np.random.default_rng(0).integers(0, 255, (64, 64, 3)).astype(np.uint8)
    _, state = model.start(picture, prompt="a", negative_prompt="x", guidance_scale=3.0)
    chunk, state = model.step(state, [state.camera] * model.config.frames_per_chunk)
    assert torch.equal(state.shown[:-1], chunk.readout.latent[-2:])
    save_world(tmp_path / "world.zarr", state, model)
    again = load_world(tmp_path / "world.zarr", model)
    assert again.guidance == Guidance(3.0, "x")
    assert torch.equal(again.shown, state.shown)
    assert torch.equal(again.latents, state.latents)
