"""Chat templates of the kinds of gpt-oss, LFM2, Qwen3.5 and Gemma 4, as transformers renders them."""

from __future__ import annotations

from typing import Any

import pytest

from models.test_chat import PAIRS, PARTS, TALK, TOOLS, render
from models.test_chat import oracle as oracle  # a fixture

# Harmony: macros that write TypeScript of a schema, channels, and a last answer that ends otherwise than those before.
GPT_OSS = """{%- macro kind(spec) -%}
    {%- if spec.type is string and spec.type == 'array' -%}{{ kind(spec['items'] or {}) ~ '[]' }}
    {%- elif spec.type is defined and spec.type is iterable and spec.type is not string -%}{{ spec.type | join(' | ') }}
    {%- elif spec.enum -%}"{{ spec.enum | join('" | "') }}"
    {%- elif spec.type == 'object' -%}{
        {%- for name, inner in (spec.properties or {}).items() %}
{{ name }}{{ '' if name in (spec.required or []) else '?' }}: {{ kind(inner) }}{{ ',' if not loop.last }}
        {%- endfor %}
}
    {%- elif spec.type in ('integer', 'number') -%}number
    {%- else -%}{{ spec.type or 'any' }}{%- endif -%}
{%- endmacro -%}
{%- macro functions(tools) -%}
    {{- 'namespace functions {\n\n' -}}
    {%- for tool in tools -%}
        {%- set f = tool.function -%}
        {{- '// ' ~ f.description ~ '\n' if f.description -}}
        {{- 'type ' ~ f.name ~ ' = (_: ' ~ kind(f.parameters or {'type': 'object'}) ~ ') => any;\n\n' -}}
    {%- endfor -%}
    {{- '} // namespace functions' -}}
{%- endmacro -%}
{{- '<|start|>system<|message|>' ~ (model_identity or 'You are a helper.') ~ '\nCurrent date: ' -}}
{{- strftime_now('%Y-%m') ~ '\n\nReasoning: ' ~ (reasoning_effort or 'medium') ~ '\n\n' -}}
{{- '# Valid channels: analysis, commentary, final.' -}}
{{- '\nCalls go to the commentary channel.' if tools -}}{{- '<|end|>' -}}
{%- set say = namespace(own='', rest=messages, called=none) -%}
{%- if messages[0].role in ['developer', 'system'] -%}
    {%- set say.own = messages[0].content -%}{%- set say.rest = messages[1:] -%}
{%- endif -%}
{%- if say.own or tools -%}
    {{- '<|start|>developer<|message|>' ~ ('# Instructions\n\n' ~ say.own ~ '\n\n' if say.own) -}}
    {{- '# Tools\n\n## functions\n\n' ~ functions(tools) if tools -}}{{- '<|end|>' -}}
{%- endif -%}
{%- for message in say.rest -%}
    {%- if message.role == 'assistant' and message.tool_calls -%}
        {%- set call = message.tool_calls[0].function -%}{%- set say.called = call.name -%}
        {%- if message.thinking -%}
            {{- '<|start|>assistant<|channel|>analysis<|message|>' ~ message.thinking ~ '<|end|>' -}}
        {%- endif -%}
        {{- '<|start|>assistant to=functions.' ~ call.name ~ '<|channel|>commentary json<|message|>' -}}
        {{- call.arguments | tojson ~ '<|call|>' -}}
    {%- elif message.role == 'assistant' -%}
        {%- if loop.last and not add_generation_prompt -%}
            {%- if 'thinking' in message -%}
                {{- '<|start|>assistant<|channel|>analysis<|message|>' ~ message.thinking ~ '<|end|>' -}}
            {%- endif -%}
            {{- '<|start|>assistant<|channel|>final<|message|>' ~ message.content ~ '<|return|>' -}}
        {%- else -%}{{- '<|start|>assistant<|channel|>final<|message|>' ~ message.content ~ '<|end|>' -}}{%- endif -%}
    {%- elif message.role == 'tool' -%}
        {%- if say.called is none -%}{{- raise_exception('A result without a call before it') -}}{%- endif -%}
        {{- '<|start|>functions.' ~ say.called ~ ' to=assistant<|channel|>commentary<|message|>' -}}
        {{- message.content | tojson ~ '<|end|>' -}}{%- set say.called = none -%}
    {%- else -%}{{- '<|start|>' ~ message.role ~ '<|message|>' ~ message.content ~ '<|end|>' -}}{%- endif -%}
{%- endfor -%}
{{- '<|start|>assistant' if add_generation_prompt -}}"""

