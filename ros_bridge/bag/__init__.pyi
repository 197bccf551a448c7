from .read_bag import BagContents as BagContents
from .world_to_bag import cache_to_bag as cache_to_bag
from .world_to_bag import write_bag as write_bag
