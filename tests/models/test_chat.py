"""Chat templates: equal to transformers', and harmless."""

from __future__ import annotations

import threading
import time
import tracemalloc
from pathlib import Path
from typing import Any

import pytest
from tokenizers import Tokenizer as Backend
from tokenizers import models

from cutset.errors import RequestError, TokenizerError
from cutset.models.text import template_sandbox
from cutset.models.text.chat import ChatTemplate
from cutset.models.text.tokenizer import Tokenizer

CHATML = """
{%- if tools %}
    {{- '<|im_start|>system\\n' }}
    {%- if messages[0]['role'] == 'system' %}{{ messages[0]['content'] }}{% else %}You are helpful.{% endif %}
    {{- "\\n\\n# Tools\\n<tools>" }}
    {%- for tool in tools %}
        {{- "\\n" }}{{ tool | tojson }}
    {%- endfor %}
    {{- "\\n</tools><|im_end|>\\n" }}
{%- endif %}
{%- set ns = namespace(last=-1) %}
{%- for message in messages %}
    {%- if message.role == 'user' %}{% set ns.last = loop.index0 %}{% endif %}
{%- endfor %}
{%- for message in messages %}
    {%- if (message.role == 'system') and tools %}{% continue %}{% endif %}
    {{- '<|im_start|>' + message.role + ('*' if loop.index0 == ns.last else '') + '\\n' }}
    {%- if message.content is string %}{{ message.content }}
    {%- else %}{% for part in message.content %}{{ part['text'] }}{% endfor %}{% endif %}
    {%- for call in message.tool_calls or [] %}<tool_call>{{ call.function | tojson(indent=2) }}</tool_call>{% endfor %}
    {{- '<|im_end|>' ~ '\\n' }}
{%- endfor %}
{%- if add_generation_prompt %}
    {{- '<|im_start|>assistant\\n' }}
    {%- if enable_thinking is defined and not enable_thinking %}<think></think>{% endif %}
{%- endif %}
"""

LLAMA3 = """{{ bos_token }}{% for message in messages %}
{% set content %}<|start_header_id|>{{ message['role'] }}<|end_header_id|>

{{ message['content'] | trim }}<|eot_id|>{% endset %}
{{ content }}{% if loop.last and not add_generation_prompt %}{{ eos_token }}{% endif %}
{% endfor %}{% if add_generation_prompt %}<|start_header_id|>assistant<|end_header_id|>

{% endif %}{{ unk_token }}{{ pad_token is defined }}"""

MISTRAL = """{% macro turn(text) %}[INST] {{ text }} [/INST]{% endmacro %}
{{ bos_token }}{% for m in messages %}
    {% if (m['role'] == 'user') != (loop.index0 % 2 == 0) %}
        {{ raise_exception('Roles must alternate\nuser/assistant') }}
    {% elif m['role'] == 'user' %}
{{ turn(m['content']) }}
    {%- elif m['role'] == 'assistant' %}
{% generation %}{{ ' ' ~ m['content'] ~ eos_token }}{% endgeneration %}
    {% endif %}
    {% if loop.index > 100 %}{% break %}{% endif %}
{% endfor %}"""

ODDITIES = """{# all that transformers adds, and loops over odd things #}
{{ dict(a=1, b=[none, true, 'ü<']) | tojson }} {{ {'z': 1, 'a': 2} | tojson(sort_keys=true, separators=(',', ':')) }}
{{ 'ü' | tojson(ensure_ascii=true) }} {{ strftime_now('%Y') | length }} {{ documents is none }}
{% for k, v in {'x': 1, 'y': 2}.items() %}{{ k ~ v ~ missing ~ none }}{{ loop.revindex }},{{ loop.length }} {% endfor %}
{% for c in 'abc' if c != 'b' %}{{ c }}{{ loop.previtem }}{{ loop.nextitem }}{% else %}none{% endfor %}
{% for x in nothing %}{% else %}empty{% endfor %}
{% for x in [1, [2, [3]]] recursive %}{{ loop(x) if x is iterable else x }}{{ loop.depth }}{% endfor %}
{{ 'ab' * 3 }} {{ [1] + [2] }} {{ '%s-%05d' % ('a', 7) }} {{ '{:>4}|{}'.format('x', messages | length) }} {{ 2 ** 10 }}
{{ ['a', 'b'] | join('-') }} {{ 'a-b'.split('-') | map('upper') | list }}
{{ 'aXa'.replace('X', 'yy') }} {{ 3 | string }}
{{ messages[::-1][0].content }} {{ messages | selectattr('role', 'equalto', 'user') | list | length }}
{{ messages[0].get('name', 'nobody') }} {{ 'a\nb' | indent(2) }} {{ 'x' | center(5) }}
{{ 1.25 | round(1) }} {{ 7 // 2 }}
{{ messages[0].reasoning_content }} {{ messages[0].thinking }} {{ namespace(x=1).x }} {{ cycler('a', 'b').next() }}
"""

