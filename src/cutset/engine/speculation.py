"""Speculation: how many drafts a sequence gets, by what became of earlier ones and by what a step's rows cost.

A step of a sequence that decodes has one row. With drafts it has one more for each, and brings as many tokens as drafts
were right, and one. No token depends on that: a draft is kept exactly if it is the token that is drawn at its position.
"""

from __future__ import annotations

from bisect import bisect_left
from collections import Counter
from collections.abc import Iterable, Mapping
from dataclasses import dataclass

from cutset.engine.drafting import Drafter
from cutset.engine.sequence import Sequence

__all__ = ["Speculation", "StepCosts"]

FIRST = 1  # drafts of a sequence that has had none yet
MISSES = 2  # steps in which no draft was right, one after another, after which there are none for a while,
WORTH = 0.5  # unless this share of them was right before
REST, LONGEST_REST = 16, 512  # steps without drafts: at first, and at most
PLAIN = 64  # of so many steps one has no drafts, to see what that costs
MOST_ROWS = 64  # drafts of a step
WEIGHT = 1 / 8  # of a new observation


class StepCosts:
    """Seconds of a step by its number of rows, as they were measured: those of some hundred rows count together."""

    def __init__(self) -> None:
        self._seconds: dict[int, tuple[float, int]] = {}  # mean, and how many observations
        self._rows: list[int] = []

    def observe(self, rows: int, seconds: float) -> None:
        """A step of so many rows took so long."""
        rows = _rounded(rows)
        mean, count = self._seconds.get(rows, (seconds, 0))
        if not count:
            self._rows.insert(bisect_left(self._rows, rows), rows)
        count += 1
        # One that was held up says little.
        mean += (min(seconds, 3 * mean) - mean) * max(WEIGHT, 1 / count)
        self._seconds[rows] = mean, count

    def measured(self, rows: int) -> bool:
        """There were such steps."""
        return _rounded(rows) in self._seconds

    def estimate(self, rows: int) -> float | None:
        """Seconds: between measured ones on a line, beyond them as the nearest. None before there are any."""
        if not self._rows:
            return None
        rows = _rounded(rows)
        place = bisect_left(self._rows, rows)
        if place == len(self._rows) or self._rows[place] == rows or place == 0:
            return self._seconds[self._rows[min(place, len(self._rows) - 1)]][0]
        low, high = self._rows[place - 1], self._rows[place]
        before, after = self._seconds[low][0], self._seconds[high][0]
        return before + (after - before) * (rows - low) / (high - low)


