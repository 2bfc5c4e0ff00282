"""Which tokens may come next in one sequence: what its grammar and the lists of its request leave of the vocabulary.

A mask depends on the sequence's own tokens alone, so it can be computed while the step runs that it is for.
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

from cutset.engine.bits import Bits, all_bits, bits_of, has
from cutset.engine.grammar_compiler import CompiledGrammar
from cutset.engine.params import SamplingParams

__all__ = ["Constraint", "MaskThread", "Restriction", "RowMasks", "StepMasks"]

ALWAYS = 2**31 - 1  # tokens
WORTH = 150e-6  # seconds


class Restriction(NamedTuple):
    """What SamplingParams allow, made ready for one vocabulary: the same for all sequences of a request."""

    grammar: CompiledGrammar | None
    allowed: Bits | None  # no others are drawn
    bad_words: Sequence[Sequence[int]]  # tokens of each


class Constraint:
    """Follows one sequence. The engine's thread does, and `rows` may be asked for by another."""

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
        self._inside = all_bits(vocab_size) if allowed is None else allowed
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
                self.ended = self._complete()

    def fitting(self, drafts: Sequence[int]) -> int:
        """How many of these tokens may follow, one behind the other."""
        if self._matcher is None:
            return len(drafts)
        with self._lock:
            return int(self._matcher.validate_tokens(list(drafts)))

    def surely_allows(self, known: int, token_id: int) -> bool:
        """Whether the mask after `known` tokens certainly has this one: to ask takes a tenth of computing it. False
        says nothing."""
        if self._bad or not has(self._inside, token_id) or (known < self._least and not has(self._unended, token_id)):
            return False
        with self._lock:
            matcher = self._matcher
            if matcher is None:
                return True
            # Where bytes are forced the mask has one token for them, of several that would do.
            valid = not matcher.is_error() and int(matcher.validate_tokens([token_id])) == 1
            return valid and not matcher.compute_ff_bytes()

    def rows(self, known: int, drafts: Sequence[int] = ()) -> list[Bits]:
        """The mask for the next token after `known` tokens, and one behind each draft that those before it allow.

        [] if there can be none: `failed` says why.
        """
        found: list[Bits] = []
        with self._lock:
            fed, tail = 0, list(self._tail)
            for place in range(len(drafts) + 1):
                if place and self._complete():
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

    def _complete(self) -> bool:
        """Nothing may follow, but an end. A matcher that has given up is stopped, too."""
        return bool(self._matcher is not None and self._matcher.is_stopped() and not self._matcher.is_error())

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


class RowMasks:
    """The masks of one sequence in a step: one for its next token, and one behind each draft.

    There may be fewer of them than rows: nothing is drawn behind a draft that isn't allowed, nor behind a text's end.
    """

    def __init__(self, constraint: Constraint | None, known: int, drafts: Sequence[int]) -> None:
        self._parts = constraint, known, drafts
        self._rows: list[Bits] | None = None
        self._lock = threading.Lock()  # of who computes them

    @classmethod
    def of(cls, rows: list[Bits]) -> RowMasks:
        """Masks that are there."""
        made = cls(None, 0, ())
        made._rows = rows
        return made

    def compute(self) -> list[Bits]:
        """Computed by the first one to ask; the others wait for it."""
        with self._lock:
            if self._rows is None:
                self._rows = self._computed()
            return self._rows

    def _computed(self) -> list[Bits]:
        constraint, known, drafts = self._parts
        assert constraint is not None
        try:
            return constraint.rows(known, drafts)
        except BaseException as error:  # rather no token than one that isn't allowed
            constraint.failed = constraint.failed or f"a mask failed: {error}"
            return []

    def row(self, number: int) -> Bits | None:
        """The mask of one of the sequence's rows, if it has one."""
        rows = self.compute()
        return rows[number] if number < len(rows) else None

    def allows(self, number: int, token_id: int) -> bool:
        """Whether a token may come in a row. Masks that nobody has computed are left so where they aren't needed for
        that."""
        constraint, known, drafts = self._parts
        if constraint is not None and not drafts and self._rows is None and constraint.surely_allows(known, token_id):
            return True
        mask = self.row(number)
        return mask is not None and has(mask, token_id)


class StepMasks:
    """The masks of a step: RowMasks for each sequence with wanted rows, or None where anything may come.

    `soon`: of which sequences they are needed for certain. Of the others one token is asked about first, the likeliest.
    """

    def __init__(
        self,
        constraints: Sequence[Constraint | None],
        known: Sequence[int],
        drafts: Sequence[Sequence[int]],
        soon: Sequence[bool] = (),
    ) -> None:
        each = zip(constraints, known, drafts or [()] * len(known), strict=True)
        self.parts = [None if one is None else RowMasks(one, length, ahead) for one, length, ahead in each]
        wanted = soon or [True] * len(self.parts)
        self._soon = [part for part, now in zip(self.parts, wanted, strict=True) if now and part is not None]
        self.seconds = 0.0  # that those took which are needed for certain

    @classmethod
    def of(cls, found: list[list[Bits] | None]) -> StepMasks:
        """Masks that are there."""
        made = cls((), (), ())
        made.parts = [None if one is None else RowMasks.of(one) for one in found]
        return made

    @property
    def found(self) -> list[list[Bits] | None]:
        """Computes them, or waits for whoever does."""
        return [None if part is None else part.compute() for part in self.parts]

    @property
    def waits(self) -> bool:
        """Some are needed for certain."""
        return bool(self._soon)

    def compute(self) -> None:
        """Those that are needed for certain."""
        started = time.perf_counter()
        for part in self._soon:
            part.compute()
        self.seconds = time.perf_counter() - started


class MaskThread:
    """Computes masks while its owner does something else, where they take so long that it's worth it: to hand them over
    costs some 100 µs, and those of a few sequences hardly as much. The thread ends with its owner."""

    def __init__(self) -> None:
        self._queue: SimpleQueue[StepMasks | None] | None = None
        self._latest: StepMasks | None = None
        self._seconds = 0.0  # of late

    def begin(self, masks: StepMasks) -> StepMasks:
        """Has these computed: by the thread, or else by whoever asks for them."""
        if not masks.waits:
            return masks
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
