"""World models from folders in the diffusers layout: a subfolder per network plus `mirage.json`.

    mirage.json  codec/  depth/  segmentation/  refiner/  transformer/  control/  lora/

Each subfolder holds `config.json` and `diffusion_pytorch_model.safetensors`. Loading is strict: missing, unexpected or
misshapen weights raise with the list. `refiner/` and `control/` may be absent: the readout is then used as it is, the
memory reaches the network only through the sampler's source.
"""

from __future__ import annotations

import copy
import hashlib
import json
from dataclasses import replace
from pathlib import Path
from typing import TypeVar

import torch
from diffusers import ModelMixin, WanTransformer3DModel
from safetensors import SafetensorError
from safetensors.torch import load_file, save_file
from torch import Tensor, nn

from mirage_env.config import WorldModelConfig
from mirage_env.errors import InvalidOptionError, ModelNotFoundError, WeightsError
from mirage_env.models.control import ControlBranch
from mirage_env.models.denoiser import ChunkDenoiser
from mirage_env.models.depth import DepthUNet
from mirage_env.models.refiner import BareReadout, ConvRefiner
from mirage_env.models.segmentation import SegmentationUNet
from mirage_env.models.vae import ConvCodec
from mirage_env.world_model import WorldModel

SHIPPED = Path(__file__).parent.parent / "weights"
"""Models inside the package, one folder each."""
WEIGHTS = "diffusion_pytorch_model.safetensors"
ModuleT = TypeVar("ModuleT", bound=ModelMixin)


def shipped_models() -> list[str]:
    """Names that `load_world_model` knows without a folder."""
    return sorted(p.parent.name for p in SHIPPED.glob("*/mirage.json"))


def find_model(name: str | Path) -> Path:
    """Folder of a shipped model or of a path.

    Raises:
        ModelNotFoundError: neither a shipped name nor a folder with `mirage.json`.
    """
    for folder in (SHIPPED / str(name), Path(name)):
        if (folder / "mirage.json").is_file():
            return folder
    raise ModelNotFoundError(
        f"no world model {str(name)!r}: shipped models are {shipped_models()}; or give a folder that holds mirage.json"
    )


def load_world_model(
    name: str | Path = "rooms", device: str | torch.device = "cpu", dtype: torch.dtype | None = None
) -> WorldModel:
    """Load a world model, ready to walk.

    Args:
        name: a shipped model ("rooms") or a folder in the layout above.
        device: where the networks run; the memory stays on the CPU.
        dtype: type of weights and activations; bfloat16 where the processor computes it natively, else float32.

    Raises:
        ModelNotFoundError: no such model.
        WeightsError: a weight file is truncated or does not fit its network.
        InvalidOptionError: `mirage.json` has unknown keys or values or does not fit the networks, or a `config.json`
            is no JSON.
    """
    folder = find_model(name)
    config = WorldModelConfig.load(folder)
    device = torch.device(device)
    dtype = dtype or native_dtype(device)
    base = folder / config.shares if config.shares else folder

    def place_of(name: str) -> Path:
        return folder / name if (folder / name).is_dir() else base / name

    def part(cls: type[ModuleT], name: str) -> ModuleT:
        return _cast(load_module(cls, place_of(name)), device, dtype)

    codec = part(ConvCodec, "codec")
    transformer = load_module(WanTransformer3DModel, place_of("transformer"))
    _check_sizes(folder, config, codec, transformer)
    if (folder / "lora").is_dir():  # before the cast: the update is small against the weights it is added to
        fuse_lora(transformer, _load_weights(folder / "lora" / "pytorch_lora_weights.safetensors"))
    transformer = _cast(transformer, device, dtype)
    branch = part(ControlBranch, "control") if (folder / "control").is_dir() else None
    refine = (folder / "refiner").is_dir()
    return WorldModel(
        config=config,
        codec=Placed(codec, device, dtype),
        depth=Placed(part(DepthUNet, "depth"), device, dtype),
        segmenter=Placed(part(SegmentationUNet, "segmentation"), device, dtype),
        refiner=part(ConvRefiner, "refiner") if refine else BareReadout(),
        generator=ChunkDenoiser(transformer, branch, config.sampler).eval(),
        identity=fingerprint(folder),
    )


