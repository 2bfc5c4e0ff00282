"""Logits of every family against transformers, on random checkpoints that transformers writes."""

from __future__ import annotations

from pathlib import Path

import numpy as np
import pytest

torch = pytest.importorskip("torch")

from models.family_cases import CASES
from models.family_checkpoints import reference, relative_error, whole_logits, write_checkpoint


@pytest.mark.parametrize("case", CASES)
def test_logits_equal_those_of_transformers(case: str, tmp_path: Path) -> None:
    family, fields = CASES[case]
    model = write_checkpoint(tmp_path, family, **fields)
    ids = np.random.default_rng(1).integers(0, 131, size=(2, 29)).astype(np.int32)
    with torch.no_grad():
        theirs = model(torch.from_numpy(ids).long()).logits.numpy()
    assert relative_error(whole_logits(reference(tmp_path), ids), theirs) <= 1e-4


@pytest.mark.parametrize("case", ["llama", "mistral-window", "qwen3"])
@pytest.mark.parametrize("side", ["left", "right"])
def test_padding_is_not_seen(case: str, side: str, tmp_path: Path) -> None:
    family, fields = CASES[case]
    model = write_checkpoint(tmp_path, family, **fields)
    ids = np.random.default_rng(2).integers(0, 131, size=(3, 17)).astype(np.int32)
    mask = np.ones((3, 17), dtype=bool)
    for row, padding in enumerate((0, 4, 9)):
        mask[row, slice(0, padding) if side == "left" else slice(17 - padding, None)] = False
    with torch.no_grad():
        theirs = model(torch.from_numpy(ids).long(), attention_mask=torch.from_numpy(mask).long()).logits.numpy()
    ours = whole_logits(reference(tmp_path), ids, mask)
    assert np.isfinite(ours).all()
    assert relative_error(ours[mask], theirs[mask]) <= 1e-4
