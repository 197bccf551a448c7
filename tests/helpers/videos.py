"""Videos as ffmpeg reads them."""

import re
import subprocess

import numpy as np
from imageio_ffmpeg import get_ffmpeg_exe, write_frames


def read_video(path):
    """What ffmpeg says about a video, and its frames."""
    command = [get_ffmpeg_exe(), "-i", path, "-f", "rawvideo", "-pix_fmt", "rgb24", "-"]
    done = subprocess.run(command, capture_output=True, check=True)
    about = next(line for line in done.stderr.decode().splitlines() if "Video: h264" in line)
    width, height = map(int, re.search(r", (\d+)x(\d+)", about).groups())
    return about, np.frombuffer(done.stdout, np.uint8).reshape(-1, height, width, 3)


def write_mp4(path, frames, rate):
    """An mp4 of frames [N, H, W, 3] as they are, with even sides."""
    height, width = frames.shape[1:3]
    writer = write_frames(str(path), (width, height), fps=rate, macro_block_size=2, quality=10, pix_fmt_out="yuv444p")
    writer.send(None)
    for frame in frames:
        writer.send(np.ascontiguousarray(frame))
    writer.close()


def write_depth_video(path, codes, rate):
    """A video of numbers [N, H, W] of 12 bits without loss, as LeRobot encodes depth."""
    size = f"{codes.shape[2]}x{codes.shape[1]}"
    source = ["-f", "rawvideo", "-pix_fmt", "gray12le", "-s", size, "-r", str(rate), "-i", "-"]
    target = ["-c:v", "libx265", "-x265-params", "lossless=1:log-level=none", "-pix_fmt", "gray12le", str(path)]
    command = [get_ffmpeg_exe(), "-loglevel", "error", "-y", *source, *target]
    subprocess.run(command, input=codes.astype("<u2").tobytes(), check=True)
