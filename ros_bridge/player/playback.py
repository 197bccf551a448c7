"""Play frames at a steady rate, with one chunk generated ahead.

One thread, the world's, does all that uses the networks or the store, one job after the other: the order of jobs is the
order of events, and networks are never used twice at once. What is played lies behind one lock that is held only for
moments.
"""

from __future__ import annotations

import logging
import math
import threading
from collections import deque
from collections.abc import Callable, Sequence
from concurrent.futures import Future, ThreadPoolExecutor
from dataclasses import replace
from typing import Literal, NoReturn, TypeVar

from mirage_env.camera import Camera
from mirage_env.errors import InvalidOptionError, WorldFailedError
from mirage_env.world_model import WorldModel, WorldState
from ros_bridge.player.cache_log import CacheLog
from ros_bridge.player.latest_command import LatestCommand
from ros_bridge.player.motion_commands import Command, Limits, Progress, is_standing, plan
from ros_bridge.player.played_chunk import Clock, PlayedChunk, PlayedFrame, generate
from ros_bridge.player.statistics import PlayerMeter
from ros_bridge.sensing.camera_mount import AT_CAMERA, CameraMount

LOGGER = logging.getLogger(__name__)
ResultT = TypeVar("ResultT")


class Playback:
    """Plays one world by commands. `WorldPlayer`, which opens and changes worlds, says what all of it means.

    Args:
        model: the networks.
        rate: frames per second.
        limits: largest speeds, and how long a velocity holds.
        idle: what a standing camera does.
        history: how many worlds of the past are kept.
        clock: seconds.
        mount_of: mount of a world's camera on the body, called where a world is opened; `AT_CAMERA` without it.

    Raises:
        InvalidOptionError: a rate that is not positive, another `idle`, or no history.
    """

    def __init__(
        self,
        model: WorldModel,
        rate: float,
        limits: Limits,
        idle: Literal["hold", "generate"],
        history: int,
        clock: Clock,
        mount_of: Callable[[Camera], CameraMount] | None = None,
    ) -> None:
        if not 0.0 < rate < math.inf:
            raise InvalidOptionError(f"rate is {rate}; give frames per second, a positive number")
        if idle not in ("hold", "generate") or history < 1:
            raise InvalidOptionError(f"idle is {idle!r} and history {history}; give hold or generate, and at least 1")
        self.model, self.rate, self.limits = model, rate, limits
        self._idle, self._clock = idle, clock
        self._mount_of = mount_of
        self.mount = AT_CAMERA
        self._meter = PlayerMeter()
        self._changed = threading.Condition()  # the lock of everything here
        self._worker: ThreadPoolExecutor | None = None
        self._closed = False
        self._log: CacheLog | None = None
        self._failure: BaseException | None = None  # not raised yet
        self._now: PlayedChunk
        self._cursor = 0  # next frame of _now
        self._shown: PlayedFrame
        self._standing = True
        self._past: deque[WorldState] = deque(maxlen=history)
        self._ahead: PlayedChunk | None = None
        self._job: Future[PlayedChunk | None] | None = None
        self._job_order = 0
        self._latest = LatestCommand()
        self._paused = False
        self._playing_out = False  # while paused: the frames of _now may be shown
        self._allowed = 0  # while paused: chunks that may begin
        self._begun = 0
        self._worlds = 0  # how often the world was replaced
        self._busy = 0  # jobs that are to replace the world

    @property
    def state(self) -> WorldState:
        """The world as of the end of the chunk that plays."""
        with self._changed:
            self._check_running()
            return self._now.state

    @property
    def paused(self) -> bool:
        return self._paused

    @property
    def time_runs(self) -> bool:
        """Test for time that goes on: the world plays, or plays out a step while it is paused."""
        with self._changed:
            playing = self._playing_out and self._cursor < len(self._now.frames)
            return not self._paused or playing or self._allowed > 0

    def command(self, command: Command) -> None:
        """Set the motion from the next chunk on; the newest command wins. Never waits.

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
        if self._log is not None:
            self._log.hand()
            self._submit(self._log.append, take).add_done_callback(self._log.settle)
        self._changed.notify_all()

    def _review(self) -> None:
        """Drop the chunk ahead where a new command has overtaken it."""
        if self._ahead is not None and self._is_outdated(self._ahead):
            self._drop()

    def _drop(self) -> None:
        self._ahead = None
        self._meter.dropped += 1

    def _stop(self, progress: Progress | None = None) -> None:
        self._latest.stop(progress)
        self._review()

    def _expire(self, now: float) -> None:
        if self._latest.expire(now):
            self._review()

    def _is_outdated(self, take: PlayedChunk) -> bool:
        """Test for a chunk ahead that has lost its command and must, or can in time, be generated anew."""
        if take.order == self._latest.number:
            return False
        return self._latest.stands or self._time_left() > self._meter.latency

    def _time_left(self) -> float:
        """Seconds until the next chunk is due."""
        if self._paused:
            return 0.0 if self._allowed else math.inf
        return (len(self._now.frames) - self._cursor) / self.rate

    def _next_command(self) -> Command:
        return self._now.plan.left if self._now.order == self._latest.number else self._latest.command

    def _is_moving(self) -> bool:
        return self._idle == "generate" or not is_standing(self._next_command())

    def _pump(self) -> None:
        """Have the next chunk generated, if there is to be one."""
        if self._closed or self._busy or self._job is not None or self._ahead is not None:
            return
        stands = is_standing(self._next_command())
        if stands and not self._allowed and (self._idle == "hold" or self._failure is not None):
            return  # nothing to do; what has failed is not tried again until somebody asks for it
        if self._paused and not self._allowed:
            return
        self._job = self._submit(self._generate)
        self._job.add_done_callback(self._generated)

    def _generate(self) -> PlayedChunk | None:
        """In the world's thread: the next chunk; None where it would show nothing new."""
        with self._changed:
            self._expire(self._clock())
            before, command = self._now.state, self._next_command()
            order = self._job_order = self._latest.number
            may_stand = self._allowed > 0 or self._idle == "generate"
        planned = plan(before.camera, command, self.model.config.frames_per_chunk, self.rate, self.limits, self.mount)
        if not may_stand and not planned.moves(before.camera):
            return None
        return generate(self.model, before, planned, order, self._clock)

    def _generated(self, job: Future[PlayedChunk | None]) -> None:
        with self._changed:
            self._job = None
            if self._closed or job.cancelled():
                return
            error = job.exception()
            if error is not None:
                self._fail(error)
            else:
                self._take(job.result())
            self._changed.notify_all()
            self._pump()

    def _take(self, take: PlayedChunk | None) -> None:
        if take is not None:
            self._meter.generated(take.seconds)
            if take.before is not self._now.state or self._is_outdated(take):
                self._meter.dropped += 1
            else:
                self._ahead = take
        elif self._job_order == self._latest.number:  # the goal is where the camera is
            self._stop(None if is_standing(self._next_command()) else Progress(1.0, 0.0, 0.0))

    def _fail(self, error: BaseException) -> None:
        LOGGER.error("a chunk could not be generated, the world stands: %s", error, exc_info=error)
        self._meter.failed(error)
        self._failure = error
        self._allowed = 0
        if self._job_order == self._latest.number:
            self._stop()

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

    def _change_log(self, log: CacheLog | None) -> None:
        self._close_log()
        self._log = log

    def _close_log(self) -> Future[None] | None:
        """Have the cache closed when it has taken what was handed to it."""
        if self._log is None:
            return None
        closing = self._submit(self._log.close)
        closing.add_done_callback(self._log.settle)
        return closing

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

    def _submit(self, job: Callable[..., ResultT], *arguments: PlayedChunk) -> Future[ResultT]:
        if self._worker is None:
            raise WorldFailedError("the player is not running; start it first")
        return self._worker.submit(job, *arguments)

    def _check_running(self) -> None:
        if self._worker is None or self._closed:
            raise WorldFailedError(f"the player is {'closed' if self._closed else 'not started'}; start a new one")

    def _raise_failure(self) -> NoReturn:
        failure, self._failure = self._failure, None
        raise WorldFailedError(
            f"the world stands since a chunk could not be generated ({self._meter.error}); to try again, give the "
            "command again"
        ) from failure
