"""What people build on: LangChain's and instructor's own calls, unchanged. (LlamaIndex pins an older official client
than the one that is tested here: with_llama_index.py.)"""

from __future__ import annotations

from typing import Any

import pytest

pytest.importorskip("langchain_openai")
pytest.importorskip("instructor")

import instructor
from langchain_core.messages import HumanMessage, ToolMessage
from langchain_openai import ChatOpenAI
from pydantic import BaseModel

from tests.serve.conftest import Running
from tests.serve.scripted import Script

pytestmark = pytest.mark.slow


class Weather(BaseModel):
    """The weather of a city."""

    city: str
    days: int


JSON = '{"city": "Paris", "days": 2}'
CALL = f'<tool_call>\n{{"name": "Weather", "arguments": {JSON}}}\n</tool_call>'
PARIS = {"city": "Paris", "days": 2}


@pytest.fixture
def langchain(scripted: tuple[Script, Running]) -> Any:
    def made(**more: Any) -> ChatOpenAI:
        url = f"{scripted[1].url}/v1"
        return ChatOpenAI(model="tale", base_url=url, api_key="none", temperature=0, max_retries=0, **more)

    return made


@pytest.mark.parametrize("responses", [False, True])
def test_langchain(script: Script, langchain: Any, responses: bool) -> None:
    model = langchain(use_responses_api=responses)
    script.say("Hello.")
    assert model.invoke("Hi").text == "Hello."
    script.again()
    assert "".join(piece.text for piece in model.stream("Hi")) == "Hello."
    bound = model.bind_tools([Weather])
    script.say(f"Sure.{CALL}")
    answer = bound.invoke("Hi")
    assert [(call["name"], call["args"]) for call in answer.tool_calls] == [("Weather", PARIS)]
    script.again()
    pieces = list(bound.stream("Hi"))
    joined = pieces[0]
    for piece in pieces[1:]:
        joined += piece
    assert [(call["name"], call["args"]) for call in joined.tool_calls] == [("Weather", PARIS)]
    script.say("Sunny.")
    result = ToolMessage("sun", tool_call_id=answer.tool_calls[0]["id"])
    assert bound.invoke([HumanMessage("Hi"), answer, result]).text == "Sunny."


@pytest.mark.parametrize(("method", "text"), [("function_calling", CALL), ("json_schema", JSON), ("json_mode", JSON)])
def test_langchain_s_structured_output(script: Script, langchain: Any, method: str, text: str) -> None:
    script.say(text)
    assert langchain().with_structured_output(Weather, method=method).invoke("Hi, JSON") == Weather(**PARIS)


@pytest.mark.parametrize(
    ("mode", "text"),
    [("TOOLS", CALL), ("JSON", JSON), ("JSON_SCHEMA", JSON), ("RESPONSES_TOOLS", CALL)],
)
def test_instructor(script: Script, client: Any, mode: str, text: str) -> None:
    script.say(text)
    asks = instructor.from_openai(client, mode=instructor.Mode[mode])
    asked = {"model": "tale", "temperature": 0, "response_model": Weather, "max_retries": 1}
    if mode == "RESPONSES_TOOLS":
        found = asks.responses.create(input="Hi", **asked)
    else:
        messages = [{"role": "user", "content": "Hi"}]
        found = asks.chat.completions.create(messages=messages, **asked)
    assert found.model_dump() == PARIS
