"""The native executor against the reference one, and its batch invariance to the bit."""

from __future__ import annotations

from collections.abc import Callable, Iterator, Sequence
from concurrent.futures import ThreadPoolExecutor
from dataclasses import replace
from pathlib import Path
from typing import Any

import numpy as np
import pytest
from numpy.typing import NDArray

import cutset.kernels._native as native
from cutset.models.families.rope import plain_rope
from cutset.models.files.checkpoint import Tensor
from cutset.models.run.decoder import FloatLinears, ReferenceDecoder
from cutset.models.run.executor import Batch, States
from cutset.models.run.native import NativeDecoder
from cutset.models.run.numpy_ops import NumpyOps
from cutset.models.spec import ConvSpec, DecoderSpec, DeltaSpec, DynamicRope, LayerInputSpec, LongRope, MoESpec

BLOCK = 16
DENSE = DecoderSpec(
    family="test",
    vocab_size=61,
    hidden=48,
    layers=3,
    heads=6,
    kv_heads=2,
    head_dim=8,
    intermediate=40,
    norm_eps=1e-5,
    max_positions=512,
    rope=plain_rope(1e4, 8),
)
MIXTURE = replace(
    DENSE,
    moe=MoESpec(experts=5, top_k=2, intermediate=24, normalise=True, shared=2, shared_intermediate=20),
    sparse_layers=frozenset({0, 2}),
)
SPECS = {
    "dense": DENSE,
    "tied": replace(DENSE, tied=True, heads=4, kv_heads=4),
    "qk-norm": replace(DENSE, qk_norm=True, head_dim=20, rope=plain_rope(1e4, 20)),
    "biases": replace(DENSE, qkv_bias=True, o_bias=True, mlp_bias=True),
    "windows": replace(DENSE, windows=(5, 0, 20)),
    "mixture": MIXTURE,
    "mixture-unnormalised": replace(
        MIXTURE,
        moe=MoESpec(experts=8, top_k=1, intermediate=24, normalise=False),
        sparse_layers=frozenset(range(3)),
        qk_norm=True,
    ),
    "gemma-like": replace(
        DENSE,
        output_norms=True,
        activation="gelu_tanh",
        qk_norm=True,
        norm_offset=1.0,
        embedding_scale=48**0.5,
        attention_scale=0.31,
        attention_softcap=2.0,
        logit_softcap=1.5,
        windows=(7, 0, 7),
        other_ropes=(plain_rope(100.0, 8),),
        rope_tables=(1, 0, 1),
    ),
    "layers-that-differ": replace(
        DENSE,
        layers=5,
        output_norms=True,
        qk_norm=True,
        v_norm=True,
        qkv_bias=True,
        head_sizes=((2, 8), (1, 12), (2, 8), (1, 12), (2, 8)),
        kv_layers=(0, 1, 2, 1, 2),
        equal_kv_layers=frozenset({1}),
        intermediates=(70, 70, 30, 41, 70),
        windows=(7, 0, 7, 0, 7),
        other_ropes=(plain_rope(100.0, 12),),
        rope_tables=(0, 1, 0, 1, 0),
        layer_scales=True,
        sinks=True,
    ),
    "layers-told-of-tokens": replace(
        DENSE, output_norms=True, layer_scales=True, layer_inputs=LayerInputSpec(70, 10, 3.0, 0.3, 0.7)
    ),
    "experts-with-norms": replace(
        MIXTURE,
        moe=MoESpec(5, 2, 24, normalise=True, shared=1, shared_intermediate=20, own_norms=True, router_scale=0.6),
        intermediates=(40, 50, 30),
        layer_scales=True,
    ),
    "gates-and-shared-keys": replace(
        MIXTURE, gated_attention=True, kv_layers=(0, 0, 0), layer_inputs=LayerInputSpec(61, 5, 2.0, 0.2, 0.5)
    ),
    "output-norms-alone": replace(DENSE, input_norms=False, output_norms=True, qk_norm=True, whole_norms=True),
    "gelu": replace(MIXTURE, activation="gelu_erf"),
    "relu": replace(DENSE, activation="relu"),
    "squared-relu": replace(DENSE, activation="relu2"),
    "multipliers": replace(
        MIXTURE, embedding_scale=3.0, attention_scale=0.05, residual_scale=0.4, logit_scale=0.5, rope_tables=(0, -1, 0)
    ),
    "partial-rotary": replace(DENSE, head_dim=20, rope=plain_rope(1e4, 6)),
    "sinks": replace(
        MIXTURE,
        sinks=True,
        router_bias=True,
        expert_bias=True,
        windows=(5, 0, 20),
        activation="clamped",
        activation_limit=1.1,
        activation_alpha=1.5,
    ),
    "short-convolutions": replace(DENSE, recurrent=ConvSpec(48, 3), recurrent_layers=frozenset({0, 2}), qk_norm=True),
    "short-convolutions-alone": replace(
        MIXTURE, recurrent=ConvSpec(48, 5, bias=True), recurrent_layers=frozenset(range(3))
    ),
    "convolutions-of-one-tap": replace(DENSE, recurrent=ConvSpec(48, 1), recurrent_layers=frozenset({1})),
    "delta-rule": replace(
        DENSE, recurrent=DeltaSpec(3, 6, 9, 7, 4), recurrent_layers=frozenset({0, 1}), norm_eps=1e-3, qk_norm=True
    ),
    "delta-rule-last": replace(
        MIXTURE,
        moe=MoESpec(5, 2, 24, normalise=True, shared=2, shared_intermediate=20, shared_gate=True),
        recurrent=DeltaSpec(2, 2, 16, 32, 2),
        recurrent_layers=frozenset({2}),
        gated_attention=True,
        qk_norm=True,
        qkv_bias=True,
        o_bias=True,
        head_dim=20,
        rope=plain_rope(1e4, 6),
    ),
    "gated-attention": replace(DENSE, gated_attention=True),
    "interleaved-rotary": replace(DENSE, head_dim=20, rope=plain_rope(1e4, 10), rope_interleaved=True),
    "growing-queries": replace(DENSE, query_growth=0.7, query_positions=9),
    "long-rope": replace(DENSE, rope=replace(DENSE.rope, long=LongRope((0.9, 0.2, 0.07, 0.01), 30))),
    "dynamic-rope": replace(DENSE, rope=replace(DENSE.rope, dynamic=DynamicRope(1e4, 2.0, 16))),
}


