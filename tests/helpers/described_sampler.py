"""Published samplers of this family, written down again from their descriptions, and checkpoints by their names.

Nothing here uses our own branch, conversion of a branch or sampler; `save_published` and `listening_model` run ours.
"""

from pathlib import Path

import numpy as np
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


def a_branch(channels: int, blocks: int) -> dict[str, torch.Tensor]:
    branch = {"vace_patch_embedding.weight": draw(DIM, channels, 1, 2, 2), "vace_patch_embedding.bias": draw(DIM)}
    for i in range(blocks):
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
    """A published sampler by its description: side blocks `beside` main blocks, an update in the weights or none."""

    def __init__(self, branch, lora, beside: range, steps: int) -> None:
        self.net, self.vae, self.branch = transformer(layers=LAYERS).eval(), autoencoder().eval(), branch
        self.beside, self.steps = beside, steps
        state = self.net.state_dict()
        names = {"q": "to_q", "k": "to_k", "v": "to_v", "o": "to_out.0"}
        for i in range(LAYERS if lora else 0):
            for layer, name in names.items():
                a, b = (lora[f"base_model.model.blocks.{i}.self_attn.{layer}.lora_{h}.default.weight"] for h in "AB")
                state[f"blocks.{i}.attn1.{name}.weight"] += b @ a
        self.net.load_state_dict(state)

    def plain(self, value: float, latents: int) -> torch.Tensor:  # [C, latents, h, w]
        """Code of a video that is one value everywhere."""
        video = torch.full((1, 3, 4 * (latents - 1) + 1, *IMAGE_SIZE), value)
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
            for i, layer in enumerate(self.beside):
                own = {k.removeprefix(f"vace_blocks.{i}."): v for k, v in weights.items() if f"vace_blocks.{i}." in k}
                c = run_block(own, c, words, moved[:, unseen:], angles[unseen:])
                hints[layer] = pad(linear(c, own["after_proj.weight"], own["after_proj.bias"]), (0, 0, unseen, 0))

        handles = [self.net.blocks[0].register_forward_pre_hook(before_first)]
        for layer in self.beside:
            hook = self.net.blocks[layer].register_forward_hook
            handles.append(hook(lambda block, given, out, layer=layer: out + hints[layer]))
        out = self.net(tokens, time, text, return_dict=False)[0]
        for handle in handles:
            handle.remove()
        return out

    def sample(self, given, condition, text, generator, clean=1, negative=None, scale=1.0) -> torch.Tensor:
        """Latents [T, C, h, w] of a chunk that begins with `clean` known ones; condition [channels, T + P, h, w]."""
        first, past, references = given["known"][0, :clean], given["preceding"][0], given["references"][0]
        T, P, R = given["known"].shape[1], len(past), len(references)
        scheduler = UniPCMultistepScheduler(prediction_type="flow_prediction", use_flow_sigmas=True, flow_shift=5.0)
        scheduler.set_timesteps(sigmas=np.linspace(0.999, 0.0, self.steps + 1)[:-1].copy())
        x = torch.randn(given["known"].shape[1:], generator=generator)
        patches = x.shape[2] * x.shape[3] // 4
        for t in scheduler.timesteps:
            x[:clean] = first
            tokens = torch.cat([references, x, past]).transpose(0, 1)[None]
            time = torch.zeros(1, R + T + P, patches)
            time[:, R + clean : R + T] = float(t)
            out = self.velocity(tokens, time.flatten(1), text, condition[None], R)
            if negative is not None:
                away = self.velocity(tokens, time.flatten(1), negative, condition[None], R)
                out = away + scale * (out - away)
            x = scheduler.step(out[0, :, R : R + T].transpose(0, 1), t, x, return_dict=False)[0]
        return torch.cat([first, x[clean:]])


class Listening:
    """Passes on to the generator, and keeps what it was given."""

    def __init__(self, generator) -> None:
        self.generator, self.given = generator, []
        self.takes_prompts = True

    def generate(self, **given):
        states = [g.get_state() for g in given["generators"]]
        self.given.append({**given, "noise": states[0]})
        return self.generator.generate(**given)


def embedded(folder: Path, prompt: str) -> torch.Tensor:  # [1, 512, D]
    """A prompt by the published text encoder alone, zeros after its end."""
    ids = AutoTokenizer.from_pretrained(folder / "tokenizer")(prompt, return_tensors="pt").input_ids
    text = UMT5EncoderModel.from_pretrained(folder / "text_encoder").eval()(ids).last_hidden_state
    return pad(text, (0, 0, 0, 512 - text.shape[1]))


def save_published(folder: Path, branch, lora, layout: str) -> None:
    """A base model `wan`, a depth model `depth`, and the converted branch and update in `ours`."""
    save_pipeline(folder / "wan")
    transformer(layers=LAYERS).save_pretrained(folder / "wan" / "transformer")
    save_depth_anything(folder / "depth")
    save_file({f"module.{k}": v for k, v in branch.items()}, folder / "branch.safetensors")
    save_file(lora, folder / "lora.safetensors")
    convert(folder / "branch.safetensors", folder / "ours", layout, head_width=DIM // HEADS)
    convert(folder / "lora.safetensors", folder / "ours", layout)


def listening_model(folder: Path, **options):
    """The model of that folder, and what its generator was given."""
    parts = {"control": folder / "ours", "lora": folder / "ours", "depth": folder / "depth"}
    model = load_world_model(folder / "wan", dtype=torch.float32, prompt_cache=None, **parts, **options)
    listening = Listening(model.generator)
    object.__setattr__(model, "generator", listening)
    return model, listening.given


def start_image() -> np.ndarray:  # [H, W, 3]
    picture = np.random.default_rng(0).integers(0, 255, (4, 6, 3)).astype(np.uint8)
    return np.asarray(Image.fromarray(picture).resize(IMAGE_SIZE[::-1], Image.Resampling.BICUBIC))


def walked(model, prompt: str, count: int = 2):
    """Chunks of a walk from the start image."""
    _, state = model.start(start_image(), seed=1, prompt=prompt)
    chunks = []
    for _ in range(count):
        end = state.camera.moved(pose_from_rotation_vector([0.1, 0.0, 0.2], [0.0, 0.1, 0.0]))
        chunk, state = model.step(state, between(state.camera, end, model.config.frames_of(state.chunk)))
        chunks.append(chunk)
    return chunks


def noise_of(given) -> torch.Generator:
    generator = torch.Generator()
    generator.set_state(given["noise"])
    return generator
