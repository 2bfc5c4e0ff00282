"""The handshake that begins every link between two parties of Cutset, whatever they do afterwards.

    who dials    -> hello     protocol, version, software, model, nonce, about, asks, evidence
    who listens  -> welcome   protocol, version, software, model, nonce, about, evidence
                    or refused: why, in one line

Each side says which protocol it speaks, in which version, and which model it has; whoever finds another one ends the
link. `about` is what the protocol itself wants to say there. Evidence (the quote of an enclave, say) is shown only to
a side that asks for it, which gives a function that verifies it; it is bound to both keys of the link and to what was
said before it, so that nobody can show another one's. docs/protocol.md has the messages.
"""

from __future__ import annotations

import hashlib
import secrets
import time
from collections.abc import Callable
from dataclasses import dataclass, replace
from typing import Annotated, NamedTuple, TypeVar

import msgspec

from cutset.errors import ConfigError, CutsetError, FrameError, HandshakeError, LinkTimeout, printable
from cutset.link.interface import Link
from cutset.link.keys import HEX, Keys
from cutset.version import software

__all__ = [
    "MOST_ABOUT",
    "MOST_EVIDENCE",
    "PRINTABLE",
    "Binding",
    "Dialled",
    "Handshake",
    "Hello",
    "Protocol",
    "Refused",
    "Welcome",
    "is_hello",
    "peer_key",
    "read_about",
    "refusal",
    "refused",
]

NONCE = 16
MOST_ABOUT = 4 << 10  # bytes
MOST_EVIDENCE = 32 << 10  # bytes: quotes with their certificates have 5 to 20 KiB
MOST_ANSWER = 64 << 10  # bytes of the frame of an answer to hello
MOST_REASON = 1000  # characters
HELLO = b"\xa5hello"
LABEL = b"cutset evidence 1"
ASK = 0.5  # seconds between two calls of `waiting`

PRINTABLE = r"\A[^\x00-\x1f\x7f-\x9f]*\Z"  # texts end on the terminal of the other side, which obeys the rest
Count = Annotated[int, msgspec.Meta(ge=0, le=2**62)]
Word = Annotated[str, msgspec.Meta(max_length=200, pattern=PRINTABLE)]
About = TypeVar("About")
Nonce = Annotated[bytes, msgspec.Meta(min_length=NONCE, max_length=NONCE)]
Bounded = Annotated[bytes, msgspec.Meta(max_length=MOST_ABOUT)]
Evidence = Annotated[bytes, msgspec.Meta(max_length=MOST_EVIDENCE)]


class Hello(msgspec.Struct, tag="hello", array_like=True, forbid_unknown_fields=True):
    """First on every link, from whoever dialled. In every version the first four elements are these."""

    protocol: Word
    version: Count
    software: Word
    model: Word  # a digest; "": none, or any will do
    nonce: Nonce
    about: Bounded
    asks: bool  # for evidence
    evidence: Evidence


class Welcome(msgspec.Struct, tag="welcome", array_like=True, forbid_unknown_fields=True):
    """The answer to Hello. In every version the first four elements are these."""

    protocol: Word
    version: Count
    software: Word
    model: Word
    nonce: Nonce
    about: Bounded
    evidence: Evidence


class Refused(msgspec.Struct, tag="refused", array_like=True, forbid_unknown_fields=True):
    """Why a message wasn't heeded; the same in every version. Never a traceback. `call`: the number of what was asked,
    where it had one."""

    reason: Annotated[str, msgspec.Meta(max_length=MOST_REASON, pattern=PRINTABLE)]
    call: Count = 0


@dataclass(frozen=True, slots=True)
class Protocol:
    """`whom`: who listens, for messages. `before`: the last version that had a handshake of its own."""

    name: str
    version: int
    whom: str
    before: int = 0


