"""Reasoning through the server: split off, streamed, opened by the template or by hand."""

from __future__ import annotations

import contextlib
from pathlib import Path

import openai
import pytest

from cutset.errors import ConfigError
from tests.serve.conftest import Running
from tests.serve.scripted import TEMPLATE, Script, scripted_server
from tests.serve.test_tool_calls import ASKED, NOW, Streamed, calls_of

PLAIN = {name: value for name, value in ASKED.items() if name != "tools"}
THINKS = TEMPLATE + "{% if enable_thinking is defined and not enable_thinking %}<think>\n\n</think>\n\n{% endif %}"
OPENS = TEMPLATE + "{% if add_generation_prompt %}<think>\n{% endif %}{{ reasoning_effort }}"
CALL = '<tool_call>{"name": "now", "arguments": {}}</tool_call>'


def both(script: Script, client: openai.OpenAI, **more: object) -> tuple[str, str | None]:
    """Reasoning and content, which are the same whole and streamed."""
    script.again()
    asked = PLAIN | more
    message = client.chat.completions.create(**asked).choices[0].message
    extra = message.model_extra or {}
    reasoning = extra.get("reasoning_content", "")
    assert extra.get("reasoning", "") == reasoning
    script.again()
    streamed = Streamed(client.chat.completions.create(**asked, stream=True))
    assert (streamed.reasoning, streamed.content) == (reasoning, message.content or "")
    return reasoning, message.content


def test_reasoning_is_split_off(script: Script, client: openai.OpenAI) -> None:
    script.say("<think>\nWell, well.\n</think>\n\nHello.")
    assert both(script, client) == ("", "<think>\nWell, well.\n</think>\n\nHello.")  # this template knows of none
    with script.template(THINKS):
        assert both(script, client) == ("Well, well.", "Hello.")
        assert both(script, client, extra_body={"include_reasoning": False}) == ("", "Hello.")
        script.say("Hello <think>.")
        assert both(script, client) == ("", "Hello <think>.")
        script.say("<think>Cut off")
        assert both(script, client) == ("Cut off", "")


def test_a_template_that_opens_it(script: Script, client: openai.OpenAI) -> None:
    with script.template(OPENS):
        script.say("Well, well.\n</think>\n\nHello.")
        assert both(script, client) == ("Well, well.", "Hello.")
        script.say("Not done")
        assert both(script, client, max_tokens=5)[1] == ""
    with script.template(THINKS):  # closed by the template: all is content
        script.say("Hello </think>")
        assert both(script, client, extra_body={"enable_thinking": False}) == ("", "Hello </think>")
        kwargs = {"chat_template_kwargs": {"enable_thinking": False}}
        assert both(script, client, extra_body=kwargs) == ("", "Hello </think>")


def test_an_answer_that_is_continued(script: Script, client: openai.OpenAI) -> None:
    user = PLAIN["messages"]
    with script.template(THINKS):
        script.say(" and well.</think>Hello.")
        begun = [*user, {"role": "assistant", "content": "<think>Well"}]
        assert both(script, client, messages=begun, extra_body={"continue_final_message": True}) == (
            "and well.",
            "Hello.",
        )
        prefix = [*user, {"role": "assistant", "content": "<think>Well", "prefix": True}]
        assert both(script, client, messages=prefix) == ("and well.", "Hello.")
        done = [*user, {"role": "assistant", "content": "<think>Well</think>So"}]
        script.say(" it is.")
        assert both(script, client, messages=done, extra_body={"continue_final_message": True}) == ("", " it is.")
        script.again()
        rendered = script.llm.encode_rendered("[user]" + user[0]["content"] + "[assistant]<think>Well</think>So")
        usage = client.chat.completions.create(
            **PLAIN | {"messages": done}, extra_body={"continue_final_message": True}
        ).usage
        assert usage.prompt_tokens == len(rendered)


def test_reasoning_before_calls(script: Script, client: openai.OpenAI) -> None:
    with script.template(THINKS):
        script.say(f"<think>{CALL}?</think>Sure.{CALL}")
        message = client.chat.completions.create(**PLAIN, tools=[NOW]).choices[0].message
        assert (message.model_extra or {})["reasoning_content"] == f"{CALL}?"
        assert (message.content, calls_of(message)) == ("Sure.", [("now", "{}")])
        script.again()
        streamed = Streamed(client.chat.completions.create(**PLAIN, tools=[NOW], stream=True))
        assert (streamed.reasoning, streamed.content, streamed.called) == (f"{CALL}?", "Sure.", [("now", "{}")])


def test_marks_that_are_special_tokens(script: Script, client: openai.OpenAI) -> None:
    with script.sign("[THINK]"):
        script.say("[THINK]Well, <|eot|>well.[/THINK]Hello.<|eot|>")
        assert both(script, client) == ("Well, well.", "Hello.")
    with script.sign("<|channel|><|message|>"):
        script.say("<|channel|>analysis<|message|>Well.<|end|><|start|>assistant<|channel|>final<|message|>Hello.")
        assert both(script, client) == ("Well.", "Hello.")


def test_effort_reaches_the_template(script: Script, client: openai.OpenAI) -> None:
    with script.template(OPENS):
        script.say("</think>Hi")
        low, high = (
            client.chat.completions.create(**PLAIN, reasoning_effort=effort).usage.prompt_tokens
            for effort in ("low", "a very very high one")
        )
        assert high > low


def test_reasoning_goes_back_through_the_template(script: Script, client: openai.OpenAI) -> None:
    with script.template(TEMPLATE.replace("{{ m.content }}", "{{ m.reasoning_content }}{{ m.content }}")):
        script.say("Hi")
        history = [*PLAIN["messages"], {"role": "assistant", "content": "Hello"}, *PLAIN["messages"]]
        plain = client.chat.completions.create(**PLAIN | {"messages": history}).usage.prompt_tokens
        for name in ("reasoning_content", "reasoning"):
            history[1] = {"role": "assistant", "content": "Hello", name: "Well, well."}
            assert client.chat.completions.create(**PLAIN | {"messages": history}).usage.prompt_tokens > plain


def test_flags_choose_the_formats(tmp_path: Path) -> None:
    with contextlib.ExitStack() as stack:
        options = {"tool_parser": "mistral", "reasoning_parser": "off"}
        script, running = scripted_server(tmp_path, stack, **options)
        client = running.client()
        with script.template(THINKS):
            script.say("<think>Well</think>[TOOL_CALLS]now[ARGS]{}")
            message = client.chat.completions.create(**PLAIN, tools=[NOW]).choices[0].message
            assert (message.content, calls_of(message)) == ("<think>Well</think>", [("now", "{}")])
        running.service.reasoning_parser = "think"
        script.again()
        message = client.chat.completions.create(**PLAIN, tools=[NOW]).choices[0].message
        assert (message.content, (message.model_extra or {})["reasoning_content"]) == (None, "Well")
        with pytest.raises(ConfigError, match="--tool-parser"):
            type(running.service)(script.llm, tool_parser="none")


def test_nothing_is_read_where_nothing_is_looked_for(scripted: tuple[Script, Running]) -> None:
    script, running = scripted
    script.say("A<|eot|>B")
    assert running.client().chat.completions.create(**PLAIN).choices[0].message.content == "AB"
