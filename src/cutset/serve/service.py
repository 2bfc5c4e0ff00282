"""What the endpoints share: the model, who may use it, what runs."""

from __future__ import annotations

import asyncio
import base64
import os
import threading
import time
from collections.abc import Callable, Iterable, Iterator, Sequence
from concurrent.futures import ThreadPoolExecutor
from contextlib import contextmanager, suppress
from dataclasses import replace
from typing import TypeVar

import numpy as np
from numpy.typing import NDArray

from cutset.engine.grammar import Grammar
from cutset.engine.params import SamplingParams
from cutset.errors import ConfigError, RequestError
from cutset.llm import AsyncLLM, Prompt
from cutset.models.calls.registered import check_names
from cutset.models.text.chat import ChatTemplate
from cutset.models.text.template_process import MOST_PROCESSES
from cutset.receipts.issuer import OpenReceipt, ReceiptIssuer
from cutset.serve.answer_reader import ChatForm
from cutset.serve.api_errors import NO_RETRY, ApiError, invalid
from cutset.serve.call_grammar import arguments_of
from cutset.serve.hub import Hub
from cutset.serve.logprobs import TokenTexts
from cutset.serve.mailbox import Mailbox
from cutset.serve.model_facts import ModelFacts, facts_of
from cutset.serve.readiness import Policy, Readiness
from cutset.serve.records import current_record
from cutset.serve.rendering import rendered
from cutset.serve.request_limits import Admission, RequestLimits
from cutset.serve.requests import ChatRequest
from cutset.serve.running_request import RunningRequest
from cutset.serve.watch import Watch
from cutset.version import software

__all__ = ["Service", "salted"]

BRIEF = 2048  # characters that are tokenised at once, on the event loop; some milliseconds
_Found = TypeVar("_Found")
COMPILING = 10.0  # seconds that a request waits for its grammar; its size is bounded before (schema_bounds.py)
SPARE = 4  # normalisers may shorten a text, but hardly by so much


