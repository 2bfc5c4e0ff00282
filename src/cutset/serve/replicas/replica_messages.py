"""What a front and its replicas say to each other, over one link each. docs/protocol.md describes it.

The front has the tokenizer, templates, parsers and all that clients see; a replica runs requests that are token ids
already. A frame is one array of bytes, a message in MessagePack: a frame's header would be too short for some.
"""

from __future__ import annotations

from collections.abc import Mapping
from typing import Annotated, Any, Literal

import msgspec
import numpy as np
from numpy.typing import NDArray

from cutset.engine.grammar import Grammar
from cutset.engine.outputs import Delta, EngineStats, FinishReason, Timings, TokenLogprob, Usage
from cutset.engine.params import MAX_N, SamplingParams
from cutset.engine.resumption import Resumption
from cutset.errors import CutsetError, EngineError, FrameError, LinkError, RequestError, printable
from cutset.link import Frame, Limits, Link
from cutset.link.peer import Handshake, Protocol

__all__ = [
    "BEAT",
    "LIMITS",
    "PROTOCOL",
    "REPLICA_HANDSHAKE",
    "CancelRequest",
    "EmbedTexts",
    "Failure",
    "ReplicaBeat",
    "ReplicaFacts",
    "ReplicaPieces",
    "ResumedOutputs",
    "SubmitRequest",
    "TextVectors",
    "WireDelta",
    "error_from",
    "failure_of",
    "ids_from",
    "pack",
    "params_from",
    "params_to_wire",
    "read_from_front",
    "read_from_replica",
    "wire_delta",
]

PROTOCOL = Protocol("replica", 2, "replica")
REPLICA_HANDSHAKE = Handshake(PROTOCOL)
# One front at a time; another that dials is told so, and one whose old link isn't known to be dead yet gets in.
LIMITS = Limits(frame=256 << 20, queue=4096, clients=8, each=8)
BEAT = 0.5  # seconds between two heartbeats of a replica
MOST_TEXT = 4 << 20  # characters
MOST_SEQUENCES = 2048  # texts that are embedded together

Number = Annotated[int, msgspec.Meta(ge=0, le=2**53)]
Count = Annotated[int, msgspec.Meta(ge=0, le=2**62)]
Name = Annotated[str, msgspec.Meta(max_length=1000)]
Ids = Annotated[bytes, msgspec.Meta(max_length=64 << 20)]  # little-endian int32
KINDS: dict[str, type[CutsetError]] = {"request": RequestError, "link": LinkError, "engine": EngineError}


class ReplicaFacts(msgspec.Struct, tag="facts", array_like=True, forbid_unknown_fields=True):
    """First from a replica: what it runs, and how much of it. `model`: the fingerprint of its weights."""

    model: Name
    backend: Name
    dtype: Name
    device: Name
    threads: Count
    context: Count  # tokens that the model sees
    cache_tokens: Count  # that its blocks hold
    slots: Count  # sequences in a step
    blocks: Count
    adapters: Annotated[list[Name], msgspec.Meta(max_length=4096)]


class ResumedOutputs(msgspec.Struct, array_like=True, forbid_unknown_fields=True):
    """A `Resumption`."""

    outputs: Annotated[list[Ids], msgspec.Meta(max_length=MAX_N)]
    ended: Annotated[list[Count], msgspec.Meta(max_length=MAX_N)]
    cached_tokens: Count

    def resumption(self) -> Resumption:
        """As the engine takes it. Raises FrameError."""
        return Resumption(tuple(ids_from(one) for one in self.outputs), frozenset(self.ended), self.cached_tokens)


class SubmitRequest(msgspec.Struct, tag="submit", array_like=True, forbid_unknown_fields=True):
    """A prompt to be continued. `number`: the front's name for it on this link."""

    number: Number
    ids: Ids
    params: dict[str, Any]  # see params_to_wire
    salt: Name | None
    adapter: Name | None
    resumed: ResumedOutputs | None
    background: bool = False  # others go before it
    whole: bool = False  # nobody reads it before its end: pieces may be joined