@dataclass(frozen=True, slots=True)
class Binding:
    """What evidence must be bound to: the keys of both sides, 32 bytes each, which the link has proven, and a digest of
    what was said before (32 bytes), with both nonces as far as they are known.

    A dialler's evidence comes before the listener has said anything. So it is as fresh as the dialler's key is.
    """

    prover: bytes
    verifier: bytes
    transcript: bytes

    @property
    def digest(self) -> bytes:
        """32 bytes, for the user data of a quote."""
        return hashlib.sha256(LABEL + self.prover + self.verifier + self.transcript).digest()


class Dialled(NamedTuple):
    """A link whose handshake is done, and the seconds from hello to welcome."""

    link: Link
    welcome: Welcome
    seconds: float


_encode = msgspec.msgpack.Encoder().encode
_hello = msgspec.msgpack.Decoder(Hello)
_answer: msgspec.msgpack.Decoder[Welcome | Refused] = msgspec.msgpack.Decoder(Welcome | Refused)
_elements = msgspec.msgpack.Decoder(list[msgspec.Raw])


@dataclass(frozen=True, slots=True)
class Handshake:
    """One side of it, the same for all of its links.

    model: a digest, "" where it has none or takes any. key: this side's public key where links have keys, 32 bytes.
    prove: makes evidence. verify: says True for evidence that is good; with it evidence is a condition, and a peer that
    shows none is refused. It is called by the thread that serves, with bytes of a stranger; what it raises is a
    refusal. Evidence that wasn't asked for is refused too.
    """

    protocol: Protocol
    model: str = ""
    key: bytes = b""
    prove: Callable[[Binding], bytes] | None = None
    verify: Callable[[bytes, Binding], bool] | None = None

    def with_keys(self, keys: Keys | None) -> Handshake:
        """The same, on links with these keys."""
        return replace(self, key=b"" if keys is None else keys.public)

    def dial(
        self,
        connect: Callable[[], Link],
        about: bytes = b"",
        *,
        timeout: float,
        waiting: Callable[[Link], None] | None = None,
    ) -> Dialled:
        """Opens a link and says hello. `timeout`: seconds until there must be an answer; `waiting` is called now and
        then until it comes. Raises HandshakeError where the other side refuses or is another one than it should be,
        FrameError for what is no answer, and what the link raises."""
        link = connect()
        try:
            hello = self._hello(link, about)
            begun = time.monotonic()
            link.send(_encode(hello), timeout=timeout)
            header = _receive(link, begun + timeout, waiting)
            seconds = time.monotonic() - begun
            return Dialled(link, self._judge(link, hello, header), seconds)
        except BaseException:
            link.close()
            raise

    def accept(self, link: Link, header: bytes) -> Hello:
        """Reads a dialler's hello. Raises HandshakeError for one that isn't welcome, FrameError for what is none;
        `refusal` says it to the other side."""
        front = _front(header, "hello")
        if front is None:
            raise FrameError("say hello first")
        if front.protocol not in ("", self.protocol.name):
            name = self.protocol.name
            raise HandshakeError(f"this {self.protocol.whom} speaks {name!r}, not {front.protocol!r}")
        if not front.protocol or front.version != self.protocol.version:
            raise HandshakeError(self._versions(front.software, str(front.version), software()))
        try:
            hello = _hello.decode(header)
        except (msgspec.MsgspecError, RecursionError, UnicodeDecodeError) as error:
            raise FrameError(f"this hello makes no sense: {error}") from None
        if hello.model and self.model and hello.model != self.model:
            raise HandshakeError(
                f"it has loaded another model (its weights' digest is {self.model[:12]}…, yours {hello.model[:12]}…): "
                "start it with the same checkpoint"
            )
        self._check_evidence(link, hello.evidence, _transcript(hello), "you show")
        return hello

    def welcome(self, link: Link, hello: Hello, about: bytes = b"") -> bytes:
        """The answer to a hello that was accepted."""
        welcome = Welcome(
            self.protocol.name, self.protocol.version, software(), self.model, secrets.token_bytes(NONCE), about, b""
        )
        if hello.asks and self.prove is not None:
            welcome.evidence = self._evidence(link, _transcript(hello, welcome))
        return _encode(welcome)

    def _hello(self, link: Link, about: bytes) -> Hello:
        asks = self.verify is not None
        if asks:
            self._binding(link, b"", proves=False)  # before anything is said
        nonce = secrets.token_bytes(NONCE)
        hello = Hello(self.protocol.name, self.protocol.version, software(), self.model, nonce, about, asks, b"")
        if self.prove is not None:
            hello.evidence = self._evidence(link, _transcript(hello))
        return hello

    def _judge(self, link: Link, hello: Hello, header: bytes) -> Welcome:
        where = f"the {self.protocol.whom} at {link.address}"
        front = _front(header, "welcome")
        if front is not None and front.protocol not in ("", self.protocol.name):
            raise HandshakeError(
                f"what listens at {link.address} is no {self.protocol.whom}: it speaks {front.protocol!r}, not "
                f"{self.protocol.name!r}; check the address"
            )
        if front is not None and (not front.protocol or front.version != self.protocol.version):
            raise HandshakeError(self._versions(f"{where} ({front.software})", str(front.version), "this side"))
        if _refused_of_old(header):
            old = self.protocol.before
            raise HandshakeError(self._versions(where, f"{old} or older" if old > 1 else f"{old}", "this side"))
        try:
            answer = _answer.decode(header)
        except (msgspec.MsgspecError, RecursionError, UnicodeDecodeError) as error:
            raise FrameError(
                f"what listens at {link.address} sent a message that isn't one of the {self.protocol.name}'s: it is "
                f"no {self.protocol.whom} of Cutset: {error}"
            ) from None
        if isinstance(answer, Refused):
            raise HandshakeError(f"{where} refused: {answer.reason}")
        if answer.model and self.model and answer.model != self.model:
            raise HandshakeError(
                f"{where} has loaded another model (its weights' digest is {answer.model[:12]}…, ours "
                f"{self.model[:12]}…): start it with the same checkpoint"
            )
        self._check_evidence(link, answer.evidence, _transcript(hello, answer), f"{where} shows")
        return answer

    def _versions(self, who: str, theirs: str, here: str) -> str:
        return (
            f"{who} speaks version {theirs} of the {self.protocol.name} protocol, {here} {self.protocol.version}: "
            "install the same Cutset on both sides"
        )

    def _binding(self, link: Link, transcript: bytes, *, proves: bool) -> Binding:
        theirs = peer_key(link)
        if theirs is None or not self.key:
            raise HandshakeError(f"evidence is bound to the keys of a link, and {link.address} has none: use tcp")
        return Binding(*((self.key, theirs) if proves else (theirs, self.key)), transcript)

    def _evidence(self, link: Link, transcript: bytes) -> bytes:
        binding = self._binding(link, transcript, proves=True)
        evidence = b"" if self.prove is None else self.prove(binding)
        if len(evidence) > MOST_EVIDENCE:
            raise ConfigError(f"evidence of {len(evidence)} bytes can't be sent; {MOST_EVIDENCE} are the most")
        return evidence

    def _check_evidence(self, link: Link, evidence: bytes, transcript: bytes, who: str) -> None:
        if self.verify is None:
            if evidence:
                raise HandshakeError(f"{who} evidence, and nobody asked for it or can verify it: show none")
            return
        if not evidence:
            raise HandshakeError(f"{who} no evidence, and it is required")
        binding = self._binding(link, transcript, proves=False)
        try:
            good = self.verify(evidence, binding)
        except CutsetError as error:
            raise HandshakeError(f"{who} evidence that isn't good: {error}") from None
        except Exception as error:  # whatever a parser makes of bytes of a stranger
            raise HandshakeError(f"{who} evidence that can't be read: {type(error).__name__}") from None
        if good is not True:
            raise HandshakeError(f"{who} evidence that isn't good")


