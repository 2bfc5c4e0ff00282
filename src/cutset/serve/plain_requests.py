"""Requests of which every field is known by name."""

from __future__ import annotations

from typing import TypeVar

import msgspec
from starlette.types import Receive, Scope, Send

from cutset.serve.request_limits import read_body
from cutset.serve.requests import decode_fields
from cutset.serve.service import Service

__all__ = ["parse_plain", "read_plain"]

_Plain = TypeVar("_Plain", bound=msgspec.Struct)


def parse_plain(body: bytes, kind: type[_Plain]) -> _Plain:
    """The request in a body; what is null counts as missing. Raises ApiError that names what is wrong."""
    return decode_fields(
        body, kind, lambda fields: {name: value for name, value in fields.items() if value is not None}
    )


async def read_plain(service: Service, scope: Scope, receive: Receive, send: Send, kind: type[_Plain]) -> _Plain | None:
    """The request that comes, while the service is open; None where nobody waits for its answer any more.

    Raises ApiError.
    """
    service.check_open()
    body = await read_body(scope, receive, send, service.limits)
    return None if body is None else parse_plain(body, kind)
