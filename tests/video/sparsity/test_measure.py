"""What changed, against running the module itself and comparing element by element."""

from __future__ import annotations

import math
from pathlib import Path

import numpy as np
import pytest
import torch

from cutset.errors import ConfigError, RequestError
from cutset.partition.node import Value
from cutset.video.imports.export import Exported
from cutset.video.sparsity.changes import (
    TILES,
    Changes,
    channels,
    delta_bytes,
    features,
    read_changes,
    tile_shares,
    write_changes,
)
from cutset.video.sparsity.measure import compare, measure
from cutset.video.stage import TorchStage
from video.sparsity.conftest import SIZE, moving


def test_fractions_are_those_of_the_whole_network(exported: Exported, changes: Changes) -> None:
    graph, tensors = exported
    pictures = moving(4)
    for name, value in graph.values.items():
        if graph.maker[name] == -1:
            continue
        stage = TorchStage(graph, range(graph.maker[name] + 1), tensors)  # all up to there in one stage
        whole = [stage.forward({graph.inputs[0].name: torch.from_numpy(p)}) for p in pictures]
        if name not in stage.outputs:
            continue
        for p in (1, 2, 3):
            before, after = whole[p - 1][name].numpy(), whole[p][name].numpy()
            differs = before.view(np.uint32) != after.view(np.uint32)
            axes = tuple(k for k in range(before.ndim) if k != 1) if channels(value) > 1 else None
            np.testing.assert_allclose(changes.changed[name][p - 1], differs.mean(axis=axes).reshape(-1), atol=1e-7)
            at = changes.names.index(name)
            assert changes.nonzero[p - 1, at] == pytest.approx(np.count_nonzero(after.view(np.uint32)) / after.size)


def test_the_bits_are_compared_not_the_numbers() -> None:
    value = Value("x", (1, 2, 2, 2), "float32")
    before = np.array([0, 0, 1, np.nan, 5, 5, 5, 5], np.float32)
    after = np.array([-0.0, 0, 1, np.nan, 5, 5, 5, 6], np.float32)
    fractions, nbytes = compare(value, before, after)
    assert fractions.tolist() == [0.25, 0.25]
    assert nbytes == 1 + 2 * 4


def test_a_delta_is_never_larger_than_the_tensor() -> None:
    value = Value("x", (1, 1, 100, 100), "float32")
    rng = np.random.default_rng(0)
    _, nbytes = compare(value, rng.random(10_000, np.float32), rng.random(10_000, np.float32) + 2)
    assert nbytes == 40_000 == delta_bytes(value, 1.0)


def test_few_changes_nest_their_mask() -> None:
    value = Value("x", (1, 1, 128, 128), "float32")
    before = np.zeros(128 * 128, np.float32)
    after = before.copy()
    after[:10] = 1
    _, nbytes = compare(value, before, after)
    assert nbytes < 100 + 40
    assert delta_bytes(value, 10 / 128**2) == 128 * 128 / 8 + 40
    assert delta_bytes(value, 0.5, mask_share=0.0) == 128 * 128 * 2


def test_tiles_are_counted_by_hand() -> None:
    changed = np.zeros((70, 130), bool)
    changed[0, 0] = changed[69, 129] = changed[9, 9] = True

    def share(tile: int) -> float:
        rows, columns = math.ceil(70 / tile), math.ceil(130 / tile)
        hit = {(r // tile, c // tile) for r, c in np.argwhere(changed).tolist()}
        return len(hit) / (rows * columns)

    np.testing.assert_allclose(tile_shares(changed), [share(tile) for tile in TILES])


def test_features_are_what_was_measured(changes: Changes) -> None:
    pictures = moving(61)
    for p in (0, 7, 59):
        np.testing.assert_allclose(features(pictures[p], pictures[p + 1]), changes.features[p], atol=1e-7)
    assert changes.features.shape == (60, 3 + len(TILES))


def test_equal_pictures_change_nothing(exported: Exported) -> None:
    [picture] = moving(1)
    found = measure(*exported, [picture, picture.copy(), picture])
    assert not found.fractions.any()
    assert not found.tiles.any()


def test_too_few_pictures_and_those_of_another_size_are_refused(exported: Exported) -> None:
    with pytest.raises(RequestError, match="has 1 pictures"):
        measure(*exported, moving(1))
    odd = np.zeros((1, 3, SIZE[0] + 1, SIZE[1]), np.uint8)
    with pytest.raises(RequestError, match="picture 1"):
        measure(*exported, [moving(1)[0], odd])


def test_a_file_gives_it_back(changes: Changes, tmp_path: Path) -> None:
    write_changes(tmp_path / "changes.npz", changes)
    back = read_changes(tmp_path / "changes.npz")
    assert back.graph == changes.graph
    assert back.source == "a square"
    for name in changes.names:
        np.testing.assert_array_equal(back.changed[name], changes.changed[name])
    for name in ("pictures", "tiles", "nonzero", "encoded"):
        np.testing.assert_array_equal(getattr(back, name), getattr(changes, name))


def test_other_files_are_refused(tmp_path: Path, changes: Changes) -> None:
    path = tmp_path / "x.npz"
    with pytest.raises(ConfigError, match="can't read"):
        read_changes(path)
    path.write_bytes(b"no zip")
    with pytest.raises(ConfigError, match="is not"):
        read_changes(path)
    write_changes(path, changes)
    whole = path.read_bytes()
    path.write_bytes(whole[: len(whole) // 2])
    with pytest.raises(ConfigError, match="is not"):
        read_changes(path)


def test_fractions_beyond_one_are_refused(tmp_path: Path, changes: Changes) -> None:
    changed = dict(changes.changed)
    changed[changes.names[2]] = changed[changes.names[2]] + 1.5
    bad = Changes(changes.graph, "", changes.pictures, changed, changes.tiles, changes.nonzero, changes.encoded)
    write_changes(tmp_path / "x.npz", bad)
    with pytest.raises(ConfigError, match="beyond"):
        read_changes(tmp_path / "x.npz")
