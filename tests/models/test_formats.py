"""Formats of weights: whoever opens a model directory, or counts its bytes, goes by the one list."""

from __future__ import annotations

import json
from pathlib import Path

import numpy as np
import pytest

from cutset.config import Settings
from cutset.errors import CheckpointError
from cutset.models.files import formats
from cutset.models.files.checkpoint import Checkpoint, SafetensorsFile
from cutset.models.files.formats import WeightFormat, read_weights, weight_files
from cutset.models.files.source import open_source, specify
from cutset.models.files.specification import SPECIFICATION
from cutset.models.random import RandomModel
from cutset.models.registry import catalogue
from cutset.offload.enclave.client_files import model_files

HIDDEN = "weights.hidden"
ELSEWHERE = WeightFormat(
    "hidden",
    lambda directory: (directory / HIDDEN).is_file(),
    lambda directory: [directory / HIDDEN],
    lambda directory: SafetensorsFile(directory / HIDDEN),
)


@pytest.fixture
def folder(tmp_path: Path) -> Path:
    """A model whose weights no reader but `ELSEWHERE` finds."""
    place = tmp_path / "model"
    RandomModel(hidden=16, heads=2, kv_heads=1, vocab=32, layers=1).write_checkpoint(place)
    (place / "model.safetensors").rename(place / HIDDEN)
    (place / SPECIFICATION).unlink(missing_ok=True)
    return place


def test_a_format_on_the_list_is_found_by_all_who_read_weights(folder: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    with pytest.raises(CheckpointError, match=r"has no \*\.safetensors"):
        open_source(folder)
    monkeypatch.setattr(formats, "FORMATS", (ELSEWHERE, *formats.FORMATS))
    source, file = open_source(folder), SafetensorsFile(folder / HIDDEN)
    assert source.dtype == "float32"
    for name, tensor in source.tensors.items():
        np.testing.assert_array_equal(tensor.float32(), file[name].float32())
    assert specify(folder).is_file()
    assert weight_files(folder) == [folder / HIDDEN]
    assert folder / HIDDEN in model_files(folder)
    (folder.parent / "models.yaml").write_text(json.dumps({"mine": "model"}))
    [mine] = [one for one in catalogue(Settings(models_file=folder.parent / "models.yaml")) if one.ref.name == "mine"]
    assert mine.nbytes == (folder / HIDDEN).stat().st_size


def test_safetensors_are_what_is_left(folder: Path) -> None:
    (folder / HIDDEN).rename(folder / "model.safetensors")
    assert formats.FORMATS[-1].name == "safetensors"
    assert isinstance(read_weights(folder), Checkpoint)
    assert weight_files(folder) == [folder / "model.safetensors"]
