"""Play frames at a steady rate, with one chunk generated ahead.

What is played lies behind one lock that is held only for moments; what takes longer is done in the world's thread.
"""

from __future__ import annotations

from collections.abc import Callable, Sequence
from dataclasses import replace
from typing import NoReturn, TypeVar

from mirage_env.camera import Camera
from mirage_env.errors import InvalidOptionError, WorldFailedError
from mirage_env.world_state import WorldState
from ros_bridge.motion.motion_commands import Command, Progress, Stop, is_standing
from ros_bridge.player.cache_log import CacheLog
from ros_bridge.player.chunk_ahead import ChunkAhead
from ros_bridge.player.played_chunk import PlayedChunk, PlayedFrame

ResultT = TypeVar("ResultT")


class Playback(ChunkAhead):
    """Plays one world by commands. `WorldPlayer`, which opens and changes worlds, says what all of it means."""

    @property
    def state(self) -> WorldState:
        """The world as of the end of the chunk that plays."""
        with self._changed:
            self._check_running()
            return self._now.state

    @property
    def shown_camera(self) -> Camera:
        """Camera of the frame that was handed out last."""
        with self._changed:
            self._check_running()
            return self._now.frames[max(0, self._cursor - 1)].camera

    @property
    def paused(self) -> bool:
        return self._paused

    @property
    def time_runs(self) -> bool:
        """Test for time that goes on: the world plays, or plays out a step while it is paused."""
        with self._changed:
            playing = self._playing_out and self._cursor < len(self._now.frames)
            return not self._paused or playing or self._allowed > 0

    def command(self, command: Command) -> int:
        """Set the motion from the next chunk on; the newest command wins. Never waits. Returns its number.

        Raises:
            WorldFailedError: a chunk could not be generated since the last command (raised once; this command is not
                taken either, and a stop is taken and raises nothing), or the player is not running.
        """
        with self._changed:
            self._check_running()
            if self._failure is not None and not is_standing(command):
                self._raise_failure()
            if self._latest.give(command, self._clock(), self.limits.timeout):
                self._review()
            self._pump()
            return self._latest.number

    def progress_of(self, number: int) -> Progress | None:
        """Progress of a goal or path by the number of its command; None where another command has replaced it.

        One that has not begun has metres and radians `inf` to go.
        """
        with self._changed:
            return self._latest.progress_of(number)

    def stop(self, number: int) -> None:
        """Stop a command by its number; another one that has replaced it goes on."""
        with self._changed:
            if self._latest.number == number and not self._latest.stands:
                self.command(Stop())

    def next_frame(self) -> PlayedFrame:
        """The frame to show now, to be called at `rate`. Never waits.

        The last frame again, with `held` set, while the camera stands or begins to move; with `late` set, too, where
        the next chunk of a movement is not ready.

        Raises:
            WorldFailedError: the player is not running.
        """
        with self._changed:
            self._check_running()
            now = self._clock()
            self._expire(now)
            frame = self._next()
            self._meter.asked(now, frame.held, frame.late)
            self._pump()
            return frame

    def pause(self, paused: bool = True) -> str:
        """Hold the picture at once, or go on. Commands are taken meanwhile; velocities expire as always."""
        with self._changed:
            if paused != self._paused:
                self._paused, self._playing_out, self._allowed = paused, False, 0
                self._changed.notify_all()
                if self._worker is not None:
                    self._pump()
            return "paused" if paused else "goes on"

    def step(self) -> str:
        """While paused: play what is left of the current chunk and one more. Returns when that is generated.

        Without a command that moves, the camera stands for that chunk.

        Raises:
            InvalidOptionError: not paused.
            WorldFailedError: the chunk could not be generated, or the player is not running.
        """
        with self._changed:
            self._check_running()
            if not self._paused:
                raise InvalidOptionError("a step was asked for while the world plays; pause it first")
            self._playing_out, self._allowed = True, self._allowed + 1
            began, worlds, errors = self._begun, self._worlds, self._meter.errors
            self._pump()
            self._changed.wait_for(
                lambda: (
                    self._ahead is not None
                    or self._begun > began
                    or self._meter.errors > errors
                    or self._worlds > worlds
                    or not self._paused
                    or self._closed
                )
            )
            if self._meter.errors > errors:
                self._raise_failure()
            self._check_running()
            if self._worlds > worlds:
                return "the world was replaced meanwhile; step again"
            return f"chunk {self._now.state.chunk + (self._begun == began)} plays"

    def _next(self) -> PlayedFrame:
        fresh = self._cursor < len(self._now.frames)
        if fresh and (not self._paused or self._playing_out or self._cursor == 0):  # a new view is shown in any case
            return self._show()
        free = not fresh and not self._busy
        if free and self._ahead is not None and (not self._paused or self._allowed):
            self._begin(self._ahead)
            return self._show()
        if free and not self._paused and not self._standing and self._is_moving():
            return replace(self._shown, held=True, late=True)
        self._standing = True
        return replace(self._shown, held=True)

    def _show(self) -> PlayedFrame:
        self._shown = self._now.frames[self._cursor]
        self._cursor += 1
        self._standing = self._now.before is None
        if self._now.order == self._latest.number:
            self._latest.progress = self._shown.progress
        return self._shown

    def _begin(self, take: PlayedChunk) -> None:
        """Begin to play a chunk; from here on it counts."""
        self._past.append(self._now.state)
        self._now, self._cursor, self._ahead = take, 0, None
        self._begun += 1
        self._allowed = max(0, self._allowed - 1)
        self._store_chunk(take)
        self._changed.notify_all()

    def _replace(self, take: PlayedChunk, log: CacheLog | None, past: Sequence[WorldState] = ()) -> None:
        """Another world, standing."""
        with self._changed:
            self._change_log(log)
            if self._ahead is not None:
                self._drop()
            if self._mount_of is not None:
                self.mount = self._mount_of(take.state.camera)
            self._now, self._cursor, self._standing, self._failure = take, 0, True, None
            self._past.clear()
            self._past.extend(past)
            self._allowed = 0
            self._worlds += 1
            self._stop()
            self._changed.notify_all()

    def _run(self, job: Callable[[], ResultT]) -> ResultT:
        """Do a job in the world's thread while the picture holds; its result, or its error."""
        with self._changed:
            self._check_running()
            future = self._submit(job)
            self._busy += 1
        try:
            return future.result()
        finally:
            with self._changed:
                self._busy -= 1
                self._pump()

    def _raise_failure(self) -> NoReturn:
        failure, self._failure = self._failure, None
        raise WorldFailedError(
            f"the world stands since a chunk could not be generated ({self._meter.error}); to try again, give the "
            "command again"
        ) from failure