TALK = [
    {"role": "system", "content": " Be brief. "},
    {"role": "user", "content": "Hallo, <world> & 日本 🙂\n"},
    {"role": "assistant", "content": "Hi!"},
    {"role": "user", "content": "  Once\n\nmore  "},
]
PAIRS = TALK[1:]
TOOLS = [
    {"type": "function", "function": {"name": "größe", "parameters": {"type": "object", "properties": {"a<b": {}}}}}
]
CALLS = [*PAIRS, {"role": "assistant", "tool_calls": [{"function": {"name": "f", "arguments": {"x": [1, None]}}}]}]
PARTS = [{"role": "user", "content": [{"type": "text", "text": "one "}, {"type": "text", "text": "two"}]}]
TOKENS = {"bos_token": "<s>", "eos_token": "</s>", "unk_token": "<unk>", "pad_token": None}


@pytest.fixture(scope="module")
def oracle() -> Any:
    transformers = pytest.importorskip("transformers")
    backend = Backend(models.WordLevel({"<unk>": 0, "<s>": 1, "</s>": 2}, unk_token="<unk>"))
    return transformers.PreTrainedTokenizerFast(tokenizer_object=backend, **TOKENS)


def render(source: str, messages: Any = PAIRS, **options: Any) -> str:
    return ChatTemplate(source, **TOKENS).render(messages, **options)


@pytest.mark.parametrize("generate", [True, False])
@pytest.mark.parametrize(
    ("source", "messages", "options"),
    [
        (CHATML, TALK, {}),
        (CHATML, TALK, {"tools": TOOLS}),
        (CHATML, PAIRS, {"tools": TOOLS, "enable_thinking": False}),
        (CHATML, CALLS, {"enable_thinking": True}),
        (CHATML, PARTS, {}),
        (LLAMA3, TALK, {}),
        (LLAMA3, TALK, {"bos_token": "<other>"}),
        (MISTRAL, PAIRS, {}),
        (ODDITIES, TALK, {}),
        (ODDITIES, [{"role": "user", "content": "x", "reasoning": "r", "name": None}], {}),
        (ODDITIES, [{"role": "user", "content": "x", "thinking": "t", "reasoning_content": "c"}], {}),
    ],
)
def test_rendering_equals_transformers(
    oracle: Any, source: str, messages: Any, options: dict[str, Any], generate: bool
) -> None:
    expected = oracle.apply_chat_template(
        messages, chat_template=source, tokenize=False, add_generation_prompt=generate, **options
    )
    assert render(source, messages, add_generation_prompt=generate, **options) == expected


def test_tool_template_is_for_tools() -> None:
    template = ChatTemplate("plain", tool_source="tools: {{ tools | length }}")
    assert template.render(PAIRS) == "plain"
    assert template.render(PAIRS, tools=TOOLS) == "tools: 1"


def test_templates_without_parts_get_text() -> None:
    assert render("{% for m in messages %}{{ m.role + ': ' + m.content }}{% endfor %}", PARTS) == "user: one \ntwo"


