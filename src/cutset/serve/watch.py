"""Callbacks for what happens to requests."""

from __future__ import annotations

from cutset.engine.outputs import FinishReason
from cutset.errors import CutsetError

__all__ = ["Watch"]


class Watch:
    """Callbacks for what happens to requests; for metrics."""

    def token(self, seconds: float, first: bool, count: int = 1) -> None:
        """A sample got a token, so long after the one before it or, the first, after the request; or `count` tokens,
        each so long after the one before."""

    def sample_ended(self, reason: FinishReason) -> None:
        """One sample of a request has ended."""

    def request_ended(self, seconds: float, prompt_tokens: int, tokens: int) -> None:
        """All have."""

    def request_failed(self, error: CutsetError) -> None:
        """A request was lost to an error of the engine, or of an offload."""

    def refused(self, status: int) -> None:
        """A request was answered with an error."""

    def client_left(self) -> None:
        """Before its answer was complete."""
