"""`mirage view`: from its options to a page that runs."""

from __future__ import annotations

import contextlib
import logging
import os
import sys
import webbrowser
from collections.abc import Iterator
from pathlib import Path

from mirage_env.commands.checks import saved_world
from mirage_env.commands.view_options import View
from mirage_env.errors import InvalidImageError, MissingPackageError
from mirage_env.files import read_regular
from mirage_env.files.pictures import MOST_BYTES
from mirage_env.interfaces import OpenRoom
from mirage_env.models.world_model_loader import shipped_models
from mirage_env.serving.origins import is_loopback
from mirage_env.viewer.cache_folder import CacheFolder
from mirage_env.viewer.session import Session
from mirage_env.viewer.world_sources import Openings
from mirage_env.viz.walk_page import has_display

logger = logging.getLogger(__name__)
DEFAULT_MODEL, DEFAULT_SEED = "rooms", 7


@contextlib.contextmanager
def viewing(options: View, open_room: OpenRoom) -> Iterator[str]:
    """A page that is served until the block ends; gives its address.

    Raises:
        MissingPackageError: viser is not installed.
        MirageError: the world cannot be opened, or the options cannot be used.
    """
    try:
        from mirage_env.viewer.page import Page
        from mirage_env.viewer.server import address_of, serving
    except ImportError as error:
        raise MissingPackageError("the viewer needs viser; pip install 'mirage-env[viewer]'") from error
    session = session_of(options, open_room)
    try:
        with serving(options.host, options.port) as server:
            page = Page(server, session)
            try:
                session.warm()
                if not is_loopback(options.host):
                    logger.warning("everybody who reaches %s can see and drive the worlds, and save some", options.host)
                if not options.no_browser and has_display(os.environ, sys.platform):
                    webbrowser.open(address_of(server))
                yield address_of(server)
            finally:
                page.close()
    finally:
        session.close()


def session_of(options: View, open_room: OpenRoom) -> Session:
    """A session in which the world that was asked for is open.

    Raises:
        MirageError: it cannot be opened.
    """
    given = options.model
    shipped = shipped_models()
    models = [given or DEFAULT_MODEL, *(name for name in shipped if name != (given or DEFAULT_MODEL))]
    session = Session(Openings(models, options.networks.load, open_room), CacheFolder(options.caches))
    with contextlib.ExitStack() as stack:
        stack.callback(session.close)
        if options.world is not None:
            session.open_cache(saved_world(options.world), given, options.seed).result()
        elif options.image is not None:
            session.open_image(_bytes(options.image), options.seed or 0, models[0]).result()
        else:
            session.open_room(DEFAULT_SEED if options.seed is None else options.seed, models[0]).result()
        stack.pop_all()
    return session


def _bytes(image: Path) -> bytes:
    try:
        return read_regular(image, MOST_BYTES)
    except OSError as error:
        raise InvalidImageError(f"--image: {image} cannot be read ({error})") from error
