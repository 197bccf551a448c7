"""Checkpoints: everything that a training needs to go on, as safetensors and JSON.

A checkpoint is written at the end of a segment of training. Every segment begins with new episodes and with random
generators seeded by (seed, number of the segment), so neither worlds nor generators need to be kept: a training that
was killed goes on exactly as one that was not.

    checkpoints/000001024/   policy.safetensors, policy.json   a policy, as `LearnedPolicy.load` reads it
                             training.safetensors              state of the optimisers, and variables beside the policy
                             training.json                     counters
                             replay.safetensors                what SAC remembers, if it is not too large
"""

from __future__ import annotations

import json
import logging
import shutil
from collections.abc import Mapping
from pathlib import Path
from typing import Any

import numpy as np
import torch
from safetensors import SafetensorError
from safetensors.numpy import load_file as load_arrays
from safetensors.numpy import save_file as save_arrays
from safetensors.torch import load_file, save_file
from stable_baselines3 import SAC
from stable_baselines3.common.base_class import BaseAlgorithm
from stable_baselines3.common.buffers import DictReplayBuffer
from torch import Tensor

from mirage_env.errors import PolicyError
from mirage_env.files import replaced_folder, sweep_folder
from policies.learned import WEIGHTS, LearnedPolicy, load_weights

LOG = logging.getLogger(__name__)
TENSORS, COUNTERS, REPLAY = "training.safetensors", "training.json", "replay.safetensors"
REPLAY_BYTES = 256 * 2**20
"""A larger replay buffer is not written; a resumed SAC then fills a new one."""


def latest(folder: Path) -> Path | None:
    """The newest whole checkpoint in a folder of them."""
    whole = sorted(path for path in folder.glob("[0-9]*") if path.is_dir() and path.name.isdigit())
    return whole[-1] if whole else None


def write(folder: Path, model: BaseAlgorithm, policy: LearnedPolicy, counters: Mapping[str, Any], keep: int) -> Path:
    """Write a checkpoint in one piece: it is there whole or not at all. Older ones than `keep` go."""
    final = folder / f"{model.num_timesteps:09d}"
    sweep_folder(folder)
    with replaced_folder(final) as partial:
        policy.save(partial)
        save_file(_tensors(model), partial / TENSORS)
        if isinstance(model, SAC):
            _write_replay(partial / REPLAY, model.replay_buffer)
        ours = {"steps": model.num_timesteps, "updates": model._n_updates, "episodes": model._episode_num}
        (partial / COUNTERS).write_text(json.dumps({**counters, **ours}, indent=1) + "\n")
    for old in sorted(path for path in folder.glob("[0-9]*") if path.name.isdigit())[:-keep]:
        shutil.rmtree(old)
    return final


def read(folder: Path, model: BaseAlgorithm) -> dict[str, Any]:
    """Put a checkpoint into an algorithm that was made with the same options; returns the counters.

    Raises:
        PolicyError: a file is missing or damaged, or of another network.
    """
    try:
        counters: dict[str, Any] = json.loads((folder / COUNTERS).read_text())
        load_weights(model.policy, load_file(folder / WEIGHTS), str(folder / WEIGHTS))
        _put_tensors(model, load_file(folder / TENSORS))
        model.num_timesteps, model._n_updates = counters["steps"], counters["updates"]
        model._episode_num = counters["episodes"]
        if isinstance(model, SAC) and (folder / REPLAY).exists():
            _read_replay(folder / REPLAY, model.replay_buffer)
    except (FileNotFoundError, ValueError, KeyError, SafetensorError) as error:
        raise PolicyError(
            f"the checkpoint {folder} is damaged: {error!r}; delete it, and training resumes from the one before"
        ) from error
    return counters


def _parts(model: BaseAlgorithm) -> tuple[dict[str, torch.optim.Optimizer], dict[str, Tensor]]:
    """Optimisers by name, and variables that are part of no network."""
    modules, variables = model._get_torch_save_params()
    found = {name: _attribute(model, name) for name in modules}
    optimisers = {name: part for name, part in found.items() if isinstance(part, torch.optim.Optimizer)}
    return optimisers, {name: _attribute(model, name) for name in variables}


def _attribute(model: BaseAlgorithm, name: str) -> Any:
    value: Any = model
    for part in name.split("."):
        value = getattr(value, part)
    return value


def _tensors(model: BaseAlgorithm) -> dict[str, Tensor]:
    optimisers, variables = _parts(model)
    tensors = {name: value.detach().clone() for name, value in variables.items()}
    for name, optimiser in optimisers.items():
        for index, state in optimiser.state_dict()["state"].items():
            tensors |= {f"{name}/{index}/{key}": torch.as_tensor(value).clone() for key, value in state.items()}
    return tensors


def _put_tensors(model: BaseAlgorithm, tensors: dict[str, Tensor]) -> None:
    optimisers, variables = _parts(model)
    for name, variable in variables.items():
        variable.data.copy_(tensors[name])
    for name, optimiser in optimisers.items():
        whole = optimiser.state_dict()
        whole["state"] = {}
        for key in (key for key in tensors if key.startswith(f"{name}/")):
            _, index, field = key.split("/")
            whole["state"].setdefault(int(index), {})[field] = tensors[key]
        optimiser.load_state_dict(whole)


def _arrays(buffer: DictReplayBuffer) -> dict[str, np.ndarray]:
    """The arrays of a replay buffer by name; views, not copies."""
    named = {name: getattr(buffer, name) for name in ("actions", "rewards", "dones", "timeouts")}
    for kind in ("observations", "next_observations"):
        named |= {f"{kind}/{key}": array for key, array in getattr(buffer, kind).items()}
    return named


def _write_replay(path: Path, buffer: Any) -> None:
    rows = buffer.buffer_size if buffer.full else buffer.pos
    arrays = {name: np.ascontiguousarray(array[:rows]) for name, array in _arrays(buffer).items()}
    size = sum(array.nbytes for array in arrays.values())
    if size > REPLAY_BYTES:
        LOG.warning("the replay buffer has %d MB and is not in the checkpoint", size // 2**20)
        return
    save_arrays({**arrays, "position": np.array([buffer.pos, int(buffer.full)])}, path)


def _read_replay(path: Path, buffer: Any) -> None:
    saved = load_arrays(path)
    for name, array in _arrays(buffer).items():
        array[: len(saved[name])] = saved[name]
    buffer.pos, buffer.full = int(saved["position"][0]), bool(saved["position"][1])
