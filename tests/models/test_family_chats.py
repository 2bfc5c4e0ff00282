"""Chat templates of each family's kind, written anew: rendered as transformers renders them."""

from __future__ import annotations

from typing import Any

import pytest

from cutset.errors import RequestError
from models.test_chat import PAIRS, PARTS, TALK, TOOLS, render
from models.test_chat import oracle as oracle  # a fixture

# Roles must alternate, the assistant is "model", and what the system says goes in front of the first turn.
GEMMA = """{{ bos_token }}
{%- if messages[0]['role'] == 'system' -%}
    {%- set preface = messages[0]['content'] -%}
    {%- if preface is not string -%}{%- set preface = preface[0]['text'] -%}{%- endif -%}
    {%- set rest = messages[1:] -%}
{%- else -%}
    {%- set preface = '' -%}{%- set rest = messages -%}
{%- endif -%}
{%- for message in rest -%}
    {%- if (message['role'] == 'user') != (loop.index0 % 2 == 0) -%}
        {{ raise_exception("Turns of user and assistant must alternate") }}
    {%- endif -%}
    {%- set role = 'model' if message['role'] == 'assistant' else message['role'] -%}
    {{ '<start_of_turn>' + role + '\n' + (preface ~ '\n\n' if loop.first and preface else '') }}
    {%- if message['content'] is string -%}
        {{ message['content'] | trim }}
    {%- elif message['content'] is iterable -%}
        {%- for item in message['content'] -%}
            {%- if item['type'] == 'image' -%}<start_of_image>
            {%- elif item['type'] == 'text' -%}{{ item['text'] | trim }}{%- endif -%}
        {%- endfor -%}
    {%- else -%}
        {{ raise_exception("A turn must have content") }}
    {%- endif -%}
    {{ '<end_of_turn>\n' }}
{%- endfor -%}
{%- if add_generation_prompt -%}{{ '<start_of_turn>model\n' }}{%- endif -%}
"""

# A preface with today's date and a mode, which a word of the system's changes; tools in two notations.
SMOLLM3 = """{%- if enable_thinking is not defined -%}{%- set enable_thinking = true -%}{%- endif -%}
{%- set mode = namespace(name='/think' if enable_thinking else '/no_think', own='') -%}
{%- if messages[0].role == 'system' -%}
    {%- if '/no_think' in messages[0].content -%}{%- set mode.name = '/no_think' -%}
    {%- elif '/think' in messages[0].content -%}{%- set mode.name = '/think' -%}{%- endif -%}
    {%- set mode.own = messages[0].content.replace('/no_think', '').replace('/think', '').rstrip() -%}
{%- endif -%}
{{- '<|im_start|>system\n## Metadata\n\nToday: ' ~ strftime_now('%Y') ~ '\nMode: ' ~ mode.name ~ '\n\n' -}}
{{- (mode.own or 'You are a helper named SmolLM.') ~ '\n' -}}
{%- for tool in xml_tools or tools or [] -%}
    {%- set written = tool | string -%}{{- '<tool>' ~ (tool | tojson) ~ '</tool>' ~ (written | length > 0) ~ '\n' -}}
{%- endfor -%}
{{- '<|im_end|>\n' -}}
{%- for message in messages if message.role != 'system' -%}
    {%- if message.role == 'assistant' -%}
        {%- generation -%}{{- '<|im_start|>assistant\n' -}}
        {%- if mode.name == '/no_think' -%}{{- '<think>\n\n</think>\n' -}}{%- endif -%}
        {{- message.content.lstrip('\n') ~ '<|im_end|>\n' -}}{%- endgeneration -%}
    {%- else -%}{{- '<|im_start|>' ~ message.role ~ '\n' ~ message.content ~ '<|im_end|>\n' -}}{%- endif -%}
{%- endfor -%}
{%- if add_generation_prompt -%}
    {{- '<|im_start|>assistant\n' ~ ('<think>\n\n</think>\n' if mode.name == '/no_think' else '') -}}
{%- endif -%}
"""

