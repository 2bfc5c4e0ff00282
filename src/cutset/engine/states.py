"""The states of sequences, for decoders that have such: who has which slot of the executor's cache.

Some slots keep checkpoints: the state at the end of a block, by which an equal beginning can be used again.

Keys and values of a prefix are of use only together with the state at its end. A state is large and holds for one
position alone, so few are kept: see `Scheduler`, which says where.
"""

from __future__ import annotations

from collections import Counter, OrderedDict
from dataclasses import dataclass, field

__all__ = ["Saves", "SequenceState", "StatePool"]

Saves = list[tuple[int, int]]  # checkpoints that a step makes of a sequence: (tokens, slot)


@dataclass(slots=True)
class SequenceState:
    """The state of one running sequence."""

    slot: int
    source: int  # where it is now: -1 at the start, a checkpoint's slot before the first step, then `slot`
    marks: list[int] = field(default_factory=list)  # after how many tokens a checkpoint is wanted
    saves: Saves = field(default_factory=list)  # those of the step that is being made
    ahead: Saves = field(default_factory=list)  # copies before each draft that a step on its way makes


class StatePool:
    """Slots: `running` for sequences, `kept` for checkpoints, of which the one that was used longest ago goes first,
    and `drafts` for what comes before drafts. Each operation costs O(1), but for checkpoints that are just being read.
    """

    def __init__(self, running: int, kept: int, drafts: int = 0) -> None:
        self.slots = running + kept + drafts
        self._sizes = running, kept
        self._share_out()
        self._kept: OrderedDict[bytes, int] = OrderedDict()  # slots by digest of all tokens before
        self._read: Counter[int] = Counter()  # slots that the next step reads

    def _share_out(self) -> None:
        running, kept = self._sizes
        self._free = list(range(running))[::-1]
        self._spare = list(range(running, running + kept))[::-1]
        self._ahead = list(range(running + kept, self.slots))[::-1]

    @property
    def free(self) -> int:
        """Slots that sequences can still have."""
        return len(self._free)

    @property
    def kept(self) -> int:
        """Checkpoints that can be found."""
        return len(self._kept)

    def has(self, digest: bytes) -> bool:
        """There is a checkpoint after these tokens."""
        return digest in self._kept

    def start(self, digest: bytes | None, marks: list[int]) -> SequenceState:
        """A slot for a sequence, which begins with the checkpoint `digest`, or with nothing."""
        source = -1
        if digest is not None:
            source = self._kept[digest]
            self._kept.move_to_end(digest)
            self._read[source] += 1
        return SequenceState(self._free.pop(), source, marks)

    def plan(self, state: SequenceState, before: int, after: int) -> None:
        """A step will take the sequence from `before` to `after` tokens: its checkpoints on the way get slots."""
        for tokens in [mark for mark in state.marks if before < mark <= after]:
            slot = self._room()
            if slot is not None:
                state.saves.append((tokens, slot))

    def plan_ahead(self, state: SequenceState, tokens: int, drafts: int) -> int:
        """A step will have drafts behind so many tokens of the sequence: how many there is room for, to go back."""
        while len(state.ahead) < drafts and self._ahead:
            state.ahead.append((tokens + len(state.ahead), self._ahead.pop()))
        return len(state.ahead)

    def go_back(self, state: SequenceState, tokens: int) -> None:
        """The step with drafts has come back, and what it did behind `tokens` tokens was wrong."""
        for kept, slot in state.ahead:
            if kept == tokens:
                state.slot, slot = slot, state.slot
                state.source = state.slot
            self._ahead.append(slot)
        state.ahead = []

    def take(self, state: SequenceState) -> Saves:
        """That step has been made and will be run before any that follows. Its checkpoints, which belong to it now."""
        self._begun(state)
        saves, state.saves = state.saves, []
        return saves

    def advance(self, saves: Saves, digests: dict[int, bytes]) -> None:
        """A step has been computed: its checkpoints, of which `digests` has the digest by tokens, can be found."""
        for tokens, slot in saves:
            if digests[tokens] in self._kept:  # a sequence of the same beginning was first
                self._spare.append(slot)
            else:
                self._kept[digests[tokens]] = slot

    def give_up(self, saves: Saves) -> None:
        """The checkpoints of a step that has failed, or has come to nothing."""
        self._spare += [slot for _, slot in saves]

    def forget(self) -> None:
        """All slots have lost what they held. No sequence has one."""
        self._share_out()
        self._kept.clear()
        self._read.clear()

    def end(self, state: SequenceState) -> None:
        """The sequence ends, or is preempted."""
        self._begun(state)
        self.give_up(state.saves)
        self._ahead += [slot for _, slot in state.ahead]
        self._free.append(state.slot)

    def _begun(self, state: SequenceState) -> None:
        if state.source not in (-1, state.slot):
            self._read[state.source] -= 1
        state.source = state.slot

    def _room(self) -> int | None:
        if self._spare:
            return self._spare.pop()
        for digest, slot in self._kept.items():
            if not self._read[slot]:
                del self._kept[digest]
                return slot
        return None
