from .read_bag import BagContents as BagContents
from .read_bag import PosedViews as PosedViews
from .read_bag import open_views as open_views
from .read_bag import read_bag as read_bag
from .world_to_bag import cache_to_bag as cache_to_bag
from .world_to_bag import write_bag as write_bag
