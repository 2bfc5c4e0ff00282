"""How many tokens are drafted: many where they pay, none where they don't, by a clock of the test's own."""

from __future__ import annotations

from typing import Any

import pytest

from cutset.engine import Engine, SamplingParams
from cutset.engine.drafting import Drafter
from cutset.engine.speculation import StepCosts

from .fake import FakeExecutor, make_spec
from .helpers import drain, make_engine, outputs
from .test_speculation import Answers, Oracle


class Clocked(FakeExecutor):
    """A step takes as long as it is told to, by a clock of its own."""

    def __init__(self, each: float, first: float = 1.0) -> None:
        super().__init__(make_spec(max_positions=4096))
        self.now, self.each, self.first = 0.0, each, first

    def forward(self, batch: Any, cache: Any) -> Any:
        self.now += self.first + self.each * (len(batch.token_ids) - 1)
        return super().forward(batch, cache)

    def clock(self) -> float:
        return self.now


def rate(drafter: Drafter | None, each: float, *, count: int = 1, tokens: int = 400) -> tuple[float, Engine]:
    executor = Clocked(each)
    engine = make_engine(
        executor, drafter=drafter, draft_tokens=8, clock=executor.clock, blocks=2000, block_size=16, max_num_seqs=64
    )
    for i in range(count):
        engine.add(str(i), [i + 1, 2, 3], SamplingParams(seed=i, max_tokens=tokens, ignore_eos=True))
    drain(engine)
    return count * tokens / executor.now, engine


def right_tokens(count: int = 1, tokens: int = 400) -> Answers:
    engine = make_engine(Clocked(0), blocks=2000, block_size=16, max_num_seqs=64)
    for i in range(count):
        engine.add(str(i), [i + 1, 2, 3], SamplingParams(seed=i, max_tokens=tokens, ignore_eos=True))
    return {name: [(one.token_ids,) for one in output.outputs] for name, output in outputs(drain(engine)).items()}


def test_a_drafter_that_is_always_wrong_turns_itself_off() -> None:
    plain, _ = rate(None, 1.0)
    found, engine = rate(Oracle(right_tokens(), wrong=1, vocab=300), 1.0)
    assert engine.stats().drafted_tokens < 20
    assert engine.stats().accepted_tokens == 0
    assert found > 0.97 * plain


def test_where_rows_are_free_drafts_that_are_right_are_as_many_as_may_be() -> None:
    plain, _ = rate(None, 0.0)
    found, engine = rate(Oracle(right_tokens(), vocab=300), 0.0)
    assert found > 6 * plain
    assert engine.stats().accepted_tokens == engine.stats().drafted_tokens > 300


@pytest.mark.parametrize("count", [1, 12])
def test_where_each_row_costs_a_step_drafts_that_are_often_right_stop_too(count: int) -> None:
    plain, _ = rate(None, 1.0, count=count)
    found, _ = rate(Oracle(right_tokens(count), wrong=0.3, vocab=300), 1.0, count=count)
    assert found > 0.96 * plain


def test_where_a_row_costs_little_few_drafts_pay_for_many_sequences() -> None:
    plain, _ = rate(None, 0.05, count=8)
    found, _ = rate(Oracle(right_tokens(8), wrong=0.2, vocab=300), 0.05, count=8)
    assert found > 1.25 * plain


def test_costs_of_steps_lie_between_those_measured() -> None:
    costs = StepCosts()
    assert costs.estimate(3) is None
    costs.observe(1, 1.0)
    assert costs.estimate(9) == 1.0
    costs.observe(9, 3.0)
    assert costs.estimate(5) == 2.0
    assert costs.estimate(40) == 3.0
    assert costs.measured(9)
    assert not costs.measured(5)
    for _ in range(200):
        costs.observe(9, 1.5)
    assert costs.estimate(9) == pytest.approx(1.5, rel=1e-3)
    costs.observe(9, 1000.0)  # somebody else had the processor
    assert costs.estimate(9) < 2.0