def test_of_a_tokenizer(tmp_path: Path) -> None:
    backend = Backend(models.WordLevel({"<unk>": 0, "<s>": 1, "</s>": 2}, unk_token="<unk>"))
    backend.save(str(tmp_path / "tokenizer.json"))
    with pytest.raises(TokenizerError, match=r"no chat template: use `cutset generate`, or give one in models\.yaml"):
        ChatTemplate.of(Tokenizer.load(tmp_path))
    (tmp_path / "tokenizer_config.json").write_text('{"bos_token": "<s>", "extra_special_tokens": {"source": "<x>"}}')
    (tmp_path / "chat_template.jinja").write_text("{{ bos_token }}{{ source }}{{ messages[0].content }}")
    assert ChatTemplate.of(Tokenizer.load(tmp_path)).render([{"role": "user", "content": "hi"}]) == "<s><x>hi"
    (tmp_path / "chat_template.jinja").unlink()
    (tmp_path / "tokenizer_config.json").write_text('{"chat_template": [{"name": "rag", "template": ""}]}')
    with pytest.raises(TokenizerError, match=r"several chat templates \(rag\) but none called default"):
        ChatTemplate.of(Tokenizer.load(tmp_path))


@pytest.mark.parametrize(
    ("messages", "message"),
    [
        ([], "messages is empty"),
        ("hi", "messages must be a list, not str"),
        ({"role": "user"}, "messages must be a list, not dict"),
        (["hi"], r"messages\[0\] must be an object"),
        ([{"content": "hi"}], r"messages\[0\] needs a role"),
        ([{"role": 3, "content": "hi"}], r"messages\[0\] needs a role"),
        ([*PAIRS, {"role": "user"}], r"messages\[3\] needs content"),
        ([{"role": "user", "content": None}], r"messages\[0\] needs content"),
        ([{"role": "user", "content": 7}], r"messages\[0\]\.content must be a string or a list of text parts, not int"),
        ([{"role": "user", "content": ["hi"]}], r"messages\[0\]\.content\[0\] must be"),
        ([{"role": "user", "content": [{"type": "image_url"}]}], "reads nothing but text"),
        ([{"role": "user", "content": [{"type": "text"}]}], "reads nothing but text"),
        ([{"role": "user", "content": "x", "tool_calls": {1: 2}}], "keys of an object must be strings"),
        ([{"role": "user", "content": "x", "extra": object()}], "object is no JSON value"),
    ],
)
def test_malformed_messages(messages: Any, message: str) -> None:
    with pytest.raises(RequestError, match=message):
        render(CHATML, messages)


def test_malformed_options() -> None:
    loop: list[Any] = []
    loop.append(loop)
    with pytest.raises(RequestError, match="nested too deeply"):
        render(CHATML, tools=[{"a": loop}])
    for tools in ({}, [print], "f"):
        with pytest.raises(RequestError, match="tools must be a list of JSON schemas"):
            render(CHATML, tools=tools)
    with pytest.raises(RequestError, match="can't be called 'messages'"):
        ChatTemplate(CHATML).render(PAIRS, messages=[])


def test_a_template_sees_nothing_but_json() -> None:
    class Text(str):
        def danger(self) -> str:
            raise AssertionError

    assert render("{{ messages[0].content.danger is defined }}", [{"role": "user", "content": Text("x")}]) == "False"


def test_refusals_are_the_users_business() -> None:
    with pytest.raises(RequestError, match=r"refuses this conversation: Roles must alternate user/assistant$"):
        render(MISTRAL, TALK)


@pytest.mark.parametrize(
    ("source", "message"),
    [
        ("a\n{% for %}", "error in line 2"),
        ("{% if x %}", "error in line 1"),
        ("{% frob %}", "unknown tag 'frob'"),
        ("{{ " + "(" * 5000 + "1" + ")" * 5000 + " }}", "can't be compiled"),
        ("{% for x in y %}" * 40 + "{% endfor %}" * 40, "can't be compiled"),
        ("x" * (2 << 20), "at most 1 MiB"),
    ],
)
def test_templates_that_are_none(source: str, message: str) -> None:
    with pytest.raises(TokenizerError, match=message) as caught:
        ChatTemplate(source)
    assert "\n" not in str(caught.value)