# Tools as a list in a text of the system's, results between marks, thoughts of earlier answers left out.
LFM2 = """{{- bos_token -}}
{%- set keep = keep_past_thinking | default(false) -%}
{%- set ns = namespace(system='', last=-1) -%}
{%- if messages[0]['role'] == 'system' -%}
    {%- set ns.system = messages[0]['content'] -%}{%- set messages = messages[1:] -%}
{%- endif -%}
{%- if tools -%}
    {%- set ns.system = ns.system ~ ('\n' if ns.system else '') ~ 'List of tools: <|tool_list_start|>[' -%}
    {%- for tool in tools -%}
        {%- set ns.system = ns.system ~ (tool if tool is string else tool | tojson) ~ ('' if loop.last else ', ') -%}
    {%- endfor -%}
    {%- set ns.system = ns.system ~ ']<|tool_list_end|>' -%}
{%- endif -%}
{{- '<|im_start|>system\n' ~ ns.system ~ '<|im_end|>\n' if ns.system -}}
{%- for message in messages -%}
    {%- if message['role'] == 'assistant' -%}{%- set ns.last = loop.index0 -%}{%- endif -%}
{%- endfor -%}
{%- for message in messages -%}
    {{- '<|im_start|>' ~ message['role'] ~ '\n' -}}
    {%- set content = message['content'] -%}
    {%- if content is not string -%}{%- set content = content | map(attribute='text') | join(' ') -%}{%- endif -%}
    {%- if message['role'] == 'assistant' and not keep and loop.index0 != ns.last and '</think>' in content -%}
        {%- set content = content.split('</think>')[-1] | trim -%}
    {%- endif -%}
    {%- if message['role'] == 'tool' -%}
        {%- set content = '<|tool_response_start|>' ~ content ~ '<|tool_response_end|>' -%}
    {%- endif -%}
    {{- content ~ '<|im_end|>\n' -}}
{%- endfor -%}
{{- '<|im_start|>assistant\n' if add_generation_prompt -}}"""

