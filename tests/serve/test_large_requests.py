"""Requests that fill a body with small things: what is done with them takes a time that grows with their number alone,
since everybody else waits for it."""

from __future__ import annotations

import gc
import json
from collections.abc import Mapping
from typing import Any

import pytest

pytest.importorskip("starlette")

from cutset.serve.api_errors import ApiError
from cutset.serve.ollama import openai_messages
from cutset.serve.requests import MOST_MESSAGES, ChatRequest, decode_fields, parse
from cutset.serve.tool_fields import MOST_TOOLS, read_tools
from cutset.serve.tool_prompt import in_words

MANY = 40_000


def test_nothing_is_collected_while_a_body_is_read() -> None:
    seen = []

    def kept(fields: Mapping[str, Any]) -> dict[str, Any]:
        seen.append(gc.isenabled())
        return dict(fields)

    assert decode_fields(b'{"messages": []}', ChatRequest, kept).messages == []
    for wrong in (b'{"messages": 3}', b"{", b'{"stream_options": 3, "messages": []}'):
        with pytest.raises(ApiError):
            decode_fields(wrong, ChatRequest, kept)
    assert seen == [False] * 3
    assert gc.isenabled()


def test_results_find_their_calls_in_order_or_by_id() -> None:
    """Each by itself: as many results as calls would be looked for among all of them."""
    calls = [{"function": {"name": "f"}} | ({"id": f"own_{i}"} if i % 3 == 0 else {}) for i in range(MANY)]
    results: list[dict[str, Any]] = [{"role": "tool", "tool_call_id": "own_3", "content": "3"}]
    results += [{"role": "tool", "content": str(i)} for i in range(MANY - 1)]
    found = openai_messages([{"role": "assistant", "tool_calls": calls}, *results])
    ids = [one["id"] for one in found[0]["tool_calls"]]
    assert ids[:5] == ["own_0", "call_1", "call_2", "own_3", "call_4"]
    assert [one["tool_call_id"] for one in found[1:]] == ["own_3", *ids[:3], *ids[4:]]


def test_a_call_may_have_the_id_of_another() -> None:
    calls = [{"function": {"name": "f"}, "id": one} for one in ("a", "a", "b")]
    results: list[dict[str, Any]] = [{"role": "tool", "tool_call_id": "a"}, *({"role": "tool"} for _ in range(3))]
    found = openai_messages([{"role": "assistant", "tool_calls": calls}, *results])
    assert [one.get("tool_call_id") for one in found[1:]] == ["a", "a", "b", None]


def test_results_are_written_into_one_message() -> None:
    messages = [{"role": "tool", "content": f"{i} " * 50} for i in range(MANY)]
    found = in_words([{"role": "user", "content": "x"}, *messages, {"role": "user", "content": "y"}], None, system=True)
    assert [one["role"] for one in found] == ["user"] * 3
    assert found[1]["content"].count("<tool_response>") == MANY
    assert found[1]["content"].split("\n")[1] == "0 " * 50
    assert found[2]["content"] == "y"


def test_lists_are_bounded() -> None:
    body = json.dumps({"messages": [{"role": "user", "content": ""}] * (MOST_MESSAGES + 1)}).encode()
    with pytest.raises(ApiError, match=f"at most {MOST_MESSAGES}"):
        parse(body, ChatRequest).check()
    tool = {"type": "function", "function": {"name": "f"}}
    choice = {"type": "allowed_tools", "allowed_tools": {"mode": "auto", "tools": [tool] * (MOST_TOOLS + 1)}}
    with pytest.raises(ApiError, match=f"at most {MOST_TOOLS}"):
        read_tools([tool], choice, None)
