"""What fewer bits cost: measured against float32 on text that isn't the model's own."""

from __future__ import annotations

from contextlib import contextmanager
from pathlib import Path
from typing import Any

import numpy as np
import pytest

from cutset.bench.quality import QualityTexts, Reference, common_texts, measure_quality
from cutset.errors import ModelError

VOCAB = 11
TEXTS = QualityTexts({"a": [np.arange(8, dtype=np.int32) % VOCAB, np.arange(3, 11, dtype=np.int32) % VOCAB]})


def logits_of(ids: Any) -> Any:
    """Another row for each token and position."""
    return np.random.default_rng(ids).normal(size=(len(ids), VOCAB)).astype(np.float32)


@pytest.fixture
def reference(tmp_path: Path) -> Reference:
    return Reference(TEXTS, logits_of, tmp_path)


def test_figures_are_those_of_their_definition(reference: Reference) -> None:
    def other(ids: Any) -> Any:
        return logits_of(ids) * 2 + 100

    found = reference.compare(other)["a"]
    divergences, losses, base = [], [], []
    for ids in TEXTS.windows["a"]:
        for at in range(4, 7):  # the second half, without the last
            p, q = np.exp(logits_of(ids)[at].astype(float)), np.exp(2.0 * logits_of(ids)[at])
            p, q = p / p.sum(), q / q.sum()
            divergences.append(sum(p * np.log(p / q)))
            losses.append(-np.log(q[ids[at + 1]]))
            base.append(-np.log(p[ids[at + 1]]))
    assert found.positions == 6
    assert found.divergence == pytest.approx(np.mean(divergences), rel=1e-4)
    assert found.divergence_99 == pytest.approx(np.quantile(divergences, 0.99), rel=1e-4)
    assert found.perplexity == pytest.approx(np.exp(np.mean(losses)), rel=1e-4)
    assert found.rise == pytest.approx(np.exp(np.mean(losses) - np.mean(base)) - 1, rel=1e-4)
    assert found.top1 == 1


def test_the_same_answers_cost_nothing_and_others_do(reference: Reference) -> None:
    same = reference.compare(logits_of)["a"]
    assert abs(same.divergence) < 1e-6
    assert same.top1 == 1
    assert abs(same.rise) < 1e-6
    zeros = reference.compare(lambda ids: np.zeros((len(ids), VOCAB), np.float32))["a"]
    late = reference.compare(lambda ids: np.roll(logits_of(ids), 1, axis=0))["a"]
    assert zeros.divergence > 0.1
    assert zeros.perplexity == pytest.approx(VOCAB)
    assert late.divergence > 0.1
    assert late.top1 < 1


def test_another_vocabulary_is_another_model(reference: Reference) -> None:
    with pytest.raises(ModelError, match="vocabulary has 12 tokens, the model's 11"):
        reference.compare(lambda ids: np.zeros((len(ids), 12), np.float32))


def test_dtypes_files_and_other_programs(story_dir: Path) -> None:
    @contextmanager
    def zeros() -> Any:
        yield lambda ids: np.zeros((len(ids), 2048), np.float32)

    texts = {"prose": "One day, Tom went to the park. He saw a big dog. The dog was sad. " * 40} | common_texts()
    measured = measure_quality(
        story_dir, texts, ["int8", "exact"], [story_dir], window=64, positions=150, others={"zeros": zeros}
    )
    found = dict(measured)
    assert list(found) == ["float32", "int8", "exact", f"{story_dir} (float32)", "zeros"]
    for name in texts:
        assert found["float32"][name].positions >= 150
        assert abs(found["float32"][name].divergence) < 1e-6
        for dtype in ("int8", "exact"):
            assert 1e-6 < found[dtype][name].divergence < 0.005  # bits can't be free
            assert found[dtype][name].top1 > 0.93
    for dtype in ("int8", "exact"):
        assert abs(found[dtype]["prose"].rise) < 0.02
        assert found["zeros"][name].divergence > 1


def test_a_text_that_is_too_short_is_refused(story_dir: Path) -> None:
    with pytest.raises(ModelError, match=r"short has \d+ tokens; a window has 64"):
        next(measure_quality(story_dir, {"short": "Once upon a time"}, window=64))


def test_bits_of_the_real_model_cost_what_they_may(smollm2: Path) -> None:
    """The file's own codes against their floats, and rounding of real weights: in nats, on prose and code."""
    measured = dict(measure_quality(smollm2, common_texts(), ["stored", "int8", "exact"], window=256, positions=256))
    limits = {"stored": 0.001, "int8": 0.0045, "exact": 0.0085}
    for dtype, most in limits.items():
        for one in measured[dtype].values():
            assert 0 < one.divergence < most
