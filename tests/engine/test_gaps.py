"""Vocabularies with gaps: an id that no token has is never drawn, and no id is taken for a count."""

from __future__ import annotations

import numpy as np
import pytest
from numpy.typing import NDArray

from cutset.engine import SamplingParams
from cutset.errors import RequestError
from cutset.models.run.executor import Batch, KVCache

from .fake import FakeExecutor, make_spec
from .helpers import drain, make_engine, outputs


class Ending(FakeExecutor):
    """Likes ids the better the larger they are."""

    def forward(self, batch: Batch, cache: KVCache) -> NDArray[np.float32]:
        logits = super().forward(batch, cache)
        logits[:] = np.arange(logits.shape[1])
        return logits


def test_ids_without_a_token() -> None:
    """They are never drawn, whatever the temperature, have no log-probability, and are in no prompt."""
    gaps = [*range(1, 97), *range(99, 299)]
    engine = make_engine(without_token=gaps)
    engine.add("a", [0, 97], SamplingParams(temperature=100, n=8, max_tokens=40, logprobs=20, seed=3))
    engine.add("b", [0, 97], SamplingParams(temperature=0, max_tokens=40, logprobs=20, repetition_penalty=1.7))
    found = outputs(drain(engine))
    some = [one for output in found.values() for sample in output.outputs for one in sample.logprobs]
    assert {one.token_id for one in some} == {0, 97, 98, 299}
    for one in some:
        assert {token_id for token_id, _ in one.top} == {0, 97, 98, 299}
        assert np.exp([logprob for _, logprob in one.top]).sum() == pytest.approx(1)
    for prompt in ([0, 1], [298]):
        with pytest.raises(RequestError, match=rf"token id {prompt[-1]}, for which the tokenizer has no token"):
            engine.add("c", prompt)


def test_an_end_token_above_a_gap_ends_an_answer() -> None:
    engine = make_engine(Ending(make_spec(eos=(299,))), without_token=[*range(1, 97), *range(99, 299)])
    engine.add("a", [0], SamplingParams(temperature=0, max_tokens=20))
    output = outputs(drain(engine))["a"].outputs[0]
    assert (output.token_ids, output.finish_reason) == ([299], "stop")
