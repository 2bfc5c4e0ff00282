"""Parties that show what a test tells them to, and keep every frame that comes: what has left before evidence fits."""

from __future__ import annotations

import contextlib
import threading
from collections.abc import Callable, Iterator
from dataclasses import replace
from pathlib import Path

from cutset.errors import CutsetError
from cutset.link import Frame, Limits, Link, listen
from cutset.link.keys import Keys, new_keys
from cutset.link.peer import Handshake, is_hello, refusal
from cutset.trust.evidence.document import Prover
from cutset.trust.evidence.link_evidence import prove_link
from cutset.trust.evidence.providers import SimulatorProvider
from cutset.trust.evidence.served_files import manifest_digest
from cutset.version import software
from tests.trust.wire import policy_text

__all__ = ["WRONG", "Recorder", "policy_for", "shown"]

WRONG = {
    "none": "shows no evidence, and it is required",
    "another enclave": "its measurement .* isn't one that the policy allows",
    "another mode": "its mode .* isn't one that the policy allows",
    "another link's": "bound to something else",
}


def policy_for(place: Path, mode: str, *, measured: bytes = b"cutset", manifest: str = "") -> Path:
    """A policy for what a simulator shows in this mode, of no files where no `manifest` is given."""
    text = policy_text(SimulatorProvider(measured).measurement.hex(), manifest or manifest_digest([]).hex())
    text = text.replace('modes = ["none"]', f'modes = ["{mode}"]')
    place.write_text(text.replace('versions = ["cutset 1"]', f'versions = ["{software()}"]'))
    return place


def shown(handshake: Handshake, mode: str, wrong: str = "") -> Handshake:
    """The handshake of who shows what `policy_for` fits, or something `wrong`, of WRONG."""
    if wrong == "none":
        return replace(handshake, prove=None)
    provider = SimulatorProvider(b"other" if wrong == "another enclave" else b"cutset")
    prover = Prover(provider, [], "elsewhere" if wrong == "another mode" else mode, software())
    if wrong == "another link's":
        stale = prover.show("curve", bytes(32), bytes(32))
        return replace(handshake, prove=lambda binding: stale)
    return replace(handshake, prove=prove_link(prover))


class Recorder:
    """Listens on tcp for whoever has `allowed`. `then` does what the protocol wants after the welcome."""

    def __init__(
        self,
        handshake: Handshake,
        allowed: Keys,
        limits: Limits,
        about: bytes = b"",
        then: Callable[[Link], None] = lambda link: None,
    ) -> None:
        self.keys, self.frames = new_keys(), list[bytes]()
        self._handshake, self._about, self._then = handshake.with_keys(self.keys), about, then
        self._listener = listen("tcp://127.0.0.1:0", keys=self.keys, allow={allowed.public}, limits=limits)
        self.address = self._listener.address
        self._over = threading.Event()
        self._thread = threading.Thread(target=self._serve, daemon=True)

    @contextlib.contextmanager
    def running(self) -> Iterator[Recorder]:
        self._thread.start()
        try:
            yield self
        finally:
            self._over.set()
            self._thread.join(10)
            self._listener.close()

    @property
    def hellos(self) -> int:
        """How many of the frames are a hello."""
        return sum(is_hello(frame) for frame in self.frames)

    def _serve(self) -> None:
        while not self._over.is_set():
            with contextlib.suppress(CutsetError):
                if (got := self._listener.recv(0.05)) is not None:
                    self._take(*got)

    def _take(self, link: Link, frame: Frame) -> None:
        header = frame.header
        self.frames.append(header + b"".join(array.tobytes() for array in frame.arrays))
        frame.release()
        if not is_hello(header):
            return
        try:
            hello = self._handshake.accept(link, header)
        except CutsetError as error:
            link.send(refusal(header, str(error)), timeout=1)
            raise
        link.send(self._handshake.welcome(link, hello, self._about), timeout=1)
        self._then(link)
