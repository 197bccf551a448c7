"""`mirage view`: from its options to a page that runs."""

from __future__ import annotations

import contextlib
import logging
import os
import secrets
import sys
import tempfile
import webbrowser
from collections.abc import Iterator
from pathlib import Path
from urllib.parse import quote

from mirage_env.commands.checks import saved_world
from mirage_env.commands.serve import START_VIEWS
from mirage_env.commands.view_options import View
from mirage_env.errors import InvalidImageError, InvalidOptionError, MissingPackageError
from mirage_env.files import read_regular
from mirage_env.files.pictures import MOST_BYTES
from mirage_env.interfaces import OpenRoom
from mirage_env.models.world_model_loader import shipped_models
from mirage_env.viz.walk_page import has_display

logger = logging.getLogger(__name__)
DEFAULT_MODEL, DEFAULT_SEED = "rooms", 7


@contextlib.contextmanager
def viewing(options: View, open_room: OpenRoom) -> Iterator[str]:
    """A page that is served until the block ends; gives its address.

    Raises:
        MissingPackageError: the packages of the extra `serve` are not installed.
        MirageError: the world cannot be opened, or the options cannot be used.
    """
    try:
        from mirage_env.serving import Address, Client, Service, ServiceOptions, serving
        from mirage_env.serving.app import owner_of
        from mirage_env.serving.origins import is_loopback
        from mirage_env.serving.server import free_port
    except ImportError as error:
        raise MissingPackageError(f"{error}; the viewer is a server: pip install 'mirage-env[viewer]'") from error
    if options.server is not None:
        Client(options.server, options.token).close()  # says if nobody is there
        yield _opened(options, options.server, options.token)
        return
    token = "" if is_loopback(options.host) else secrets.token_urlsafe(16)
    address = free_port(Address(options.host, options.port, (token,) if token else ()))
    place = None if options.world is None else saved_world(options.world)
    photo = b"" if options.image is None else _bytes(options.image)
    room = None if photo else DEFAULT_SEED if place is None and options.seed is None else options.seed
    model = options.networks.load(options.model or (DEFAULT_MODEL if place is None else _model_of(place)))
    with tempfile.TemporaryDirectory(prefix="mirage-view-") as folder:
        service = Service(model, ServiceOptions(Path(folder), saved=options.caches), START_VIEWS, open_room)
        service.open_first(owner_of(token), room, photo, place, options.camera_height)
        with serving(service, address) as url:
            yield _opened(options, url, token)


def _opened(options: View, url: str, token: str | None) -> str:
    """The address of the page, which a browser is led to where there is one."""
    page = f"{url.rstrip('/')}/#{quote(token, safe='')}" if token else url
    if not options.no_browser and has_display(os.environ, sys.platform):
        webbrowser.open(page)
    return page


def _model_of(place: Path) -> str:
    """The shipped model that wrote a saved world.

    Raises:
        StoreError: it cannot be read.
        InvalidOptionError: another model wrote it.
    """
    from mirage_env.store import open_cache

    written_by = open_cache(place).model
    if written_by not in shipped_models():
        raise InvalidOptionError(f"{place} was written by the model {written_by!r}; give --model and its folder")
    return written_by


def _bytes(image: Path) -> bytes:
    try:
        return read_regular(image, MOST_BYTES)
    except OSError as error:
        raise InvalidImageError(
            f"--image: {image} cannot be read ({error.strerror}); give a JPEG or PNG that is there"
        ) from error
