"""Bytes by layer: the tensor as it is, deltas as measured, and as predicted."""

from __future__ import annotations

from collections.abc import Mapping
from typing import Any

import numpy as np

from cutset.video.sparsity.changes import Changes
from cutset.video.sparsity.predictor import Trained
from cutset.video.sparsity.sizes import delta_bytes
from cutset.video.views.figure import BLUE, GREEN, ORANGE, layers_below

__all__ = ["draw", "sizes"]


def sizes(changes: Changes, trained: Trained | None = None) -> dict[str, Any]:
    """Bytes of every value: `raw`, `measured` deltas (mean, and 10th and 90th percentile), and `predicted` (mean)."""
    values = changes.graph.values
    data: dict[str, Any] = {
        "view": "sizes",
        "title": f"Bytes by layer: {len(changes.pictures)} pictures of {changes.source or 'a source'}",
        "layers": list(changes.names),
        "raw": [value.nbytes for value in values.values()],
        "measured": changes.encoded.mean(axis=0).tolist(),
        "low": np.percentile(changes.encoded, 10, axis=0).tolist(),
        "high": np.percentile(changes.encoded, 90, axis=0).tolist(),
        "size": (min(max(9.0, 2 + 0.24 * len(values)), 18.0), 6.0),
    }
    if trained:
        said = trained.propagate(changes.features)
        data["predicted"] = [
            float(np.mean([delta_bytes(values[name], f, trained.mask[name]) for f in said[name].mean(axis=1)]))
            for name in changes.names
        ]
    return data


def draw(figure: Any, data: Mapping[str, Any]) -> None:
    axes = figure.add_subplot()
    places = np.arange(len(data["layers"]))
    kilo = {key: np.array(data[key]) / 1e3 for key in ("raw", "measured", "low", "high", "predicted") if key in data}
    axes.step(places, kilo["raw"], where="mid", color=GREEN, lw=1.3, label="as it is")
    axes.fill_between(places, kilo["low"], kilo["high"], step="mid", color=BLUE, alpha=0.25, lw=0)
    axes.step(places, kilo["measured"], where="mid", color=BLUE, lw=1.3, label="delta, measured (mean; 10 to 90 %)")
    if "predicted" in kilo:
        axes.plot(places, kilo["predicted"], "o", color=ORANGE, ms=3.5, label="delta, predicted")
    axes.set_yscale("log")
    axes.set_ylabel("kB a picture")
    layers_below(axes, data["layers"])
    axes.legend(loc="upper left", ncols=3, bbox_to_anchor=(0, 1.08))