@pytest.mark.parametrize(
    ("source", "message"),
    [
        ("{{ nothing() }}", "UndefinedError: 'nothing' is undefined"),
        ("{{ messages[9].content }}", "UndefinedError"),
        ("{{ 1 / 0 }}", "ZeroDivisionError"),
        ("{% include 'secret' %}", "no loader"),
        ("{% import 'os' as os %}", "no loader"),
    ],
)
def test_templates_that_fail(source: str, message: str) -> None:
    with pytest.raises(RequestError, match=message):
        render(source)


ESCAPES = [
    "{{ ''.__class__.__mro__[1].__subclasses__() }}",
    "{{ (''|attr('__class__')).__mro__ }}",
    "{{ ''['__class__']['__base__'] }}",
    "{{ '{0.__class__.__mro__}'.format('x') }}",
    "{{ cycler.__init__.__globals__.os.popen('id').read() }}",
    "{{ raise_exception.__globals__['json'] }}",
    "{{ strftime_now.__code__.co_consts }}",
    "{{ namespace.__init__.__globals__ }}",
    "{% set ns = namespace() %}{% set ns.__class__ = 1 %}",
    "{{ namespace(_hidden=1) }}",
    "{{ dict.__call__.__globals__ }}",
    "{{ messages.append(1) }}",
    "{{ messages[0].pop('role') }}",
    "{{ (messages|map(attribute='__class__')|first).__mro__ }}",
    "{{ self.__init__.__globals__ }}",
    "{{ loop.__class__ }}{% for x in [1] %}{{ loop.__init__.__globals__ }}{% endfor %}",
    "{{ caller.__init__.__globals__ }}{% macro m() %}{% endmacro %}{{ m.__init__.__globals__ }}",
]


@pytest.mark.parametrize("source", ESCAPES)
def test_nothing_leads_out_of_the_sandbox(source: str) -> None:
    with pytest.raises((TokenizerError, RequestError)):
        render(source)


GROWING = "{% set ns = namespace(x='ab', l=[1]) %}{% for i in range(99) %}GROW{% endfor %}{{ ns.x|length }}"
BOMBS = [
    "{% for i in range(10**9) %}x{% endfor %}",
    "{% for i in range(99999) %}{% for j in range(99999) %}{% endfor %}{% endfor %}",
    "{% for i in range(99999) %}{{ 'x' * 1000 }}{% endfor %}",
    "{% macro f(n) %}{{ f(n + 1) }}{% endmacro %}{{ f(0) }}",
    "{% macro f(n) %}{% if n %}{{ f(n - 1) }}{{ f(n - 1) }}{% endif %}{% endmacro %}{{ f(60) }}",
    "{% for x in [1, 1] recursive %}{% if loop.depth < 60 %}{{ loop([1, 1]) }}{% endif %}{% endfor %}",
    "{% block a %}{{ self.a() }}{% endblock %}",
    "{{ 'x' * 10**10 }}",
    "{{ ([1] * 10**10) | length }}",
    "{{ 10**(10**10) }}",
    "{{ '%9999999999d' % 1 }}",
    "{{ '%*d' % (9999999999, 1) }}",
    "{{ '%9999999999d' | format(1) }}",
    "{{ '{:9999999999}'.format(1) }}",
    "{{ '{:{}}'.format(1, 9999999999) }}",
    "{{ 'x'.center(10**10) }}",
    "{{ 'x' | center(9999999999) }}",
    "{{ '1'.zfill(10**10) }}",
    "{{ 'a\n' | indent(10**9) }}",
    "{{ '\t'.expandtabs(10**9) }}",
    "{{ [1] | tojson(indent=10**9) }}",
    "{{ [1] | batch(10**9, 0) | list }}",
    "{{ 1.5 | round(10**9) }}",
    "{{ (['x' * 1000000] * 100000) | join }}",
    "{{ ''.join(['x' * 1000000] * 100000) }}",
    *(
        GROWING.replace("GROW", grow)
        for grow in (
            "{% set ns.x = ns.x + ns.x %}",
            "{% set ns.x = ns.x ~ ns.x %}",
            "{% set ns.x = ns.x * 2 %}",
            "{% set y %}{{ ns.x }}{{ ns.x }}{% endset %}{% set ns.x = y %}",
            "{% set ns.x = '%s%s' % (ns.x, ns.x) %}",
            "{% set ns.x = '{0}{0}'.format(ns.x) %}",
            "{% set ns.x = ns.x.replace('a', 'aa') %}",
            "{% set ns.x = ns.x | replace('a', 'aa') %}",
            "{% set ns.x = [ns.x, ns.x] | join %}",
            "{% set ns.l = ns.l + ns.l %}",
            "{% set ns.l = ns.l * 9 %}",
        )
    ),
    "{% macro d(x) %}{{ x }}{{ x }}{% endmacro %}" + GROWING.replace("GROW", "{% set ns.x = d(ns.x) %}"),
    "{% set ns = namespace(n=10) %}{% for i in range(99) %}{% set ns.n = ns.n * ns.n %}{% endfor %}{{ ns.n }}",
]


