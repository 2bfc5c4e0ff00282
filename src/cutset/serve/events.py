"""The dashboard's events: JSON objects whose `type` is one of the tags below. docs/dashboard-events.md describes them.

A browser gets the last event of each kind when it connects, then all as they come; who is slow misses old ones.
"""

from __future__ import annotations

import msgspec

__all__ = [
    "AcceleratorState",
    "EngineEvent",
    "Event",
    "GraphEvent",
    "HopState",
    "LayerInfo",
    "LayersEvent",
    "LinksEvent",
    "ModelEvent",
    "OffloadEvent",
    "Pads",
    "PictureEvent",
    "PlanEvent",
    "RequestState",
    "SourceState",
    "SourcesEvent",
    "SpansEvent",
    "StageHop",
    "StageLayers",
    "StageState",
    "StagesEvent",
    "StreamEvent",
    "encode_event",
]


class Event(msgspec.Struct, tag_field="type", kw_only=True, frozen=True):
    """What all events are."""


class ModelEvent(Event, tag="model", frozen=True):
    """What is served, and how."""

    name: str
    mode: str  # of an offload; "local" without one
    staged: bool  # over several machines, see StagesEvent
    sees: str  # what an accelerator sees, in words
    backend: str
    dtype: str
    threads: int
    context: int  # tokens of a sequence
    block_size: int  # tokens
    most_running: int  # sequences
    software: str


class RequestState(msgspec.Struct, frozen=True):
    """One that runs. `tokens` are generated so far, of all its samples."""

    id: str
    seconds: float  # since it was handed in
    prompt_tokens: int
    tokens: int
    samples: int


class EngineEvent(Event, tag="engine", frozen=True):
    """How the engine stands. What ends in `_total` counts up since the server started."""

    time: float  # seconds of a clock that only goes forward
    running: int  # sequences
    waiting: int
    blocks: int  # of the KV cache
    blocks_used: int
    prefix_queries_total: int  # prompt tokens looked up in the cache
    prefix_hits_total: int
    stored_hits_total: int  # of these, from the disk
    preemptions_total: int
    steps_total: int
    prompt_tokens_total: int
    generated_tokens_total: int
    drafted_tokens_total: int  # guessed ahead by speculation
    accepted_tokens_total: int  # of these, right
    alive: bool
    requests: list[RequestState]  # the oldest ones


class Pads(msgspec.Struct, frozen=True):
    """Rows of pads: ready of the matrix that has fewest, made ahead, used, made inline; seconds waited for some."""

    ready: int
    made_total: int
    used_total: int
    inline_total: int
    waited_s_total: float


class AcceleratorState(msgspec.Struct, frozen=True):
    """A party that multiplies, or makes pads."""

    address: str
    role: str  # "multiplies", "makes pads"
    device: str
    threads: int
    resent_total: int
    redialled_total: int


class OffloadEvent(Event, tag="offload", frozen=True):
    """What crosses the cut of an offload. `parts` are seconds of wall clock by part, in the order of a call."""

    time: float
    parts: dict[str, float]
    calls_total: int
    rows_total: int
    bytes_up_total: int
    bytes_down_total: int
    checks_passed_total: int
    checks_failed_total: int
    verified: bool
    pads: Pads | None  # None in modes without masks
    accelerators: list[AcceleratorState]


class StageState(msgspec.Struct, frozen=True):
    """A machine with layers of the model, or one that could have some: then `layers` is None.

    `busy_s_total`: seconds that it computed. `trip_s`: of a heartbeat and its answer; None before the first."""

    worker: str
    spare: bool
    live: bool
    why: str  # it isn't, or ""
    layers: tuple[int, int] | None  # the first and the last one
    weight_bytes: int
    kv_bytes: int
    steps_total: int
    busy_s_total: float
    trip_s: float | None


class StageHop(msgspec.Struct, frozen=True):
    """A link that steps take. `seconds`: of a step's bytes, lately; `bandwidth` in bytes a second, None if unknown."""

    source: str
    target: str
    steps_total: int
    bytes_total: int
    step_bytes: int  # of the last one
    seconds: float
    bandwidth: float | None


