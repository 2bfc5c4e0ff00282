"""Changed fraction by layer: of all pictures, by channel of one picture, and between two given pictures."""

from __future__ import annotations

from collections.abc import Mapping
from typing import Any

import numpy as np

from cutset.errors import RequestError
from cutset.video.sparsity.changes import Changes
from cutset.video.views.figure import BLUE, ORANGE, layers_below

__all__ = ["BINS", "by_channel", "by_layer", "draw_by_channel", "draw_by_layer", "draw_pair", "pair", "row_of"]

BINS = 40  # of fractions
BANDS = (10, 50, 90)  # percentiles


def by_layer(changes: Changes) -> dict[str, Any]:
    """For every value the share of pictures in each of BINS bins of changed fraction, and percentiles."""
    fractions = changes.fractions
    counts = [np.histogram(column, BINS, (0.0, 1.0))[0] for column in fractions.T]
    return {
        "view": "changed",
        "title": f"Changed fraction by layer: {len(fractions)} pictures of {changes.source or 'a source'}",
        "layers": list(changes.names),
        "share": (np.array(counts) / len(fractions)).tolist(),
        "percentiles": {str(p): np.percentile(fractions, p, axis=0).tolist() for p in BANDS},
        "size": _size(changes),
    }


def draw_by_layer(figure: Any, data: Mapping[str, Any]) -> None:
    axes = figure.add_subplot()
    share = np.array(data["share"]).T
    extent = (-0.5, share.shape[1] - 0.5, 0, 1)
    shades = axes.imshow(
        np.ma.masked_equal(share, 0),
        origin="lower",
        aspect="auto",
        extent=extent,
        cmap="Blues",
        vmin=-0.15,
        interpolation="nearest",
    )
    places = range(share.shape[1])
    for p, line in (("10", ":"), ("50", "-"), ("90", ":")):
        words = "median" if p == "50" else f"{p} % of pictures are below"
        axes.plot(places, data["percentiles"][p], line, color=ORANGE, lw=1.2, label=words)
    axes.set_ylabel("changed fraction of the layer's output")
    axes.set_ylim(0, 1)
    layers_below(axes, data["layers"])
    axes.legend(loc="upper left", ncols=3, bbox_to_anchor=(0, 1.08))
    figure.colorbar(shades, ax=axes, label="share of pictures", pad=0.01).ax.set_ylim(0, None)


def by_channel(changes: Changes, picture: int) -> dict[str, Any]:
    """The changed fraction of every channel of every value, of one picture. Raises RequestError if it isn't there."""
    row = row_of(changes, picture)
    return {
        "view": "channels",
        "title": f"Changed fraction by layer and channel: picture {picture} of {changes.source or 'a source'}",
        "layers": list(changes.names),
        "channels": [changes.changed[name][row].tolist() for name in changes.names],
        "picture": picture,
        "size": _size(changes),
    }


def draw_by_channel(figure: Any, data: Mapping[str, Any]) -> None:
    """A dot a channel, spread over its layer's width, and the layer's own fraction as a line."""
    axes = figure.add_subplot()
    for k, own in enumerate(data["channels"]):
        spread = np.linspace(-0.36, 0.36, len(own)) if len(own) > 1 else [0.0]
        axes.plot(k + np.array(spread), own, ".", color=BLUE, ms=2.5, alpha=0.45, label="a channel" if k == 0 else None)
    whole = [float(np.mean(own)) for own in data["channels"]]
    axes.step(range(len(whole)), whole, where="mid", color=ORANGE, lw=1.4, label="the whole output")
    axes.set_ylabel("changed fraction")
    axes.set_ylim(-0.02, 1.02)
    layers_below(axes, data["layers"])
    axes.legend(loc="upper left", ncols=2, bbox_to_anchor=(0, 1.08))


def pair(changes: Changes, names: tuple[str, str]) -> dict[str, Any]:
    """What `measure` found between two pictures alone: changed and nonzero fractions by layer."""
    if len(changes.pictures) != 1:
        raise RequestError("this view takes two pictures")
    return {
        "view": "pair",
        "title": f"From {names[0]} to {names[1]}: changed and nonzero fraction by layer",
        "layers": list(changes.names),
        "changed": changes.fractions[0].tolist(),
        "nonzero": changes.nonzero[0].tolist(),
        "size": _size(changes),
    }


def draw_pair(figure: Any, data: Mapping[str, Any]) -> None:
    axes = figure.add_subplot()
    places = range(len(data["layers"]))
    axes.plot(places, data["nonzero"], "o-", color=ORANGE, ms=3, lw=1, label="not zero (what a key sends)")
    axes.plot(places, data["changed"], "o-", color=BLUE, ms=3, lw=1, label="changed (what a delta sends)")
    axes.set_ylabel("fraction of the layer's output")
    axes.set_ylim(-0.02, 1.02)
    layers_below(axes, data["layers"])
    axes.legend(loc="upper left", ncols=2, bbox_to_anchor=(0, 1.08))


def row_of(changes: Changes, picture: int) -> int:
    """The row of a picture. Raises RequestError where it wasn't measured."""
    found = np.flatnonzero(changes.pictures == picture)
    if not found.size:
        first, last = int(changes.pictures[0]), int(changes.pictures[-1])
        raise RequestError(f"picture {picture} was not measured; there are {first} to {last}")
    return int(found[0])


def _size(changes: Changes) -> tuple[float, float]:
    return (min(max(9.0, 2 + 0.24 * len(changes.names)), 18.0), 6.0)
