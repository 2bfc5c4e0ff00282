"""A stage of a decoder: the executor of a range of layers and the cache that it owns; the last one draws the tokens."""

from __future__ import annotations

import time
from collections.abc import Callable, Mapping
from dataclasses import replace
from typing import Any, cast

import numpy as np
from numpy.typing import NDArray

from cutset.engine.prefix_store import PrefixStore, StoredBlocks
from cutset.engine.sampler import Choice, choose, score
from cutset.engine.stage_blocks import answer, decode_blocks, decode_found, is_blocks
from cutset.engine.stage_item import StageItem, StageSetup, decode_item, encode_choices, encode_hidden, with_sampling
from cutset.engine.token_history import KnownHistories
from cutset.errors import CutsetError, EngineError, FrameError
from cutset.models.files.adapter import LoraAdapter
from cutset.models.run.executor import Executor, LoadedAdapter, StageExecutor

__all__ = ["BATCH", "CHOICES", "HIDDEN", "DecoderStage"]

BATCH, HIDDEN, CHOICES = "batch", "hidden", "choices"  # the values that go in and out

Floats = NDArray[np.float32]
Array = NDArray[Any]


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

    def run(
        self, source: int, values: Mapping[str, Array], observe: Callable[[float], None] | None = None
    ) -> dict[str, Array]:
        """An item's values from those of the stage before. Raises FrameError for what is no item of this engine's, and
        EngineError, with the executor's own as its cause, if it fails: then the requests in it are lost, no others."""
        if is_blocks(values[BATCH]):
            return {self.outputs[0]: self._blocks(values)}
        spec = self.executor.spec
        data = np.ascontiguousarray(values[BATCH]).data
        item = decode_item(data, self.setup, vocab_size=spec.vocab_size, adapters=self._adapters, sampling=False)
        started = time.perf_counter()
        hidden = None if self.first else self._checked(values[HIDDEN], len(item.batch.token_ids))
        try:
            made = self.forward(item, hidden)
            found: Array = made
            if self.last and item.pooled:
                found = np.frombuffer(encode_hidden(made), np.uint8)
            elif self.last:
                item = with_sampling(item, data, self._histories)
                found = np.frombuffer(encode_choices(self.choose(item, made)), np.uint8)
        except CutsetError:
            raise
        except Exception as error:
            raise EngineError(f"a stage failed: {str(error).rstrip('.') or type(error).__name__}") from error
        if observe is not None:
            observe(time.perf_counter() - started)
        return {self.outputs[0]: found}

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

    def forward(self, item: StageItem, hidden: Floats | None = None) -> Floats:
        """The residual stream (rows, hidden) after this stage, or logits (wanted, vocab) of the last one; of a pooled
        item (wanted, hidden) after the final norm.

        Adapters that this stage has taken in stand for those of the same digest in the batch.
        """
        batch = item.batch
        if batch.adapters and self._adapters:
            own = (None if one is None else self._adapters.get(one.digest, one) for one in batch.adapters)
            batch = replace(batch, adapters=tuple(own))
        pooled = item.pooled and self.last
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
        masks = () if item.masks is None else item.masks.found
        scores, drawn = item.scores, len(logits) - item.scored
        found = choose(logits[:drawn], item.samplers, item.known, item.drafts(), masks)
        return found if scores is None else found + score(logits[drawn:], scores)

    def _checked(self, hidden: Array, rows: int) -> Floats:
        wanted = (rows, self.executor.spec.hidden)
        if hidden.dtype != np.float32 or hidden.shape != wanted:
            raise FrameError(f"hidden states are {hidden.dtype} {hidden.shape} instead of float32 {wanted}")
        return np.ascontiguousarray(hidden)


def executor_layers(executor: Executor | StageExecutor) -> range:
    """The layers that an executor runs: all, unless it says otherwise."""
    layers: range = getattr(executor, "layers", None) or range(executor.spec.layers)
    return layers
