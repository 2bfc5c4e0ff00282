"""Grammars: what is compiled, what is refused and why, and for which vocabularies."""

from __future__ import annotations

import json
import re
import sys
import threading
from typing import Any

import pytest

from cutset import GuidedDecodingParams, SamplingParams, StructuredOutputsParams
from cutset.engine.bits import allowed_ids, bits_of, has
from cutset.engine.grammar import Grammar
from cutset.engine.grammar_compiler import KEPT, GrammarCompiler, Vocabulary
from cutset.engine.schema_bounds import MOST_BYTES, MOST_DEPTH
from cutset.errors import RequestError

from .grammars import COMPILER, VOCABULARY


def fits(grammar: Grammar, text: str) -> bool:
    """Whether a text is one of the grammar's, written one character after another."""
    matcher = COMPILER.compile(grammar).begin()
    return bool(matcher.consume_tokens(VOCABULARY.encode(text)) and matcher.is_accepting())


def refused(make: Any) -> str:
    with pytest.raises(RequestError) as caught:
        make()
    text = str(caught.value)
    assert len(text) < 400
    assert "\n" not in text
    return text


def compiled(*args: Any, **options: Any) -> Any:
    return COMPILER.compile(Grammar.json_schema(*args, **options))


def test_json_has_gaps_but_not_endless_ones() -> None:
    grammar = Grammar.json_schema({"type": "object", "properties": {"a": {"type": "integer"}}, "required": ["a"]})
    for text in ('{"a":1}', '{"a": 1}', '{\n  "a": 1\n}', '{ "a" : -12 }', '{"a": 1, "b": [null]}'):
        assert fits(grammar, text), text
    for text in ("", "1", '{"a":"1"}', '{"b":1}', "{  }", '{"a":  1}', '{\n\n"a":1}', ' {"a":1}', '{"a":1} '):
        assert not fits(grammar, text), text
    bare = Grammar.json_schema({"type": "array", "items": {"type": "integer"}}, gaps=None)
    assert fits(bare, "[1,2]")
    assert not fits(bare, "[1, 2]")
    wide = Grammar.json_schema({"type": "array", "items": {"type": "integer"}}, gaps=r"[ ]{0,3}")
    assert fits(wide, "[1,   2]")
    assert not fits(wide, "[1,    2]")
    assert fits(Grammar.json_object(), '{"a": {"b": [1, null, "c"]}}')
    assert not fits(Grammar.json_object(), "[1]")


def test_other_kinds() -> None:
    assert fits(Grammar.regex("[a-c]{2}(x|yz)?"), "abyz")
    assert not fits(Grammar.regex("[a-c]{2}(x|yz)?"), "abz")
    choice = Grammar.choice(["yes", "no", 'a"b\\n', "é"])
    assert all(fits(choice, text) for text in ("yes", "no", 'a"b\\n', "é"))
    assert not fits(choice, "ye")
    assert fits(Grammar.lark('start: "a" start "b" | "c"'), "aacbb")
    assert not fits(Grammar.lark('start: "a" start "b" | "c"'), "aacb")
    assert fits(Grammar.lark('root ::= "a" item*\nitem ::= [0-9]'), "a12")  # llama.cpp's form


def test_vllms_names_become_grammars() -> None:
    schema = {"type": "integer"}
    for given in (
        StructuredOutputsParams(json=schema),
        GuidedDecodingParams(json='{"type":"integer"}'),
        {"json": schema},
        Grammar.json_schema(schema),
    ):
        for name in ("structured_outputs", "guided_decoding"):
            params = SamplingParams(**{name: given})
            assert params.grammar == Grammar.json_schema(schema)
            assert params.with_defaults({"top_k": 3}).grammar == params.grammar
            assert params.constrained
    assert SamplingParams(structured_outputs={"json_object": True}).grammar == Grammar.json_object()
    bare = StructuredOutputsParams(json=True, disable_any_whitespace=True)
    assert SamplingParams(structured_outputs=bare).grammar == Grammar.json_schema(True, gaps=None)
    assert not SamplingParams().constrained
    for wrong in (
        {},
        {"json": schema, "regex": "a"},
        {"json_object": False},
        {"regx": "a"},
        {"choice": []},
        {"choice": "yes"},
        {"choice": [1]},
        {"regex": ""},
        {"regex": 3},
        {"grammar": "\ud800"},
        {"json": 7},
        {"json": "{"},
        {"json": "7"},
        {"json": object()},
        {"json": schema, "structural_tag": "x"},
        {"json": schema, "backend": "xgrammar"},
        {"json": schema, "whitespace_pattern": 3},
        7,
        "a",
    ):
        with pytest.raises(RequestError, match="structured_outputs"):
            SamplingParams(structured_outputs=wrong)
    with pytest.raises(RequestError, match="guided_decoding"):
        SamplingParams(structured_outputs=bare, guided_decoding=bare)


