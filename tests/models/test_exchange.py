"""Random models and exchange files: reproducible, the same bytes both ways, and hostile files refused."""

from __future__ import annotations

import base64
import contextlib
import json
import tracemalloc
from pathlib import Path
from typing import Any

import numpy as np
import pytest
from hypothesis import HealthCheck, given, settings
from hypothesis import strategies as st

from cutset.errors import CutsetError, ModelError
from cutset.models.families import load_spec
from cutset.models.files.checkpoint import Checkpoint, check_tensors
from cutset.models.files.exchange import ExchangeFile
from cutset.models.files.source import convert, open_source
from cutset.models.files.writer import write_safetensors
from cutset.models.random import RandomModel
from cutset.models.run.decoder import FloatLinears, ReferenceDecoder
from cutset.models.run.numpy_ops import NumpyOps
from models.family_checkpoints import relative_error, whole_logits

MODELS: dict[str, dict[str, Any]] = {
    "llama": {},
    "untied": {"tied": False},
    "qwen3": {"qk_norm": True},
    "minimind-moe": {"experts": 3},
    "qwen3-moe": {"experts": 4, "qk_norm": True, "top_k": 3, "tied": False},
}


def decoder(source: ExchangeFile | Checkpoint, spec: Any) -> ReferenceDecoder:
    tensors, ops = check_tensors(spec, source), NumpyOps()
    return ReferenceDecoder(spec, tensors, ops, FloatLinears(spec, tensors, ops))


@pytest.mark.parametrize("case", MODELS)
def test_both_forms_hold_the_same_model(case: str, tmp_path: Path) -> None:
    model = RandomModel(**MODELS[case], seed=9)
    model.write_checkpoint(tmp_path / "dir")
    model.write_exchange(tmp_path / "file.json")
    file, spec = ExchangeFile(tmp_path / "file.json"), load_spec(tmp_path / "dir")
    assert file.spec == spec == model.spec()
    directory = Checkpoint(tmp_path / "dir")
    for name, tensor in check_tensors(spec, directory).items():
        assert file[name].raw.tobytes() == tensor.raw.tobytes(), name
        assert np.abs(tensor.float32()).min(initial=1) > 0 or tensor.float32().std() > 0
    assert file.inputs is not None
    ids, mask = file.inputs
    assert mask.all()
    ours, theirs = (whole_logits(decoder(source, spec), ids, mask) for source in (file, directory))
    np.testing.assert_array_equal(ours, theirs)
    assert ours.std() > 0.3  # a loose tolerance must not hide a decoder that returns zeros


@pytest.mark.parametrize("case", ["llama", "qwen3", "qwen3-moe"])
def test_transformers_runs_the_checkpoint_alike(case: str, tmp_path: Path) -> None:
    torch, transformers = pytest.importorskip("torch"), pytest.importorskip("transformers")
    model = RandomModel(**MODELS[case])
    model.write_checkpoint(tmp_path)
    ids, _ = model.inputs()
    oracle = transformers.AutoModelForCausalLM.from_pretrained(tmp_path, dtype=torch.float32).eval()
    with torch.no_grad():
        theirs = oracle(torch.from_numpy(ids).long()).logits.numpy()
    assert relative_error(whole_logits(decoder(Checkpoint(tmp_path), model.spec()), ids), theirs) <= 1e-4


def test_a_seed_makes_one_model(tmp_path: Path) -> None:
    for name, seed in (("a", 1), ("b", 1), ("c", 2)):
        RandomModel(seed=seed).write_exchange(tmp_path / name)
    assert (tmp_path / "a").read_bytes() == (tmp_path / "b").read_bytes()
    assert (tmp_path / "a").read_bytes() != (tmp_path / "c").read_bytes()


