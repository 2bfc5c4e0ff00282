"""What the parties of a run say to each other: the headers of frames, as docs/stream-protocol.md specifies them.

A message is a msgpack array whose first element names its kind. Whoever decodes one takes nothing for granted: what
isn't one of these, within these bounds, is a FrameError.

Parties one minor version apart talk to each other: a new field comes last and has a default, which stands for it where
an older party sends none; an older party ignores what it doesn't know. New kinds of messages are said only to a party
whose minor version has them (`Card.minor`, `Introduction.minor`). Anything else is a new major version.
"""

from __future__ import annotations

from typing import Annotated, Literal

import msgspec

from cutset.cluster.trace.spans import Kind, Span
from cutset.codec.payload import KeyRequest, Payload
from cutset.errors import ConfigError, FrameError, HandshakeError
from cutset.link.peer import Handshake, Hello, Protocol, Refused, Welcome
from cutset.partition.hop import Hop

__all__ = [
    "HANDSHAKE",
    "MINOR",
    "MOST_BODY",
    "MOST_EDGES",
    "MOST_REPORTS",
    "MOST_SOURCES",
    "PROTOCOL",
    "Allow",
    "Beat",
    "Body",
    "Bye",
    "Card",
    "Connect",
    "EdgeReport",
    "Failed",
    "Hello",
    "Holds",
    "HopReport",
    "Introduction",
    "Inventory",
    "Lost",
    "Message",
    "More",
    "Need",
    "Peer",
    "Ping",
    "Pong",
    "Prepare",
    "Prepared",
    "Ready",
    "Refused",
    "Report",
    "Reports",
    "Retire",
    "Tune",
    "WeightPart",
    "Welcome",
    "Work",
    "check_minor",
    "decode",
    "encode",
]

PROTOCOL = Protocol("cluster", 4, whom="worker", before=2)
MINOR = 2  # see above; one higher with every release that adds a field
HANDSHAKE = Handshake(PROTOCOL)  # one that asks for no evidence and has none
MOST_BODY = 16 << 20  # bytes of a message that lies in an array
MOST_EDGES = 200  # values on a hop: their payloads fit in a header
MOST_ARRAYS = 8192  # of an item: two for each value, or as many as an input encoding makes
MOST_HEAD = 4 << 10  # bytes that an input encoding says of an item
MOST_WEIGHTS = 100_000
MOST_SOURCES = 256
MOST_ISAS = 16
TICKET = 32  # bytes
MOST_REPORTS = 64  # in a message

Count = Annotated[int, msgspec.Meta(ge=0, le=2**62)]
Word = Annotated[str, msgspec.Meta(max_length=200)]
Name = Annotated[str, msgspec.Meta(max_length=1000)]
Text = Annotated[str, msgspec.Meta(max_length=1000)]
Digest = Annotated[str, msgspec.Meta(min_length=64, max_length=64, pattern="^[0-9a-f]{64}$")]
Seconds = Annotated[float, msgspec.Meta(ge=0)]
# Of the thresholds of single values, by name, where they differ from the others'.
Factors = Annotated[dict[Name, Annotated[float, msgspec.Meta(ge=0, le=1e9)]], msgspec.Meta(max_length=100_000)]
Rate = Annotated[float, msgspec.Meta(gt=0)]  # bytes a second, infinite for no limit
Key = Annotated[bytes, msgspec.Meta(min_length=32, max_length=32)]
Levels = Annotated[int, msgspec.Meta(ge=0, le=255)]  # that uint8 values may be off by
Session = Annotated[bytes, msgspec.Meta(min_length=16, max_length=16)]


class _Message(msgspec.Struct, array_like=True):
    pass


class Introduction(_Message):
    """What whoever dials says in its hello. `session` is a secret of the coordinator and its workers."""

    role: Literal["coordinator", "worker"]
    session: Session
    name: Word  # coordinator: what it calls this worker; worker: what it is called itself
    minor: Count = 0  # version of the protocol


class Card(_Message):
    """What a worker says of its machine in its welcome."""

    cpu: Word
    cores: Count
    threads: Count
    memory: Count  # bytes that it may use, 0 for no limit
    software: Word  # what computes: its name and version
    device: Word
    minor: Count = 0  # version of the protocol
    build: Word = ""  # what results depend on beside version and instruction set
    isas: Annotated[list[Word], msgspec.Meta(max_length=MOST_ISAS)] = []  # instruction sets, weakest first
    speeds: Annotated[list[Seconds], msgspec.Meta(max_length=MOST_ISAS)] = []  # with each, as shares of the last one's
    dtypes: Annotated[list[Word], msgspec.Meta(max_length=MOST_ISAS)] = []  # that it computes in; none: as it is told
    kv_dtypes: Annotated[list[Word], msgspec.Meta(max_length=MOST_ISAS)] = []  # that it keeps keys and values in