# A macro for parts of a turn, calls as tags for each argument, thoughts behind the last question alone.
QWEN35 = """{%- macro shown(content) -%}
    {%- if content is string -%}{{ content }}
    {%- elif content is iterable and content is not mapping -%}
        {%- for item in content -%}
            {%- if 'image' in item or item.type == 'image' -%}{{ '<|vision_start|><|image_pad|><|vision_end|>' }}
            {%- elif 'text' in item -%}{{ item.text }}{%- else -%}{{ raise_exception('Unknown part.') }}{%- endif -%}
        {%- endfor -%}
    {%- elif content is none or content is undefined -%}{{ '' }}
    {%- else -%}{{ raise_exception('Unknown content.') }}{%- endif -%}
{%- endmacro -%}
{%- set system = shown(messages[0].content) | trim if messages[0].role == 'system' else '' -%}
{%- if tools and tools is iterable and tools is not mapping -%}
    {{- '<|im_start|>system\n# Tools\n\n<tools>' -}}
    {%- for tool in tools -%}{{- '\n' ~ tool | tojson -}}{%- endfor -%}
    {{- '\n</tools>' ~ ('\n\n' ~ system if system) ~ '<|im_end|>\n' -}}
{%- elif system -%}{{- '<|im_start|>system\n' ~ system ~ '<|im_end|>\n' -}}{%- endif -%}
{%- set ns = namespace(searching=true, asked=messages | length - 1) -%}
{%- for message in messages[::-1] -%}
    {%- set index = (messages | length - 1) - loop.index0 -%}
    {%- if ns.searching and message.role == 'user' -%}
        {%- set text = shown(message.content) | trim -%}
        {%- if not (text.startswith('<tool_response>') and text.endswith('</tool_response>')) -%}
            {%- set ns.searching = false -%}{%- set ns.asked = index -%}
        {%- endif -%}
    {%- endif -%}
{%- endfor -%}
{%- for message in messages -%}
    {%- set content = shown(message.content) | trim -%}
    {%- if message.role == 'system' -%}
        {%- if not loop.first -%}{{- raise_exception('The system comes first.') -}}{%- endif -%}
    {%- elif message.role == 'user' -%}{{- '<|im_start|>user\n' ~ content ~ '<|im_end|>\n' -}}
    {%- elif message.role == 'assistant' -%}
        {%- set thought = '' -%}
        {%- if message.reasoning_content is string -%}{%- set thought = message.reasoning_content -%}
        {%- elif '</think>' in content -%}
            {%- set thought = content.split('</think>')[0].rstrip('\n').split('<think>')[-1].lstrip('\n') -%}
            {%- set content = content.split('</think>')[-1].lstrip('\n') -%}
        {%- endif -%}
        {{- '<|im_start|>assistant\n' -}}
        {{- '<think>\n' ~ thought | trim ~ '\n</think>\n\n' if loop.index0 > ns.asked -}}{{- content -}}
        {%- for call in message.tool_calls or [] -%}
            {%- set call = call.function if call.function is defined else call -%}
            {{- ('\n\n' if loop.first and content else '\n' if not loop.first) -}}
            {{- '<tool_call>\n<function=' ~ call.name ~ '>\n' -}}
            {%- for name, value in call.arguments | items -%}
                {%- set value = value | tojson | safe if value is mapping or (value is sequence and value is not string)
                    else value | string -%}
                {{- '<parameter=' ~ name ~ '>\n' ~ value ~ '\n</parameter>\n' -}}
            {%- endfor -%}{{- '</function>\n</tool_call>' -}}
        {%- endfor -%}{{- '<|im_end|>\n' -}}
    {%- elif message.role == 'tool' -%}
        {{- '<|im_start|>user' if loop.previtem and loop.previtem.role != 'tool' -}}
        {{- '\n<tool_response>\n' ~ content ~ '\n</tool_response>' -}}
        {{- '<|im_end|>\n' if loop.last or loop.nextitem.role != 'tool' -}}
    {%- else -%}{{- raise_exception('Unknown role.') -}}{%- endif -%}
{%- endfor -%}
{%- if add_generation_prompt -%}
    {{- '<|im_start|>assistant\n' ~ ('<think>\n\n</think>\n\n' if enable_thinking is false else '<think>\n') -}}
{%- endif -%}"""

