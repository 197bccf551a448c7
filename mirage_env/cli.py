"""The command line `mirage`: each command is a dataclass, whose fields are its options, and a function that runs it."""

from __future__ import annotations

import logging
import os
import sys
from collections.abc import Callable, Sequence
from dataclasses import dataclass
from difflib import get_close_matches
from functools import partial
from pathlib import Path
from typing import Annotated, TypeVar

import tyro

from mirage_env.commands.os_errors import has_compiled, told
from mirage_env.commands.room_worlds import open_room, training_worlds
from mirage_env.commands.text_tables import cache_table, walk_table
from mirage_env.commands.walk import File, Text, Walk, blaming, run_walk
from mirage_env.errors import MirageError, MissingPackageError
from mirage_env.viz.walk_page import PAGE

USAGE = """\
mirage walk, mirage view, mirage play, mirage look   a world: walk a path, drive it in the browser or by keys, inspect
mirage train-policy, mirage rollout, mirage export   agents that learn in it, rollouts of a policy, datasets of them
mirage ros, mirage model                             a world as ROS 2 topics; check a checkpoint, convert weights
mirage eval, mirage train, mirage doctor             how good the model is, how to train your own; what is missing here
Begin with: mirage walk --seed 7 --path loop --out walk      (--help after a command tells its options)\
"""
NOISY = ("torchao", "torch.utils._pytree", "diffusers.quantizers")
"""They warn when they are loaded, about kernels of other machines and about each other."""
CommandT = TypeVar("CommandT")


@dataclass(frozen=True)
class Look:
    """Tell what is in a saved world, and draw it from above, coloured by what its points look like."""

    cache: Annotated[Path, tyro.conf.Positional]
    """The cache, a folder or .zip."""
    out: File = None
    """Write the picture to this PNG file; without it there is none, and no model is loaded."""
    model: Text = None
    """The model that wrote the cache, where it is neither shipped nor found under the name in the cache."""


def main(arguments: Sequence[str] | None = None) -> int:
    """Run `mirage`; returns the exit code: 0, 2 for a mistake in the options or files, 130 after Ctrl-C."""
    # Threads that spin while they wait starve the process under load; torch reads this when it is loaded.
    os.environ.setdefault("OMP_WAIT_POLICY", "PASSIVE")
    logging.basicConfig(format="%(message)s", stream=sys.stderr)
    logging.getLogger("mirage_env").setLevel(logging.INFO)
    for name in NOISY:
        logging.getLogger(name).setLevel(logging.ERROR)
    command, *rest = list(sys.argv[1:] if arguments is None else arguments) or ["--help"]
    if command in ("-h", "--help"):
        print(USAGE)
        return 0
    if command not in COMMANDS:
        meant = "".join(f"; did you mean {name}?" for name in get_close_matches(command, COMMANDS, n=1))
        print(f"mirage: there is no command {command!r}{meant}\n{USAGE}", file=sys.stderr)
        return 2
    if command in ("play", "rollout", "train-policy", "view", "walk") and rest != ["--help"] and not has_compiled():
        print("the first start compiles, which takes about a minute", file=sys.stderr)
    try:
        return COMMANDS[command](rest)
    except BrokenPipeError:  # whoever read the output has left; nothing more can be said, at the exit either
        os.dup2(os.open(os.devnull, os.O_WRONLY), sys.stdout.fileno())
        return 1
    except (MirageError, OSError) as error:
        print(f"mirage {command}: {error if isinstance(error, MirageError) else told(error)}", file=sys.stderr)
        return 2
    except KeyboardInterrupt:
        print(f"mirage {command}: stopped", file=sys.stderr)
        return 130


def run_look(options: Look) -> int:
    """`mirage look`."""
    from mirage_env.store import load_world, open_cache

    info = open_cache(options.cache)
    print(cache_table(info))
    if options.out is not None:
        from PIL import Image

        from mirage_env.memory.latent import LatentMemory
        from mirage_env.models.world_model_loader import load_world_model
        from mirage_env.viz.pictures import memory_map

        with blaming("--model"):
            model = load_world_model(options.model or info.model)
            memory = load_world(options.cache, model).memory
        if isinstance(memory, LatentMemory):
            options.out.parent.mkdir(parents=True, exist_ok=True)
            Image.fromarray(memory_map(memory, model.codec, info.cameras)).save(options.out, "PNG")
            print(f"seen from above: {options.out}")
    return 0


def _walk_command(arguments: Sequence[str]) -> int:
    options = _parse(Walk, arguments, "mirage walk")
    figures, files = run_walk(options, open_room)
    print(walk_table(figures, files))
    if options.show:
        from mirage_env.viz.walk_page import open_page

        print(open_page(options.out / PAGE))
    return 130 if figures.stopped else 0


def _look_command(arguments: Sequence[str]) -> int:
    return run_look(_parse(Look, arguments, "mirage look"))


def _view_command(arguments: Sequence[str]) -> int:
    from threading import Event

    from mirage_env.commands.view_options import View

    options = _parse(View, arguments, "mirage view")
    print("opening the world ...", flush=True)
    from mirage_env.commands.view import viewing

    with viewing(options, open_room) as address:
        print(f"the world is at {address} (Ctrl-C ends; keys: I J K L walk and turn)", flush=True)
        Event().wait()
    return 0


