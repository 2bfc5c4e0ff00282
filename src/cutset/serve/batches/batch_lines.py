"""One line of a batch in OpenAI's format, and its answer."""

from __future__ import annotations

import hashlib
from collections.abc import Mapping
from pathlib import Path
from typing import Any, NamedTuple

import msgspec
from starlette.types import ASGIApp

from cutset.batches.input_lines import InputLine, LineReader, Survey
from cutset.reading import MALFORMED
from cutset.serve.api_errors import invalid
from cutset.serve.batches.in_process import InnerAnswer, ask

__all__ = ["ENVELOPE", "URLS", "LineAnswer", "LineAnswerer", "answers_all", "custom_id"]

URLS = ("/v1/chat/completions", "/v1/completions", "/v1/embeddings", "/v1/responses")
ENVELOPE = 64 << 10  # bytes of a line beside its body
MOST_NAME = 512  # characters of a custom_id
MOST_ANSWER = 1 << 30  # bytes of a line of the output


class BatchLine(msgspec.Struct, forbid_unknown_fields=True):
    """A request of a batch."""

    custom_id: str
    method: str
    url: str
    body: msgspec.Raw


class Identified(msgspec.Struct):
    """What is read of a line, if nothing else is."""

    custom_id: Any = None


class Streamed(msgspec.Struct):
    """What is looked at in a body before it is a request."""

    stream: Any = None


class LineAnswer(NamedTuple):
    """A line of the output, JSON without a line end. `ok`: its request was answered; `status`: of its HTTP answer, 0
    where there is none."""

    ok: bool
    status: int
    text: bytes


class Numbered(msgspec.Struct):
    """What is read of a line of the output."""

    id: str = ""


class RefusedLine(Exception):
    """A line that is no request."""

    def __init__(self, code: str, message: str) -> None:
        super().__init__(message)
        self.code, self.message = code, message


def custom_id(text: bytes) -> str | None:
    """The name that a line gives its request; None where it gives none that could be used."""
    try:
        found = msgspec.json.decode(text, type=Identified).custom_id
    except (*MALFORMED, ValueError):
        return None
    return found if isinstance(found, str) else None


def line_name(digest: str, number: int) -> str:
    """What the answer of a line is called: the same whenever the line of this input is answered again."""
    return hashlib.sha256(f"{digest}:{number}".encode()).hexdigest()[:24]


def answers_all(source: Path, output: Path, found: Survey, longest: int) -> bool:
    """Whether `output` has the answers of all lines of `source`, of at most `longest` bytes, in their order. Raises
    ConfigError."""
    written = iter(LineReader(output, MOST_ANSWER))
    for line in LineReader(source, longest):
        if line.blank:
            continue
        answer = next(written, None)
        if answer is None or answer.text is None:
            return False
        try:
            name = msgspec.json.decode(answer.text, type=Numbered).id
        except (*MALFORMED, ValueError):
            return False
        if name != f"batch_req_{line_name(found.sha256, line.number)}":
            return False
    return next(written, None) is None


class LineAnswerer:
    """Answers lines by the applications that answer a server's clients."""

    def __init__(
        self,
        apps: Mapping[str, ASGIApp],
        digest: str,
        *,
        endpoint: str | None = None,
        owner: str | None = None,
        longest: int,
    ) -> None:
        """`apps`: by their paths; `digest`: of the input; `endpoint`: the one path that lines may name, None for any;
        `owner`: whose they are; `longest`: bytes of a line, for errors."""
        self._apps, self._digest, self._owner, self._longest = apps, digest, owner, longest
        self._urls = [url for url in URLS if url in apps and endpoint in (None, url)]

    async def answer(self, line: InputLine, first: int | None) -> LineAnswer:
        """The answer of a line; `first` is the line that had its custom_id before, if one had."""
        name = None if line.text is None else custom_id(line.text)
        try:
            request = self._read(line, first)
        except RefusedLine as error:
            return self.refused(line.number, name, error.code, error.message)
        if _streams(request.body):
            shown = invalid("stream: true can't be used in a batch: leave it out", "stream")
            found = InnerAnswer(shown.status, "", shown.body())
        else:
            found = await ask(self._apps[request.url], request.url, bytes(request.body), self._owner)
        return self._answered(line.number, request.custom_id, found)

    def refused(self, number: int, name: str | None, code: str, message: str) -> LineAnswer:
        """The answer of a line whose request wasn't made."""
        error = {"code": code, "message": message, "line": number + 1}
        return LineAnswer(False, 0, self._output(number, name, None, error))

    def _answered(self, number: int, name: str, found: InnerAnswer) -> LineAnswer:
        request_id = found.request_id or f"req_{self._name(number)}"
        body = msgspec.Raw(found.body)
        response = {"status_code": found.status, "request_id": request_id, "body": body}
        return LineAnswer(found.status < 400, found.status, self._output(number, name, response, None))

    def _output(self, number: int, name: str | None, response: Any, error: Any) -> bytes:
        shown = {"id": f"batch_req_{self._name(number)}", "custom_id": name, "response": response, "error": error}
        return msgspec.json.encode(shown)

    def _name(self, number: int) -> str:
        return line_name(self._digest, number)

    def _read(self, line: InputLine, first: int | None) -> BatchLine:
        """The request in a line. Raises RefusedLine."""
        if line.text is None:
            raise RefusedLine("line_too_long", f"the line has {line.size} bytes; at most {self._longest} are read")
        try:
            line.text.decode()
        except UnicodeDecodeError as error:
            raise RefusedLine("invalid_encoding", f"the line isn't UTF-8: byte {error.start} is wrong") from None
        try:
            request = msgspec.json.decode(line.text, type=BatchLine)
        except msgspec.ValidationError as error:
            raise RefusedLine("invalid_request", f"the line is no request of a batch: {_short(error)}") from None
        except RecursionError:
            raise RefusedLine("invalid_json_line", "the line is nested too deeply: make it flatter") from None
        except ValueError as error:
            raise RefusedLine("invalid_json_line", f"the line isn't valid JSON: {_short(error)}") from None
        if not 0 < len(request.custom_id) <= MOST_NAME:
            raise RefusedLine("invalid_custom_id", f"custom_id must have 1 to {MOST_NAME} characters")
        if first is not None:
            text = f"custom_id {request.custom_id[:80]!r} is that of line {first + 1}: give each request its own"
            raise RefusedLine("duplicate_custom_id", text)
        if request.method != "POST":
            raise RefusedLine("invalid_method", f"method must be POST, not {request.method[:20]!r}")
        if request.url not in self._urls:
            text = f"url must be {' or '.join(self._urls)}, not {request.url[:100]!r}"
            raise RefusedLine("invalid_url" if request.url not in URLS else "mismatched_url", text)
        return request


def _short(error: Exception) -> str:
    text = str(error)
    return text if len(text) <= 300 else text[:297] + "..."


def _streams(body: msgspec.Raw) -> bool:
    try:
        return bool(msgspec.json.decode(body, type=Streamed).stream)
    except (*MALFORMED, ValueError):
        return False  # what is wrong with it is said by who reads it
