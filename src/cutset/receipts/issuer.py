"""Receipts of answers: what a loaded model promises and does, put into signed statements."""

from __future__ import annotations

import hashlib
import os
import platform
import time
from collections.abc import Sequence
from dataclasses import replace
from typing import TYPE_CHECKING, Any

import numpy as np
from numpy.typing import NDArray

from cutset.engine.outputs import Delta
from cutset.engine.params import SamplingParams
from cutset.engine.prefix_context import code_digest, libraries
from cutset.errors import IntegrityError, RequestError
from cutset.loaded_model import LoadedModel
from cutset.trust.canonical import encode
from cutset.trust.merkle import SALT_BYTES, SaltedTree
from cutset.trust.receipt import AnswerTree, sign_receipt
from cutset.trust.signing_key import Signer
from cutset.version import ARITHMETIC, software

if TYPE_CHECKING:
    from cutset.offload.client.offload import Offload

__all__ = ["DETAILS", "OpenReceipt", "ReceiptIssuer", "run_facts"]

# Parameters with texts or ids of whoever asks: they are salted, like the tokens.
DETAILS = ("stop", "stop_token_ids", "structured_outputs", "logit_bias", "allowed_token_ids", "bad_words")
MOST_TOKENS = 1 << 20  # of prompts: a receipt has a size that is read
CODE = ("engine", "kernels", "models")  # the packages whose code the tokens come from


class ReceiptIssuer:
    """Makes receipts of a model's answers, all signed by one key. Any thread may use it.

    Raises ModelError where files of the model aren't any more what they were when it was loaded.
    """

    def __init__(self, llm: LoadedModel, signer: Signer) -> None:
        self.llm, self.signer = llm, signer
        files, tokenizer = llm.digests()
        template = llm.template_source
        self.model: dict[str, Any] = {
            "name": llm.name[:1000],
            "files": files,
            "tokenizer": tokenizer,
            "template": None if template is None else hashlib.sha256(template.encode()).digest(),
        }
        self.run = run_facts(llm)
        self._contents: dict[int, bytes] = {}  # of leaves, by token

    def begin(
        self, prompts: Sequence[NDArray[np.int32]], params: SamplingParams, adapter: str | None = None
    ) -> OpenReceipt:
        """Before a request is handed in, which then has the receipt's `params`: they have a seed. Raises RequestError
        for parameters that no receipt can have."""
        return OpenReceipt(self, prompts, self.llm.params(params), adapter)

    def tokens(self, ids: Sequence[int]) -> SaltedTree:
        """The tree over tokens."""
        contents, known = list[bytes](), self._contents
        for token_id in ids:
            if (content := known.get(token_id)) is None:
                content = known[token_id] = encode([token_id, self.llm.tokenizer.piece(token_id)])
            contents.append(content)
        return SaltedTree(contents)


