"""`mirage serve`: many worlds of one model behind an address."""

from __future__ import annotations

import contextlib
import logging
from collections.abc import Iterator
from dataclasses import dataclass, field
from functools import partial
from pathlib import Path

from mirage_env.commands.checks import blaming
from mirage_env.commands.walk import File
from mirage_env.errors import InvalidOptionError, MissingPackageError
from mirage_env.interfaces import OpenRoom
from mirage_env.models.model_options import ModelOptions, Networks

logger = logging.getLogger(__name__)
START_VIEWS = "mirage_env.rooms:start_view"


@dataclass(frozen=True)
class Serve:
    """Serve many worlds of one model over HTTP and WebSocket.

    Worlds are kept in --worlds: a server that starts again goes on with them. Ctrl-C or SIGTERM ends it gracefully, a
    second one at once.
    """

    model: str = "rooms"
    """A shipped model, a folder, or a hub id."""
    networks: Networks = field(default_factory=ModelOptions)
    """How models are loaded."""
    worlds: Path = Path("mirage-worlds")
    """The folder of worlds."""
    host: str = "127.0.0.1"
    """The address to listen at. Any other than loopback needs a token."""
    port: int = 8400
    """The port to listen at; 0 for any that is free."""
    token_file: File = None
    """A text file with a token of 16 characters or more per line; each has worlds of its own."""
    certificate: File = None
    """TLS certificate chain (PEM), with --key."""
    key: File = None
    """TLS key (PEM)."""
    most: int = 16
    """Worlds that walk with one call of the networks."""
    delay: float = 0.004
    """Seconds that a step waits for those of other worlds."""
    ray: bool = False
    """Serve through replicas on the Ray cluster of RAY_ADDRESS, or on one that is started here. All its machines must
    see the folder --worlds."""
    replicas: int = 0
    """Replicas on the cluster; 0 for one on each GPU, or on each CPU where there is none."""
    idle_seconds: float = 60.0
    """After this a world that nobody uses leaves memory; it comes back when it is asked for."""
    drain_seconds: float = 20.0
    """When the server is asked to end (SIGTERM, Ctrl-C), so long it finishes requests that are being done."""
    max_worlds: int = 20_000
    """Worlds of a token."""
    max_megabytes: int = 4_096
    """Memory of the worlds of a token that are awake."""
    max_steps_per_second: float = 0.0
    """Steps of a token; 0 for as many as there are."""

    def __post_init__(self) -> None:
        if not 0 <= self.port <= 65535:
            raise InvalidOptionError(f"--port: it is {self.port}; give a number from 0 to 65535")
        if not 0.0 <= self.drain_seconds <= 3600.0:
            raise InvalidOptionError(f"--drain-seconds: it is {self.drain_seconds}; give 0 to 3600")
        if min(self.max_worlds, self.max_megabytes) < 1 or self.max_steps_per_second < 0.0:
            raise InvalidOptionError("--max-worlds and --max-megabytes begin at 1, --max-steps-per-second at 0")


@contextlib.contextmanager
def served(options: Serve, open_room: OpenRoom | None = None) -> Iterator[str]:
    """A server that runs until the block ends; gives its address.

    Raises:
        MissingPackageError: the packages of the extra `serve` are not installed.
        InvalidOptionError: the address cannot be listened at, or a token is missing or too short.
        MirageError: the model cannot be loaded.
    """
    try:
        from mirage_env.serving import (
            Address,
            Limits,
            ReplicatedService,
            Service,
            ServiceOptions,
            connect_to_ray,
            read_tokens,
            serving,
        )
    except ImportError as error:
        raise MissingPackageError(f"{error}; pip install 'mirage-env[serve]'") from error
    with blaming("--token-file"):
        tokens = () if options.token_file is None else read_tokens(options.token_file)
    address = Address(options.host, options.port, tokens, options.certificate, options.key)
    limits = Limits(options.max_worlds, options.max_megabytes, options.max_steps_per_second)
    settings = ServiceOptions(
        options.worlds, most=options.most, delay=options.delay, idle_seconds=options.idle_seconds, limits=limits
    )
    load = partial(options.networks.load, options.model)
    service: Service | ReplicatedService = (
        ReplicatedService(connect_to_ray(), load, settings, START_VIEWS, options.replicas, open_room)
        if options.ray
        else Service(load(), settings, START_VIEWS, open_room)
    )
    with serving(service, address, options.drain_seconds) as url:
        yield url
