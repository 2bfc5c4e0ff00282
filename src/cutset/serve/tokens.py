"""`/tokenize` and `/detokenize`, as vLLM names them: texts and conversations to token ids, and ids to text."""

from __future__ import annotations

from typing import Any

import msgspec
from starlette.types import Receive, Scope, Send

from cutset.serve.api_errors import invalid
from cutset.serve.plain_requests import read_plain
from cutset.serve.replies import send_json
from cutset.serve.requests import ChatRequest, parse
from cutset.serve.service import Service

__all__ = ["Detokenize", "Tokenize"]


OF_CHATS = (
    "messages",
    "add_generation_prompt",
    "continue_final_message",
    "chat_template_kwargs",
    "enable_thinking",
    "tools",
)


class TokenizeRequest(msgspec.Struct, kw_only=True, forbid_unknown_fields=True):
    """`POST /tokenize`: a `prompt`, or the `messages` of a conversation, which the chat template writes."""

    model: str | None = None
    prompt: str | None = None
    messages: list[dict[str, Any]] | None = None
    add_special_tokens: bool | None = None  # around it; as vLLM: around a prompt, not around a conversation
    return_token_strs: bool | None = None
    # Of conversations alone:
    add_generation_prompt: bool | None = None
    continue_final_message: bool | None = None
    chat_template_kwargs: dict[str, Any] | None = None
    enable_thinking: bool | None = None
    tools: list[dict[str, Any]] | None = None


class DetokenizeRequest(msgspec.Struct, kw_only=True, forbid_unknown_fields=True):
    """`POST /detokenize`."""

    model: str | None = None
    tokens: list[int]


class Tokenize:
    """An ASGI application that answers with `count`, `tokens`, `max_model_len`, and `token_strs` where asked for."""

    def __init__(self, service: Service) -> None:
        self.service = service

    async def __call__(self, scope: Scope, receive: Receive, send: Send) -> None:
        service = self.service
        request = await read_plain(service, scope, receive, send, TokenizeRequest)
        if request is None:
            return
        service.check_model(request.model)
        if (request.prompt is None) == (request.messages is None):
            raise invalid("give either prompt or messages", "prompt")
        with service.admission.admit(1):
            if request.messages is None:
                found = await service.encode(request.prompt or "", special=request.add_special_tokens is not False)
            else:
                chat = {name: getattr(request, name) for name in OF_CHATS}
                text, _ = await service.render(parse(msgspec.json.encode(chat), ChatRequest))
                found = await service.encode(text, special=bool(request.add_special_tokens))
        ids = found.tolist()
        tokenizer, strings = service.llm.tokenizer, None
        if request.return_token_strs:
            strings = await service.in_turn(8 * len(ids), lambda: [tokenizer.token(one) for one in ids])
        content = {
            "count": len(ids),
            "max_model_len": service.llm.max_model_len,
            "tokens": ids,
            "token_strs": strings,
        }
        await send_json(send, content)


class Detokenize:
    """An ASGI application that answers with the text of token ids as `prompt`, special tokens written out."""

    def __init__(self, service: Service) -> None:
        self.service = service

    async def __call__(self, scope: Scope, receive: Receive, send: Send) -> None:
        service = self.service
        request = await read_plain(service, scope, receive, send, DetokenizeRequest)
        if request is None:
            return
        service.check_model(request.model)
        with service.admission.admit(1):
            text = await service.in_turn(
                len(request.tokens), lambda: service.llm.tokenizer.decode(request.tokens, skip_special_tokens=False)
            )
        await send_json(send, {"prompt": text})