def test_the_file_is_plain_json_with_plain_tensors(tmp_path: Path) -> None:
    RandomModel(hidden=32, heads=4).write_exchange(tmp_path / "x.json", preview=3)
    content = json.loads((tmp_path / "x.json").read_text())
    assert set(content) == {"format", "version", "meta", "specification", "config", "inputs", "rope", "weights"}
    meta = {"generator": "cutset random", "seed": 123, "B": 2, "S": 5, "head_dim": 8, "family": "llama"}
    assert content["meta"] == meta
    assert content["inputs"]["input_ids"]["dtype"] == "int32"
    assert content["rope"]["cos"]["shape"] == [128, 8]
    wq = content["weights"]["layers"][1]["wq"]
    values = np.frombuffer(base64.b64decode(wq["data"]), dtype="<f4").reshape(wq["shape"])
    assert wq["name"] == "layers.1.wq"
    np.testing.assert_allclose(wq["preview"], values.reshape(-1)[:3])
    assert content["weights"]["lm_head"]["data"] == content["weights"]["tok_embedding"]["data"]


def changed(path: Path, change: Any) -> Path:
    content = json.loads(path.read_text())
    change(content)
    path.write_text(json.dumps(content))
    return path


def set_at(*steps: Any) -> Any:
    *way, last, value = steps

    def change(content: Any) -> None:
        for step in way:
            content = content[step]
        if value is None:
            del content[last]
        elif value == [None]:
            content[last] = None
        else:
            content[last] = value

    return change


def encoded(values: np.ndarray) -> str:
    return base64.b64encode(values.astype("<f4").tobytes()).decode()


SPEC = ("specification",)
NAMES = ("specification", "tensors")
ROPE = ("specification", "ropes", 0)
LONG = {"frequencies": [1.0] * 4, "original_positions": 16}
DYNAMIC = {"theta": 1e4, "factor": 2.0, "original_positions": 16}


def second_rope(**changes: Any) -> Any:
    def change(content: Any) -> None:
        ropes = content["specification"]["ropes"]
        ropes.append(ropes[0] | changes)

    return change


