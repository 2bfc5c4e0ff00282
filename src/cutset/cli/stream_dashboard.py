"""`--dashboard`: a stream in a browser while it runs."""

from __future__ import annotations

import argparse
import contextlib
import math
import os
from collections.abc import Callable, Iterator
from typing import TYPE_CHECKING

from cutset.errors import ConfigError

if TYPE_CHECKING:
    from cutset.partition.live import LivePlanner
    from cutset.partition.plan import Plan
    from cutset.serve.feed import Explain, StreamFeed

__all__ = ["add_dashboard", "dashboard", "explainer"]

HERE = "127.0.0.1:8001"


def add_dashboard(parser: argparse._ActionsContainer) -> None:
    """Adds the flag."""
    parser.add_argument(
        "--dashboard",
        nargs="?",
        const=HERE,
        metavar="[HOST:]PORT",
        help=f"show the stream in a browser (default {HERE}); where others reach HOST, CUTSET_API_KEY is needed",
    )


@contextlib.contextmanager
def dashboard(where: str | None, tell: Callable[[str], None]) -> Iterator[StreamFeed | None]:
    """The feed of a dashboard that is served meanwhile, or None where none was asked for. Raises ConfigError."""
    if where is None:
        yield None
        return
    host, _, port = where.rpartition(":")
    if not (port.isascii() and port.isdigit() and int(port) < 1 << 16):
        raise ConfigError(f"--dashboard takes [HOST:]PORT, as {HERE}, not {where[:100]!r}")
    try:
        import starlette  # noqa: F401
        import uvicorn  # noqa: F401
    except ModuleNotFoundError:
        raise ConfigError("--dashboard needs a few packages more: pip install 'cutset[serve]'") from None
    from cutset.serve.auth import keys_from
    from cutset.serve.feed import StreamFeed
    from cutset.serve.panel import open_panel

    keys = keys_from([], variable=os.environ.get("CUTSET_API_KEY", ""))
    with open_panel(host.strip("[]") or "127.0.0.1", int(port), keys) as (hub, url):
        tell(f"dashboard at {url}/")
        yield StreamFeed(hub)


def explainer(planner: LivePlanner) -> Explain:
    """What a plan was expected to cost, and the other plans that there are, by what the planner knows then."""

    def explain(plan: Plan) -> tuple[float | None, list[tuple[str, float]]]:
        from cutset.partition.choices import compare
        from cutset.partition.cost import CostModel, per_item

        problem = planner.problem()
        others = {}
        for one in compare(problem):
            if one.cost is not None and one.name != plan.scheduler:
                others[f"{one.name}, not allowed" if one.why_not else one.name] = per_item(problem, one.cost)
        expected = per_item(problem, CostModel(problem).cost(plan))
        return expected, [(name, seconds) for name, seconds in others.items() if math.isfinite(seconds)]

    return explain