@pytest.fixture(params=native.available_isas())
def isa(request: pytest.FixtureRequest) -> Iterator[str]:
    before = native.isa()
    native.select_isa(request.param)
    yield request.param
    native.select_isa(before)


def tensors_of(spec: DecoderSpec) -> dict[str, Tensor]:
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


def native_decoder(spec: DecoderSpec, threads: int = 1) -> NativeDecoder:
    return NativeDecoder(spec, tensors_of(spec), native.Pool(threads))


def reference_decoder(spec: DecoderSpec) -> ReferenceDecoder:
    ops, tensors = NumpyOps(), tensors_of(spec)
    return ReferenceDecoder(spec, tensors, ops, FloatLinears(spec, tensors, ops))


LENS = (40, 1, 23, 70)
IDS = [np.random.default_rng(i).integers(0, 61, n).astype(np.int32) for i, n in enumerate(LENS)]
BLOCKS = 20
TABLES = np.random.default_rng(9).permutation(BLOCKS)[: 4 * 5].reshape(4, 5).astype(np.int32)


def batch_of(
    rows: Sequence[tuple[int, int, int]],
    wanted: Sequence[int] | None = None,
    saves: Sequence[tuple[int, int, int]] = (),
) -> Batch:
    """The rows first .. end of some sequences, as (sequence, first, end); logits of all rows unless `wanted`.

    The state of sequence s, if it has one, lies in slot s.
    """
    starts = np.cumsum([0] + [end - first for _, first, end in rows]).astype(np.int32)
    return Batch(
        token_ids=np.concatenate([IDS[s][first:end] for s, first, end in rows]),
        positions=np.concatenate([np.arange(first, end, dtype=np.int32) for _, first, end in rows]),
        row_starts=starts,
        context_lens=np.array([end for _, _, end in rows], np.int32),
        block_tables=TABLES[[s for s, _, _ in rows]],
        logit_rows=np.arange(starts[-1], dtype=np.int32) if wanted is None else np.array(wanted, np.int32),
        limits=np.array([LENS[s] for s, _, _ in rows], np.int32),
        states=States(
            np.array([s for s, _, _ in rows], np.int32),
            np.array([s if first else -1 for s, first, _ in rows], np.int32),
            np.array(saves, np.int32).reshape(-1, 3),
        ),
    )


WHOLE = [(s, 0, n) for s, n in enumerate(LENS)]
EDGES = np.cumsum((0, *LENS))


def told_apart(logits: NDArray[Any]) -> NDArray[Any]:
    """The same; rows that are equal, as zeros are, would equal each other however they are run."""
    assert len(np.unique(logits, axis=0)) > len(logits) / 2
    return logits


