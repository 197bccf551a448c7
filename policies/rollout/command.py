"""`mirage rollout`: its options, and what they mean."""

from __future__ import annotations

from collections.abc import Iterator
from dataclasses import dataclass, field
from pathlib import Path
from typing import Annotated, Any

import tyro

from mirage_env.errors import InvalidOptionError
from mirage_env.files import parse_json
from mirage_env.models.model_options import ModelOptions, Networks
from policies.rollout.loop import Recipe
from policies.rollout.plan import RolloutPlan, Shard
from policies.rollout.policy_names import check_policy
from policies.rollout.runner import Done, run_plan

Worlds = Annotated[Path | None, tyro.conf.Positional, tyro.conf.arg(metavar="[WORLDS]", help_behavior_hint="")]


@dataclass(frozen=True)
class Rollout:
    """Roll a policy out, many times, and record it: one file per episode in --out.

    A run that was stopped or killed goes on when the same command is given again. More --episodes add to what is there.
    """

    worlds: Annotated[Path | None, tyro.conf.Positional, tyro.conf.arg(metavar="[WORLDS]", help_behavior_hint="")] = (
        None
    )
    """Begin with saved worlds: a folder of them, in turn, or one. Without it, with start views of the rooms."""
    out: Path | None = None
    """Folder for the episodes; made if it is not there."""
    policy: str = "random"
    """random, still, forward, look_around, orbit, planner, the folder of a learned policy, or module:function."""
    policy_options: tuple[str, ...] = ()
    """Its options as name=value, value in JSON: speed=0.5."""
    episodes: int = 10
    """How many rollouts the folder shall hold."""
    steps: int = 16
    """Steps of a rollout, at most."""
    env: str = "Mirage/World-v0"
    """The environment."""
    task: str | None = None
    """What there is to do: explore, point_nav, image_nav, object_nav or revisit; the environment's own if not given."""
    model: str = "rooms"
    """A shipped model, or a folder that holds mirage.json."""
    seed: int = 0
    """Of the first rollout; each has one more than the one before."""
    workers: int = 1
    """Processes."""
    threads: int = 1
    """CPU threads of each."""
    shard: str = "1/1"
    """The part of the rollouts that this machine does, such as 2/8. The files of all shards in one folder are the data
    set that one machine would have written."""
    ray: bool = False
    """Roll out on the Ray cluster of RAY_ADDRESS, or on one that is started here, as many at a time as its CPUs allow.
    All its machines must find the model and the saved worlds under the same paths."""
    all_frames: bool = False
    """Keep the image of every frame, not only the last of each step."""
    same_noise: bool = False
    """Imagine with the noise that the cache was saved with, in the place of the rollout's seed."""
    networks: Networks = field(default_factory=ModelOptions)
    """How the model is loaded."""
    replay: Path | None = None
    """Do not roll out; carry this episode's actions out again and say where the result differs."""


def run_rollout(options: Rollout) -> tuple[RolloutPlan, Iterator[Done]]:
    """The plan of a command, and its rollouts as they are finished.

    Raises:
        InvalidOptionError: an option that cannot be.
        StoreError: a cache that cannot be used.
    """
    if options.out is None:
        raise InvalidOptionError("--out: give a folder for the episodes")
    check_policy(options.policy)
    recipe = Recipe(
        env=options.env,
        task=options.task,
        steps=options.steps,
        model=options.model,
        loading=options.networks.given(),
        policy=options.policy,
        policy_options=_values(options.policy_options),
        all_frames=options.all_frames,
        same_noise=options.same_noise,
        threads=options.threads,
    )
    plan = RolloutPlan.of(recipe, options.episodes, options.seed, options.worlds)
    return plan, run_plan(plan, options.out, options.workers, Shard.of(options.shard), options.ray)


def _values(pairs: tuple[str, ...]) -> dict[str, Any]:
    values = {}
    for pair in pairs:
        name, equals, value = pair.partition("=")
        if not equals or not name.isidentifier():
            raise InvalidOptionError(f"--policy-options: {pair!r} is no name=value")
        try:
            values[name] = parse_json(value, name)
        except InvalidOptionError:
            values[name] = value
    return values
