"""The delta codec: both ends of an edge, and what they need. docs/stream-protocol.md is the specification.

Deltas carry new values at changed positions, so the decoder's tensor is the encoder's to the bit at every step.
"""

from cutset.codec.budget import EXACT, Budget
from cutset.codec.compression import available
from cutset.codec.costs import Costs, measured
from cutset.codec.decoder import Decoder, Verdict
from cutset.codec.encoder import Encoded, Encoder
from cutset.codec.payload import Channel, KeyRequest, Payload, decode, encode

__all__ = [
    "EXACT",
    "Budget",
    "Channel",
    "Costs",
    "Decoder",
    "Encoded",
    "Encoder",
    "KeyRequest",
    "Payload",
    "Verdict",
    "available",
    "decode",
    "encode",
    "measured",
]
