from .page_files import page_file as page_file
from .rooms import Rooms as Rooms
from .token_patches import TokenPatches as TokenPatches
