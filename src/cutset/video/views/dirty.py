"""How much of every layer delta compute does: a view of `cutset.video.delta.measuring`."""

from __future__ import annotations

from collections.abc import Mapping
from typing import Any

import numpy as np

from cutset.video.delta.measuring import MARK, foreseen, operations
from cutset.video.sparsity.changes import Changes
from cutset.video.sparsity.predictor import Trained
from cutset.video.views.figure import BLUE, GREEN, ORANGE, layers_below, wide_enough

__all__ = ["dirty", "draw_dirty"]


def dirty(changes: Changes, trained: Trained | None = None) -> dict[str, Any]:
    """For every layer percentiles of its dirty fraction, its share of the operations, and both together by picture."""
    graph = changes.graph
    nodes = [node for node in graph.nodes if node.made and node.flops]
    fractions = {name: changes.changed[name].mean(axis=1) for name in changes.names}
    own = np.array([fractions[node.made[0].name] for node in nodes])
    flops = np.array([node.flops for node in nodes], np.float64)
    done = operations(graph, fractions)
    found = {
        "view": "dirty",
        "title": f"{done.mean():.1%} of {flops.sum() / 1e9:.2f} GFLOP computed: {len(done)} pictures of "
        f"{changes.source.removesuffix(MARK).rstrip(',')}",
        "layers": [node.name for node in nodes],
        "percentiles": {str(p): np.percentile(own, p, axis=1).tolist() for p in (10, 50, 90)},
        "flops": (flops / flops.sum()).tolist(),
        "pictures": changes.pictures.tolist(),
        "done": done.tolist(),
        "size": (wide_enough(len(nodes)), 7.5),
    }
    if trained is not None:
        measured, predicted = foreseen(changes, trained)
        found["foreseen"] = {
            "pictures": changes.pictures[-len(measured) :].tolist(),
            "predicted": predicted.tolist(),
            "off": float(np.abs(predicted - measured).mean()),
            "off_mean": float(abs(predicted.mean() - measured.mean())),
        }
    return found


def draw_dirty(figure: Any, data: Mapping[str, Any]) -> None:
    """Above the dirty fraction of each layer before its share of the operations; below their sum by picture."""
    above, below = figure.subplots(2, 1, height_ratios=(3, 2))
    places = range(len(data["layers"]))
    percentiles = data["percentiles"]
    above.bar(places, data["flops"], width=0.8, color=BLUE, alpha=0.3, label="share of the operations")
    above.fill_between(
        places,
        percentiles["10"],
        percentiles["90"],
        step="mid",
        color=ORANGE,
        alpha=0.25,
        label="10 to 90 % of pictures",
    )
    above.step(places, percentiles["50"], where="mid", color=ORANGE, lw=1.4, label="dirty fraction, median")
    above.set_ylabel("fraction")
    above.set_ylim(0, 1.02)
    layers_below(above, data["layers"])
    above.legend(loc="upper left", ncols=3, bbox_to_anchor=(0, 1.14))
    below.plot(data["pictures"], data["done"], color=ORANGE, lw=1.0, label="computed")
    if "foreseen" in data:
        told = data["foreseen"]
        words = f"predicted, off by {told['off']:.3f} on average"
        below.plot(told["pictures"], told["predicted"], color=GREEN, lw=1.0, label=words)
    below.set_xlabel("picture")
    below.set_ylabel("share of the operations")
    below.set_ylim(0, max(1.05 * max(data["done"]), 0.01))
    below.legend(loc="upper left", ncols=2, bbox_to_anchor=(0, 1.18))
