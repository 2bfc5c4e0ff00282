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

# Roles between marks of their own, today's date in what the system says unless it says something, tools as a role.
GRANITE = """{%- if messages[0]['role'] == 'system' -%}
    {%- set system = messages[0]['content'] -%}{%- set rest = messages[1:] -%}
{%- else -%}
    {%- set system = 'You are Granite. Today is ' ~ strftime_now('%B %d, %Y') ~ '.' -%}{%- set rest = messages -%}
    {%- if tools and thinking -%}{%- set system = system ~ ' Think before you call.' -%}
    {%- elif thinking -%}{%- set system = system ~ ' Think first.' -%}{%- endif -%}
{%- endif -%}
{{ '<|start_of_role|>system<|end_of_role|>' + system + '<|end_of_text|>\n' }}
{%- if tools %}
    {{- '<|start_of_role|>available_tools<|end_of_role|>' ~ (tools | tojson(indent=4)) ~ '<|end_of_text|>\n' }}
{%- endif -%}
{%- for message in rest -%}
    {{- '<|start_of_role|>' ~ message['role'] ~ '<|end_of_role|>' ~ message['content'] ~ '<|end_of_text|>\n' }}
    {%- if loop.last and add_generation_prompt %}
        {{- '<|start_of_role|>assistant' }}{{- ' {"length": "short"}' if controls }}{{- '<|end_of_role|>' }}
    {%- endif %}
{%- endfor %}"""

# Tools are lines of the system's, calls and results of tools lie in tags, several results in one turn.
GRANITE4 = """{%- set ns = namespace(system='You are a careful assistant.', calls=0) -%}
{%- if messages[0].role == 'system' -%}{%- set ns.system = messages[0].content -%}{%- endif -%}
{%- if tools -%}
    {%- set ns.system = ns.system ~ '\n\n<tools>' -%}
    {%- for tool in tools -%}{%- set ns.system = ns.system ~ '\n' ~ (tool | tojson) -%}{%- endfor -%}
    {%- set ns.system = ns.system ~ '\n</tools>' -%}
{%- endif -%}
{{- '<|start_of_role|>system<|end_of_role|>' ~ ns.system ~ '<|end_of_text|>\n' -}}
{%- for message in messages -%}
    {%- set content = namespace(text='') -%}
    {%- if message.content is string -%}{%- set content.text = message.content -%}
    {%- elif message.content is iterable -%}
        {%- for part in message.content if part.type == 'text' -%}
            {%- set content.text = content.text ~ ('\n' if content.text) ~ part.text -%}
        {%- endfor -%}
    {%- endif -%}
    {%- if message.role == 'user' or (message.role == 'system' and not loop.first) -%}
        {{- '<|start_of_role|>' ~ message.role ~ '<|end_of_role|>' ~ content.text ~ '<|end_of_text|>\n' -}}
    {%- elif message.role == 'assistant' -%}
        {{- '<|start_of_role|>assistant<|end_of_role|>' ~ content.text -}}
        {%- for call in message.tool_calls or [] -%}
            {%- set f = call.function or call -%}{%- set ns.calls = ns.calls + 1 -%}
            {{- '<tool_call>\n{"name": "' ~ f.name ~ '", "arguments": ' -}}
            {{- f.arguments if f.arguments is string else f.arguments | tojson -}}{{- '}\n</tool_call>' -}}
        {%- endfor -%}
        {{- '<|end_of_text|>\n' -}}
    {%- elif message.role == 'tool' -%}
        {%- if loop.first or messages[loop.index0 - 1].role != 'tool' -%}
            {{- '<|start_of_role|>user<|end_of_role|>' -}}
        {%- endif -%}
        {{- '<tool_response>\n' ~ content.text ~ '\n</tool_response>' -}}
        {%- if loop.last or messages[loop.index0 + 1].role != 'tool' -%}{{- '<|end_of_text|>\n' -}}{%- endif -%}
    {%- endif -%}
{%- endfor -%}
{{- '<|start_of_role|>assistant<|end_of_role|>' if add_generation_prompt -}}"""

# One mark in front of each role, the end token where no answer is asked for.
PHI3 = """{% for message in messages %}{% if message['role'] == 'system' and message['content'] %}
{{'<|system|>\n' + message['content'] + '<|end|>\n'}}{% elif message['role'] == 'user' %}
{{'<|user|>\n' + message['content'] + '<|end|>\n'}}{% elif message['role'] == 'assistant' %}
{{'<|assistant|>\n' + message['content'] + '<|end|>\n'}}{% endif %}{% endfor %}
{% if add_generation_prompt %}{{ '<|assistant|>\n' }}{% else %}{{ eos_token }}{% endif %}"""

# A separator after the role; the small one has its tools beside what the system says, as a text of JSON.
PHI4 = """{% for message in messages -%}
    {%- if message.role == 'system' and loop.first and tools is not none and tools -%}
        {{- '<|system|>' ~ message.content ~ '<|tool|>' ~ (tools | tojson) ~ '<|/tool|><|end|>' -}}
    {%- elif message['role'] in ['system', 'user', 'assistant'] -%}
        {{- '<|im_start|>' ~ message['role'] ~ '<|im_sep|>' ~ message['content'] ~ '<|im_end|>' -}}
    {%- else -%}{{- '<|' + message['role'] + '|>' + message['content'] + '<|end|>' -}}{%- endif -%}
{%- endfor -%}
{% if add_generation_prompt %}{{ '<|im_start|>assistant<|im_sep|>' }}{% endif %}"""

