"""End writers at random moments (SIGKILL), and see that nothing acknowledged is lost and nothing is left.

    PYTHONPATH=tests/helpers python benchmarks/kill_runs.py --kills 300 --out kills.json

Caches that are appended to and overwritten, as a folder and as a zip; rollouts; a server; the training of a policy.
After each kill what is there is opened: it must be whole, at least as far as the writer had said, and alone in its
folder.
"""

from __future__ import annotations

import json
import multiprocessing
import random
import tempfile
import time
import traceback
from collections.abc import Sequence
from dataclasses import dataclass
from functools import cache
from pathlib import Path

import tyro

SHARES = {
    "folder": 0.25,
    "zip": 0.2,
    "overwritten folder": 0.25,
    "overwritten zip": 0.1,
    "rollouts": 0.08,
    "serve": 0.08,
    "train-policy": 0.04,
}
"""Of the kills; the last three take seconds each."""
NAMES = {"folder": "world.zarr", "zip": "world.zip", "overwritten folder": "world.zarr", "overwritten zip": "world.zip"}
PATIENCE = 300.0
"""Seconds within which a writer must show a sign of life."""


@dataclass(frozen=True)
class Options:
    """How many kills."""

    kills: int = 300
    seed: int = 0
    only: tuple[str, ...] = ()
    """Kinds; all where none is named."""
    out: Path = Path("kills.json")


@cache
def _context() -> multiprocessing.context.ForkServerContext:
    context = multiprocessing.get_context("forkserver")  # a process without threads that has imported everything once
    context.set_forkserver_preload(["killed", "policies.rollout.runner", "small_training", "worlds", "world_server"])
    return context


def kill(kind: str, path: Path, rng: random.Random) -> tuple[int, int]:
    """Start a writer and kill it; what it had said last, and how far what it left is.

    Raises:
        AssertionError: what it left is not whole, or not alone.
        RuntimeError: it did not start.
    """
    from killed import KINDS

    ours, theirs = _context().Pipe(duplex=False)
    with ours:
        writer = _context().Process(target=KINDS[kind].write, args=(str(path), theirs))
        writer.start()
        theirs.close()
        try:
            if not ours.poll(PATIENCE):
                raise RuntimeError(f"{kind}: the writer did not start")
            time.sleep(rng.uniform(0.0, KINDS[kind].longest))
        finally:
            writer.kill()
            writer.join()
        said = 0
        try:
            while ours.poll():
                said = int(ours.recv())
        except EOFError:
            pass
    return said, KINDS[kind].check(path)


def run(kind: str, times: int, rng: random.Random) -> Sequence[str]:
    """Kill writers of one kind, each of which goes on with what the one before has left; the faults."""
    from killed import KINDS

    faults = []
    with tempfile.TemporaryDirectory() as folder:
        path = Path(folder) / NAMES.get(kind, "work")
        KINDS[kind].begin(path)
        last = 0
        for number in range(times):
            try:
                said, there = kill(kind, path, rng)
                if there < max(said, last):
                    faults.append(f"{kind}, kill {number}: {max(said, last)} was said, {there} is there")
                last = there
            except (AssertionError, RuntimeError, OSError):
                faults.append(f"{kind}, kill {number}: {traceback.format_exc(limit=3)}")
    return faults


def main(options: Options) -> int:
    """Run all kinds; 1 where something was lost or left."""
    faults: dict[str, Sequence[str]] = {}
    kills: dict[str, int] = {}
    for kind, share in SHARES.items():
        if options.only and kind not in options.only:
            continue
        kills[kind] = max(1, round(share * options.kills))
        began = time.monotonic()
        faults[kind] = run(kind, kills[kind], random.Random(f"{options.seed} {kind}"))
        print(f"{kind}: {kills[kind]} kills, {len(faults[kind])} faults, {time.monotonic() - began:.0f} s", flush=True)
        options.out.write_text(json.dumps({"kills": kills, "faults": faults}, indent=1) + "\n")
    print(f"{sum(kills.values())} kills, {sum(map(len, faults.values()))} faults")
    return min(1, sum(map(len, faults.values())))


if __name__ == "__main__":
    raise SystemExit(main(tyro.cli(Options)))
