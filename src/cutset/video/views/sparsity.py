"""How much of every layer changed, was foreseen to change, and costs to send: views of a measurement."""

from __future__ import annotations

from collections.abc import Mapping, Sequence
from typing import Any

import numpy as np

from cutset.config import did_you_mean
from cutset.errors import RequestError
from cutset.video.sparsity.changes import TILES, Changes, delta_bytes
from cutset.video.sparsity.predictor import Trained
from cutset.video.views.figure import BLUE, GREEN, ORANGE, layers_below, wide_enough

__all__ = [
    "BINS",
    "by_channel",
    "by_layer",
    "draw_by_channel",
    "draw_by_layer",
    "draw_errors",
    "draw_pair",
    "draw_sizes",
    "draw_spread",
    "errors",
    "pair",
    "row_of",
    "sizes",
    "spread",
]

BINS = 40  # of fractions
BANDS = (10, 50, 90)  # percentiles
PANELS = 12  # layers that are shown where none is chosen
DEGREE = 3  # of the fitted polynomials


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
    """A histogram for each layer as shades, with percentiles: draws `by_layer`'s data."""
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
    """Draws `pair`'s data."""
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


def draw_spread(figure: Any, data: Mapping[str, Any]) -> None:
    """A panel a layer, points and fits: draws `spread`'s data."""
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
        "size": _size(changes),
    }
    if trained:
        said = trained.propagate(changes.features)
        data["predicted"] = [
            float(np.mean([delta_bytes(values[name], f, trained.mask[name]) for f in said[name].mean(axis=1)]))
            for name in changes.names
        ]
    return data


def draw_sizes(figure: Any, data: Mapping[str, Any]) -> None:
    """Draws `sizes`'s data, bytes on a logarithmic axis."""
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
        "size": _size(changes, 8.0),
    }


def draw_errors(figure: Any, data: Mapping[str, Any]) -> None:
    """Pictures by layers as shades, both predictors: draws `errors`'s data."""
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


def _size(changes: Changes, height: float = 6.0) -> tuple[float, float]:
    return wide_enough(len(changes.names)), height
