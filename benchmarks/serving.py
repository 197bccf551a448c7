"""A world server under load, on this machine: `python benchmarks/serving.py --out serving.json`.

Forks over the wire, a tree of forks, many sessions against one, the price of a step on loopback, memory of idle worlds,
and kills in the middle of many sessions.
"""

from __future__ import annotations

import contextlib
import itertools
import json
import multiprocessing
import os
import platform
import signal
import subprocess
import sys
import tempfile
import threading
import time
from concurrent.futures import ThreadPoolExecutor
from dataclasses import dataclass
from multiprocessing.connection import Connection
from pathlib import Path
from typing import Any

import gymnasium as gym
import numpy as np
import psutil
import tyro

from mirage_env.errors import ServingError
from mirage_env.serving import Address, Client, Service, ServiceOptions, serving

TURN = 0.4 * np.array([0, 0, 0, 0, 1.0, 0])
BLOCK = 10
"""Steps of one environment before it is the turn of the other."""


@dataclass(frozen=True)
class Options:
    """Sizes of the runs."""

    out: Path = Path("serving.json")
    model: str = "rooms"
    image_size: int | None = None
    forks: int = 10_000
    sessions: int = 64
    steps: int = 12
    """Steps of every session."""
    alone: int = 24
    """Steps of one session alone, and of the local environment."""
    idle: int = 200
    """Worlds that are opened and left alone."""
    kills: int = 0
    """Kills in the middle of `sessions` sessions."""
    most: int = 40
    """Steps between kills, at most."""
    only_kills: bool = False


def arguments(options: Options, folder: Path) -> list[str]:
    """Arguments of `mirage` for a server."""
    size = [] if options.image_size is None else ["--image-size", *[str(options.image_size)] * 2]
    command = ["serve", "--model", options.model, "--port", "0", "--worlds", str(folder), "--idle-seconds", "5"]
    return [*command, *size]


def url_in(line: str) -> str:
    """The address that a server says on its first line."""
    return next(word.rstrip(",") for word in line.split() if word.startswith("http"))


class Server:
    """A server in a process of its own."""

    def __init__(self, options: Options, folder: Path) -> None:
        command = [sys.executable, "-m", "mirage_env.cli", *arguments(options, folder)]
        self.process = subprocess.Popen(command, stdout=subprocess.PIPE, text=True)
        assert self.process.stdout is not None
        self.url = url_in(self.process.stdout.readline())

    def stop(self) -> None:
        self.process.terminate()
        self.process.wait()


def forks(client: Client, count: int) -> dict[str, Any]:
    """Fork one world again and again."""
    world, times = client.open(seed=0), []
    for _ in range(count):
        begin = time.perf_counter()
        world.fork()
        times.append(time.perf_counter() - begin)
    return {
        "count": count,
        "median_ms": 1e3 * float(np.median(times)),
        "p99_ms": 1e3 * float(np.quantile(times, 0.99)),
        "worlds": len(client.worlds()),
    }


def many(url: str, options: Options) -> dict[str, Any]:
    """Step one session alone, and many at a time; frames per second in sum, and how evenly they were served."""
    clients = [Client(url) for _ in range(options.sessions)]
    worlds = [client.open(seed=i, want={"frames": "none"}) for i, client in enumerate(clients)]
    frames = clients[0].describe()["frames"]
    worlds[0].step(TURN)
    begin = time.perf_counter()
    for _ in range(options.alone):
        worlds[0].step(TURN, last_only=True)
    alone = frames * options.alone / (time.perf_counter() - begin)

    def walk(world: Any) -> float:
        begin = time.perf_counter()
        for _ in range(options.steps):
            world.step(TURN, last_only=True)
        return time.perf_counter() - begin

    begin = time.perf_counter()
    with ThreadPoolExecutor(options.sessions) as pool:
        times = list(pool.map(walk, worlds))
    together = frames * options.sessions * options.steps / (time.perf_counter() - begin)
    return {
        "sessions": options.sessions,
        "alone_frames_per_s": alone,
        "together_frames_per_s": together,
        "gain": together / alone,
        "slowest_to_fastest": max(times) / min(times),
    }


def overhead(url: str, options: Options) -> dict[str, Any]:
    """Step a local and a remote environment, some steps of each at a time; the results are compared bit for bit.

    Not in turns: threads of the local networks would still spin while the server's work.
    """
    from mirage_env.models.world_model_loader import load_world_model

    size = None if options.image_size is None else (options.image_size, options.image_size)
    here = gym.make("Mirage/World-v0", model=load_world_model(options.model, image_size=size))
    far = gym.make("Mirage/Remote-v0", url=url)
    seen = {name: [env.reset(seed=1)[0]["pixels"]] for name, env in (("here", here), ("far", far))}
    times: dict[str, list[float]] = {"here": [], "far": []}
    while len(times["far"]) < options.alone:
        for name, env in (("here", here), ("far", far)):
            for _ in range(min(BLOCK, options.alone - len(times[name]))):
                begin = time.perf_counter()
                seen[name].append(env.step(TURN.astype(np.float32))[0]["pixels"])
                times[name].append(time.perf_counter() - begin)
    same = all(map(np.array_equal, seen["here"], seen["far"]))
    far.unwrapped.close()
    here_ms, far_ms = (1e3 * float(np.median(times[name])) for name in ("here", "far"))
    return {"steps": options.alone, "same_bits": bool(same), "local_ms": here_ms, "remote_ms": far_ms}


