"""Checkpoints that other programs have quantised: the floats that their codes stand for, bit for bit, and what is
refused."""

from __future__ import annotations

import json
import shutil
from collections.abc import Callable
from pathlib import Path
from typing import Any

import numpy as np
import pytest
from numpy.typing import NDArray

from cutset.cli import main
from cutset.config import Settings
from cutset.errors import CutsetError
from cutset.models.families.common import QUANTIZATIONS
from cutset.models.files.checkpoint import SafetensorsFile
from cutset.models.files.code_words import packed_codes, unpacked_codes
from cutset.models.files.contents import contents_of
from cutset.models.files.float8 import float8_values
from cutset.models.files.grouped import GroupedTensor
from cutset.models.files.source import open_source, specify
from cutset.models.files.writer import write_safetensors
from cutset.models.run.backend import build_executor
from cutset.models.run.executor import Batch
from models import quantized_files as files
from models.quantized_files import Made

GPTQ = {"quant_method": "gptq", "bits": 4, "group_size": 32, "desc_act": True, "sym": False, "damp_percent": 0.01}
AWQ = {"quant_method": "awq", "bits": 4, "group_size": 32, "version": "gemm", "zero_point": True}


def groups_of(*weights: dict[str, Any], form: str = "pack-quantized", **more: Any) -> dict[str, Any]:
    groups = {
        f"group_{i}": {"targets": ["Linear"], "weights": {"type": "int", "symmetric": True, **one}}
        for i, one in enumerate(weights)
    }
    return {"quant_method": "compressed-tensors", "format": form, "config_groups": groups, "ignore": ["lm_head"],
            "kv_cache_scheme": None, "quantization_status": "compressed", **more}  # fmt: skip


INT4 = groups_of({"num_bits": 4, "group_size": 32, "strategy": "group"})
FP8 = {"num_bits": 8, "type": "float", "symmetric": True}


def by_name(name: str, outputs: int, inputs: int, rng: np.random.Generator) -> Made | None:
    """Several groups of modules: 8 bits a row, 4 bits in groups, one that is ignored."""
    if "o_proj" in name:
        return None
    if "down_proj" in name:
        return files.packed(rng, outputs, inputs, 8, -1)
    return files.packed(rng, outputs, inputs, 4, 64, zeros="I32")


