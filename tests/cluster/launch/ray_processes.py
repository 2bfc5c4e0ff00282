"""A real Ray cluster for tests, in a process of its own, so that no test loads Ray."""

from __future__ import annotations

import sys
from pathlib import Path
from typing import Any

from cutset.link.launch import PIPE, Child, environment

__all__ = ["TOKEN", "Nodes"]

TOKEN = "9f" * 32


class Nodes:
    """Nodes of two processors each, and a head with none (see `ray_nodes`)."""

    def __init__(self, count: int, env: dict[str, str]) -> None:
        here = Path(__file__).parents[2]
        env = environment() | {"PYTHONPATH": str(here)} | env
        self._child = Child(
            "nodes",
            [str(here / "cluster" / "launch" / "ray_nodes.py"), str(count)],
            own=False,
            env=env,
            prefix=[sys.executable],
            stdin=PIPE,
            stdout=PIPE,
            stderr=None,
        )
        started = self._child.answer()
        self.address: str = started["address"]
        self.logs = Path(started["logs"])  # of all nodes

    def do(self, **what: Any) -> dict[str, Any]:
        self._child.ask(what)
        return self._child.answer()

    def close(self) -> None:
        self._child.end(20.0)