class Peer(_Message):
    """Another worker: where it listens, and with tcp its public key.

    With a ticket it can't be dialled, and `address` is that of a relay which passes bytes on to whoever has it (see
    `cutset.link.relay`); a worker that has joined the coordinator there finds the relay where it dialled itself.
    """

    name: Word
    address: Word
    key: Key | None
    ticket: Annotated[bytes, msgspec.Meta(max_length=TICKET)] = b""


class Prepare(_Message, tag="prepare"):
    """Coordinator to worker: get ready for your stage of this plan. Answered by Need or not, and Prepared or Failed."""

    plan: Count
    epoch: Count
    name: Word  # this worker's in the plan
    graph: Digest
    description: Annotated[bytes, msgspec.Meta(max_length=MOST_BODY)]  # of the graph, JSON; empty if sent before
    stages: Annotated[bytes, msgspec.Meta(max_length=MOST_BODY)]  # the plan, as write_plan gives it
    weights: Annotated[dict[Name, Digest], msgspec.Meta(max_length=MOST_WEIGHTS)]  # of this worker's nodes
    next: Peer | None  # None: results go back on this link
    previous: Key | None  # with tcp: the worker to expect
    in_flight: Annotated[int, msgspec.Meta(ge=1, le=4096)]
    deltas: bool
    threshold: Seconds
    half: bool
    levels: Levels
    bandwidth: Rate  # of the hop after this stage as far as known, infinite where it isn't
    profile: bool  # report the seconds of each layer
    pace: Hop | None  # emulate this hop towards `next`
    back: Hop | None  # and this one towards the coordinator
    inputs: Annotated[bytes, msgspec.Meta(max_length=MOST_BODY)] = b""  # what its input encoding must know beforehand
    direct: bool = False  # the graph's input comes from the coordinator to every stage that reads it
    # The stage computes what changed alone, by so many times its thresholds; None: it computes all.
    delta_scale: Seconds | None = None
    delta_factors: Factors = {}


class Inventory(_Message, tag="inventory"):
    """Coordinator to worker: all weights of a graph. Answered by Holds, now and whenever that changes."""

    graph: Digest
    description: Annotated[bytes, msgspec.Meta(max_length=MOST_BODY)]  # of the graph, JSON; empty if sent before
    weights: Annotated[dict[Name, Digest], msgspec.Meta(max_length=MOST_WEIGHTS)]


class Holds(_Message, tag="holds"):
    """Worker to coordinator: those weights of the last Inventory that needn't be sent here."""

    graph: Digest
    weights: Annotated[list[Name], msgspec.Meta(max_length=MOST_WEIGHTS)]


class Need(_Message, tag="need"):
    """Worker to coordinator: these weights are not here."""

    plan: Count
    weights: Annotated[list[Name], msgspec.Meta(max_length=MOST_WEIGHTS)]


class WeightPart(_Message, tag="weight"):
    """Coordinator to worker: bytes of a weight in row-major order from `offset` on, one array; weight after weight."""

    digest: Digest
    offset: Count
    total: Count


class Prepared(_Message, tag="prepared"):
    """Worker to coordinator: this stage could run, and the worker before it may connect."""

    plan: Count
    loaded: Count  # bytes of weights that came from this worker's disk or memory
    seconds: Seconds


class Connect(_Message, tag="connect"):
    """Coordinator to worker: every stage is prepared, so dial the next worker. Answered by Ready or Failed."""

    plan: Count


class Ready(_Message, tag="ready"):
    """Worker to coordinator: items may come."""

    plan: Count


class Tune(_Message, tag="tune"):
    """Coordinator to worker: the hop after your stage was seen to carry so many bytes a second. Encode for that."""

    plan: Count
    bandwidth: Rate


class Allow(_Message, tag="allow"):
    """Coordinator to worker: what your stages send may be off by so much from now on, whatever Prepare said."""

    threshold: Seconds
    half: bool
    levels: Levels
    delta_scale: Seconds | None = None  # of stages that compute what changed alone; None: as it was
    delta_factors: Factors | None = None  # the same of single values


class Retire(_Message, tag="retire"):
    """Coordinator to worker: plans with lower numbers than this are over; forget what only they need."""

    before: Count


