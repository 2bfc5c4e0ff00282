"""Llama 3's calls: JSON that nothing need mark."""

from __future__ import annotations

from typing import ClassVar

from cutset.models.calls.call_parser import CallParser, CallShape, Scan
from cutset.models.calls.json_scan import json_call

__all__ = ["LlamaCalls"]


class LlamaCalls(CallParser):
    """`{"name": …, "parameters": {…}}` as the whole answer, or behind `<|python_tag|>`; several with `;` between.

    Only names that were offered make it a call: any other JSON is an answer.
    """

    opens: ClassVar[tuple[str, ...]] = ("<|python_tag|>",)
    shape: ClassVar[CallShape] = CallShape("", call=('{"name": "', '", "parameters": ', "}"), between="; ")

    def _answer(self) -> Scan[None]:
        if (yield from self.space()) == "{":
            yield from self._try(self._call(""))
        else:
            self.content("".join(self._raw))
        yield from super()._answer()

    def _call(self, opener: str) -> Scan[None]:
        while True:
            yield from self.space()
            yield from json_call(self, self.tools)
            self.done()
            if (yield from self.space()) not in (";", "{"):
                self._raw.clear()
                return
            if (yield from self.peek()) == ";":
                self.pop()