# Marks that open and close a turn; a macro that sorts the keys of a declaration; the assistant is "model".
GEMMA4 = """{%- macro written(value) -%}
    {%- if value is mapping -%}{
        {%- for key, inner in value | dictsort -%}{{ key }}:{{ written(inner) }}{{ ',' if not loop.last }}{%- endfor -%}
    }{%- elif value is string -%}<|"|>{{ value }}<|"|>
    {%- elif value is boolean -%}{{ 'true' if value else 'false' }}
    {%- elif value is sequence -%}[{%- for one in value -%}{{ written(one) }}{{ ',' if not loop.last }}{%- endfor -%}]
    {%- else -%}{{ value }}{%- endif -%}
{%- endmacro -%}
{{- bos_token -}}
{%- set ns = namespace(turns=messages) -%}
{%- if tools or enable_thinking or messages[0]['role'] in ['system', 'developer'] -%}
    {{- '<|turn>system\n' ~ ('<|think|>\n' if enable_thinking is defined and enable_thinking) -}}
    {%- if messages[0]['role'] in ['system', 'developer'] -%}
        {{- messages[0]['content'] | trim -}}{%- set ns.turns = messages[1:] -%}
    {%- endif -%}
    {%- for tool in tools or [] -%}{{- '<|tool>declaration:' ~ written(tool['function']) ~ '<tool|>' -}}{%- endfor -%}
    {{- '<turn|>\n' -}}
{%- endif -%}
{%- for message in ns.turns -%}
    {{- '<|turn>' ~ ('model' if message['role'] == 'assistant' else message['role']) ~ '\n' -}}
    {%- for call in message['tool_calls'] or [] -%}
        {{- '<|tool_call>call:' ~ call['function']['name'] ~ written(call['function']['arguments']) ~ '<tool_call|>' -}}
    {%- endfor -%}
    {%- if message['content'] is string -%}{{- message['content'] | trim -}}
    {%- elif message['content'] is sequence -%}
        {%- for item in message['content'] -%}{{- item['text'] | trim if item['type'] == 'text' -}}{%- endfor -%}
    {%- endif -%}{{- '<turn|>\n' -}}
{%- endfor -%}
{{- '<|turn>model\n' if add_generation_prompt -}}"""

CALL = {"function": {"name": "f", "arguments": {"x": [1, None], "day": "Monday", "deep": {"b": True, "a": 0.5}}}}
CALLS = [*PAIRS, {"role": "assistant", "content": "", "tool_calls": [CALL]}, {"role": "tool", "content": "7"}]
THOUGHTS = [
    *PAIRS,
    {"role": "assistant", "content": "<think>\nEasy.\n</think>\n\nOne."},
    {"role": "user", "content": "And?"},
    {"role": "assistant", "content": "<think>\nHard.\n</think>\n\nTwo."},
]
THOUGHT = [*PAIRS, {"role": "assistant", "content": "Two.", "thinking": "Hm.", "reasoning_content": "Hm."}]
CHATS: dict[str, list[tuple[str, Any, dict[str, Any]]]] = {
    "gpt-oss": [
        *((GPT_OSS, talk, {}) for talk in (TALK, PAIRS, THOUGHT)),
        (GPT_OSS, TALK, {"tools": TOOLS, "reasoning_effort": "high", "model_identity": "You are one."}),
        (GPT_OSS, CALLS, {"tools": TOOLS}),
    ],
    "lfm2": [
        *((LFM2, talk, {}) for talk in (TALK, PAIRS, PARTS, THOUGHTS)),
        (LFM2, THOUGHTS, {"keep_past_thinking": True}),
        (LFM2, CALLS, {"tools": TOOLS}),
    ],
    "qwen3.5": [
        *((QWEN35, talk, {}) for talk in (TALK, PAIRS, PARTS, THOUGHTS, THOUGHT)),
        (QWEN35, PAIRS, {"enable_thinking": False}),
        (QWEN35, CALLS, {"tools": TOOLS}),
        (QWEN35, TALK, {"tools": TOOLS}),
    ],
    "gemma4": [
        *((GEMMA4, talk, {}) for talk in (TALK, PAIRS, PARTS)),
        (GEMMA4, TALK, {"tools": TOOLS, "enable_thinking": True}),
        (GEMMA4, CALLS, {"tools": TOOLS}),
    ],
}


@pytest.mark.parametrize("generate", [True, False])
@pytest.mark.parametrize("kind", CHATS)
def test_renders_what_transformers_renders(oracle: Any, kind: str, generate: bool) -> None:
    for source, messages, options in CHATS[kind]:
        expected = oracle.apply_chat_template(
            messages, chat_template=source, tokenize=False, add_generation_prompt=generate, **options
        )
        assert render(source, messages, add_generation_prompt=generate, **options) == expected
