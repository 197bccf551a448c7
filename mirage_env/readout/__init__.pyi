from .backends import BackendName as BackendName
from .backends import resolve as resolve
from .backends import splat_many as splat_many
from .zbuffer import Rule as Rule
from .zbuffer import Splat as Splat
