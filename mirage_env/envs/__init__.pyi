from .base import ChunkEnv as ChunkEnv
from .conformance import check_world_env as check_world_env
from .readout import ReadoutEnv as ReadoutEnv
from .readout import ReadoutVectorEnv as ReadoutVectorEnv
from .vector import ChunkVectorEnv as ChunkVectorEnv
from .world import MirageEnv as MirageEnv
from .world import MirageVectorEnv as MirageVectorEnv
from .wrappers import RecordChunks as RecordChunks
