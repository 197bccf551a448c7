"""Open thousands of files that were changed at random, each batch in a process with limits on memory and time.

    PYTHONPATH=tests/helpers python benchmarks/hostile_files.py --inputs 3000 --out hostile.json

Counts what was read, what was refused with an error of ours, and what was neither: another error, more than 5 seconds
of work, more than 1 GiB beyond what the process began with, or a change outside the file. The seed of each input that
was neither is written, so that it can become a case of the tests.
"""

from __future__ import annotations

import json
import multiprocessing
import random
import resource
import tempfile
import time
from collections import Counter
from dataclasses import dataclass
from functools import cache
from multiprocessing.connection import Connection
from pathlib import Path

import tyro

SECONDS, GIB = 5.0, 2**30
BATCH = 150


@dataclass(frozen=True)
class Options:
    """Open files that were changed at random."""

    inputs: int = 3000
    seed: int = 0
    only: tuple[str, ...] = ()
    """Entry points; all where none is named."""
    out: Path = Path("hostile.json")


def batch(name: str, seeds: list[int], sends: Connection) -> None:
    """Open some inputs of one entry point, and send how each ended."""
    from hostile import entries, renew, spoil, suffix_of

    from mirage_env.errors import MirageError

    entry = next(entry for entry in entries() if entry.name == name)
    with tempfile.TemporaryDirectory() as made:
        folder = Path(made)
        path, thesis = folder / f"file{suffix_of(entry)}", folder / "thesis.txt"
        thesis.write_text("years of work")
        sound = folder / "sound"
        entry.make(path)
        path.rename(sound)
        renew(path, sound)
        entry.open(path)
        beside = {p.name for p in folder.iterdir()}
        began = int(Path("/proc/self/statm").read_text().split()[0]) * resource.getpagesize()
        resource.setrlimit(resource.RLIMIT_AS, (began + GIB, began + GIB))
        for seed in seeds:
            renew(path, sound)
            spoil(entry, path, random.Random(seed))
            start = time.process_time()
            sends.send((seed, "began"))
            try:
                entry.open(path)
                ended = "read"
            except MirageError:
                ended = "refused"
            took = time.process_time() - start
            if took > SECONDS:
                ended = f"took {took:.1f} s"
            if {p.name for p in folder.iterdir()} != beside or thesis.read_text() != "years of work":
                ended = "changed what lies beside it"
            sends.send((seed, ended))


@cache
def _context() -> multiprocessing.context.ForkServerContext:
    context = multiprocessing.get_context("forkserver")  # a process without threads that has imported everything once
    context.set_forkserver_preload(["hostile"])
    return context


def run(name: str, seeds: list[int]) -> dict[int, str]:
    """How each input ended; what ends a process is the fault of the input that it was at."""
    ends: dict[int, str] = {}
    while left := [seed for seed in seeds if seed not in ends]:
        ours, theirs = _context().Pipe(duplex=False)
        process = _context().Process(target=batch, args=(name, left, theirs))
        process.start()
        theirs.close()
        at: int | None = None
        try:
            while ours.poll(120):
                seed, said = ours.recv()
                at = seed if said == "began" else None
                if said != "began":
                    ends[seed] = said
        except EOFError:
            pass
        process.kill()
        process.join()
        if at is not None:
            ends[at] = f"ended the process ({process.exitcode})"
        elif not set(left) & set(ends):
            raise RuntimeError(f"{name}: no input was opened")
    return ends


def main(options: Options) -> int:
    """Run all; 1 where an input was neither read nor refused."""
    from hostile import entries

    names = [entry.name for entry in entries()]
    each = -(-options.inputs // len(names))
    number_of = {name: number for number, name in enumerate(names)}
    counts: Counter[str] = Counter()
    faults: list[dict[str, object]] = []
    for name in options.only or names:
        seeds = [options.seed + 10**6 * number_of[name] + n for n in range(each)]
        for start in range(0, each, BATCH):
            for seed, ended in run(name, seeds[start : start + BATCH]).items():
                counts["read or refused" if ended in ("read", "refused") else "fault"] += 1
                counts[f"{name}: {ended}"] += 1
                if ended not in ("read", "refused"):
                    faults.append({"entry": name, "seed": seed, "ended": ended})
        print(f"{name}: {dict((k, v) for k, v in counts.items() if k.startswith(name + ':'))}", flush=True)
    options.out.write_text(json.dumps({"counts": counts, "faults": faults}, indent=1) + "\n")
    print(f"{counts['read or refused']} read or refused, {counts['fault']} faults")
    return min(counts["fault"], 1)


if __name__ == "__main__":
    raise SystemExit(main(tyro.cli(Options)))
