"""Fits a sparsity model to measured changes, with scikit-learn, and holds it against pictures that it hasn't seen."""

from __future__ import annotations

import warnings
from collections.abc import Callable, Sequence
from dataclasses import replace
from typing import Any

import numpy as np
from numpy.typing import NDArray
from threadpoolctl import threadpool_limits

from cutset.errors import DeviceError, RequestError
from cutset.partition.node import Node, short_name
from cutset.video.sparsity.changes import Changes, elements
from cutset.video.sparsity.layers import Channels, Concat, Layer, Means, Perceptron, PictureLinear, means
from cutset.video.sparsity.predictor import Errors, Trained, run, start

__all__ = ["fit", "fit_channels", "fit_means", "fit_network", "fit_picture"]

Floats = NDArray[np.float64]

HIDDEN = 4  # units of a network
STEPS = 300  # of its training
SHRINK = 1e-3
RIDGE = 1e-6  # keeps a channel that never varied from dividing by nothing
CHOICE = 0.2  # the last share of the training pictures, by which a layer's kind is chosen
LEAST = 10  # pictures to train on


def fit(changes: Changes, holdout: float = 0.25, tell: Callable[[int, int], None] | None = None) -> Trained:
    """A model of every layer, trained on the first pictures and judged by the last share `holdout` of them.

    A layer is fitted to what is predicted for the values that it reads, not to what was measured there: so errors
    don't add up on the way. Raises RequestError for too few pictures, DeviceError without scikit-learn.
    """
    try:
        import sklearn.neural_network  # noqa: F401 (its libraries must be loaded before their threads are limited)
    except ImportError:
        raise DeviceError("training needs scikit-learn: pip install 'cutset[stream]'") from None
    count = len(changes.pictures)
    train = count - round(count * holdout)
    if train < LEAST or train == count:
        raise RequestError(
            f"{count + 1} pictures are too few: {LEAST} changes are needed to train on, and one to judge by; "
            "raise --limit, or change --holdout"
        )
    seen, unseen = changes.rows(slice(None, train)), changes.rows(slice(train, None))
    graph = changes.graph
    known = seen.features.astype(np.float64)
    found = start(graph, known)
    layers: dict[str, Layer] = {}
    with threadpool_limits(1):  # the matrices are small: more threads would wait for each other
        for i, node in enumerate(graph.nodes):
            reads = [found[name] for name in node.reads] or [np.zeros((train, 1))]
            for value in node.made:
                layers[value.name] = _best(node, reads, known, seen.changed[value.name].astype(np.float64))
                found[value.name] = run(layers[value.name], node, found, known)
            if tell:
                tell(i + 1, len(graph.nodes))
    mean = dict(zip(changes.names, seen.fractions.mean(axis=0).tolist(), strict=True))
    untested = Trained(graph, changes.source, layers, mean, _masks(seen), Errors(int(seen.pictures[-1]), 0, mean, mean))
    return replace(untested, errors=_errors(untested, unseen, seen.fractions[-1]))


def _best(node: Node, reads: Sequence[Floats], known: Floats, truth: Floats) -> Layer:
    """The kind that is least off in the last of the training pictures, fitted to all of them."""
    width = truth.shape[1]
    if short_name(node.op) in ("cat", "concat") and sum(x.shape[1] for x in reads) == width:
        return Concat()
    fits: list[tuple[Callable[[Sequence[Floats], Floats], Layer], Sequence[Floats]]] = [
        (fit_means, reads),
        (fit_picture, [known]),
    ]
    if all(x.shape[1] == width for x in reads):
        fits.append((fit_channels, reads))
    if node.weights or "pool" in node.op:  # what looks beyond one place
        fits.append((fit_network, [known]))
    begin = len(truth) - max(1, round(CHOICE * len(truth)))

    def off(fit: Callable[[Sequence[Floats], Floats], Layer], of: Sequence[Floats]) -> float:
        said = fit([x[:begin] for x in of], truth[:begin])([x[begin:] for x in of])
        return float(np.abs(said.mean(axis=1) - truth[begin:].mean(axis=1)).mean())

    best, of = min(fits, key=lambda pair: off(*pair))
    return best(of, truth)


