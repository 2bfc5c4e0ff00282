"""The tokens of a sequence as penalties need them, and how a stage elsewhere comes to know them: each is sent once.

A sequence's history lies in a slot of the last stage. An item says of each slot from which token on it brings the ids;
from the first one on it begins the slot anew. So a history is rebuilt at any stage from the ids alone.
"""

from __future__ import annotations

from array import array
from collections import OrderedDict
from collections.abc import Iterable
from itertools import count
from typing import NamedTuple

import numpy as np
from numpy.typing import NDArray

from cutset.errors import EngineError, FrameError

__all__ = ["HistoryPart", "KnownHistories", "SentHistories", "TokenHistory"]

_serials = count()


class TokenHistory:
    """Prompt and output of a sequence, with what penalties ask of them."""

    def __init__(self, vocab_size: int, prompt_ids: Iterable[int], *, seen: bool, counts: bool) -> None:
        """`seen`, `counts`: what will be asked for."""
        self.ids = array("i", prompt_ids)
        self.prompt_tokens = len(self.ids)
        self.seen: NDArray[np.bool_] | None = None  # (vocab,) in prompt or output
        self.counts: NDArray[np.int32] | None = None  # (vocab,) how often in the output
        if seen:
            self.seen = np.zeros(vocab_size, dtype=np.bool_)
            self.seen[np.frombuffer(self.ids, np.int32)] = True
        if counts:
            self.counts = np.zeros(vocab_size, dtype=np.int32)
        self.serial = next(_serials)

    def append(self, token_id: int) -> None:
        """The token has become part of the output."""
        self.ids.append(token_id)
        if self.seen is not None:
            self.seen[token_id] = True
        if self.counts is not None:
            self.counts[token_id] += 1

    def renew(self) -> None:
        """No stage elsewhere knows it any more: it is sent again from the first token on."""
        self.serial = next(_serials)

    def ahead(self) -> TokenHistory:
        """One that goes on by itself and is sent to nobody: it has no ids."""
        made = TokenHistory.__new__(TokenHistory)
        made.ids, made.prompt_tokens, made.serial = array("i"), self.prompt_tokens, -1
        made.seen = None if self.seen is None else self.seen.copy()
        made.counts = None if self.counts is None else self.counts.copy()
        return made


class HistoryPart(NamedTuple):
    """What an item brings of a history."""

    slot: int
    start: int  # tokens that the slot has already; 0 begins it anew
    prompt_tokens: int
    ids: NDArray[np.int32]  # those from `start` on


class SentHistories:
    """Which histories the last stage has, and how much of each. There are as many slots as sequences in a step."""

    def __init__(self, slots: int) -> None:
        self.slots = slots
        self._sent: OrderedDict[int, tuple[int, int]] = OrderedDict()  # slot and tokens by serial, used last at the end

    def parts(self, histories: Iterable[tuple[TokenHistory, int]]) -> list[HistoryPart]:
        """What an item must bring of these, each up to so many tokens; they are at most as many as there are slots."""
        wanted = list(histories)
        for one, _ in wanted:
            if one.serial in self._sent:
                self._sent.move_to_end(one.serial)
        found = []
        for one, known in wanted:
            slot, start = self._sent.get(one.serial, (-1, 0))
            if slot < 0:
                slot = len(self._sent) if len(self._sent) < self.slots else self._sent.popitem(last=False)[1][0]
            self._sent[one.serial] = slot, known
            found.append(HistoryPart(slot, start, one.prompt_tokens, np.array(one.ids[start:known], dtype=np.int32)))
        return found


class KnownHistories:
    """The histories at a last stage, by slot."""

    def __init__(self, slots: int, vocab_size: int) -> None:
        self.slots, self.vocab_size = slots, vocab_size
        self._known: dict[int, TokenHistory] = {}

    def take(self, part: HistoryPart, *, seen: bool, counts: bool) -> TokenHistory:
        """The whole history of which this is the newest part, whose ids are of the vocabulary.

        Raises FrameError for a slot that isn't there, EngineError where what came before isn't known here.
        """
        if not 0 <= part.slot < self.slots or part.start + len(part.ids) < part.prompt_tokens:
            raise FrameError("sampling of an item has a history that can't be")
        if part.start == 0:
            prompt, rest = part.ids[: part.prompt_tokens].tolist(), part.ids[part.prompt_tokens :].tolist()
            known = self._known[part.slot] = TokenHistory(self.vocab_size, prompt, seen=seen, counts=counts)
        else:
            found, rest = self._known.get(part.slot), part.ids.tolist()
            if found is None or (len(found.ids), found.prompt_tokens) != (part.start, part.prompt_tokens):
                raise EngineError("the last stage doesn't know the tokens before those that came, which penalties need")
            known = found
            if (known.seen is None, known.counts is None) != (not seen, not counts):
                raise FrameError("sampling of an item asks another thing of a history than before")
        for token in rest:
            known.append(token)
        return known
