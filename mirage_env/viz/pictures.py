"""Videos, contact sheets, and maps of a memory from above. All images are uint8 RGB."""

from __future__ import annotations

import subprocess
import textwrap
from collections.abc import Callable, Iterable, Sequence
from contextlib import AbstractContextManager
from pathlib import Path
from types import TracebackType
from typing import IO, Self, cast

import numpy as np
from numpy.typing import NDArray
from PIL import Image, ImageDraw, ImageFont

from mirage_env.camera import Camera, up_direction
from mirage_env.errors import InvalidImageError, InvalidOptionError, MissingPackageError
from mirage_env.export.latent_colors import Palette
from mirage_env.interfaces import LatentCodec
from mirage_env.memory.latent import LatentMemory
from mirage_env.tokens.blocks import MemoryBlock

Picture = NDArray[np.uint8]
Colour = tuple[int, int, int]
VIDEO_SIDE = 384
"""Short side that small frames are enlarged to in a video, pixels (by a whole factor)."""
UNSEEN = (232, 148, 60)
"""Colour of what the memory does not know."""
BLANK = 60
"""Grey of what the memory does not know."""
OLDEST, NEWEST = (72, 40, 120), (253, 220, 60)
BACKGROUND, INK = (250, 250, 248), (40, 40, 44)
HEADROOM = 0.3
"""A map leaves out what lies this far above the highest camera, metres: ceilings hide rooms."""
LABEL_WIDTH, MARGIN = 112, 6


class VideoWriter(AbstractContextManager["VideoWriter"]):
    """Writes frames to an H.264 mp4 as they come, with the ffmpeg that imageio-ffmpeg brings.

    Small frames are enlarged by a whole factor; sizes that are odd afterwards get a border row or column. What was
    written is playable once the block ends, also when it ends by an exception.

    Raises:
        InvalidOptionError: a frame rate that is not positive.
        InvalidImageError: frames that are not uint8 [N, H, W, 3], all of one size.
        OSError: ffmpeg could not write the file.
    """

    def __init__(self, path: str | Path, fps: float) -> None:
        if not fps > 0.0:
            raise InvalidOptionError(f"frame rate is {fps}; give a positive number of frames per second")
        self._path = Path(path)
        self._fps = fps
        self._size: tuple[int, ...] | None = None

    def __exit__(
        self, kind: type[BaseException] | None, error: BaseException | None, trace: TracebackType | None
    ) -> None:
        if self._size is not None:
            _, says = self._ffmpeg.communicate()
            if self._ffmpeg.returncode and (error is None or isinstance(error, BrokenPipeError)):
                reason = says.decode(errors="replace").strip()
                raise OSError(f"ffmpeg could not write {self._path}: {reason}") from error

    def write(self, frames: Picture) -> Self:  # [N, H, W, 3]
        """Add frames."""
        if frames.ndim != 4 or frames.shape[-1] != 3 or frames.dtype != np.uint8 or not frames.size:
            raise InvalidImageError(f"frames are {frames.dtype}{list(frames.shape)}; give uint8 [N, H, W, 3]")
        if self._size is None:
            self._open(frames.shape[1:3])
        if frames.shape[1:3] != self._size:
            raise InvalidImageError(f"a frame is {frames.shape[1:3]} in a video of {self._size}; keep one size")
        for frame in frames:
            large = enlarge(frame, self._factor)
            even = np.pad(large, [(0, large.shape[0] % 2), (0, large.shape[1] % 2), (0, 0)], mode="edge")
            self._pipe.write(even.tobytes())
        return self

    def _open(self, size: tuple[int, ...]) -> None:
        get_ffmpeg_exe = _ffmpeg_finder()
        self._size = size
        self._factor = max(1, round(VIDEO_SIDE / min(size)))
        height, width = (n * self._factor + n * self._factor % 2 for n in size)
        source = f"-f rawvideo -pix_fmt rgb24 -s {width}x{height} -r {self._fps} -i -".split()
        target = ["-an", "-c:v", "libx264", "-crf", "18", "-pix_fmt", "yuv420p", "-movflags", "+faststart", "-f", "mp4"]
        # imageio's own writer kills ffmpeg on Ctrl-C and loses the video; in a session of its own it gets no signal.
        self._ffmpeg = subprocess.Popen(
            [get_ffmpeg_exe(), "-y", "-v", "error", *source, *target, str(self._path)],
            stdin=subprocess.PIPE,
            stdout=subprocess.DEVNULL,
            stderr=subprocess.PIPE,
            start_new_session=True,
        )
        self._pipe = cast(IO[bytes], self._ffmpeg.stdin)


def _ffmpeg_finder() -> Callable[[], str]:
    try:
        from imageio_ffmpeg import get_ffmpeg_exe
    except ModuleNotFoundError as error:
        raise MissingPackageError("a video needs imageio-ffmpeg; pip install 'mirage-env[pictures]'") from error
    return get_ffmpeg_exe