# What the system says and its tools have brackets of their own; so have calls, whose arguments are JSON.
MINISTRAL3 = """{%- set preset = 'You are Ministral, of ' ~ strftime_now('%Y') ~ '.' -%}
{{- bos_token -}}
{%- if messages[0]['role'] == 'system' -%}
    {{- '[SYSTEM_PROMPT]' -}}
    {%- if messages[0]['content'] is string -%}{{- messages[0]['content'] -}}
    {%- else -%}{%- for part in messages[0]['content'] -%}{{- part['text'] -}}{%- endfor -%}{%- endif -%}
    {{- '[/SYSTEM_PROMPT]' -}}
    {%- set turns = messages[1:] -%}
{%- else -%}
    {%- set turns = messages -%}{{- '[SYSTEM_PROMPT]' + preset + '[/SYSTEM_PROMPT]' if preset -}}
{%- endif -%}
{%- set shown = tools if tools is defined and tools is not none else [] -%}
{%- if shown | length -%}{{- '[AVAILABLE_TOOLS]' + (shown | tojson) + '[/AVAILABLE_TOOLS]' -}}{%- endif -%}
{%- set order = namespace(index=0) -%}
{%- for message in turns -%}
    {%- if message.role == 'user' or (message.role == 'assistant' and not message.tool_calls) -%}
        {%- if (message['role'] == 'user') != (order.index % 2 == 0) -%}
            {{- raise_exception('After the system, user and assistant take turns.') -}}
        {%- endif -%}
        {%- set order.index = order.index + 1 -%}
    {%- endif -%}
{%- endfor -%}
{%- for message in turns -%}
    {%- if message['role'] == 'user' -%}
        {%- if message['content'] is string -%}{{- '[INST]' + message['content'] + '[/INST]' -}}
        {%- else -%}
            {{- '[INST]' -}}
            {%- for part in (message['content'] | sort(attribute='type', reverse=true)) -%}
                {{- part['text'] if part['type'] == 'text' else '[IMG]' -}}
            {%- endfor -%}{{- '[/INST]' -}}
        {%- endif -%}
    {%- elif message['role'] == 'assistant' -%}
        {{- message['content'] if message['content'] is string -}}
        {%- for call in message['tool_calls'] or [] -%}
            {{- '[TOOL_CALLS]' ~ call['function']['name'] ~ '[ARGS]' -}}
            {%- set given = call['function']['arguments'] -%}
            {{- given if given is string else given | tojson | string -}}
        {%- endfor -%}{{- eos_token -}}
    {%- elif message['role'] == 'tool' -%}{{- '[TOOL_RESULTS]' ~ message['content'] | string ~ '[/TOOL_RESULTS]' -}}
    {%- endif -%}
{%- endfor -%}"""

# Two marks in front of everything; tools in Chinese-style headings with indented JSON; a result is an observation.
GLM4 = """[gMASK]<sop>
{%- if tools -%}<|system|>
# 可用工具
{% for tool in tools %}
    {%- set f = tool.get("function", tool) %}

## {{ f.name }}

{{ f | tojson(indent=4, ensure_ascii=False) }}
在调用上述函数时，请使用 Json 格式表示调用的参数。
{%- endfor %}
{%- endif -%}
{%- for message in messages -%}
    {%- if message.role == 'tool' -%}<|observation|>
{{ message.content }}
    {%- elif message.role == 'assistant' and message.tool_calls -%}
        {%- for call in message.tool_calls -%}<|assistant|>{{ call.function.name }}
{{ call.function.arguments | tojson(ensure_ascii=False) }}{%- endfor -%}
    {%- else -%}<|{{ message.role }}|>
{% if message.content is string %}{{ message.content }}{% else %}{{ message.content[0].text }}{% endif %}
    {%- endif -%}
{%- endfor -%}
{%- if add_generation_prompt -%}<|assistant|>
{% endif %}"""

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
    "granite": [
        *((GRANITE, talk, {}) for talk in (TALK, PAIRS)),
        (GRANITE, TALK, {"tools": TOOLS}),
        (GRANITE, PAIRS, {"thinking": True, "tools": TOOLS, "controls": {"length": "short"}}),
    ],
    "granite4": [*((GRANITE4, talk, {"tools": TOOLS}) for talk in (TALK, PARTS, CALLS)), (GRANITE4, PAIRS, {})],
    "phi3": [(PHI3, talk, {}) for talk in (TALK, PAIRS)],
    "phi4": [(PHI4, TALK, {"tools": TOOLS}), (PHI4, PAIRS, {}), (PHI4, CALLS, {"tools": TOOLS})],
    "ministral3": [
        *((MINISTRAL3, talk, {}) for talk in (PAIRS, PARTS)),
        (MINISTRAL3, CALLS, {"tools": TOOLS}),
    ],
    "glm4": [*((GLM4, talk, {}) for talk in (TALK, PAIRS, PARTS)), (GLM4, CALLS, {"tools": TOOLS})],
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
