"""The child's side of a benchmark: a process that answers JSON commands from stdin, one a line, with a line each.

It imports the standard library alone, because the Python of another program loads this file by its path.
"""

from __future__ import annotations

import json
import statistics
import sys
import traceback
from collections.abc import Callable
from typing import Any

__all__ = ["answer_commands", "prompt_ids", "rss_bytes", "timed"]


def answer_commands(open_system: Callable[[], Any], perform: Callable[[Any, str, dict[str, Any]], Any]) -> None:
    """Opens a system, says so, and answers `{"do": NAME, …}` with what `perform(system, NAME, arguments)` returns.

    The first answer has the opponent's `versions` and the resident bytes before (`rss_before`) and after (`rss`).
    A failure is answered by `error`, and ends the process; what the system can't do, by `missing`.
    """
    channel, sys.stdout = sys.stdout, sys.stderr  # what libraries print isn't an answer

    def answer(content: dict[str, Any]) -> None:
        channel.write(json.dumps(content) + "\n")
        channel.flush()

    try:
        before = rss_bytes()
        system = open_system()
        answer({"versions": getattr(system, "versions", {}), "rss": rss_bytes(), "rss_before": before})
        for line in sys.stdin:
            command = json.loads(line)
            try:
                answer(perform(system, command.pop("do"), command))
            except NotImplementedError as error:
                answer({"missing": str(error)})
        if hasattr(system, "close"):
            system.close()
    except Exception as error:  # an opponent that can't run this is a finding, not an end
        traceback.print_exc()
        answer({"error": f"{type(error).__name__}: {error}"})


def timed(system: Any, do: str, arguments: dict[str, Any]) -> dict[str, Any]:
    """Calls the method `do` of a system; `seconds` of the work. A forward pass is short: it is repeated within the
    round, and the median counts. `logits` aren't timed: they are the answer; those of all positions of a text go into
    the `file` that `answers` is given."""
    if do == "logits":
        return {"logits": system.logits(**arguments)}
    if do == "answers":
        system.answers(**arguments)
        return {}
    if do != "forward":
        return {"seconds": getattr(system, do)(**arguments)}
    repeat = arguments.pop("repeat")
    return {"seconds": statistics.median(system.forward(**arguments) for _ in range(repeat))}


def prompt_ids(count: int, vocab: int, start: int = 300) -> list[int]:
    """`count` token ids, the same for every system; ids below 3 are special."""
    return [3 + i % (vocab - 3) for i in range(start, start + count)]


def rss_bytes() -> int:
    """Resident memory of this process."""
    with open("/proc/self/statm") as file:
        return int(file.read().split()[1]) * 4096
