from .cache_folder import CacheFolder as CacheFolder
from .page import Page as Page
from .server import serving as serving
from .session import Session as Session
from .snapshots import Snapshot as Snapshot
from .world_sources import Openings as Openings
