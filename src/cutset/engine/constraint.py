"""Which tokens may come next in one sequence: what its grammar and the lists of its request leave of the vocabulary.

A mask depends on the sequence's own tokens alone. A thread of its own computes it while the step runs that it is for.
"""

from __future__ import annotations

import threading
import time
import weakref
from collections.abc import Collection, Iterable, Sequence
from copy import copy
from queue import SimpleQueue
from typing import NamedTuple

import numpy as np

from cutset.engine.bits import Bits, bits_of, has
from cutset.engine.grammar_compiler import CompiledGrammar
from cutset.engine.params import SamplingParams

__all__ = ["Constraint", "MaskThread", "Restriction", "StepMasks"]

ALWAYS = 2**31 - 1  # tokens
WORTH = 150e-6  # seconds


class Restriction(NamedTuple):
    """What SamplingParams allow, made ready for one vocabulary: the same for all sequences of a request."""

    grammar: CompiledGrammar | None
    allowed: Bits | None  # no others are drawn
    bad_words: Sequence[Sequence[int]]  # tokens of each


class Constraint:
    """Follows one sequence. One thread uses it at a time but for `rows`, which may come from another."""

    def __init__(
        self,
        params: SamplingParams,
        *,
        vocab_size: int,
        prompt_tokens: int,
        restriction: Restriction,
        end_ids: Iterable[int],  # the model's, and stop tokens
        eos_ids: Collection[int],  # the model's
    ) -> None:
        grammar, allowed = restriction.grammar, restriction.allowed
        self.ended = False  # nothing may follow: the text is complete
        self.failed = ""  # why no mask can be computed
        self._words = -(-vocab_size // 32)
        self._matcher = None if grammar is None else grammar.begin()
        self._inside = bits_of(range(vocab_size), vocab_size) if allowed is None else allowed
        # A grammar allows nothing outside of the vocabulary but an end that isn't the model's.
        self._within = grammar is not None and allowed is None and bool(eos_ids)
        held = eos_ids if params.ignore_eos else end_ids
        # Ends don't come before there are so many tokens, unless nothing else may.
        self._least = ALWAYS if params.ignore_eos else prompt_tokens + params.min_tokens
        self._unended = ~bits_of([one for one in held if one < vocab_size], vocab_size)
        self._bad = [tuple(word) for word in restriction.bad_words]
        self._tail: list[int] = []  # the end of the output, as far as a bad word looks back
        self._back = max((len(word) - 1 for word in self._bad), default=0)
        self._name = "allowed_token_ids" if params.grammar is None else params.grammar.asked
        self._lock = threading.Lock()

    def copy(self) -> Constraint:
        """Another one for the same tokens."""
        with self._lock:
            made = copy(self)
            made._matcher = None if self._matcher is None else self._matcher.deep_copy()
            made._tail = list(self._tail)
        made._lock = threading.Lock()
        return made

    def observe(self, token_id: int) -> None:
        """The token has become part of the output."""
        with self._lock:
            self._remember(self._tail, token_id)
            if self._matcher is not None and not self.ended:
                if not self._matcher.consume_token(token_id):
                    self._fail()
                self.ended = bool(self._matcher.is_stopped())

    def fitting(self, drafts: Sequence[int]) -> int:
        """How many of these tokens may follow, one behind the other."""
        if self._matcher is None:
            return len(drafts)
        with self._lock:
            return int(self._matcher.validate_tokens(list(drafts)))

    def rows(self, known: int, drafts: Sequence[int] = ()) -> list[Bits]:
        """The mask for the next token after `known` tokens, and one behind each draft that those before it allow.

        [] if there can be none: `failed` says why.
        """
        found: list[Bits] = []
        with self._lock:
            fed, tail = 0, list(self._tail)
            for place in range(len(drafts) + 1):
                if self._matcher is not None and place and self._matcher.is_stopped():
                    break
                mask = self._mask(known + place, tail)
                if mask is None:
                    break
                found.append(mask)
                if place == len(drafts) or not has(mask, drafts[place]):
                    break
                self._remember(tail, drafts[place])
                if self._matcher is not None:
                    fed += 1
                    if not self._matcher.consume_token(drafts[place]):
                        break
            if fed and self._matcher is not None and not self._matcher.rollback(fed):
                self._fail()
        return found

    def _mask(self, known: int, tail: Sequence[int]) -> Bits | None:
        mask = self._inside
        if self._matcher is not None:
            found = np.frombuffer(self._matcher.compute_bitmask(), dtype=np.uint32)[: self._words]
            mask = found if self._within else found & mask
            if self._matcher.is_error():
                self._fail()
                return None
        if self._bad:
            mask = mask.copy()
            for *before, last in self._bad:
                if not before or tail[-len(before) :] == before:
                    mask[last >> 5] &= np.uint32(~(1 << (last & 31)) & 0xFFFFFFFF)
        if known < self._least:
            going_on = mask & self._unended
            if going_on.any():
                mask = going_on
        if not mask.any():
            self.failed = (
                self.failed or f"{self._name}: at this place nothing may follow; the lists of tokens forbid all"
            )
            return None
        return mask

    def _remember(self, tail: list[int], token_id: int) -> None:
        if self._back:
            tail.append(token_id)
            del tail[: -self._back]

    def _fail(self) -> None:
        why = str(self._matcher.get_error()).split("\n")[0][:200] if self._matcher is not None else ""
        self.failed = (
            self.failed or f"{self._name} takes too much work at this place of the text ({why}): make it simpler"
        )


class StepMasks:
    """The masks of a step: of each sequence with wanted rows those of its rows, or None where anything may come.

    There may be fewer of them than rows: nothing is drawn behind a draft that isn't allowed, nor behind a text's end.
    """

    def __init__(
        self, constraints: Sequence[Constraint | None], known: Sequence[int], drafts: Sequence[Sequence[int]]
    ) -> None:
        self._parts = constraints, known, drafts or [()] * len(known)
        self._found: list[list[Bits] | None] = []
        self._computed = False
        self._lock = threading.Lock()  # of who computes them
        self.seconds = 0.0  # that they took

    @classmethod
    def of(cls, found: list[list[Bits] | None]) -> StepMasks:
        """Masks that are there."""
        made = cls((), (), ())
        made._found, made._computed = found, True
        return made

    @property
    def found(self) -> list[list[Bits] | None]:
        """Computes them, or waits for whoever does."""
        self.compute()
        return self._found

    def compute(self) -> None:
        """What the first one to ask does; the others wait for it."""
        with self._lock:
            if not self._computed:
                started = time.perf_counter()
                self._compute()
                self.seconds = time.perf_counter() - started
                self._computed = True

    def _compute(self) -> None:
        try:
            for constraint, known, drafts in zip(*self._parts, strict=True):
                self._found.append(None if constraint is None else constraint.rows(known, drafts))
        except BaseException as error:  # rather no token than one that isn't allowed
            for constraint in self._parts[0]:
                if constraint is not None:
                    constraint.failed = constraint.failed or f"a mask failed: {error}"
            self._found += [None if one is None else [] for one in self._parts[0][len(self._found) :]]


class MaskThread:
    """Computes masks while its owner does something else, where they take so long that it's worth it: to hand them over
    costs some 100 µs, and those of a few sequences hardly as much. The thread ends with its owner."""

    def __init__(self) -> None:
        self._queue: SimpleQueue[StepMasks | None] | None = None
        self._latest: StepMasks | None = None
        self._seconds = 0.0  # of late

    def begin(self, masks: StepMasks) -> StepMasks:
        """Has these computed: by the thread, or else by whoever asks for them."""
        if self._latest is not None:
            self._seconds += (self._latest.seconds - self._seconds) / 8
        self._latest = masks
        if self._seconds < WORTH:
            return masks
        if self._queue is None:
            self._queue = SimpleQueue()
            threading.Thread(target=_serve, args=(self._queue,), name="cutset-masks", daemon=True).start()
            weakref.finalize(self, self._queue.put, None)
        self._queue.put(masks)
        return masks


def _serve(queue: SimpleQueue[StepMasks | None]) -> None:
    while (masks := queue.get()) is not None:
        masks.compute()
        del masks  # its sequences may end before others come
