"""Policies that were learned with Stable-Baselines3: what they look at, their network, and their folder.

A folder holds `policy.safetensors` (weights) and `policy.json` (settings). Stable-Baselines3's own files are pickles,
which run code when they are opened; they are neither written nor read here.
"""

from __future__ import annotations

import itertools
import json
import math
from collections.abc import Mapping
from dataclasses import asdict, dataclass
from pathlib import Path
from typing import Any, Literal

import numpy as np
import torch
from gymnasium import Space, spaces
from numpy.typing import NDArray
from safetensors import SafetensorError
from safetensors.torch import load_file, save_file
from stable_baselines3.common.policies import BasePolicy, MultiInputActorCriticPolicy
from stable_baselines3.common.torch_layers import BaseFeaturesExtractor
from stable_baselines3.sac.policies import MultiInputPolicy as SACPolicy
from torch import Tensor, nn

from mirage_env.errors import PolicyError
from mirage_env.files import open_regular, read_json_object

KEYS = ("pixels", "readout", "agent_pos", "goal")
"""What a policy can look at."""
ALGORITHMS = ("ppo", "sac")
FORMAT = 1
SETTINGS, WEIGHTS = "policy.json", "policy.safetensors"
MOST_BYTES = 2**32
MOST_NUMBERS = 2**26
"""Of an observation; an image of 4096 x 4096 has 50 million."""
ODD_VALUES = (ArithmeticError, AssertionError, AttributeError, LookupError, RuntimeError, TypeError, ValueError)
"""What spaces and networks raise at values that they were not written for."""

Algorithm = Literal["ppo", "sac"]


@dataclass(frozen=True)
class View:
    """Part of an observation that a policy looks at.

    Attributes:
        keys: out of `KEYS`.
        side: images [H, W, 3] are averaged down to this height and width.

    Raises:
        PolicyError: no key, an unknown one, or a side below 1.
    """

    keys: tuple[str, ...]
    side: int = 32

    def __post_init__(self) -> None:
        if not self.keys or not set(self.keys) <= set(KEYS):
            raise PolicyError(f"a policy looks at {list(self.keys)}; give one or more of {list(KEYS)}")
        if self.side < 8:
            raise PolicyError(f"images are shown at {self.side} pixels a side; give at least 8")

    @staticmethod
    def of(space: Space[Any], keys: tuple[str, ...] = (), side: int = 32) -> View:
        """The view of a space; without `keys` of everything in it that a policy can look at.

        Raises:
            PolicyError: the space is no Dict, or does not have a key.
        """
        if not isinstance(space, spaces.Dict):
            raise PolicyError(f"the observation space is {space}; policies need a Dict with some of {list(KEYS)}")
        there = tuple(key for key in KEYS if key in space.spaces)
        if missing := [key for key in keys if key not in space.spaces]:
            raise PolicyError(
                f"the observation has no {', '.join(missing)}; it has {list(space.spaces)}: choose a task that has it, "
                "or other keys"
            )
        if not keys and not there:
            raise PolicyError(f"the observation has {list(space.spaces)}; policies can look at {list(KEYS)}")
        return View(keys or there, side)

    def space(self, space: spaces.Dict) -> spaces.Dict:
        """The space of what the policy gets: images as uint8 [3, side, side], the rest as it is."""
        return spaces.Dict({key: self._space(space[key]) for key in self.keys})

    def __call__(self, observation: Mapping[str, Any]) -> dict[str, NDArray[Any]]:
        """Select the policy's part of an observation, or of a batch of them ([B, ...])."""
        return {key: self._seen(np.asarray(observation[key])) for key in self.keys}

    def _space(self, space: Space[Any]) -> Space[Any]:
        return spaces.Box(0, 255, (3, self.side, self.side), np.uint8) if is_image(space) else space

    def _seen(self, values: NDArray[Any]) -> NDArray[Any]:
        if values.dtype != np.uint8:
            return values
        images = torch.from_numpy(np.moveaxis(values, -1, -3).astype(np.float32))
        batch = images.reshape(-1, *images.shape[-3:])
        small = nn.functional.adaptive_avg_pool2d(batch, self.side).round().to(torch.uint8)
        return small.reshape(*images.shape[:-2], self.side, self.side).numpy()


class Features(BaseFeaturesExtractor):
    """One vector of all that a policy gets: images through a small convolutional network, numbers as they are.

    Numbers are squashed by x -> sign(x) log(1 + |x|), which leaves metres near 0 as they are and makes 1000 of them 7.
    """

    def __init__(self, observation_space: spaces.Dict, width: int = 32) -> None:
        self.images = sorted(key for key, space in observation_space.items() if len(space.shape or ()) == 3)
        self.numbers = sorted(set(observation_space) - set(self.images))
        count = sum(int(np.prod(observation_space[key].shape or ())) for key in self.numbers)
        super().__init__(observation_space, features_dim=count + width * len(self.images))
        self.encoders = nn.ModuleDict({key: _encoder(width) for key in self.images})

    def forward(self, observation: dict[str, Tensor]) -> Tensor:  # [B, features_dim]
        values = [observation[key].float().flatten(1) for key in self.numbers]
        squashed = [value.sign() * value.abs().log1p() for value in values]
        return torch.cat([*squashed, *(self.encoders[key](observation[key]) for key in self.images)], dim=1)


