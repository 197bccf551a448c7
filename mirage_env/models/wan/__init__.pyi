from .chunk_denoiser import ChunkDenoiser as ChunkDenoiser
from .side_branch import ControlBranch as ControlBranch
from .transformer import ControlledTransformer as ControlledTransformer
from .video_codec import WanCodec as WanCodec
