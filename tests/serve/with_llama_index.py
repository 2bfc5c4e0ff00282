"""LlamaIndex's own calls, unchanged. It wants an older official client than the one that the other tests have, so it
runs in an environment of its own: `make test-llama-index`."""

from __future__ import annotations

import asyncio
from typing import Any

import pytest
from llama_index.core.base.llms.types import ChatMessage, MessageRole
from llama_index.core.tools import FunctionTool
from llama_index.llms.openai_like import OpenAILike, OpenAILikeResponses
from pydantic import BaseModel

from tests.serve.conftest import Running
from tests.serve.scripted import Script


class Weather(BaseModel):
    """The weather of a city."""

    city: str
    days: int


JSON = '{"city": "Paris", "days": 2}'
CALL = f'<tool_call>\n{{"name": "weather", "arguments": {JSON}}}\n</tool_call>'
STRUCTURED = f'<tool_call>\n{{"name": "Weather", "arguments": {JSON}}}\n</tool_call>'
PARIS = {"city": "Paris", "days": 2}
ASKED = [ChatMessage(role=MessageRole.USER, content="Hi")]


def weather(city: str, days: int) -> str:
    """The weather of a city."""
    return f"{city}: sun for {days} days"


@pytest.fixture
def made(scripted: tuple[Script, Running]) -> Any:
    def like(**more: Any) -> OpenAILike:
        url = f"{scripted[1].url}/v1"
        options = {"is_chat_model": True, "is_function_calling_model": True, "temperature": 0, "max_retries": 0}
        return OpenAILike(model="tale", api_base=url, api_key="none", **options | more)

    return like


def test_completions(script: Script, made: Any) -> None:
    model = made(is_chat_model=False, logprobs=True, top_logprobs=2, max_tokens=50)
    script.say("Hello there.")
    assert model.complete("Hi").text == "Hello there."
    script.again()
    assert [piece.text for piece in model.stream_complete("Hi")][-1] == "Hello there."
    script.again()
    assert asyncio.run(model.acomplete("Hi")).text == "Hello there."


def test_chats(script: Script, made: Any) -> None:
    model = made(logprobs=True, top_logprobs=2, max_tokens=50, additional_kwargs={"seed": 3, "user": "me"})
    script.say("Hello there.")
    answer = model.chat(ASKED)
    assert answer.message.content == "Hello there."
    assert answer.logprobs
    script.again()
    assert [piece.message.content for piece in model.stream_chat(ASKED)][-1] == "Hello there."

    async def streamed() -> str:
        script.again()
        text = ""
        async for piece in await model.astream_chat(ASKED):
            text += piece.delta or ""
        return text

    assert asyncio.run(streamed()) == "Hello there."


def test_tools(script: Script, made: Any) -> None:
    model, tool = made(), FunctionTool.from_defaults(weather)
    script.say(CALL)
    answer = model.chat_with_tools([tool], user_msg="Rain?", tool_required=True)
    [call] = model.get_tool_calls_from_response(answer)
    assert (call.tool_name, call.tool_kwargs) == ("weather", PARIS)
    script.say(f"Sure.{CALL}")
    *_, last = model.stream_chat_with_tools([tool], user_msg="Rain?")
    [streamed] = model.get_tool_calls_from_response(last)
    assert (streamed.tool_name, streamed.tool_kwargs) == ("weather", PARIS)
    script.say("It will be sunny.")
    result = ChatMessage(
        role=MessageRole.TOOL,
        content=str(tool(**call.tool_kwargs)),
        additional_kwargs={"tool_call_id": call.tool_id, "name": call.tool_name},
    )
    again = model.chat_with_tools([tool], chat_history=[*ASKED, answer.message, result])
    assert again.message.content == "It will be sunny."
    script.say(CALL)
    called = model.predict_and_call([tool], user_msg="Rain?")
    assert "sun for 2 days" in called.response


@pytest.mark.parametrize("by_format", [False, True])
def test_structured_output(script: Script, made: Any, by_format: bool) -> None:
    model = made(should_use_structured_outputs=by_format).as_structured_llm(Weather)
    script.say(JSON if by_format else STRUCTURED)
    assert model.chat(ASKED).raw == Weather(**PARIS)


def test_responses(script: Script, scripted: tuple[Script, Running]) -> None:
    url = f"{scripted[1].url}/v1"
    model = OpenAILikeResponses(model="tale", api_base=url, api_key="none", temperature=0, max_retries=0)
    script.say("Hello there.")
    assert model.chat(ASKED).message.content == "Hello there."
    script.again()
    assert "".join(piece.delta or "" for piece in model.stream_chat(ASKED)) == "Hello there."
