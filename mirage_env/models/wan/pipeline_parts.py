"""Parts of a full-size model: the folder that gives each, and the settings that follow from them.

```
model_index.json  transformer/  vae/  text_encoder/  tokenizer/  scheduler/       as on the hub
mirage.json  control/  lora/  depth/  segmentation/  refiner/  prompts/           ours, each may be absent
```

`mirage.json` need not be whole: what it does not say follows from the networks. One that lies beside the side branch
comes before the one in the model's folder, since the branch was trained with its settings.
"""

from __future__ import annotations

import dataclasses
from collections.abc import Mapping
from dataclasses import dataclass
from pathlib import Path
from typing import Any

from mirage_env.config.parsing import from_dict
from mirage_env.config.sampler import PlacementConfig, SamplerConfig
from mirage_env.config.world import AlignmentConfig, MemoryConfig, WorldModelConfig
from mirage_env.errors import InvalidOptionError
from mirage_env.models.io.hub import PIPELINE, find_part
from mirage_env.models.io.state_dicts import read_json

IMAGE_SIZE = (704, 1280)
"""H, W that Wan2.2-TI2V-5B was trained at."""
CHUNK_LATENTS = 9
PRECEDING, REFERENCES = 2, 4
"""Clean latents beside the chunk, as the paper trains them. Without a trained branch there are none: the stock weights
have never seen any, and would take preceding latents, which follow the chunk on the time axis, for its future."""
FRAMES_PER_SECOND = 24.0
"""Frame rate that Wan2.2-TI2V-5B was trained at; a branch that was trained at another (the paper: 16) says so in its
`mirage.json`."""
STOCK_STEPS, STOCK_GUIDANCE = 50, 5.0
"""Of Wan2.2-TI2V-5B without a side branch, as it was published."""
BRANCH_STEPS = 40
"""Of a model with a side branch (paper), which has no guidance."""
NEGATIVE_PROMPT = (
    "blurred, low quality, compression artefacts, subtitles, watermark, overexposed, oversaturated, grey, motionless, "
    "deformed, extra limbs, cluttered background"
)
"""For stock weights: our words for such faults as Wan's own negative prompt lists; that text itself may be given."""
NAME = "wan"
"""Begins the fingerprint of a model whose `mirage.json` gives no name."""
LORA_WEIGHTS = "pytorch_lora_weights.safetensors"


@dataclass(frozen=True)
class Sources:
    """Folders and files of the parts."""

    folder: Path
    control: Path | None = None
    """Folder of ours or published weights file; None: no trained branch."""
    lora: Path | None = None
    """Weights file."""
    depth: str | Path | None = None
    """Given depth model; None: the folder's own or that of the settings."""
    segmentation: str | Path | None = None
    prompts: Path | None = None
    """Folder of embeddings."""
    given: tuple[tuple[str, Any], ...] = ()
    """Settings given by the caller, which come before all others."""
    sampler: tuple[tuple[str, Any], ...] = ()
    """Settings of the sampler given by the caller, which do not change what a model is."""
    decoder: Path | None = None
    """Weights file of a tiny decoder in the place of the codec's own; the same."""

    def part(self, name: str) -> Path:
        """Folder of a part of the pipeline."""
        return self.folder / name

    def own(self, name: str) -> Path | None:
        """Folder of a part that a model need not have."""
        place = self.folder / name
        return place if (place / "config.json").is_file() else None


def sources_of(
    folder: Path,
    control: str | Path | None = None,
    lora: str | Path | None = None,
    depth: str | Path | None = None,
    segmentation: str | Path | None = None,
    prompts: str | Path | None = None,
    sampler: Mapping[str, Any] | None = None,
    decoder: str | Path | None = None,
    **given: Any,
) -> Sources:
    """Find the folder or file of each part: given ones, else those in the model's folder.

    Raises:
        ModelNotFoundError: something that is given is not there.
        InvalidOptionError: another kind of model than Wan2.2-TI2V, or a folder that is no side branch.
    """
    check_kind_of(folder)
    own = {name: folder / name for name in ("control", "lora", "prompts") if (folder / name).is_dir()}
    branch = _inside(find_part(control), "control") if control is not None else own.get("control")
    if branch is not None:
        check_branch(branch)
    update = _inside(find_part(lora), "lora") if lora is not None else own.get("lora")
    if update is not None and update.is_dir():
        update = find_part(update / LORA_WEIGHTS)
    table = find_part(prompts) if prompts is not None else own.get("prompts")
    settings = tuple(sorted((k, v) for k, v in given.items() if v is not None))
    tiny = None if decoder is None else find_part(decoder)
    asked = tuple((sampler or {}).items())
    return Sources(folder, branch, update, depth, segmentation, table, settings, asked, tiny)


