"""GLM-4's calls: a line with the name, and the arguments below it."""

from __future__ import annotations

from typing import ClassVar

from cutset.models.calls.call_parser import CallParser, CallShape, Malformed, Scan
from cutset.models.calls.json_scan import json_value

__all__ = ["LineCalls"]


class LineCalls(CallParser):
    """`NAME`, a line break, `{…}`, at the beginning of the answer or of a line. Only names that were offered count."""

    shape: ClassVar[CallShape] = CallShape("", call=("", "\n", ""), between="\n")

    def _answer(self) -> Scan[None]:
        while (yield from self.space()):
            if (yield from self._try(self._call(""))):
                continue
            # What looked like a name has gone; so does the rest of the line.
            while (character := (yield from self.peek())) and character != "\n":
                self.content(self.pop())
            self._raw = []
        if not self._called:
            self.content("".join(self._raw))

    def _call(self, opener: str) -> Scan[None]:
        name = yield from self.word("-")
        if name not in self.tools:
            raise Malformed
        while (character := (yield from self.peek())) and character in " \r":
            self.pop()
        yield from self.expect("\n")
        if (yield from self.space()) != "{":
            raise Malformed
        self.begin(name)
        yield from json_value(self, self.give)
        self.done()
