"""Any picture into a world: right, or an error that says what is allowed; depth, labels and intrinsics move along."""

import io
import math
import struct
import zlib

import numpy as np
import pytest
from PIL import Image

from mirage_env.camera import Camera
from mirage_env.errors import InvalidCameraError, InvalidDepthError, InvalidImageError, MirageError
from mirage_env.files import any_picture
from mirage_env.fit_view import fit_depth, fit_view

SIZE = (32, 32)
LEFT, RIGHT = (40, 80, 200), (220, 160, 60)


def halves(height: int = 48, width: int = 64) -> np.ndarray:
    """Two colours side by side."""
    picture = np.empty((height, width, 3), np.uint8)
    picture[:, : width // 2], picture[:, width // 2 :] = LEFT, RIGHT
    return picture


def grey(picture: np.ndarray) -> np.ndarray:
    return np.asarray(Image.fromarray(picture).convert("L"))


def encoded(image: Image.Image, kind: str, **options) -> bytes:
    file = io.BytesIO()
    image.save(file, kind, **options)
    return file.getvalue()


def pil(mode: str) -> Image.Image:
    return Image.fromarray(halves()).convert(mode)


def with_alpha(opaque: int) -> np.ndarray:
    return np.dstack([halves(), np.full((48, 64), opaque, np.uint8)])


def exif_35mm(focal: int) -> bytes:
    exif = Image.Exif()
    exif.get_ifd(0x8769)[0xA405] = focal
    exif[0x8769] = {0xA405: focal}
    return exif.tobytes()


def rotated() -> bytes:
    """Stored lying on its side, to be turned upright by EXIF."""
    exif = Image.Exif()
    exif[0x0112] = 6
    return encoded(Image.fromarray(np.rot90(halves(64, 48).transpose(0, 1, 2)).copy()), "JPEG", exif=exif, quality=95)


def bomb(side: int) -> bytes:
    """A PNG that says it has so many pixels a side, and holds fewer: who makes room for them all finds out late."""
    data = bytearray(encoded(Image.new("1", (64, 48)), "PNG"))
    data[16:24] = struct.pack(">II", side, side)  # of the header, whose checksum comes after its 13 bytes
    data[29:33] = struct.pack(">I", zlib.crc32(data[12:29]))
    return bytes(data)


COLOUR, GREY, BLACK = "colour", "grey", "black"
RIGHT_ONES = {
    "uint8": (halves(), COLOUR),
    "model size": (halves(32, 32), COLOUR),
    "640 x 480": (halves(480, 640), COLOUR),
    "portrait": (halves(90, 32), COLOUR),
    "panorama 7:1": (halves(16, 112), COLOUR),
    "smallest": (halves(8, 8), COLOUR),
    "odd size": (halves(37, 54), COLOUR),
    "list": (halves().tolist(), COLOUR),
    "read-only": (np.broadcast_to(halves(), halves().shape), COLOUR),
    "flipped twice": (halves()[::-1], COLOUR),
    "Fortran order": (np.asfortranarray(halves()), COLOUR),
    "float in [0, 1]": (halves() / 255.0, COLOUR),
    "float in [-1, 1]": (halves() / 127.5 - 1.0, COLOUR),
    "float in [0, 255]": (halves().astype(np.float32), COLOUR),
    "half": ((halves() / 255.0).astype(np.float16), COLOUR),
    "int64": (halves().astype(np.int64), COLOUR),
    "uint16": (halves().astype(np.uint16) * 257, COLOUR),
    "uint16 grey": (grey(halves()).astype(np.uint16) * 257, GREY),
    "channels first": (halves().transpose(2, 0, 1), COLOUR),
    "grey": (grey(halves()), GREY),
    "grey with channel": (grey(halves())[..., None], GREY),
    "truth values": (grey(halves()) > 255, BLACK),
    "opaque RGBA": (with_alpha(255), COLOUR),
    "transparent RGBA": (with_alpha(0), BLACK),
    "PIL RGB": (pil("RGB"), COLOUR),
    "PIL L": (pil("L"), GREY),
    "PIL P": (pil("P"), COLOUR),
    "PIL RGBA": (Image.fromarray(with_alpha(255)), COLOUR),
    "PIL LA": (pil("LA"), GREY),
    "PIL transparent": (Image.fromarray(with_alpha(0)), BLACK),
    "PIL CMYK": (pil("CMYK"), COLOUR),
    "PIL YCbCr": (pil("YCbCr"), COLOUR),
    "PIL HSV": (pil("HSV"), COLOUR),
    "PIL I;16": (Image.fromarray(grey(halves()).astype(np.uint16) * 257), GREY),
    "PIL I": (Image.fromarray(grey(halves()).astype(np.int32) * 257), GREY),
    "PIL F": (Image.fromarray(grey(halves()).astype(np.float32)), GREY),
    "PNG": (encoded(pil("RGB"), "PNG"), COLOUR),
    "PNG 16 bit": (encoded(Image.fromarray(grey(halves()).astype(np.uint16) * 257), "PNG"), GREY),
    "PNG palette": (encoded(pil("P"), "PNG"), COLOUR),
    "PNG alpha": (encoded(Image.fromarray(with_alpha(0)), "PNG"), BLACK),
    "PNG 1 bit": (encoded(Image.new("1", (64, 48)), "PNG"), BLACK),
    "JPEG": (encoded(pil("RGB"), "JPEG", quality=95), COLOUR),
    "JPEG CMYK": (encoded(pil("CMYK"), "JPEG", quality=95), COLOUR),
    "JPEG turned by EXIF": (rotated(), COLOUR),
    "WebP": (encoded(pil("RGB"), "WEBP", lossless=True), COLOUR),
    "BMP": (encoded(pil("RGB"), "BMP"), COLOUR),
    "TIFF": (encoded(pil("RGB"), "TIFF"), COLOUR),
    "TIFF float": (encoded(Image.fromarray(grey(halves()) / np.float32(255.0)), "TIFF"), GREY),
    "PPM": (encoded(pil("RGB"), "PPM"), COLOUR),
}
WRONG_ONES = {
    "1 x 1": (np.zeros((1, 1, 3), np.uint8), "at least 8"),
    "40:1": (halves(10, 400), "factor of 8"),
    "1:40": (halves(400, 10), "factor of 8"),
    "empty": (np.zeros((0, 5, 3), np.uint8), "shape"),
    "five channels": (np.zeros((32, 32, 5), np.uint8), "channels"),
    "a video": (np.zeros((4, 32, 32, 3), np.uint8), "shape"),
    "NaN": (np.full((32, 32, 3), np.nan), "NaN"),
    "inf": (np.full((32, 32, 3), np.inf), "NaN or infinite"),
    "float beyond 255": (np.full((32, 32, 3), 999.0), "from 999 to 999"),
    "bytes in uint16": (halves().astype(np.uint16), "cast it to uint8"),
    "negative integers": (np.full((32, 32, 3), -1), "from -1"),
    "words": ([["a", "b"]], "shape"),
    "nothing": (None, "shape"),
    "ragged": ([[1, 2], [3]], "list"),
    "truncated PNG": (encoded(pil("RGB"), "PNG")[:-60], "no image that can be read"),
    "truncated JPEG": (encoded(pil("RGB"), "JPEG")[:200], "no image that can be read"),
    "text": (b"hello", "no image that can be read"),
    "no bytes": (b"", "no image that can be read"),
    "GIF": (encoded(pil("P"), "GIF"), "no image that can be read"),
    "too large": (bomb(10_000), "it has 10000 x 10000 pixels"),
    "bomb": (bomb(60_000), "exceeds limit"),
    "missing file": ("no_such_file.png", "no_such_file.png"),
}


@pytest.mark.parametrize(("picture", "shows"), RIGHT_ONES.values(), ids=RIGHT_ONES)
def test_every_kind_of_picture_shows_what_it_holds(picture, shows):
    image = fit_view(picture, SIZE).image
    assert (image.shape, image.dtype) == ((32, 32, 3), np.uint8)
    left, right = image[8:24, 4:10].reshape(-1, 3).mean(0), image[8:24, 22:28].reshape(-1, 3).mean(0)
    luma = {side: float(grey(np.array([[side]], np.uint8))[0, 0]) for side in (LEFT, RIGHT)}
    expected = {COLOUR: (LEFT, RIGHT), GREY: ([luma[LEFT]] * 3, [luma[RIGHT]] * 3), BLACK: ([0] * 3, [0] * 3)}[shows]
    assert np.abs(left - expected[0]).max() < 12, left
    assert np.abs(right - expected[1]).max() < 12, right


@pytest.mark.parametrize(("picture", "says"), WRONG_ONES.values(), ids=WRONG_ONES)
@pytest.mark.filterwarnings("ignore::PIL.Image.DecompressionBombWarning")
def test_what_is_no_picture_is_refused_with_what_is_allowed(picture, says):
    with pytest.raises(InvalidImageError, match=says):
        fit_view(picture, SIZE)


def test_file_and_bytes_and_array_are_the_same(tmp_path):
    (tmp_path / "a.png").write_bytes(encoded(pil("RGB"), "PNG"))
    views = [fit_view(p, SIZE).image for p in (tmp_path / "a.png", str(tmp_path / "a.png"), halves(), pil("RGB"))]
    assert all(np.array_equal(view, views[0]) for view in views)


def test_heic_is_read_or_names_the_package(monkeypatch):
    heif = pytest.importorskip("pillow_heif")
    data = io.BytesIO()
    heif.from_pillow(pil("RGB")).save(data, quality=95)
    assert np.abs(fit_view(data.getvalue(), SIZE).image[16, 4].astype(int) - LEFT).max() < 12
    monkeypatch.setitem(__import__("sys").modules, "pillow_heif", None)
    with pytest.raises(MirageError, match=r"mirage-env\[heic\]"):
        fit_view(data.getvalue(), SIZE)


def test_what_was_done_is_said():
    note = fit_view(halves().astype(np.uint16) * 257, SIZE).note
    assert "16 bits divided by 257" in note
    assert "centre-cropped to 75% of 64 x 48" in note
    assert "resized to 32 x 32" in note
    assert fit_view(halves(32, 32), SIZE).note == ""
    assert "where the sensor has 12 bits" in fit_view(halves().astype(np.uint16) * 16, SIZE).note


# Cameras


def rays(camera: Camera, u: float, v: float) -> np.ndarray:
    ray = np.linalg.solve(camera.K_image, [u, v, 1.0])
    return ray / ray[2]


@pytest.mark.parametrize("shape", [(48, 64), (64, 48), (32, 32), (480, 640)])
@pytest.mark.parametrize("K", [(50.0, 50.0, 0.5, 0.5), (50.0, 70.0, 0.5, 0.5), (60.0, 40.0, 0.3, 0.7)])
def test_intrinsics_move_with_the_picture(shape, K):
    """A ray through a place of the picture is the ray through where that place lies in the result."""
    height, width = shape
    fx, fy, cx, cy = K
    K_image = np.array([[fx, 0, cx * width], [0, fy, cy * height], [0, 0, 1]])
    marked = np.zeros((height, width, 3), np.uint8)
    row, col = int(0.55 * height), int(0.45 * width)
    marked[row - 2 : row + 3, col - 2 : col + 3] = 255
    view = fit_view(marked, SIZE, Camera(np.eye(4), K_image, height, width))
    found = np.argwhere(view.image[..., 0] > 0.6 * view.image.max())
    weights = view.image[..., 0][tuple(found.T)].astype(float)
    v, u = (found + 0.5).T @ weights / weights.sum()
    there = rays(Camera(np.eye(4), K_image, height, width), col + 0.5, row + 0.5)
    assert rays(view.camera, u, v)[:2] == pytest.approx(there[:2], abs=0.6 * max(1 / view.camera.K_image[0, 0], 1 / fx))
    assert view.camera.K_image[0, 0] == pytest.approx(view.camera.K_image[1, 1]), "pixels are square"
    assert (view.camera.height, view.camera.width) == SIZE


def test_camera_of_the_result_is_taken_as_it_is():
    camera = Camera.from_fov(1.0, *SIZE)
    assert fit_view(halves(), SIZE, camera).camera is camera


@pytest.mark.parametrize("size", [(33, 64), (16, 16)])
def test_camera_of_another_picture_is_refused(size):
    with pytest.raises(InvalidCameraError, match=f"image size .{size[0]}, {size[1]}"):
        fit_view(halves(), SIZE, Camera.from_fov(1.0, *size))


def test_optical_axis_outside_the_picture_is_refused():
    K = np.array([[50.0, 0, 320], [0, 50, 240], [0, 0, 1]])
    with pytest.raises(InvalidCameraError, match="principal point"):
        fit_view(halves(), SIZE, Camera(np.eye(4), K, 48, 64))


def test_lens_is_that_of_exif_and_a_given_one_goes_before():
    data = encoded(pil("RGB"), "JPEG", exif=exif_35mm(28))
    view = fit_view(data, SIZE)
    focal = 28 / 43.267 * math.hypot(48, 64)  # of the whole picture
    assert view.camera.K_image[0, 0] == pytest.approx(focal * 32 / 48, rel=1e-6)
    assert "from EXIF" in view.note
    given = fit_view(data, SIZE, fov_of_picture=1.0)
    assert given.camera.K_image[0, 0] == pytest.approx(32 / math.tan(0.5) * 32 / 48)
    assert "EXIF" not in given.note
    assert fit_view(halves(), SIZE, fov=1.2).camera.K_image[0, 0] == pytest.approx(16 / math.tan(0.6))


def test_nonsense_in_exif_says_nothing():
    assert "EXIF" not in fit_view(encoded(pil("RGB"), "JPEG", exif=exif_35mm(60_000)), SIZE).note


# Depth and labels


@pytest.mark.parametrize("shape", [(48, 64), (96, 128), (24, 32)])
def test_depth_and_labels_follow_the_picture_without_mixing(shape):
    depth = np.full(shape, 2.0, np.float32)
    depth[:, shape[1] // 2 :] = np.inf
    depth[:, : shape[1] // 4] = 0.0
    view = fit_view(halves(), SIZE, depth=depth, labels=np.isinf(depth).astype(np.uint8))
    assert view.depth is not None
    assert view.labels is not None
    assert set(np.unique(view.depth)) == {0.0, 2.0, np.inf}
    assert np.array_equal(view.labels == 1, np.isinf(view.depth))
    assert np.array_equal(np.isinf(view.depth[16]), view.image[16, :, 0] > 130)


@pytest.mark.parametrize("shape", [(32, 64), (64, 32), (32, 48)])
def test_depth_and_labels_are_cropped_as_the_picture_is(shape):
    rows, cols = np.indices(shape)
    top, left = (shape[0] - 32) // 2, (shape[1] - 32) // 2
    picture = np.stack([rows, cols, rows], -1).astype(np.uint8)
    view = fit_view(picture, (32, 32), depth=1.0 + rows + 100.0 * cols, labels=cols)
    assert view.depth is not None
    assert view.labels is not None
    np.testing.assert_array_equal(view.image, picture[top : top + 32, left : left + 32])
    np.testing.assert_array_equal(view.depth, 1.0 + view.image[..., 0] + 100.0 * view.image[..., 1])
    np.testing.assert_array_equal(view.labels, view.image[..., 1])


def test_depth_of_another_shape_is_refused():
    with pytest.raises(InvalidDepthError, match="must be that of the image"):
        fit_view(halves(), SIZE, depth=np.ones((48, 48)))


def test_limits_are_those_of_the_module():
    assert fit_view(halves(any_picture.LEAST_SIDE, any_picture.LEAST_SIDE), SIZE).image.shape == (32, 32, 3)


@pytest.mark.parametrize("lens", [(60.0, 60.0), (90.0, 60.0), (40.0, 55.0)])
def test_camera_and_depth_are_told_without_the_picture(rng, lens):
    K = np.array([[lens[0], 0.0, 30.0], [0.0, lens[1], 25.0], [0.0, 0.0, 1.0]])
    depth = rng.uniform(1.0, 5.0, (48, 64)).astype(np.float32)
    given = Camera(np.eye(4), K, 48, 64)
    view = fit_view(halves(), SIZE, given, depth)
    camera, metres = fit_depth(depth, SIZE, given)
    np.testing.assert_array_equal(camera.K_image, view.camera.K_image)
    np.testing.assert_array_equal(metres, view.depth)
    with pytest.raises(InvalidDepthError):
        fit_depth(depth[:, :40], SIZE, given)