@pytest.mark.parametrize("source", BOMBS)
def test_bombs_are_stopped(source: str) -> None:
    template = ChatTemplate(source)
    started = time.perf_counter()
    with pytest.raises(TokenizerError, match="isn't safe to run") as caught:
        template.render(PAIRS)
    assert time.perf_counter() - started < 30  # most take milliseconds; the machine may be busy
    assert "\n" not in str(caught.value)
    assert len(str(caught.value)) < 400


@pytest.mark.parametrize(
    "source",
    [
        "{{ 'a'.encode().ljust(300000000) }}",
        "{{ ('a' * 3000).encode().replace('a'.encode(), ('b' * 100000).encode()) }}",
        "{{ ('b' * 100000).encode().join(['a'.encode()] * 3000) }}",
        "{{ '%300000000d'.encode() % 1 }}",
        "{{ '\t'.encode().expandtabs(300000000) }}",
        "{{ (1).to_bytes(300000000, 'big') }}",
        "{{ ('a' * 3000).translate({97: 'b' * 100000}) }}",
        "{{ ('a' * 3000) | join('b' * 100000) }}",
        "{{ ('a ' * 3000) | wordwrap(1, wrapstring='b' * 100000) }}",
        "{{ ('http://a.bc ' * 3000) | urlize(rel='b' * 100000) }}",
        "{{ ('\n' * 3000) | indent('b' * 100000, blank=true) }}",
    ],
)
def test_bombs_are_stopped_before_they_go_off(source: str) -> None:
    template = ChatTemplate(source)
    tracemalloc.start()
    try:
        with pytest.raises(TokenizerError, match="it builds more than"):
            template.render(PAIRS)
        assert tracemalloc.get_traced_memory()[1] < 64 << 20
    finally:
        tracemalloc.stop()


def test_limits_leave_room_for_long_conversations() -> None:
    talk = [{"role": "user" if i % 2 == 0 else "assistant", "content": "x" * 1000} for i in range(2000)]
    for source in (CHATML, LLAMA3):
        assert len(render(source, talk)) > 2_000_000
    long = render(LLAMA3, [{"role": "user", "content": "y" * (4 << 20)}])
    assert len(long) > 4 << 20


def test_output_is_bounded(monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setattr(template_sandbox, "MAX_RENDERED_CHARS", 100)
    with pytest.raises(TokenizerError, match="builds more than 100 characters"):
        render("{% for m in messages %}{{ m.content }}{% endfor %}", [{"role": "user", "content": "x" * 60}] * 2)


def test_every_rendering_has_its_own_budget(monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setattr(template_sandbox, "MAX_STEPS", 1000)
    template = ChatTemplate("{% for i in range(600) %}{% endfor %}{{ messages[0].content }}")
    results: list[str] = []

    def work() -> None:
        for _ in range(20):
            results.append(template.render([{"role": "user", "content": "ok"}]))

    threads = [threading.Thread(target=work) for _ in range(4)]
    for thread in threads:
        thread.start()
    for thread in threads:
        thread.join()
    assert results == ["ok"] * 80
