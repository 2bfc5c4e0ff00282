"""Seconds by layer of several workers: each layer's, and added up."""

from __future__ import annotations

from collections.abc import Mapping, Sequence
from typing import Any

import numpy as np

from cutset.errors import RequestError
from cutset.video.views.figure import COLOURS, layers_below

__all__ = ["costs", "draw"]


def costs(layers: Sequence[str], workers: Mapping[str, Sequence[float]]) -> dict[str, Any]:
    """`workers`: of each the seconds of every layer. Raises RequestError where they are none or other ones."""
    for name, seconds in workers.items():
        if len(seconds) != len(layers):
            raise RequestError(f"{name} has times of {len(seconds)} layers; the network has {len(layers)}")
    if not workers:
        raise RequestError("no worker's times were given")
    return {
        "view": "costs",
        "title": "Time by layer: " + ", ".join(f"{name} {sum(s) * 1e3:,.0f} ms" for name, s in workers.items()),
        "layers": list(layers),
        "workers": {name: [float(s) for s in seconds] for name, seconds in workers.items()},
        "size": (min(max(9.0, 2 + 0.24 * len(layers)), 18.0), 7.5),
    }


def draw(figure: Any, data: Mapping[str, Any]) -> None:
    top, bottom = figure.subplots(2, 1, sharex=True)
    count = len(data["workers"])
    for k, (name, seconds) in enumerate(data["workers"].items()):
        places, colour = np.arange(len(seconds)), COLOURS[k % len(COLOURS)]
        width = 0.8 / count
        top.bar(places + (k - (count - 1) / 2) * width, np.array(seconds) * 1e3, width, color=colour, label=name)
        bottom.step(places, np.cumsum(seconds) * 1e3, where="mid", color=colour, lw=1.4)
    top.set_ylabel("ms a layer")
    bottom.set_ylabel("ms up to there")
    top.legend(loc="upper left", ncols=min(count, 6), bbox_to_anchor=(0, 1.2))
    layers_below(bottom, data["layers"])
