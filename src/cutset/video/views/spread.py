"""A layer's changed fraction over the picture's: how well the amount alone says it, and how well the spread does."""

from __future__ import annotations

from collections.abc import Mapping, Sequence
from typing import Any

import numpy as np

from cutset.config import did_you_mean
from cutset.errors import RequestError
from cutset.video.sparsity.changes import Changes
from cutset.video.sparsity.features import TILES
from cutset.video.views.figure import BLUE, ORANGE

__all__ = ["draw", "spread"]

PANELS = 12  # layers that are shown where none is chosen
DEGREE = 3  # of the fitted polynomials


def spread(changes: Changes, layers: Sequence[str] = ()) -> dict[str, Any]:
    """For some layers (default: spread over the network) the points and a cubic fit over the share of changed pixels,
    and over the share of changed tiles of the size at which the fit is best. Raises RequestError for unknown layers.
    """
    for name in layers:
        if name not in changes.graph.values:
            raise RequestError(f"there is no layer {name!r}{did_you_mean(name, changes.graph.values)}")
    if not layers:
        made = changes.names[1:]
        layers = [made[k] for k in np.unique(np.linspace(0, len(made) - 1, PANELS).astype(int))]
    pixels = changes.changed[changes.names[0]].mean(axis=1)
    panels = []
    for name in layers:
        output = changes.fractions[:, changes.names.index(name)]
        over = {"pixels": pixels} | {f"{t}×{t} tiles": changes.tiles[:, k] for k, t in enumerate(TILES)}
        fits = {key: _fit(x, output) for key, x in over.items()}
        best = min(list(fits)[1:], key=lambda key: fits[key][1])
        panels.append(
            {
                "layer": name,
                "output": output.tolist(),
                "over": [
                    {"what": key, "input": over[key].tolist(), "fit": fits[key][0], "off": fits[key][1]}
                    for key in ("pixels", best)
                ],
            }
        )
    rows = -(-len(panels) // 4)
    return {
        "view": "spread",
        "title": f"Changed fraction of layers over that of the picture: {len(pixels)} pictures of "
        f"{changes.source or 'a source'}",
        "panels": panels,
        "size": (max(9.0, min(4, len(panels)) * 3.2 + 0.5), max(4.5, rows * 2.7 + 0.8)),
    }


def _fit(x: Any, y: Any) -> tuple[list[float], float]:
    """Coefficients of a polynomial, highest power first, and how far it is off in the mean."""
    degree = min(DEGREE, len(np.unique(x)) - 1)
    wide = np.asarray(x, np.float64)
    middle = np.vander(wide, degree + 1)
    coefficients = np.linalg.lstsq(middle, np.asarray(y, np.float64), rcond=None)[0]
    return coefficients.tolist(), float(np.abs(middle @ coefficients - y).mean())


def draw(figure: Any, data: Mapping[str, Any]) -> None:
    columns = min(4, len(data["panels"]))
    grid = figure.subplots(-(-len(data["panels"]) // columns), columns, squeeze=False, sharex=True, sharey=True)
    for axes, panel in zip(grid.flat, data["panels"], strict=False):
        for one, colour in zip(panel["over"], (BLUE, ORANGE), strict=True):
            label = f"{one['what']}: off by {100 * one['off']:.1f} %"
            axes.plot(one["input"], panel["output"], ".", ms=3, color=colour, alpha=0.5)
            line = np.linspace(min(one["input"]), max(one["input"]), 60)
            axes.plot(line, np.clip(np.polyval(one["fit"], line), 0, 1), color=colour, lw=1.3, label=label)
        axes.set_title(panel["layer"], fontsize=8)
        axes.legend(fontsize=6.5, loc="lower right", handlelength=1)
        axes.set_xlim(-0.02, 1.02)
        axes.set_ylim(-0.02, 1.02)
    for axes in list(grid.flat)[len(data["panels"]) :]:
        axes.set_visible(False)
    figure.supxlabel("changed share of the picture: pixels, or tiles in which something changed", fontsize=9)
    figure.supylabel("changed fraction of the layer's output", fontsize=9)
