from .actions import AbsolutePose as AbsolutePose
from .actions import Control as Control
from .actions import DiscreteControl as DiscreteControl
from .actions import PoseBox as PoseBox
from .actions import RelativePose as RelativePose
from .actions import Waypoints as Waypoints
from .observations import Shown as Shown
from .observations import WorldFormat as WorldFormat
