"""Responses that were made, for those that go on from them: bounded, in memory, each client's apart."""

from __future__ import annotations

from collections import OrderedDict
from collections.abc import Sequence
from dataclasses import dataclass
from typing import Any

import msgspec

from cutset.serve.api_errors import ApiError

__all__ = ["ResponseStore", "StoredResponse"]


@dataclass(frozen=True)
class StoredResponse:
    """`before`: items of the responses that it went on from; `given`: those of its own input."""

    response: dict[str, Any]
    before: Sequence[Any]
    given: Sequence[Any]

    @property
    def items(self) -> list[Any]:
        """All of the conversation."""
        return [*self.before, *self.given, *self.response["output"]]


class ResponseStore:
    """Keeps at most `most` responses and `most_bytes` of JSON; those that nobody asked for longest go first."""

    def __init__(self, most: int = 1000, most_bytes: int = 64 << 20) -> None:
        self._most, self._most_bytes = most, most_bytes
        self._kept: OrderedDict[tuple[str | None, str], tuple[StoredResponse, int]] = OrderedDict()
        self.nbytes = 0

    def __len__(self) -> int:
        return len(self._kept)

    def put(self, client: str | None, stored: StoredResponse) -> None:
        """Keeps a response, unless it alone is more than may be kept."""
        # What came before is counted with each response that goes on from it: it stays when the earlier one goes.
        size = len(msgspec.json.encode([stored.response, stored.before, stored.given]))
        if size > self._most_bytes:
            return
        self._kept[client, stored.response["id"]] = stored, size
        self.nbytes += size
        while len(self._kept) > self._most or self.nbytes > self._most_bytes:
            _, (_, gone) = self._kept.popitem(last=False)
            self.nbytes -= gone

    def get(self, client: str | None, name: str, param: str | None = None) -> StoredResponse:
        """Raises ApiError 404 for one that this client has none of, any more or ever."""
        found = self._kept.get((client, name))
        if found is None:
            raise self._missing(name, param)
        self._kept.move_to_end((client, name))
        return found[0]

    def delete(self, client: str | None, name: str) -> None:
        """Raises ApiError 404 as `get` does."""
        found = self._kept.pop((client, name), None)
        if found is None:
            raise self._missing(name, None)
        self.nbytes -= found[1]

    def _missing(self, name: str, param: str | None) -> ApiError:
        text = f"there is no response {name[:80]!r}: it wasn't stored, or has given way to newer ones"
        code = "previous_response_not_found" if param else None
        return ApiError(400 if param else 404, text, param=param, code=code)
