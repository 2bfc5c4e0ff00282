"""Models of weights of few bits: native against reference, against floats of what the codes stand for, in batches."""

from __future__ import annotations

from collections.abc import Mapping
from dataclasses import replace
from pathlib import Path
from typing import Any

import numpy as np
import pytest

from cutset.config import Settings
from cutset.errors import CheckpointError, DeviceError
from cutset.kernels import native
from cutset.kernels.reference_grouped import quantize_groups
from cutset.models.families.rope import plain_rope
from cutset.models.files.grouped import GroupedTensor, GroupedWeight, GroupScales
from cutset.models.files.source import ModelSource
from cutset.models.files.tensor import Tensor
from cutset.models.run.backend import build_executor, choose
from cutset.models.run.decoder import FloatLinears, ReferenceDecoder
from cutset.models.run.executor import Batch
from cutset.models.run.grouped_linears import GroupedLinears
from cutset.models.run.native import NativeDecoder
from cutset.models.run.numpy_ops import NumpyOps
from cutset.models.spec import DecoderSpec, MoESpec
from cutset.offload.matrices import each_matrix

BLOCK = 16
DENSE = DecoderSpec(
    family="test",
    vocab_size=61,
    hidden=64,
    layers=2,
    heads=4,
    kv_heads=2,
    head_dim=16,
    intermediate=96,
    norm_eps=1e-5,
    max_positions=512,
    rope=plain_rope(1e4, 16),
)
SPECS = {
    "dense": DENSE,
    "tied": replace(DENSE, tied=True),
    "mixture": replace(
        DENSE,
        moe=MoESpec(experts=4, top_k=2, intermediate=32, normalise=True, shared=1, shared_intermediate=48),
        sparse_layers=frozenset({1}),
    ),
}


def floats_of(spec: DecoderSpec) -> dict[str, Tensor]:
    rng = np.random.default_rng(3)
    found = {}
    for name, shape in spec.tensor_shapes().items():
        values = rng.standard_normal(shape, dtype=np.float32)
        if name.endswith("norm.weight"):
            values = 1 + values / 4
        elif len(shape) > 1 and "embed" not in name:
            values *= np.float32(1.5 * shape[-1] ** -0.5)
        found[name] = Tensor(name, Path("(random)"), "F32", values.astype(np.float32))
    return found


def coded(tensor: Tensor, bits: int, group: int, order: bool = False) -> GroupedTensor:
    """The tensor in codes of few bits."""
    values = tensor.float32()
    columns = np.random.default_rng(1).permutation(values.shape[1]).astype(np.int32) if order else None
    codes, scales, minima = quantize_groups(values if columns is None else values[:, columns], bits, group, True)
    assert minima is not None
    weight = GroupedWeight(codes, bits, group, GroupScales(scales), 0, GroupScales(minima), order=columns)
    rows, columns_count = values.shape
    return GroupedTensor(tensor.name, tensor.file, (rows, columns_count), f"{bits} bits", lambda: weight)


def codes_of(spec: DecoderSpec) -> dict[str, Tensor]:
    """As files mix them: v and the head in 6 bits, k in 5 and in another order, o as floats, norms and routers too."""
    found = floats_of(spec)
    for name, tensor in list(found.items()):
        if len(tensor.shape) == 1 or "o_proj" in name or name.endswith("mlp.gate.weight"):
            continue
        if "v_proj" in name or "lm_head" in name or "embed" in name:
            found[name] = coded(tensor, 6, 16)
        elif "k_proj" in name:
            found[name] = coded(tensor, 5, 32, order=True)
        elif "down" in name:
            found[name] = coded(tensor, 8, 16)
        else:
            found[name] = coded(tensor, 4, 32)
    return found


def source_of(spec: DecoderSpec, tensors: Mapping[str, Tensor]) -> ModelSource:
    return ModelSource(Path("(random)"), dict, spec, tensors, "float32")


def logits(executor: Any, ids: Any) -> Any:
    batch = Batch.whole(np.asarray(ids, np.int32), BLOCK)
    return executor.forward(batch, executor.new_cache(batch.block_tables.size, BLOCK))


def near(ours: Any, theirs: Any) -> None:
    """But for activations on the edge between two codes, which may fall either way."""
    assert np.abs(ours - theirs).max() <= 1e-2 * np.abs(theirs).max()


IDS = np.random.default_rng(0).integers(0, 61, (3, 21))


@pytest.mark.parametrize("name", SPECS)
def test_codes_run_as_they_are_in_both_executors(name: str) -> None:
    spec, tensors = SPECS[name], codes_of(SPECS[name])
    ours, choice = build_executor(source_of(spec, tensors), Settings(backend="native", threads=2))
    assert choice.dtype == "stored"
    twin, choice = build_executor(source_of(spec, tensors), Settings(backend="reference", threads=2))
    assert choice.dtype == "stored"
    assert isinstance(twin, ReferenceDecoder)
    assert isinstance(twin.linears, GroupedLinears)
    near(logits(ours, IDS), logits(twin, IDS))
    ops = NumpyOps()
    floats = ReferenceDecoder(spec, tensors, ops, FloatLinears(spec, tensors, ops))
    wanted = logits(floats, IDS)
    assert np.abs(logits(ours, IDS) - wanted).max() < 0.02 * np.abs(wanted).max()