def _check_sizes(folder: Path, config: WorldModelConfig, codec: ConvCodec, transformer: WanTransformer3DModel) -> None:
    stride = codec.encoder_linear.stride[0]
    channels = (codec.config.latent_channels, transformer.config.in_channels)
    if stride != config.stride or set(channels) != {config.latent_channels}:
        raise InvalidOptionError(
            f"{folder / 'mirage.json'} says {config.stride} pixels per cell and {config.latent_channels} "
            f"latent_channels, the codec has {stride} and {channels[0]}, the transformer {channels[1]} channels: they "
            "must agree"
        )


def frozen(cls: type[ModuleT], folder: Path) -> Placed:
    """A network of a folder as `load_world_model` would run it on the CPU."""
    device = torch.device("cpu")
    return Placed(_cast(load_module(cls, folder), device, native_dtype(device)), device, native_dtype(device))


def _cast(module: ModuleT, device: torch.device, dtype: torch.dtype) -> ModuleT:
    """Move a network; rotary angles stay float32, where bfloat16 would blur positions."""
    rope = copy.deepcopy(module.rope) if isinstance(module, WanTransformer3DModel) else None
    nn.Module.to(module, device, dtype)
    if rope is not None:
        module.rope = rope.to(device)
    for parameter in module.parameters():
        if parameter.ndim == 4:
            parameter.data = parameter.detach().contiguous(memory_format=torch.channels_last)
    return module


def native_dtype(device: torch.device) -> torch.dtype:
    """bfloat16 where the device multiplies it natively, float32 elsewhere."""
    if device.type == "cpu":
        return torch.bfloat16 if torch.cpu._is_avx512_bf16_supported() else torch.float32
    return torch.bfloat16


def load_module(cls: type[ModuleT], folder: Path) -> ModuleT:
    """One network from its folder, strictly.

    Raises:
        ModelNotFoundError: no such folder.
        WeightsError: truncated file, missing, unexpected or misshapen weights.
        InvalidOptionError: `config.json` is no JSON.
    """
    if not (folder / "config.json").is_file():
        raise ModelNotFoundError(f"{folder} holds no config.json; a world model needs the folder {folder.name!r}")
    try:
        config = json.loads((folder / "config.json").read_text())
    except ValueError as error:
        raise InvalidOptionError(f"{folder / 'config.json'} is no JSON ({error}); copy the model again") from error
    module = cls.from_config(config)
    load_strictly(module, _load_weights(folder / WEIGHTS), folder)
    return module.eval()


def load_strictly(module: nn.Module, weights: dict[str, Tensor], where: Path | str) -> None:
    """Copy weights into a network; every key and shape must fit, and every value be finite.

    Raises:
        WeightsError: with the list of what does not fit.
    """
    own = module.state_dict()
    problems = [f"missing {k}" for k in own if k not in weights] + [f"unexpected {k}" for k in weights if k not in own]
    problems += [
        f"{k} has shape {tuple(weights[k].shape)} instead of {tuple(own[k].shape)}"
        for k in own
        if k in weights and weights[k].shape != own[k].shape
    ]
    problems += [f"{k} holds NaN or inf" for k, v in weights.items() if not torch.isfinite(v.float()).all()]
    if problems:
        raise WeightsError(f"weights in {where} do not fit {type(module).__name__}: " + "; ".join(problems))
    module.load_state_dict(weights)


def _load_weights(path: Path) -> dict[str, Tensor]:
    if not path.is_file():
        raise ModelNotFoundError(f"the weight file {path} is missing; install the model again")
    try:
        return load_file(path)
    except SafetensorError as error:
        raise WeightsError(f"{path} is no complete safetensors file ({error}); copy or download it again") from error


