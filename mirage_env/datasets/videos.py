"""Frames of a video as a stream, decoded by ffmpeg: all of them, or those nearest to some times."""

from __future__ import annotations

import queue
import re
import subprocess
import threading
from collections.abc import Iterator, Sequence
from contextlib import suppress
from pathlib import Path
from typing import IO, Any, cast

import numpy as np
from numpy.typing import NDArray

from mirage_env.errors import ClipError

TOLERANCE_US = 50_000
"""A frame counts as that of a timestamp if it is at most this far from it: just over one frame at 24 frames/s."""
_SEEK_AHEAD_US = 1_000_000
_END_US = 10**15
_FRAME = re.compile(rb"pts_time:\s*(\S+).* s:(\d+)x(\d+)")
Frame = NDArray[Any]


def video_frames(
    path: str | Path,
    times: NDArray[np.float64] | None = None,  # [N] seconds from the start, increasing
    codes: bool = False,
) -> Iterator[tuple[int, Frame]]:  # microseconds, [H, W, 3]
    """Frames of a video as a stream: those nearest to some times, or all of them.

    Args:
        path: a video that ffmpeg reads.
        times: seconds from the start; all frames without.
        codes: give the numbers of the first plane as they were encoded, uint16 [H, W] in [0, 4095], for what is no
            picture; else RGB.

    Raises:
        ClipError: it cannot be read, or has no frame near one of the times.
    """
    if times is None:
        yield from decoded(Path(path), 0, _END_US, codes)
        return
    wanted = [round(1e6 * float(t)) for t in times]
    yield from zip(wanted, nearest_frames(Path(path), wanted, codes), strict=True)


def count_frames(path: Path) -> int:
    """Number of frames of a video, which is not decoded for it.

    Raises:
        ClipError: it cannot be read.
    """
    from imageio_ffmpeg import count_frames_and_secs

    try:
        return int(count_frames_and_secs(str(path))[0])
    except (RuntimeError, OSError) as error:
        raise ClipError(f"{path} is no video that can be read ({error})") from error


def nearest_frames(path: Path, wanted: Sequence[int], codes: bool = False) -> Iterator[Frame]:
    """Walks through the video once, holding one frame back: the nearer of two neighbours is the one wanted.

    Raises:
        ClipError: it cannot be read, or has no frame within `TOLERANCE_US` of a timestamp.
    """
    left = list(wanted)
    before: tuple[int, Frame] | None = None
    for time, frame in decoded(path, left[0], left[-1], codes):
        while left and before is not None and time >= left[0]:
            nearer = before if left[0] - before[0] <= time - left[0] else (time, frame)
            check_gap(path, left.pop(0), nearer[0])
            yield nearer[1]
        before = (time, frame)
        if not left:
            return
    if before is None:
        raise ClipError(f"{path} is no video that can be read, or ends before {wanted[0]} us")
    for time in left:
        check_gap(path, time, before[0])
        yield before[1]


def check_gap(path: Path, wanted: int, found: int) -> None:
    """Refuse a frame that is too far from the time that was wanted.

    Raises:
        ClipError: more than `TOLERANCE_US` microseconds.
    """
    if abs(wanted - found) > TOLERANCE_US:
        raise ClipError(
            f"{path} has no frame at {wanted} us; the nearest is at {found} us; give the whole video of this list"
        )


def decoded(path: Path, first: int, last: int, codes: bool = False) -> Iterator[tuple[int, Frame]]:
    """(microseconds, frame [H, W, 3] or [H, W]) from a little before `first` to a little after `last`, as shown.

    Raises:
        ClipError: there is no file.
    """
    from imageio_ffmpeg import get_ffmpeg_exe

    if not path.is_file():
        raise ClipError(f"there is no video {path}")
    seek = max(0, first - _SEEK_AHEAD_US)
    source = ["-nostdin", "-ss", f"{seek}us", "-i", str(path), "-map", "0:v:0"]
    # showinfo tells each frame's time and size before the frame itself arrives.
    filters, pixels = ("showinfo,extractplanes=y", "gray12le") if codes else ("showinfo", "rgb24")
    target = ["-vf", filters, "-fps_mode", "passthrough", "-pix_fmt", pixels, "-f", "rawvideo", "-"]
    command = [get_ffmpeg_exe(), "-hide_banner", "-nostats", *source, *target]
    process = subprocess.Popen(command, stdout=subprocess.PIPE, stderr=subprocess.PIPE)
    says: queue.Queue[re.Match[bytes] | None] = queue.Queue()
    listener = threading.Thread(target=_listen, args=(process.stderr, says), daemon=True)
    listener.start()
    try:
        while (told := says.get()) is not None:
            width, height = int(told[2]), int(told[3])
            shape, dtype = ((height, width), np.dtype("<u2")) if codes else ((height, width, 3), np.dtype(np.uint8))
            size = int(np.prod(shape)) * dtype.itemsize
            data = cast(IO[bytes], process.stdout).read(size)
            if len(data) < size:
                return
            time = seek + round(1e6 * float(told[1]))
            yield time, np.frombuffer(data, dtype).reshape(shape)
            if time > last + TOLERANCE_US:
                return
    finally:
        with suppress(ProcessLookupError):
            process.kill()
        process.wait()
        listener.join()
        for pipe in (process.stdout, process.stderr):
            cast(IO[bytes], pipe).close()


def _listen(pipe: IO[bytes], says: queue.Queue[re.Match[bytes] | None]) -> None:
    for line in pipe:
        if found := _FRAME.search(line):
            says.put(found)
    says.put(None)
