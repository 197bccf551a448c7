from .lenses import Lens as Lens
from .path import CameraPath as CameraPath
from .path import contradictions as contradictions
from .path import median_step as median_step
from .read import read_cameras as read_cameras