class OpenReceipt:
    """A receipt whose request runs. `take` costs nothing worth measuring; the hashing is done at the end."""

    def __init__(
        self,
        issuer: ReceiptIssuer,
        prompts: Sequence[NDArray[np.int32]],
        params: SamplingParams,
        adapter: str | None,
    ) -> None:
        seed = int.from_bytes(os.urandom(8), "little") if params.seed is None else params.seed
        self.params = replace(params, seed=seed)
        self._issuer = issuer
        self._prompts = [ids.tolist() for ids in prompts]
        if (tokens := sum(map(len, self._prompts))) > MOST_TOKENS:
            raise RequestError(
                f"a receipt has room for {MOST_TOKENS} tokens of prompts, not {tokens}: ask for less at once"
            )
        loaded = issuer.llm.adapter(adapter)
        self._adapter = None if loaded is None else loaded.digest
        self._tokens: dict[tuple[int, int], list[int]] = {}
        self._texts: dict[tuple[int, int], list[str]] = {}
        self._ends: dict[tuple[int, int], str] = {}
        self._before = OffloadWork.of(issuer.llm.offload)
        self._began, self._clock = time.time_ns() // 1_000_000, time.perf_counter()
        self._asked = _details(self.params)

    @property
    def size(self) -> int:
        """About how much there is to hash: tokens."""
        return sum(map(len, self._prompts)) + sum(map(len, self._tokens.values()))

    def take(self, prompt: int, delta: Delta) -> None:
        """One sample of one prompt has moved on."""
        sample = prompt, delta.index
        self._tokens.setdefault(sample, []).extend(delta.token_ids)
        self._texts.setdefault(sample, []).append(delta.text)
        if delta.finish_reason is not None:
            self._ends[sample] = delta.finish_reason

    def finish(self) -> bytes:
        """The receipt, when every sample has ended. Raises RuntimeError before."""
        samples = [(prompt, index) for prompt in range(len(self._prompts)) for index in range(self.params.n)]
        if missing := [one for one in samples if one not in self._ends]:
            raise RuntimeError(f"{len(missing)} samples haven't ended")
        aborted = "abort" in self._ends.values()
        return self._signed("aborted" if aborted else "complete", failed=False)

    def fail(self, error: Exception) -> bytes:
        """The receipt of a request that an error ended: it says so, and holds what there was of the answer."""
        integrity = isinstance(error, IntegrityError)
        return self._signed("integrity" if integrity else "error", failed=integrity)

    def _signed(self, outcome: str, *, failed: bool) -> bytes:
        issuer, params = self._issuer, self.params
        ended = self._began + int(1000 * (time.perf_counter() - self._clock))
        done = OffloadWork.of(issuer.llm.offload)
        samples = sorted(self._tokens)
        statement = {
            "id": os.urandom(SALT_BYTES),
            "began": self._began,
            "ended": ended,
            "model": issuer.model | {"adapter": self._adapter},
            "sampling": {
                name: getattr(params, name) for name in params.names() if name not in DETAILS and name != "seed"
            },
            "seed": params.seed,
            "mode": issuer.llm.mode or "local",
            "run": issuer.run,
            "offload": None if done is None or self._before is None else done.since(self._before, failed=failed),
            "outcome": outcome,
        }
        answers = [
            AnswerTree(*sample, self._ends.get(sample, "abort"), issuer.tokens(self._tokens[sample]))
            for sample in samples
        ]
        texts = {f"text:{i}": "".join(self._texts[sample]) for i, sample in enumerate(samples)}
        prompts = [issuer.tokens(ids) for ids in self._prompts]
        return sign_receipt(issuer.signer, statement, prompts, answers, self._asked | texts)


def _details(params: SamplingParams) -> dict[str, Any]:
    """Those of the parameters that are given. Raises RequestError."""
    found: dict[str, Any] = {}
    if params.stop_strings:
        found["stop"] = list(params.stop_strings)
    if params.stop_ids:
        found["stop_token_ids"] = list(params.stop_ids)
    if (grammar := params.grammar) is not None:
        found["structured_outputs"] = [grammar.kind, grammar.text, grammar.gaps]
    if params.logit_bias:
        found["logit_bias"] = [[token_id, bias] for token_id, bias in params.logit_bias.items()]
    for name in ("allowed_token_ids", "bad_words"):
        if (value := getattr(params, name)) is not None:
            found[name] = list(value)
    try:
        encode(found)
    except ValueError as error:  # half of a surrogate pair
        raise RequestError(f"a receipt can't have these parameters: {error}") from None
    return found


class OffloadWork:
    """What an offload has counted so far."""

    def __init__(self, offload: Offload) -> None:
        linears = offload.linears
        self.products = linears.times.calls
        self.checks, self.failures = linears.checks_passed + linears.checks_failed, linears.checks_failed
        self.pads = None if linears.pads is None else linears.pads.position()

    @classmethod
    def of(cls, offload: Offload | None) -> OffloadWork | None:
        """None where everything is computed here."""
        return None if offload is None else cls(offload)

    def since(self, before: OffloadWork, *, failed: bool) -> dict[str, Any]:
        """What was counted since then, as a statement has it. Other requests that ran meanwhile are in it."""
        pads = None
        if self.pads is not None and before.pads is not None:
            pads = {
                "ledger": self.pads.ledger,
                "blocks": [before.pads.oldest, self.pads.blocks],
                "rows": [before.pads.used, self.pads.used],
            }
        return {
            "products": self.products - before.products,
            "checks": self.checks - before.checks,
            "failures": max(self.failures - before.failures, int(failed)),
            "pads": pads,
        }


def run_facts(llm: LoadedModel) -> dict[str, Any]:
    """What tokens depend on besides the model, prompt and parameters: who computes, in which numbers, on what."""
    choice = llm.choice
    return {
        "software": software(),
        "code": bytes.fromhex(code_digest(*CODE)),
        "arithmetic": ARITHMETIC,
        "backend": choice.backend,
        "dtype": choice.dtype,
        "kv_dtype": llm.settings.kv_dtype,
        "device": choice.device,
        "machine": platform.machine(),
        "libraries": libraries(choice) if llm.stages is None else llm.stages.libraries,
        "context": llm.settings.max_model_len or llm.spec.context,
        "stages": 0 if llm.stages is None else len(llm.stages.pipeline.workers.stages),
    }
