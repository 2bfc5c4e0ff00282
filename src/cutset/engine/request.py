"""A request: a prompt, its samples, and the account of what they took."""

from __future__ import annotations

from dataclasses import dataclass, field

from cutset.engine.outputs import Timings, TokenLogprob, Usage
from cutset.engine.params import SamplingParams
from cutset.engine.sequence import Sequence, Status
from cutset.models.run.executor import LoadedAdapter

__all__ = ["Request"]


@dataclass(slots=True, eq=False)
class Request:
    """What was handed in, and what has come of it so far. Times are in seconds of the engine's clock."""

    request_id: str
    params: SamplingParams
    prompt_tokens: int
    arrival: int  # counts up
    added: float
    eos_ids: frozenset[int]  # none with ignore_eos
    end_ids: frozenset[int]  # these and the stop tokens
    adapter: LoadedAdapter | None = None
    sequences: list[Sequence] = field(default_factory=list)
    first_token: float | None = None
    last_token: float | None = None
    generated: int = 0  # tokens of all samples
    resumed: int = 0  # of all samples, those that another engine has generated
    cached_tokens: int | None = None  # of the prompt, found by the first sample when it started
    prefill_rows: int = 0
    prefill_seconds: float = 0.0  # of the steps with rows of its prompt
    # Of the prompt's tokens from the second one on, as far as they are computed. None: nobody asks, or they are given.
    scores: list[TokenLogprob] | None = None
    background: bool = False  # others go before it, and get its place

    @property
    def unfinished(self) -> list[Sequence]:
        """Its samples that go on."""
        return [sequence for sequence in self.sequences if sequence.status is not Status.FINISHED]

    @property
    def usage(self) -> Usage:
        """Tokens so far."""
        return Usage(self.prompt_tokens, self.resumed + self.generated, self.cached_tokens or 0)

    @property
    def timings(self) -> Timings:
        """Times so far."""
        prefill_tps = _rate(self.prefill_rows, self.prefill_seconds)
        if self.first_token is None or self.last_token is None:
            return Timings(prefill_tps=prefill_tps)
        return Timings(
            ttft_s=self.first_token - self.added,
            prefill_tps=prefill_tps,
            decode_tps=_rate(self.generated - 1, self.last_token - self.first_token),
        )

    def take_scores(self) -> tuple[TokenLogprob | None, ...] | None:
        """The scores of the whole prompt, once; None where nobody asks."""
        scores, self.scores = self.scores, None
        return None if scores is None else (None, *scores)

    def count_prefill(self, rows: int, seconds: float) -> None:
        """Rows of its prompt were computed in a step that took so long."""
        self.prefill_rows += rows
        self.prefill_seconds += seconds

    def count_token(self, now: float) -> None:
        """A sample has got a token."""
        self.generated += 1
        self.last_token = now
        if self.first_token is None:
            self.first_token = now


def _rate(tokens: int, seconds: float) -> float | None:
    return tokens / seconds if tokens > 0 and seconds > 0 else None
