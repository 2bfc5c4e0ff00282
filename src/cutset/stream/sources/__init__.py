"""Pictures from files, folders, cameras, streams, arrays, or made up; and the encoded packets that make them.

PyAV (extra `stream`) is loaded by what decodes or encodes, and by nothing else.
"""

from cutset.stream.sources.arrays import ArraySource
from cutset.stream.sources.codec import CODECS, VideoCodec
from cutset.stream.sources.encode import H264Encoder, decode_jpeg, encode_jpeg
from cutset.stream.sources.faults import Faults, Tolerance
from cutset.stream.sources.generated import GeneratedSource
from cutset.stream.sources.history import PacketHistory, Restart
from cutset.stream.sources.open import open_source
from cutset.stream.sources.packets import PacketDecoder
from cutset.stream.sources.picture import Picture, Source

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