def _eval_command(arguments: Sequence[str]) -> int:
    from mirage_env.commands.evaluate import EVALUATIONS
    from mirage_env.commands.evaluate import USAGE as EVAL_USAGE

    what, *rest = arguments or ["--help"]
    if what in ("-h", "--help"):
        print(EVAL_USAGE)
        return 0
    if what not in EVALUATIONS:
        print(f"mirage eval: there is nothing called {what!r} to measure\n{EVAL_USAGE}", file=sys.stderr)
        return 2
    evaluation = EVALUATIONS[what]()
    print(evaluation.run(_parse(evaluation.options, rest, f"mirage eval {what}")))
    return 0


def _train_command(arguments: Sequence[str]) -> int:
    from mirage_env.commands import train

    if told := train.run(arguments):
        print(told)
    return 0


def _train_policy_command(arguments: Sequence[str]) -> int:
    try:
        from policies.training import TrainPolicy, train_policy
    except ModuleNotFoundError as error:
        if error.name != "stable_baselines3":
            raise
        raise MissingPackageError("training needs Stable-Baselines3; pip install 'mirage-env[rl]'") from error

    options = _parse(TrainPolicy, arguments, "mirage train-policy")
    result = train_policy(options, partial(training_worlds, options))
    for score in result.evaluations:
        success = score["success"]
        print(
            f"{score['steps']:>8} steps  {score['env']}: success {success['mean']:.2f} "
            f"({success['low']:.2f} to {success['high']:.2f}), SPL {score['spl']['mean']:.2f}, "
            f"SoftSPL {score['soft_spl']['mean']:.2f}"
        )
    print(f"the policy is in {result.policy}")
    return 0


def _rollout_command(arguments: Sequence[str]) -> int:
    from policies.rollout import command

    options = _parse(command.Rollout, arguments, "mirage rollout")
    if options.replay is not None:
        return _replay(options.replay)
    from tqdm import tqdm

    plan, done = command.run_rollout(options)
    left = len(plan.missing(options.out or Path()))
    for rollout in tqdm(done, total=left, desc="rollouts", unit="episode", disable=None):
        success = "   success" if rollout.success else ""
        tqdm.write(f"rollout {rollout.number}: {rollout.steps} steps, reward {rollout.reward:.3f}{success}")
    print(f"{options.out} holds {plan.episodes} rollouts")
    return 0


def _replay(path: Path) -> int:
    from mirage_env.episodes import load_episode
    from policies.rollout.loop import replay

    episode, lines = replay(load_episode(path))
    print("\n".join([f"{path}: differs", *lines]) if lines else f"{path}: {len(episode)} steps, the same bit for bit")
    return 1 if lines else 0


def _export_command(arguments: Sequence[str]) -> int:
    from mirage_env.commands import export

    options = _parse(export.Export, arguments, "mirage export")
    print(export.run_export(options))
    return 0


def _play_command(arguments: Sequence[str]) -> int:
    from mirage_env.commands import play

    options = _parse(play.Play, arguments, "mirage play")
    print(play.KEYS_HELP, flush=True)
    play.run_play(options)
    return 0


def _model_command(arguments: Sequence[str]) -> int:
    from mirage_env.commands import model

    what, *rest = arguments or ["--help"]
    if what in ("-h", "--help"):
        print(model.USAGE)
        return 0
    if what == "check":
        text, ok = model.run_check(_parse(model.Check, rest, "mirage model check"))
        print(text)
        return 0 if ok else 2
    if what == "convert":
        written = model.run_convert(_parse(model.Convert, rest, "mirage model convert"))
        print("wrote " + ", ".join(map(str, written)))
        return 0
    if what == "embed":
        files = model.run_embed(_parse(model.Embed, rest, "mirage model embed"))
        print(f"wrote {len(files)} embeddings to {files[0].parent}")
        return 0
    print(f"mirage model: there is nothing called {what!r}\n{model.USAGE}", file=sys.stderr)
    return 2


def _doctor_command(arguments: Sequence[str]) -> int:
    from mirage_env import doctor

    return doctor.examine(_parse(doctor.Doctor, arguments, "mirage doctor"), partial(print, flush=True))


def _ros_command(arguments: Sequence[str]) -> int:
    from ros_bridge import command

    return command.main(arguments)


COMMANDS: dict[str, Callable[[Sequence[str]], int]] = {
    "walk": _walk_command,
    "look": _look_command,
    "view": _view_command,
    "eval": _eval_command,
    "train": _train_command,
    "train-policy": _train_policy_command,
    "rollout": _rollout_command,
    "export": _export_command,
    "play": _play_command,
    "model": _model_command,
    "doctor": _doctor_command,
    "ros": _ros_command,
}


def _parse(command: type[CommandT], arguments: Sequence[str], name: str) -> CommandT:
    return tyro.cli(command, args=list(arguments), prog=name, config=(tyro.conf.FlagCreatePairsOff,))


if __name__ == "__main__":
    sys.exit(main())
