"""The delta codec: both ends of an edge, and what they need. docs/stream-protocol.md is the specification.

Deltas carry new values at changed positions, so the decoder's tensor is the encoder's to the bit at every step. It
hands on which positions these were (`Changed`).
"""

from cutset.codec.budget import EXACT, Budget
from cutset.codec.changed import Changed
from cutset.codec.compression import available
from cutset.codec.costs import Costs, measured
from cutset.codec.decoder import Decoder, Update, Verdict
from cutset.codec.encoder import Encoded, Encoder
from cutset.codec.payload import EdgeSpec, KeyRequest, Payload, decode, encode

__all__ = [
    "EXACT",
    "Budget",
    "Changed",
    "Costs",
    "Decoder",
    "EdgeSpec",
    "Encoded",
    "Encoder",
    "KeyRequest",
    "Payload",
    "Update",
    "Verdict",
    "available",
    "decode",
    "encode",
    "measured",
]
