from .checks import PROMISES as PROMISES
from .checks import check_world_env as check_world_env
from .vector import check_world_vector_env as check_world_vector_env