WQ = ("weights", "layers", 0, "wq")
HOSTILE: dict[str, tuple[Any, str]] = {
    "no weights": (set_at("weights", None), "missing"),
    "a missing tensor": (set_at(*WQ, None), r"q_proj\.weight is missing"),
    "an unexpected tensor": (set_at(*WQ[:3], "wz", {"shape": [1]}), "wz is unexpected"),
    "a layer too many": (lambda c: c["weights"]["layers"].append(c["weights"]["layers"][0]), "unexpected"),
    "another shape": (set_at(*WQ, "shape", [64, 63]), r"\(64, 63\)"),
    "an absurd shape": (set_at(*WQ, "shape", [1 << 60, 1 << 60]), "no valid shape"),
    "a negative shape": (set_at(*WQ, "shape", [-64, -64]), "no valid shape"),
    "an unknown dtype": (set_at(*WQ, "dtype", "float8"), "float8"),
    "integers for weights": (set_at(*WQ, "dtype", "int32"), "a float was expected"),
    "another encoding": (set_at(*WQ, "encoding", "hex"), "hex"),
    "data cut off": (set_at(*WQ, "data", "QUJD"), "base64 characters"),
    "offsets for data": (set_at(*WQ, "data", [0, 21848]), "has no data"),
    "bad base64": (set_at(*WQ, "data", "*" * 21848), "not valid base64"),
    "a list for a dtype": (set_at(*WQ, "dtype", ["float32"]), "has dtype"),
    "too much padding": (set_at("weights", "tok_embedding", "data", "A" * 43690 + "=="), "not valid base64"),
    "empty lists": (set_at("weights", "more", [[]]), "unexpected"),
    "NaN": (set_at(*WQ, "data", encoded(np.full(4096, np.nan))), "finite"),
    "infinity": (set_at(*WQ, "data", encoded(np.full(4096, np.inf))), "finite"),
    "heads that don't divide": (set_at(*SPEC, "kv_heads", 3), "evenly"),
    "absurd sizes": (set_at(*SPEC, "hidden", 1 << 50), "hidden must be"),
    "no specification": (set_at("specification", None), "specification is missing"),
    "another specification": (set_at(*SPEC, "version", 2), "specification: version 2 is not known"),
    "a key too few": (set_at(*SPEC, "eos_assumed", None), "eos_assumed is missing"),
    "a key too many": (set_at(*SPEC, "rotary_dim", 8), "rotary_dim is not known"),
    "another norm": (set_at(*SPEC, "norm", "layer"), "norm must be rms"),
    "another activation": (
        set_at(*SPEC, "activation", "gelu"),
        "activation must be silu or gelu_tanh or clamped or gelu_erf",
    ),
    "integer weights": (set_at(*SPEC, "weights", "int8"), "weights must be float"),
    "bits out of range": (set_at(*SPEC, "activation_bits", "int8", "qkv", 7), "activation_bits"),
    "bits of no site": (set_at(*SPEC, "activation_bits", "int8", "kv", 8), "activation_bits"),
    "an odd head": (set_at(*SPEC, "head_dim", 7), "odd"),
    "frequencies of another head": (
        set_at(*SPEC, "ropes", 0, "frequencies", [1.0] * 5),
        "frequencies must be a list of 1 to 4",
    ),
    "an endless frequency": (set_at(*ROPE, "frequencies", 0, 1e38), "numbers from 0 to 1e"),
    "a negative frequency": (set_at(*ROPE, "frequencies", 0, -1.0), "numbers from 0 to 1e"),
    "a text for a frequency": (set_at(*ROPE, "frequencies", 0, "1"), "numbers from 0 to 1e"),
    "no scale": (set_at(*ROPE, "scale", 0), "scale must be a positive number"),
    "an absurd base": (
        set_at(*ROPE, "dynamic", {"theta": 1e-300, "factor": 2.0, "original_positions": 16}),
        "aren't finite",
    ),
    "half a dynamic rope": (set_at(*ROPE, "dynamic", {"theta": 1e4, "factor": 2.0}), "original_positions"),
    "no rope": (set_at(*SPEC, "ropes", []), "ropes must be a list of 1 to 64 objects"),
    "a rope that is none": (set_at(*SPEC, "ropes", [[]]), "ropes must be a list of 1 to 64 objects"),
    "no end of ropes": (lambda c: c["specification"]["ropes"].extend(c["specification"]["ropes"] * 64), "1 to 64"),
    "a rope of no pairs": (set_at(*ROPE, "frequencies", []), "frequencies must be a list of 1 to 4"),
    "ropes of two sizes": (second_rope(frequencies=[1.0, 0.5]), "ropes 1: frequencies must be a list of 4"),
    "half a long rope": (set_at(*ROPE, "long", {"frequencies": [1.0] * 4}), "original_positions"),
    "a long rope of another size": (set_at(*ROPE, "long", LONG | {"frequencies": [1.0]}), "a list of 4"),
    "a long rope of negative frequencies": (set_at(*ROPE, "long", LONG | {"frequencies": [-1.0] * 4}), "from 0 to"),
    "a rope of both kinds": (second_rope(long=LONG, dynamic=DYNAMIC), "can't be both dynamic and long"),
    "a rope with a key too many": (set_at(*ROPE, "theta", 1e4), "theta is not known"),
    "a table of another rope": (set_at(*SPEC, "rope_tables", 1, 1), "rope_tables must be"),
    "a table below none": (set_at(*SPEC, "rope_tables", 1, -2), "rope_tables must be"),
    "a table that is no whole number": (set_at(*SPEC, "rope_tables", 1, -1.0), "rope_tables must be"),
    "a table too few": (set_at(*SPEC, "rope_tables", [0]), "rope_tables must be a list of 2"),
    "a limit of an activation without": (set_at(*SPEC, "activation_limit", 7.0), "activation_limit must be"),
    "no limit of a clamped activation": (set_at(*SPEC, "activation", "clamped"), "activation_limit must be"),
    "no alpha of a clamped activation": (
        lambda c: c["specification"].update(activation="clamped", activation_limit=7.0),
        "activation_alpha must be",
    ),
    "a bias of the gate's experts alone": (
        set_at(*NAMES, "expert_gate_up_bias", [["x.{layer}.b", "layers/{layer}/eb"]]),
        "doesn't have: expert_gate_up_bias",
    ),
    "an activation that is no text": (set_at(*SPEC, "activation", ["silu"]), "activation must be"),
    "queries that shrink": (set_at(*SPEC, "query_growth", -1), "query_growth must be a number from"),
    "queries that grow at once": (set_at(*SPEC, "query_positions", 0), "query_positions must be an integer from 1"),
    "a negative cap": (set_at(*SPEC, "logit_softcap", -1), "logit_softcap must be a number from"),
    "a cap that vanishes": (set_at(*SPEC, "attention_softcap", 1e-300), "attention_softcap must be a number from"),
    "a cap of true": (set_at(*SPEC, "attention_softcap", True), "attention_softcap must be a number from"),
    "an endless scale": (set_at(*SPEC, "attention_scale", 1e31), "attention_scale must be a number from"),
    "an offset of a text": (set_at(*SPEC, "norm_offset", "1"), "norm_offset must be a number from"),
    "a factor of nothing": (set_at(*SPEC, "embedding_scale", 0), "embedding_scale must be a number from"),
    "a factor of null": (set_at(*SPEC, "residual_scale", [None]), "residual_scale must be a number from"),
    "a negative factor": (set_at(*SPEC, "logit_scale", -0.5), "logit_scale must be a number from"),
    "norms that are whole by a number": (set_at(*SPEC, "whole_norms", 0), "whole_norms must be true or false"),
    "pairs by null": (set_at(*SPEC, "rope_interleaved", [None]), "rope_interleaved must be true or false"),
    "no norm at all": (
        lambda c: [c["specification"]["tensors"].pop(f"{x}_norm") for x in ("attention", "mlp")],
        "or both",
    ),
    "a norm before attention alone": (set_at(*NAMES, "mlp_norm", None), "doesn't name mlp_norm"),
    "a norm after the MLP alone": (
        set_at(*NAMES, "mlp_output_norm", [["x.{layer}.n", "layers/{layer}/n"]]),
        "doesn't have: mlp_output_norm",
    ),
    "sinks that aren't there": (set_at(*NAMES, "sinks", [["x.{layer}.s", "layers/{layer}/s"]]), "x.0.s is missing"),
    "windows of another model": (set_at(*SPEC, "windows", [4]), "windows must be"),
    "a window of null": (set_at(*SPEC, "windows", 1, [None]), "windows must be"),
    "experts without layers": (set_at(*SPEC, "experts", {"count": 2}), "is missing"),
    "an end token of another vocabulary": (set_at(*SPEC, "eos_token_ids", [128]), "eos_token_ids must be"),
    "a flag that is none": (set_at(*SPEC, "eos_assumed", 1), "eos_assumed must be true or false"),
    "no names": (set_at(*SPEC, "tensors", None), "tensors is missing"),
    "an unknown role": (set_at(*NAMES, "gate", [["a", "b"]]), "gate is not known"),
    "a role too many": (set_at(*NAMES, "router", [["x.{layer}.r", "layers/{layer}/r"]]), "doesn't have: router"),
    "a role too few": (set_at(*NAMES, "down", None), "doesn't name down"),
    "a bias without its other": (set_at(*NAMES, "down_bias", [["x.{layer}.b", "layers/{layer}/b"]]), "down_bias"),
    "a norm of q alone": (set_at(*NAMES, "q_norm", [["x.{layer}.q", "layers/{layer}/qn"]]), "k_norm"),
    "two parts of three": (lambda c: c["specification"]["tensors"]["qkv"].pop(), "a list of 3 names"),
    "one place for all layers": (set_at(*NAMES, "down", [["x.{layer}.w", "layers/w_down"]]), "with {layer}"),
    "a place out of the file": (set_at(*NAMES, "down", [["x.{layer}.w", "layers/{layer}/../w_down"]]), "with {layer}"),
    "a number in a place": (set_at(*NAMES, "down", [["x.{layer}.w", "layers/{layer}/0/w_down"]]), "with {layer}"),
    "an endless name": (set_at(*NAMES, "down", [["x.{layer}." + "w" * 400, "layers/{layer}/w_down"]]), "with {layer}"),
    "a name that is no text": (set_at(*NAMES, "down", [[["x"], "layers/{layer}/w_down"]]), "with {layer}"),
    "one name for two": (
        set_at(*NAMES, "down", [["model.layers.{layer}.self_attn.o_proj.weight", "layers/{layer}/w_down"]]),
        "stands there twice",
    ),
    "one place for two": (set_at(*NAMES, "down", [["x.{layer}.w", "layers/{layer}/wo"]]), "stands there twice"),
    "another place": (
        set_at(*NAMES, "down", [["x.{layer}.w", "layers/{layer}/w_up2"]]),
        "w_down is unexpected|x.0.w is missing",
    ),
    "another version": (set_at("version", 99), "version 99"),
    "another format": (set_at("format", "gguf"), "gguf"),
    "ids outside the vocabulary": (
        set_at("inputs", "input_ids", "data", base64.b64encode(np.full(10, 128, "<i4").tobytes()).decode()),
        "below 128",
    ),
    "a mask of another shape": (set_at("inputs", "attention_mask", "shape", [5, 2]), "must be equal"),
}


