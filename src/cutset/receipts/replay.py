"""Runs what a receipt says once more, and compares the tokens."""

from __future__ import annotations

from collections.abc import Callable
from dataclasses import dataclass, field
from typing import Any

from cutset.config import Settings
from cutset.engine.grammar import Grammar
from cutset.engine.params import SamplingParams
from cutset.errors import ConfigError, DeviceError
from cutset.llm import LLM
from cutset.receipts.issuer import DETAILS, run_facts
from cutset.trust.receipt import Receipt
from cutset.trust.verify_receipt import trees_of

__all__ = ["ReplayResult", "replay", "replay_settings"]

INVARIANT = "native"  # the backend whose rows don't depend on the rows beside them


@dataclass(frozen=True, slots=True)
class ReplayResult:
    """`same`: the tokens are those of the receipt; None: it can't be told here, and `why` says why not. `first`: the
    first token that differs, as answer and place; None where the tokens are the same, and the receipt shows them as
    something else: `why` says which."""

    same: bool | None
    why: list[str] = field(default_factory=list)
    first: tuple[int, int] | None = None
    tokens: int = 0


def replay_settings(receipt: Receipt) -> dict[str, Any]:
    """The settings that a receipt's tokens depend on."""
    said = receipt.statement["run"]
    return {
        "backend": said["backend"],
        "dtype": said["dtype"],
        "kv_dtype": said["kv_dtype"],
        "device": said["device"],
        "max_model_len": said["context"],
    }


def replay(receipt: Receipt, model: str, settings: Settings, adapter: str | None = None) -> ReplayResult:
    """Runs the request of a whole receipt with this model. What can't be the receipt's run isn't run.

    Raises ConfigError where the receipt doesn't show what was asked, or the run failed, and what loading raises.
    """
    said = receipt.statement
    if not receipt.found.complete:
        raise ConfigError(f"the run of this receipt ended with {said['outcome']!r}: there is nothing to run again")
    prompts = [_ids(receipt, f"prompt:{i}") for i in range(len(said["prompts"]))]
    wanted = [_ids(receipt, f"answer:{i}") for i in range(len(said["answers"]))]
    unknown = said["sampling"].keys() - set(SamplingParams.names())
    if unknown:
        return ReplayResult(None, [f"sampling parameters that this version doesn't have: {', '.join(sorted(unknown))}"])
    params = _params(receipt)
    samples = [[prompt, sample] for prompt in range(len(prompts)) for sample in range(params.n)]
    if [row[:2] for row in said["answers"]] != samples:
        raise ConfigError("the receipt has other answers than it says that were asked for")
    try:
        llm = LLM(model, settings=settings, adapters={} if adapter is None else {"adapter": adapter})
    except DeviceError as error:  # the receipt's device and backend aren't here
        return ReplayResult(None, [str(error)])
    with llm:
        why = _differences(receipt, llm)
        if why:
            return ReplayResult(None, why)
        if why := _misquoted(receipt, llm):
            return ReplayResult(False, why)
        outputs = llm.generate(prompts, params, adapter=None if adapter is None else "adapter")
    texts = [output.outputs[sample].text for output in outputs for sample in range(params.n)]
    found = [output.outputs[sample].token_ids for output in outputs for sample in range(params.n)]
    for answer, (ours, theirs) in enumerate(zip(found, wanted, strict=True)):
        if ours != theirs:
            at = next(
                (i for i, (a, b) in enumerate(zip(ours, theirs, strict=False)) if a != b), min(len(ours), len(theirs))
            )
            if said["run"]["backend"] != INVARIANT:
                why = [f"on the {said['run']['backend']} backend tokens depend on what ran beside them"]
                return ReplayResult(None, why, (answer, at))
            return ReplayResult(False, [], (answer, at))
    shown = dict(leaf for leaf in receipt.whole("details").values() if leaf is not None)
    wrong = [name for at, text in enumerate(texts) if shown.get(name := f"text:{at}", text) != text]
    if wrong:
        return ReplayResult(False, [f"{wrong[0]} isn't the text of its tokens"])
    return ReplayResult(True, tokens=sum(map(len, found)))


def _ids(receipt: Receipt, tree: str) -> list[int]:
    return [leaf[0] for leaf in receipt.whole(tree).values() if leaf is not None]


def _misquoted(receipt: Receipt, llm: LLM) -> list[str]:
    """Which token is shown as other bytes than the model's tokenizer has for it: what a reader sees are these."""
    for tree in trees_of(receipt.statement):
        if tree == "details":
            continue
        for index, leaf in receipt.whole(tree).items():
            if leaf is not None and llm.tokenizer.piece(leaf[0]) != leaf[1]:
                return [f"token {index} of {tree} is shown as other bytes than the tokenizer writes for it"]
    return []


def _params(receipt: Receipt) -> SamplingParams:
    given = dict(receipt.statement["sampling"])
    given["truncate_prompt_tokens"] = None  # the prompt is what was left of it
    for leaf in receipt.whole("details").values():
        if leaf is None or leaf[0] not in DETAILS:
            continue
        name, value = leaf
        try:
            given[name] = READ.get(name, lambda one: one)(value)
        except (TypeError, ValueError):
            raise ConfigError(f"the receipt's {name} is none") from None
    return SamplingParams(**given, seed=receipt.statement["seed"])


def _grammar(value: Any) -> Grammar:
    """Checked as any other: it comes from whoever signed. Raises TypeError, ValueError, RequestError."""
    kind, text, gaps = value
    if not isinstance(text, str) or not isinstance(gaps, str | None):
        raise TypeError
    if kind == "json":
        return Grammar.json_schema(text, gaps=gaps)
    return Grammar.regex(text) if kind == "regex" else Grammar.lark(text)


# What becomes of the values of details that aren't parameters as they are.
READ: dict[str, Callable[[Any], Any]] = {"structured_outputs": _grammar, "logit_bias": dict}


def _differences(receipt: Receipt, llm: LLM) -> list[str]:
    """Why the tokens here might be others than there, in words."""
    said, here = receipt.statement, run_facts(llm)
    files, tokenizer = llm.digests()
    found = []
    if (said["model"]["files"], said["model"]["tokenizer"]) != (files, tokenizer):
        found.append(f"it was another model: files {said['model']['files'].hex()}, not {files.hex()}")
    adapter = llm.adapter("adapter") if llm.adapters else None
    if said["model"]["adapter"] != (None if adapter is None else adapter.digest):
        found.append("the adapter is another one: give --adapter the one of the receipt, or none where it has none")
    for name, value in said["run"].items():
        if name == "stages" or value == here[name]:  # however a decoder is cut, its bits are the same
            continue
        theirs, ours = ((one.hex()[:16] if isinstance(one, bytes) else one) for one in (value, here[name]))
        found.append(f"{name}: {theirs} there, {ours} here")
    return found
