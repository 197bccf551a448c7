"""Intrinsics and distortion of a real lens, and pictures without the distortion."""

from __future__ import annotations

import math
from dataclasses import dataclass
from typing import Any, Literal

import numpy as np
from numpy.typing import NDArray

from mirage_env.errors import InvalidCameraError, MissingPackageError


@dataclass(frozen=True)
class Lens:
    """Intrinsics in pixels, pixel centres at +1/2; of the whole image as it was taken.

    A lens of an image of one pixel has shares of the width and height of any image.

    Raises:
        InvalidCameraError: numbers that no lens has.
    """

    fx: float
    fy: float
    cx: float
    cy: float
    height: int | None = None
    width: int | None = None
    distortion: tuple[float, ...] = ()
    """k1, k2, p1, p2, k3, k4, k5, k6 as OpenCV orders them; k1 to k4 of a fisheye."""
    model: Literal["pinhole", "opencv", "fisheye"] = "pinhole"

    def __post_init__(self) -> None:
        numbers = np.array([self.fx, self.fy, self.cx, self.cy, *self.distortion], np.float64)
        if not np.isfinite(numbers).all() or self.fx <= 0.0 or self.fy <= 0.0:
            raise InvalidCameraError(
                f"intrinsics are fx {self.fx}, fy {self.fy}, cx {self.cx}, cy {self.cy}, distortion "
                f"{self.distortion}; give "
                "finite numbers with positive focal lengths, in pixels"
            )
        if min(self.height or 1, self.width or 1) < 1:
            raise InvalidCameraError(f"an image size is {self.height} x {self.width}; give positive numbers of pixels")

    @staticmethod
    def of_fov(fov: float, height: int, width: int) -> Lens:
        """Lens with square pixels of a horizontal field of view, radians.

        Raises:
            InvalidCameraError: a field of view that no lens has.
        """
        f = 0.5 * width / math.tan(0.5 * fov) if 0.0 < fov < math.pi else math.nan
        return Lens(f, f, 0.5 * width, 0.5 * height, height, width)

    @property
    def K_image(self) -> NDArray[np.float64]:  # [3, 3]
        """Intrinsics as a matrix."""
        return np.array([[self.fx, 0.0, self.cx], [0.0, self.fy, self.cy], [0.0, 0.0, 1.0]])

    @property
    def relative(self) -> bool:
        """Return whether the numbers are shares of an image's width and height, whatever its size."""
        return self.height == self.width == 1

    @property
    def distorted(self) -> bool:
        """Return whether straight lines look bent."""
        return any(self.distortion)

    def undistort(self, image: NDArray[Any], nearest: bool = False) -> NDArray[Any]:
        """The image as a pinhole camera with the same K would have taken it; black where the lens saw nothing.

        The image may be of another size than the lens says: it was resized as a whole then.

        Raises:
            MissingPackageError: OpenCV is not installed.
        """
        if not self.distorted:
            return image
        try:
            import cv2
        except ImportError as error:
            raise MissingPackageError(
                "images of a lens with distortion need OpenCV; pip install 'mirage-env[cameras]'"
            ) from error
        height, width = image.shape[:2]
        share = np.diag([width / (self.width or width), height / (self.height or height), 1.0])
        K = share @ self.K_image - np.array([[0.0, 0.0, 0.5], [0.0, 0.0, 0.5], [0.0, 0.0, 0.0]])  # OpenCV's centres
        coefficients, size = np.array(self.distortion), (width, height)
        maps: Any = cv2.fisheye if self.model == "fisheye" else cv2
        x, y = maps.initUndistortRectifyMap(K, coefficients, np.eye(3), K, size, cv2.CV_32FC1)
        flag = cv2.INTER_NEAREST if nearest else cv2.INTER_LINEAR
        return np.asarray(cv2.remap(image, x, y, flag, borderMode=cv2.BORDER_CONSTANT, borderValue=0))