def fit_channels(reads: Sequence[Floats], truth: Floats) -> Channels:
    """Least squares of every channel by itself."""
    x = np.stack(reads)  # (reads, P, channels)
    middle, target = x.mean(axis=1), truth.mean(axis=0)
    centred = x - middle[:, None]
    square = np.einsum("apc,bpc->cab", centred, centred) + RIDGE * np.eye(len(reads))
    mixed = np.einsum("apc,pc->ca", centred, truth - target)
    weights = np.linalg.solve(square, mixed[:, :, None])[:, :, 0].T  # (reads, channels)
    return Channels(weights, target - (weights * middle).sum(axis=0))


def fit_means(reads: Sequence[Floats], truth: Floats) -> Means:
    """Least squares of all channels on the means of what is read."""
    return Means(*_ridge(means(reads), truth, RIDGE))


def fit_picture(reads: Sequence[Floats], truth: Floats) -> PictureLinear:
    """Least squares of all channels on the picture's features, slightly held back: they resemble each other."""
    return PictureLinear(*_ridge(reads[0], truth, SHRINK))


def _ridge(x: Floats, truth: Floats, alpha: float) -> tuple[Floats, Floats]:
    """Weights (columns of x, channels) and bias (channels,)."""
    middle, target = x.mean(axis=0), truth.mean(axis=0)
    centred = x - middle
    square = centred.T @ centred + alpha * np.eye(x.shape[1])
    weights = np.linalg.solve(square, centred.T @ (truth - target))
    return weights, target - middle @ weights


def fit_network(reads: Sequence[Floats], truth: Floats) -> Perceptron:
    """A small network for all channels, on standardised inputs; the scale goes into its weights afterwards."""
    model, scale = _network(reads, truth)
    (first, out), (hidden, bias) = model.coefs_, model.intercepts_
    weights = first / scale.scale_[:, None]
    return Perceptron(weights, hidden - scale.mean_ @ weights, out, bias)


def _network(reads: Sequence[Floats], truth: Floats) -> tuple[Any, Any]:
    from sklearn.exceptions import ConvergenceWarning
    from sklearn.neural_network import MLPRegressor
    from sklearn.preprocessing import StandardScaler

    scale = StandardScaler().fit(reads[0])
    model = MLPRegressor(
        hidden_layer_sizes=(HIDDEN,), activation="logistic", solver="lbfgs", alpha=1e-2, max_iter=STEPS, random_state=0
    )
    with warnings.catch_warnings():
        warnings.simplefilter("ignore", ConvergenceWarning)  # good enough after so many steps
        # A column for one channel is what scikit-learn warns of.
        model.fit(scale.transform(reads[0]), truth if truth.shape[1] > 1 else truth[:, 0])
    return model, scale


def _masks(changes: Changes) -> dict[str, float]:
    """Of each value, bytes of a mask over a bit an element."""
    found = {}
    for k, (name, value) in enumerate(changes.graph.values.items()):
        size = elements(value)
        values = changes.fractions[:, k].astype(np.float64) * value.nbytes
        share = (changes.encoded[:, k] - values) / max(-(-size // 8), 1)
        found[name] = float(np.clip(share, 0.0, 1.0).mean())
    return found


def _errors(trained: Trained, unseen: Changes, before: NDArray[np.float32]) -> Errors:
    """Of the model, and of saying that a picture changes as much as the one before it did."""
    said = trained.propagate(unseen.features)
    truth = unseen.fractions
    last = np.concatenate([before[None], truth[:-1]])
    ours = {name: float(np.abs(said[name].mean(axis=1) - truth[:, k]).mean()) for k, name in enumerate(unseen.names)}
    lasts = dict(zip(unseen.names, np.abs(last - truth).mean(axis=0, dtype=np.float64).tolist(), strict=True))
    # The input is known when a picture is sent, whatever is said of the rest.
    lasts[trained.graph.inputs[0].name] = 0.0
    return Errors(trained.errors.seen, len(truth), ours, lasts)