def read_all(path: Path) -> None:
    file = ExchangeFile(path)
    for tensor in check_tensors(file.spec, file).values():
        tensor.float32()


@pytest.mark.parametrize("case", HOSTILE)
def test_a_lying_file_is_refused(case: str, tmp_path: Path) -> None:
    change, message = HOSTILE[case]
    RandomModel().write_exchange(tmp_path / "x.json")
    with pytest.raises(ModelError, match=message):
        read_all(changed(tmp_path / "x.json", change))


@settings(max_examples=200, deadline=None, suppress_health_check=[HealthCheck.function_scoped_fixture])
@given(data=st.data())
def test_damaged_files_are_refused_or_read(tmp_path: Path, data: st.DataObject) -> None:
    path = tmp_path / "x.json"
    RandomModel(hidden=8, heads=2, layers=1, vocab=16, max_pos=8, intermediate=8).write_exchange(path)
    raw = bytearray(path.read_bytes())
    for _ in range(data.draw(st.integers(0, 3))):
        raw[data.draw(st.integers(0, len(raw) - 1))] = data.draw(st.integers(0, 255))
    path.write_bytes(raw[: data.draw(st.integers(0, len(raw)) | st.just(len(raw)))])
    with contextlib.suppress(CutsetError):
        read_all(path)


