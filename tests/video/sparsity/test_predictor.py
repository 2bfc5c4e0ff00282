"""Sparsity models: our evaluation equals scikit-learn's, errors are of unseen pictures, files hold what was trained."""

from __future__ import annotations

from collections.abc import Callable
from pathlib import Path
from typing import Any

import numpy as np
import pytest
from numpy.typing import NDArray

from cutset.errors import ConfigError, RequestError
from cutset.partition.description import graph_digest
from cutset.video.sparsity import fit as fitting
from cutset.video.sparsity.archive import read_archive, write_archive
from cutset.video.sparsity.changes import Changes
from cutset.video.sparsity.fit import fit, fit_channels, fit_means, fit_network, fit_picture
from cutset.video.sparsity.layers import Concat
from cutset.video.sparsity.predictor import (
    FORMAT,
    Errors,
    LastPicture,
    Trained,
    choose,
    read_trained,
    write_trained,
)

pytest.importorskip("sklearn")

Floats = NDArray[np.float64]


@pytest.fixture(scope="module")
def trained(changes: Changes) -> Trained:
    return fit(changes)


def data(columns: int, seed: int = 0) -> Floats:
    return np.random.default_rng(seed).random((40, columns)) * 0.4 + 0.1


def test_channels_are_ridge_regressions_of_their_own() -> None:
    from sklearn.linear_model import Ridge

    reads, truth = [data(3, 1), data(3, 2)], 0.3 * data(3, 1) + 0.5 * data(3, 2) + 0.02 * data(3, 4)
    ours = fit_channels(reads, truth)(reads)
    for c in range(3):
        x = np.stack([read[:, c] for read in reads], axis=1)
        theirs = Ridge(alpha=fitting.RIDGE).fit(x, truth[:, c]).predict(x)
        np.testing.assert_allclose(ours[:, c], theirs, atol=1e-9)


def test_a_channel_that_never_varies_is_a_constant() -> None:
    reads = [np.full((40, 2), 0.25)]
    said = fit_channels(reads, np.tile([0.5, 1.0], (40, 1)))(reads)
    np.testing.assert_allclose(said, np.tile([0.5, 1.0], (40, 1)), atol=1e-9)


def test_linear_kinds_equal_scikit_learn() -> None:
    from sklearn.linear_model import Ridge

    reads, truth = [data(5, 1), data(2, 2)], data(4, 3)
    x = np.stack([read.mean(axis=1) for read in reads], axis=1)
    theirs = Ridge(alpha=fitting.RIDGE).fit(x, truth).predict(x)
    np.testing.assert_allclose(fit_means(reads, truth)(reads), theirs, atol=1e-12)
    theirs = Ridge(alpha=fitting.SHRINK).fit(reads[0], truth).predict(reads[0])
    np.testing.assert_allclose(fit_picture(reads[:1], truth)(reads[:1]), theirs, atol=1e-12)


@pytest.mark.parametrize("outputs", [1, 6])
def test_networks_equal_scikit_learn(outputs: int) -> None:
    known = data(7)
    truth = 1 / (1 + np.exp(-6 * (known @ data(7, 5)[:outputs].T - 0.6)))
    model, scale = fitting._network([known], truth)
    theirs = np.clip(np.reshape(model.predict(scale.transform(known)), (40, outputs)), 0, 1)
    layer = fit_network([known], truth)
    np.testing.assert_allclose(layer([known]), theirs, atol=1e-10)
    assert np.abs(theirs - truth).mean() < 0.05  # and it has learned something


def test_predictions_are_fractions() -> None:
    reads = [data(3)]
    for fitted in (fit_channels, fit_means, fit_picture, fit_network):
        said = fitted(reads, data(3, 8))([np.array([[50.0, -50, 0]])])
        assert ((said >= 0) & (said <= 1)).all()


def test_a_concatenation_is_exact() -> None:
    reads = [data(2), data(3)]
    np.testing.assert_array_equal(Concat()(reads), np.concatenate(reads, axis=1))


def test_branches_are_joined(trained: Trained, changes: Changes) -> None:
    [cat] = [node for node in changes.graph.nodes if "cat" in node.op]
    said = trained.propagate(changes.features)
    assert isinstance(trained.layers[cat.made[0].name], Concat)
    np.testing.assert_array_equal(said[cat.made[0].name], np.concatenate([said[name] for name in cat.reads], axis=1))