@pytest.mark.parametrize("name", SPECS)
@pytest.mark.parametrize("dtype", ["stored", "int8", "int4"])
def test_a_sequence_has_one_answer_whoever_is_beside_it(name: str, dtype: str) -> None:
    spec = SPECS[name]
    tensors = codes_of(spec) if dtype == "stored" else floats_of(spec)
    decoder = NativeDecoder(spec, tensors, native.Pool(2), dtype=dtype)
    together = logits(decoder, IDS)
    for i in range(3):
        np.testing.assert_array_equal(logits(decoder, IDS[i : i + 1]), together[21 * i : 21 * (i + 1)])
    np.testing.assert_array_equal(logits(decoder, IDS[:1, :7]), together[:7])


def test_a_tied_table_is_kept_once_and_in_codes() -> None:
    spec = SPECS["tied"]
    decoder = NativeDecoder(spec, codes_of(spec), native.Pool(1), dtype="stored")
    table = decoder.embedding_codes
    assert table is not None
    assert (table.outputs, table.depth, table.bits) == (61, 64, 6)
    rows = np.array([5, 60, 0], np.int32)
    stored = codes_of(spec)["model.embed_tokens.weight"].float32()
    np.testing.assert_array_equal(table.weights(rows), stored[rows])
    assert table.nbytes < 64 * 64 * 2  # of 64 outputs, with padding


@pytest.mark.parametrize(("dtype", "bound"), [("int8", 0.05), ("int4", 0.5)])
@pytest.mark.parametrize("name", SPECS)
def test_floats_are_rounded_in_groups(name: str, dtype: str, bound: float) -> None:
    spec, tensors = SPECS[name], floats_of(SPECS[name])
    ours = NativeDecoder(spec, tensors, native.Pool(2), dtype=dtype)
    twin, _ = build_executor(source_of(spec, tensors), Settings(backend="reference", dtype=dtype, threads=2))
    near(logits(ours, IDS), logits(twin, IDS))
    wanted = logits(NativeDecoder(spec, tensors, native.Pool(2)), IDS)
    error = np.abs(logits(ours, IDS) - wanted).mean() / np.abs(wanted).mean()
    assert 0 < error < bound


def test_columns_that_no_group_divides_have_a_scale_a_row() -> None:
    spec = replace(DENSE, hidden=40, intermediate=44)
    tensors = floats_of(spec)
    for dtype, bound in (("int8", 0.05), ("int4", 0.5)):
        ours = logits(NativeDecoder(spec, tensors, native.Pool(1), dtype=dtype), IDS)
        twin, _ = build_executor(source_of(spec, tensors), Settings(backend="reference", dtype=dtype))
        near(ours, logits(twin, IDS))
        wanted = logits(NativeDecoder(spec, tensors, native.Pool(1)), IDS)
        assert np.abs(ours - wanted).mean() < bound * np.abs(wanted).mean()


def test_a_decoder_whose_products_are_elsewhere_looks_floats_up() -> None:
    spec = SPECS["tied"]
    tensors = codes_of(spec)
    ops = NumpyOps()
    linears = FloatLinears(spec, tensors, ops)

    def multiply(site: Any, layer: int, expert: int, rows: Any, out: Any) -> None:
        out[...] = linears(site, layer, expert, rows)

    decoder = NativeDecoder(spec, tensors, native.Pool(1), multiply)
    assert decoder.embedding_codes is None
    np.testing.assert_allclose(
        logits(decoder, IDS), logits(ReferenceDecoder(spec, tensors, ops, linears), IDS), atol=1e-4
    )


def test_an_offload_refuses_codes_and_says_what_helps() -> None:
    with pytest.raises(CheckpointError, match=r"make one with `cutset quantize \(random\) -o DIR`"):
        next(each_matrix(source_of(DENSE, codes_of(DENSE))))
    assert next(each_matrix(source_of(DENSE, floats_of(DENSE)))).site == "qkv"


def test_choices() -> None:
    assert choose(Settings(), "stored").dtype == "stored"
    assert choose(Settings(backend="reference"), "stored").dtype == "stored"
    assert choose(Settings(dtype="float32"), "stored").dtype == "float32"
    assert choose(Settings(dtype="int4"), "bfloat16").dtype == "int4"
    for stored in ("float32", "bfloat16"):
        with pytest.raises(DeviceError, match="round a model to such with int8 or int4"):
            choose(Settings(dtype="stored"), stored)
    for dtype in ("int4", "stored", "float32"):
        with pytest.raises(DeviceError, match="an integer checkpoint runs in int8 or exact"):
            choose(Settings(dtype=dtype), "int8")
    with pytest.raises(DeviceError, match="backend torch computes in"):
        choose(Settings(backend="torch", dtype="stored"), "stored")


def test_weights_that_can_not_be_used_are_named() -> None:
    tensors = codes_of(DENSE)
    name = next(name for name in tensors if "gate_proj" in name)
    good = tensors[name]
    assert isinstance(good, GroupedTensor)
    bad = replace(good.grouped(), scales=GroupScales(np.full((96, 2), np.inf, np.float32)))
    tensors[name] = GroupedTensor(name, good.file, (96, 64), "4 bits", lambda: bad)
    with pytest.raises(CheckpointError, match="site gate_up of layer 0 can't be used"):
        NativeDecoder(DENSE, tensors, native.Pool(1), dtype="stored")
    floats = floats_of(DENSE)
    floats[name].raw[3, 5] = np.nan
    for dtype in ("int8", "int4"):
        with pytest.raises(CheckpointError, match=r"gate_proj.*can't be quantised"):
            NativeDecoder(DENSE, floats, native.Pool(1), dtype=dtype)