def peer_key(link: Link) -> bytes | None:
    """The public key at the other end, which the link has proven; None where links have no keys."""
    return bytes.fromhex(link.peer) if link.address.startswith("tcp://") and HEX.fullmatch(link.peer) else None


def is_hello(header: bytes) -> bool:
    """Whether a message is a hello, of any version: by its name alone."""
    return HELLO in (header[1:7], header[3:9])  # after the number of fields, a short one or a long one


def read_about(message: Hello | Welcome, kind: type[About]) -> About:
    """What a protocol says in its `about`. Raises FrameError for what isn't that."""
    try:
        return msgspec.msgpack.decode(message.about, type=kind)
    except (msgspec.MsgspecError, RecursionError, UnicodeDecodeError) as error:
        raise FrameError(f"what the other side says of itself makes no sense: {error}") from None


def refused(reason: str, call: int = 0) -> Refused:
    """A refusal with a reason of any length, whatever is in it."""
    return Refused(printable(reason, lines=False)[:MOST_REASON], call)


def refusal(header: bytes, reason: str) -> bytes:
    """The answer to a hello that isn't welcome, in words that its version understands."""
    message, front = refused(reason), _front(header, "hello")
    if front is None or front.protocol:
        return _encode(message)
    # The offload's hello of version 1 had two fields, and its refusals a number first; the cluster's of 2 had five.
    return _encode(["refused", 0, message.reason[:500]] if front.fields == 2 else ["refused", message.reason])