def test_a_file_is_read_piece_by_piece(tmp_path: Path) -> None:
    path = tmp_path / "x.json"
    RandomModel(hidden=256, heads=4, layers=4, vocab=64, max_pos=16).write_exchange(path)
    tracemalloc.start()
    try:
        file = ExchangeFile(path)
        for tensor in check_tensors(file.spec, file).values():
            assert tensor.float32().std() > 0
        largest = max(np.prod(tensor.shape) * 4 for tensor in file.values())
        assert tracemalloc.get_traced_memory()[1] < 8 * largest < path.stat().st_size / 2
    finally:
        tracemalloc.stop()


def test_a_dtype_that_the_format_lacks_is_refused(tmp_path: Path) -> None:
    model = RandomModel()
    layout = {name: ("F64", shape) for name, shape in model.spec().tensor_shapes().items()}
    tensors = ((name, model.tensor(name).raw.astype(np.float64)) for name in layout)
    model.write_checkpoint(tmp_path / "dir")
    write_safetensors(tmp_path / "dir" / "model.safetensors", layout, tensors)
    with pytest.raises(CutsetError, match=r"embed_tokens.weight is F64.*float32"):
        convert(open_source(tmp_path / "dir"), tmp_path / "x.json")
    assert [path.name for path in tmp_path.iterdir()] == ["dir"]


@pytest.mark.parametrize(
    "wrong",
    [
        {"heads": 0},
        {"heads": -1},
        {"hidden": 10},
        {"kv_heads": 3},
        {"layers": -1},
        {"experts": 2, "top_k": 3},
        {"experts": -1},
        {"intermediate": 0},
        {"seed": -1},
        {"seq_len": 200},
        {"batch_size": 0},
        {"batch_size": 1 << 16, "seq_len": 1 << 20, "max_pos": 1 << 20},
        {"vocab": 1 << 24, "hidden": 1 << 20, "heads": 1 << 10},
    ],
)
def test_sizes_that_make_no_model_are_refused(wrong: dict[str, int], tmp_path: Path) -> None:
    with pytest.raises(CutsetError):
        RandomModel(**wrong).write_exchange(tmp_path / "x.json")
    assert not any(tmp_path.iterdir())
