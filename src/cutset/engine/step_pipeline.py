"""Where an engine's steps run: stages behind each other, through which several steps may be on their way at once.

An engine knows no more of its stages than this. `LocalPipeline` has them in this process; others have them elsewhere.
"""

from __future__ import annotations

from abc import ABC, abstractmethod
from typing import NamedTuple

import numpy as np
from numpy.typing import NDArray

from cutset.engine.sampler import Choice
from cutset.engine.stage_blocks import BlocksItem, BlocksResult
from cutset.engine.stage_item import StageItem, StageSetup
from cutset.errors import CutsetError
from cutset.models.files.adapter import LoraAdapter
from cutset.models.run.executor import KVCache, LoadedAdapter
from cutset.models.spec import DecoderSpec

__all__ = ["StagesLost", "StepPipeline", "StepResult"]


class StepResult(NamedTuple):
    """What became of the item of this number: its choices, one for each wanted row (see `sampler.choose`), or of one
    that is pooled hidden states, or an error.

    With an error the requests in the step end; the stages go on, and their caches hold what they held.
    """

    number: int
    choices: list[Choice | None] | None
    error: BaseException | None = None
    hidden: NDArray[np.float32] | None = None  # (wanted, hidden) after the final norm


class StagesLost(NamedTuple):
    """A stage has gone: no item on its way will come back, and the caches of all stages count as empty.

    The engine computes its running sequences again, from the tokens that they have. With an `error` there won't be
    stages soon: all requests end with it.
    """

    reason: str
    error: CutsetError | None = None


class StepPipeline(ABC):
    """Runs items, and gives their results in the order in which they were sent. Used by one thread, the engine's.

    Every stage runs the items in that order, too, each one whole before the next. An engine relies on it: it gives
    blocks of the cache to other sequences while items that still use them are on their way.
    """

    @property
    @abstractmethod
    def spec(self) -> DecoderSpec:
        """The whole decoder."""

    @property
    @abstractmethod
    def depth(self) -> int:
        """How many items may be on their way. It may change; 0 while there is nobody to send any to."""

    @property
    def groups(self) -> int:
        """Among how many items the sequences that decode are shared out: as many as keep all stages busy. Each reads
        all weights, so one more would cost more than the wait that it fills."""
        return self.depth

    @property
    def cache(self) -> KVCache | None:
        """The cache of all layers, where it is here and nobody uses it between two steps."""
        return None

    @abstractmethod
    def load_adapter(self, adapter: LoraAdapter, *, in_bytes: bool = False) -> LoadedAdapter:
        """Takes in an adapter at every stage, before `open`; sequences of any step may then have it. Its `handle` is
        None: a stage knows its own part by the adapter's digest."""

    @abstractmethod
    def open(self, setup: StageSetup) -> None:
        """Called once, before anything is sent: what every stage must know, now and after a loss."""

    @abstractmethod
    def send(self, item: StageItem) -> None:
        """Sends an item on its way. It must not wait for results. What it raises becomes the step's error."""

    @property
    def keeps_blocks(self) -> bool:
        """Stages may keep blocks of the cache on disks of their own, as `send_blocks` says; known after `open`."""
        return False

    def send_blocks(self, item: BlocksItem) -> None:
        """Sends a message on blocks that are kept on its way, among the items. Raises as `send` does."""
        raise NotImplementedError

    @abstractmethod
    def receive(self, *, wait: bool) -> StepResult | BlocksResult | StagesLost | None:
        """The next result. None if none has come: at once, or with `wait` after some time, in which the engine can look
        for new requests. An item that is sent after a loss was reported belongs to the new stages."""
