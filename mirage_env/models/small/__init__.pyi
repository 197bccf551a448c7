from .conv_codec import ConvCodec as ConvCodec
from .depth_unet import DepthUNet as DepthUNet
from .preview_decoder import PreviewDecoder as PreviewDecoder
from .refiner import BareReadout as BareReadout
from .refiner import ConvRefiner as ConvRefiner
from .segmentation_unet import AllStatic as AllStatic
from .segmentation_unet import SegmentationUNet as SegmentationUNet
