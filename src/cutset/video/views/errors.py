"""How far predictions are off, by picture and layer: the trained model beside the last picture."""

from __future__ import annotations

from collections.abc import Mapping
from typing import Any

import numpy as np

from cutset.errors import RequestError
from cutset.video.sparsity.changes import Changes
from cutset.video.sparsity.predictor import Trained
from cutset.video.views.figure import layers_below

__all__ = ["draw", "errors"]


def errors(changes: Changes, trained: Trained) -> dict[str, Any]:
    """Absolute errors of changed fractions (pictures, layers), of both predictors, from the second picture on.

    Raises RequestError for a model of another network.
    """
    if trained.graph != changes.graph:
        raise RequestError("the sparsity model is of another network or picture size than the measurement")
    if len(changes.pictures) < 2:
        raise RequestError("prediction errors take three pictures at least")
    truth = changes.fractions.astype(np.float64)
    said = trained.propagate(changes.features)
    ours = np.abs(np.stack([said[name].mean(axis=1) for name in changes.names], axis=1) - truth)[1:]
    last = np.abs(np.diff(truth, axis=0))
    last[:, 0] = 0.0  # the picture itself is known
    return {
        "view": "errors",
        "title": f"Prediction errors by picture and layer: {changes.source or 'a source'}",
        "seen": trained.errors.seen if trained.source == changes.source else None,
        "layers": list(changes.names),
        "pictures": changes.pictures[1:].tolist(),
        "trained": ours.tolist(),
        "last picture": last.tolist(),
        "size": (min(max(9.0, 2 + 0.24 * len(changes.names)), 18.0), 8.0),
    }


def draw(figure: Any, data: Mapping[str, Any]) -> None:
    top, bottom = figure.subplots(2, 1, sharex=True)
    most = max(float(np.percentile(data[key], 99)) for key in ("trained", "last picture")) or 1.0
    shades = None
    seen = data["seen"]
    first, last = data["pictures"][0], data["pictures"][-1]
    for axes, key in ((top, "trained"), (bottom, "last picture")):
        table = np.array(data[key])
        extent = (-0.5, table.shape[1] - 0.5, first - 0.5, last + 0.5)
        shades = axes.imshow(
            table,
            origin="lower",
            aspect="auto",
            extent=extent,
            cmap="magma_r",
            vmin=0,
            vmax=most,
            interpolation="nearest",
        )
        held = table[np.array(data["pictures"]) > (seen or 0)]
        words = f"{key}: off by {100 * (held if held.size else table).mean():.1f} % in the mean"
        if seen and first <= seen < last:
            axes.axhline(seen + 0.5, color="grey", lw=1)
            words += f" of the pictures after {seen}, which the training hasn't seen"
        axes.set_title(words)
        axes.set_ylabel("picture")
        axes.grid(visible=False)
    layers_below(bottom, data["layers"])
    figure.colorbar(shades, ax=[top, bottom], label="absolute error of the changed fraction", pad=0.01, extend="max")
