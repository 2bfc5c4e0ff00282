"""A model that says what a test wants: a real engine, tokenizer and server over an executor that follows a script."""

from __future__ import annotations

import contextlib
import copy
import threading
from collections.abc import Iterator
from pathlib import Path
from typing import Any

import numpy as np
from numpy.typing import NDArray
from tokenizers import AddedToken
from tokenizers import Tokenizer as Backend

from cutset.config import load_settings
from cutset.llm import AsyncLLM
from cutset.models.run.executor import Batch, KVCache
from cutset.models.text.chat import ChatTemplate
from cutset.serve.app import build_app
from cutset.serve.auth import Auth
from cutset.serve.server import Server, bind, serve_in_thread
from cutset.serve.service import Service
from models.tokenizers_to_test import byte_level
from test_text import model_with
from tests.serve.conftest import Running

SPECIAL = (
    *("<|channel|>", "<|message|>", "<|start|>", "<|end|>", "<|call|>", "<|return|>", "<|constrain|>", "<|eot|>"),
    *("[TOOL_CALLS]", "[ARGS]", "[THINK]", "[/THINK]", "<|tool_call>", "<tool_call|>", '<|"|>', "<|python_tag|>"),
    *("<|tool_call_start|>", "<|tool_call_end|>", "<|observation|>"),
)
PLAIN = ("<tool_call>", "</tool_call>", "<think>", "</think>", "<arg_key>", "</arg_key>")
END = "<|endoftext|>"


def backend() -> Backend:
    """Bytes, and the tokens that families mark calls with."""
    made = byte_level()
    made.add_special_tokens([AddedToken(text, special=True, normalized=False) for text in SPECIAL])
    made.add_tokens([AddedToken(text, special=False, normalized=False) for text in PLAIN])
    return made


class Script:
    """Has the model say a text, and answer every request with it until it is told another one."""

    def __init__(self, llm: AsyncLLM) -> None:
        self._llm, self._forward = llm, llm.executor.forward
        self._lock = threading.Lock()
        self._ids: list[int] = []
        self._first: int | None = None  # the position of the last token of the prompt
        self.llm = llm
        self._templates: dict[str, ChatTemplate] = {}
        llm.executor.forward = self.forward

    def say(self, text: str, *, ends: bool = True) -> None:
        """`ends`: with an end token, without which the text is followed by spaces."""
        ids = self._llm.tokenizer.encode(text, add_special_tokens=False).tolist()
        end = self._llm.tokenizer.encode(END if ends else " ", add_special_tokens=False).tolist()
        with self._lock:
            self._ids, self._first = [*ids, *end], None

    def forward(self, batch: Batch, cache: KVCache, *, head: bool = True, **more: Any) -> NDArray[np.float32]:
        """Logits that all but rule out what isn't in the script."""
        logits = self._forward(batch, cache, head=head, **more)
        if not head:
            return logits
        with self._lock:
            for row, at in enumerate(batch.positions[batch.logit_rows].tolist()):
                if self._first is None or at < self._first:
                    self._first = at
                logits[row, self._ids[min(at - self._first, len(self._ids) - 1)]] += 1000
        return logits

    def again(self) -> None:
        """The next request begins at the beginning."""
        with self._lock:
            self._first = None

    @contextlib.contextmanager
    def template(self, source: str) -> Iterator[None]:
        """With another chat template."""
        before = self.llm.chat_template()
        if source not in self._templates:  # each has a process, which takes a while to start
            self._templates[source] = ChatTemplate(source, **self.llm.tokenizer.special_tokens)
        self.llm._template = self._templates[source]
        try:
            yield
        finally:
            self.llm._template = before

    @contextlib.contextmanager
    def sign(self, text: str) -> Iterator[None]:
        """With TEMPLATE, as far as it renders, and a source that has nothing but this sign of a family's in it."""
        before = self.llm.chat_template()
        self.llm._template = made = copy.copy(before)
        made.source = text
        try:
            yield
        finally:
            self.llm._template = before

    def close(self) -> None:
        for one in self._templates.values():
            one.close()


TEMPLATE = (
    "{% if tools %}<tools>{% for t in tools %}{{ t.function.name }} {% endfor %}<tool_call></tools>{% endif %}"
    "{% for m in messages %}[{{ m.role }}]{{ m.content }}{% for c in m.tool_calls or [] %}<tool_call>"
    "{{ c.function.name }}{{ c.function.arguments | tojson }}</tool_call>{% endfor %}{% endfor %}"
    "{% if add_generation_prompt %}[assistant]{% endif %}"
)


def scripted_server(folder: Path, stack: contextlib.ExitStack, **options: str) -> tuple[Script, Running]:
    """A server of a scripted model with a template in Hermes's format, until `stack` is left."""
    model_with(folder / "scripted", backend(), max_position_embeddings=4096, eos_token_id=0)
    (folder / "chat.jinja").write_text(TEMPLATE)
    (folder / "models.yaml").write_text("tale:\n  path: scripted\n  chat_template: chat.jinja\n")
    settings = load_settings({"threads": 1, "models_file": folder / "models.yaml"})
    llm = stack.enter_context(contextlib.closing(AsyncLLM("tale", settings=settings)))
    service = Service(llm, **options)
    server = Server(build_app(service, Auth((), "127.0.0.1")), service)
    running = Running(service, stack.enter_context(serve_in_thread(server, bind("127.0.0.1", 0))))
    stack.callback(running.close)
    return stack.enter_context(contextlib.closing(Script(llm))), running