def idle_memory(server: Server, worlds: int) -> dict[str, Any]:
    """Growth of the server with worlds that nobody uses."""
    process = psutil.Process(server.process.pid)
    with Client(server.url) as client:
        client.open(seed=0)
        time.sleep(12)
        before = process.memory_info().rss
        for seed in range(worlds):
            client.open(seed=seed, want={"frames": "none"})
        while any(world["awake"] for world in client.worlds()):
            time.sleep(1)
        return {"worlds": worlds, "kB_per_world": (process.memory_info().rss - before) / worlds / 1e3}


class Nursery:
    """A process that has loaded the model and walked with it, and forks servers, which are there at once."""

    def __init__(self, options: Options) -> None:
        self.line, end = multiprocessing.Pipe()
        context = multiprocessing.get_context("fork")
        self.process = context.Process(target=nurse, args=(options, end))
        self.process.start()

    def serve(self, folder: Path) -> tuple[str, int]:
        """Address and process of a new server."""
        self.line.send(folder)
        url, process = self.line.recv()
        return str(url), int(process)


def nurse(options: Options, line: Connection) -> None:
    """Fork a server for each folder that is asked for, one after the other."""
    import torch

    from mirage_env.models.world_model_loader import load_world_model

    torch.set_num_threads(1)  # threads do not outlive a fork
    size = None if options.image_size is None else (options.image_size, options.image_size)
    model = load_world_model(options.model, image_size=size)
    _, state = model.start(np.zeros((*model.config.image_size, 3), np.uint8))
    model.step(state, [state.camera] * model.config.frames_of(state.chunk))
    context = multiprocessing.get_context("fork")
    while (folder := line.recv()) is not None:
        child = context.Process(target=live, args=(model, folder, line))
        child.start()
        child.join()


def live(model: Any, folder: Path, line: Connection) -> None:
    """Serve until the end."""
    with serving(Service(model, ServiceOptions(folder, idle_seconds=5.0)), Address(port=0)) as url:
        line.send((url, os.getpid()))
        threading.Event().wait()


def kills(options: Options, folder: Path) -> dict[str, Any]:
    """Kill the server at random steps of its sessions; count worlds that have lost an acknowledged step afterwards.

    Those that have walked are looked at after each kill, all at the end.
    """
    rng, lost, checked, nursery = np.random.default_rng(0), 0, 0, Nursery(options)
    url, process = nursery.serve(folder)
    with Client(url) as client:
        image = rng.integers(0, 256, (*client.describe()["image_size"], 3), np.uint8)
        want = {"frames": "none"}
        worlds = [client.open(image=np.roll(image, i, 1), want=want).world for i in range(options.sessions)]
    reached, turns = dict.fromkeys(worlds, 0), itertools.cycle(worlds)
    for number in range(options.kills):
        until = sum(reached.values()) + int(rng.integers(1, options.most))

        asked: set[str] = set()

        def walk(url: str = url, asked: set[str] = asked) -> None:
            with contextlib.suppress(ServingError), Client(url) as client:
                while True:
                    world = next(turns)
                    asked.add(world)
                    reached[world] = client.world(world).step(TURN, frames="none").chunk

        with ThreadPoolExecutor(4) as pool:
            runs = [pool.submit(walk) for _ in range(4)]
            while sum(reached.values()) < until:
                time.sleep(float(rng.uniform(0.0, 0.05)))
            os.kill(process, signal.SIGKILL)
            [run.result() for run in runs]
        begin = time.perf_counter()
        url, process = nursery.serve(folder)
        with Client(url) as client:
            for world in worlds if number + 1 == options.kills else asked:
                checked += 1
                chunk = client.world(world).look(frames="none").chunk
                lost += chunk < reached[world]
                reached[world] = chunk
        steps, seconds = sum(reached.values()), time.perf_counter() - begin
        print(f"{number + 1} kills, {steps} steps, {lost} of {checked} worlds behind, {seconds:.1f} s", flush=True)
    os.kill(process, signal.SIGKILL)
    nursery.line.send(None)
    return {"kills": options.kills, "steps": steps, "worlds_checked": checked, "worlds_behind": lost}


def main(options: Options) -> None:
    """Run everything and write the figures, after each part."""
    results: dict[str, Any] = {"machine": platform.processor() or platform.machine(), "cores": os.cpu_count()}

    def note(part: str, figures: dict[str, Any]) -> None:
        results[part] = figures
        options.out.write_text(json.dumps(results, indent=1) + "\n")
        print(part, figures, flush=True)

    with tempfile.TemporaryDirectory() as folder:
        if options.only_kills:
            note("kills", kills(options, Path(folder) / "three"))
            return
        server = Server(options, Path(folder) / "one")
        note("overhead", overhead(server.url, options))
        note("many", many(server.url, options))
        with Client(server.url) as client:
            note("forks", forks(client, options.forks))
        server.stop()
        server = Server(options, Path(folder) / "two")
        note("idle", idle_memory(server, options.idle))
        server.stop()
        if options.kills:
            note("kills", kills(options, Path(folder) / "three"))


if __name__ == "__main__":
    main(tyro.cli(Options))
