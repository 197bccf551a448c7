"""Model options of commands: those of `load_world_model` that a command line needs."""

from __future__ import annotations

import dataclasses
from collections.abc import Mapping
from dataclasses import dataclass
from typing import TYPE_CHECKING, Annotated, Any, Literal

import tyro

from mirage_env.errors import InvalidOptionError

if TYPE_CHECKING:
    from mirage_env.world_model import WorldModel


@dataclass(frozen=True)
class ModelOptions:
    """Options of `mirage_env.load_world_model`, under its names. Most are for full-size models."""

    device: str = "cpu"
    """Device of the networks, such as cuda."""
    control: str | None = None
    """Trained side branch: a folder, a weights file, or either on the hub."""
    lora: str | None = None
    """Low-rank update of the transformer."""
    depth: Annotated[str | None, tyro.conf.arg(name="depth-model")] = None
    """Depth model."""
    segmentation: Annotated[str | None, tyro.conf.arg(name="segmentation-model")] = None
    """Segmentation model for movers and sky."""
    image_size: tuple[int, int] | None = None
    """Height and width."""
    steps: Annotated[int | None, tyro.conf.arg(name="sampler-steps")] = None
    """Sampler steps per chunk: more is slower."""
    shift: float | None = None
    """Flow shift of the sampler."""
    solver: Literal["euler", "unipc", "renoise"] | None = None
    """Solver of the sampler."""
    guidance_scale: float | None = None
    """How closely the prompt is followed; 1 is without guidance, at half the cost."""
    negative_prompt: str | None = None
    """Text to be led away from."""
    block_cache: float | None = None
    """Change of the first block's output below which the others are left out, such as 0.08; 0 is never."""
    align: bool = False
    """Scale the estimated depth of every chunk to what the memory shows."""
    prompts: str | None = None
    """Folder of embeddings of prompts."""
    offload: Literal["none", "model", "group"] = "none"
    """Networks that wait in main memory until they are needed."""
    quantise: str | None = None
    """Smaller weights for the blocks of the transformer."""
    compile: bool = False
    """Compile these blocks."""
    attention: str | None = None
    """Attention backend, such as flash, sage or _native_cudnn."""
    decoder: str | None = None
    """Tiny decoder in the place of the autoencoder's: a safetensors file of TAEHV, such as taew2_2."""

    def given(self) -> dict[str, Any]:
        """The options that are not as they are by default, by name."""
        pairs = ((field.name, getattr(self, field.name), field.default) for field in dataclasses.fields(self))
        return {name: value for name, value, default in pairs if value != default}

    @staticmethod
    def of(given: Mapping[str, Any]) -> ModelOptions:
        """The options that `given` returned, also after a way through JSON."""
        options: dict[str, Any] = {name: tuple(v) if isinstance(v, list) else v for name, v in given.items()}
        return ModelOptions(**options)

    def load(self, name: str) -> WorldModel:
        """The model of that name, loaded so.

        Raises:
            ModelNotFoundError, WeightsError, InvalidOptionError, MissingPackageError: see `load_world_model`.
        """
        from mirage_env.models.device_placement import available
        from mirage_env.models.world_model_loader import load_world_model

        try:
            available(self.device)
        except InvalidOptionError as error:
            raise InvalidOptionError(f"--device: {error}") from error
        return load_world_model(name, **self.given())


Networks = Annotated[ModelOptions, tyro.conf.OmitArgPrefixes]
"""These options among those of a command."""
