"""A stage of a decoder: the executor of a range of layers and the cache that it owns; the last one draws the tokens."""

from __future__ import annotations

import time
from collections import deque
from collections.abc import Callable, Mapping
from contextlib import suppress
from dataclasses import replace
from typing import TYPE_CHECKING, Any, NamedTuple, cast

import numpy as np
from numpy.typing import NDArray

from cutset.engine.prefix_store import PrefixStore, StoredBlocks
from cutset.engine.sampler import Choice, choose, score
from cutset.engine.stage_blocks import answer, decode_blocks, decode_found, is_blocks
from cutset.engine.stage_item import StageItem, StageSetup, decode_item, with_sampling
from cutset.engine.stage_result import encode_choices, encode_hidden
from cutset.engine.token_history import KnownHistories
from cutset.errors import CutsetError, EngineError, FrameError
from cutset.models.files.adapter import LoraAdapter
from cutset.models.run.executor import Executor, LoadedAdapter, PreparingExecutor, StageExecutor

__all__ = ["BATCH", "CHOICES", "HIDDEN", "DecoderStage"]

BATCH, HIDDEN, CHOICES = "batch", "hidden", "choices"  # the values that go in and out

if TYPE_CHECKING:
    from cutset.kernels import native

EXPECTED = 64  # items

Floats = NDArray[np.float32]
Array = NDArray[Any]


class _Expected(NamedTuple):
    data: Array  # the bytes of the item
    item: StageItem  # without its samplers
    prepared: Any  # what the executor has made of its batch