def test_errors_are_of_pictures_that_training_never_saw(changes: Changes, trained: Trained) -> None:
    assert (trained.errors.seen, trained.errors.pictures) == (45, 15)
    said = trained.propagate(changes.rows(slice(45, None)).features)
    truth = changes.fractions
    for k, name in enumerate(changes.names):
        ours = np.abs(said[name].mean(axis=1) - truth[45:, k]).mean()
        assert trained.errors.trained[name] == pytest.approx(ours)
        if k:
            assert trained.errors.last[name] == pytest.approx(np.abs(np.diff(truth[:, k]))[44:].mean(), abs=1e-6)
    other = Changes(
        changes.graph,
        "",
        changes.pictures,
        {name: np.concatenate([a[:45], 1 - a[45:]]) for name, a in changes.changed.items()},
        changes.tiles,
        changes.nonzero,
        changes.encoded,
    )
    again = fit(other)
    for name, layer in trained.layers.items():  # what was held out has no part in the model
        assert np.array_equal(*(np.asarray(x.layers[name]([*_reads(layer)])) for x in (trained, again)))


def _reads(layer: Any) -> list[Floats]:
    if layer.kind == "concat":
        return [data(2)]
    if layer.of_picture:
        return [data(7)]
    count, width = layer.weights.shape
    return [data(width, k) for k in range(count)]


def test_it_beats_the_last_picture_where_pictures_differ(trained: Trained, changes: Changes) -> None:
    graph = changes.graph
    ours, last = (trained.errors.nbytes(graph, e) for e in (trained.errors.trained, trained.errors.last))
    assert ours < last / 3
    predictor, words = choose(trained)
    assert predictor is trained
    assert "trained model" in words


def test_the_last_picture_is_chosen_where_it_is_better(trained: Trained) -> None:
    errors = Errors(45, 9, trained.errors.last, dict.fromkeys(trained.errors.last, 0.0))
    predictor, words = choose(Trained(trained.graph, "", trained.layers, trained.mean, trained.mask, errors))
    assert predictor.name == "last picture"
    assert "not the model" in words
    assert predictor.predict(np.full(7, 0.5))["first"] == trained.mean["first"]


def test_the_last_picture_says_what_it_saw(changes: Changes) -> None:
    predictor = LastPicture(changes.graph)
    said = predictor.predict(np.array([0.1, 0.2, 0.3, 1, 1, 1, 1]))
    assert said[changes.names[0]] == pytest.approx(0.2)
    assert said["first"] == 1.0
    predictor.observe({"first": 0.125})
    assert predictor.predict(np.zeros(7))["first"] == 0.125


def test_one_picture_is_predicted_as_many_are(trained: Trained, changes: Changes) -> None:
    together = trained.propagate(changes.features)
    alone = trained.predict(changes.features[5])
    assert set(alone) == set(changes.names)
    for name, fraction in alone.items():
        assert fraction == pytest.approx(together[name][5].mean())


def test_masks_are_learned(trained: Trained, changes: Changes) -> None:
    """What deltas take on average follows from fraction and mask."""
    from cutset.video.sparsity.changes import delta_bytes

    at = changes.names.index("first")
    said = delta_bytes(changes.graph.values["first"], trained.mean["first"], trained.mask["first"])
    assert said == pytest.approx(changes.encoded[:45, at].mean(), rel=0.01)


def test_a_file_gives_the_model_back(trained: Trained, changes: Changes, tmp_path: Path) -> None:
    write_trained(tmp_path / "model.npz", trained)
    back = read_trained(tmp_path / "model.npz")
    assert back.predict(changes.features[3]) == trained.predict(changes.features[3])
    assert (back.errors, back.mask, back.mean) == (trained.errors, trained.mask, trained.mean)
    back.check(graph_digest(changes.graph))
    with pytest.raises(ConfigError, match="another network"):
        back.check("0" * 64)


def _without(name: str) -> Callable[[dict[str, Any], dict[str, Any]], Any]:
    return lambda header, arrays: header.pop(name)


@pytest.mark.parametrize(
    "damage",
    [
        _without("graph"),
        _without("layers"),
        _without("held_out"),
        _without("seen"),
        lambda h, a: a.pop("table"),
        lambda h, a: a.update(table=a["table"][:3]),
        lambda h, a: a.update(table=a["table"] * np.nan),
        lambda h, a: h["layers"].update(first="pickle"),
        lambda h, a: h["layers"].update(first="concat"),
        lambda h, a: a.update({k: v[..., :-1] for k, v in a.items() if k.endswith("bias")}),
        lambda h, a: a.update({k: v * np.inf for k, v in a.items() if k.endswith("bias")}),
        lambda h, a: h.update(layers=[]),
    ],
)
def test_damaged_models_are_refused(damage: Callable[..., Any], trained: Trained, tmp_path: Path) -> None:
    path = tmp_path / "model.npz"
    write_trained(path, trained)
    header, arrays = read_archive(path, FORMAT, "")
    damage(header, arrays)
    write_archive(path, header, arrays)
    with pytest.raises(ConfigError, match="is not a sparsity model"), np.errstate(invalid="ignore"):
        read_trained(path)


def test_too_few_pictures_are_refused(changes: Changes) -> None:
    with pytest.raises(RequestError, match="too few"):
        fit(changes.rows(slice(0, 9)))
    with pytest.raises(RequestError, match="too few"):
        fit(changes, holdout=0.0)