@pytest.mark.parametrize(
    ("schema", "keyword"),
    [
        ({"type": "object", "not": {"required": ["a"]}}, "not"),
        ({"type": "array", "uniqueItems": True}, "uniqueItems"),
        ({"if": {"type": "string"}, "then": {"minLength": 3}}, "if"),
        ({"type": "object", "properties": {"a": {"dependentRequired": {"b": ["c"]}}}}, "dependentRequired"),
        ({"type": "string", "format": "idn-email"}, "idn-email"),
        ({"type": "strin"}, "strin"),
        ({"$ref": "http://x/y"}, "http://x/y"),
        ({"x-guidance": {"lenient": True}, "type": "object", "not": {}}, "x-guidance"),
        ({"type": "string", "pattern": r"(a)\1"}, "backreferences"),
        ({"type": "integer", "multipleOf": 1234567}, "multipleOf"),
        ({"allOf": [{"multipleOf": 7}, {"multipleOf": 11}, {"multipleOf": 130}]}, "multipleOf"),
        ({"type": "integer", "minimum": 10**30}, "minimum"),
        ({"type": "string", "pattern": "((a{100}){100}){100}"}, "pattern"),
        ({"patternProperties": {"(x{200}){200}": {}}}, "patternProperties"),
        ({"properties": {f"p{i}": {} for i in range(501)}}, "properties"),
        ({"anyOf": [{"properties": {f"p{i}": {} for i in range(400)}} for _ in range(2)]}, "properties"),
        ({"type": "string", "minLength": 2**31}, "minLength"),
        ({"allOf": [{"pattern": f"a.{{{i}}}b"} for i in range(20)]}, "pattern"),
        ({"allOf": [{"anyOf": [{"pattern": f"a{{{i + 9}}}b*"} for i in range(8)]}] * 3}, "pattern"),
        ({"$defs": {"a": {"pattern": "x.{99}y"}}, "pattern": "a.{99}b", "$ref": "#/$defs/a"}, "pattern"),
        ({"$ref": "#"}, "$ref"),
        ({"$ref": "#/$defs/a", "$defs": {"a": {"$ref": "#/$defs/b"}, "b": {"$ref": "#/$defs/a"}}}, "$ref"),
        ({"$ref": "#/$defs/none"}, "$ref"),
        ({"type": "string", "pattern": "(?=a)b"}, "`pattern`"),
        ({"patternProperties": {"(": {}}}, "`patternProperties`"),
        ({"properties": {"a": 3}}, "`properties` must be an object of schemas"),
        ({"properties": []}, "`properties`"),
        ({"type": "array", "items": [{}]}, "`items` must be a schema"),
        ({"type": "array", "prefixItems": {}}, "`prefixItems` must be a list"),
        ({"type": "object", "additionalProperties": 3}, "`additionalProperties`"),
        ({"items": {"anyOf": []}}, "`anyOf`"),
        ({"anyOf": [{"allOf": [3]}]}, "`allOf`"),
        ({"$defs": {"a": None}}, "`$defs`"),
        ({"enum": []}, "`enum`"),
        ({"enum": "a"}, "`enum`"),
        ({"type": "object", "required": "a"}, '`required` can\'t be "a": give a list'),
        ({"type": "object", "required": [1]}, "`required` can't be 1: give a text"),
        ({"type": "string", "minLength": "1"}, '`minLength` can\'t be "1": give a whole number'),
        ({"type": "integer", "minimum": "1"}, '`minimum` can\'t be "1": give a number'),
        ({"type": "number", "multipleOf": 0}, "`multipleOf`"),
        (
            {
                "allOf": [
                    {"anyOf": [{"properties": {f"a{i}{j}": {"enum": ["b", "c"]}}} for j in range(8)]} for i in range(12)
                ]
            },
            "`allOf`",
        ),
        ({"type": "object", "properties": {"a": False}, "required": ["a"]}, "'a'"),
    ],
    ids=str,
)
def test_a_schema_that_can_t_be_kept_is_refused_by_its_keyword(schema: Any, keyword: str) -> None:
    text = refused(lambda: compiled(schema, asked="guided_json"))
    assert keyword in text
    assert text.startswith("guided_json")


def test_what_is_data_is_no_keyword() -> None:
    data = {"multipleOf": 10**9, "pattern": "(a{9999}){9999}", "minimum": 10**40}
    kept = {"type": "object", "properties": {name: {"type": "integer"} for name in data}, "default": data}
    kept["examples"] = [data]
    assert compiled(kept)
    assert compiled({"enum": ["a{99999}"], "title": "x" * 2000, "description": "y", "$comment": "z"})


