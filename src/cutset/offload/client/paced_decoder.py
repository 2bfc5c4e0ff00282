"""A decoder whose steps begin at a constant rhythm, with steps that nobody needs where there is none to do."""

from __future__ import annotations

import threading
from typing import Any

import numpy as np
from numpy.typing import NDArray

from cutset.models.run.executor import Batch, States
from cutset.models.run.native import NativeDecoder
from cutset.offload.client.step_pacer import StepPacer

__all__ = ["PacedDecoder"]

BLOCKS = 2  # of the cache of such steps: all of their context lies in these


class PacedDecoder(NativeDecoder):
    """NativeDecoder, one step at a time, each on a tick of a `StepPacer` from `pace` on.

    A step that nobody needs goes the same way as one that decodes: through the same code, with as many rows, over a
    context as long as that of the last step. Its tokens are zeros, its cache is its own, and nothing is done with its
    logits.
    """

    pacer: StepPacer | None = None

    def pace(self, period: float, rows: int, block_size: int) -> None:
        """Begins the rhythm: seconds from step to step, rows of a step that decodes."""
        self._running = threading.Lock()
        self._rows, self._context = rows, rows
        self._own = self.new_cache(BLOCKS, block_size, 1 if self.spec.state_floats else 0)
        self.pacer = StepPacer(period, self.step_in_place)

    def forward(self, batch: Batch, cache: Any, *given: Any, **more: Any) -> NDArray[np.float32]:
        """See NativeDecoder; waits for its tick."""
        if self.pacer is None:
            return super().forward(batch, cache, *given, **more)
        self.pacer.await_tick()
        with self._running:
            self._context = max(self._rows, int(batch.context_lens.max()))
            return super().forward(batch, cache, *given, **more)

    def step_in_place(self) -> bool:
        """A step that nobody needs. False, and nothing is done, while another one runs. Raises as `forward` does."""
        if not self._running.acquire(blocking=False):
            return False
        try:
            super().forward(self._batch(), self._own)
        finally:
            self._running.release()
        return True

    def end_pace(self) -> None:
        """Ends the rhythm; see StepPacer.close."""
        if self.pacer is not None:
            self.pacer.close()

    def _batch(self) -> Batch:
        rows, length = self._rows, self._context
        blocks = -(-length // self._own.block_size)
        return Batch(
            token_ids=np.zeros(rows, np.int32),
            positions=np.arange(length - rows, length, dtype=np.int32),
            row_starts=np.array([0, rows], np.int32),
            context_lens=np.array([length], np.int32),
            block_tables=(np.arange(blocks, dtype=np.int32) % BLOCKS)[None],
            logit_rows=np.arange(rows, dtype=np.int32),
            limits=np.array([length], np.int32),
            states=States.fresh(1) if self.spec.state_floats else None,
        )
