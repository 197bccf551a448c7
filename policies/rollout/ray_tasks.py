"""Rollouts as tasks of a Ray cluster: one task for each, repeated elsewhere when its process or machine is lost."""

from __future__ import annotations

import tempfile
from collections.abc import Iterator, Sequence
from pathlib import Path
from typing import Any

from mirage_env.episodes import save_episode
from mirage_env.serving import connect_to_ray
from policies.rollout.loop import Recipe, Stage
from policies.rollout.plan import RolloutPlan

AHEAD = 2
"""Tasks that are handed out for each CPU of the cluster, so that none waits for the next."""

_stage: tuple[Recipe, Stage] | None = None
"""What this process of the cluster has opened."""


def rolled_out(plan: RolloutPlan, numbers: Sequence[int]) -> Iterator[tuple[int, bytes]]:
    """Carry rollouts of a plan out on a cluster; gives number and file of each as they are finished.

    A task whose process or machine dies is done again on another, for as long as it takes. Its seed decides what comes
    out, not where it runs.

    Raises:
        MissingPackageError: Ray is not installed.
        MirageError: a rollout failed.
    """
    ray = connect_to_ray()
    task = ray.remote(num_cpus=plan.recipe.threads, max_retries=-1)(_rolled_out)
    shared, left = ray.put(plan), list(reversed(numbers))
    running: dict[Any, int] = {}
    while left or running:
        room = AHEAD * max(1, int(ray.cluster_resources().get("CPU", 1))) - len(running)
        for _ in range(min(room, len(left))):
            number = left.pop()
            running[task.remote(shared, number)] = number
        [ready], _ = ray.wait(list(running), num_returns=1)
        yield running.pop(ready), ray.get(ready)


def _rolled_out(plan: RolloutPlan, number: int) -> bytes:
    global _stage
    if _stage is None or _stage[0] != plan.recipe:
        _stage = plan.recipe, Stage(plan.recipe)
    with tempfile.TemporaryDirectory() as folder:
        file = plan.file(Path(folder), number)
        save_episode(file, _stage[1].record(plan.job(number)))
        return file.read_bytes()
