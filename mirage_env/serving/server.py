"""Running a world server: address, tokens, TLS, and a graceful end."""

from __future__ import annotations

import contextlib
import logging
import socket
import ssl
import threading
from collections.abc import Iterator
from dataclasses import dataclass, replace
from pathlib import Path

import uvicorn

from mirage_env.errors import InvalidOptionError
from mirage_env.serving.app import LARGEST_BODY, make_app
from mirage_env.serving.draining import DrainingService
from mirage_env.serving.origins import is_loopback
from mirage_env.serving.requests import Answering

logger = logging.getLogger(__name__)


def read_tokens(file: Path) -> tuple[str, ...]:
    """Read a text file of tokens, one in a line.

    Raises:
        InvalidOptionError: it cannot be read, or there is none in it.
    """
    try:
        text = file.expanduser().read_text("utf-8", "replace")
    except OSError as error:
        raise InvalidOptionError(f"{file} cannot be read ({error.strerror}); give a text file") from error
    lines = tuple(line.strip() for line in text.splitlines() if line.strip())
    if not lines:
        raise InvalidOptionError(f"{file} is empty; write a token of 16 characters or more per line")
    return lines


@dataclass(frozen=True)
class Address:
    """Address of a server, and the tokens of those who may use it.

    Raises:
        InvalidOptionError: other machines reach it and there is no token; a certificate without its key.
    """

    host: str = "127.0.0.1"
    port: int = 8400
    tokens: tuple[str, ...] = ()
    certificate: Path | None = None
    key: Path | None = None

    def __post_init__(self) -> None:
        if not is_loopback(self.host) and not self.tokens:
            raise InvalidOptionError(
                f"{self.host} is reached by other machines; give --token-file with a token of at least 16 characters"
            )
        if short := [
            token for token in self.tokens if len(token) < 16 or not token.isascii() or not token.isprintable()
        ]:
            raise InvalidOptionError(
                f"--token-file: {len(short)} of {len(self.tokens)} lines are no token; write 16 or more printable "
                "ASCII characters on each"
            )
        if (self.certificate is None) != (self.key is None):
            raise InvalidOptionError("TLS needs both --certificate and --key")
        if self.certificate is not None and self.key is not None:
            try:
                ssl.create_default_context(ssl.Purpose.CLIENT_AUTH).load_cert_chain(self.certificate, self.key)
            except OSError as error:
                why = error.strerror or error
                raise InvalidOptionError(
                    f"--certificate {self.certificate} and --key {self.key} cannot be used ({why}); give a certificate "
                    "and its key, both PEM"
                ) from error


def server_of(service: DrainingService, address: Address) -> uvicorn.Server:
    """Make a server, not running yet."""
    config = uvicorn.Config(
        make_app(service, address.host, address.tokens),
        address.host,
        address.port,
        ws_max_size=LARGEST_BODY,
        ws_per_message_deflate=False,
        log_level="warning",
        ssl_certfile=address.certificate,
        ssl_keyfile=address.key,
        timeout_graceful_shutdown=2,  # for previews and pages: what changes worlds was drained before
    )
    return uvicorn.Server(config)


@contextlib.contextmanager
def serving(service: Answering, address: Address, drain_seconds: float = 20.0) -> Iterator[str]:
    """Serve in a thread until the block ends; gives the URL. Port 0 takes a free one.

    At the end requests that are being done are finished, for so many seconds at most; new ones are refused, `/ready`
    says so, and all worlds are written.

    Raises:
        InvalidOptionError: the address is taken, or none of this machine's.
    """
    draining = DrainingService(service)
    server = server_of(draining, address)
    with bound(address) as listening:
        thread = threading.Thread(target=server.run, args=([listening],), name="world-server", daemon=True)
        thread.start()
        try:
            while not server.started and thread.is_alive():
                thread.join(0.01)
            scheme = "http" if address.certificate is None else "https"
            yield f"{scheme}://{address.host}:{listening.getsockname()[1]}"
        finally:
            try:
                if not draining.drain(drain_seconds):
                    logger.warning("requests were not finished within %g s and are given up", drain_seconds)
            finally:  # also when somebody cannot wait
                server.should_exit = True
                thread.join()


def free_port(address: Address, tries: int = 20) -> Address:
    """The address with the first port from its own on that nobody listens at.

    Raises:
        InvalidOptionError: none of so many is free, or the host is none of this machine's.
    """
    for port in range(address.port, min(address.port + tries, 65536)):
        with contextlib.suppress(InvalidOptionError), bound(replace(address, port=port)):
            return replace(address, port=port)
    with bound(address):  # says why
        return address


@contextlib.contextmanager
def bound(address: Address) -> Iterator[socket.socket]:
    """A socket that listens at an address.

    Raises:
        InvalidOptionError: the address is taken, or none of this machine's.
    """
    try:
        family, kind, protocol, _, place = socket.getaddrinfo(address.host, address.port, type=socket.SOCK_STREAM)[0]
        with contextlib.ExitStack() as closed_on_error:
            listening = closed_on_error.enter_context(socket.socket(family, kind, protocol))
            listening.setsockopt(socket.SOL_SOCKET, socket.SO_REUSEADDR, 1)
            listening.bind(place)
            closed_on_error.pop_all()
    except OSError as error:
        why = error.strerror or error
        raise InvalidOptionError(
            f"{address.host}:{address.port} cannot be listened at ({why}); give --host an address of this machine"
        ) from error
    with listening:
        yield listening
