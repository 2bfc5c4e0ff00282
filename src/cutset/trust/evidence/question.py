"""The question for evidence, on a connection whose key is known: bytes out, bytes in, without a socket.

GET /evidence?nonce=<64 hexadecimal digits> HTTP/1.1    nothing else: no key of an API, no cookie, no body
200, Content-Length, a document                         the connection stays open, for the request itself
"""

from __future__ import annotations

import h11

from cutset.errors import EvidenceError, printable
from cutset.trust.evidence.document import MOST_DOCUMENT

__all__ = ["EVIDENCE_PATH", "MOST_SECONDS", "Question"]

EVIDENCE_PATH = "/evidence"
MOST_SECONDS = 60.0  # for an answer
MOST_HEAD = 16 << 10
NONE_SHOWN = {
    400: "the server doesn't understand the question for evidence",
    404: "the server shows no evidence: it has to be started with --evidence",
    429: "too many ask the server for evidence; try again",
    503: "too many ask the server for evidence, or it can't show any now; try again",
}


class Question:
    """One question. Send `request`, then feed what comes until there is a document."""

    def __init__(self, host: str, nonce: bytes) -> None:
        self._http = h11.Connection(h11.CLIENT, max_incomplete_event_size=MOST_HEAD)
        target = f"{EVIDENCE_PATH}?nonce={nonce.hex()}"
        headers = [("host", host), ("accept", "application/json")]
        self.request = self._send(h11.Request(method="GET", target=target, headers=headers))
        self.request += self._send(h11.EndOfMessage())
        self._body = bytearray()

    def _send(self, event: h11.Request | h11.EndOfMessage) -> bytes:
        return self._http.send(event) or b""

    def feed(self, data: bytes) -> bytes | None:
        """The document, once all of it has come; None until then. `data` is empty where the other side has closed.
        Raises EvidenceError for anything but a document on a connection that stays open."""
        try:
            self._http.receive_data(data)
            return self._read()
        except h11.RemoteProtocolError as error:
            raise EvidenceError(
                f"its answer to the question for evidence makes no sense: {printable(str(error))}"
            ) from None

    def _read(self) -> bytes | None:
        while True:
            event = self._http.next_event()
            if event is h11.NEED_DATA:
                return None
            if isinstance(event, h11.Response):
                if event.status_code != 200:
                    said = f"the server answers the question for evidence with HTTP {event.status_code}"
                    raise EvidenceError(NONE_SHOWN.get(event.status_code, said))
            elif isinstance(event, h11.Data):
                self._body += event.data
                if len(self._body) > MOST_DOCUMENT:
                    raise EvidenceError(f"its evidence has more than {MOST_DOCUMENT >> 10} KiB")
            elif isinstance(event, h11.EndOfMessage):
                # What the next answer begins with would be taken for one to a request that wasn't sent yet.
                if self._http.their_state is not h11.DONE or self._http.trailing_data[0]:
                    raise EvidenceError("the server doesn't keep the connection open that its evidence was shown on")
                return bytes(self._body)
            elif not isinstance(event, h11.InformationalResponse):
                raise EvidenceError("the server closed the connection instead of showing evidence")
