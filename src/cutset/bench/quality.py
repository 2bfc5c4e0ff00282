"""What fewer bits cost a model: Kullback-Leibler divergence, perplexity and agreement with float32, on real text.

Text is cut into windows of equal length, which are read one by one; the second half of each is scored, so that every
guess has a context. A model that is measured on its own continuations is flattered, so those are never used.
"""

from __future__ import annotations

import inspect
import tempfile
from collections.abc import Callable, Iterator, Mapping, Sequence
from contextlib import AbstractContextManager
from dataclasses import dataclass
from pathlib import Path
from typing import Any, Protocol

import numpy as np
from numpy.typing import NDArray

from cutset.errors import ModelError
from cutset.llm import LLM
from cutset.models.files.fields import read_json
from cutset.models.files.integer import is_integer
from cutset.models.files.source import open_source
from cutset.models.run.executor import Batch

__all__ = [
    "Answers",
    "Quality",
    "QualityTexts",
    "Reference",
    "Variant",
    "common_texts",
    "executor_answers",
    "measure_quality",
]

BLOCK = 16
WINDOW = 512  # tokens
POSITIONS = 1024  # that are scored of a text
CHARACTERS = 16  # of a token, at most on average
ROUNDED = ("int8", "exact")
ROWS = 64  # scored at a time, in float64

Floats = NDArray[np.float32]


class Answers(Protocol):
    """What a program says of the next token: logits (tokens, vocab) of ids (tokens,)."""

    def __call__(self, ids: NDArray[np.int32]) -> Floats: ...


@dataclass(frozen=True, slots=True)
class Quality:
    """Of a program's answers beside those of float32, over `positions`. Divergences are in nats."""

    perplexity: float
    rise: float  # of the perplexity, as a share
    divergence: float  # sum p (log p - log q), the mean
    divergence_99: float  # and what 99 % of the positions stay below
    top1: float  # share of positions at which the likeliest token is the same
    positions: int


@dataclass(frozen=True, slots=True)
class Variant:
    """Another file of the same model, run in a dtype, under a name of its own."""

    label: str
    model: str | Path
    dtype: str = "auto"