def _inside(place: Path, part: str) -> Path:
    """The folder of a part where the folder of a whole model was given, such as `mirage model convert` writes."""
    return place / part if (place / part).is_dir() else place


def check_kind_of(folder: Path) -> None:
    """Refuse pipelines of the Wan family that take other inputs than Wan2.2-TI2V.

    Raises:
        InvalidOptionError: with its name.
    """
    index = read_json(folder / PIPELINE)
    use = "use a Wan2.2-TI2V model such as Wan-AI/Wan2.2-TI2V-5B-Diffusers"
    if any((index.get("transformer_2") or [None])[:1]) or index.get("boundary_ratio") is not None:
        raise InvalidOptionError(
            f"{folder} is a model with two transformers for high and low noise (transformer_2, boundary_ratio), as "
            f"Wan2.2-A14B has; that is not supported: {use}"
        )
    if index.get("expand_timesteps") is not True:
        raise InvalidOptionError(
            f"{folder} has no expand_timesteps in its {PIPELINE}: it takes one timestep for all tokens, as Wan2.1 "
            f"does, and cannot be given what is known at timestep 0; {use}"
        )


def check_branch(place: Path) -> None:
    """Refuse what is no side branch.

    Raises:
        InvalidOptionError: with what it is, and what to do.
    """
    config = place / "config.json"
    convert = (
        "convert a published weights file with `mirage model convert FILE --layout LAYOUT --out FOLDER` and give the "
        "folder"
    )
    if not config.is_file():
        raise InvalidOptionError(f"{place} is no folder with the config.json of a side branch; {convert}")
    if (kind := read_json(config).get("_class_name")) != "ControlBranch":
        raise InvalidOptionError(f"{place} holds a {kind or 'network without a class'}, no side branch; {convert}")


