"""What a caller holds of a request that runs in the engine's thread."""

from __future__ import annotations

import time
from collections.abc import Callable, Iterator
from queue import Empty, SimpleQueue

import numpy as np
from numpy.typing import NDArray

from cutset.engine.outputs import Delta, RequestOutput, collect

__all__ = ["RequestHandle"]


class RequestHandle:
    """The deltas of one request, as they come. Leaving it cancels the request:

    breaking out of a `for` over it, leaving a `with`, losing the last reference, Ctrl-C while waiting. (An exception
    that leaves a `for` cancels when its traceback is dropped; `with` doesn't wait for that.) An error that ended the
    request is raised where its delta would have come.
    """

    def __init__(
        self,
        request_id: str,
        prompt_ids: NDArray[np.int32],
        prompt_text: str | None,
        deltas: SimpleQueue[Delta | None] | None,  # None: they go elsewhere, and the handle only cancels
        cancel: Callable[[], None],
    ) -> None:
        self.request_id = request_id
        self.prompt_ids = prompt_ids
        self.prompt_text = prompt_text
        self._deltas = deltas
        self._cancel = cancel
        self._ended = False  # the last delta has been taken

    def get(self, timeout: float | None = None) -> Delta | None:
        """The next delta, or None after the last one. Raises TimeoutError after `timeout` seconds; the request goes on.

        Raises the error that ended the request.
        """
        if self._deltas is None:
            raise RuntimeError("the deltas of this request go to its on_delta")
        if self._ended:
            return None
        try:
            delta = self._deltas.get(timeout=timeout)
        except Empty:
            raise TimeoutError(f"no delta of {self.request_id} within {timeout} s") from None
        if delta is None or delta.finished or delta.error is not None:
            self._ended = True
            self._deltas.put(None)  # wakes another thread that waits here too
        if delta is not None and delta.error is not None:
            raise delta.error
        return delta

    def result(self, timeout: float | None = None) -> RequestOutput:
        """Waits for the end and joins the deltas not yet taken. Raises TimeoutError after `timeout` seconds in all.

        The request is cancelled if this raises.
        """
        return collect(
            self.request_id, self._until(timeout), prompt=self.prompt_text, prompt_token_ids=self.prompt_ids.tolist()
        )

    def cancel(self) -> None:
        """Ends the request and frees its blocks before the next step; its last delta says "abort". Never blocks."""
        if not self._ended:
            self._cancel()

    def __iter__(self) -> Iterator[Delta]:
        return self._until(None)

    def __next__(self) -> Delta:
        delta = self.get()
        if delta is None:
            raise StopIteration
        return delta

    def __enter__(self) -> RequestHandle:
        return self

    def __exit__(self, *_: object) -> None:
        self.cancel()

    def __del__(self) -> None:
        if getattr(self, "_deltas", None) is not None:
            self.cancel()

    def _until(self, timeout: float | None) -> Iterator[Delta]:
        deadline = None if timeout is None else time.monotonic() + timeout
        try:
            while (delta := self.get(None if deadline is None else max(0.0, deadline - time.monotonic()))) is not None:
                yield delta
        finally:
            self.cancel()  # does nothing after the last delta
