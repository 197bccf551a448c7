"""Options of a recording of a real camera, which `mirage learn` and `mirage import` share."""

from __future__ import annotations

from dataclasses import dataclass
from pathlib import Path
from typing import TYPE_CHECKING, Annotated, Any

import tyro

from mirage_env.commands.walk import File, Number, Text
from mirage_env.errors import InvalidOptionError

if TYPE_CHECKING:
    from mirage_env.datasets.camera_files import Lens
    from mirage_env.datasets.recordings import Recording
    from mirage_env.poses import Matrix

BAGS = (".bag", ".mcap", ".db3")


@dataclass(frozen=True, kw_only=True)
class RecordingOptions:
    """A recording and how it is read."""

    source: Annotated[Path, tyro.conf.Positional]
    """Folder in TUM's layout, with color, depth and poses (Open3D, ScanNet), with transforms.json or with a COLMAP
    model; a video with --cameras; a rosbag2 or a ROS 1 bag; a LeRobot data set."""
    cameras: File = None
    """Camera file of a video, or of images that lie elsewhere."""
    focal: Number = None
    """Focal length in pixels, where no file tells the lens; the principal point is then the middle of the image."""
    size: tuple[int, int] | None = None
    """Height and width of the images that --focal is for."""
    depth_scale: Number = None
    """Units of 16-bit depth images per metre; 5000 in TUM's layout, else 1000."""
    image: Text = None
    """Topic of a bag's images, or camera of a LeRobot data set, where there are several; likewise below."""
    depth: Text = None
    """Topic or column of the depth; an empty name leaves it out."""
    pose: Text = None
    """Topic of PoseStamped, Odometry or Path, which comes before /tf; or column of poses, COLUMN or
    COLUMN:x,y,z,qx,qy,qz,qw."""
    pose_frame: Text = None
    """Frame whose poses a PoseStamped or Path holds."""
    mount: Text = None
    """Camera on the body that the poses are of, where nothing says it: "x y z roll pitch yaw", m and degrees."""
    episodes: tuple[int, ...] = ()
    """Episodes of a LeRobot data set; all without."""
    rectified: bool = False
    """The images of the bag are rectified, whatever their CameraInfo says."""
    scale: Number = None
    """Metres per unit of the cameras; found from measured depth or triangulated points where there are some."""
    distance: tuple[str, ...] = ()
    """Known distances between cameras, such as 0,10,2.5: numbers of two views and metres; instead of --scale."""
    every: int = 1
    """Take every n-th view."""
    views: int = 0
    """Stop after so many views; 0: all."""

    def open(self) -> Recording:
        """Open the recording.

        Raises:
            InvalidOptionError: nothing there that is a recording, or an option that does not go with it.
            BagContentError: a bag without images, poses or intrinsics.
        """
        from mirage_env.datasets.recordings import LeRobotOptions, open_recording
        from mirage_env.datasets.recordings.lerobot import is_lerobot

        if self.source.suffix in BAGS or (self.source / "metadata.yaml").is_file():
            return self._bag()
        if is_lerobot(self.source):
            options = LeRobotOptions(self.image, self.depth, self.pose, self._mount(), None, self.episodes)
            return open_recording(self.source, self.cameras, self._lens(), self.depth_scale, options)
        named = ("image", "depth", "pose", "pose_frame", "mount", "episodes")
        if given := [f"--{name.replace('_', '-')}" for name in named if getattr(self, name) not in (None, ())]:
            raise InvalidOptionError(
                f"{', '.join(given)}: {self.source} is neither a bag nor a LeRobot data set, which these are for"
            )
        return open_recording(self.source, self.cameras, self._lens(), self.depth_scale)

    def reading(self) -> dict[str, Any]:
        """Options of `ReadConfig`."""
        return {
            "every": self.every,
            "most_views": self.views,
            "scale": self.scale,
            "distances": tuple(_distance(text) for text in self.distance),
        }

    def _lens(self) -> Lens | None:
        from mirage_env.datasets.camera_files import Lens

        if self.focal is None:
            return None
        if self.size is None:
            raise InvalidOptionError("--focal: give --size HEIGHT WIDTH of the images too")
        height, width = self.size
        return Lens(self.focal, self.focal, 0.5 * width, 0.5 * height, height, width)

    def _bag(self) -> Recording:
        from ros_bridge.bag.recording import bag_recording

        return bag_recording(
            self.source,
            image=self.image,
            depth=self.depth,
            pose=self.pose,
            pose_frame=self.pose_frame,
            T_base_camera=self._mount(),
            rectified=self.rectified,
        )

    def _mount(self) -> Matrix | None:
        if self.mount is None:
            return None
        from ros_bridge.parameters.world_parameters import WorldParameters

        return WorldParameters(observe_mount=self.mount).mount_of_robot()


def _distance(text: str) -> tuple[int, int, float]:
    try:
        i, j, metres = text.split(",")
        return int(i), int(j), float(metres)
    except ValueError as error:
        raise InvalidOptionError(
            f"--distance {text}: give two numbers of views and metres, such as 0,10,2.5"
        ) from error
