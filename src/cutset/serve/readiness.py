"""Whether requests can be answered: no accelerator was caught in a wrong product, and stages or replicas are there."""

from __future__ import annotations

import asyncio
import logging
from collections.abc import Callable
from contextlib import suppress
from typing import Literal, get_args

from cutset.errors import CutsetError, IntegrityError
from cutset.offload.client.offload import Offload
from cutset.serve.api_errors import NO_RETRY, ApiError
from cutset.serve.watch import Watch

__all__ = ["POLICIES", "Policy", "Readiness"]

Policy = Literal["refuse", "reopen", "stop"]
POLICIES: tuple[Policy, ...] = get_args(Policy)
MOST_REOPENED = 5  # sessions opened anew; an accelerator with more wrong products isn't asked again
PAUSES = (0.0, 1.0, 2.0, 4.0, 8.0, 16.0, 30.0)  # seconds before attempts to open one; the last again and again

log = logging.getLogger(__name__)


class Readiness(Watch):
    """Watches for requests that failed. What happens after the first wrong product of a session is the `policy`:
    requests are refused until the server is started again, or until a new session is open, or the server stops.

    `failures` counts such sessions; `stopped`: the server was stopped because of one. All calls come on the event loop.
    """

    def __init__(
        self,
        offload: Offload | None,
        policy: Policy = "refuse",
        away: Callable[[], str] = lambda: "",
        code: str = "no_stages",
    ) -> None:
        """`away` says what isn't there to run requests on, stages or replicas; meanwhile they are taken and wait.
        `code`: what /health calls that."""
        self.policy: Policy = policy
        self.failures, self.stopped = 0, False
        self.stop: Callable[[], None] = lambda: None  # set by who can stop the server
        self.lied: Callable[[IntegrityError], None] = lambda error: None  # set by who keeps a log of it
        self._offload, self._away, self._code = offload, away, code
        self._error: IntegrityError | None = None  # the wrong product that hasn't been dealt with
        self._dealt_with: IntegrityError | None = None
        self._reopening: asyncio.Task[None] | None = None

    @property
    def ready(self) -> bool:
        """Requests can be answered, for all that is known."""
        right = self._error is None and (self._offload is None or self._offload.broken is None)
        return right and not self._away()

    def check_health(self) -> None:
        """Raises ApiError 503 where requests can't be answered, also if none has come since to find out."""
        if not self.ready:
            if self._error is None and self._offload is not None and self._offload.broken is not None:
                self.request_failed(self._offload.broken)
            self.check()
            if away := self._away():
                raise ApiError(
                    503,
                    f"the server isn't ready: {away}",
                    kind="server_error",
                    code=self._code,
                    headers={"retry-after": "1"},
                )
            raise _not_ready()

    def check(self) -> None:
        """Raises ApiError 503 after a wrong product."""
        if self._error is not None:
            raise _not_ready()

    def request_failed(self, error: CutsetError) -> None:
        """Applies the policy at the first IntegrityError; other errors change nothing."""
        if not isinstance(error, IntegrityError) or error is self._error or error is self._dealt_with:
            return  # the requests of a session end one after the other, with the same error
        self._error = error
        self.failures += 1
        log.error("not ready: %s", error)
        self.lied(error)
        if self.policy == "stop":
            log.error("stopping, as --on-integrity-error says")
            self.stopped = True
            self.stop()
        elif self.policy == "reopen" and self._reopening is None:
            if self.failures > MOST_REOPENED:
                log.error("%d sessions ended so: no new one is opened, start the server again", self.failures)
                return
            self._reopening = asyncio.get_running_loop().create_task(self._reopen())

    async def close(self) -> None:
        """Ends what is being tried."""
        if self._reopening is not None:
            self._reopening.cancel()
            with suppress(asyncio.CancelledError):
                await self._reopening

    async def _reopen(self) -> None:
        assert self._offload is not None
        try:
            for attempt in range(1 << 30):
                await asyncio.sleep(PAUSES[min(attempt, len(PAUSES) - 1)])
                try:
                    await asyncio.to_thread(self._offload.renew)
                except IntegrityError as error:
                    log.error("no new session: %s", error)  # whoever sent wrong products is still part of it
                    return
                except CutsetError as error:
                    log.warning("no new session yet: %s", error)
                    continue
                self._error, self._dealt_with = None, self._error
                log.warning("ready again: a new session with %s", self._offload.linears.session.address)
                return
        finally:
            self._reopening = None


def _not_ready() -> ApiError:
    return ApiError(
        503,
        "the server isn't ready: an accelerator gave a wrong product; the server's log says more",
        kind="server_error",
        code="integrity_error",
        headers=NO_RETRY,
    )
