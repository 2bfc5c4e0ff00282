"""Structured logs: a JSON object a line on stderr, one for each request too."""

from __future__ import annotations

import logging
import sys
from datetime import UTC, datetime
from typing import Any

import msgspec

from cutset.serve.records import RequestRecord

__all__ = ["JsonLines", "log_in_json", "log_request"]

log = logging.getLogger("cutset.serve")
QUIET = ("/health", "/metrics")  # asked for every few seconds; said where they fail


class JsonLines(logging.Formatter):
    """`time`, `level`, `logger`, `message`, and what the record's `fields` say beside it."""

    def format(self, record: logging.LogRecord) -> str:
        """One line, whatever is in the message."""
        found: dict[str, Any] = {
            "time": datetime.fromtimestamp(record.created, UTC).isoformat(timespec="milliseconds"),
            "level": record.levelname.lower(),
            "logger": record.name,
            "message": record.getMessage(),
        }
        found |= getattr(record, "fields", {})
        if record.exc_info:
            found["traceback"] = self.formatException(record.exc_info)
        return msgspec.json.encode(found, enc_hook=str).decode()


def log_in_json() -> None:
    """From now on everything that is logged in this process, and every warning, is a JSON line on stderr."""
    handler = logging.StreamHandler(sys.stderr)
    handler.setFormatter(JsonLines())
    root = logging.getLogger()
    root.handlers[:] = [handler]
    root.setLevel(logging.WARNING)
    logging.getLogger("cutset").setLevel(logging.INFO)
    logging.captureWarnings(True)


def log_request(record: RequestRecord) -> None:
    """A line for a request that has ended."""
    if record.path in QUIET and record.status < 400:
        return
    fields = {
        "method": record.method,
        "path": record.path[:200],
        "status": record.status or None,
        "seconds": round(record.seconds, 6),
        "client": record.client,
        "request_id": record.request_id,
        "model": record.model,
        "prompt_tokens": record.prompt_tokens,
        "cached_tokens": record.cached_tokens,
        "tokens": record.tokens,
        "first_token_s": None if record.first_token is None else round(record.first_token - record.started, 6),
    }
    shown = {name: value for name, value in fields.items() if value is not None}
    what = "the client left" if not record.status else "request"
    log.info(what, extra={"fields": shown})
