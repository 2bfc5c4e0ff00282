"""A file that a client uploads as a form (multipart/form-data), written to disk as it comes."""

from __future__ import annotations

import asyncio
import contextlib
from collections.abc import AsyncIterator, Iterator, Sequence
from pathlib import PurePosixPath

from python_multipart.exceptions import FormParserError
from python_multipart.multipart import MultipartParser, parse_options_header
from starlette.types import Receive, Scope

from cutset.serve.api_errors import ApiError, invalid
from cutset.serve.batches.file_store import FileStore, Receiving, StoredFile
from cutset.serve.request_limits import CLOSE, RequestLimits

__all__ = ["check_origin", "receive_upload"]

BESIDE = 64 << 10  # bytes of a form beside its file
MOST_HEADERS, MOST_FIELD = 4096, 256  # bytes of a part


class FormReader:
    """Takes a form's bytes: the file's go to `place`, and fields are kept."""

    def __init__(self, boundary: bytes, place: Receiving) -> None:
        """Raises ApiError for a boundary that no form has."""
        self.fields: dict[str, str] = {}
        self.filename: str | None = None
        self.ended = False
        self._place = place
        self._headers: dict[bytes, bytes] = {}
        self._field, self._value, self._name = b"", b"", ""
        self._is_file, self._size = False, 0
        with _read_as_form():
            self._parser = MultipartParser(
                boundary,
                {
                    "on_part_begin": self._begin,
                    "on_header_field": self._header_field,
                    "on_header_value": self._header_value,
                    "on_header_end": self._header_end,
                    "on_headers_finished": self._headers_finished,
                    "on_part_data": self._data,
                    "on_part_end": self._part_end,
                    "on_end": self._end,
                },
            )

    def feed(self, data: bytes) -> None:
        """More bytes. Raises ApiError."""
        with _read_as_form():
            self._parser.write(data)

    def _begin(self) -> None:
        self._headers, self._field, self._value = {}, b"", b""
        self._is_file, self._size = False, 0

    def _grow(self, size: int, most: int) -> None:
        self._size += size
        if self._size > most:
            raise invalid("a part of the form has headers or a value that are too long")

    def _header_field(self, data: bytes, start: int, end: int) -> None:
        self._grow(end - start, MOST_HEADERS)
        self._field += data[start:end]

    def _header_value(self, data: bytes, start: int, end: int) -> None:
        self._grow(end - start, MOST_HEADERS)
        self._value += data[start:end]

    def _header_end(self) -> None:
        self._headers[self._field.lower()] = self._value
        self._field, self._value = b"", b""

    def _headers_finished(self) -> None:
        _, options = parse_options_header(self._headers.get(b"content-disposition", b""))
        self._name, self._size, self._value = options.get(b"name", b"").decode(errors="replace"), 0, b""
        if self._name == "file":
            if self.filename is not None:
                raise invalid("the form has two files: upload one", "file")
            self._is_file = True
            given = options.get(b"filename", b"").decode(errors="replace").replace("\\", "/")
            self.filename = "".join(one for one in PurePosixPath(given).name if one.isprintable())[:255] or "upload"
        elif self._name != "purpose":
            raise invalid(f"{self._name[:60]!r} isn't supported by this server: leave it out", self._name[:60] or None)

    def _data(self, data: bytes, start: int, end: int) -> None:
        if self._is_file:
            self._place.write(data[start:end])
        else:
            self._grow(end - start, MOST_FIELD)
            self._value += data[start:end]

    def _part_end(self) -> None:
        if not self._is_file:
            self.fields[self._name] = self._value.decode(errors="replace")

    def _end(self) -> None:
        self.ended = True


@contextlib.contextmanager
def _read_as_form() -> Iterator[None]:
    try:
        yield
    except FormParserError as error:
        raise invalid(f"the body is no form as its Content-Type says: {str(error)[:200]}") from None


async def receive_upload(
    store: FileStore, owner: str | None, scope: Scope, receive: Receive, limits: RequestLimits
) -> StoredFile | None:
    """The file of a form with `purpose` "batch"; None if the client left. Raises ApiError, and keeps nothing."""
    kind, options = parse_options_header(dict(scope["headers"]).get(b"content-type", b""))
    if kind != b"multipart/form-data" or not options.get(b"boundary"):
        raise ApiError(415, "send the file as a form, with the header `Content-Type: multipart/form-data; boundary=…`")
    async with store.receiving(owner) as place:
        reader, size = FormReader(options[b"boundary"], place), 0
        async for data in _body(receive, limits):
            if data is None:
                return None
            size += len(data)
            if size > place.nbytes + BESIDE + len(data):
                raise ApiError(413, "the form has too much beside its file", headers=CLOSE)
            reader.feed(data)
        if not reader.ended:
            raise invalid("the form ends in the middle")
        if reader.fields.get("purpose") != "batch":
            raise invalid('purpose must be "batch": this server keeps files for nothing else', "purpose")
        if reader.filename is None:
            raise invalid("the form has no file: give one as `file`", "file")
        place.filename = reader.filename
    return place.kept


async def _body(receive: Receive, limits: RequestLimits) -> AsyncIterator[bytes | None]:
    """The pieces of a body, each of which has to come within `limits.body_s`; None if the client left."""
    while True:
        try:
            async with asyncio.timeout(limits.body_s):
                message = await receive()
        except TimeoutError:
            text = f"nothing of the request's body came for {limits.body_s:g} s"
            raise ApiError(408, text, headers=CLOSE) from None
        if message["type"] == "http.disconnect":
            yield None
            return
        yield message.get("body", b"")
        if not message.get("more_body"):
            return


def check_origin(scope: Scope, origins: Sequence[str]) -> None:
    """Raises ApiError 403 for a form of a page that wasn't let in: browsers ask nobody before they send one."""
    origin = dict(scope["headers"]).get(b"origin")
    if origin is not None and "*" not in origins and origin.decode("latin-1").lower() not in origins:
        raise ApiError(403, f"pages of {origin.decode('latin-1')[:100]!r} may not upload: see --cors-origin")
