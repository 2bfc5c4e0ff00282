"""Calls with a tag around every argument: Qwen3-Coder and Qwen3.5, GLM-4.5."""

from __future__ import annotations

import json
from collections.abc import Mapping
from typing import Any, ClassVar

from cutset.models.calls.call_parser import CallParser, CallShape, Malformed, Scan
from cutset.models.calls.json_scan import as_json, json_call, json_text, strict_json

__all__ = ["GlmCalls", "QwenCoderCalls"]


class _TaggedCalls(CallParser):
    """What both need: a text between tags becomes the JSON value that the tool's schema wants."""

    shape: ClassVar[CallShape] = CallShape("<tool_call>", first="\n", last="\n</tool_call>", between="\n", each=True)
    _before = ""  # a further argument

    def _json(self) -> Scan[None]:
        """A call as JSON, which is what a grammar makes."""
        yield from json_call(self)
        if (yield from self.space()):
            yield from self.expect("</tool_call>")
        self.done()

    def _arguments(self, name: str) -> Scan[None]:
        """Begins a call and takes its arguments, up to the `<` of the tag that closes them."""
        self.begin(name)
        self.give("{")
        self._before = ""
        while True:
            yield from self.space()
            yield from self.expect("<")
            if (yield from self.peek()) == "/":
                return
            yield from self._tagged(name)

    def _tagged(self, name: str) -> Scan[None]:
        """Takes an argument whose tag has been opened."""
        raise NotImplementedError

    def _argument(self, name: str, key: str, closer: str, *, trimmed: bool) -> Scan[None]:
        """Takes a value and its closing tag. A string is given while it comes. `trimmed`: without the line breaks that
        stand right inside the tags."""
        if not key:
            raise Malformed
        if trimmed and (yield from self.peek()) == "\n":
            self.pop()
        self.give(f"{self._before}{json.dumps(key, ensure_ascii=False)}: ")
        self._before = ", "
        kinds = _kinds(self.tools.get(name, {}), key)
        if kinds != {"string"}:
            parts: list[str] = []
            yield from self.until(closer, parts.append)
            self.give(_as_json("".join(parts), kinds, trimmed))
            return
        self.give('"')
        held = ""  # a line break that may be the last

        def give(character: str) -> None:
            nonlocal held
            self.give(json_text(held + character) if character != "\n" or not trimmed else json_text(held))
            held = "\n" if trimmed and character == "\n" else ""

        yield from self.until(closer, give)
        self.give('"')


class QwenCoderCalls(_TaggedCalls):
    """`<tool_call><function=NAME><parameter=KEY>VALUE</parameter>…</function></tool_call>`: Qwen3-Coder, Qwen3.5."""

    opens: ClassVar[tuple[str, ...]] = ("<tool_call>", "<function=")
    markers: ClassVar[frozenset[str]] = frozenset({"</tool_call>"})

    def _call(self, opener: str) -> Scan[None]:
        if opener == "<tool_call>":
            if (yield from self.space()) == "{":
                yield from self._json()
                return
            yield from self.expect("<function=")
        name = yield from self.word(".-")
        yield from self.expect(">")
        yield from self._arguments(name)
        yield from self.expect("/function>")
        if opener == "<tool_call>" and (yield from self.space()):
            yield from self.expect("</tool_call>")
        self.give("}")
        self.done()

    def _tagged(self, name: str) -> Scan[None]:
        yield from self.expect("parameter=")
        key: list[str] = []
        yield from self.until(">", key.append)
        yield from self._argument(name, "".join(key), "</parameter>", trimmed=True)


class GlmCalls(_TaggedCalls):
    """`<tool_call>NAME<arg_key>KEY</arg_key><arg_value>VALUE</arg_value>…</tool_call>`: GLM-4.5 and later."""

    opens: ClassVar[tuple[str, ...]] = ("<tool_call>",)
    markers: ClassVar[frozenset[str]] = frozenset(
        {"</tool_call>", "<arg_key>", "</arg_key>", "<arg_value>", "</arg_value>"}
    )

    def _call(self, opener: str) -> Scan[None]:
        if (yield from self.space()) == "{":
            yield from self._json()
            return
        name = yield from self.word(".-")
        if (yield from self.space()) != "<":
            raise Malformed
        yield from self._arguments(name)
        yield from self.expect("/tool_call>")
        self.give("}")
        self.done()

    def _tagged(self, name: str) -> Scan[None]:
        yield from self.expect("arg_key>")
        key: list[str] = []
        yield from self.until("</arg_key>", key.append)
        yield from self.space()
        yield from self.expect("<arg_value>")
        yield from self._argument(name, "".join(key).strip(), "</arg_value>", trimmed=False)


def _kinds(schema: Mapping[str, Any], key: str) -> set[str]:
    """The types that a schema allows for an argument; none where it doesn't say."""
    properties = schema.get("properties")
    wanted = properties.get(key) if isinstance(properties, Mapping) else None
    if not isinstance(wanted, Mapping):
        return set()
    kind = wanted.get("type")
    if isinstance(kind, str):
        return {kind}
    if isinstance(kind, list):
        return {one for one in kind if isinstance(one, str)}
    values = wanted.get("enum")
    return {"string"} if isinstance(values, list) and all(isinstance(one, str) for one in values) else set()


def _as_json(text: str, kinds: set[str], trimmed: bool) -> str:
    """A text that isn't certainly a string, as JSON: what it says as JSON or Python has it, or else the text."""
    stripped = text.strip()
    stripped = {"True": "true", "False": "false", "None": "null"}.get(stripped, stripped)
    try:
        value = strict_json(stripped)
        if not (isinstance(value, str) and "string" not in kinds and kinds):
            return as_json(value)
    except (ValueError, RecursionError):  # a text; or a number beyond all, which can't be written as one
        pass
    return json.dumps(text[: -1 if trimmed and text.endswith("\n") else None], ensure_ascii=False)