def close(actual: NDArray[Any], expected: NDArray[Any]) -> None:
    assert np.ptp(expected) > 0.1, "zeros would be close to it"
    np.testing.assert_allclose(actual, expected, rtol=2e-4, atol=2e-4)


@pytest.mark.parametrize("name", SPECS)
@pytest.mark.usefixtures("isa")
def test_equals_the_reference(name: str) -> None:
    ours, twin = native_decoder(SPECS[name], 2), reference_decoder(SPECS[name])
    steps = [[(0, 0, 17), (1, 0, 1)], [(2, 0, 23), (0, 17, 39), (3, 0, 65)], [(0, 39, 40), (3, 65, 70)]]
    cache, twin_cache = ours.new_cache(BLOCKS, BLOCK), twin.new_cache(BLOCKS, BLOCK)
    for rows in steps:
        close(ours.forward(batch_of(rows), cache), twin.forward(batch_of(rows), twin_cache))


@pytest.mark.parametrize("name", SPECS)
@pytest.mark.usefixtures("isa")
def test_is_batch_invariant(name: str) -> None:
    decoder = native_decoder(SPECS[name])
    whole = told_apart(decoder.forward(batch_of(WHOLE), decoder.new_cache(BLOCKS, BLOCK)))
    threaded = native_decoder(SPECS[name], 3)
    np.testing.assert_array_equal(threaded.forward(batch_of(WHOLE), threaded.new_cache(BLOCKS, BLOCK)), whole)
    for s, n in enumerate(LENS):
        alone = decoder.forward(batch_of([(s, 0, n)]), decoder.new_cache(BLOCKS, BLOCK))
        np.testing.assert_array_equal(alone, whole[EDGES[s] : EDGES[s + 1]])
    cache = decoder.new_cache(BLOCKS, BLOCK)
    decoder.forward(batch_of([(3, 0, 21), (1, 0, 1)], wanted=[]), cache)
    for first, end in ((21, 60), (60, 61), (61, 70)):
        rows = [(0, 0, 40), (3, first, end)] if first == 60 else [(3, first, end)]
        chunk = decoder.forward(batch_of(rows), cache)[-(end - first) :]
        np.testing.assert_array_equal(chunk, whole[EDGES[3] + first : EDGES[3] + end])


@pytest.mark.parametrize("name", [name for name, spec in SPECS.items() if spec.state_floats])
@pytest.mark.usefixtures("isa")
def test_a_state_that_was_saved_goes_on_as_the_sequence_does(name: str) -> None:
    for decoder in (native_decoder(SPECS[name], 2), reference_decoder(SPECS[name])):
        cache = decoder.new_cache(BLOCKS, BLOCK, 8)
        compare = np.testing.assert_array_equal if isinstance(decoder, NativeDecoder) else close
        decoder.forward(batch_of([(3, 0, 9)]), cache)
        whole = told_apart(decoder.forward(batch_of(WHOLE, saves=[(3, 10, 5), (3, 32, 6), (0, 40, 4)]), cache))
        for first, source in ((10, 5), (32, 6)):
            batch = batch_of([(3, first, 70)])
            assert batch.states is not None
            batch = replace(batch, states=replace(batch.states, sources=np.array([source], np.int32)))
            for _ in range(2):  # what is read stays
                compare(decoder.forward(batch, cache), whole[EDGES[3] + first :])


def test_states_that_contradict_each_other_are_refused() -> None:
    decoder = native_decoder(SPECS["short-convolutions"])
    cache = decoder.new_cache(BLOCKS, BLOCK, 6)
    good = batch_of([(3, 0, 40)])
    decoder.forward(good, cache)
    more = batch_of([(3, 40, 60), (0, 0, 5)])
    assert more.states is not None
    for message, slots, sources, saves in (
        ("slot that isn't there", [6, 0], [3, -1], []),
        ("slot that isn't there", [-1, 0], [3, -1], []),
        ("written to one slot", [3, 3], [3, -1], []),
        ("written to one slot", [3, 0], [3, -1], [(0, 50, 0)]),
        ("source that isn't there", [3, 0], [6, -1], []),
        ("starts without a state", [3, 0], [-1, -1], []),
        ("starts without a state", [3, 0], [3, 0], []),
        ("that this step writes", [3, 4], [4, -1], []),
        ("that this step writes", [3, 0], [5, -1], [(1, 5, 5)]),
        ("isn't in this step", [3, 0], [3, -1], [(0, 40, 4)]),
        ("isn't in this step", [3, 0], [3, -1], [(0, 61, 4)]),
        ("of no sequence", [3, 0], [3, -1], [(2, 5, 4)]),
    ):
        states = States(
            np.array(slots, np.int32), np.array(sources, np.int32), np.array(saves, np.int32).reshape(-1, 3)
        )
        with pytest.raises(ValueError, match=message):
            decoder.forward(replace(more, states=states), cache)
    with pytest.raises(ValueError, match="say where they lie"):
        decoder.forward(replace(more, states=None), cache)
    decoder.forward(more, cache)
    with pytest.raises(ValueError, match="another decoder"):
        native.Step(native_decoder(DENSE).core, cache.kv, decoder.pool)


