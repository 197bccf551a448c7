from . import (
    config as config,
)
from . import (
    datasets as datasets,
)
from . import (
    envs as envs,
)
from . import (
    episodes as episodes,
)
from . import (
    errors as errors,
)
from . import (
    evaluation as evaluation,
)
from . import (
    export as export,
)
from . import (
    memory as memory,
)
from . import (
    models as models,
)
from . import (
    notebook as notebook,
)
from . import (
    readout as readout,
)
from . import (
    rooms as rooms,
)
from . import (
    store as store,
)
from . import (
    tasks as tasks,
)
from . import (
    training as training,
)
from . import (
    viewer as viewer,
)
from . import (
    viz as viz,
)
from .camera import Camera as Camera
from .envs.base import ChunkEnv as ChunkEnv
from .envs.conformance import check_world_env as check_world_env
from .envs.readout import ReadoutEnv as ReadoutEnv
from .envs.vector import MirageVectorEnv as MirageVectorEnv
from .envs.world import MirageEnv as MirageEnv
from .envs.wrappers import RecordChunks as RecordChunks
from .errors import MirageError as MirageError
from .export.occupancy import OccupancyGrid as OccupancyGrid
from .export.occupancy import occupancy as occupancy
from .images import frames_from_uint8 as frames_from_uint8
from .images import frames_to_uint8 as frames_to_uint8
from .memory.latent import LatentMemory as LatentMemory
from .memory.rgb import RgbMemory as RgbMemory
from .models.world_model_loader import load_world_model as load_world_model
from .models.world_model_loader import save_world_model as save_world_model
from .spaces.actions import DiscreteControl as DiscreteControl
from .store import load_world as load_world
from .store import open_cache as open_cache
from .store import save_world as save_world
from .trajectories import path_from_file as path_from_file
from .trajectories import preset_path as preset_path
from .world_model import WorldModel as WorldModel
from .world_state import Chunk as Chunk
from .world_state import WorldState as WorldState

__version__: str
