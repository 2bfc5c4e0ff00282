"""Pictures from files, folders, cameras, streams, arrays, or made up; and the encoded packets that make them.

PyAV (extra `stream`) is loaded by what decodes or encodes, and by nothing else.
"""

from cutset.video.sources.arrays import ArraySource
from cutset.video.sources.codec import CODECS, VideoCodec
from cutset.video.sources.encode import H264Encoder, decode_jpeg, encode_jpeg
from cutset.video.sources.faults import Faults, Tolerance
from cutset.video.sources.generated import GeneratedSource
from cutset.video.sources.history import PacketHistory, Restart
from cutset.video.sources.opening import open_source
from cutset.video.sources.packets import PacketDecoder
from cutset.video.sources.picture import Picture, Source

__all__ = [
    "CODECS",
    "ArraySource",
    "Faults",
    "GeneratedSource",
    "H264Encoder",
    "PacketDecoder",
    "PacketHistory",
    "Picture",
    "Restart",
    "Source",
    "Tolerance",
    "VideoCodec",
    "decode_jpeg",
    "encode_jpeg",
    "open_source",
]