def test_keywords_that_nobody_knows_may_have_anything() -> None:
    """And those that are names of properties, or data."""
    own = {"items": {"type": "string"}, "enum": True, "properties": {"type": "integer"}}
    assert compiled({"type": "object", "properties": own, "example": {"items": 3, "enum": []}})
    assert compiled({"const": {"anyOf": [], "properties": 3}})


def test_grammars_are_larks_unless_a_rule_is_llama_cpps() -> None:
    for text in (
        'start[lazy]: /a+/ "b"',
        'start: "a" // root ::= "b"',
        '?start: "a"',
        'root ::= "a"*',
        '\nroot  ::= x\nx ::= "y"',
    ):
        assert COMPILER.compile(Grammar.lark(text)), text


def test_patterns_for_different_texts_don_t_meet() -> None:
    fields = {name: {"type": "string", "pattern": "^[a-z]{3,30}$"} for name in ("a", "b", "cd", "e f", "é", "x")}
    base = {"type": "object", "properties": fields}
    more = {"type": "object", "properties": {"z": {"type": "string", "pattern": "[0-9]{20}"}}}
    assert compiled({"allOf": [base, more]})
    assert compiled({"anyOf": [{"type": "string", "pattern": f"x{{{i}}}.{{50}}"} for i in range(9)]})
    assert compiled({"type": "string", "allOf": [{"pattern": "^.{8,30}$"}, {"pattern": "[0-9]"}, {"pattern": "[a-z]"}]})
    node: dict[str, Any] = {"$ref": "#/$defs/node"}
    tree = {"type": "object", "properties": {"a": {"type": "string", "pattern": "x{9}"}, "b": node}, "required": ["a"]}
    assert compiled({"$defs": {"node": tree}, **node})
    for keyword in ("allOf", "anyOf"):  # each part refers to the next one twice
        chain: dict[str, Any] = {f"d{i}": {keyword: [{"$ref": f"#/$defs/d{i + 1}"}] * 2} for i in range(25)}
        chain["d25"] = {"type": "object", "properties": {"a": {"const": 1}}}
        assert compiled({"$defs": chain, "$ref": "#/$defs/d0"})
    wide = {
        name: {"type": "object", "properties": {one: {"$ref": f"#/$defs/{one}"} for one in "abcd"}} for name in "abc"
    }
    wide["d"] = {"type": "object", "properties": fields}
    assert compiled({"$defs": wide, "$ref": "#/$defs/a"})


def nested(levels: int) -> Any:
    schema: Any = {"type": "string"}
    for _ in range(levels):
        schema = {"items": schema}
    return schema


