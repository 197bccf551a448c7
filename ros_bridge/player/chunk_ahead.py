"""Chunk ahead: the next chunk of a world, generated while the frames of the current one are played."""

from __future__ import annotations

import logging
import math
from collections import deque
from collections.abc import Callable
from concurrent.futures import Future
from typing import Literal

from mirage_env.camera import Camera
from mirage_env.errors import InvalidOptionError, MirageError
from mirage_env.world_model import WorldModel
from mirage_env.world_state import WorldState
from ros_bridge.motion.latest_command import LatestCommand
from ros_bridge.motion.motion_commands import Command, Limits, Progress, is_standing, plan
from ros_bridge.player.played_chunk import Clock, PlayedChunk, PlayedFrame, generate
from ros_bridge.player.statistics import PlayerMeter
from ros_bridge.player.world_thread import WorldThread
from ros_bridge.sensing.camera_mount import AT_CAMERA, CameraMount

LOGGER = logging.getLogger(__name__)


class ChunkAhead(WorldThread):
    """Generates the next chunk of a world for its newest command, and drops it where a newer one has overtaken it.

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
        super().__init__(model)
        self.rate, self.limits = rate, limits
        self._idle, self._clock = idle, clock
        self._mount_of = mount_of
        self.mount = AT_CAMERA
        self._meter = PlayerMeter()
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
        frames = self.model.config.frames_of(before.chunk)
        planned = plan(before.camera, command, frames, self.rate, self.limits, self.mount)
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
            if self._meter.error is not None:
                LOGGER.warning("chunks are generated again, after %d that failed", self._meter.errors)
            self._meter.generated(take.seconds)
            if take.before is not self._now.state or self._is_outdated(take):
                self._meter.dropped += 1
            else:
                self._ahead = take
        elif self._job_order == self._latest.number:  # the goal is where the camera is
            self._stop(None if is_standing(self._next_command()) else Progress(1.0, 0.0, 0.0))

    def _fail(self, error: BaseException) -> None:
        known = self._meter.error
        self._meter.failed(error)
        if self._meter.error != known:  # whoever keeps driving while a server is away is told once
            trace = None if isinstance(error, MirageError) else error
            LOGGER.error("a chunk could not be generated, the world stands: %s", error, exc_info=trace)
        self._failure = error
        self._allowed = 0
        if self._job_order == self._latest.number:
            self._stop()
