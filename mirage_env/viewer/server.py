"""The web server: viser's, listening at loopback by default, without its tunnel, and only for its own page."""

from __future__ import annotations

import contextlib
import io
import logging
import socket
from collections.abc import Iterator
from ipaddress import ip_address
from urllib.parse import urlsplit

from viser import ViserServer
from viser.infra import WebsockClientConnection
from websockets.asyncio.server import ServerConnection

from mirage_env.errors import InvalidOptionError

logger = logging.getLogger(__name__)
REFUSED = 1008
"""WebSocket's code for a broken rule."""


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
    # viser greets on standard output; what the user is told is the command line's to say.
    with contextlib.redirect_stdout(io.StringIO()):
        server = LocalServer(host=host, port=port, label="Mirage", verbose=False)
    only_from_own_page(server, host)
    try:
        yield server
    finally:
        with contextlib.redirect_stdout(io.StringIO()):
            server.stop()


def address_of(server: LocalServer) -> str:
    """What to open in a browser."""
    host = server.get_host()
    shown = "localhost" if host in ("0.0.0.0", "::") else f"[{host}]" if ":" in host else host
    return f"http://{shown}:{server.get_port()}"


def is_own_page(origin: str | None, host: str, listening: str) -> bool:
    """Whether a connection comes from the page that this server has sent.

    Browsers let every web page connect to every WebSocket and say which page it is. Without this check any site that
    is open in the user's browser could drive and save worlds. Programs that are no browser send no origin.

    Args:
        origin: the `Origin` header.
        host: the `Host` header.
        listening: the address that the server listens at.
    """
    if origin is None:
        return True
    # A name that points to loopback only now (DNS rebinding) would make a foreign page look like ours.
    named = urlsplit(f"//{host}").hostname or ""
    return urlsplit(origin).netloc == host and (is_loopback(named) or not is_loopback(listening))


def only_from_own_page(server: LocalServer, listening: str) -> None:
    """Close connections from other pages before a message of theirs is read."""
    sockets = server._websock_server  # viser has no public way to see the request of a connection

    async def check(connection: WebsockClientConnection) -> None:
        live: ServerConnection = sockets._live_connections[connection.client_id]
        request = live.request
        origin, host = (
            (None, "") if request is None else (request.headers.get("Origin"), request.headers.get("Host", ""))
        )
        if not is_own_page(origin, host, listening):
            logger.warning("a page of %s tried to connect and was refused", origin)
            await live.close(REFUSED, "only the viewer's own page may connect")

    sockets.on_client_connect(check)


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


def is_loopback(host: str) -> bool:
    """Whether only this machine reaches an address."""
    if host == "localhost":
        return True
    try:
        return ip_address(host.strip("[]")).is_loopback
    except ValueError:
        return False
