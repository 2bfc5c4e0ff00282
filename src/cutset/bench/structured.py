"""`cutset bench structured`: what a grammar costs, and whether answers are what it says."""

from __future__ import annotations

import importlib
import json
import time
from collections.abc import Callable, Iterable, Iterator, Sequence
from random import Random
from typing import Any

from cutset.bench.schemas import random_schema
from cutset.bench.turns import medians, take_turns
from cutset.compare.results import Row
from cutset.config import Settings
from cutset.engine import Engine, SamplingParams
from cutset.engine.grammar import Grammar
from cutset.errors import ConfigError, RequestError
from cutset.llm import LLM

__all__ = ["ENDLESS", "ENDLESS_SCHEMA", "PROMPT", "run_structured"]

PROMPT = "Once upon a time, there was a list of people and what they liked:\n"
BLOCK = 16  # tokens
# A list that doesn't end before the tokens do.
PERSON = {
    "type": "object",
    "properties": {
        "name": {"type": "string", "maxLength": 40},
        "age": {"type": "integer", "minimum": 0, "maximum": 120},
        "likes": {"type": "array", "items": {"type": "string", "maxLength": 30}, "minItems": 1, "maxItems": 3},
        "mood": {"enum": ["happy", "sad", "angry", "tired"]},
    },
    "required": ["name", "age", "likes", "mood"],
    "additionalProperties": False,
}
ENDLESS_SCHEMA = {"type": "array", "items": PERSON, "minItems": 100_000}
ENDLESS = Grammar.json_schema(ENDLESS_SCHEMA)
ANSWER = 400  # tokens, at most


def run_structured(
    model: str,
    settings: Settings,
    *,
    tokens: int,
    sequences: Sequence[int],
    rounds: int,
    answers: int,  # to random schemas
    suite: Iterable[tuple[str, Any]],  # names and schemas that are answered too, those that can't be kept are counted
    log: Callable[[str], None],
) -> list[Row]:
    """Tokens a second with a grammar and without, in turns; seconds to a first token; how many answers are valid.

    Raises ConfigError where jsonschema isn't installed, RequestError where llguidance isn't.
    """
    if answers or suite:
        _validator()
    with LLM(model, settings=settings) as llm:
        before = time.perf_counter()
        llm.grammars.compile(Grammar.regex("a"))
        rows = [Row(llm.name, "cutset", "vocabulary read", time.perf_counter() - before, "s")]
        measured = list[Row]()
        for count in sequences:
            name = f"{llm.name}, {count} at once"
            measured += take_turns(name, [_decoding(llm, name, count, tokens)], rounds, log)
        measured += take_turns("first token", [_first_token(llm)], rounds, log)
        rows += medians(measured)
        if answers:
            random = Random(7)
            named = [(str(number), random_schema(random, 3)) for number in range(answers)]
            rows += _answered(llm, f"{llm.name}, random schemas", named, log)
        if suite:
            rows += _answered(llm, f"{llm.name}, test suite", suite, log)
    return rows


def _decoding(llm: LLM, workload: str, count: int, tokens: int) -> Callable[[int], Iterator[Row]]:
    prompt = llm.encode(PROMPT).tolist()
    engine = Engine(
        llm.executor,
        llm.tokenizer,
        blocks=count * (-(-(len(prompt) + tokens) // BLOCK) + 1),
        block_size=BLOCK,
        max_num_seqs=count,
        prefix_caching=False,
        grammars=llm.grammars,
    )

    def turn(number: int) -> Iterator[Row]:
        spent = {}
        names = ["none", "schema"]
        for name in names if number % 2 else reversed(names):
            grammar = ENDLESS if name == "schema" else None
            spent[name] = _spent(engine, prompt, count, tokens, grammar)
            yield Row(workload, f"cutset {name}", "decode", count * (tokens - 1) / spent[name][0], "tok/s")
        yield Row(workload, "cutset schema", "decode against none", spent["none"][0] / spent["schema"][0], "x")
        yield Row(workload, "cutset schema", "CPU against none", spent["none"][1] / spent["schema"][1], "x")

    return turn


def _spent(engine: Engine, prompt: list[int], count: int, tokens: int, grammar: Grammar | None) -> tuple[float, float]:
    """Seconds, and those of all cores, for all tokens after the first ones."""
    for number in range(count):
        params = SamplingParams(temperature=0, max_tokens=tokens, ignore_eos=True, structured_outputs=grammar)
        engine.add(str(number), prompt, params)
    begun, started, cpu = set[str](), 0.0, 0.0
    while engine.has_work:
        for delta in engine.step():
            if delta.error is not None:
                raise delta.error
            begun.add(delta.request_id)
        if len(begun) == count and not started:
            started, cpu = time.perf_counter(), time.process_time()
    return time.perf_counter() - started, time.process_time() - cpu


def _first_token(llm: LLM) -> Callable[[int], Iterator[Row]]:
    """The same prompt each time, most of which is in the cache then."""

    def seconds(grammar: Grammar | None) -> float:
        started = time.perf_counter()
        pieces = llm.stream(PROMPT, SamplingParams(temperature=0, max_tokens=2, structured_outputs=grammar))
        next(pieces)
        spent = time.perf_counter() - started
        for _ in pieces:
            pass
        return spent

    def turn(number: int) -> Iterator[Row]:
        unseen = {**PERSON, "properties": {**PERSON["properties"], f"round {number}": {"type": "boolean"}}}  # type: ignore[dict-item]
        grammar = Grammar.json_schema(unseen)
        none, new, kept = seconds(None), seconds(grammar), seconds(grammar)
        yield Row(llm.name, "cutset none", "first token", none * 1e3, "ms")
        yield Row(llm.name, "cutset new schema", "first token later by", (new - none) * 1e3, "ms")
        yield Row(llm.name, "cutset kept schema", "first token later by", (kept - none) * 1e3, "ms")

    return turn


def _validator() -> Any:
    try:
        return importlib.import_module("jsonschema").Draft202012Validator
    except ImportError:
        raise ConfigError("to count valid answers takes the library jsonschema: pip install jsonschema") from None


def _answered(llm: LLM, workload: str, named: Iterable[tuple[str, Any]], log: Callable[[str], None]) -> list[Row]:
    """Answers to all schemas that are kept, and how many that are complete are valid."""
    kept, refused = list[tuple[str, Any, Grammar]](), 0
    for name, schema in named:
        try:
            grammar = Grammar.json_schema(schema)
            llm.grammars.compile(grammar)
            kept.append((name, schema, grammar))
        except RequestError as error:
            refused += 1
            log(f"{workload}: {name}: {error}")
    params = [
        SamplingParams(seed=number, max_tokens=ANSWER, structured_outputs=grammar)
        for number, (_, _, grammar) in enumerate(kept)
    ]
    validator, valid, complete = _validator(), 0, 0
    for (name, schema, _), output in zip(kept, llm.generate([PROMPT] * len(kept), params), strict=True):
        if output.finish_reason != "stop":
            continue  # the model had more to say than it was allowed
        complete += 1
        try:
            right = validator(schema).is_valid(json.loads(output.text))
        except ValueError:
            right = False
        valid += right
        if not right:
            log(f"{workload}: {name}: not valid: {output.text[:200]}")
    rows = [("kept", len(kept)), ("refused", refused), ("complete", complete), ("valid", valid)]
    return [Row(workload, "cutset schema", f"schemas {name}", float(count), "calls") for name, count in rows]
