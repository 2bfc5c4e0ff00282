"""Scales that move between channels change no float model of any family, and an adapter is fitted to them."""

from __future__ import annotations

from pathlib import Path
from typing import Any

import numpy as np
import pytest

torch = pytest.importorskip("torch")
pytest.importorskip("transformers")

from cutset.config import Settings
from cutset.models.files.adapter import read_adapter
from cutset.models.files.channel_scales import ChannelScales, movable, shared_channels
from cutset.models.files.integer import moved_glue, write_integer_checkpoint
from cutset.models.files.source import ModelSource, open_source
from cutset.models.files.tensor import Tensor
from cutset.models.run.backend import build_executor
from cutset.models.run.decoder import ReferenceDecoder
from cutset.models.run.numpy_ops import NumpyOps
from cutset.models.run.recipe import CalibratedRecipe
from models.family_cases import CASES
from models.family_checkpoints import reference, relative_error, whole_logits, write_checkpoint
from models.test_adapter import ALL, write_adapter

IDS = np.random.default_rng(1).integers(0, 131, size=(2, 19)).astype(np.int32)


def drawn(source: ModelSource) -> ChannelScales:
    """Random scales wherever some can move."""
    rng, columns = np.random.default_rng(9), {}
    for key in source.spec.sites():
        makers = shared_channels(source.spec, key)
        own = rng.uniform(0.3, 3, makers.max() + 1).astype(np.float32)[makers]
        columns[key] = own if movable(source.spec, key) else np.ones_like(own)
    return ChannelScales(source.spec, columns)


class MovedLinears:
    """The products of a float model whose scales were moved."""

    def __init__(self, source: ModelSource, moved: ChannelScales) -> None:
        self.weights = {}
        for key in source.spec.sites():
            weight = np.concatenate([source.tensors[name].float32() for name in source.spec.site_tensors(*key)])
            self.weights[key] = weight * moved.columns(key) / moved.rows(key)[:, None]

    def __call__(self, site: Any, layer: int, expert: int, rows: Any) -> Any:
        return rows @ self.weights[site, layer, expert].T


def moved_decoder(source: ModelSource, moved: ChannelScales) -> ReferenceDecoder:
    spec, tensors = source.spec, dict[str, Tensor]()
    for key, names in spec.glue().items():
        for name in names:
            tensors[name] = Tensor(name, Path(), "F32", moved_glue(spec, source.tensors, key, name, moved))
    return ReferenceDecoder(spec, tensors, NumpyOps(), MovedLinears(source, moved))


@pytest.mark.parametrize("case", CASES)
def test_moved_scales_change_nothing(case: str, tmp_path: Path) -> None:
    family, fields = CASES[case]
    write_checkpoint(tmp_path, family, **fields)
    source = open_source(tmp_path)
    expected = whole_logits(reference(tmp_path), IDS)
    moved = drawn(source)
    assert relative_error(whole_logits(moved_decoder(source, moved), IDS), expected) <= 1e-4
    sites = {key[0] for key in source.spec.sites() if movable(source.spec, key)}
    assert {"qkv", "lm_head"} <= sites or not source.spec.input_norms


@pytest.mark.parametrize("case", ["llama", "qwen2", "phi3", "gemma"])
def test_scales_move_everywhere_in_a_dense_model(case: str, tmp_path: Path) -> None:
    family, fields = CASES[case]
    write_checkpoint(tmp_path, family, **fields)
    spec = open_source(tmp_path).spec
    assert all(movable(spec, key) for key in spec.sites())


@pytest.mark.parametrize("case", ["llama", "qwen2"])
def test_an_adapter_is_fitted(case: str, tmp_path: Path) -> None:
    family, fields = CASES[case]
    model = write_checkpoint(tmp_path / "model", family, **fields)
    source = open_source(tmp_path / "model")
    write_adapter(tmp_path / "adapter", model, ALL)
    adapter, moved = read_adapter("a", tmp_path / "adapter", source.spec), drawn(source)
    plain, other = reference(tmp_path / "model"), moved_decoder(source, moved)
    loaded = plain.load_adapter(adapter)
    expected = whole_logits(plain, IDS, adapters=(loaded, None))
    fitted = other.load_adapter(moved.adapter(adapter))
    assert relative_error(whole_logits(other, IDS, adapters=(fitted, None)), expected) <= 1e-4
    unfitted = other.load_adapter(adapter)
    assert relative_error(whole_logits(other, IDS, adapters=(unfitted, None)), expected) > 1e-2


@pytest.mark.parametrize("case", ["llama", "qwen2", "gemma3", "gpt-oss", "lfm2", "qwen3.5", "qwen3-moe"])
def test_a_calibrated_checkpoint_of_a_family_runs(case: str, tmp_path: Path) -> None:
    family, fields = CASES[case]
    write_checkpoint(tmp_path / "float", family, **fields)
    source = open_source(tmp_path / "float")
    pieces = list(np.random.default_rng(3).integers(0, 131, (6, 40)).astype(np.int32))
    recipe = CalibratedRecipe(source.spec, source.tensors, pieces)
    for name, each in (("canonical", None), ("calibrated", recipe)):
        write_integer_checkpoint(
            source.spec, source.config, source.tensors, tmp_path / "float", tmp_path / name, recipe=each
        )
    expected, errors = whole_logits(reference(tmp_path / "float"), IDS), []
    for name in ("canonical", "calibrated"):
        executor, _ = build_executor(open_source(tmp_path / name), Settings(dtype="exact", threads=1))
        errors.append(relative_error(whole_logits(executor, IDS), expected))
    chaotic = source.spec.moe is not None or source.spec.recurrent is not None  # an expert that changes is a leap
    assert errors[1] < (1.5 if chaotic else 1.0) * errors[0]