def _rounded(rows: int) -> int:
    step = 1 << max(0, rows.bit_length() - 4)  # up to 16 each number, up to 32 every second one, …
    return -(-rows // step) * step


@dataclass(slots=True)
class _History:
    """What became of a sequence's drafts."""

    allowed: int  # drafts in its next step
    rate: float = 0.6  # share of drafts that were right, of those that were looked at
    misses: int = 0
    rest: int = 0  # steps without drafts that are to come
    next_rest: int = REST

    def judged(self, drafted: int, kept: int, most: int) -> None:
        for right in [True] * kept + [False] * (kept < drafted):
            self.rate += (right - self.rate) * WEIGHT
        if kept == drafted:
            self.allowed, self.misses, self.next_rest = min(2 * self.allowed, most), 0, REST
        elif kept:
            self.allowed, self.misses = max(1, self.allowed - 1), 0
        else:
            self.allowed, self.misses = max(1, self.allowed // 2), self.misses + 1
            if self.misses >= MISSES and self.rate < WORTH:
                self.rest, self.next_rest = self.next_rest, min(2 * self.next_rest, LONGEST_REST)

    @property
    def chance(self) -> float:
        """That a draft is right behind one that was."""
        return min(self.rate, 0.99)


class Speculation:
    """Drafts for the sequences of a step. With `constant` each gets `most`, whatever comes of it: then their number
    tells nothing about a text.
    """

    def __init__(
        self,
        drafter: Drafter,
        most: int,  # drafts of a sequence in a step
        *,
        vocab_size: int,
        constant: bool = False,
    ) -> None:
        self.drafter, self.most, self.constant = drafter, most, constant
        self.drafted = self.accepted = 0  # tokens, of steps that came back
        self.costs = StepCosts()
        self._vocab = vocab_size
        self._histories: dict[Sequence, _History] = {}
        self._streak = 0  # steps with drafts, one after another
        self._rest, self._next_rest = 0, REST  # of all, where it doesn't pay
        self._probing = False

    def wanted(self, sequences: Iterable[Sequence], room: int) -> dict[Sequence, int]:
        """How many drafts each of these sequences should get, `room` at most together; those with none are left out."""
        asked: dict[Sequence, int] = {}
        for sequence in sequences:
            left = sequence.limit - sequence.known - 1  # the last token may not be a draft: one more is drawn
            count = self.most
            if not self.constant:
                history = self._histories.get(sequence)
                if history is None:
                    history = self._histories[sequence] = _History(min(FIRST, self.most))
                count = history.allowed
                if history.rest:
                    history.rest -= 1
                    continue
                if not self.drafter.ready(sequence):
                    continue
            if min(count, left) > 0:
                asked[sequence] = min(count, left)
        if self.constant:
            most = max(0, room) // max(1, len(asked))
            return {one: min(count, most) for one, count in asked.items() if most}
        if not asked:
            return {}
        if self._streak >= PLAIN - 1:
            self._streak = 0
            return {}
        most = max(0, min(MOST_ROWS, room)) // len(asked)
        return {one: min(count, most) for one, count in asked.items() if most}

    def draft(self, wanted: Mapping[Sequence, int], rows: int) -> dict[Sequence, list[int]]:
        """Drafts for a step that has so many rows without any."""
        if self.drafter.cost and not self.constant:
            wanted = self._trimmed(wanted, rows)
        made = self.drafter.draft(wanted) if wanted else {}
        drafts = {one: self._checked(tokens[: wanted[one]]) for one, tokens in made.items()}
        if not self.constant:  # what can't come needs no row
            for one, tokens in drafts.items():
                if one.constraint is not None:
                    drafts[one] = tokens[: one.constraint.fitting(tokens)]
        if self.constant:
            drafts = {one: _filled(drafts.get(one, []), int(one.ids[-1]), count) for one, count in wanted.items()}
        elif not self.drafter.cost:
            counts = self._trimmed({one: len(tokens) for one, tokens in drafts.items() if tokens}, rows)
            drafts = {one: drafts[one][:count] for one, count in counts.items()}
        drafts = {one: tokens for one, tokens in drafts.items() if tokens}
        self._streak += bool(drafts)
        return drafts

    def judged(self, sequence: Sequence, drafted: int, kept: int) -> None:
        """Of so many drafts of a sequence so many were right."""
        self.drafted += drafted
        self.accepted += kept
        history = self._histories.get(sequence)
        if history is not None and drafted:
            history.judged(drafted, kept, self.most)

    def forget(self, sequence: Sequence) -> None:
        """The sequence has ended."""
        self._histories.pop(sequence, None)
        self.drafter.forget(sequence)

    def _checked(self, tokens: list[int]) -> list[int]:
        """Those before the first that is no token."""
        wrong = (place for place, token in enumerate(tokens) if not 0 <= token < self._vocab)
        return tokens[: next(wrong, len(tokens))]

    def _trimmed(self, counts: Mapping[Sequence, int], rows: int) -> dict[Sequence, int]:
        """As many of these drafts as make the most tokens a second, by what steps of so many rows took."""
        if not counts:
            return {}
        if self._rest:
            self._rest -= 1
            return {}
        if not self.costs.measured(rows):
            return {}  # a step without drafts comes first
        # Each draft brings a token as often as it and those before it are right; the likeliest come first.
        chances = sorted(
            (-(self._histories[one].chance ** (place + 1)), place, number)
            for number, (one, count) in enumerate(counts.items())
            for place in range(count)
        )
        best, found, tokens, longest = rows / self._seconds(rows), 0, float(rows), 0
        for taken, (chance, place, _) in enumerate(chances, 1):
            tokens -= chance
            longest = max(longest, place + 1)
            rate = tokens / (self._seconds(rows + taken) + self.drafter.cost * longest)
            if rate > best:
                best, found = rate, taken
        if found:
            self._next_rest = REST
        else:  # what is measured may have changed by then
            self._rest, self._next_rest = self._next_rest, min(2 * self._next_rest, LONGEST_REST)
            found, self._probing = int(self._probing), not self._probing
        kept = Counter(number for _, _, number in chances[:found])
        return {one: kept[number] for number, one in enumerate(counts) if kept[number]}

    def _seconds(self, rows: int) -> float:
        return max(1e-9, self.costs.estimate(rows) or 0.0)


def _filled(tokens: list[int], token: int, count: int) -> list[int]:
    return tokens + [token] * (count - len(tokens))
