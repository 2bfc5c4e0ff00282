"""What templates see of a conversation's calls, of messages without content, and of one that goes on."""

from __future__ import annotations

from typing import Any

import pytest

from cutset.errors import RequestError
from cutset.models.text.chat import ChatTemplate
from models.test_chat import CHATML, LLAMA3, MISTRAL, PAIRS, render
from models.test_chat import oracle as oracle  # a fixture


def calls(arguments: Any, **more: Any) -> list[dict[str, Any]]:
    call = {"id": "1", "type": "function", "function": {"name": "f", "arguments": arguments}}
    return [*PAIRS[:1], {"role": "assistant", "content": None, "tool_calls": [call], **more}]


@pytest.mark.parametrize(
    ("sent", "seen"),
    [
        ('{"a": 1}', '{"a": 1}'),
        ('  {"b": [1, {"c": "ü"}], "a": null}\n', '{"b": [1, {"c": "ü"}], "a": null}'),
        ({"a": 1}, '{"a": 1}'),
        ("", "{}"),
        (" \n", "{}"),
        (None, "{}"),
        ("[1, 2]", "[1, 2]"),
        ("not JSON", '"not JSON"'),
        ('{"a": 1', '"{\\"a\\": 1"'),
        ('{"a": NaN}', '"{\\"a\\": NaN}"'),
        ('"{}"', '"\\"{}\\""'),
        ("[" * 5000, '"' + "[" * 5000 + '"'),
        ("1" * 5000, '"' + "1" * 5000 + '"'),
    ],
)
def test_arguments_of_calls_are_what_their_json_says(sent: Any, seen: str) -> None:
    assert render("{{ messages[1].tool_calls[0].function.arguments | tojson }}", calls(sent)) == seen
    messages = [*PAIRS[:1], {"role": "assistant", "content": None, "function_call": {"name": "f", "arguments": sent}}]
    assert render("{{ messages[1].function_call.arguments | tojson }}", messages) == seen
    flat = [*PAIRS[:1], {"role": "assistant", "tool_calls": [{"name": "f", "arguments": sent}]}]
    assert render("{{ messages[1].tool_calls[0].arguments | tojson }}", flat) == seen


def test_templates_may_iterate_over_arguments() -> None:
    source = "{% for k, v in messages[1].tool_calls[0].function.arguments.items() %}{{ k }}={{ v }};{% endfor %}"
    messages = calls('{"city": "Köln", "days": 2}')
    assert render(source, messages) == "city=Köln;days=2;"
    assert messages[1]["tool_calls"][0]["function"]["arguments"] == '{"city": "Köln", "days": 2}'  # the caller's own
    with pytest.raises(RequestError, match="nested too deeply"):
        render(source, calls('{"a":' * 150 + "1" + "}" * 150))


def test_history_without_content() -> None:
    plain = "{% for m in messages %}{{ m.role }}:{{ m.content }};{% endfor %}"
    for more in ({"function_call": {"name": "f", "arguments": "{}"}}, {"tool_calls": []}):
        assert render(plain, [*PAIRS[:1], {"role": "assistant", "content": None, **more}]).endswith("assistant:;")
    assert render(plain, [{"role": "assistant", "content": None, "refusal": "No."}]) == "assistant:No.;"
    parts = [{"role": "assistant", "content": [{"type": "refusal", "refusal": "No."}]}]
    assert render(plain, parts) == "assistant:No.;"
    assert render("{{ messages[0].content[0].text }}", parts) == "No."


TRIMS = "{% for m in messages %}{{ m.content | trim }}{% endfor %}"
OPEN = [
    (source, last) for source in (CHATML, LLAMA3, MISTRAL, TRIMS) for last in ("Once upon", "  spaces around  ", "x")
]


@pytest.mark.parametrize(("source", "last"), [*OPEN, (CHATML, [{"type": "text", "text": "part "}])])
def test_a_continued_message_is_open_as_in_transformers(oracle: Any, source: str, last: Any) -> None:
    messages = [*PAIRS[:1], {"role": "assistant", "content": last}]
    expected = oracle.apply_chat_template(messages, chat_template=source, tokenize=False, continue_final_message=True)
    text = render(source, messages, continue_final_message=True)
    assert text == expected
    assert text.rstrip().endswith(last.strip() if isinstance(last, str) else "part")


def test_what_can_t_be_continued() -> None:
    for messages, source in (
        ([*PAIRS, {"role": "assistant", "tool_calls": []}], CHATML),
        (PAIRS, "constant"),
        (PAIRS, "{% for m in messages %}{{ m.content | upper }}{% endfor %}"),
    ):
        with pytest.raises(RequestError, match="continue_final_message"):
            render(source, messages, continue_final_message=True)
    with pytest.raises(RequestError, match="not both"):
        render(CHATML, continue_final_message=True, add_generation_prompt=True)


def test_a_template_says_what_it_reads() -> None:
    source = "{% if thinking is not defined %}{% set thinking = 1 %}{% endif %}{% set y = 2 %}{{ y }}{{ effort }}"
    assert ChatTemplate(source).variables == {"thinking", "effort"}
    assert ChatTemplate("{{ a }}", tool_source="{{ b }}{% for c in d %}{{ c }}{% endfor %}").variables == {
        "a",
        "b",
        "d",
    }
