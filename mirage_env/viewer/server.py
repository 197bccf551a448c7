"""The web server: viser's, listening at loopback by default, without its tunnel, and only for its own page."""

from __future__ import annotations

import contextlib
import http
import io
import logging
import socket
from collections.abc import Callable, Iterator
from typing import Any

import websockets.asyncio.server
from viser import ViserServer
from websockets.asyncio.server import ServerConnection
from websockets.http11 import Request, Response

from mirage_env.errors import InvalidOptionError
from mirage_env.files import printable
from mirage_env.serving.origins import is_own_page

logger = logging.getLogger(__name__)
HEADERS = {
    "Content-Security-Policy": "frame-ancestors 'none'",
    "X-Frame-Options": "DENY",
    "X-Content-Type-Options": "nosniff",
    "Cross-Origin-Resource-Policy": "same-origin",
}
"""Of every answer: no other page may show the viewer in a frame and lead clicks to it."""
Answer = Callable[[ServerConnection, Request], Response | None]
"""What answers a request before the WebSocket opens; None opens it."""


class LocalServer(ViserServer):
    """A viser server that cannot be shared to the internet from the page.

    (Any page that is connected may ask viser for a public tunnel, whether the button for it is shown or not.)
    """

    def request_share_url(self, verbose: bool = True) -> str | None:
        logger.warning("a browser asked for a public address; this viewer has none")
        return None


@contextlib.contextmanager
def serving(host: str, port: int) -> Iterator[LocalServer]:
    """A server that runs until the block ends.

    Raises:
        InvalidOptionError: the address is none of this machine's.
    """
    _check_address(host)
    # viser greets on standard output; the command line prints the address.
    with contextlib.redirect_stdout(io.StringIO()), only_from_own_page(host):
        server = LocalServer(host=host, port=port, label="Mirage", verbose=False)
    try:
        yield server
    finally:
        with contextlib.redirect_stdout(io.StringIO()):
            server.stop()


def address_of(server: LocalServer) -> str:
    """Address of the page."""
    host = server.get_host()
    shown = "localhost" if host in ("0.0.0.0", "::") else f"[{host}]" if ":" in host else host
    return f"http://{shown}:{server.get_port()}"


@contextlib.contextmanager
def only_from_own_page(listening: str) -> Iterator[None]:
    """Let servers that start within the block refuse other pages in the handshake, before a message of theirs is read.

    viser has no way to give its server a check, so what it starts servers with is replaced meanwhile.

    Args:
        listening: the address that the server listens at.
    """
    serve = websockets.asyncio.server.serve

    def guarded_serve(*arguments: Any, process_request: Answer, **options: Any) -> Any:
        return serve(*arguments, process_request=_guarded(process_request, listening), **options)

    setattr(websockets.asyncio.server, "serve", guarded_serve)  # noqa: B010 - to its annotations it is a class
    try:
        yield
    finally:
        setattr(websockets.asyncio.server, "serve", serve)  # noqa: B010


def _guarded(answer: Answer, listening: str) -> Answer:
    def check(connection: ServerConnection, request: Request) -> Response | None:
        origin, host = request.headers.get("Origin"), request.headers.get("Host", "")
        if not is_own_page(origin, host, listening):
            logger.warning("a page of %s tried to connect and was refused", printable(origin or "nowhere"))
            return connection.respond(http.HTTPStatus.FORBIDDEN, "only the viewer's own page may connect\n")
        response = answer(connection, request)
        if response is not None:
            for name, value in HEADERS.items():
                response.headers[name] = value
        return response

    return check


def _check_address(host: str) -> None:
    # viser looks for another port for ever where the address itself is the trouble.
    try:
        family, kind, protocol, _, place = socket.getaddrinfo(host, 0, type=socket.SOCK_STREAM)[0]
        with socket.socket(family, kind, protocol) as probe:
            probe.bind(place)
    except OSError as error:
        raise InvalidOptionError(
            f"--host: {host!r} is no address of this machine ({error}); give 127.0.0.1, 0.0.0.0 or one of its own"
        ) from error