@dataclass(frozen=True)
class NetworkConfig:
    """Sizes of a policy's network.

    Attributes:
        algorithm: what trains it.
        hidden: widths of the layers between features and actions.
        image_width: features per image.
        spread: standard deviation of the actions at the beginning (PPO), as a share of the action space's half.
    """

    algorithm: Algorithm = "ppo"
    hidden: tuple[int, ...] = (64, 64)
    image_width: int = 32
    spread: float = 0.5

    def __post_init__(self) -> None:
        if self.algorithm not in ALGORITHMS:
            raise PolicyError(f"the algorithm is {self.algorithm!r}; choose one of {', '.join(ALGORITHMS)}")
        if not self.hidden or min(*self.hidden, self.image_width, self.image_width) < 1 or not self.spread > 0.0:
            raise PolicyError(f"hidden {self.hidden}, image_width {self.image_width} and spread must be positive")

    def least_weights(self, space: spaces.Dict) -> int:
        """Number of weights that a network for a space (`View.space`) has at least."""
        images = [key for key, part in space.items() if len(part.shape or ()) == 3]
        numbers = sum(math.prod(part.shape or ()) for key, part in space.items() if key not in images)
        widths = (numbers + self.image_width * len(images), *self.hidden)
        return sum(a * b for a, b in itertools.pairwise(widths)) + 512 * self.image_width * len(images)

    def policy_kwargs(self) -> dict[str, Any]:
        """`policy_kwargs` of the Stable-Baselines3 algorithm."""
        common: dict[str, Any] = {
            "net_arch": list(self.hidden),
            "features_extractor_class": Features,
            "features_extractor_kwargs": {"width": self.image_width},
        }
        return common | ({"log_std_init": float(np.log(self.spread))} if self.algorithm == "ppo" else {})


class LearnedPolicy:
    """A learned policy (`policies.base.Policy`): always the action that it thinks best, so it has no randomness.

    Args:
        network: the Stable-Baselines3 policy.
        view: what it looks at.
        observation_space: of the environment that it was trained in.
        config: sizes of the network.
    """

    def __init__(self, network: BasePolicy, view: View, observation_space: spaces.Dict, config: NetworkConfig) -> None:
        self.network, self.view, self.config = network, view, config
        self.observation_space = spaces.Dict({key: observation_space[key] for key in view.keys})
        self.action_space = network.action_space

    @staticmethod
    def load(folder: str | Path) -> LearnedPolicy:
        """Read a folder that `save` wrote.

        Raises:
            PolicyError: nothing is there, or it is damaged or of a newer format.
        """
        folder = Path(folder)
        if lacking := [name for name in (SETTINGS, WEIGHTS) if not (folder / name).exists()]:
            raise PolicyError(f"there is no policy in {folder}: no {lacking[0]}; give a folder that training wrote")
        settings = read_json_object(folder / SETTINGS, error=PolicyError, advice="copy or train it again")
        try:
            with open_regular(folder / WEIGHTS, MOST_BYTES):
                weights = load_file(folder / WEIGHTS)
        except (OSError, ValueError, SafetensorError) as error:
            raise PolicyError(f"the policy in {folder} is damaged: {error}; copy or train it again") from error
        if settings.get("format") != FORMAT:
            raise PolicyError(f"{folder / SETTINGS} is not of format {FORMAT}; use the version that wrote it")
        try:
            seen = spaces.Dict({key: _box(value) for key, value in settings["observation"].items()})
            view = View(tuple(settings["view"]["keys"]), settings["view"]["side"])
            config = NetworkConfig(**{**settings["network"], "hidden": tuple(settings["network"]["hidden"])})
            space = view.space(seen)
            if (least := config.least_weights(space)) > (there := sum(w.numel() for w in weights.values())):
                raise ValueError(f"it describes a network of at least {least} weights, {WEIGHTS} has {there}")
            network = build_network(space, _box(settings["action"]), config)
        except ODD_VALUES as error:
            raise PolicyError(f"{folder / SETTINGS} is damaged: {error!r}; copy or train it again") from error
        load_weights(network, weights, str(folder / WEIGHTS))
        return LearnedPolicy(network, view, seen, config)

    def save(self, folder: str | Path) -> None:
        """Write weights and settings; the folder is made."""
        folder = Path(folder)
        folder.mkdir(parents=True, exist_ok=True)
        save_file(weights_of(self.network), folder / WEIGHTS)
        settings = {
            "format": FORMAT,
            "network": asdict(self.config),
            "view": asdict(self.view),
            "observation": {key: _described(space) for key, space in self.observation_space.items()},
            "action": _described(self.action_space),
        }
        (folder / SETTINGS).write_text(json.dumps(settings, indent=1) + "\n")

    def reset(self, seed: int | None = None) -> None:
        """Nothing: it remembers nothing and draws nothing."""

    def act(self, observation: dict[str, Any]) -> NDArray[np.float32]:
        """The best action.

        Raises:
            PolicyError: the observation is not what the policy was trained with.
        """
        for key, space in self.observation_space.items():
            shape = np.shape(observation[key]) if key in observation else None
            if shape != space.shape:
                came = f"{key!r} of shape {shape}" if shape is not None else f"no {key!r}, but {sorted(observation)}"
                raise PolicyError(f"the observation has {came}; this policy needs {key!r} of shape {space.shape}")
        action, _ = self.network.predict(self.view(observation), deterministic=True)
        return np.asarray(action, np.float32)

    def check(self, observation_space: Space[Any], action_space: Space[Any]) -> None:
        """Refuse an environment that the policy does not fit.

        Raises:
            PolicyError: its observation lacks a key or has it in another shape, or its actions are others.
        """
        for key, mine in self.observation_space.items():
            space = observation_space.spaces.get(key) if isinstance(observation_space, spaces.Dict) else None
            if space is None or space.shape != mine.shape or space.dtype != mine.dtype:
                raise PolicyError(
                    f"the policy looks at {key!r}, {mine}; the environment has {space}: use an environment of the task "
                    "and image size that it was trained in"
                )
        if action_space != self.action_space:
            raise PolicyError(
                f"the policy acts in {self.action_space}, the environment takes {action_space}: use the control and "
                "the way of stopping that it was trained with"
            )


