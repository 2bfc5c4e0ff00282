"""Latency and throughput of several runs, by the number of pictures in flight."""

from __future__ import annotations

from collections.abc import Mapping
from typing import Any

import numpy as np

from cutset.video.views.figure import BLUE, ORANGE
from cutset.video.views.runs import Run

__all__ = ["draw", "latency"]


def latency(runs: Mapping[str, Run]) -> dict[str, Any]:
    """One row a run, in order of the number in flight. Seconds."""
    rows = [
        {
            "run": name,
            "in_flight": run.in_flight,
            "pictures": len(run.latencies),
            "latency": {str(p): float(np.percentile(run.latencies, p)) for p in (10, 50, 90)},
            "throughput": run.throughput,
        }
        for name, run in sorted(runs.items(), key=lambda item: item[1].in_flight)
    ]
    return {"view": "latency", "title": "Latency and throughput by pictures in flight", "rows": rows, "size": (9, 5)}


def draw(figure: Any, data: Mapping[str, Any]) -> None:
    axes = figure.add_subplot()
    places = np.arange(len(data["rows"]))
    middle = np.array([row["latency"]["50"] for row in data["rows"]]) * 1e3
    low = middle - np.array([row["latency"]["10"] for row in data["rows"]]) * 1e3
    high = np.array([row["latency"]["90"] for row in data["rows"]]) * 1e3 - middle
    axes.bar(places, middle, 0.55, color=BLUE, yerr=[low, high], ecolor="grey", capsize=4)
    axes.set_ylabel("from the last sending to the result, ms: median, 10 to 90 %", color=BLUE)
    axes.set_xticks(places, [f"{row['in_flight'] or '?'}\n{row['run'][-20:]}" for row in data["rows"]])
    axes.set_xlabel("pictures in flight, and the run")
    other = axes.twinx()
    other.plot(places, [row["throughput"] for row in data["rows"]], "o-", color=ORANGE)
    other.set_ylabel("pictures a second", color=ORANGE)
    other.set_ylim(0, None)
    other.grid(visible=False)