def _receive(link: Link, until: float, waiting: Callable[[Link], None] | None) -> bytes:
    """The header of the answer."""
    while True:
        left = max(until - time.monotonic(), 0.0)
        try:
            frame = link.recv(left if waiting is None else min(ASK, left), MOST_ANSWER)
        except LinkTimeout:
            if waiting is None or time.monotonic() >= until:
                raise
            waiting(link)
            continue
        header = frame.header
        frame.release()
        return header


def _transcript(hello: Hello, welcome: Welcome | None = None) -> bytes:
    """A digest of what was said: all of hello before the welcome's evidence, and neither's own."""
    if welcome is None:
        return hashlib.sha256(_encode(msgspec.structs.replace(hello, evidence=b""))).digest()
    first = _encode(hello)
    whole = len(first).to_bytes(8, "little") + first + _encode(msgspec.structs.replace(welcome, evidence=b""))
    return hashlib.sha256(whole).digest()


class _Front(NamedTuple):
    """What hello and welcome of any version tell. `protocol` is empty where a version had a handshake of its own."""

    protocol: str
    version: int
    software: str
    fields: int


def _front(header: bytes, name: str) -> _Front | None:
    """The beginning of a hello or a welcome of any version; None for anything else."""
    count, elements = _first_elements(header)
    match elements:
        case [tag, str(protocol), int(version), str(theirs)] if tag == name:
            return _Front(protocol, version, theirs, count - 1)
        case [tag, int(version), str(theirs), *_] if tag == name:
            return _Front("", version, theirs, count - 1)
    return None


def _refused_of_old(header: bytes) -> bool:
    """A refusal of a version that had a handshake of its own: with a number first, or nothing but the reason."""
    count, elements = _first_elements(header)
    return bool(elements) and elements[0] == "refused" and (count == 2 or isinstance(elements[1], int))


def _first_elements(header: bytes) -> tuple[int, list[str | int | None]]:
    """How many elements a message has, and the first four; None for what is neither text nor number."""
    found: list[str | int | None] = []
    try:
        raws = _elements.decode(header)
    except (msgspec.MsgspecError, RecursionError):
        return 0, []
    for raw in raws[:4]:
        try:
            value = msgspec.msgpack.decode(raw, type=str | int)
            found.append(printable(value, lines=False)[:200] if isinstance(value, str) else value)
        except (msgspec.MsgspecError, UnicodeDecodeError):
            found.append(None)
    return len(raws), found
