"""Weights of the paper's released trainer: converted, they sample as its published description says.

The checkpoint is written, and the sampler written down again, from that description; nothing here uses our own branch,
conversion or sampler.
"""

import numpy as np
import pytest
import torch
from diffusers import UniPCMultistepScheduler
from PIL import Image
from safetensors.torch import save_file
from tiny_checkpoints import IMAGE_SIZE, autoencoder, save_pipeline, transformer
from tiny_geometry import save_depth_anything
from torch.nn.functional import conv3d, gelu, layer_norm, linear, pad, rms_norm, scaled_dot_product_attention
from transformers import AutoTokenizer, UMT5EncoderModel

from mirage_env.camera import between
from mirage_env.models.io.published_checkpoints import convert
from mirage_env.models.world_model_loader import load_world_model
from mirage_env.poses import pose_from_rotation_vector

LAYERS, DIM, HEADS, FFN, C, RANK = 30, 48, 2, 64, 48, 2
BESIDE = range(0, LAYERS, 2)
"""Main blocks with a side block: 15 of them."""


def draw(*shape: int, std: float = 0.1) -> torch.Tensor:
    return std * torch.randn(shape)


def a_block() -> dict[str, torch.Tensor]:
    """A transformer block by the names of the original code."""
    block = {"norm3.weight": 1 + draw(DIM), "norm3.bias": draw(DIM), "modulation": draw(1, 6, DIM)}
    for attention in ("self_attn", "cross_attn"):
        for layer in "qkvo":
            block |= {f"{attention}.{layer}.weight": draw(DIM, DIM), f"{attention}.{layer}.bias": draw(DIM)}
        block |= {f"{attention}.norm_{x}.weight": 1 + draw(DIM) for x in "qk"}
    block |= {"ffn.0.weight": draw(FFN, DIM), "ffn.0.bias": draw(FFN)}
    return block | {"ffn.2.weight": draw(DIM, FFN), "ffn.2.bias": draw(DIM)}


def a_branch(channels: int) -> dict[str, torch.Tensor]:
    branch = {"vace_patch_embedding.weight": draw(DIM, channels, 1, 2, 2), "vace_patch_embedding.bias": draw(DIM)}
    for i in range(len(BESIDE)):
        block = a_block() | {"after_proj.weight": draw(DIM, DIM), "after_proj.bias": draw(DIM)}
        if i == 0:
            block |= {"before_proj.weight": draw(DIM, DIM), "before_proj.bias": draw(DIM)}
        branch |= {f"vace_blocks.{i}.{name}": value for name, value in block.items()}
    return branch


def a_lora() -> dict[str, torch.Tensor]:
    """Updates of the self-attention as peft leaves them."""
    return {
        f"base_model.model.blocks.{i}.self_attn.{layer}.lora_{half}.default.weight": draw(*shape)
        for i in range(LAYERS)
        for layer in "qkvo"
        for half, shape in (("A", (RANK, DIM)), ("B", (DIM, RANK)))
    }


def run_block(block, x, text, time, angles):
    """A transformer block of the original code; x [1, L, D], time [1, L, 6, D], angles [L, d / 2]."""

    def apply(name, value):
        return linear(value, block[f"{name}.weight"], block[f"{name}.bias"])

    def turned(value):
        pairs = torch.view_as_complex(value.unflatten(-1, (-1, 2)).double().contiguous())
        return torch.view_as_real(pairs * torch.polar(torch.ones_like(angles), angles)).flatten(-2).float()

    def attend(name, value, context, rotate):
        q = rms_norm(apply(f"{name}.q", value), (DIM,), block[f"{name}.norm_q.weight"], 1e-6)
        k = rms_norm(apply(f"{name}.k", context), (DIM,), block[f"{name}.norm_k.weight"], 1e-6)
        q, k, v = (t.unflatten(2, (HEADS, -1)).transpose(1, 2) for t in (q, k, apply(f"{name}.v", context)))
        q, k = (turned(q), turned(k)) if rotate else (q, k)
        return apply(f"{name}.o", scaled_dot_product_attention(q, k, v).transpose(1, 2).flatten(2))

    e = (block["modulation"][None] + time).unbind(2)
    moved = layer_norm(x, (DIM,), eps=1e-6) * (1 + e[1]) + e[0]
    x = x + attend("self_attn", moved, moved, rotate=True) * e[2]
    normed = layer_norm(x, (DIM,), block["norm3.weight"], block["norm3.bias"], 1e-6)
    x = x + attend("cross_attn", normed, text, rotate=False)
    moved = layer_norm(x, (DIM,), eps=1e-6) * (1 + e[4]) + e[3]
    return x + apply("ffn.2", gelu(apply("ffn.0", moved), approximate="tanh")) * e[5]