def save_module(module: ModelMixin, folder: Path) -> None:
    """Write `config.json` and float16 weights in the diffusers layout."""
    folder.mkdir(parents=True, exist_ok=True)
    module.save_config(folder)
    weights = {k: v.detach().half() if v.is_floating_point() else v for k, v in module.state_dict().items()}
    save_file({k: v.contiguous() for k, v in weights.items()}, folder / WEIGHTS, metadata={"format": "pt"})


def fuse_lora(transformer: nn.Module, lora: dict[str, Tensor]) -> None:
    """Add low-rank updates W += B A (alpha = rank) to the linear layers they name.

    Raises:
        WeightsError: a key names no layer, lacks its partner or is of another kind, or values do not fit or are not
            finite; the transformer is then as it was.
    """
    updates: list[tuple[nn.Parameter, Tensor]] = []
    for name in sorted({key.rsplit(".lora_", 1)[0] for key in lora}):
        try:
            weight = transformer.get_submodule(name.removeprefix("transformer.")).get_parameter("weight")
            update = lora[f"{name}.lora_B.weight"].float() @ lora[f"{name}.lora_A.weight"].float()
        except (AttributeError, KeyError, RuntimeError) as error:
            raise WeightsError(f"LoRA weights for {name!r} do not fit this transformer: {error}") from error
        if update.shape != weight.shape or not torch.isfinite(update).all():
            raise WeightsError(
                f"LoRA weights for {name!r} make an update of shape {tuple(update.shape)}; the layer needs finite "
                f"values of shape {tuple(weight.shape)}"
            )
        updates.append((weight, update))
    if len(lora) != 2 * len(updates):
        others = sorted(key for key in lora if not key.endswith((".lora_A.weight", ".lora_B.weight")))
        raise WeightsError(f"LoRA weights hold {others}; only lora_A.weight and lora_B.weight (alpha = rank) are read")
    with torch.no_grad():
        for weight, update in updates:
            weight.add_(update.to(weight))


def save_world_model(model: WorldModel, folder: Path) -> None:
    """Write a world model made of this package's classes to a folder that `load_world_model` reads."""
    folder.mkdir(parents=True, exist_ok=True)
    generator = model.generator
    parts = {
        "codec": model.codec,
        "depth": model.depth,
        "segmentation": model.segmenter,
        "refiner": model.refiner,
        "transformer": getattr(generator, "transformer", None),
        "control": getattr(generator, "branch", None),
    }
    for name, part in parts.items():
        module = part.module if isinstance(part, Placed) else part
        if isinstance(module, ModelMixin):
            save_module(module, folder / name)
    replace(model.config, shares=None).save(folder)


def fingerprint(folder: Path) -> str:
    """Name and hash of a model's configuration and weights: what a cache is bound to."""
    digest = hashlib.sha256()
    config = WorldModelConfig.load(folder)
    folders = [folder / config.shares] if config.shares else []
    for root in (*folders, folder):
        for path in sorted([*root.rglob("*.safetensors"), *root.rglob("*.json")]):
            digest.update(str(path.relative_to(root)).encode())
            digest.update(path.read_bytes())
    return f"{config.name}-{digest.hexdigest()[:16]}"


class Placed:
    """A network behind its Protocol whose images and results stay float32 on the CPU, wherever and whatever it is."""

    def __init__(self, module: nn.Module, device: torch.device, dtype: torch.dtype) -> None:
        self.module = module
        self.device = device
        self.dtype = dtype

    def __getattr__(self, name: str):  # type: ignore[no-untyped-def]
        method = getattr(self.module, name)

        def call(images: Tensor, *args: object, **kwargs: object) -> Tensor:
            out = method(images.to(self.device, self.dtype), *args, **kwargs)
            return (out.float() if out.is_floating_point() else out).to(images.device)

        return call
