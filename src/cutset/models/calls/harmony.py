"""gpt-oss's messages in channels: reasoning, calls and the answer."""

from __future__ import annotations

import re
from typing import ClassVar

from cutset.models.calls.call_parser import CallParser, Malformed, Scan
from cutset.models.calls.json_scan import json_value

__all__ = ["HarmonyCalls"]

ENDS = ("<|end|>", "<|call|>", "<|return|>", "<|start|>")
MOST_HEADER = 1000  # characters
RECIPIENT = re.compile(r"(?:^|\s)to=functions\.([A-Za-z0-9_.-]+)")


class HarmonyCalls(CallParser):
    """`<|channel|>analysis<|message|>…<|end|><|start|>assistant<|channel|>commentary to=functions.NAME
    <|constrain|>json<|message|>{…}<|call|>`, and `final` for the answer. Commentary to nobody is for the user too."""

    opens: ClassVar[tuple[str, ...]] = ("<|channel|>",)
    markers: ClassVar[frozenset[str]] = frozenset({*ENDS, "<|message|>", "<|constrain|>"})
    reads_reasoning: ClassVar[bool] = True

    def _answer(self) -> Scan[None]:
        while (yield from self.space()):
            yield from self._try(self._message())
            if self._called or self._left:
                continue
            # It had no header, or a call's arguments are none: text up to the next message.
            yield from self._text(self.content)
        if not self._called:
            self.content("".join(self._raw))

    _left = False  # the message has been read to its end

    def _message(self) -> Scan[None]:
        """One message, or rather its channel and what follows; who writes it was in the prompt, or comes first."""
        self._left = self._called = False
        header = yield from self._header()
        named = RECIPIENT.search(header)
        if named is not None:
            if not self.tools:  # nobody has offered one
                raise Malformed
            self.begin(named[1])
            if (yield from self.space()) != "{":
                raise Malformed
            yield from json_value(self, self.give)
            yield from self.space()
            yield from self._end_of_call()
            self.done()
            self._left = True
            return
        channel = re.search(r"<\|channel\|>\s*(\w+)", header)
        self._raw = []
        yield from self._text(self.reasoning if channel is not None and channel[1] == "analysis" else self.content)
        self._left = True

    def _header(self) -> Scan[str]:
        """What stands before `<|message|>`."""
        parts: list[str] = []
        if (yield from self.peek()) == "<":
            yield from self.expect("<|")
            if (yield from self.peek()) == "s":
                yield from self.expect("start|>")
                yield from self.word(".-")
            else:
                yield from self.expect("channel|>")
                parts.append("<|channel|>")
        elif (yield from self.peek()) == "t":  # ` to=functions.NAME`
            yield from self.expect("to=")
            parts.append("to=")
        elif (yield from self.peek()) == "a":  # where the prompt didn't say who writes
            yield from self.expect("assistant")
        else:
            raise Malformed

        def give(text: str) -> None:
            parts.append(text)
            if len(parts) > MOST_HEADER:
                raise Malformed

        yield from self.until("<|message|>", give)
        return "".join(parts)

    def _end_of_call(self) -> Scan[None]:
        """`<|call|>`, which ends the answer and so may not be seen; or the beginning of another message."""
        if not (yield from self.peek()):
            return
        yield from self.expect("<|")
        for end in ("call|>", "end|>", "return|>"):
            if (yield from self.peek()) == end[0]:
                yield from self.expect(end)
                return
        yield from self.expect("start|>")
        yield from self.word(".-")

    def _text(self, give: object) -> Scan[None]:
        """Text up to the end of the message."""
        part = ""
        assert callable(give)
        while character := (yield from self.peek()):
            self._next = ""
            part += character
            while part and not any(end.startswith(part) for end in ENDS):
                give(part[0])
                part = part[1:]
            if part in ENDS and part:
                if part == "<|start|>":
                    yield from self.word(".-")
                self._raw = []
                return
        give(part)
        self._raw = []