def test_sizes_are_bounded_before_anything_is_compiled(monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setitem(sys.modules, "llguidance", None)
    assert "bytes" in refused(lambda: Grammar.json_schema({"enum": ["x" * (1 << 20)]}))
    assert "bytes" in refused(lambda: Grammar.json_schema('{"enum": ["' + "x" * (1 << 20) + '"]}'))
    assert "bytes" in refused(lambda: Grammar.regex("x" * (MOST_BYTES + 1)))
    assert "bytes" in refused(lambda: Grammar.lark('start: "' + "é" * MOST_BYTES + '"'))
    assert "bytes" in refused(lambda: Grammar.choice(["x" * MOST_BYTES, "y"]))
    assert Grammar.json_schema(nested(MOST_DEPTH - 2))
    for levels in (MOST_DEPTH, 300):
        assert "deeper" in refused(lambda levels=levels: Grammar.json_schema(nested(levels)))
    for text in ('{"a":' * 10_000 + "1" + "}" * 10_000, "[" * 10_000, nested(10_000)):
        assert "deep" in refused(lambda text=text: Grammar.json_schema(text))
    assert "values" in refused(lambda: Grammar.json_schema({"enum": [0] * 20_000}))
    for pattern in (
        "(a{1000}){1000}",
        "a{99999999999999999999}",
        "((((a{9}){9}){9}){9}){9}",
        "(" * 5000 + "a" + "){3}" * 5000,
        "[]a{]{20000}",
        r"\{{20000}",
        "(?:a|b{3,20000})",
        "(a{5000}b{5000}){2}",
    ):
        assert "unfolds" in refused(lambda pattern=pattern: Grammar.regex(pattern)), pattern
        assert "unfolds" in refused(lambda pattern=pattern: Grammar.lark(f"start: /{pattern}/")), pattern
    assert "llama.cpp" in refused(lambda: Grammar.lark("root ::= " + '"a" ' * 2000))
    chain = "".join(f"r{i}: r{i + 1}\n" for i in range(1000))
    assert "rules" in refused(lambda: Grammar.lark(f'start: r0\n{chain}r1000: "b"'))
    assert "branches" in refused(lambda: Grammar.lark("start: " + '"a" | ' * 5000 + '"b"'))
    parts: Any = {f"d{i}": {"allOf": [{"$ref": f"#/$defs/d{i + 1}"}]} for i in range(1000)} | {"d1000": {}}
    assert "$ref" in refused(lambda: Grammar.json_schema({"$defs": parts, "$ref": "#/$defs/d0"}))
    for schema, named in (
        ({"$defs": parts}, "$ref"),
        (nested(100), "deeper"),
        ({"pattern": "(a{999}){99}"}, "pattern"),
    ):
        text = f'start: "<" a ">"\na: %json {json.dumps(schema)}\n'
        assert named in refused(lambda text=text: Grammar.lark(text))
    assert "deep" in refused(lambda: Grammar.lark("start: %json " + "[" * 30_000))
    text = "start: a\na: %json " + json.dumps({"properties": {f"p{i}": {} for i in range(450)}}) + '\nb: "%json {"'
    assert Grammar.lark(text).text == text
    assert "repeated" in refused(lambda: Grammar.lark('start: "a"~1..1000000'))
    for pattern in ("[a-z]{2000}", "(a{30}){30}", r"\d{3}-\d{4}", "a{", "a{x}", "[{}]{5}", "a{,5}", "(((", ")a{5}"):
        assert Grammar.regex(pattern).text == pattern
    text = 'start: "a{99999}b" // {99999}\nA: /x{3}/'
    assert Grammar.lark(text).text == text


def test_without_the_library_one_line_says_what_to_install(monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setitem(sys.modules, "llguidance", None)
    compiler = GrammarCompiler(VOCABULARY)
    compiler.warm()
    text = refused(lambda: compiler.compile(Grammar.regex("a")))
    assert text == (
        "structured_outputs needs the library llguidance, which isn't installed here: pip install 'cutset[structured]'"
    )


def test_a_tokenizer_whose_texts_are_no_sums_is_refused() -> None:
    compiler = GrammarCompiler(Vocabulary(61, lambda: None, (), (60,), VOCABULARY.encode))
    compiler.warm()
    for _ in range(2):
        assert "tokenizer" in refused(lambda: compiler.compile(Grammar.regex("a")))


def test_compiled_grammars_are_kept_and_the_oldest_go() -> None:
    compiler = GrammarCompiler(VOCABULARY)
    grammars = [Grammar.regex(f"a{{{i + 1}}}b") for i in range(KEPT + 5)]
    found = [compiler.compile(grammar) for grammar in grammars]
    assert compiler.compile(grammars[-1]) is found[-1]
    assert compiler.kept(Grammar.regex(grammars[-1].text, asked="guided_regex")) is found[-1]
    assert compiler.kept(grammars[0]) is None
    assert sum(compiler.kept(grammar) is not None for grammar in grammars) == KEPT
    large = [Grammar.choice([f"{i}" + "ab" * 20_000]) for i in range(10)]
    for grammar in large:
        refused_or_kept(compiler, grammar)
    assert compiler._kept.nbytes <= 4 << 20


def refused_or_kept(compiler: GrammarCompiler, grammar: Grammar) -> None:
    try:
        compiler.compile(grammar)
    except RequestError:
        return


def test_threads_may_compile_and_begin_at_once() -> None:
    compiler, wrong = GrammarCompiler(VOCABULARY), list[BaseException]()

    def work(number: int) -> None:
        try:
            for i in range(20):
                matcher = compiler.compile(Grammar.regex(f"a{{{(i + number) % 7 + 1}}}b")).begin()
                assert matcher.consume_tokens(VOCABULARY.encode("a" * ((i + number) % 7 + 1) + "b"))
                assert matcher.is_accepting()
        except BaseException as error:
            wrong.append(error)

    threads = [threading.Thread(target=work, args=(number,)) for number in range(4)]
    for one in threads:
        one.start()
    for one in threads:
        one.join()
    assert not wrong


def test_every_token_that_writes_what_may_come_may_be_drawn() -> None:
    matcher = COMPILER.compile(Grammar.regex("[a-z0-9 ]+")).begin()
    import numpy as np

    mask = np.frombuffer(matcher.compute_bitmask(), np.uint32)
    tokens = VOCABULARY.written()
    assert tokens is not None
    fitting = [i for i, one in enumerate(tokens) if re.fullmatch(b"[a-z0-9 ]+", one)]
    assert allowed_ids(mask, 61).tolist() == fitting
    assert has(mask, fitting[3])
    assert not has(mask, 60)
    assert allowed_ids(bits_of([3, 60, 31, 32], 61), 61).tolist() == [3, 31, 32, 60]