def rotary_angles(frames: int, rows: int, columns: int, references: int) -> torch.Tensor:  # [L, d / 2]
    """Angles of time, row and column; references stand on rows below the picture."""
    d = DIM // HEADS
    side = 2 * (d // 6)
    axes = [10000.0 ** -(torch.arange(0, size, 2).double() / size) for size in (d - 2 * side, side, side)]
    times, ys, xs = torch.meshgrid(*(torch.arange(n).double() for n in (frames, rows, columns)), indexing="ij")
    ys = ys + rows * (times < references)
    return torch.cat([p.flatten()[:, None] * f for p, f in zip((times, ys, xs), axes, strict=True)], 1)


class Described:
    """The released sampler by its description."""

    def __init__(self, folder, branch, lora) -> None:
        self.net, self.vae, self.branch = transformer(layers=LAYERS).eval(), autoencoder().eval(), branch
        state = self.net.state_dict()
        names = {"q": "to_q", "k": "to_k", "v": "to_v", "o": "to_out.0"}
        for i in range(LAYERS):
            for layer, name in names.items():
                a, b = (lora[f"base_model.model.blocks.{i}.self_attn.{layer}.lora_{h}.default.weight"] for h in "AB")
                state[f"blocks.{i}.attn1.{name}.weight"] += b @ a
        self.net.load_state_dict(state)

    def ones(self, latents: int) -> torch.Tensor:  # [C, latents, h, w]
        video = torch.ones(1, 3, 4 * (latents - 1) + 1, *IMAGE_SIZE)
        return (self.vae.encode(video).latent_dist.mode()[0] - 0.1) / 0.5

    def velocity(self, tokens, time, text, condition, references: int):
        """The transformer with its branch; tokens [1, C, R + T + P, h, w], time [1, L]."""
        frames, rows, columns = tokens.shape[2], tokens.shape[3] // 2, tokens.shape[4] // 2
        angles = rotary_angles(frames, rows, columns, references)
        cos, sin = (f(angles).repeat_interleave(2, 1)[None, :, None].float() for f in (torch.cos, torch.sin))
        self.net.rope.forward = lambda hidden: (cos, sin)
        unseen, hints = references * rows * columns, {}
        weights = self.branch
        side = conv3d(
            condition, weights["vace_patch_embedding.weight"], weights["vace_patch_embedding.bias"], (1, 2, 2)
        )
        side = side.flatten(2).transpose(1, 2)

        def before_first(block, given):
            x, words, moved, _ = given
            c = linear(side, weights["vace_blocks.0.before_proj.weight"], weights["vace_blocks.0.before_proj.bias"])
            c = c + x[:, unseen:]
            for i, layer in enumerate(BESIDE):
                own = {k.removeprefix(f"vace_blocks.{i}."): v for k, v in weights.items() if f"vace_blocks.{i}." in k}
                c = run_block(own, c, words, moved[:, unseen:], angles[unseen:])
                hints[layer] = pad(linear(c, own["after_proj.weight"], own["after_proj.bias"]), (0, 0, unseen, 0))

        handles = [self.net.blocks[0].register_forward_pre_hook(before_first)]
        for layer in BESIDE:
            hook = self.net.blocks[layer].register_forward_hook
            handles.append(hook(lambda block, given, out, layer=layer: out + hints[layer]))
        out = self.net(tokens, time, text, return_dict=False)[0]
        for handle in handles:
            handle.remove()
        return out

    def sample(self, given, text, generator) -> torch.Tensor:  # [T, C, h, w]
        readout, shown = given["readout"][0].latent, given["preceding_readout"][0]
        first, past = given["known"][0, :1], given["preceding"][0]
        references = given["references"][0]
        T, P, R = len(readout), len(past), len(references)
        seen = torch.cat([readout, shown]).transpose(0, 1)  # [C, T + P, h, w]
        if self.branch["vace_patch_embedding.weight"].shape[1] == 2 * C:
            condition = torch.cat([seen, self.ones(T + P)])[None]
        else:
            condition = torch.cat([seen, (seen == 0).all(0, keepdim=True).float()])[None]
        scheduler = UniPCMultistepScheduler(prediction_type="flow_prediction", use_flow_sigmas=True, flow_shift=5.0)
        scheduler.set_timesteps(sigmas=np.linspace(0.999, 0.0, 21)[:-1].copy())
        assert scheduler.timesteps.tolist()[-2:] == [356, 208]
        x = torch.randn(readout.shape, generator=generator)
        patches = readout.shape[2] * readout.shape[3] // 4
        for t in scheduler.timesteps:
            x[:1] = first
            tokens = torch.cat([references, x, past]).transpose(0, 1)[None]
            time = torch.zeros(1, R + T + P, patches)
            time[:, R + 1 : R + T] = float(t)
            out = self.velocity(tokens, time.flatten(1), text, condition, R)[0, :, R : R + T].transpose(0, 1)
            x = scheduler.step(out, t, x, return_dict=False)[0]
        return torch.cat([first, x[1:]])


class Listening:
    """Passes on to the generator, and keeps what it was given."""

    def __init__(self, generator) -> None:
        self.generator, self.given = generator, []
        self.takes_prompts = True

    def generate(self, **given):
        states = [g.get_state() for g in given["generators"]]
        self.given.append({**given, "noise": states[0]})
        return self.generator.generate(**given)


@pytest.mark.parametrize("channels", [2 * C, C + 1], ids=["all-ones video", "hole mask"])
@torch.inference_mode()
def test_converted_weights_walk_as_the_released_sampler_does(tmp_path, channels):
    torch.manual_seed(0)
    save_pipeline(tmp_path / "wan")
    transformer(layers=LAYERS).save_pretrained(tmp_path / "wan" / "transformer")
    save_depth_anything(tmp_path / "depth")
    branch, lora = a_branch(channels), a_lora()
    save_file({f"module.{k}": v for k, v in branch.items()}, tmp_path / "branch.safetensors")
    save_file(lora, tmp_path / "lora.safetensors")
    convert(tmp_path / "branch.safetensors", tmp_path / "ours", "released", head_width=DIM // HEADS)
    convert(tmp_path / "lora.safetensors", tmp_path / "ours", "released")
    parts = {"control": tmp_path / "ours", "lora": tmp_path / "ours", "depth": tmp_path / "depth"}
    model = load_world_model(tmp_path / "wan", dtype=torch.float32, prompt_cache=None, **parts)
    listening = Listening(model.generator)
    object.__setattr__(model, "generator", listening)

    picture = np.random.default_rng(0).integers(0, 255, (4, 6, 3)).astype(np.uint8)
    image = np.asarray(Image.fromarray(picture).resize(IMAGE_SIZE[::-1], Image.Resampling.BICUBIC))
    _, state = model.start(image, seed=1, prompt="a red chair")
    chunks = []
    for _ in range(2):
        end = state.camera.moved(pose_from_rotation_vector([0.1, 0.0, 0.2], [0.0, 0.1, 0.0]))
        chunk, state = model.step(state, between(state.camera, end, model.config.frames_per_chunk))
        chunks.append(chunk)

    first, second = listening.given
    assert len(first["preceding"][0]) == len(first["preceding_readout"][0]) == 0
    assert len(second["preceding"][0]) == len(second["preceding_readout"][0]) == 2
    assert torch.equal(second["preceding_readout"][0], chunks[0].readout.latent[-2:])
    assert second["readout"][0].observed.any()
    assert len(second["references"][0]) >= 1

    described = Described(tmp_path, branch, lora)
    ids = AutoTokenizer.from_pretrained(tmp_path / "wan" / "tokenizer")("a red chair", return_tensors="pt").input_ids
    text = UMT5EncoderModel.from_pretrained(tmp_path / "wan" / "text_encoder").eval()(ids).last_hidden_state
    text = pad(text, (0, 0, 0, 512 - text.shape[1]))
    for given, chunk in zip((first, second), chunks, strict=True):
        generator = torch.Generator()
        generator.set_state(given["noise"])
        expected = described.sample(given, text, generator)[1:]
        assert (chunk.latents - expected).abs().max() < 1e-5 * expected.abs().max()
