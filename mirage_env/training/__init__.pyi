from .loop import LoopConfig as LoopConfig
from .pipeline import TrainConfig as TrainConfig
