from .mujoco_world import MujocoEnv as MujocoEnv
from .mujoco_world import MujocoWorld as MujocoWorld
from .rgbd_env import RgbdEnv as RgbdEnv
from .rgbd_env import RgbdView as RgbdView
from .rlinf_backend import RLinfBackend as RLinfBackend