class Work(_Message, tag="work"):
    """One item on one hop. Its bytes, the arrays of all payloads in order, come in this frame and in More.

    Without payloads the arrays are the item's input in the encoding that the plan names, and `head` is for that one.
    """

    plan: Count
    epoch: Count
    source: Annotated[int, msgspec.Meta(ge=0, lt=MOST_SOURCES)]
    number: Count  # of the item in its source, from 0
    payloads: Annotated[list[Payload], msgspec.Meta(max_length=MOST_EDGES)]
    lengths: Annotated[list[Count], msgspec.Meta(max_length=MOST_ARRAYS)]  # bytes of each array
    sent: float  # by the sender's clock, when the first byte went
    head: Annotated[bytes, msgspec.Meta(max_length=MOST_HEAD)] = b""


class More(_Message, tag="more"):
    """The next bytes of the Work before."""


class HopReport(_Message):
    """How long an item's bytes were on the way to a party."""

    nbytes: Count
    sent: float  # the sender's clock: the first byte leaves
    first: float  # the receiver's clock: the first frame is there
    last: float  # the receiver's clock: all is there


class EdgeReport(_Message):
    """What encoding one value cost."""

    edge: Name
    kind: Literal["key", "delta", "input"]
    nbytes: Count
    changed: float  # share of its elements
    elements: Count
    encode_seconds: Seconds
    decode_seconds: Seconds  # of the same value's receiver if it is this party, else 0


class Report(_Message, tag="report"):
    """What a party did for one item; filled in on the way. `edges` are those that it sent, `received` those it took."""

    plan: Count
    epoch: Count
    source: Count
    number: Count
    party: Word
    spans: Annotated[list[Span], msgspec.Meta(max_length=4096)] = []
    hop: HopReport | None = None
    received: Annotated[list[EdgeReport], msgspec.Meta(max_length=MOST_EDGES)] = []
    edges: Annotated[list[EdgeReport], msgspec.Meta(max_length=MOST_EDGES)] = []
    layer_seconds: Annotated[list[Seconds], msgspec.Meta(max_length=100_000)] | None = None  # of its nodes, in order
    # Of its nodes, in order: which share of the output was computed, where the stage computes what changed alone.
    shares: Annotated[list[Seconds], msgspec.Meta(max_length=100_000)] | None = None

    def note(self, kind: Kind, start: float, end: float, nbytes: int = 0) -> None:
        """A piece of work on this item, by the party's clock."""
        self.spans.append(Span(kind, self.source, self.number, start, end, nbytes))


class Reports(_Message, tag="reports"):
    """Worker to coordinator: what it did for several items, where they follow each other closely."""

    reports: Annotated[list[Report], msgspec.Meta(max_length=MOST_REPORTS)]


class Lost(_Message, tag="lost"):
    """Worker to coordinator: this item got no further than here; it may be sent again."""

    plan: Count
    source: Count
    number: Count
    reason: Text


class Failed(_Message, tag="failed"):
    """Worker to coordinator: this plan can't go on. `party` names who is to blame, as far as the worker knows."""

    plan: Count
    party: Word
    reason: Text


class Ping(_Message, tag="ping"):
    """Coordinator to worker: what is your clock?"""

    number: Count
    time: float


class Pong(_Message, tag="pong"):
    """The answer: the ping's number and time, and the worker's clock."""

    number: Count
    time: float
    now: float


class Beat(_Message, tag="beat"):
    """Worker to coordinator, now and then: still here."""


class Bye(_Message, tag="bye"):
    """Coordinator to worker: the session is over."""


class Body(_Message, tag="body"):
    """The message is too large for a header: it is the frame's first array."""


Message = (
    Hello
    | Welcome
    | Inventory
    | Holds
    | Prepare
    | Need
    | WeightPart
    | Prepared
    | Connect
    | Ready
    | Tune
    | Allow
    | Retire
    | Work
    | More
    | Report
    | Reports
    | Lost
    | Failed
    | Refused
    | Ping
    | Pong
    | Beat
    | Bye
    | Body
    | KeyRequest
)

encode = msgspec.msgpack.Encoder().encode
_decoder: msgspec.msgpack.Decoder[Message] = msgspec.msgpack.Decoder(Message)


def check_minor(minor: int, who: str) -> None:
    """Raises HandshakeError for a party whose minor version is too far from this one."""
    if abs(minor - MINOR) > 1:
        ours, theirs = (f"{PROTOCOL.version}.{number}" for number in (MINOR, minor))
        raise HandshakeError(
            f"{who} speaks version {theirs} of the {PROTOCOL.name} protocol, this side {ours}: parties talk to each "
            "other up to one minor version apart; install the same Cutset on both sides"
        )


def decode(header: bytes) -> Message:
    """Raises FrameError for what is none of the messages above."""
    try:
        return _decoder.decode(header)
    except (ConfigError, msgspec.MsgspecError, RecursionError, UnicodeDecodeError) as error:
        raise FrameError(f"the other side sent a message that isn't one of a run's: {error}") from None
