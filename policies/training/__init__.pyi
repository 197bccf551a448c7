from .config import TrainPolicy as TrainPolicy
from .evaluation import Score as Score
from .evaluation import play as play
from .train import Result as Result
from .train import train_policy as train_policy
from .vec_env import WorldsVecEnv as WorldsVecEnv
