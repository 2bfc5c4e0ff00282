"""A model that has been loaded, and its engine in a thread of its own: what LLM and AsyncLLM share.

This is the one place that knows all jobs: it puts tokenizer, decoder, linears and engine together.
"""

from __future__ import annotations

import contextlib
import logging
import threading
import time
from collections.abc import Callable, Mapping, Sequence
from dataclasses import replace
from pathlib import Path
from typing import TYPE_CHECKING, Any

import numpy as np
from numpy.typing import NDArray

from cutset.config import Settings, load_settings
from cutset.engine.draft_model import check_speculation, open_drafting
from cutset.engine.engine import Engine
from cutset.engine.grammar_compiler import GrammarCompiler, Vocabulary
from cutset.engine.loop import EngineLoop
from cutset.engine.model_defaults import sampling_defaults
from cutset.engine.outputs import EngineStats
from cutset.engine.params import SamplingParams
from cutset.engine.prefix_context import open_store
from cutset.engine.prefix_store import PrefixStore
from cutset.engine.stage_settings import check_stages, has_stages
from cutset.engine.step_pipeline import StepPipeline
from cutset.engine.text_embedder import TextEmbedder
from cutset.errors import ConfigError, ModelError, RequestError
from cutset.models.files.adapter import read_adapter
from cutset.models.files.digests import digest_of_files, observe
from cutset.models.files.integer import Progress
from cutset.models.files.source import ModelSource, open_source
from cutset.models.pooling import stated_pooling
from cutset.models.registry import ModelRef, resolve, settings_for
from cutset.models.run.backend import (
    ROUNDED,
    build_executor,
    cache_blocks,
    choose,
    draft_states,
    kept_states,
    stored_dtype,
)
from cutset.models.run.executor import Executor, LoadedAdapter
from cutset.models.text.chat import ChatTemplate
from cutset.models.text.tokenizer import Tokenizer
from cutset.models.text.tokenizer_files import tokenizer_files

if TYPE_CHECKING:
    from cutset.cluster.launch.party_evidence import PartyEvidence
    from cutset.engine.linked_stages import LinkedStages
    from cutset.link.peer import Binding
    from cutset.offload.client.offload import Offload
    from cutset.trust.audit import AuditLog

__all__ = ["LoadedModel", "Message", "Prompt", "stage_evidence"]

log = logging.getLogger(__name__)

Prompt = str | Sequence[int] | NDArray[np.integer[Any]]
Message = Mapping[str, Any]


