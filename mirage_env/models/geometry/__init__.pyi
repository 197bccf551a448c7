from .loader import load_depth as load_depth
from .loader import load_segmentation as load_segmentation
