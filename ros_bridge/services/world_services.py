"""Services of the world node: reset, pause, step, save, load, fork, rollback."""

from __future__ import annotations

from collections.abc import Callable
from typing import Any

from mirage_env.errors import InvalidOptionError
from mirage_env.interfaces import StartView
from ros_bridge import _ros
from ros_bridge.parameters.world_parameters import WorldParameters, local_path
from ros_bridge.player.world_player import WorldPlayer
from ros_bridge.services.trigger_services import Control


class WorldControls:
    """Services and topics to calls of the player.

    Args:
        player: the world.
        options: the parameters as they are now.
        changed: called when the world is another one, or has another past.
    """

    def __init__(
        self, player: WorldPlayer, options: Callable[[], WorldParameters], changed: Callable[[], None]
    ) -> None:
        self._player = player
        self._options = options
        self._changed = changed
        self._next_view: Callable[[], StartView] | None = None

    def all(self) -> list[Control]:
        """List every command of the world."""
        return [
            Control("reset", _ros.Empty, self.reset),
            Control("pause", _ros.Bool, self.pause),
            Control("step", _ros.Empty, self.step),
            Control("save", _ros.String, self.save),
            Control("load", _ros.String, self.load),
            Control("fork", _ros.String, self.fork),
            Control("rollback", _ros.UInt32, self.rollback),
        ]

    def open_view(self, view: StartView) -> str:
        """Open a world with a view."""
        done = self._player.reset(view)
        self._changed()
        return done

    def keep_view(self, view: Callable[[], StartView]) -> None:
        """Keep a view, which is decoded when it is needed, for the next reset."""
        self._next_view = view

    def reset(self, _: Any) -> str:
        view, self._next_view = self._next_view, None
        if view is not None:
            return self.open_view(view())
        done = self._player.reset()
        self._changed()
        return done

    def pause(self, paused: Any) -> str:
        return self._player.pause(bool(paused))

    def step(self, _: Any) -> str:
        return self._player.step()

    def save(self, path: Any) -> str:
        place = local_path("save_path", path or self._options().save_path)
        if place is None:
            raise InvalidOptionError("there is no place to save to; set save_path, or send a path to ~/save_cmd")
        return self._player.save(place)

    def load(self, path: Any) -> str:
        asked = path or self._options().load_path
        source = int(asked) if asked.isdecimal() else local_path("load_path", asked)
        if source is None:
            raise InvalidOptionError(
                "there is nothing to load; set load_path, or send a path or the number of a fork to ~/load_cmd"
            )
        done = self._player.load(source)
        self._changed()
        return done

    def fork(self, path: Any) -> str:
        return self._player.fork(local_path("fork_path", path or self._options().fork_path))

    def rollback(self, chunks: Any) -> str:
        done = self._player.rollback(int(chunks or self._options().rollback_chunks))
        self._changed()
        return done