def config_of(sources: Sources) -> WorldModelConfig:
    """Settings of a full-size model: those that follow from its networks, and over them `mirage.json` and the caller's.

    Raises:
        InvalidOptionError: a damaged file, an unknown or impossible setting, or networks that do not go together.
        ModelNotFoundError: a `config.json` is missing.
    """
    said = said_in(sources)
    values = _merged(_merged(dataclasses.asdict(_default(sources, said)), said), dict(sources.given))
    values["sampler"] = sampler_given(values["sampler"], dict(sources.sampler))
    image_size = values["image_size"]
    stride = read_json(sources.part("vae") / "config.json").get("scale_factor_spatial", 8)
    if "latent_size" not in said or "image_size" in dict(sources.given):
        values["latent_size"] = [length // stride for length in image_size]
    config = from_dict(WorldModelConfig, values, "mirage.json")
    check_sizes(config, sources)
    return config


def sampler_given(sampler: Mapping[str, Any], given: Mapping[str, Any]) -> dict[str, Any]:
    """Settings of a sampler with those of the caller; steps and shift take the place of fixed timesteps."""
    fixed = {"timesteps": ()} if {"steps", "shift"} & set(given) else {}
    return {**sampler, **fixed, **given}


def sampler_with(config: SamplerConfig, given: Mapping[str, Any]) -> SamplerConfig:
    """`sampler_given` for a sampler.

    Raises:
        InvalidOptionError: an unknown or impossible setting.
    """
    return from_dict(SamplerConfig, sampler_given(dataclasses.asdict(config), given), "sampler")


def negative_prompts(folder: Path) -> list[str]:
    """Negative prompts that a model needs without being asked: the stock one, and that of its `mirage.json`."""
    said = read_json(folder / "mirage.json") if (folder / "mirage.json").is_file() else {}
    sampler: Any = said.get("sampler")
    own = sampler.get("negative_prompt") if isinstance(sampler, dict) else None
    return [NEGATIVE_PROMPT, *([own] if isinstance(own, str) else [])]


def check_sizes(config: WorldModelConfig, sources: Sources) -> None:
    """Compare settings with the networks they are for.

    Raises:
        InvalidOptionError: with both sizes.
    """
    vae = read_json(sources.part("vae") / "config.json")
    transformer = read_json(sources.part("transformer") / "config.json")
    wanted = (config.latent_channels, config.stride, config.temporal_stride)
    there = (vae.get("z_dim", 16), vae.get("scale_factor_spatial", 8), vae.get("scale_factor_temporal", 4))
    if wanted != there:
        raise InvalidOptionError(
            f"the settings say {wanted[0]} latent_channels, {wanted[1]} pixels per cell and {wanted[2]} frames per "
            f"latent, the autoencoder in {sources.folder} has {there}: they must agree"
        )
    channels = (transformer.get("in_channels", 16), transformer.get("out_channels", 16))
    if set(channels) != {config.latent_channels}:
        raise InvalidOptionError(
            f"the transformer in {sources.folder} takes {channels[0]} channels and gives {channels[1]}, the "
            f"autoencoder has {config.latent_channels}: only models that take bare latents will do, such as "
            "Wan2.2-TI2V-5B"
        )
    _, rows, columns = transformer.get("patch_size", (1, 2, 2))
    if config.latent_size[0] % rows or config.latent_size[1] % columns:
        unit = (rows * config.stride, columns * config.stride)
        raise InvalidOptionError(
            f"image_size is {config.image_size}; height and width must be multiples of {unit[0]} and {unit[1]}"
        )


def hub_name(folder: Path) -> str:
    """Name by which a model is found again: the hub id of a folder in the hub's cache, else the folder's own name."""
    repository = folder.parent.parent.name
    if folder.parent.name == "snapshots" and repository.startswith("models--"):
        return repository.removeprefix("models--").replace("--", "/", 1)
    return folder.resolve().name


def _default(sources: Sources, said: Mapping[str, Any]) -> WorldModelConfig:
    vae = read_json(sources.part("vae") / "config.json")
    stride = vae.get("scale_factor_spatial", 8)
    trained = sources.control is not None
    # Only the strides count here; the sizes follow in config_of, once all that is said about them is known.
    return WorldModelConfig(
        name=hub_name(sources.folder),
        image_size=IMAGE_SIZE,
        latent_size=(IMAGE_SIZE[0] // stride, IMAGE_SIZE[1] // stride),
        latent_channels=vae.get("z_dim", 16),
        chunk_latents=CHUNK_LATENTS,
        preceding_latents=PRECEDING if trained else 0,
        temporal_stride=vae.get("scale_factor_temporal", 4),
        references=REFERENCES if trained else 0,
        frames_per_second=FRAMES_PER_SECOND,
        # Depth is estimated anew for every chunk, and each estimate has a scale of its own.
        alignment=AlignmentConfig(enabled=True),
        memory=MemoryConfig(movers=0),  # measured with the small model alone
        sampler=_sampler(sources),
    )


def _sampler(sources: Sources) -> SamplerConfig:
    """Sampler of a full-size model: the paper's solver, or the one that the model's scheduler names."""
    path = sources.part("scheduler") / "scheduler_config.json"
    said = read_json(path) if path.is_file() else {}
    euler = said.get("_class_name") == "FlowMatchEulerDiscreteScheduler"
    shift = float(said.get("shift" if euler else "flow_shift", 5.0))
    stock = sources.control is None
    return SamplerConfig(
        STOCK_STEPS if stock else BRANCH_STEPS,
        shift,
        prediction="flow",
        couple=False,
        solver="euler" if euler else "unipc",
        schedule="diffusers",
        integer_timesteps=not euler,  # as diffusers' schedulers have them
        guidance_scale=STOCK_GUIDANCE if stock else 1.0,
        negative_prompt=NEGATIVE_PROMPT,
        placement=PlacementConfig(enabled=stock),
    )


def said_in(sources: Sources) -> dict[str, Any]:
    """Merge the `mirage.json` files of the model and of the branch."""
    said: dict[str, Any] = {}
    for place in (sources.folder, *_beside(sources.control)):
        if (place / "mirage.json").is_file():
            said = _merged(said, read_json(place / "mirage.json"))
    return said


def _beside(control: Path | None) -> list[Path]:
    if control is None:
        return []
    return [control] if control.is_dir() else [control.parent]


def _merged(base: Mapping[str, Any], over: Mapping[str, Any]) -> dict[str, Any]:
    """`base` with the values of `over`, objects key by key."""
    merged = dict(base)
    for key, value in over.items():
        both = isinstance(value, Mapping) and isinstance(base.get(key), Mapping)
        merged[key] = _merged(base[key], value) if both else value
    return merged