def write_video(path: str | Path, frames: Picture, fps: float) -> None:  # [N, H, W, 3]
    """Write a whole video (`VideoWriter`)."""
    with VideoWriter(path, fps) as video:
        video.write(np.asarray(frames))


def enlarge(image: Picture, factor: int) -> Picture:  # [H, W, 3] -> [H * factor, W * factor, 3]
    """Enlarge by a whole factor, smoothly."""
    if factor == 1:
        return image
    size = (image.shape[1] * factor, image.shape[0] * factor)
    return np.asarray(Image.fromarray(image).resize(size, Image.Resampling.LANCZOS))


def mark_unseen(frame: Picture, observed: NDArray[np.floating]) -> Picture:  # [H, W, 3], [h, w] -> [H, W, 3]
    """Tint the cells that the memory did not know."""
    stride = frame.shape[0] // observed.shape[0]
    unseen = np.kron(1.0 - observed, np.ones((stride, stride)))[..., None]
    return (frame * (1.0 - 0.5 * unseen) + np.array(UNSEEN) * 0.5 * unseen).round().astype(np.uint8)


def blank_unseen(frame: Picture, observed: NDArray[np.floating]) -> Picture:  # [H, W, 3], [h, w] -> [H, W, 3]
    """The frame, grey in the cells that the memory did not know."""
    stride = frame.shape[0] // observed.shape[0]
    seen = np.kron(observed > 0.0, np.ones((stride, stride)))[..., None]
    return (frame * seen + BLANK * (1.0 - seen)).astype(np.uint8)


def contact_sheet(
    rows: Sequence[tuple[str, Sequence[Picture]]],  # label, frames [H, W, 3]
    columns: int = 12,
    scale: int = 1,
) -> Picture:
    """Rows of frames under each other, each row with its label; at most `columns` evenly spread frames of a row.

    Raises:
        InvalidImageError: no frames, rows of different lengths, or frames of different sizes.
        InvalidOptionError: `columns` or `scale` below 1.
    """
    if columns < 1 or scale < 1:
        raise InvalidOptionError(f"columns is {columns} and scale {scale}; both must be at least 1")
    lengths, sizes = {len(frames) for _, frames in rows}, {f.shape for _, frames in rows for f in frames}
    if len(lengths) != 1 or len(sizes) != 1:
        raise InvalidImageError(
            f"the rows of a contact sheet have {sorted(lengths)} frames of sizes {sorted(sizes)}; give every row the "
            "same number of frames, at least one, all of one size"
        )
    count, (height, width, _) = lengths.pop(), sizes.pop()
    picked = np.unique(np.linspace(0, count - 1, min(columns, count)).round().astype(int))
    tile_height, tile_width = scale * height + MARGIN, scale * width + MARGIN
    size = (LABEL_WIDTH + len(picked) * tile_width + MARGIN, len(rows) * tile_height + MARGIN)
    sheet = Image.new("RGB", size, BACKGROUND)
    draw = ImageDraw.Draw(sheet)
    for r, (label, frames) in enumerate(rows):
        top = MARGIN + r * tile_height
        draw.multiline_text((MARGIN, top), textwrap.fill(label, 15), INK, font=_font(12))
        for c, index in enumerate(picked):
            sheet.paste(Image.fromarray(enlarge(frames[index], scale)), (LABEL_WIDTH + c * tile_width, top))
    return np.asarray(sheet)


def feature_colours(features: NDArray[np.floating], codec: LatentCodec) -> Picture:  # [N, C] -> [N, 3]
    """The colour each feature stands for: the mean colour of a patch decoded from it (`Palette`)."""
    return Palette(codec).colours(features.astype(np.float32), parts=1)[:, 0]


def age_colours(born: NDArray[np.integer], newest: int) -> Picture:  # [N] -> [N, 3]
    """Colours by age: violet for the start view, yellow for the newest chunk."""
    return mixed(OLDEST, NEWEST, born / max(newest, 1))


def mixed(low: Colour, high: Colour, share: NDArray[np.floating]) -> Picture:  # [N] -> [N, 3]
    """Colours between two; shares outside [0, 1] are those at the end."""
    a, b = np.array(low, np.float64), np.array(high, np.float64)
    return (a + (b - a) * np.clip(share, 0.0, 1.0)[:, None]).round().astype(np.uint8)