class DecoderStage:
    """Runs items on the layers of its executor; a `cutset.cluster.stage.Stage`.

    The first stage takes "batch", the others "hidden", too. The last one gives "choices", the others "hidden":

        batch    (bytes,) uint8, an item as `encode_item` gives it; every stage gets the same
        hidden   (rows, hidden) float32, the residual stream
        choices  (bytes,) uint8, as `decode_choices` reads it, or of a pooled item `decode_hidden`

    Where the batch is a message on blocks that are kept (`stage_blocks`), hidden and choices are the answers to it.

    Items must come in the order in which the engine made them, one at a time. After one that fails the cache holds what
    it held, but for the rows of that item. A new engine, or one that has lost a stage, begins with whatever the cache
    holds: it reads nothing that it hasn't written.
    """

    def __init__(
        self,
        executor: Executor | StageExecutor,
        setup: StageSetup,
        store: PrefixStore | None = None,  # keeps blocks of this stage, its owner closes it
        context: bytes = b"",  # what their bytes depend on beside the store's context
    ) -> None:
        self.executor, self.setup = executor, setup
        spec, layers = executor.spec, executor_layers(executor)
        self.first, self.last = layers.start == 0, layers.stop == spec.layers
        self.cache = executor.new_cache(setup.blocks, setup.block_size, setup.states, setup.kv_dtype)
        self._stored = None if store is None else StoredBlocks(store, self.cache, context)
        self._adapters: dict[bytes, LoadedAdapter] = {}
        self._histories = KnownHistories(setup.sequences, spec.vocab_size)
        self._masked = np.array(setup.masked, dtype=np.intp)
        # Items that were decoded before they are run, by the array that has their bytes; oldest first.
        self._expected: deque[_Expected] = deque(maxlen=EXPECTED)

    @property
    def inputs(self) -> tuple[str, ...]:
        """The values that it takes."""
        return (BATCH,) if self.first else (BATCH, HIDDEN)

    @property
    def outputs(self) -> tuple[str, ...]:
        """The values that it gives."""
        return (CHOICES,) if self.last else (HIDDEN,)

    def load_adapter(self, adapter: LoraAdapter, *, in_bytes: bool = False) -> None:
        """Takes in an adapter, which items may then name by its digest; `in_bytes`: rounded to 8 bits."""
        loaded = self.executor.load_adapter(adapter, in_bytes=in_bytes)
        self._adapters[loaded.digest] = loaded

    def expect(self, data: Array) -> None:
        """Does what an item takes before its hidden states are there: `run` will be called with this very array, maybe
        after items that another thread runs now."""
        if is_blocks(data):
            return
        with suppress(CutsetError):  # `run` says what is wrong
            item = self._decoded(data)
            prepare = None if item.pooled and self.last else getattr(self.executor, "prepare", None)
            self._expected.append(_Expected(data, item, None if prepare is None else prepare(item.batch)))

    def run(
        self, source: int, values: Mapping[str, Array], observe: Callable[[float], None] | None = None
    ) -> dict[str, Array]:
        """An item's values from those of the stage before. Raises FrameError for what is no item of this engine's, and
        EngineError, with the executor's own as its cause, if it fails: then the requests in it are lost, no others."""
        if is_blocks(values[BATCH]):
            return {self.outputs[0]: self._blocks(values)}
        data, item, prepared = self._item(values[BATCH])
        started = time.perf_counter()
        hidden = None if self.first else self._checked(values[HIDDEN], len(item.batch.token_ids))
        try:
            found = self._given(item, data, self.forward(item, hidden, prepared))
        except CutsetError:
            raise
        except Exception as error:
            raise _failed(str(error) or type(error).__name__) from error
        if observe is not None:
            observe(time.perf_counter() - started)
        return {self.outputs[0]: found}

    def ready_step(self, data: Array) -> native.Step | None:
        """A step of an expected item that only needs its hidden states: native code may start it, once, in place of
        `run`, and then `close_step` is called. None where that can't be."""
        ready = getattr(self.executor, "ready_step", None)
        if ready is None or not self._find(data) or self._expected[0].prepared is None:
            return None
        step: native.Step | None = ready(self.cache, self._expected[0].prepared)
        return step

    def close_step(self, data: Array, step: native.Step, end: native.HopEnd | None, sent: bool) -> Array | None:
        """What the item made, as `run` gives it; None where the step wasn't started, so that `run` still may be called,
        or all that it made was `sent`. Raises what that does."""
        made = cast(Any, self.executor).close_step(self.cache, step, end, sent)
        if end is None or not end.started:
            return None
        expected = self._expected.popleft()
        if not end.ran:
            raise _failed(end.reason)
        return None if sent else self._given(expected.item, data, made)

    def _given(self, item: StageItem, data: Array, made: Floats) -> Array:
        """What goes on: hidden states, or choices of the last stage, or hidden states that were asked for as bytes."""
        if not self.last:
            return made
        if item.pooled:
            return np.frombuffer(encode_hidden(made), np.uint8)
        item = with_sampling(item, np.ascontiguousarray(data).data, self._histories)
        return np.frombuffer(encode_choices(self.choose(item, made)), np.uint8)

    def _item(self, data: Array) -> _Expected:
        """An item without its samplers. Raises FrameError."""
        return self._expected.popleft() if self._find(data) else _Expected(data, self._decoded(data), None)

    def _find(self, data: Array) -> bool:
        """Whether an item was expected; then it is the first, and those before it are forgotten."""
        waiting = list(self._expected)  # another thread may add to it
        before = next((place for place, one in enumerate(waiting) if one.data is data), None)
        for _ in range(before or 0):
            self._expected.popleft()
        return before is not None

    def _decoded(self, data: Array) -> StageItem:
        vocab_size, content = self.executor.spec.vocab_size, np.ascontiguousarray(data).data
        return decode_item(content, self.setup, vocab_size=vocab_size, adapters=self._adapters, sampling=False)

    def _blocks(self, values: Mapping[str, Array]) -> Array:
        """Keeps blocks and fills others: the answer of this stage and those before."""
        setup, stored = self.setup, self._stored
        item = decode_blocks(values[BATCH], blocks=setup.blocks, block_size=setup.block_size)
        kept, found = True, [True] * len(item.fill)
        if not self.first:
            kept, found = decode_found(values[HIDDEN], len(item.fill))
        if stored is None:
            return answer(False, [False] * len(found))
        for one in item.keep:
            stored.write(*one)
        read = stored.read(item.fill)
        return answer(kept, [before and here > 0 for before, here in zip(found, read, strict=True)])

    def forward(self, item: StageItem, hidden: Floats | None = None, prepared: Any = None) -> Floats:
        """The residual stream (rows, hidden) after this stage, or logits (wanted, vocab) of the last one; of a pooled
        item (wanted, hidden) after the final norm.

        Adapters that this stage has taken in stand for those of the same digest in the batch. `prepared`: what the
        executor has made of the batch before, if it has.
        """
        batch = item.batch
        if batch.adapters and self._adapters:
            own = (None if one is None else self._adapters.get(one.digest, one) for one in batch.adapters)
            batch = replace(batch, adapters=tuple(own))
        pooled = item.pooled and self.last
        if prepared is not None:
            return cast(PreparingExecutor, self.executor).forward(batch, self.cache, hidden=hidden, prepared=prepared)
        if hidden is None:
            whole = self.executor
            return whole.final_hidden(batch, self.cache) if pooled else whole.forward(batch, self.cache)
        stage = cast(StageExecutor, self.executor)
        run = stage.final_hidden if pooled else stage.forward
        return run(batch, self.cache, hidden=hidden)

    def choose(self, item: StageItem, logits: Floats) -> list[Choice | None]:
        """The tokens that follow the wanted rows; None where logits are no numbers or all are masked. Of rows that
        score a token it is that one."""
        wanted = (len(item.batch.logit_rows), self.executor.spec.vocab_size)
        if logits.shape != wanted:
            raise EngineError(f"the executor gave logits {logits.shape} instead of {wanted}")
        if self._masked.size:
            logits[:, self._masked] = -np.inf
        masks = () if item.masks is None else item.masks.parts
        scores, drawn = item.scores, len(logits) - item.scored
        oblivious = getattr(self.executor, "data_oblivious", False)
        found = choose(logits[:drawn], item.samplers, item.known, item.drafts(), masks, oblivious=oblivious)
        return found if scores is None else found + score(logits[drawn:], scores)

    def _checked(self, hidden: Array, rows: int) -> Floats:
        wanted = (rows, self.executor.spec.hidden)
        if hidden.dtype != np.float32 or hidden.shape != wanted:
            raise FrameError(f"hidden states are {hidden.dtype} {hidden.shape} instead of float32 {wanted}")
        return np.ascontiguousarray(hidden)


def _failed(why: str) -> EngineError:
    return EngineError(f"a stage failed: {why.rstrip('.')}")


def executor_layers(executor: Executor | StageExecutor) -> range:
    """The layers that an executor runs: all, unless it says otherwise."""
    layers: range = getattr(executor, "layers", None) or range(executor.spec.layers)
    return layers
