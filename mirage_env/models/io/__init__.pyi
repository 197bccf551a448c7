from .check_model import check_model as check_model
from .hub import find_model as find_model
from .hub import shipped_models as shipped_models
from .published_checkpoints import convert as convert
from .state_dicts import load_module as load_module
from .state_dicts import save_module as save_module
