from .geometry.loader import load_depth as load_depth
from .geometry.loader import load_segmentation as load_segmentation
from .world_model_loader import load_world_model as load_world_model
from .world_model_loader import save_world_model as save_world_model
