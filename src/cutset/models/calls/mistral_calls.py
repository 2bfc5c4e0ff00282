"""Mistral's calls, older and newer."""

from __future__ import annotations

import os
from typing import ClassVar

from cutset.models.calls.call_parser import CallParser, CallShape, Malformed, Scan
from cutset.models.calls.json_scan import json_calls, json_value

__all__ = ["MistralCalls"]

LETTERS = "ABCDEFGHIJKLMNOPQRSTUVWXYZabcdefghijklmnopqrstuvwxyz0123456789"


class MistralCalls(CallParser):
    """`[TOOL_CALLS][{"name": …, "arguments": {…}}, …]`, or for each call `[TOOL_CALLS]NAME[ARGS]{…}`, where
    `[CALL_ID]…` may stand between."""

    opens: ClassVar[tuple[str, ...]] = ("[TOOL_CALLS]",)
    markers: ClassVar[frozenset[str]] = frozenset({"[ARGS]", "[CALL_ID]"})

    shape: ClassVar[CallShape] = CallShape("[TOOL_CALLS]", first="[", last="]")

    @classmethod
    def shape_in(cls, template: str) -> CallShape:
        """The newer one, if the template has it."""
        newer = CallShape("[TOOL_CALLS]", call=("", "[ARGS]", ""), between="", each=True)
        return newer if "[ARGS]" in template else cls.shape

    @staticmethod
    def call_id() -> str:
        """Nine letters and digits: templates refuse other ids."""
        return "".join(LETTERS[byte % len(LETTERS)] for byte in os.urandom(9))

    def _call(self, opener: str) -> Scan[None]:
        if (yield from self.space()) in ("[", "{"):
            yield from json_calls(self)
            return
        name = yield from self.word("-.")
        if (yield from self.peek()) == "[":
            yield from self.expect("[")
            if (yield from self.peek()) == "C":
                yield from self.expect("CALL_ID]")
                yield from self.word("-")
                yield from self.expect("[")
            yield from self.expect("ARGS]")
        if not name or (yield from self.space()) != "{":
            raise Malformed
        self.begin(name)
        yield from json_value(self, self.give)
        self.done()