class EmbedTexts(msgspec.Struct, tag="embed", array_like=True, forbid_unknown_fields=True):
    """Sequences whose vectors are wanted."""

    number: Number
    sequences: Annotated[list[Ids], msgspec.Meta(min_length=1, max_length=MOST_SEQUENCES)]
    pooling: Literal["last", "mean", "cls"]
    adapter: Name | None


class CancelRequest(msgspec.Struct, tag="cancel", array_like=True, forbid_unknown_fields=True):
    """Nobody waits for this one any more, a prompt or texts to embed."""

    number: Number


class Failure(msgspec.Struct, array_like=True, forbid_unknown_fields=True):
    """An error that a request ended with."""

    kind: Literal["request", "link", "engine"]
    text: Annotated[str, msgspec.Meta(max_length=2000)]


class WireDelta(msgspec.Struct, array_like=True, forbid_unknown_fields=True):
    """A `Delta` of request `number`."""

    number: Number
    index: Annotated[int, msgspec.Meta(ge=0, lt=MAX_N)]
    text: Annotated[str, msgspec.Meta(max_length=MOST_TEXT)] = ""
    token_ids: tuple[int, ...] = ()
    finish_reason: FinishReason | None = None
    stop_reason: str | int | None = None
    logprobs: tuple[TokenLogprob, ...] | None = None
    finished: bool = False
    usage: tuple[int, int, int] | None = None
    timings: tuple[float | None, float | None, float | None] | None = None
    error: Failure | None = None
    special: tuple[tuple[int, str], ...] = ()
    prompt_logprobs: tuple[TokenLogprob | None, ...] | None = None
    cached_tokens: int | None = None

    def delta(self, request_id: str) -> Delta:
        """As the engine gave it."""
        return Delta(
            request_id,
            self.index,
            self.text,
            self.token_ids,
            self.finish_reason,
            self.stop_reason,
            self.logprobs,
            self.finished,
            None if self.usage is None else Usage(*self.usage),
            None if self.timings is None else Timings(None, *self.timings),
            None if self.error is None else error_from(self.error),
            self.special,
            self.prompt_logprobs,
            self.cached_tokens,
        )


class ReplicaPieces(msgspec.Struct, tag="pieces", array_like=True, forbid_unknown_fields=True):
    """What some steps have brought, in order, and how the engine stands since: what it has counted includes them."""

    deltas: list[WireDelta]
    stats: EngineStats


class TextVectors(msgspec.Struct, tag="vectors", array_like=True, forbid_unknown_fields=True):
    """The answer to EmbedTexts: (sequences, hidden) float32, little-endian, or why there is none."""

    number: Number
    hidden: Count
    vectors: bytes
    error: Failure | None = None


class ReplicaBeat(msgspec.Struct, tag="beat", array_like=True, forbid_unknown_fields=True):
    """It lives, and how its engine stands; where nothing else said so lately."""

    stats: EngineStats


_encoder = msgspec.msgpack.Encoder()
_of_front: msgspec.msgpack.Decoder[SubmitRequest | EmbedTexts | CancelRequest] = msgspec.msgpack.Decoder(
    SubmitRequest | EmbedTexts | CancelRequest
)
_of_replica: msgspec.msgpack.Decoder[ReplicaFacts | ReplicaPieces | TextVectors | ReplicaBeat] = (
    msgspec.msgpack.Decoder(ReplicaFacts | ReplicaPieces | TextVectors | ReplicaBeat)
)


def pack(link: Link, message: msgspec.Struct, timeout: float | None = None) -> None:
    """Sends a message. Raises what the link raises."""
    link.send(b"", [np.frombuffer(_encoder.encode(message), dtype=np.uint8)], timeout=timeout)


