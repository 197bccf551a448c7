"""Origins of requests: which web pages may speak to a server of ours."""

from __future__ import annotations

from ipaddress import ip_address
from urllib.parse import urlsplit


def is_own_page(origin: str | None, host: str, listening: str) -> bool:
    """True if a connection comes from the page that this server has sent.

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


def is_loopback(host: str) -> bool:
    """True if only this machine reaches an address."""
    if host == "localhost":
        return True
    try:
        return ip_address(host.strip("[]")).is_loopback
    except ValueError:
        return False
