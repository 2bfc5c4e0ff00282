"""The delta codec: both ends of an edge, and what they need. docs/stream-protocol.md is the specification.

Deltas carry new values at changed positions, so the decoder's tensor is the encoder's to the bit at every step.
"""

from cutset.stream.delta.budget import EXACT, Budget
from cutset.stream.delta.compression import available
from cutset.stream.delta.costs import Costs, measured
from cutset.stream.delta.decoder import Decoder, Verdict
from cutset.stream.delta.encoder import Encoded, Encoder
from cutset.stream.delta.payload import Channel, KeyRequest, Payload, decode, encode

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
