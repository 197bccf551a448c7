"""Pictures of strangers: what is no picture of a format that we read is an error of ours, whatever decoders raise."""

import io
import os
import stat
import struct
import zlib

import numpy as np
import pytest
from PIL import Image

from mirage_env.errors import InvalidImageError
from mirage_env.files import open_picture, read_npy
from mirage_env.files.pictures import FORMATS

OPTIONS = {
    "JPEG": {},
    "PNG": {},
    "WEBP": {"lossless": True},
    "BMP": {},
    "TIFF": {"compression": "tiff_lzw"},
    "PPM": {},
}
PIXELS = np.random.default_rng(0).integers(0, 256, (24, 32, 3), np.uint8)


def encoded(kind, pixels=PIXELS, **options):
    file = io.BytesIO()
    Image.fromarray(pixels).save(file, kind, **OPTIONS.get(kind, {}), **options)
    return file.getvalue()


@pytest.mark.parametrize("kind", FORMATS)
def test_every_allowed_format_is_read(kind, tmp_path):
    (tmp_path / "a").write_bytes(encoded(kind))
    for source in (encoded(kind), tmp_path / "a", str(tmp_path / "a")):
        read = np.asarray(open_picture(source))
        assert (read.shape, read.dtype) == (PIXELS.shape, np.uint8)
        assert kind == "JPEG" or np.array_equal(read, PIXELS)


def test_picture_is_turned_as_its_orientation_says():
    exif = Image.Exif()
    exif[0x0112] = 6  # a quarter turn
    file = encoded("PNG", exif=exif)
    assert np.array_equal(np.asarray(open_picture(file)), np.rot90(PIXELS, -1))
    assert np.array_equal(np.asarray(open_picture(file, upright=False)), PIXELS)


def test_depth_keeps_its_type_and_is_no_picture():
    depth = np.arange(64, dtype=np.uint16).reshape(8, 8) * 1000
    file = encoded("PNG", depth)
    assert np.array_equal(np.asarray(open_picture(file, None)), depth)
    with pytest.raises(InvalidImageError, match="depth"):
        open_picture(file)


EPS = b"%!PS-Adobe-3.0 EPSF-3.0\n%%BoundingBox: 0 0 9 9\n%%EndComments\n(PWNED) print\nshowpage\n"


@pytest.mark.parametrize("kind", ["EPS", "GIF", "PDF", "ICNS", "SGI", "PCX", "DDS"])
def test_formats_that_are_not_listed_are_never_decoded(kind, monkeypatch):
    file = EPS if kind == "EPS" else io.BytesIO()
    if kind != "EPS":
        Image.fromarray(np.tile(PIXELS, (2, 2, 1))[:32, :32]).save(file, kind)
        file = file.getvalue()
    monkeypatch.setattr("subprocess.Popen", lambda *_, **__: pytest.fail("a program was started"))
    with pytest.raises(InvalidImageError, match="JPEG, PNG"):
        open_picture(file)


def png_of(width, height, data=b""):
    def chunk(name, content):
        return struct.pack(">I", len(content)) + name + content + struct.pack(">I", zlib.crc32(name + content))

    header = struct.pack(">IIBBBBB", width, height, 8, 2, 0, 0, 0)
    return b"\x89PNG\r\n\x1a\n" + chunk(b"IHDR", header) + chunk(b"IDAT", data) + chunk(b"IEND", b"")


def test_pixel_limit_holds_before_anything_is_decoded(monkeypatch):
    bomb = png_of(8000, 8000, zlib.compress(bytes(2**20)))
    monkeypatch.setattr("PIL.ImageFile.ImageFile.load", lambda *_: pytest.fail("it was decoded"))
    with pytest.raises(InvalidImageError, match=r"8000 x 8000 pixels.*50 million"):
        open_picture(bomb)


def test_what_is_no_regular_file_is_refused_at_once(tmp_path):
    os.mkfifo(tmp_path / "pipe.png")
    for place in (tmp_path / "pipe.png", tmp_path, "/dev/zero", tmp_path / "none.png", tmp_path / ("a" * 300), "a\0b"):
        with pytest.raises(InvalidImageError, match="no image"):
            open_picture(place)
    assert stat.S_ISFIFO((tmp_path / "pipe.png").stat().st_mode)


@pytest.mark.parametrize("kind", FORMATS)
def test_damaged_pictures_end_in_one_class_of_error(kind):
    whole, rng = encoded(kind), np.random.default_rng(7)
    refused = 0
    for _ in range(150):
        data = bytearray(whole)
        for at in rng.integers(0, min(len(data), 400), 1 + rng.integers(6)):
            data[at] = rng.choice([0, 255, rng.integers(256)])
        data = data[: rng.integers(len(data))] if rng.random() < 0.3 else data
        try:
            open_picture(bytes(data))
        except InvalidImageError:
            refused += 1
    assert refused > 20


RAISED = (EOFError, IndexError, KeyError, OSError, OverflowError, RuntimeError, SyntaxError, TypeError, ValueError)


@pytest.mark.parametrize("error", [*RAISED, MemoryError, struct.error, zlib.error, Image.DecompressionBombError])
def test_whatever_a_decoder_raises_is_one_class_of_error(monkeypatch, error):
    def broken(_):
        raise error("oops")

    monkeypatch.setattr("PIL.ImageFile.ImageFile.load", broken)
    with pytest.raises(InvalidImageError, match="oops"):
        open_picture(encoded("BMP"))


@pytest.mark.parametrize("change", ["object", "short", "long", "huge", "negative", "empty", "text"])
def test_arrays_of_another_kind_or_length_are_refused(tmp_path, change):
    file = io.BytesIO()
    np.save(file, np.array([{}]) if change == "object" else np.array(["a"]) if change == "text" else np.zeros((3, 4)))
    data = file.getvalue()
    data = {
        "short": data[:-8],
        "long": data + bytes(8),
        "empty": b"",
        "huge": data.replace(b"(3, 4), }      ", b"(3, 4000000), }"),
        "negative": data.replace(b"(3, 4)", b"(-3,4)"),
    }.get(change, data)
    (tmp_path / "a.npy").write_bytes(data)
    with pytest.raises(ValueError, match=r"a\.npy"):
        read_npy(tmp_path / "a.npy")


def test_arrays_of_numbers_are_read(tmp_path):
    for values in (
        np.zeros((0, 4)),
        np.eye(3, dtype=np.float32),
        np.array(5),
        np.asfortranarray(np.arange(6).reshape(2, 3)),
    ):
        np.save(tmp_path / "a.npy", values)
        assert np.array_equal(read_npy(tmp_path / "a.npy"), values)