@pytest.mark.parametrize("name", ["dense", "mixture", "short-convolutions", "delta-rule-last"])
def test_only_wanted_rows_give_logits(name: str) -> None:
    decoder = native_decoder(SPECS[name])
    cache = decoder.new_cache(BLOCKS, BLOCK)
    whole = told_apart(decoder.forward(batch_of(WHOLE), cache))
    for wanted in ([39, 40, 63, 133], [5], [7, 6, 6, 130], [], [*range(134), *range(134)]):
        np.testing.assert_array_equal(decoder.forward(batch_of(WHOLE, wanted), cache), whole[wanted])


@pytest.mark.parametrize("name", ["dense", "short-convolutions-alone", "delta-rule"])
def test_a_key_mask_hides_padding(name: str) -> None:
    ours, twin = native_decoder(SPECS[name]), reference_decoder(SPECS[name])
    ids = np.random.default_rng(1).integers(0, 61, (3, 37)).astype(np.int32)
    mask = np.ones((3, 37), np.bool_)
    mask[0, :9] = mask[2, 30:] = False
    batch = Batch.whole(ids, BLOCK, mask)
    close(ours.forward(batch, ours.new_cache(9, BLOCK)), twin.forward(batch, twin.new_cache(9, BLOCK)))


@pytest.mark.parametrize("name", SPECS)
def test_traces_what_the_reference_traces(name: str) -> None:
    def run(decoder: NativeDecoder | ReferenceDecoder) -> list[tuple[str, int, NDArray[Any]]]:
        seen: list[tuple[str, int, NDArray[Any]]] = []
        note: Callable[[str, int, Any], None] = lambda name, layer, x: seen.append((name, layer, np.array(x)))  # noqa: E731
        decoder.forward(batch_of(WHOLE), decoder.new_cache(BLOCKS, BLOCK), note)
        return seen

    ours, twins = run(native_decoder(SPECS[name])), run(reference_decoder(SPECS[name]))
    assert [step[:2] for step in ours] == [step[:2] for step in twins]
    for (_, _, x), (_, _, expected) in zip(ours, twins, strict=True):
        close(x.reshape(expected.shape), expected)


@pytest.mark.parametrize("name", ["tied", "mixture", "short-convolutions", "delta-rule-last"])
def test_a_split_run_gives_what_the_local_one_gives(name: str) -> None:
    spec, tensors, pool = SPECS[name], tensors_of(SPECS[name]), native.Pool(1)
    asked = []

    def multiply(site: Any, layer: int, expert: int, rows: NDArray[np.float32], out: NDArray[np.float32]) -> None:
        asked.append((site, layer, expert))
        weight = np.concatenate([tensors[part].raw for part in spec.site_tensors(site, layer, expert)])
        native.LinearF32(weight)(rows, out)

    local, split = native_decoder(spec), NativeDecoder(spec, tensors, pool, multiply)
    expected = told_apart(local.forward(batch_of(WHOLE), local.new_cache(BLOCKS, BLOCK)))
    np.testing.assert_array_equal(split.forward(batch_of(WHOLE), split.new_cache(BLOCKS, BLOCK)), expected)
    assert asked == spec.sites()


def integer_linears(decoder: NativeDecoder, bits: int) -> Any:
    linears, tensors = native.LocalLinears(decoder.core, decoder.pool), tensors_of(decoder.spec)
    for site, layer, expert in decoder.spec.sites():
        weight = np.concatenate([tensors[part].raw for part in decoder.spec.site_tensors(site, layer, expert)])
        linears.put(site, layer, expert, native.LinearI8(*native.quantize_weight(weight)), bits)
    return linears


