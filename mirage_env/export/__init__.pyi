from .map_server import save_map as save_map
from .occupancy import FREE as FREE
from .occupancy import OCCUPIED as OCCUPIED
from .occupancy import UNKNOWN as UNKNOWN
from .occupancy import OccupancyGrid as OccupancyGrid
from .occupancy import occupancy as occupancy
