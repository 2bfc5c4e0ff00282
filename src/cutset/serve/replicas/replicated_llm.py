"""A model that replicas run: what the server has of it here are tokenizer, templates and grammars."""

from __future__ import annotations

import time
from collections.abc import Callable
from dataclasses import replace
from pathlib import Path

import numpy as np
from numpy.typing import NDArray

from cutset.config import Settings
from cutset.engine.delivery import Deliver
from cutset.engine.handle import RequestHandle
from cutset.engine.intake import check_fits, check_prompt, restriction_of
from cutset.engine.model_defaults import sampling_defaults
from cutset.engine.outputs import Delta, EngineStats
from cutset.engine.params import SamplingParams
from cutset.engine.resumption import Resumption
from cutset.engine.text_embedder import TextEmbedder
from cutset.errors import ConfigError, RequestError
from cutset.link.keys import Keys, load_keys
from cutset.link.peer import Binding
from cutset.llm import AsyncLLM
from cutset.models.files.fingerprint import fingerprint
from cutset.models.files.integer import Progress
from cutset.models.files.source import open_source
from cutset.models.pooling import stated_pooling
from cutset.models.registry import resolve, settings_for
from cutset.models.run.backend import BackendChoice, choose, shared_cache_mib, stored_dtype
from cutset.models.run.executor import LoadedAdapter
from cutset.serve.replicas.replica_launchers import ReplicaLauncher
from cutset.serve.replicas.replica_scale import ReplicaScale
from cutset.serve.replicas.replica_set import ReplicaSet, ReplicaTimes

__all__ = ["ALONE", "ReplicatedLLM", "cache_of_each", "check_replicated"]

ALONE = ("offload", "mode", "pads_from", "stages_listen", "data_oblivious")


def check_replicated(settings: Settings) -> None:
    """Raises ConfigError for settings that replicas can't have."""
    for name in ALONE:
        if getattr(settings, name):
            raise ConfigError(f"--replicas and --{name.replace('_', '-')} don't go together: leave one of them out")
    elsewhere = [settings.stages, settings.spares]
    if any(where and not isinstance(where, int) for where in elsewhere):
        raise ConfigError(
            "--replicas and --stages at addresses don't go together, since a stage serves one engine: give --stages a "
            "number, or start each replica with its own stages (`cutset replica MODEL --stages …`)"
        )


def cache_of_each(model: str, settings: Settings, count: int, progress: Progress | None = None) -> int:
    """The setting `cache_mib` of each of so many replicas on this machine. Reads the model's headers. Raises what
    opening it would."""
    found = resolve(model, settings, progress)
    own = settings_for(found, settings)
    source = open_source(found.directory, own.verify)
    choice = choose(own, stored_dtype(source))
    return shared_cache_mib(source.spec, choice, own, own.max_model_len or source.spec.context, count)


class ReplicatedLLM(AsyncLLM):
    """The same as AsyncLLM to whoever asks it. Loading waits for the replicas.

    `all_of_them`: see ReplicaSet.start. `keys`: this side's pair, where that isn't what the setting `key` names.
    `verify`: whether a replica's evidence is enough.
    """

    def __init__(
        self,
        model: str | Path,
        launcher: ReplicaLauncher,
        scale: ReplicaScale,
        *,
        settings: Settings,
        progress: Progress | None = None,
        chat_template: str | None = None,
        all_of_them: bool = True,
        times: ReplicaTimes | None = None,
        keys: Keys | None = None,
        verify: Callable[[bytes, Binding], bool] | None = None,
        report: Callable[[str], None] = lambda line: None,
    ) -> None:
        started = time.perf_counter()
        check_replicated(settings)
        found = self._find(model, settings, progress)
        source = self._open_text(found, chat_template, self.settings.verify)
        self.generation = sampling_defaults(found.directory, self.spec.max_positions, self.settings)
        self.offload, self.stages, self._store, self.mode = None, None, None, ""
        if keys is None and self.settings.key is not None:
            keys = load_keys(self.settings.key)
        self.replicas = ReplicaSet(
            launcher,
            scale,
            model=fingerprint(source.tensors),
            block_size=self.settings.block_size,
            keys=keys,
            times=times,
            verify=verify,
            report=report,
        )
        source.forget()
        self.replicas.start(all_of_them=all_of_them)
        facts = self.replicas.facts
        self.choice = BackendChoice(facts.backend, facts.dtype, facts.device, facts.threads)
        self.settings = replace(self.settings, max_num_seqs=facts.slots * scale.most)
        without_token = self.tokenizer.ids_without_token(self.spec.vocab_size)
        self._without_token = np.zeros(self.spec.vocab_size, dtype=np.bool_)
        self._without_token[without_token] = True
        self._adapters = {name: LoadedAdapter(name, b"", None) for name in facts.adapters}
        self.embeddings = TextEmbedder(
            self.replicas.embed,
            self.tokenizer,
            vocab_size=self.spec.vocab_size,
            without_token=without_token.tolist(),
            limit=self.max_model_len,
            pooling=stated_pooling(self.directory) or "last",
        )
        self.load_s = time.perf_counter() - started

    @property
    def context(self) -> int:
        """See LoadedModel."""
        return self.replicas.facts.context

    @property
    def cache_tokens(self) -> int:
        """Of each replica."""
        return self.replicas.facts.cache_tokens

    @property
    def away(self) -> str:
        """See LoadedModel."""
        return "" if self.replicas.ready else "no replica of the model is there, and requests wait for one"

    @property
    def alive(self) -> bool:
        """See LoadedModel."""
        return self.replicas.alive

    def stats(self) -> EngineStats:
        """Of all replicas together."""
        return self.replicas.stats()

    def check(self, ids: NDArray[np.int32], params: SamplingParams) -> None:
        """See LoadedModel."""
        self._checked(ids, self.params(params))

    def prepare(self, params: SamplingParams | None) -> None:
        """See LoadedModel."""
        self._restrict(self.params(params))

    def submit(
        self,
        ids: NDArray[np.int32],
        params: SamplingParams | None = None,
        *,
        on_delta: Callable[[Delta], object],
        cache_salt: str | None = None,
        adapter: str | None = None,
        background: bool = False,
        deliver: Deliver | None = None,
        whole: bool = False,
        resumption: Resumption | None = None,
    ) -> RequestHandle:
        """See AsyncLLM. Its seed is fixed here, so that another replica can go on with it."""
        if resumption is not None:
            raise RequestError("A request that replicas run goes on by itself.")
        self.adapter(adapter)
        params = self.params(params)
        ids = self._checked(ids, params)
        cancel = self.replicas.submit(
            ids,
            params,
            on_delta,
            salt=cache_salt,
            adapter=adapter,
            background=background,
            deliver=deliver,
            whole=whole,
        )
        return RequestHandle("", ids, None, None, cancel)

    def close(self) -> None:
        """Stops the replicas; what still runs ends with an error."""
        self.replicas.close()
        if self._template is not None:
            self._template.close()

    def __del__(self) -> None:
        if (replicas := getattr(self, "replicas", None)) is not None:
            replicas.close()

    def _checked(self, ids: NDArray[np.int32], params: SamplingParams) -> NDArray[np.int32]:
        ids = check_prompt(ids, params, without_token=self._without_token, longest=self.max_model_len)
        self._restrict(params)
        check_fits(len(ids), context=self.context, cache=self.cache_tokens)
        return ids

    def _restrict(self, params: SamplingParams) -> None:
        if params.constrained:
            restriction_of(params, self.grammars, self._without_token)