@pytest.mark.parametrize("bits", [8, 12])
@pytest.mark.usefixtures("isa")
def test_integer_products(bits: int) -> None:
    decoder, threaded = native_decoder(MIXTURE), native_decoder(MIXTURE, 3)
    exact = decoder.forward(batch_of(WHOLE), decoder.new_cache(BLOCKS, BLOCK))
    decoder.linears, threaded.linears = integer_linears(decoder, bits), integer_linears(threaded, bits)
    whole = decoder.forward(batch_of(WHOLE), decoder.new_cache(BLOCKS, BLOCK))
    assert 0 < np.abs(whole - exact).mean() < 0.1 * np.abs(exact).mean()
    np.testing.assert_array_equal(threaded.forward(batch_of(WHOLE), threaded.new_cache(BLOCKS, BLOCK)), whole)
    alone = decoder.forward(batch_of([(3, 0, 70)]), decoder.new_cache(BLOCKS, BLOCK))
    np.testing.assert_array_equal(alone, whole[EDGES[3] :])


def test_linears_must_fit_their_sites() -> None:
    decoder = native_decoder(MIXTURE)
    linears, linear = native.LocalLinears(decoder.core, decoder.pool), native.LinearF32(np.ones((3, 48), np.float32))
    for site, layer, expert, message in (
        ("qkv", 0, -1, "another shape"),
        ("qkv", 3, -1, "no such layer"),
        ("down", 0, -1, "no such expert"),
        ("down", 1, 0, "no such expert"),
        ("gate_up", 0, 7, "no such expert"),
        ("gate_up", 0, 6, "another shape"),
        ("up", 0, 0, "no such site"),
    ):
        with pytest.raises(ValueError, match=message):
            linears.put(site, layer, expert, linear)
    decoder.linears = linears
    with pytest.raises(ValueError, match="a site has no weights"):
        decoder.forward(batch_of(WHOLE), decoder.new_cache(BLOCKS, BLOCK))


def test_steps_run_at_once_over_one_decoder() -> None:
    decoder = native_decoder(MIXTURE, 2)
    cache = decoder.new_cache(BLOCKS, BLOCK)
    whole = told_apart(decoder.forward(batch_of(WHOLE), cache))
    with ThreadPoolExecutor(4) as threads:
        for _ in range(20):
            results = list(threads.map(lambda s: decoder.forward(batch_of([(s, 0, LENS[s])]), cache), range(4)))
            np.testing.assert_array_equal(np.concatenate(results), whole)


def test_wrong_batches_are_refused_and_the_next_one_runs() -> None:
    decoder = native_decoder(DENSE)
    cache = decoder.new_cache(BLOCKS, BLOCK)
    good = batch_of(WHOLE)
    whole = decoder.forward(good, cache)
    wrong = {
        "token id": {"token_ids": np.full_like(good.token_ids, 61)},
        "logit_rows": {"logit_rows": np.array([134], np.int32)},
        "more rows than tokens": {"context_lens": good.context_lens - 1},
        "block that isn't there": {"block_tables": good.block_tables * 0 + BLOCKS},
        "more tokens than": {"block_tables": np.ascontiguousarray(good.block_tables[:, :2])},
        "end with the number": {"row_starts": good.row_starts - np.array([0, 0, 0, 0, 1], np.int32)},
        "begin with 0": {"row_starts": good.row_starts + 1},
    }
    for message, change in wrong.items():
        with pytest.raises(ValueError, match=message):
            decoder.forward(replace(good, **change), cache)
        np.testing.assert_array_equal(decoder.forward(good, cache), whole)
    with pytest.raises(ValueError, match="another decoder"):
        native.Step(native_decoder(SPECS["qk-norm"]).core, cache.kv, decoder.pool)
    with pytest.raises(ValueError, match="multiple of 16"):
        decoder.new_cache(4, 8)


def test_an_error_in_a_product_leaves_the_decoder_usable() -> None:
    def fail(site: Any, layer: int, expert: int, rows: NDArray[np.float32], out: NDArray[np.float32]) -> None:
        raise ConnectionError("gone")

    decoder = NativeDecoder(DENSE, tensors_of(DENSE), native.Pool(1), fail)
    cache = decoder.new_cache(BLOCKS, BLOCK)
    with pytest.raises(ConnectionError):
        decoder.forward(batch_of(WHOLE), cache)
    decoder.linears = native_decoder(DENSE).linears
    twin = native_decoder(DENSE)
    expected = twin.forward(batch_of(WHOLE), twin.new_cache(BLOCKS, BLOCK))
    np.testing.assert_array_equal(decoder.forward(batch_of(WHOLE), cache), expected)