RNG = np.random.default_rng(7)
Make = Callable[[str, int, int], "Made | None"]
CASES: dict[str, tuple[dict[str, Any], Make]] = {
    **{
        f"GPTQ, {bits} bits, {group}, {'v2' if v2 else 'v1'}": (
            GPTQ | {"bits": bits, "group_size": group, "checkpoint_format": "gptq_v2" if v2 else "gptq"},
            lambda n, o, i, bits=bits, group=group, v2=v2: files.gptq(
                RNG, o, i, bits, group, v2=v2, order=group > 0
            ),
        )
        for bits in (2, 3, 4, 8)
        for group in (-1, 32, 128)
        for v2 in (False, True)
    },
    "GPTQ, symmetric": (GPTQ | {"sym": True, "desc_act": False}, lambda n, o, i: files.gptq(RNG, o, i, 4, 32,
                                                                                            symmetric=True)),
    "GPTQ, uneven groups": (GPTQ, lambda n, o, i: files.gptq(RNG, o, i, 4, 32, order=True, uneven=True)),
    "GPTQ, without g_idx": (GPTQ, lambda n, o, i: without(files.gptq(RNG, o, i, 4, 32), "g_idx")),
    "GPTQ, several bits": (
        GPTQ | {"dynamic": {"+:.*down.*": {"bits": 8, "group_size": 64}}},
        lambda n, o, i: files.gptq(RNG, o, i, *((8, 64) if "down" in n else (4, 32))),
    ),
    **{f"AWQ, {group}": (AWQ | {"group_size": group}, lambda n, o, i, group=group: files.awq(RNG, o, i, group))
       for group in (-1, 32, 64, 128)},
    "AWQ, old names": ({"quant_method": "awq", "w_bit": 4, "q_group_size": 64, "version": "GEMM"},
                       lambda n, o, i: files.awq(RNG, o, i, 64)),
    **{
        f"packed, {bits} bits, {group}, zeros {zeros}, {half}": (
            groups_of({"num_bits": bits, "group_size": group, "symmetric": not zeros}),
            lambda n, o, i, bits=bits, group=group, zeros=zeros, half=half: files.packed(
                RNG, o, i, bits, group, zeros=zeros, half=half
            ),
        )
        for bits, group, zeros, half in ((4, 128, "", "BF16"), (4, 32, "I32", "F16"), (4, 64, "I8", "F32"),
                                         (8, 32, "I32", "BF16"), (8, -1, "", "F16"), (4, -1, "I32", "F32"))
    },
    "packed, act-order": (INT4, lambda n, o, i: files.packed(RNG, o, i, 4, 32, zeros="I32", order=True)),
    "packed, several groups": (groups_of({"num_bits": 4, "group_size": 64}, {"num_bits": 8, "strategy": "channel"}),
                               lambda n, o, i: by_name(n, o, i, RNG)),
    "int8, rows": (groups_of({"num_bits": 8}, form="int-quantized"), lambda n, o, i: files.integers(RNG, o, i, (o, 1))),
    "int8, zeros": (groups_of({"num_bits": 8}, form="int-quantized"),
                    lambda n, o, i: files.integers(RNG, o, i, (o, 1), zeros=True)),
    "int8, matrix": (groups_of({"num_bits": 8}, form="int-quantized"), lambda n, o, i: files.integers(RNG, o, i, (1,))),
}  # fmt: skip
FLOATS: dict[str, tuple[dict[str, Any], Make]] = {
    "FP8, blocks": (
        {"quant_method": "fp8", "fmt": "e4m3", "activation_scheme": "dynamic", "weight_block_size": [128, 128]},
        lambda n, o, i: files.fp8(RNG, o, i, (-(-o // 128), -(-i // 128)), (128, 128), "weight_scale_inv"),
    ),
    "FP8, small blocks": (
        {"quant_method": "fp8", "weight_block_size": [48, 80]},
        lambda n, o, i: files.fp8(RNG, o, i, (-(-o // 48), -(-i // 80)), (48, 80), "weight_scale_inv"),
    ),
    "FP8, matrix": ({"quant_method": "fp8"}, lambda n, o, i: files.fp8(RNG, o, i, (), (o, i))),
    "compressed FP8, rows": (groups_of(FP8, form="float-quantized"),
                             lambda n, o, i: files.fp8(RNG, o, i, (o, 1), (1, i))),
    "compressed FP8, matrix": (groups_of(FP8, form="float-quantized"),
                               lambda n, o, i: files.fp8(RNG, o, i, (1,), (o, i))),
    "compressed FP8, blocks": (
        groups_of(FP8 | {"strategy": "block", "block_structure": [128, 128]}, form="float-quantized"),
        lambda n, o, i: files.fp8(RNG, o, i, (-(-o // 128), -(-i // 128)), (128, 128)),
    ),
}  # fmt: skip


def without(made: Made, *ends: str) -> Made:
    parts, values = made
    return {end: part for end, part in parts.items() if end not in ends}, values


def logits(folder: Path, **settings: Any) -> NDArray[np.float32]:
    executor, _ = build_executor(open_source(folder), Settings(threads=1, **settings))
    ids = np.arange(3, 15, dtype=np.int32).reshape(1, 12)
    return np.array(executor.forward(Batch.whole(ids, 16), executor.new_cache(1, 16)))


@pytest.mark.parametrize("name", [*CASES, *FLOATS])
def test_values_are_what_the_layout_says(name: str, tmp_path: Path) -> None:
    config, make = (CASES | FLOATS)[name]
    expected = files.write(tmp_path, config, make)
    source = open_source(tmp_path)
    assert expected
    for tensor, values in expected.items():
        np.testing.assert_array_equal(source.tensors[tensor].float32(), values, err_msg=tensor)
        grouped = source.tensors[tensor]
        assert isinstance(grouped, GroupedTensor) == (name in CASES and "uneven" not in name)
        if isinstance(grouped, GroupedTensor):
            weight = grouped.grouped()
            assert weight.codes.dtype == np.uint8
            assert weight.codes.max() < 1 << weight.bits
            if isinstance(weight.zeros, np.ndarray):
                assert weight.zeros.dtype == np.uint8
    assert source.dtype == ("grouped" if name in CASES and "uneven" not in name else "float32")


def test_every_number_of_8_bits() -> None:
    torch = pytest.importorskip("torch")
    codes = torch.arange(256, dtype=torch.uint8)
    for dtype, theirs in (("F8_E4M3", torch.float8_e4m3fn), ("F8_E5M2", torch.float8_e5m2)):
        np.testing.assert_array_equal(float8_values(dtype), codes.view(theirs).float().numpy())


@pytest.mark.parametrize("bits", [2, 3, 4, 5, 6, 8])
def test_words_hold_a_stream_of_bits(bits: int) -> None:
    codes = np.random.default_rng(bits).integers(0, 1 << bits, (3, 37)).astype(np.uint8)
    words = files.stream(codes, bits)
    np.testing.assert_array_equal(packed_codes(codes, bits), words)
    np.testing.assert_array_equal(unpacked_codes(words, bits, 37), codes)


def test_methods_are_those_that_families_let_in() -> None:
    assert QUANTIZATIONS == ("cutset", "awq", "compressed-tensors", "fp8", "gptq")


@pytest.mark.parametrize("name", ["GPTQ, 4 bits, 32, v1", "AWQ, 64", "packed, act-order", "int8, rows", "FP8, blocks"])
def test_a_model_runs_as_its_floats_do(name: str, tmp_path: Path) -> None:
    config, make = (CASES | FLOATS)[name]
    files.write(tmp_path / "model", config, lambda *args: scaled(make(*args)))
    assert main(["convert", str(tmp_path / "model"), "-o", str(tmp_path / "x.json")]) == 0
    assert main(["convert", str(tmp_path / "x.json"), "-o", str(tmp_path / "floats")]) == 0
    expected = logits(tmp_path / "floats", dtype="float32")
    np.testing.assert_array_equal(logits(tmp_path / "model", dtype="float32"), expected)
    close = logits(tmp_path / "model")
    assert np.abs(close - expected).max() < 0.02 * np.ptp(expected)
    assert main(["quantize", str(tmp_path / "model"), "-o", str(tmp_path / "int8")]) == 0
    assert contents_of(tmp_path / "model").bits < 33
    with pytest.raises(CutsetError, match=r"cutset convert"):
        specify(tmp_path / "model")


def scaled(made: Made | None) -> Made | None:
    """With scales that make no values beyond those of a model."""
    if made is None:
        return None
    parts, values = made
    small = {
        end: (dtype, (array * np.asarray(0.03, array.dtype) if "scale" in end and dtype != "BF16" else array))
        for end, (dtype, array) in parts.items()
    }
    return small, values


def test_biases_of_zeros_are_left_out(tmp_path: Path) -> None:
    name = "model.layers.0.self_attn.o_proj.bias"
    make: Make = lambda n, o, i: files.gptq(RNG, o, i, 4, 32)  # noqa: E731
    files.write(tmp_path / "zeros", GPTQ, make, extra={name: ("F16", np.zeros(128, np.float16))})
    open_source(tmp_path / "zeros")
    files.write(tmp_path / "ones", GPTQ, make, extra={name: ("F16", np.ones(128, np.float16))})
    with pytest.raises(CutsetError, match=r"o_proj\.bias is unexpected"):
        open_source(tmp_path / "ones")


def test_scales_of_activations_and_keys_are_left_out(tmp_path: Path) -> None:
    extra: files.Parts = {
        f"model.layers.0.self_attn.{end}": ("F32", np.ones(1, np.float32)) for end in ("k_scale", "v_scale")
    }
    files.write(tmp_path, *CASES["int8, rows"], extra=extra)
    open_source(tmp_path)


Change = Callable[[dict[str, Any], dict[str, Any]], object]
Q = "model.layers.0.self_attn.q_proj"


def stored(end: str, change: Callable[[NDArray[Any]], NDArray[Any]]) -> Change:
    def make(config: dict[str, Any], table: dict[str, Any]) -> None:
        dtype, array = table[f"{Q}.{end}"]
        table[f"{Q}.{end}"] = (dtype, change(array.copy()))

    return make


def said(**values: Any) -> Change:
    return lambda config, table: config.update(values)


def weights_say(**values: Any) -> Change:
    return lambda config, table: config["config_groups"]["group_0"]["weights"].update(values)


def set_first(value: float) -> Callable[[NDArray[Any]], NDArray[Any]]:
    def make(array: NDArray[Any]) -> NDArray[Any]:
        array.reshape(-1)[0] = value
        return array

    return make


BAD: dict[str, tuple[str, Change, str]] = {
    "a method that isn't known": ("AWQ, 32", said(quant_method="bitsandbytes"), "bitsandbytes.*known are awq"),
    "a method that is a list": ("AWQ, 32", said(quant_method=[]), "known are awq"),
    "no method": ("AWQ, 32", said(quant_method=None), "known are awq"),
    "5 bits of GPTQ": ("GPTQ, symmetric", said(bits=5), "bits must be 2 or 3 or 4 or 8, not 5"),
    "absurd bits": ("GPTQ, symmetric", said(bits=1 << 40), "bits must be an integer"),
    "other bits": ("GPTQ, symmetric", said(bits=8), r"q_proj\.qzeros has shape \(4, 16\), not \(4, 32\)"),
    "groups of 0": ("GPTQ, symmetric", said(group_size=0), "group_size must be -1 or a number"),
    "groups that don't divide": ("GPTQ, symmetric", said(group_size=48), "4 groups of 128 columns.* groups of 48"),
    "groups of another number": ("AWQ, 32", said(group_size=64), "groups of 64"),
    "another format of GPTQ": ("GPTQ, symmetric", said(checkpoint_format="marlin"), "checkpoint_format must be gptq"),
    "GPTQ for one kernel": ("GPTQ, symmetric", said(is_marlin_format=True), "is_marlin_format must be false"),
    "another order of AWQ": ("AWQ, 32", said(version="gemv"), "version must be gemm"),
    "8 bits of AWQ": ("AWQ, 32", said(bits=8), "bits must be 4, not 8"),
    "g_idx out of range": ("GPTQ, symmetric", stored("g_idx", set_first(4)), r"q_proj\.g_idx names groups"),
    "g_idx below 0": ("GPTQ, symmetric", stored("g_idx", set_first(-1)), r"q_proj\.g_idx names groups"),
    "g_idx too short": ("GPTQ, symmetric", stored("g_idx", lambda a: a[:64]), r"g_idx has shape \(64,\)"),
    "qzeros of another size": ("GPTQ, symmetric", stored("qzeros", lambda a: a[:, :8]), r"qzeros has shape \(4, 8\)"),
    "scales of integers": ("AWQ, 32", lambda config, table: table.update({f"{Q}.scales": table[f"{Q}.qzeros"]}),
                           r"q_proj\.scales is I32"),
    "no qzeros": ("AWQ, 32", lambda config, table: table.pop(f"{Q}.qzeros"), r"q_proj\.qzeros is missing"),
    "no scales": ("GPTQ, symmetric", lambda config, table: table.pop(f"{Q}.scales"), r"q_proj\.scales is missing"),
    "scales that aren't finite": ("AWQ, 32", stored("scales", set_first(np.nan)), "scales that aren't finite"),
    "no groups": ("INT4", lambda config, table: config.pop("config_groups"), "config_groups is missing"),
    "a format that isn't known": ("INT4", said(format="nvfp4-pack-quantized"), "format must be one of dense"),
    "transforms": ("INT4", said(transform_config={"config_groups": {"R1": {}}}), "transform_config must be empty"),
    "sparsity": ("INT4", said(sparsity_config={"format": "sparse-24-bitmask"}), "sparsity_config must be empty"),
    "7 bits": ("INT4", weights_say(num_bits=7), "num_bits must be 2 or"),
    "bits of another size": ("INT4", weights_say(num_bits=8), r"weight_packed has shape \(128, 16\)"),
    "weight_shape of another size": ("INT4", stored("weight_shape", set_first(1 << 40)), "weight_shape says"),
    "weight_shape of no size": ("INT4", stored("weight_shape", set_first(-1)), "weight_shape says"),
    "scales that don't divide": ("INT4", stored("weight_scale", lambda a: a[:, :3]), "3 groups.*128 columns"),
    "zeros of another size": ("INT4", stored("weight_zero_point", lambda a: a[:8]), "weight_zero_point has shape"),
    "order out of range": ("INT4", stored("weight_g_idx", set_first(9)), "weight_g_idx names groups"),
    "blocks of no size": ("FP8, blocks", said(weight_block_size=[128, 0]), "weight_block_size must be two numbers"),
    "blocks that aren't there": ("FP8, blocks", said(weight_block_size=[64, 64]), r"blocks of 64 x 64"),
    "a NaN": ("FP8, blocks", stored("weight", set_first(127)), "hold a NaN"),
    "no scale": ("FP8, matrix", lambda config, table: table.pop(f"{Q}.weight_scale"), "weight_scale is missing"),
}  # fmt: skip


@pytest.mark.parametrize("case", BAD)
def test_what_is_refused(case: str, tmp_path: Path, capsys: pytest.CaptureFixture[str]) -> None:
    name, change, message = BAD[case]
    config, make = (CASES | FLOATS)["packed, act-order" if name == "INT4" else name]
    files.write(tmp_path, config, make)
    table = {name: (tensor.dtype, np.array(tensor.raw)) for name, tensor in
             SafetensorsFile(tmp_path / "model.safetensors").items()}  # fmt: skip
    whole = json.loads((tmp_path / "config.json").read_text())
    change(whole["quantization_config"], table)
    layout = {name: (dtype, array.shape) for name, (dtype, array) in table.items()}
    shutil.rmtree(tmp_path / "out", ignore_errors=True)
    write_safetensors(tmp_path / "model.safetensors", layout, ((n, array) for n, (_, array) in table.items()))
    (tmp_path / "config.json").write_text(json.dumps(whole))
    with pytest.raises(CutsetError, match=message):
        [tensor.float32() for tensor in open_source(tmp_path).tensors.values()]
    assert main(["convert", str(tmp_path), "-o", str(tmp_path / "out.json")]) == 2
    lines = capsys.readouterr().err.strip().splitlines()
    assert 1 <= len(lines) <= 2
