"""Calls as JSON behind a mark: Hermes and Qwen, Granite, Phi."""

from __future__ import annotations

from typing import ClassVar

from cutset.models.calls.call_parser import CallParser, CallShape, Malformed, Scan
from cutset.models.calls.json_scan import json_call, json_calls

__all__ = ["GraniteCalls", "HermesCalls", "PhiCalls"]


class HermesCalls(CallParser):
    """`<tool_call>{"name": …, "arguments": {…}}</tool_call>`, once for each call: Hermes, Qwen2.5 and 3, SmolLM3,
    Granite 4, MiniMind."""

    opens: ClassVar[tuple[str, ...]] = ("<tool_call>",)
    closes: ClassVar[str] = "</tool_call>"
    markers: ClassVar[frozenset[str]] = frozenset({"</tool_call>"})
    shape: ClassVar[CallShape] = CallShape("<tool_call>", first="\n", last="\n</tool_call>", between="\n", each=True)

    def _call(self, opener: str) -> Scan[None]:
        if (yield from self.space()) == "[":
            yield from json_calls(self)
            yield from self.space()
            yield from self._close()
            self._raw = []
            return
        yield from json_call(self)
        yield from self.space()
        yield from self._close()
        self.done()

    def _close(self) -> Scan[None]:
        """The mark at the end, which may be missing where the text ends."""
        if not (yield from self.peek()):
            return
        yield from self.expect(self.closes)


class GraniteCalls(CallParser):
    """`<|tool_call|>[{"name": …, "arguments": {…}}, …]`: Granite 3."""

    opens: ClassVar[tuple[str, ...]] = ("<|tool_call|>", "<tool_call>")
    markers: ClassVar[frozenset[str]] = frozenset({"</tool_call>"})
    shape: ClassVar[CallShape] = CallShape("<|tool_call|>", first="[", last="]")

    @classmethod
    def shape_in(cls, template: str) -> CallShape:
        """By the mark that the template has."""
        return cls.shape if cls.shape.opens in template else CallShape("<tool_call>", first="[", last="]")

    def _call(self, opener: str) -> Scan[None]:
        yield from json_calls(self)
        if opener == "<tool_call>" and (yield from self.space()) == "<":
            yield from self.expect("</tool_call>")


class PhiCalls(CallParser):
    """`<|tool_call|>[{"name": …, "arguments": {…}}, …]<|/tool_call|>`: Phi-4-mini."""

    opens: ClassVar[tuple[str, ...]] = ("<|tool_call|>", "functools")
    markers: ClassVar[frozenset[str]] = frozenset({"<|/tool_call|>"})
    shape: ClassVar[CallShape] = CallShape("<|tool_call|>", first="[", last="]<|/tool_call|>")

    def _call(self, opener: str) -> Scan[None]:
        if opener == "functools" and (yield from self.space()) != "[":
            raise Malformed
        yield from json_calls(self)
        if opener != "functools" and (yield from self.space()) == "<":
            yield from self.expect("<|/tool_call|>")
