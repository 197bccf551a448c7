"""Carrying out a plan of rollouts, in this process, in several, or on the machines of a Ray cluster."""

from __future__ import annotations

import multiprocessing
import os
import signal
import threading
from collections.abc import Iterator
from concurrent.futures import ProcessPoolExecutor, as_completed
from dataclasses import dataclass
from multiprocessing.connection import wait
from pathlib import Path

from mirage_env.episodes import Episode, load_episode, save_episode
from mirage_env.errors import InvalidOptionError
from mirage_env.files.atomic import new_file
from policies.rollout.loop import Stage
from policies.rollout.plan import WHOLE, RolloutPlan, Shard, claimed


@dataclass(frozen=True)
class Done:
    """A rollout that is on disk."""

    number: int
    steps: int
    reward: float
    """Sum over the episode."""
    success: bool


def run_plan(
    plan: RolloutPlan, folder: Path, workers: int = 1, shard: Shard = WHOLE, ray: bool = False
) -> Iterator[Done]:
    """Carry out what is missing of a plan, or of one shard of it; yields each rollout once it is on disk.

    Every rollout is a file that is there whole or not at all, and does not depend on the others: a run that was killed
    goes on with the same plan, and neither repeats nor loses one.

    Args:
        plan: what to do.
        folder: for the episodes.
        workers: processes of this machine.
        shard: the part of the plan.
        ray: do it as tasks of a Ray cluster, in the place of processes (`ray_tasks.py`).

    Raises:
        MissingPackageError: Ray is asked for and not installed.
        RolloutError: the folder holds rollouts of another plan, or another run writes there.
        MirageError: a rollout failed; those before it are kept.
    """
    if workers < 1:
        raise InvalidOptionError(f"workers is {workers}; give at least 1")
    with claimed(folder, plan):
        missing = plan.missing(folder, shard)
        if ray:
            from policies.rollout.ray_tasks import rolled_out

            for number, episode in rolled_out(plan, missing):
                with new_file(plan.file(folder, number)) as partial:
                    partial.write_bytes(episode)
                yield _done(number, load_episode(plan.file(folder, number)))
        elif workers == 1 or len(missing) < 2:
            yield from _here(plan, folder, missing)
        else:
            yield from _in_processes(plan, folder, missing, min(workers, len(missing)))


def _here(plan: RolloutPlan, folder: Path, numbers: list[int]) -> Iterator[Done]:
    if numbers:
        with Stage(plan.recipe) as stage:
            for number in numbers:
                yield _record(stage, plan, folder, number)


def _in_processes(plan: RolloutPlan, folder: Path, numbers: list[int], workers: int) -> Iterator[Done]:
    # Forked from a process that has imported everything and started no thread yet; torch's threads outlive no fork.
    context = multiprocessing.get_context("forkserver")
    context.set_forkserver_preload(["policies.rollout.runner", "mirage_env.models.world_model_loader"])
    pool = ProcessPoolExecutor(workers, context, initializer=_begin, initargs=(plan, folder))
    try:
        for future in as_completed([pool.submit(_next, number) for number in numbers]):
            yield future.result()
    finally:
        pool.shutdown(cancel_futures=True)


def _record(stage: Stage, plan: RolloutPlan, folder: Path, number: int) -> Done:
    episode = stage.record(plan.job(number))
    save_episode(plan.file(folder, number), episode)
    return _done(number, episode)


def _done(number: int, episode: Episode) -> Done:
    success = bool(episode.infos["is_success"][-1]) if "is_success" in episode.infos else False
    return Done(number, len(episode), float(episode.rewards.sum()), success)


_worker: tuple[Stage, RolloutPlan, Path] | None = None
"""What a worker process has opened."""


def _begin(plan: RolloutPlan, folder: Path) -> None:
    global _worker
    signal.signal(signal.SIGINT, signal.SIG_IGN)  # Ctrl-C goes to the first process, which lets the others finish
    threading.Thread(target=_end_with_parent, daemon=True).start()
    _worker = Stage(plan.recipe), plan, folder


def _next(number: int) -> Done:
    if _worker is None:
        raise InvalidOptionError("this process was not begun with a plan")
    return _record(*_worker, number)


def _end_with_parent() -> None:
    """A killed parent tells nobody, and its workers would wait for ever."""
    parent = multiprocessing.parent_process()
    if parent is not None:
        wait([parent.sentinel])
        os._exit(1)
