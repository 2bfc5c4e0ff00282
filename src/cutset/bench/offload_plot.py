"""Where the time of a split run goes, drawn as stacked bars."""

from __future__ import annotations

from pathlib import Path

from cutset.compare.results import Row
from cutset.offload.client.call_times import PARTS

__all__ = ["plot"]


def plot(rows: list[Row], path: Path) -> None:
    """One panel a workload, one bar a system, one colour a part, in ms. Raises DeviceError without matplotlib."""
    try:
        import matplotlib

        matplotlib.use("Agg")
        from matplotlib import pyplot
        from matplotlib.patches import Patch
    except ImportError:
        from cutset.errors import DeviceError

        raise DeviceError("drawing needs matplotlib: pip install 'cutset[bench]'") from None
    found = {
        (row.workload, row.system, row.metric.removeprefix("time in ")): row.value
        for row in rows
        if row.metric.startswith("time in ")
    }
    pads = {(row.workload, row.system): row.value for row in rows if row.metric == "client CPU, pads made ahead"}
    totals = {(row.workload, row.system): row.value for row in rows if row.metric == "total"}
    workloads = list(dict.fromkeys(workload for workload, _, _ in found))
    figure, panels = pyplot.subplots(len(workloads), 1, figsize=(9, 1 + 2.6 * len(workloads)), squeeze=False)
    palette = matplotlib.colormaps["tab10"]
    colours = {part: palette(number) for number, part in enumerate(PARTS)}
    for panel, workload in zip(panels[:, 0], workloads, strict=True):
        systems = [system for name, system in totals if name == workload]
        for place, system in enumerate(systems):
            start = 0.0
            for part in PARTS:
                value = found.get((workload, system, part), 0.0)
                panel.barh(place, value, left=start, color=colours[part])
                start += value
            if ahead := pads.get((workload, system)):  # CPU time, before the run, but not for nothing
                panel.barh(place, ahead, left=start, color="none", edgecolor="grey", hatch="///")
            if start == 0:  # a local run: no parts
                panel.barh(place, totals[workload, system], color="lightgrey")
        panel.set_yticks(range(len(systems)), [system.removeprefix("cutset ") for system in systems])
        panel.invert_yaxis()
        panel.set_xlabel("ms")
        panel.set_title(workload.removeprefix("offload "), loc="left")
    handles = [Patch(color=colours[part]) for part in PARTS]
    handles += [Patch(facecolor="none", edgecolor="grey", hatch="///"), Patch(color="lightgrey")]
    figure.legend(handles, [*PARTS, "pads, made ahead", "run here"], loc="outside upper center", ncols=6, fontsize=8)
    figure.set_layout_engine("constrained")
    figure.savefig(path, dpi=120)
    pyplot.close(figure)
