from .blocks import Frames as Frames
from .blocks import MemoryBlock as MemoryBlock
from .packing import Tokens as Tokens
from .packing import pack as pack