# Plain marks on lines of their own; only the last answer is closed by the end token.
OLMO2 = """{{ bos_token }}{% for message in messages %}
{{ '<|' ~ message['role'] ~ '|>\n' ~ message['content'] }}
{%- if message['role'] == 'assistant' %}{{ eos_token ~ ('' if loop.last else '\n') }}{% else %}{{ '\n' }}{% endif %}
{% if loop.last and add_generation_prompt %}{{ '<|assistant|>\n' }}{% endif %}{% endfor %}"""

# Functions are the system's, as a text of JSON; calls and their results have roles of their own.
OLMO3 = """{%- set system = messages | selectattr('role', 'equalto', 'system') | first -%}
{{- '<|im_start|>system\n' ~ (system.content if system is defined else 'You are Olmo.') -}}
{{- ' <functions>' ~ (tools | tojson) ~ '</functions>' if tools else ' You have no functions.' -}}
{{- '<|im_end|>\n' -}}
{%- for message in messages -%}
    {%- if message.role == 'user' -%}{{- '<|im_start|>user\n' ~ message.content ~ '<|im_end|>\n' -}}
    {%- elif message.role == 'assistant' -%}
        {{- '<|im_start|>assistant\n' ~ (message.content or '') -}}
        {%- if message.tool_calls -%}{{- '<function_calls>' -}}
            {%- for call in message.tool_calls -%}
                {%- set f = call.function if call.function is defined else call -%}
                {{- f.name ~ '(' -}}
                {%- for k, v in f.arguments.items() -%}
                    {{- k ~ '=' ~ (v | tojson) ~ (', ' if not loop.last) -}}
                {%- endfor -%}
                {{- ')' -}}
            {%- endfor -%}{{- '</function_calls>' -}}
        {%- endif -%}
        {{- '<|im_end|>\n' if not loop.last else eos_token -}}
    {%- elif message.role in ('tool', 'environment') -%}
        {{- '<|im_start|>environment\n' ~ message.content ~ '<|im_end|>\n' -}}
    {%- endif -%}
{%- endfor -%}
{{- '<|im_start|>assistant\n' if add_generation_prompt -}}"""

PICTURE = [{"role": "user", "content": [{"type": "image"}, {"type": "text", "text": " What is it? "}]}]
QUIET = [{"role": "system", "content": "Be kind. /no_think"}, *PAIRS]
CALLS = [
    *PAIRS,
    {"role": "assistant", "content": "", "tool_calls": [{"function": {"name": "f", "arguments": {"x": [1, None]}}}]},
    {"role": "tool", "content": "7"},
]
CHATS: dict[str, list[tuple[str, Any, dict[str, Any]]]] = {
    "gemma": [(GEMMA, talk, {}) for talk in (TALK, PAIRS, PARTS)],
    "smollm3": [
        *((SMOLLM3, talk, {}) for talk in (TALK, PAIRS, QUIET)),
        (SMOLLM3, PAIRS, {"enable_thinking": False}),
        (SMOLLM3, TALK, {"xml_tools": TOOLS}),
        (SMOLLM3, TALK, {"tools": TOOLS}),
    ],
    "olmo2": [(OLMO2, talk, {}) for talk in (TALK, PAIRS, [*PAIRS[:1], PAIRS[1]])],
    "olmo3": [(OLMO3, TALK, {}), (OLMO3, PAIRS, {"tools": TOOLS}), (OLMO3, CALLS, {"tools": TOOLS})],
}


@pytest.mark.parametrize("generate", [True, False])
@pytest.mark.parametrize("kind", CHATS)
def test_renders_what_transformers_renders(oracle: Any, kind: str, generate: bool) -> None:
    for source, messages, options in CHATS[kind]:
        expected = oracle.apply_chat_template(
            messages, chat_template=source, tokenize=False, add_generation_prompt=generate, **options
        )
        assert render(source, messages, add_generation_prompt=generate, **options) == expected


def test_a_template_may_refuse_an_order_of_turns() -> None:
    with pytest.raises(RequestError, match="Turns of user and assistant must alternate"):
        render(GEMMA, [*PAIRS, PAIRS[-1]])


def test_a_picture_is_refused_where_only_the_text_part_runs() -> None:
    with pytest.raises(RequestError, match="this model reads nothing but text"):
        render(GEMMA, PICTURE)