def memory_map(
    memory: LatentMemory | None,
    codec: LatentCodec | None,
    cameras: Sequence[Camera],
    side: int = 800,
) -> Picture:
    """The memory from above: each point a square of its footprint, its feature's colour, the highest on top.

    The first camera looks up the picture (as nearly as the axes of the world allow). What lies well above the cameras
    is left out. The path is drawn from green to red, with a scale bar in metres.

    Args:
        memory: what to draw; may be empty. Without one only the path is drawn.
        codec: decodes the features; without it the colour is the age, from violet (the start view) to yellow.
        cameras: the path, at least the camera the world goes on from.
        side: longer side of the picture, pixels.
    """
    R = _map_axes(cameras[0])
    path = np.stack([c.position for c in cameras]) @ R.T
    blocks = () if memory is None else memory.surfaces.blocks
    xyz, size = _points(blocks)
    xyz = xyz @ R.T
    shown = xyz[:, 2] <= path[:, 2].max() + HEADROOM
    xyz, size = xyz[shown], size[shown]
    ground = np.concatenate([xyz[:, :2], path[:, :2]])
    # The outermost points are often far views through a gap; they would shrink everything else.
    low = np.minimum(np.percentile(ground, 1, axis=0), path[:, :2].min(0)) - 0.4
    high = np.maximum(np.percentile(ground, 99, axis=0), path[:, :2].max(0)) + 0.4
    scale = side / float((high - low).max())
    canvas = np.full((*np.ceil((high - low)[::-1] * scale).astype(int), 3), BACKGROUND, np.uint8)

    def place(points: NDArray[np.float64]) -> NDArray[np.float64]:  # [N, 2+] -> [N, 2] x, y in the picture
        return (points[:, :2] - low) * [scale, -scale] + [0.0, (high - low)[1] * scale]

    if len(xyz):
        if codec is None:
            colours = age_colours(np.concatenate([b.births() for b in blocks])[shown], max(b.newest for b in blocks))
        else:
            colours = feature_colours(np.concatenate([b.values() for b in blocks])[shown], codec)
        _paint(canvas, place(xyz), xyz[:, 2], size * scale, colours)
    picture = Image.fromarray(canvas)
    _draw_path(picture, place(path), np.stack([c.T_world_cam[:3, 2] for c in cameras]) @ R.T)
    _draw_scale_bar(picture, scale)
    return np.asarray(picture)


def _points(blocks: Sequence[MemoryBlock]) -> tuple[NDArray[np.float64], NDArray[np.float32]]:  # [N, 3], [N]
    positions = np.concatenate([np.zeros((0, 3)), *(b.positions() for b in blocks)])
    return positions, np.concatenate([np.zeros(0, np.float32), *(b.footprint for b in blocks)])


def _map_axes(camera: Camera) -> NDArray[np.float64]:  # [3, 3], rows: right, forward, up in the world
    up = up_direction(camera)
    forward = camera.T_world_cam[:3, 2] - up * (up @ camera.T_world_cam[:3, 2])
    axis = int(np.abs(forward).argmax())
    snapped = np.eye(3)[axis] * np.sign(forward[axis])
    if abs(snapped @ up) < 1e-9:
        forward = snapped
    forward = forward / np.linalg.norm(forward)
    return np.stack([np.cross(forward, up), forward, up])


def _paint(
    canvas: Picture,
    at: NDArray[np.float64],  # [N, 2] x, y
    height: NDArray[np.float64],  # [N]
    width: NDArray[np.floating],  # [N] pixels
    colour: Picture,  # [N, 3]
) -> None:
    """Squares from the lowest to the highest."""
    reach = np.clip(0.5 * width, 1.0, 8.0)
    corners = np.concatenate([at - reach[:, None], at + reach[:, None]], axis=1).round().astype(int).clip(0)
    for i in np.argsort(height, kind="stable"):
        left, top, right, bottom = corners[i]
        canvas[top:bottom, left:right] = colour[i]


def _draw_path(picture: Image.Image, at: NDArray[np.float64], forward: NDArray[np.float64]) -> None:
    draw = ImageDraw.Draw(picture)
    if len(at) > 1:
        draw.line([tuple(p) for p in at], fill=INK, width=3, joint="curve")
    for i, colour in ((0, (40, 150, 70)), (-1, (200, 50, 45))):
        x, y = at[i]
        dx, dy = forward[i, 0], -forward[i, 1]
        nose, back = (x + 13 * dx, y + 13 * dy), (x - 7 * dx, y - 7 * dy)
        wings = [(back[0] - 7 * dy, back[1] + 7 * dx), (back[0] + 7 * dy, back[1] - 7 * dx)]
        draw.polygon([nose, *wings], fill=colour, outline=BACKGROUND)


def _draw_scale_bar(picture: Image.Image, scale: float) -> None:
    longest = 0.3 * picture.width / scale
    length = max((n for n in _round_lengths() if n <= longest), default=0.01)
    draw = ImageDraw.Draw(picture)
    x, y = 14, picture.height - 18
    draw.rectangle((x - 6, y - 22, x + max(length * scale, 60) + 8, y + 8), fill=BACKGROUND)
    draw.rectangle((x, y, x + length * scale, y + 3), fill=INK)
    draw.text((x, y - 18), f"{length:g} m", INK, font=_font(13))


def _round_lengths() -> Iterable[float]:
    return (m * 10.0**e for e in range(-2, 5) for m in (1.0, 2.0, 5.0))


def _font(size: int) -> ImageFont.FreeTypeFont | ImageFont.ImageFont:
    return ImageFont.load_default(size)