class QualityTexts:
    """Texts as windows of tokens, by name."""

    def __init__(self, windows: Mapping[str, Sequence[NDArray[np.int32]]]) -> None:
        self.windows = {name: list(each) for name, each in windows.items()}

    @classmethod
    def of(cls, llm: LLM, texts: Mapping[str, str], window: int = WINDOW, positions: int = POSITIONS) -> QualityTexts:
        """The first windows of each text. Raises ModelError for a text that has not even one."""
        window = min(window, llm.max_model_len)
        found = {}
        for name, text in texts.items():
            most = -(-positions // (window - window // 2))
            ids = llm.encode(text[: most * window * CHARACTERS])
            found[name] = [ids[at : at + window] for at in range(0, len(ids) - window + 1, window)][:most]
            if not found[name]:
                raise ModelError(f"{name} has {len(ids)} tokens; a window has {window} (--window)")
        return cls(found)

    def starts(self, texts: Mapping[str, str]) -> Iterator[tuple[NDArray[np.int32], str]]:
        """The first window of each text, and more than enough of the text for it."""
        return ((each[0], texts[name][: len(each[0]) * CHARACTERS]) for name, each in self.windows.items())

    def __iter__(self) -> Iterator[tuple[str, NDArray[np.int32]]]:
        return ((name, ids) for name, each in self.windows.items() for ids in each)


def common_texts() -> dict[str, str]:
    """Prose and code that every machine has: Python's language reference, and one of its modules."""
    import argparse
    from pydoc_data.topics import topics

    prose = "\n\n".join(topics[name] for name in sorted(topics) if topics[name].count("\n") > 40)
    return {"Python's reference": prose, "Python's argparse": inspect.getsource(argparse)}


def executor_answers(llm: LLM) -> Answers:
    """Those of a model that runs here."""
    caches: dict[int, Any] = {}

    def answers(ids: NDArray[np.int32]) -> Floats:
        batch = Batch.whole(ids[None], BLOCK)
        cache = caches.setdefault(len(ids), llm.executor.new_cache(batch.block_tables.size, BLOCK))
        logits: Floats = llm.executor.forward(batch, cache)
        return logits

    return answers


class Reference:
    """The log-probabilities that others are held against, kept in a file while they are needed."""

    def __init__(self, texts: QualityTexts, answers: Answers, folder: Path) -> None:
        self.texts, self._kept = texts, list[NDArray[np.float32]]()
        self._loss = dict.fromkeys(texts.windows, 0.0)
        for i, (name, ids) in enumerate(texts):
            logits = _scored(answers(ids))
            kept = np.lib.format.open_memmap(folder / f"{i}.npy", "w+", np.float32, logits.shape)
            for rows in _parts(len(logits)):
                exact = _log_softmax(logits[rows])
                kept[rows] = exact
                self._loss[name] -= float(np.take_along_axis(exact, _following(ids)[rows, None], 1).sum())
            self._kept.append(kept)

    def compare(self, answers: Answers) -> dict[str, Quality]:
        """The quality of other answers, by text. Raises ModelError where they have another vocabulary."""
        found: dict[str, list[tuple[NDArray[np.float64], float, NDArray[np.bool_]]]] = {}
        for kept, (name, ids) in zip(self._kept, self.texts, strict=True):
            logits = _scored(answers(ids))
            if logits.shape != kept.shape:
                raise ModelError(f"its vocabulary has {logits.shape[1]} tokens, the model's {kept.shape[1]}")
            for rows in _parts(len(logits)):
                ours, theirs = kept[rows].astype(np.float64), _log_softmax(logits[rows])
                divergence = (np.exp(ours) * (ours - theirs)).sum(axis=1)
                loss = -float(np.take_along_axis(theirs, _following(ids)[rows, None], 1).sum())
                found.setdefault(name, []).append((divergence, loss, ours.argmax(1) == theirs.argmax(1)))
        return {name: self._quality(self._loss[name], parts) for name, parts in found.items()}

    @staticmethod
    def _quality(base: float, parts: list[tuple[NDArray[np.float64], float, NDArray[np.bool_]]]) -> Quality:
        divergence, same = (np.concatenate([part[i] for part in parts]) for i in (0, 2))
        count, loss = len(divergence), sum(part[1] for part in parts)
        perplexity = float(np.exp(loss / count))
        return Quality(
            perplexity=perplexity,
            rise=float(np.exp((loss - base) / count)) - 1,
            divergence=float(divergence.mean()),
            divergence_99=float(np.quantile(divergence, 0.99)),
            top1=float(same.mean()),
            positions=count,
        )


def measure_quality(
    model: str | Path,
    texts: Mapping[str, str],
    dtypes: Sequence[str] | None = None,
    against: Sequence[str | Path | Variant] = (),
    *,
    window: int = WINDOW,
    positions: int = POSITIONS,
    others: Mapping[str, Callable[[], AbstractContextManager[Answers | None]]] | None = None,
    **options: Any,
) -> Iterator[tuple[str, dict[str, Quality]]]:
    """What each dtype of a model, other files of it and other programs are worth beside the model in float32: a name,
    and the quality by text, as they are measured. `options` are settings. A program that gives no answers is left out.

    Without dtypes: those that round its weights, or of a file whose weights have few bits what `auto` makes of it.
    Raises ModelError for a text that is too short, and for others that aren't the same model.
    """
    options = {"backend": "native", "generation_config": False, "prefix_caching": False, **options}
    with tempfile.TemporaryDirectory() as folder:
        with LLM(model, dtype="float32", **options) as llm:
            windows = QualityTexts.of(llm, texts, window, positions)
            reference = Reference(windows, executor_answers(llm), Path(folder))
            own = reference.compare(executor_answers(llm))
            stored = open_source(llm.directory, verify="changed").dtype
        yield "float32", own
        if dtypes is None:
            dtypes = ROUNDED if stored in ("float32", "float16", "bfloat16") else ("auto",)
        wanted = [Variant("", model, dtype) for dtype in dict.fromkeys(dtypes) if dtype != "float32"]
        wanted += [each for file in against for each in _variants(file)]
        for one in wanted:
            with LLM(one.model, dtype=one.dtype, **options) as llm:
                if any(not np.array_equal(ids, llm.encode(text)[: len(ids)]) for ids, text in windows.starts(texts)):
                    raise ModelError(f"{one.model} makes other tokens of the texts: it is another model")
                label = one.label.replace("{}", llm.choice.dtype) or llm.choice.dtype
                yield label, reference.compare(executor_answers(llm))
        for shown, opened in (others or {}).items():
            with opened() as answers:
                if answers is not None:
                    yield shown, reference.compare(answers)


def _variants(file: str | Path | Variant) -> list[Variant]:
    """A file in its own dtype; an integer checkpoint in both of those that run it."""
    if isinstance(file, Variant):
        return [file]
    whole = Path(file)
    integers = whole.is_dir() and (whole / "config.json").is_file() and is_integer(read_json(whole / "config.json"))
    return [Variant(f"{file} ({{}})", file, dtype) for dtype in (("int8", "exact") if integers else ("auto",))]


def _scored(logits: Floats) -> Floats:
    """The rows whose next token is scored: the second half, but for the last, whose next token nobody knows."""
    return logits[len(logits) // 2 : -1]


def _following(ids: NDArray[np.int32]) -> NDArray[np.int64]:
    return ids[len(ids) // 2 + 1 :].astype(np.int64)


def _parts(count: int) -> Iterator[slice]:
    return (slice(at, min(at + ROWS, count)) for at in range(0, count, ROWS))


def _log_softmax(logits: Floats) -> NDArray[np.float64]:
    exact = logits.astype(np.float64)
    exact -= exact.max(axis=1, keepdims=True)
    exact -= np.log(np.exp(exact).sum(axis=1, keepdims=True))
    return exact
