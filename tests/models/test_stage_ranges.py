"""Stages of a decoder against the whole one, to the bit, and where a decoder can't be cut."""

from __future__ import annotations

import itertools
from collections.abc import Iterator, Mapping
from dataclasses import replace
from typing import Any

import numpy as np
import pytest
from numpy.typing import NDArray

import cutset.kernels._native as native
from cutset.errors import ConfigError
from cutset.models.files.checkpoint import Tensor
from cutset.models.run.decoder import FloatLinears, ReferenceDecoder
from cutset.models.run.native import NativeDecoder
from cutset.models.run.numpy_ops import NumpyOps
from cutset.models.spec import DecoderSpec
from cutset.models.stages import (
    check_stage,
    cuts,
    split,
    stage_kv_floats,
    stage_sites,
    stage_state_floats,
    stage_tensors,
)
from models.test_grouped_models import DENSE as GROUPED
from models.test_grouped_models import codes_of
from models.test_native import BLOCK, BLOCKS, DENSE, SPECS, WHOLE, batch_of, native_decoder, tensors_of, told_apart

STEPS = [[(0, 0, 17), (1, 0, 1)], [(2, 0, 23), (0, 17, 39), (3, 0, 65)], [(0, 39, 40), (3, 65, 70)]]
DTYPES = ("float32", "int8", "int4", "exact")


class Only(Mapping[str, Tensor]):
    """A table with some of the tensors: who asks for others fails."""

    def __init__(self, tensors: Mapping[str, Tensor], names: set[str]) -> None:
        self._tensors = {name: tensor for name, tensor in tensors.items() if name in names}

    def __getitem__(self, name: str) -> Tensor:
        return self._tensors[name]

    def __iter__(self) -> Iterator[str]:
        return iter(self._tensors)

    def __len__(self) -> int:
        return len(self._tensors)


def divisions(spec: DecoderSpec) -> list[list[range]]:
    """Every way to cut the decoder."""
    found = []
    for count in range(1, len(cuts(spec)) + 1):
        for chosen in itertools.combinations(cuts(spec), count):
            edges = [0, *chosen, spec.layers]
            found.append([range(first, last) for first, last in itertools.pairwise(edges)])
    return found


def own_tensors(spec: DecoderSpec, tensors: Mapping[str, Tensor], layers: range) -> Only:
    return Only(tensors, {tensor.name for tensor in stage_tensors(spec, layers)})


def native_stages(spec: DecoderSpec, tensors: Mapping[str, Tensor], ranges: list[range], **options: Any) -> list[Any]:
    return [
        NativeDecoder(spec, own_tensors(spec, tensors, layers), native.Pool(1), layers=layers, **options)
        for layers in ranges
    ]


def through(stages: list[Any], steps: list[Any], kv_dtype: str = "auto") -> list[NDArray[np.float32]]:
    """The logits of each step."""
    caches = [stage.new_cache(BLOCKS, BLOCK, 8, kv_dtype) for stage in stages]
    found = []
    for rows in steps:
        batch, passed = batch_of(rows), None
        for stage, cache in zip(stages, caches, strict=True):
            passed = stage.forward(batch, cache) if passed is None else stage.forward(batch, cache, hidden=passed)
            assert passed.dtype == np.float32
            assert stage is stages[-1] or passed.shape == (len(batch.token_ids), stage.spec.hidden)
        assert passed is not None
        found.append(passed)
    return found


def equal(found: list[NDArray[Any]], expected: list[NDArray[Any]]) -> None:
    for one, other in zip(found, expected, strict=True):
        np.testing.assert_array_equal(one, told_apart(other))


@pytest.mark.parametrize("name", SPECS)
def test_stages_give_the_bits_of_the_whole(name: str) -> None:
    spec, tensors = SPECS[name], tensors_of(SPECS[name])
    expected = [through([native_decoder(spec)], steps) for steps in ([WHOLE], STEPS)]
    for ranges in divisions(spec):
        stages = native_stages(spec, tensors, ranges)
        equal(through(stages, [WHOLE]), expected[0])
        equal(through(stages, STEPS), expected[1])


def test_most_of_these_can_be_cut() -> None:
    assert [name for name, spec in SPECS.items() if not cuts(spec)] == ["gates-and-shared-keys"]
    assert cuts(SPECS["layers-that-differ"]) == [1]
    assert cuts(DENSE) == [1, 2]


@pytest.mark.parametrize("name", ["tied", "delta-rule", "layers-told-of-tokens", "layers-that-differ"])
@pytest.mark.parametrize("kind", ["numpy", "torch"])
def test_stages_of_the_reference_give_its_results(name: str, kind: str) -> None:
    spec, tensors = SPECS[name], tensors_of(SPECS[name])

    def made(layers: range | None) -> ReferenceDecoder:
        table = tensors if layers is None else own_tensors(spec, tensors, layers)
        ops = NumpyOps() if kind == "numpy" else pytest.importorskip("cutset.models.run.torch_ops").TorchOps()
        return ReferenceDecoder(spec, table, ops, FloatLinears(spec, table, ops, layers), layers)

    expected = through([made(None)], STEPS)
    for ranges in divisions(spec):
        for found, right in zip(through([made(layers) for layers in ranges], STEPS), expected, strict=True):
            np.testing.assert_allclose(found, told_apart(right), rtol=1e-5, atol=1e-5)


