"""Errors in the shape that OpenAI's clients expect."""

from __future__ import annotations

import logging
import re
from collections.abc import Mapping

import msgspec

from cutset.errors import (
    ContextLengthError,
    CutsetError,
    EngineError,
    IntegrityError,
    LinkError,
    OffloadError,
    RequestError,
    TokenizerError,
)

__all__ = ["NO_RETRY", "ApiError", "as_api_error", "invalid", "server_failed"]

log = logging.getLogger(__name__)

NO_RETRY = {"x-should-retry": "false"}  # OpenAI's clients obey it; without it they try a 5xx twice more


class ApiError(Exception):
    """What a client did wrong, or can't have: an HTTP status and the body that says so."""

    def __init__(
        self,
        status: int,
        message: str,
        *,
        kind: str = "invalid_request_error",
        code: str | None = None,
        param: str | None = None,
        headers: Mapping[str, str] | None = None,
    ) -> None:
        super().__init__(message)
        self.status, self.message, self.kind, self.code, self.param = status, message, kind, code, param
        self.headers = dict(headers or {})

    def body(self, path: str = "") -> bytes:
        """`{"error": {"message", "type", "param", "code"}}`, or where the request's path is one of Ollama's, whose
        clients expect a text, `{"error": "message"}`."""
        if path.startswith("/api/"):
            return msgspec.json.encode({"error": self.message})
        fields = {"message": self.message, "type": self.kind, "param": self.param, "code": self.code}
        return msgspec.json.encode({"error": fields})


def invalid(message: str, param: str | None = None, code: str | None = None) -> ApiError:
    """A request that can't be served as it is."""
    return ApiError(400, message, param=param, code=code)


def server_failed() -> ApiError:
    """The answer where a bug was met. What went wrong is the operator's to know, and is in the log."""
    return ApiError(500, "the server failed; its log says why", kind="server_error", headers=NO_RETRY)


def as_api_error(error: CutsetError) -> ApiError:
    """The answer to a client about an error of the engine or of an offload: that it failed. Where, the log says: of a
    split model that would disclose others' requests, and about the accelerator."""
    text = str(error)
    if isinstance(error, ContextLengthError):
        return invalid(text, code="context_length_exceeded")
    if isinstance(error, RequestError | TokenizerError):
        named = re.match(r"(\w+)(?:=| has the token id)|(messages\b[\w.\[\]]*)", text)  # the parameter comes first
        return invalid(text, (named[1] or named[2]) if named else None)
    log.error("a request failed: %s", error)
    status, code, what = 500, "", "the server failed"
    if isinstance(error, IntegrityError):
        status, code, what = 502, "integrity_error", "an accelerator gave a wrong product, so there is no answer"
    elif isinstance(error, OffloadError | LinkError):
        status, code, what = 502, "offload_error", "an offload failed, so there is no answer"
    elif isinstance(error, EngineError):
        code, what = "engine_error", "the engine failed, so there is no answer"
    return ApiError(
        status, f"{what}; the server's log says more", kind="server_error", code=code or None, headers=NO_RETRY
    )