class Service:
    """A model that is being served."""

    def __init__(
        self,
        llm: AsyncLLM,
        *,
        names: Sequence[str] = (),
        limits: RequestLimits | None = None,
        on_integrity_error: Policy = "refuse",
        tool_parser: str = "auto",
        reasoning_parser: str = "auto",
        adapter: str | None = None,  # of requests that name the model itself, or none
        receipts: ReceiptIssuer | None = None,  # of this model; None: there are none
    ) -> None:
        check_names(tool_parser, reasoning_parser)
        self.tool_parser, self.reasoning_parser = tool_parser, reasoning_parser
        self.receipts = receipts
        self.llm, self.limits = llm, limits or RequestLimits()
        self._adapter = adapter
        self.names = (*(names or (llm.name,)), *llm.adapters)  # an adapter is a model to clients
        if len(set(self.names)) != len(self.names):
            raise ConfigError(f"a name stands for two things: {', '.join(self.names)}; rename an adapter")
        self.mode = llm.mode or "local"
        self.texts = TokenTexts(llm.tokenizer)
        self.started = int(time.time())
        self.fingerprint = f"{software().replace(' ', '-')}-{llm.choice.backend}-{llm.choice.dtype}"
        self.admission = Admission(llm.settings.max_num_seqs + self.limits.queue)
        self.running: dict[str, RunningRequest] = {}
        away = "no_replica" if llm.stages is None else "no_stages"
        self.readiness = Readiness(llm.offload, on_integrity_error, lambda: llm.away, away)
        self.watches: list[Watch] = [self.readiness]
        self.hub = Hub()
        self.stopping = False
        # One thread: long texts wait for each other, not the short ones for them.
        self._tokenising = ThreadPoolExecutor(1, "cutset-tokenise", initializer=_give_way)
        self._rendering = ThreadPoolExecutor(MOST_PROCESSES, "cutset-render")  # they wait for processes
        self._compiling = ThreadPoolExecutor(2, "cutset-grammar", initializer=_give_way)
        self._compiling.submit(llm.grammars.warm)
        self._mailbox: Mailbox | None = None
        self._facts: ModelFacts | None = None
        self._special = {text: token_id for token_id, text in llm.tokenizer.special_texts.items()}
        # Beyond it nobody need count the tokens, which takes seconds for a text that fills a body.
        self._most_characters = max(BRIEF, SPARE * llm.max_model_len * llm.tokenizer.longest_token)

    def check_model(self, name: str | None) -> str:
        """The name that the request used. Raises ApiError 404 for one that isn't served."""
        if name is not None and name not in self.names:
            if name.removesuffix(":latest") in self.names:  # as Ollama's clients write it
                return name.removesuffix(":latest")
            shown = name if len(name) <= 100 else name[:97] + "..."
            raise ApiError(
                404,
                f"the model {shown!r} isn't served here; this server has {', '.join(self.names)}",
                code="model_not_found",
                param="model",
            )
        return name or self.names[0]

    def adapter(self, name: str) -> str | None:
        """The LoRA adapter that a served name stands for; None for the model itself."""
        return name if name in self.llm.adapters else self._adapter

    def check_open(self) -> None:
        """Raises ApiError 503 while the server stops, once its engine has ended, or after a wrong product."""
        if self.stopping:
            raise ApiError(503, "the server is being stopped", kind="server_error", headers={"connection": "close"})
        if not self.llm.alive:
            raise ApiError(
                503, "the engine has stopped; the server's log says why", kind="server_error", headers=NO_RETRY
            )
        self.readiness.check()

    @property
    def ready(self) -> bool:
        """Requests are taken."""
        return not self.stopping and self.llm.alive and self.readiness.ready

    def served(self) -> list[ModelFacts]:
        """See Catalogue."""
        if self._facts is None:
            llm = self.llm
            self._facts = facts_of(
                self.names[0],
                llm.directory,
                llm.spec,
                context=llm.max_model_len,
                dtype=llm.choice.dtype,
                template=llm.template_source,
            )
        first = self._facts
        others = [replace(first, name=name, parent=self._parent(name)) for name in self.names[1:]]
        return [first, *others]

    def loaded(self) -> Sequence[str]:
        """See Catalogue."""
        return self.names

    def mode_of(self, name: str) -> str:
        """See Catalogue."""
        return self.mode

    def _parent(self, name: str) -> str | None:
        return self.names[0] if name in self.llm.adapters else None

    async def encode(self, prompt: Prompt, *, special: bool = True) -> NDArray[np.int32]:
        """As LLM.encode, or without `special` tokens around it. Raises ApiError for a text that is far too long."""
        if not isinstance(prompt, str):
            return self.llm.encode(prompt)
        self._check_length(prompt)
        encode = self.llm.encode if special else self.llm.encode_rendered
        return await self.in_turn(len(prompt), lambda: encode(prompt))

    async def encode_to_embed(self, text: Prompt, *, special: bool, truncate: int | None) -> NDArray[np.int32]:
        """As TextEmbedder.encode. Raises ApiError for a text that is far too long."""
        if isinstance(text, str) and truncate is not None:
            text = text[: self._most_characters]
        elif isinstance(text, str):
            self._check_length(text)
        encode = self.llm.embeddings.encode
        return await self.in_turn(len(text), lambda: encode(text, special=special, truncate=truncate))

    async def template(self) -> ChatTemplate:
        """The chat template. Raises TokenizerError where there is none."""
        return await asyncio.get_running_loop().run_in_executor(self._rendering, self.llm.chat_template)

    async def render(self, request: ChatRequest) -> tuple[str, ChatForm]:
        """A conversation as the chat template writes it, and how its answers are read. The event loop never waits for a
        template: it may come from anybody.

        Raises ApiError for what the request can't have, and what LLM.render_chat raises.
        """
        parsers = self.tool_parser, self.reasoning_parser
        return await asyncio.get_running_loop().run_in_executor(
            self._rendering, lambda: rendered(self.llm.chat_template(), request, self._special, *parsers)
        )

    async def encode_rendered(self, text: str) -> NDArray[np.int32]:
        """As LLM.encode_rendered. Raises ApiError for a text that is far too long."""
        return await self.encode(text, special=False)

    async def formed(self, params: SamplingParams, form: ChatForm | None) -> SamplingParams:
        """The engine's parameters for a chat, or others where there is no form, with their grammar compiled.

        Raises ApiError for what can't be kept, and names the tool.
        """
        if form is None:
            await self.compile(params)
            return params
        formed = form.params(params)
        try:
            await self.compile(formed)
        except ApiError:
            if form.loosens:
                formed = form.params(params, loose=True)
                await self.compile(formed)
                return formed
            for index, tool in enumerate(form.tools.tools):
                if tool in form.tools.called:
                    asked = f"tools[{index}].function.parameters"
                    schema = Grammar.json_schema(arguments_of(tool), asked=asked)
                    await self.compile(replace(params, structured_outputs=schema))
            raise
        return formed

    async def compile(self, params: SamplingParams) -> None:
        """Compiles the grammar that a request asks for, if there is one, in a thread that nobody else waits for.

        Raises ApiError for one that can't be kept.
        """
        grammar = params.grammar
        if params.bad_words:
            words = tuple(params.bad_words)
            await asyncio.get_running_loop().run_in_executor(self._tokenising, self.llm.grammars.spellings, words)
        if grammar is None or self.llm.grammars.kept(grammar) is not None:
            return
        compiling = asyncio.get_running_loop().run_in_executor(self._compiling, self.llm.grammars.compile, grammar)
        try:
            await asyncio.wait_for(asyncio.shield(compiling), COMPILING)
        except RequestError as error:
            raise invalid(str(error), grammar.asked) from None
        except TimeoutError:
            compiling.add_done_callback(lambda done: done.cancelled() or done.exception())
            raise invalid(
                f"{grammar.asked} takes longer than {COMPILING:g} s to compile: make it simpler", grammar.asked
            ) from None

    async def in_turn(self, size: int, work: Callable[[], _Found]) -> _Found:
        """Here and now if it is soon done, or else in the thread for long texts."""
        if size <= BRIEF:
            await asyncio.sleep(0)  # a request may have thousands of short texts: others get a turn between them
            return work()
        return await asyncio.get_running_loop().run_in_executor(self._tokenising, work)

    def _check_length(self, text: str) -> None:
        if len(text) > self._most_characters:
            raise ApiError(
                400,
                f"the prompt has {len(text)} characters, far more than the context of {self.llm.max_model_len} tokens "
                "holds: shorten it",
                code="context_length_exceeded",
            )

    def receipt(self, prompts: Sequence[NDArray[np.int32]], params: SamplingParams, adapter: str | None) -> OpenReceipt:
        """The receipt of a request that asks for one and is handed in next. Raises ApiError where there are none."""
        if self.receipts is None:
            raise invalid("cutset_receipt: this server signs no receipts: leave it out", "cutset_receipt")
        return self.receipts.begin(prompts, params, adapter)

    async def finished(self, receipt: OpenReceipt) -> str:
        """A receipt whose request has ended well, in base64."""
        data = await self.in_turn(8 * receipt.size, receipt.finish)
        return base64.b64encode(data).decode()

    def generate(
        self,
        prompts: Iterable[NDArray[np.int32]],
        params: SamplingParams,
        salt: str | None,
        *,
        stream: bool,
        adapter: str | None = None,
        background: bool = False,
    ) -> RunningRequest:
        """Hands prompts in. Raises what RunningRequest raises."""
        unread = self.limits.unread_bytes if stream else None
        if self._mailbox is None:
            self._mailbox = Mailbox(asyncio.get_running_loop())
        given = list(prompts), params, salt, self.watches, unread, adapter
        return RunningRequest(self.llm, self._mailbox, *given, background=background)

    @contextmanager
    def watching(
        self, name: str, generation: RunningRequest, model: str = "", *, background: bool = False
    ) -> Iterator[None]:
        """While it runs, it has a time limit, and a stopping server ends it with an error. One in the background runs
        until whoever asked gives it up."""
        if background:
            yield
            return
        self.running[name] = generation
        late = ApiError(
            504, f"the answer took longer than {self.limits.request_s:g} s", kind="timeout", headers=NO_RETRY
        )
        timer = asyncio.get_running_loop().call_later(self.limits.request_s, generation.end, late)
        try:
            yield
        finally:
            timer.cancel()
            del self.running[name]
            if (record := current_record()) is not None:
                record.generated(name, model or self.names[0], generation)

    def refused(self, status: int) -> None:
        """A request was answered with an error."""
        for watch in self.watches:
            watch.refused(status)

    def stop(self) -> None:
        """From now on requests are refused; those that run go on."""
        self.stopping = True

    def close(self) -> None:
        """Ends what still runs, with an error to its clients."""
        for generation in list(self.running.values()):
            generation.end(ApiError(503, "the server was stopped before the answer was complete", kind="server_error"))
        self._tokenising.shutdown(wait=False, cancel_futures=True)
        self._rendering.shutdown(wait=False, cancel_futures=True)
        self._compiling.shutdown(wait=False, cancel_futures=True)


def _give_way() -> None:
    """The calling thread's work isn't urgent. Linux gives each thread a priority of its own."""
    with suppress(OSError, AttributeError):
        os.setpriority(os.PRIO_PROCESS, threading.get_native_id(), 10)


def salted(client: str | None, salt: str | None) -> str | None:
    """A salt that differs by client: who has another key doesn't learn from timing what was asked with this one."""
    return salt if client is None else f"{client}:{salt or ''}"