@pytest.mark.parametrize("dtype", [*DTYPES, "stored"])
@pytest.mark.parametrize("tied", [False, True])
def test_every_dtype_and_cache_gives_the_bits_of_the_whole(dtype: str, tied: bool) -> None:
    spec = replace(GROUPED, tied=tied, layers=3)
    tensors = codes_of(spec) if dtype == "stored" else tensors_of(spec)
    for kv_dtype in ("auto", "int8"):
        whole = NativeDecoder(spec, tensors, native.Pool(2), dtype=dtype)
        expected = through([whole], STEPS, kv_dtype)
        for ranges in divisions(spec):
            equal(through(native_stages(spec, tensors, ranges, dtype=dtype), STEPS, kv_dtype), expected)


def test_a_stage_has_its_own_weights_and_cache_alone() -> None:
    for spec in SPECS.values():
        tensors = tensors_of(spec)
        for ranges in divisions(spec):
            assert sum(stage_kv_floats(spec, layers) for layers in ranges) == spec.kv_floats
            assert sum(stage_state_floats(spec, layers) for layers in ranges) == spec.state_floats
            assert [site for layers in ranges for site in stage_sites(spec, layers)] == spec.sites()
            names = [{tensor.name for tensor in stage_tensors(spec, layers)} for layers in ranges]
            assert set().union(*names) == set(tensors)
            shared = {name for one, other in itertools.combinations(names, 2) for name in one & other}
            told = [] if spec.layer_inputs is None else ["embedding", "layer_embedding", "layer_product"]
            roles = [*told, "layer_product_norm"] if told else ["embedding"] if spec.tied else []
            assert shared == {name for role in roles for name, _ in spec.stored(role)}
        ranges = [range(layer, layer + 1) for layer in range(spec.layers)]
        if spec.layers == len(cuts(spec)) + 1:
            stages = native_stages(spec, tensors, ranges)
            whole = native_decoder(spec).new_cache(64, BLOCK, 8).nbytes
            assert sum(stage.new_cache(64, BLOCK, 8).nbytes for stage in stages) <= whole * 1.01 + 3 * 4096 * 64


def test_a_decoder_is_not_cut_between_a_layer_and_its_keys() -> None:
    spec = SPECS["layers-that-differ"]
    message = r"can't be cut before layer 2: layer 3 uses the keys and values of layer 1\. Cut before one of 1\."
    for layers in (range(2), range(2, 5)):
        with pytest.raises(ConfigError, match=message):
            NativeDecoder(spec, tensors_of(spec), native.Pool(1), layers=layers)
    with pytest.raises(ConfigError, match="none: it runs in one stage"):
        check_stage(SPECS["gates-and-shared-keys"], range(1))
    for layers in (range(2, 2), range(-1, 2), range(1, 9), range(0, 3, 2), range(2, 0)):
        with pytest.raises(ConfigError, match="no stage of a model of 3 layers"):
            check_stage(DENSE, layers)


def test_layers_are_shared_out() -> None:
    for layers, stages in itertools.product(range(1, 12), range(1, 6)):
        spec = replace(DENSE, layers=layers)
        if stages > layers:
            with pytest.raises(ConfigError, match=f"{stages} stages can't be made: .* makes 1 to {layers}"):
                split(spec, stages)
            continue
        ranges = split(spec, stages)
        assert [one.start for one in ranges] == [0, *(one.stop for one in ranges[:-1])]
        assert ranges[-1].stop == layers
        assert max(map(len, ranges)) - min(map(len, ranges)) <= 1
    assert split(SPECS["layers-that-differ"], 2) == [range(1), range(1, 5)]
    with pytest.raises(ConfigError, match="1 to 2"):
        split(SPECS["layers-that-differ"], 3)


def test_a_stage_takes_what_belongs_to_it() -> None:
    tensors = tensors_of(DENSE)
    first, last = native_stages(DENSE, tensors, [range(1), range(1, 3)])
    batch = batch_of(STEPS[0])
    hidden = first.forward(batch, first.new_cache(BLOCKS, BLOCK))
    cache = last.new_cache(BLOCKS, BLOCK)
    for wrong in (None, hidden[:-1], hidden[:, :-1]):
        with pytest.raises(ValueError, match=r"hidden must be|takes tokens"):
            last.forward(batch, cache, hidden=None if wrong is None else np.ascontiguousarray(wrong))
    with pytest.raises(ValueError, match="takes tokens"):
        first.forward(batch, first.new_cache(BLOCKS, BLOCK), hidden=hidden)
    with pytest.raises(ValueError, match="made for another decoder"):
        last.forward(batch, first.new_cache(BLOCKS, BLOCK), hidden=hidden)
    for where in ({"first": 3, "stop": 3}, {"first": 2, "stop": 1}, {"first": 0, "stop": 4}):
        sizes = {"vocab": 2, "hidden": 2, "layers": 3, "heads": 1, "kv_heads": 1, "head_dim": 2, "intermediate": 2}
        with pytest.raises(ValueError, match="a stage has some of the layers"):
            native.Decoder(**sizes, norm_eps=1e-5, parameters={}, pool=native.Pool(1), **where)
