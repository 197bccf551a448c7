from .loop import LoopConfig as LoopConfig
from .stage_config import TrainConfig as TrainConfig
