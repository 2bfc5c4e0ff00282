"""Where the time of a split run goes, drawn as stacked bars."""

from __future__ import annotations

from collections.abc import Mapping, Sequence
from pathlib import Path
from typing import Any

from cutset.compare.results import Row
from cutset.offload.client.call_times import PARTS
from cutset.video.views.figure import save

__all__ = ["plot"]


def plot(rows: Sequence[Row], path: Path) -> None:
    """One panel a workload, one bar a system, one colour a part, in ms. Raises DeviceError without matplotlib."""
    workloads = list(dict.fromkeys(row.workload for row in rows if row.metric.startswith("time in ")))
    size = (9, 1.4 + 2.6 * len(workloads))
    save(_draw, {"title": "Where the time goes", "size": size, "rows": rows, "workloads": workloads}, path)


def _draw(figure: Any, data: Mapping[str, Any]) -> None:
    from matplotlib import colormaps
    from matplotlib.patches import Patch

    values = {(row.workload, row.system, row.metric): row.value for row in data["rows"]}
    workloads = data["workloads"]
    panels = figure.subplots(len(workloads), 1, squeeze=False)
    colours = {part: colormaps["tab10"](number) for number, part in enumerate(PARTS)}
    for panel, workload in zip(panels[:, 0], workloads, strict=True):
        systems = [system for name, system, metric in values if name == workload and metric == "total"]
        for place, system in enumerate(systems):
            start = 0.0
            for part in PARTS:
                value = values.get((workload, system, f"time in {part}"), 0.0)
                panel.barh(place, value, left=start, color=colours[part])
                start += value
            if ahead := values.get(
                (workload, system, "client CPU, pads made ahead")
            ):  # before the run, not for nothing
                panel.barh(place, ahead, left=start, color="none", edgecolor="grey", hatch="///")
            if start == 0:  # a local run: no parts
                panel.barh(place, values[workload, system, "total"], color="lightgrey")
        panel.set_yticks(range(len(systems)), [system.removeprefix("cutset ") for system in systems])
        panel.invert_yaxis()
        panel.set_xlabel("ms")
        panel.set_title(workload.removeprefix("offload "))
    handles = [Patch(color=colours[part]) for part in PARTS]
    handles += [Patch(facecolor="none", edgecolor="grey", hatch="///"), Patch(color="lightgrey")]
    figure.legend(handles, [*PARTS, "pads, made ahead", "run here"], loc="outside lower center", ncols=6, fontsize=8)
