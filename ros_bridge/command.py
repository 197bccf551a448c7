"""Command line `mirage ros`: run the nodes, inspect topics, call services, convert bags."""

from __future__ import annotations

import json
import os
import shlex
import sys
from collections.abc import Callable, Sequence
from dataclasses import fields
from pathlib import Path
from typing import Any

from mirage_env.errors import InvalidOptionError
from mirage_env.store import open_cache
from ros_bridge.command_options import Bag, Call, Drive, Drives, Echo, Network, Topics, World
from ros_bridge.parameters.policy_parameters import PolicyParameters
from ros_bridge.parameters.world_parameters import WorldParameters

SERVICES = ("reset", "pause", "resume", "step", "save", "load", "fork", "rollback")
LARGEST_DOMAIN = 101
"""Above it the ports of a domain run into those the system hands out."""


def run(options: Any) -> int:
    """Run a command of `mirage ros`; returns the exit code.

    Raises:
        MirageError: an option that is not on offer, or ROS is not installed; the subclass says which.
    """
    if isinstance(options, Network):
        join(options)
    return COMMANDS[type(options)](options)


def join(network: Network) -> None:
    """Set the ROS domain and discovery range in the environment, before the ROS libraries read it.

    Raises:
        InvalidOptionError: a domain out of range.
    """
    if network.domain is not None:
        if not 0 <= network.domain <= LARGEST_DOMAIN:
            raise InvalidOptionError(f"--domain is {network.domain}; give a number from 0 to {LARGEST_DOMAIN}")
        os.environ["ROS_DOMAIN_ID"] = str(network.domain)
    if network.localhost:
        os.environ["ROS_AUTOMATIC_DISCOVERY_RANGE"] = "LOCALHOST"


def ros_arguments(parameters: Sequence[tuple[str, Any]]) -> list[str]:
    """The command line that gives a node those parameters; values are written as YAML."""
    arguments = ["--ros-args"]
    for name, value in parameters:
        arguments += ["-p", f"{name}:={json.dumps(value)}"]
    return arguments


def given(kind: type, settings: Sequence[str], /, **options: Any) -> list[tuple[str, Any]]:
    """Parameters from --param NAME=VALUE and from the options that were given, with the types of `kind`'s fields.

    Raises:
        InvalidOptionError: no NAME=VALUE, a name the node does not have, or a value of another type or out of range.
    """
    types = {row.name: str(row.type) for row in fields(kind)}
    found = {name: value for name, value in options.items() if value is not None and value is not False}
    quality = {}
    for setting in settings:
        name, equals, text = setting.partition("=")
        if not equals:
            raise InvalidOptionError(f"--param {setting!r} has no value; write {name}=VALUE")
        if name.startswith("qos_overrides."):
            quality[name] = int(text) if text.isdigit() else text
        elif name not in types:
            raise InvalidOptionError(f"the node has no parameter {name!r}; it has {', '.join(types)}")
        else:
            found[name] = _value(name, text, types[name])
    kind(**found)  # checks types and ranges before anything is started
    return [*found.items(), *quality.items()]


def _value(name: str, text: str, kind: str) -> Any:
    if kind == "str":
        return text
    if kind == "bool" and text.lower() in ("true", "false"):
        return text.lower() == "true"
    try:
        if kind == "int":
            return int(text)
        if kind == "float":
            return float(text)
    except ValueError:
        pass
    raise InvalidOptionError(f"--param {name}={text} is no {kind}; give a value of type {kind}")


def _world(options: World) -> int:
    parameters = given(
        WorldParameters,
        options.param,
        rate=options.rate,
        model=options.model,
        server=options.server,
        token_file=_text(options.token_file),
        start_image=_text(options.image),
        seed=options.seed,
        store=_text(options.store),
        resume=options.resume,
    )
    if options.resume and options.store is None:
        raise InvalidOptionError("--resume goes on from the cache at --store; give that too")
    from ros_bridge.nodes import world_node

    return world_node.main(ros_arguments(parameters))


def _policy(options: Drives) -> int:
    parameters = given(
        PolicyParameters,
        options.param,
        policy=options.name,
        settings=shlex.join(options.setting) or None,
        rate=options.rate,
        command=options.command,
    )
    from ros_bridge.nodes import policy_node

    policy_node.make_policy(options.name, shlex.join(options.setting))
    return policy_node.main(ros_arguments(parameters))


def _topics(options: Topics) -> int:
    from ros_bridge.nodes.inspection_node import Peer
    from ros_bridge.topic_echo import topics_text

    with Peer("mirage_topics") as peer:
        print(topics_text(peer.topics(options.wait)))
    return 0


def _echo(options: Echo) -> int:
    from ros_bridge.nodes.inspection_node import Peer

    with Peer("mirage_echo") as peer:
        for text in peer.echo(options.topic, options.wait, options.count):
            print(text, flush=True)
    return 0


def _drive(options: Drive) -> int:
    from ros_bridge import teleop_keyboard
    from ros_bridge.nodes.inspection_node import Peer

    if not sys.stdin.isatty():
        raise InvalidOptionError("mirage ros drive reads keys; run it in a terminal")
    print(teleop_keyboard.HELP)
    with Peer("mirage_drive") as peer:
        for drive in peer.drive(teleop_keyboard.Drive(options.speed, options.turn), options.topic, options.stamped):
            forward, left, turn = drive.velocity
            print(f"\rforward {forward:+.2f} m/s  left {left:+.2f} m/s  turn {turn:+.2f} rad/s ", end="", flush=True)
    return 0


def _call(options: Call) -> int:
    from ros_bridge.nodes.inspection_node import Peer

    if options.name not in SERVICES:
        raise InvalidOptionError(f"the world node offers no {options.name!r}; ask for one of {', '.join(SERVICES)}")
    service, value = {"pause": ("pause", True), "resume": ("pause", False)}.get(options.name, (options.name, None))
    with Peer("mirage_call") as peer:
        done, text = peer.call(f"/{options.node.strip('/')}/{service}", value, options.wait, options.timeout)
    print(text)
    return 0 if done else 1


def _bag(options: Bag) -> int:
    from mirage_env.commands.checks import saved_world
    from ros_bridge.bag import world_to_bag

    world = saved_world(options.world)
    model = None
    if not options.poses_only:
        from mirage_env.models import load_world_model

        model = load_world_model(options.model or open_cache(world).model)
    print(world_to_bag.cache_to_bag(world, options.out, options.rate, options.codec, model=model))
    return 0


def _text(path: Path | None) -> str | None:
    return None if path is None else str(path)


COMMANDS: dict[type, Callable[[Any], int]] = {
    World: _world,
    Drives: _policy,
    Topics: _topics,
    Echo: _echo,
    Drive: _drive,
    Call: _call,
    Bag: _bag,
}
