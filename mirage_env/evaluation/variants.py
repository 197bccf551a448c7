"""The rivals of the full model: the same networks with another memory, or with none."""

from __future__ import annotations

import dataclasses
from collections.abc import Callable, Sequence
from dataclasses import dataclass, replace
from typing import Any

import torch

from mirage_env.camera import Camera
from mirage_env.config.world import WorldModelConfig
from mirage_env.errors import InvalidOptionError, ModelNotFoundError
from mirage_env.interfaces import Readout
from mirage_env.memory.rgb import RgbMemory
from mirage_env.readout.zbuffer import Splat
from mirage_env.world_model import WorldModel

LABELS = {
    "full": "(a) full model",
    "no_memory": "(b) no memory",
    "rgb": "(c) RGB point memory",
    "paper": "(d) paper's variant",
    "bare": "(e) bare readout decoded",
    "refined": "(f) refined readout decoded",
    "simulator": "true simulator",
}
"""Every row of the tables. The first four are rollouts of their own, the next two come with the full model's."""
ROLLOUTS = ("full", "no_memory", "rgb", "paper")
Load = Callable[[str], WorldModel]


@dataclass(frozen=True)
class BlankMemory:
    """Remembers nothing (`Memory`): the network goes by its last frames alone."""

    channels: int
    latent_size: tuple[int, int]  # h, w

    @staticmethod
    def empty(config: WorldModelConfig) -> BlankMemory:
        """Create an empty memory (`WorldModel.memory_factory`)."""
        return BlankMemory(config.latent_channels, config.latent_size)

    @property
    def frames(self) -> int:
        return 0

    @property
    def points(self) -> int:
        return 0

    @property
    def nbytes(self) -> int:
        return 0

    def write(self, *view: object, **named: object) -> BlankMemory:
        """Drop everything (`Memory.write`)."""
        return self

    def splat(self, cameras: Sequence[Camera]) -> Splat:
        """No winner anywhere (`Memory.splat`)."""
        return Splat.empty(len(cameras), self.latent_size)

    def read(self, cameras: Sequence[Camera], now: int, splat: Splat | None = None) -> Readout:
        """Nothing observed anywhere (`Memory.read`)."""
        T, (h, w) = len(cameras), self.latent_size
        blank = torch.zeros(T, h, w)
        return Readout(torch.zeros(T, self.channels, h, w), blank, blank, torch.zeros(T, 2, h, w), blank, blank)


def variant(name: str, model: WorldModel, paper: WorldModel | None = None) -> WorldModel:
    """The world model of a rollout variant.

    Raises:
        InvalidOptionError: an unknown variant, or the paper's without its weights.
    """
    match name:
        case "full":
            return model
        case "no_memory":
            forgets = replace(model.config, memory=replace(model.config.memory, movers=0))
            return replace(model, config=forgets, memory_factory=BlankMemory.empty)
        case "rgb":
            return replace(model, memory_factory=RgbMemory.factory(model.codec))
        case "paper" if paper is not None:
            return paper
    raise InvalidOptionError(f"variant is {name!r}; choose from {', '.join(ROLLOUTS)} (paper needs its own weights)")


def check_rooms(model: WorldModel, command: str) -> None:
    """Refuse a model of another world for a measurement in rooms of the simulator.

    Raises:
        InvalidOptionError: it was trained on something else.
    """
    home = model.config.trained_on
    if home not in ("", "rooms"):
        raise InvalidOptionError(
            f"the model {model.config.name!r} was trained on {home!r}, and mirage eval {command} measures rooms of the "
            "simulator; measure it on its own world: mirage eval clips --model MODEL --clips FOLDER"
        )


def settings_of(config: Any) -> dict[str, Any]:
    """Settings of an evaluation by name; how the model is loaded among them only where that was asked."""
    values, given = dataclasses.asdict(config), config.loading.given()
    del values["loading"]
    return values | ({"loading": given} if given else {})


def load_paper(name: str, model: WorldModel, load: Load) -> tuple[WorldModel | None, str]:
    """The paper's variant, or None and the reason why there is none: nor is there one for other sizes or lengths."""
    try:
        paper = load(name)
    except ModelNotFoundError as error:
        return None, f"{LABELS['paper']} not measured: {error}"
    ours, theirs = model.config, paper.config
    if (ours.image_size, ours.frames_per_chunk) != (theirs.image_size, theirs.frames_per_chunk):
        return None, (
            f"{LABELS['paper']} not measured: {name} has images of {theirs.image_size} and chunks of "
            f"{theirs.frames_per_chunk} frames, the model {ours.image_size} and {ours.frames_per_chunk}: they cannot "
            "walk the same paths (--image-size)"
        )
    return paper, ""
