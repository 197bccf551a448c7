from .depth_filter import filtered_depth as filtered_depth
from .depth_filter import registered_depth as registered_depth
from .open import open_recording as open_recording
from .view import PosedView as PosedView
from .view import Recording as Recording