def is_image(space: Space[Any]) -> bool:
    """Check for a space of images, uint8 [H, W, 3]."""
    return space.dtype == np.uint8 and len(space.shape or ()) == 3


def build_network(observation_space: spaces.Dict, action_space: Space[Any], config: NetworkConfig) -> BasePolicy:
    """A network with random weights; the learning rate is for training only, which replaces it."""
    kind: type[BasePolicy] = MultiInputActorCriticPolicy if config.algorithm == "ppo" else SACPolicy
    network: BasePolicy = kind(observation_space, action_space, lambda _: 0.0, **config.policy_kwargs())
    network.set_training_mode(False)
    return network


def weights_of(network: nn.Module) -> dict[str, Tensor]:
    """Copies of all weights by name. Parts that share weights have them each; the files stay small."""
    return {name: value.detach().cpu().clone().contiguous() for name, value in network.state_dict().items()}


def load_weights(network: nn.Module, weights: Mapping[str, Tensor], source: str) -> None:
    """Put weights into a network.

    Raises:
        PolicyError: names or shapes are not the network's.
    """
    try:
        network.load_state_dict(weights)
    except RuntimeError as error:
        raise PolicyError(f"{source} does not hold the weights of its settings: {error}") from error


def _encoder(width: int) -> nn.Sequential:
    """[B, 3, side, side] in [0, 1] to [B, width]."""
    convolutions = [nn.Conv2d(3, 16, 4, 2, 1), nn.ReLU(), nn.Conv2d(16, 32, 4, 2, 1), nn.ReLU()]
    return nn.Sequential(*convolutions, nn.AdaptiveAvgPool2d(4), nn.Flatten(), nn.Linear(512, width), nn.Tanh())


def _described(space: Space[Any]) -> dict[str, Any]:
    if not isinstance(space, spaces.Box):
        raise PolicyError(f"a space is {space}; policies are saved with Box spaces only")
    bounds = {"low": space.low.ravel(), "high": space.high.ravel()}
    if is_image(space):
        bounds = {"low": np.zeros(1), "high": np.full(1, 255)}
    return {"shape": list(space.shape), "dtype": str(space.dtype), **{k: v.tolist() for k, v in bounds.items()}}


def _box(value: dict[str, Any]) -> spaces.Box:
    shape, dtype = tuple(value["shape"]), np.dtype(value["dtype"])
    if dtype.kind not in "fiu" or not 0 < math.prod(shape) <= MOST_NUMBERS:
        raise ValueError(f"a space of {dtype}{list(shape)}; give at most {MOST_NUMBERS} numbers")
    low, high = (
        np.broadcast_to(np.array(value[k], dtype), (int(np.prod(shape)),)).reshape(shape) for k in ("low", "high")
    )
    return spaces.Box(low, high, shape, dtype.type)