class StagesEvent(Event, tag="stages", frozen=True):
    """The stages of a model over several machines, in the order in which steps pass them, then the other machines."""

    time: float
    ready: bool  # a plan stands
    plan: int  # its number, 0 without one
    why: str  # it was made, or why there is none
    stages: list[StageState]
    hops: list[StageHop]
    in_flight: int  # batches
    most_in_flight: int
    failovers_total: int
    blocks: int  # of the KV cache; each is on all stages
    blocks_used: int


class StreamEvent(Event, tag="stream", frozen=True):
    """A stream that has started: what runs where, over which pictures. `parties` are in the order of the line."""

    model: str
    source: str
    size: tuple[int, int]  # height, width
    rate: float | None  # pictures a second of the source
    mode: str  # "full" or "delta"
    parties: list[str]  # the coordinator first


class SourceState(msgspec.Struct, frozen=True):
    """What went wrong at a source: packets that can't be decoded, how often it was lost and found, for how long."""

    name: str
    bad_packets_total: int
    lost_total: int
    reconnects_total: int
    away_s_total: float


class SourcesEvent(Event, tag="sources", frozen=True):
    """The sources of a stream, whenever something happens to one of them."""

    sources: list[SourceState]


class LayerInfo(msgspec.Struct, frozen=True):
    """A layer. `cut` is what crosses after it, in bytes, where one tensor does; None inside of blocks."""

    name: str
    operator: str
    flops: int
    cut: int | None


class GraphEvent(Event, tag="graph", frozen=True):
    """The network's layers in order."""

    nodes: list[LayerInfo]


class StageLayers(msgspec.Struct, frozen=True):
    """One party's share of the layers, by their numbers."""

    party: str
    nodes: list[int]


class PlanEvent(Event, tag="plan", frozen=True):
    """Who runs what, from picture `since` on, and why. `rejected` are other plans with what they would have cost."""

    number: int
    stages: list[StageLayers]
    scheduler: str
    picture: str  # the encoding in which pictures reach the first stage
    since: int
    why: str
    expected_ms: float | None  # of a picture
    rejected: list[tuple[str, float]]  # name, ms


class SpansEvent(Event, tag="spans", frozen=True):
    """What parties did on a picture: rows of [party, kind, start, end], seconds of the coordinator's clock."""

    picture: int
    spans: list[tuple[str, str, float, float]]


class LayersEvent(Event, tag="layers", frozen=True):
    """The share of changed elements, 0 to 1, of the values on the cuts and of others that were measured, by node."""

    picture: int
    changed: dict[int, float]


class HopState(msgspec.Struct, frozen=True):
    """A link between two parties: estimated bandwidth in bytes a second, latency in seconds, bytes of a picture."""

    source: str
    target: str
    bandwidth: float | None
    latency: float | None
    nbytes: int
    kind: str  # of its payloads: "key", "delta", "picture"


class LinksEvent(Event, tag="links", frozen=True):
    """The links as they are estimated now."""

    time: float
    hops: list[HopState]


class BoxState(msgspec.Struct, frozen=True):
    """Something that was detected: left, top, right and bottom in pixels of the picture that the network took."""

    label: str
    score: float
    box: tuple[float, float, float, float]


class PictureEvent(Event, tag="picture", frozen=True):
    """A picture with its result. `tiles`: the changed share of each tile in 0..100, row by row; `image`: a data URL.

    `latency_ms` is from capture to the result, `transit_ms` from the last sending: links and layers alone.
    """

    picture: int
    latency_ms: float
    transit_ms: float
    rate: float | None  # pictures a second, lately
    result: list[tuple[str, float]]  # label, score; likeliest first
    dropped: str  # why there is no result, or ""
    size: tuple[int, int]  # height, width
    grid: tuple[int, int]  # rows, columns of tiles
    tiles: list[int]
    image: str
    boxes: list[BoxState] | None = None  # the best first, 100 at most; None: the network is no detector


def encode_event(event: Event) -> bytes:
    """As a server-sent event."""
    return b"data: " + msgspec.json.encode(event) + b"\n\n"
