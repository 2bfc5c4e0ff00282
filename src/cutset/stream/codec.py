"""The delta codec: both ends of an edge, and what they need. docs/stream-protocol.md is the specification.

Deltas carry new values at changed positions, so the decoder's tensor is the encoder's to the bit at every step.
"""

from cutset.stream.budget import EXACT, Budget, OutputBudget
from cutset.stream.compression import available
from cutset.stream.costs import Costs, measured
from cutset.stream.decoder import Decoder, Verdict
from cutset.stream.encoder import Encoded, Encoder
from cutset.stream.payload import Channel, KeyRequest, Payload, decode, encode

__all__ = [
    "EXACT",
    "Budget",
    "Channel",
    "Costs",
    "Decoder",
    "Encoded",
    "Encoder",
    "KeyRequest",
    "OutputBudget",
    "Payload",
    "Verdict",
    "available",
    "decode",
    "encode",
    "measured",
]