class LoadedModel:
    """What LLM and AsyncLLM share."""

    def __init__(
        self,
        model: str | Path,
        *,
        settings: Settings | None = None,
        adapters: Mapping[str, str | Path] | None = None,  # LoRA adapters by name: directories as PEFT saves them
        progress: Progress | None = None,  # called while loading: what is being done, how many of how many are done
        chat_template: str | None = None,  # the source of one, in place of the model's
        audit: AuditLog | None = None,  # where refusals of evidence go
        **overrides: Any,
    ) -> None:
        started = time.perf_counter()
        if settings is not None and overrides:
            raise ConfigError("give either settings or single ones, not both")
        settings = settings or load_settings(overrides)
        found = self._find(model, settings, progress)
        mode = None
        asked = self.settings
        padded = asked.pads_from or asked.pad_rows or asked.pad_steps
        if asked.offload or asked.mode or padded or asked.offload_policy is not None:
            from cutset.offload.client.offload import check_settings

            mode = check_settings(self.settings)
        if asked.data_oblivious:
            _check_oblivious(asked)
        # The trusted side of an offload takes nobody's word for its own files, not even its own of last time.
        source = self._open_text(found, chat_template, self.settings.verify if mode is None else "always")
        self.generation = sampling_defaults(found.directory, self.spec.max_positions, self.settings)
        context = self.settings.max_model_len or self.spec.context
        masked, secret = mode is not None and mode.masked, asked.data_oblivious
        check_speculation(self.settings, self.spec, mode.name if mode is not None else "", masked=masked)
        pooling = stated_pooling(found.directory) or "last"  # before there is anything to be closed again
        self._store: PrefixStore | None = None
        self.offload: Offload | None = None
        self.stages: LinkedStages | None = None
        self.executor: Executor  # where the model runs in this process; with stages there is none
        runs: Executor | StepPipeline
        if mode is not None and mode.remote:
            from cutset.offload.client.offload import open_offload

            verify = _verify_by(self.settings.offload_policy, audit)
            self.offload = open_offload(source, self.settings, mode, progress, verify)
            runs, self.choice = self.offload.executor, self.offload.choice
        elif has_stages(self.settings):
            from cutset.engine.linked_stages import LinkedStages

            self.choice = choose(self.settings, stored_dtype(source))
            self.stages = LinkedStages(
                source,
                self.settings,
                self.choice,
                context,
                progress=progress,
                log=log.info,
                verify=_verify_by(self.settings.stage_policy, audit),
                evidence=stage_evidence(self.settings),
            )
            runs = self.stages.pipeline
        else:
            chosen = self.settings if mode is None else replace(self.settings, dtype="exact")
            runs, self.choice = build_executor(source, chosen, progress)
        self.mode = mode.name if mode is not None else ""
        if not isinstance(runs, StepPipeline):
            self.executor = runs
        with contextlib.ExitStack() as failed:
            if self.stages is not None:
                failed.callback(self.stages.close)
            # An adapter is read with its model in every step, so it is rounded where weights are.
            in_bytes = self.choice.dtype in ROUNDED
            self._adapters: dict[str, LoadedAdapter] = {
                name: runs.load_adapter(read_adapter(name, Path(where), self.spec), in_bytes=in_bytes)
                for name, where in (adapters or {}).items()
            }
            if self.stages is None:  # else each keeps its own layers' part
                self._store = open_store(source, self.spec, self.settings, self.choice, context, self.mode)
            drafting = open_drafting(self.settings, self.choice, self.spec, self.tokenizer)
            blocks = cache_blocks(self.spec, self.choice, self.settings, context, drafting.block_bytes)
            if self.stages is not None:
                blocks = self.stages.blocks(blocks)
            self._engine = Engine(
                runs,
                self.tokenizer,
                blocks=blocks,
                block_size=self.settings.block_size,
                max_batch_tokens=self.settings.max_batch_tokens,
                max_num_seqs=self.settings.max_num_seqs,
                max_model_len=self.settings.max_model_len or None,
                prefix_caching=self.settings.prefix_caching and (not (masked or secret) or self._asked_to_reuse()),
                kv_dtype=self.settings.kv_dtype,
                store=self._store,
                kept_states=kept_states(self.spec, self.choice, self.settings),
                without_token=self.tokenizer.ids_without_token(self.spec.vocab_size).tolist(),
                eos_token_ids=self.spec.end_tokens(self.tokenizer.eos_token_id),
                drafter=drafting.open(blocks),
                draft_states=draft_states(self.spec, self.choice, self.settings),
                draft_tokens=self.settings.speculate_tokens,
                draft_always=masked,
                grammars=self.grammars,
            )
            failed.pop_all()
        self._loop = EngineLoop(self._engine)
        self.embeddings = TextEmbedder(
            self._loop.embed,
            self.tokenizer,
            vocab_size=self.spec.vocab_size,
            without_token=self.tokenizer.ids_without_token(self.spec.vocab_size).tolist(),
            limit=self.max_model_len,
            pooling=pooling,
        )
        self.load_s = time.perf_counter() - started

    def _find(self, model: str | Path, settings: Settings, progress: Progress | None) -> ModelRef:
        found = resolve(str(model), settings, progress)
        self.settings = settings_for(found, settings)
        self.name, self.directory = found.name, found.directory
        check_stages(self.settings)
        return found

    def _open_text(self, found: ModelRef, chat_template: str | None, verify: str) -> ModelSource:
        """Reads all of a model but its weights: what is asked and answered passes through that."""
        source = open_source(found.directory, verify)
        self.spec, self.model_files = source.spec, source.files
        self.observed = observe([*self.model_files, *tokenizer_files(found.directory)])  # what is read is these
        self.tokenizer = Tokenizer.load(found.directory)
        self._template_override = chat_template or found.overrides.chat_template
        self._template: ChatTemplate | None = None
        self._template_lock = threading.Lock()
        eos_ids = self.spec.end_tokens(self.tokenizer.eos_token_id)
        self.grammars = GrammarCompiler(Vocabulary.of(self.tokenizer, self.spec.vocab_size, eos_ids))
        return source

    def digests(self) -> tuple[bytes, bytes]:
        """SHA-256 over the files of the model, and over those of its tokenizer; docs/receipts.md says how. Raises
        ModelError."""
        named = tokenizer_files(self.directory)
        # The trusted side of an offload takes nobody's word for its own files, not even its own of last time.
        always = bool(self.mode) or self.settings.verify == "always"
        files = digest_of_files(self.directory, self.model_files, always=always)
        tokenizer = digest_of_files(self.directory / "tokenizer", named, always=always) if named else files
        if observe([*self.model_files, *named]).files != self.observed.files:
            raise ModelError(f"files of {self.directory} were changed since the model was loaded: load it again")
        return bytes.fromhex(files), bytes.fromhex(tokenizer)

    def _asked_to_reuse(self) -> bool:
        """In masked modes a request's shapes lack the rows of a cached beginning, and so reveal it."""
        return self.settings.by_hand("prefix_caching")

    @property
    def adapters(self) -> tuple[str, ...]:
        """Names of the LoRA adapters that a request may choose."""
        return tuple(self._adapters)

    def adapter(self, name: str | None) -> LoadedAdapter | None:
        """A LoRA adapter by its name; None for none. Raises RequestError for one that wasn't given."""
        if name is None:
            return None
        if name not in self._adapters:
            known = ", ".join(self._adapters) or "none"
            raise RequestError(f"there is no adapter {name[:100]!r}; known are {known}")
        return self._adapters[name]

    @property
    def max_model_len(self) -> int:
        """Most tokens of one sequence, prompt and continuation together."""
        return min(self.context, self.cache_tokens)

    @property
    def context(self) -> int:
        """Most tokens that the model sees, prompt and continuation together."""
        return self._engine.max_model_len

    @property
    def cache_tokens(self) -> int:
        """Tokens that the KV cache holds, of all sequences."""
        return self._engine.cache_tokens

    def stats(self) -> EngineStats:
        """How the engine stands: sequences, blocks, prefix hits, tokens."""
        return self._loop.stats()

    @property
    def alive(self) -> bool:
        """The engine takes requests. It doesn't after `close`, nor after an error that ended its thread."""
        return self._loop.alive

    @property
    def away(self) -> str:
        """What requests wait for, in words; "" while there is somewhere to run them."""
        ready = self.stages is None or self.stages.ready
        return "" if ready else "stages of the model are away, and requests wait for them"

    def prepare(self, params: SamplingParams | None) -> None:
        """Compiles the grammar of parameters, if it is a new one. Raises RequestError for one that can't be kept."""
        self._engine.restriction(self.params(params))

    def params(self, params: SamplingParams | None = None) -> SamplingParams:
        """The parameters in force: those that were given, then the model's (`generation_config.json`), then ours."""
        return (params or SamplingParams()).with_defaults(self.generation.values)

    def check(self, ids: NDArray[np.int32], params: SamplingParams) -> None:
        """Raises RequestError, or ContextLengthError, if these ids (tokens,) can't be continued so."""
        self._engine.check(ids, self.params(params))

    def encode(self, prompt: Prompt) -> NDArray[np.int32]:
        """The token ids (tokens,) of a prompt, with the special tokens that the model expects in front.

        Raises RequestError for what is neither a text nor a list of ids.
        """
        if isinstance(prompt, str):
            return self.tokenizer.encode(prompt)
        try:
            ids = np.asarray(prompt)
        except (ValueError, OverflowError) as error:
            raise RequestError(f"a prompt must be a text or a list of token ids: {error}") from None
        if ids.size and ids.dtype.kind not in "iu":
            raise RequestError(f"a prompt must be a text or a list of token ids, not {type(prompt).__name__}")
        return ids  # the engine checks their number and range

    def encode_chat(self, messages: Sequence[Message], /, **variables: Any) -> NDArray[np.int32]:
        """The token ids of a conversation, by the model's chat template, up to where the answer begins.

        Raises TokenizerError where the model has no template.
        """
        return self.encode_rendered(self.render_chat(messages, **variables))

    def render_chat(self, messages: Sequence[Message], /, **variables: Any) -> str:
        """A conversation as the model's chat template writes it. Raises TokenizerError where there is none."""
        return self.chat_template().render(messages, **variables)

    @property
    def template_source(self) -> str | None:
        """The source of the chat template for conversations without tools; None where there is none."""
        return self._template_override or self.tokenizer.chat_template

    def chat_template(self) -> ChatTemplate:
        """The model's chat template, compiled when it is first asked for, which takes a moment. Raises TokenizerError
        where there is none."""
        with self._template_lock:
            if self._template is None:
                given = self._template_override
                self._template = (
                    ChatTemplate(given, **self.tokenizer.special_tokens) if given else ChatTemplate.of(self.tokenizer)
                )
            return self._template

    def encode_rendered(self, text: str) -> NDArray[np.int32]:
        """The token ids of what `render_chat` gave."""
        return self.tokenizer.encode(text, add_special_tokens=False)

    def close(self) -> None:
        """Stops the engine's thread; what still runs ends with an error."""
        self._loop.close()
        if self._store is not None:
            self._store.close(30.0)
        if self._template is not None:
            self._template.close()
        if self.offload is not None:
            self.offload.close()
        if self.stages is not None:
            self.stages.close()

    def __del__(self) -> None:
        # The thread would keep the weights of a model that nobody can ask any more. It may have failed to load.
        if hasattr(self, "_loop"):
            self._loop.close(10.0)
        if (store := getattr(self, "_store", None)) is not None:
            store.close(10.0)
        for party in (getattr(self, "offload", None), getattr(self, "stages", None)):
            if party is not None:
                party.close()


def stage_evidence(settings: Settings) -> PartyEvidence | None:
    """What stages show and want that are started for a run; None where they show nothing. Raises ConfigError."""
    if not settings.stage_evidence:
        return None
    from cutset.trust.evidence.party_policy import party_evidence

    return party_evidence(settings.stage_evidence, "--stage-policy", settings.stage_policy, carried=bool(settings.ray))


def _check_oblivious(settings: Settings) -> None:
    """Raises ConfigError where something looks texts up, or runs elsewhere."""
    if has_stages(settings):
        raise ConfigError("data_oblivious is for a model that runs in this process: leave out --stages")
    if settings.speculate != "off":
        raise ConfigError("data_oblivious and speculate don't go together: drafts are looked up by what was written")
    if settings.prefix_cache is not None:
        raise ConfigError("data_oblivious and prefix_cache don't go together: beginnings are looked up by their tokens")


def _verify_by(policy: Path | None, audit: AuditLog | None) -> Callable[[bytes, Binding], bool] | None:
    """What says whether the evidence of who is linked is enough; None where none is asked for. Raises ConfigError."""
    if policy is None:
        return None
    from cutset.trust.evidence.link_evidence import verify_by

    return verify_by(policy, audit=audit, warn=log.warning)
