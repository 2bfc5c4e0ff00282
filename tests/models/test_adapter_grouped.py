"""LoRA adapters on weights of few bits: in both executors, as merged floats give it, and whoever is beside."""

from __future__ import annotations

from dataclasses import replace
from typing import Any

import numpy as np
import pytest

from cutset.config import Settings
from cutset.kernels import native
from cutset.models.files.adapter import LoraAdapter, LowRank, rounded
from cutset.models.files.tensor import Tensor
from cutset.models.run.backend import build_executor
from cutset.models.run.decoder import FloatLinears, ReferenceDecoder
from cutset.models.run.executor import Batch
from cutset.models.run.native import NativeDecoder
from cutset.models.run.numpy_ops import NumpyOps
from cutset.models.spec import DecoderSpec
from models.test_grouped_models import BLOCK, IDS, SPECS, codes_of, floats_of, near, source_of

DTYPES = ("float32", "stored", "int8", "int4")


def adapter_of(spec: DecoderSpec, seed: int, rank: int = 5) -> LoraAdapter:
    """A part for every matrix of every site."""
    rng = np.random.default_rng(seed)
    shapes, parts = spec.tensor_shapes(), []
    for site, layer, expert in spec.sites():
        first = 0
        for name in spec.site_tensors(site, layer, expert):
            rows, columns = shapes[name]
            down = rng.standard_normal((rank, columns), np.float32) * np.float32(columns**-0.5)
            up = rng.standard_normal((rows, rank), np.float32) / 4
            parts.append(LowRank(site, layer, expert, first, down, up, 0.7))
            first += rows
    return LoraAdapter(f"a{seed}", bytes([seed]), tuple(parts))


def merged(spec: DecoderSpec, tensors: dict[str, Tensor], adapter: LoraAdapter) -> dict[str, Tensor]:
    """The floats that the tensors stand for, with the adapter added; a tied head becomes one of its own."""
    found = {
        name: Tensor(name, tensor.file, "F32", tensor.float32().astype(np.float32).copy())
        for name, tensor in tensors.items()
    }
    if spec.tied:
        embedding = found["model.embed_tokens.weight"]
        found["lm_head.weight"] = Tensor("lm_head.weight", embedding.file, "F32", embedding.float32().copy())
    bare = replace(spec, tied=False)
    for part in adapter.parts:
        first = 0
        for name in bare.site_tensors(part.site, part.layer, part.expert):
            values = found[name].float32()
            if first == part.first:
                values = values + np.float32(part.scale) * (part.up @ part.down)
                found[name] = Tensor(name, found[name].file, "F32", values.astype(np.float32))
            first += len(values)
    return found


def logits(executor: Any, ids: Any, adapters: Any) -> Any:
    batch = replace(Batch.whole(np.asarray(ids, np.int32), BLOCK), adapters=tuple(adapters))
    return executor.forward(batch, executor.new_cache(batch.block_tables.size, BLOCK))


def tensors_for(spec: DecoderSpec, dtype: str) -> dict[str, Tensor]:
    return codes_of(spec) if dtype == "stored" else floats_of(spec)


@pytest.mark.parametrize("name", SPECS)
@pytest.mark.parametrize(("dtype", "bound"), [("stored", 0.02), ("int8", 0.08), ("int4", 0.6)])
def test_it_is_what_merged_floats_give(name: str, dtype: str, bound: float) -> None:
    spec = SPECS[name]
    tensors, adapter = tensors_for(spec, dtype), adapter_of(spec, 1)
    ours = NativeDecoder(spec, tensors, native.Pool(2), dtype=dtype)
    twin, _ = build_executor(source_of(spec, tensors), Settings(backend="reference", dtype=dtype, threads=2))
    found = logits(ours, IDS, [ours.load_adapter(adapter)] * 3)
    near(found, logits(twin, IDS, [twin.load_adapter(adapter)] * 3))
    plain = replace(spec, tied=False)
    more, ops = merged(spec, tensors, adapter), NumpyOps()
    wanted = logits(ReferenceDecoder(plain, more, ops, FloatLinears(plain, more, ops)), IDS, ())
    assert np.abs(found - wanted).mean() < bound * np.abs(wanted).mean()
    without = logits(ours, IDS, ())
    assert np.abs(without - wanted).mean() > 0.1 * np.abs(wanted).mean()


@pytest.mark.parametrize("name", SPECS)
@pytest.mark.parametrize("dtype", DTYPES)
@pytest.mark.parametrize("small", [False, True])
def test_a_sequence_has_one_answer_whoever_is_beside_it(name: str, dtype: str, small: bool) -> None:
    """To the bit: beside others, with more rows than a tile has, cut in two, and by another number of threads."""
    spec = SPECS[name]
    tensors = tensors_for(spec, dtype)
    adapters: Any = [adapter_of(spec, seed, 3 + 14 * seed) for seed in range(3)]
    adapters = [rounded(one) for one in adapters] if small else adapters
    decoders = [NativeDecoder(spec, tensors, native.Pool(threads), dtype=dtype) for threads in (1, 3)]
    alone = decoders[0]
    loaded = [alone.load_adapter(one) for one in adapters]
    rng = np.random.default_rng(5)
    ids = rng.integers(0, 61, (14, 9))
    # In turns, three of one beside each other, and none.
    chosen = [loaded[i] for i in (0, 1, 0, 1, 2, 2, 2)] + [None] + [loaded[i] for i in (2, 0, 0, 1, 2, 1)]
    together = logits(alone, ids, chosen).reshape(14, 9, -1)
    threaded = [None if one is None else decoders[1].load_adapter(adapters[loaded.index(one)]) for one in chosen]
    np.testing.assert_array_equal(logits(decoders[1], ids, threaded).reshape(14, 9, -1), together)
    for i in range(14):
        np.testing.assert_array_equal(logits(alone, ids[i : i + 1], chosen[i : i + 1]), together[i])
        np.testing.assert_array_equal(logits(alone, ids[i : i + 1, :1], chosen[i : i + 1]), together[i, :1])
    order = rng.permutation(14)
    np.testing.assert_array_equal(
        logits(alone, ids[order], [chosen[i] for i in order]).reshape(14, 9, -1), together[order]
    )


@pytest.mark.parametrize("name", SPECS)
def test_products_that_are_computed_elsewhere_get_the_same(name: str) -> None:
    """Additions come after a product that lies there already: the same bits as while it is made."""
    spec, pool = SPECS[name], native.Pool(2)
    tensors = floats_of(spec)
    matrices = {
        site: native.LinearF32(np.concatenate([tensors[one].float32() for one in spec.site_tensors(*site)]), pool)
        for site in spec.sites()
    }

    def multiply(site: Any, layer: int, expert: int, rows: Any, out: Any) -> None:
        matrices[site, layer, expert](rows, out, pool)

    found = []
    for linears in (None, multiply):
        decoder = NativeDecoder(spec, tensors, pool, linears)
        loaded = [decoder.load_adapter(adapter_of(spec, seed)) for seed in range(2)]
        found.append(logits(decoder, IDS, [loaded[0], None, loaded[1]]))
    np.testing.assert_array_equal(found[0], found[1])