def read_from_front(frame: Frame) -> SubmitRequest | EmbedTexts | CancelRequest:
    """A message of the front's. Raises FrameError."""
    message: SubmitRequest | EmbedTexts | CancelRequest = _read(frame, _of_front)
    return message


def read_from_replica(frame: Frame) -> ReplicaFacts | ReplicaPieces | TextVectors | ReplicaBeat:
    """A message of a replica's. Raises FrameError."""
    message: ReplicaFacts | ReplicaPieces | TextVectors | ReplicaBeat = _read(frame, _of_replica)
    return message


def _read(frame: Frame, decoder: msgspec.msgpack.Decoder[Any]) -> Any:
    try:
        [data] = frame.arrays
        if data.dtype != np.uint8 or data.ndim != 1:
            raise FrameError("a message of the replica protocol is one array of bytes")
        return decoder.decode(data.tobytes())
    except (ValueError, msgspec.MsgspecError, RecursionError, UnicodeDecodeError) as error:
        raise FrameError(f"this message makes no sense to the replica protocol: {str(error)[:200]}") from None
    finally:
        frame.release()


def ids_from(data: bytes) -> NDArray[np.int32]:
    """(tokens,) Raises FrameError."""
    if len(data) % 4:
        raise FrameError("token ids have four bytes each")
    return np.frombuffer(data, dtype="<i4").astype(np.int32)


def params_to_wire(params: SamplingParams) -> dict[str, Any]:
    """All parameters by name: none is left for the replica's own defaults."""
    found = {name: getattr(params, name) for name in SamplingParams.names()}
    if (grammar := params.grammar) is not None:
        found["structured_outputs"] = [grammar.kind, grammar.text, grammar.gaps, grammar.asked]
    return found


def params_from(given: Mapping[str, Any]) -> SamplingParams:
    """The parameters. Raises RequestError for values that can't be, FrameError for what isn't that."""
    values = dict(given)
    if unknown := values.keys() - set(SamplingParams.names()):
        raise FrameError(f"there is no sampling parameter {sorted(map(str, unknown))[0][:60]!r}")
    if (grammar := values.get("structured_outputs")) is not None:
        values["structured_outputs"] = _grammar(grammar)
    return SamplingParams(**values)


def _grammar(given: Any) -> Grammar:
    try:
        kind, text, gaps, asked = msgspec.convert(
            given, tuple[Literal["json", "regex", "lark"], str, str | None, Name], strict=True
        )
    except msgspec.ValidationError as error:
        raise FrameError(f"this is no grammar: {error}") from None
    if kind == "json":
        return Grammar.json_schema(text, gaps=gaps, asked=asked)
    return Grammar.regex(text, asked=asked) if kind == "regex" else Grammar.lark(text, asked=asked)


def wire_delta(number: int, delta: Delta) -> WireDelta:
    """A delta of the engine's."""
    usage, t = delta.usage, delta.timings
    return WireDelta(
        number,
        delta.index,
        delta.text,
        delta.token_ids,
        delta.finish_reason,
        delta.stop_reason,
        delta.logprobs,
        delta.finished,
        None if usage is None else (usage.prompt_tokens, usage.completion_tokens, usage.cached_tokens),
        None if t is None else (t.ttft_s, t.prefill_tps, t.decode_tps),
        None if delta.error is None else failure_of(delta.error),
        delta.special,
        delta.prompt_logprobs,
        delta.cached_tokens,
    )


def failure_of(error: Exception) -> Failure:
    """What is said of an error. That of a bug is the log's."""
    kind: Literal["request", "link", "engine"] = "engine"
    if isinstance(error, RequestError):
        kind = "request"
    elif isinstance(error, LinkError):
        kind = "link"
    text = str(error) if isinstance(error, CutsetError) else f"{type(error).__name__} in this replica"
    return Failure(kind, printable(text)[:2000])


def error_from(failure: Failure) -> CutsetError:
    """The error as it is raised here."""
    return KINDS[failure.kind](failure.text)
