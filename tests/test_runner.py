"""The stand-alone runner against the Python reference: the same logits from the same files, and the same refusals."""

from __future__ import annotations

import base64
import contextlib
import json
import os
import random
import re
import subprocess
from pathlib import Path
from typing import Any

import numpy as np
import pytest
from numpy.typing import NDArray

from cutset.bench.forward import run_forward
from cutset.errors import CutsetError
from cutset.models.checkpoint import Tensor
from cutset.models.decoder import FloatLinears, ReferenceDecoder
from cutset.models.exchange import write_exchange
from cutset.models.families import spec_from_config
from cutset.models.integer import IntegerLinears, write_integer_checkpoint
from cutset.models.numpy_ops import NumpyOps
from cutset.models.random import RandomModel
from cutset.models.source import Source, open_source
from cutset.models.writer import write_safetensors
from models.test_checkpoint import hostile, test_a_lying_header_is_refused
from models.test_exchange import HOSTILE, changed
from models.test_integer import QKV, put
from models.test_integer import change as change_tensor
from old_checkpoint import write_version_1

ROOT = Path(__file__).resolve().parents[1]
RUNNER = ROOT / "build/runner/cutset-runner"
SANITIZED = ROOT / "build/runner-asan/cutset-runner"

pytestmark = pytest.mark.skipif(not RUNNER.is_file(), reason="the runner is not built: make runner")

# The cases of the Python reader.
LYING_HEADERS = test_a_lying_header_is_refused.pytestmark[0].args[1]
del test_a_lying_header_is_refused

SIZES = {
    "hidden_size": 48,
    "num_hidden_layers": 3,
    "num_attention_heads": 6,
    "num_key_value_heads": 2,
    "head_dim": 8,
    "intermediate_size": 40,
    "vocab_size": 61,
    "max_position_embeddings": 64,
    "rms_norm_eps": 1e-5,
}
QWEN3_MOE = {"model_type": "qwen3_moe", "num_experts": 5, "num_experts_per_tok": 2, "moe_intermediate_size": 24}
OLD_MINIMIND = {"model_type": "minimind", "head_dim": None, "hidden_size": 48, "num_attention_heads": 6}
YARN = {"rope_type": "yarn", "factor": 4.0, "original_max_position_embeddings": 16}
CONFIGS: dict[str, dict[str, Any]] = {
    "llama": {"model_type": "llama"},
    "llama-tied": {"model_type": "llama", "tie_word_embeddings": True, "rope_theta": 5e5},
    "llama-biases": {"model_type": "llama", "attention_bias": True, "mlp_bias": True},
    "mistral-window": {"model_type": "mistral", "sliding_window": 5},
    "mistral-no-window": {"model_type": "mistral", "sliding_window": None},
    "qwen2": {"model_type": "qwen2", "rope_theta": 1e6},
    "qwen2-window": {
        "model_type": "qwen2",
        "use_sliding_window": True,
        "sliding_window": 7,
        "max_window_layers": 1,
    },
    "qwen3": {"model_type": "qwen3"},
    "qwen3-layer-types": {
        "model_type": "qwen3",
        "attention_bias": True,
        "sliding_window": 4,
        "layer_types": ["sliding_attention", "full_attention", "sliding_attention"],
    },
    "qwen3-moe": QWEN3_MOE,
    "qwen3-moe-mixed": QWEN3_MOE | {"norm_topk_prob": True, "mlp_only_layers": [1], "decoder_sparse_step": 1},
    "qwen3-moe-step": {
        **QWEN3_MOE,
        "num_experts": None,
        "num_local_experts": 4,
        "decoder_sparse_step": 2,
        "attention_bias": True,
    },
    "minimind-old": OLD_MINIMIND,
    "minimind-old-moe": OLD_MINIMIND | {"use_moe": True, "n_routed_experts": 4, "n_shared_experts": 2},
    "minimind-old-moe-top1": OLD_MINIMIND | {"use_moe": True, "n_routed_experts": 4, "num_experts_per_tok": 1},
    "minimind-new": {"model_type": "minimind"},
    "minimind-new-moe": {"model_type": "minimind", "use_moe": True, "num_experts": 3, "num_experts_per_tok": 2},
    "minimind-default-width": OLD_MINIMIND | {"intermediate_size": None},
    "minimind-new-default-width": {"model_type": "minimind", "intermediate_size": None},
    "minimind-yarn": OLD_MINIMIND | {"inference_rope_scaling": True, "max_position_embeddings": 32768},
    "rope-linear": {"model_type": "llama", "rope_scaling": {"type": "linear", "factor": 3}},
    "rope-dynamic": {
        "model_type": "llama",
        "max_position_embeddings": 24,
        "rope_scaling": {"type": "dynamic", "factor": 2.0},
    },
    "rope-llama3": {
        "model_type": "llama",
        "rope_scaling": {
            "rope_type": "llama3",
            "factor": 8.0,
            "low_freq_factor": 1.0,
            "high_freq_factor": 4.0,
            "original_max_position_embeddings": 40,
        },
    },
    "rope-yarn": {"model_type": "llama", "rope_parameters": YARN | {"rope_theta": 1e4}},
    "rope-yarn-smooth": {
        "model_type": "llama",
        "rope_scaling": YARN | {"truncate": False, "mscale": 1.2, "mscale_all_dim": 0.7, "beta_fast": 16.0},
    },
    "rope-yarn-factor": {"model_type": "llama", "rope_scaling": YARN | {"factor": None, "attention_factor": 0.9}},
}


def drawn(config: dict[str, Any]) -> dict[str, Tensor]:
    """Random weights of a model; gains aren't ones and biases aren't zero."""
    rng, tensors = np.random.default_rng(5), {}
    for name, shape in spec_from_config(config).tensor_shapes().items():
        values = rng.standard_normal(shape, dtype=np.float32)
        if name.endswith("norm.weight"):
            values = 1 + values / 4
        elif len(shape) == 2 and "embed" not in name:
            values *= np.float32(1.5 * shape[1] ** -0.5)
        tensors[name] = Tensor(name, Path("(random)"), "F32", values.astype(np.float32))
    return tensors


def config_of(case: str) -> dict[str, Any]:
    return {name: value for name, value in (SIZES | CONFIGS[case]).items() if value is not None or "window" in name}


def inputs_of(tokens: int = 24, padded: bool = True) -> tuple[NDArray[np.int32], NDArray[np.uint8]]:
    ids = np.random.default_rng(6).integers(0, 61, (3, tokens)).astype(np.int32)
    mask = np.ones(ids.shape, np.uint8)
    if padded:
        mask[0, :5] = mask[1, -7:] = 0
    return ids, mask


def write_directory(folder: Path, config: dict[str, Any], tensors: dict[str, Tensor], dtype: str = "F32") -> None:
    folder.mkdir(exist_ok=True)
    stored = {
        "F32": lambda x: x,
        "F16": lambda x: x.astype(np.float16),
        "BF16": lambda x: (x.view(np.uint32) >> 16).astype(np.uint16),
    }[dtype]
    layout = {name: (dtype, tensor.shape) for name, tensor in tensors.items()}
    write_safetensors(folder / "model.safetensors", layout, ((n, stored(t.raw)) for n, t in tensors.items()))
    (folder / "config.json").write_text(json.dumps(config))


def write_file(path: Path, config: dict[str, Any], inputs: Any = None) -> Path:
    write_exchange(path, config, drawn(config).__getitem__, inputs or inputs_of(), {})
    return path


def call(*words: object, runner: Path = RUNNER, **environment: str) -> subprocess.CompletedProcess[str]:
    return subprocess.run(
        [runner, *map(str, words)],
        capture_output=True,
        encoding="utf-8",
        errors="replace",
        timeout=120,
        env=os.environ | environment,
    )


def logits_of(model: Path, *words: object, **environment: str) -> NDArray[np.float32]:
    target = model.with_name("logits.npy")
    done = call(model, target, *words, **environment)
    assert (done.returncode, done.stderr) == (0, "")
    return np.load(target)


def reference(source: Source, inputs: Any = None) -> NDArray[np.float32]:
    ops, (ids, mask) = NumpyOps(), inputs or source.inputs
    linears = FloatLinears(source.spec, source.tensors, ops)
    return run_forward(ReferenceDecoder(source.spec, source.tensors, ops, linears), (ids, mask.astype(bool))).logits


def assert_equal(ours: NDArray[Any], theirs: NDArray[Any], mask: NDArray[Any], tolerance: float = 1e-5) -> None:
    assert ours.dtype == np.float32
    assert ours.shape == theirs.shape
    seen = mask.astype(bool)
    assert theirs[seen].std() > 0.1  # a loose tolerance must not hide a decoder that returns zeros
    assert np.linalg.norm(ours[seen] - theirs[seen]) <= tolerance * np.linalg.norm(theirs[seen])


@pytest.mark.parametrize("case", CONFIGS)
def test_equals_the_reference(case: str, tmp_path: Path) -> None:
    config, (_, mask) = config_of(case), inputs_of()
    file = write_file(tmp_path / "model.json", config)
    write_directory(tmp_path / "dir", config, drawn(config))
    expected = reference(open_source(file))
    ours = logits_of(file)
    assert_equal(ours, expected, mask)
    from_directory = logits_of(tmp_path / "dir", "--inputs", file, "--threads", 1)
    np.testing.assert_array_equal(ours, from_directory)  # of one model in both forms, whatever the threads
    assert np.isfinite(ours).all()


def test_the_array_is_as_numpy_writes_it(tmp_path: Path) -> None:
    file = write_file(tmp_path / "model.json", config_of("llama"))
    values = logits_of(file)
    np.save(tmp_path / "numpy.npy", values)
    assert values.shape == (3, 24, 61)
    assert values.flags.c_contiguous
    assert (tmp_path / "numpy.npy").read_bytes() == (tmp_path / "logits.npy").read_bytes()
    assert sorted(path.name for path in tmp_path.iterdir()) == ["logits.npy", "model.json", "numpy.npy"]


def test_a_mask_hides_padding(tmp_path: Path) -> None:
    config = config_of("llama")
    padded = logits_of(write_file(tmp_path / "padded.json", config))
    whole = logits_of(write_file(tmp_path / "whole.json", config, inputs_of(padded=False)))
    np.testing.assert_array_equal(padded[2], whole[2])
    np.testing.assert_array_equal(padded[1, :-7], whole[1, :-7])
    assert np.abs(padded[0, 5:] - whole[0, 5:]).max() > 0.01


@pytest.mark.parametrize("dtype", ["F16", "BF16"])
def test_half_precision_is_read_exactly(dtype: str, tmp_path: Path) -> None:
    config = config_of("qwen3-moe")
    tensors = drawn(config)
    values = tensors["model.norm.weight"].raw
    values[:4] = [6e-8, -3e-6, 65504, -0.0]  # subnormal in float16, its largest, and a signed zero
    write_directory(tmp_path / "dir", config, tensors, dtype)
    inputs = write_file(tmp_path / "inputs.json", config)
    expected = reference(open_source(tmp_path / "dir"), inputs_of())
    assert_equal(logits_of(tmp_path / "dir", "--inputs", inputs), expected, inputs_of()[1])
    read = open_source(tmp_path / "dir").tensors.__getitem__
    write_exchange(tmp_path / "half.json", config, read, inputs_of(), {})
    assert_equal(logits_of(tmp_path / "half.json"), expected, inputs_of()[1])


@pytest.mark.parametrize("dtype", ["int8", "exact"])
@pytest.mark.parametrize("tied", [False, True])
def test_integer_products(dtype: str, tied: bool, tmp_path: Path) -> None:
    config = config_of("llama") | {"tie_word_embeddings": tied}
    file = write_file(tmp_path / "model.json", config)
    source = open_source(file)
    write_integer_checkpoint(source.spec, config, source.tensors, tmp_path, tmp_path / "int8")
    linears = IntegerLinears(source.spec, source.tensors, dtype)
    executor = ReferenceDecoder(source.spec, source.tensors, NumpyOps(), linears)
    assert source.inputs is not None
    expected = run_forward(executor, source.inputs).logits
    ours = logits_of(file, "--dtype", dtype)
    assert_equal(ours, expected, source.inputs[1], 2e-2)  # a value on the edge between two codes may fall either way
    write_version_1(tmp_path / "int8", tmp_path / "old")
    for folder in ("int8", "old"):
        stored = logits_of(tmp_path / folder, "--inputs", file, "--dtype", dtype)
        np.testing.assert_array_equal(stored, ours)


def test_bad_integer_checkpoints_are_refused(tmp_path: Path) -> None:
    config = config_of("llama")
    file = write_file(tmp_path / "model.json", config)
    source, folder = open_source(file), tmp_path / "int8"
    write_integer_checkpoint(source.spec, config, source.tensors, tmp_path, folder)
    good = {file: file.read_bytes() for file in folder.iterdir()}
    for name, index, value, message in (
        (QKV, (0, 3, 5, 1), -128, "between -127 and 127"),
        (QKV, (0, -1, 0, 0), 1, "padding must be zero"),
        (f"{QKV}_scale", (3,), -1, "must not be negative"),
        (f"{QKV}_scale", (3,), np.nan, "aren't finite"),
    ):
        change_tensor(folder, name, put(index, value))
        assert message in refused(folder, "--inputs", file)
        for path, content in good.items():
            path.write_bytes(content)
    digests = json.loads((folder / "digests.json").read_text())
    for wrong in ({**digests, QKV: "0" * 64}, {**digests, QKV: None}, {**digests, "more": "0"}, {"more": "0"}, {}, []):
        (folder / "digests.json").write_text(json.dumps(wrong))
        assert "digest" in refused(folder, "--inputs", file)
    (folder / "digests.json").unlink()
    assert "digests.json" in refused(folder, "--inputs", file)
    (folder / "digests.json").write_text(json.dumps(digests))
    stored = json.loads((folder / "config.json").read_text())
    for version, message in (
        (1, "q_proj.weight is missing"),
        (3, "version 3"),
        (True, "version true"),
        (None, "version"),
    ):
        stored["quantization_config"]["version"] = version
        (folder / "config.json").write_text(json.dumps(stored))
        assert message in refused(folder, "--inputs", file)


@pytest.mark.parametrize("hidden", [12, 14, 16, 30])
def test_digests_are_compared(hidden: int, tmp_path: Path) -> None:
    """Norms of 48, 56, 64 and 120 bytes: padding begins before, at and after the end of a block."""
    model = RandomModel(hidden=hidden, heads=1, kv_heads=1, vocab=61)
    model.write_checkpoint(tmp_path / "float")
    model.write_exchange(tmp_path / "file.json")
    source, folder = open_source(tmp_path / "float"), tmp_path / "int8"
    write_integer_checkpoint(source.spec, source.config, source.tensors, tmp_path / "float", folder)
    logits_of(folder, "--inputs", tmp_path / "file.json")
    flipped = bytearray((folder / "model.safetensors").read_bytes())
    flipped[-1] ^= 1
    (folder / "model.safetensors").write_bytes(flipped)
    assert "the file was changed" in refused(folder, "--inputs", tmp_path / "file.json")


def test_shards_are_one_checkpoint(tmp_path: Path) -> None:
    config = config_of("qwen2")
    tensors = drawn(config)
    file = write_file(tmp_path / "model.json", config)
    folder = tmp_path / "dir"
    write_directory(folder, config, tensors)
    names = sorted(tensors)
    shards = {"a.safetensors": names[::2], "b.safetensors": names[1::2]}
    for shard, part in shards.items():
        write_safetensors(
            folder / shard, {n: ("F32", tensors[n].shape) for n in part}, ((n, tensors[n].raw) for n in part)
        )
    (folder / "model.safetensors").unlink()
    index = folder / "model.safetensors.index.json"
    assert "2 safetensors files but no model.safetensors.index.json" in refused(folder, "--inputs", file)
    index.write_text(json.dumps({"weight_map": {n: s for s, part in shards.items() for n in part}}))
    np.testing.assert_array_equal(logits_of(folder, "--inputs", file), logits_of(file))
    for wrong, message in (("../a.safetensors", "beside it"), ("c.safetensors", "is missing"), (3, "must map")):
        index.write_text(json.dumps({"weight_map": {"x": wrong}}))
        assert message in refused(folder, "--inputs", file)


def test_every_instruction_set_agrees_and_another_is_refused(tmp_path: Path) -> None:
    file = write_file(tmp_path / "model.json", config_of("qwen3-moe"))
    message = refused(file, CUTSET_ISA="sparc")
    for isa in message.rpartition("has ")[2].strip().split(", "):
        assert_equal(logits_of(file, CUTSET_ISA=isa), reference(open_source(file)), inputs_of()[1])


def test_the_line_of_times(tmp_path: Path) -> None:
    file = write_file(tmp_path / "model.json", config_of("llama"))
    done = call(file, tmp_path / "x.npy", "--warmup", 2, "--repeat=5", "--threads", 2, CUTSET_ISA="portable")
    pattern = r"cutset-runner float32 portable: \d+\.\d{3} ms ± \d+\.\d% for 3 x 24 tokens, median of 5, threads 2\n"
    assert re.fullmatch(pattern, done.stdout), done.stdout
    assert "±" not in call(file, "/dev/null").stdout


def refused(model: Path, *words: object, runner: Path = RUNNER, **environment: str) -> str:
    """The one line of a refusal; nothing was written."""
    folder = model.parent / "out"
    folder.mkdir(exist_ok=True)
    done = call(model, folder / "x.npy", *words, runner=runner, **environment)
    assert (done.returncode, done.stdout) == (2, "")
    assert re.fullmatch(r"cutset-runner: error: [^\n]+\n", done.stderr), done.stderr
    assert not list(folder.iterdir())
    return done.stderr


def test_help_and_wrong_arguments(tmp_path: Path) -> None:
    assert "--repeat" in call("--help").stdout
    file = write_file(tmp_path / "model.json", config_of("llama"))
    for words, message in (
        (("--repeat", "0"), "--repeat must be a whole number from 1"),
        (("--warmup", "-1"), "--warmup must be"),
        (("--threads", "x"), "--threads must be"),
        (("--threads",), "--threads must be"),
        (("--dtype", "float16"), "--dtype must be float32, int8 or exact"),
        (("--speed", "1"), "there is no option --speed"),
        (("third",), "give a model and the name of the file"),
        (("--inputs", tmp_path / "none.json"), "can't be read"),
    ):
        assert message in refused(file, *words)
    assert "neither" in refused(tmp_path / "nothing")
    for target in (tmp_path, tmp_path / "no/x.npy", "/proc/x.npy"):
        done = call(file, target)
        assert done.returncode == 2
        assert "can't be written" in done.stderr


def test_a_directory_needs_inputs_that_fit(tmp_path: Path) -> None:
    config = config_of("llama")
    write_directory(tmp_path / "dir", config, drawn(config))
    assert "name an exchange file that has some with --inputs" in refused(tmp_path / "dir")
    content = {"inputs": json.loads(write_file(tmp_path / "x.json", config).read_text())["inputs"]}
    inputs = tmp_path / "inputs.json"
    inputs.write_text(json.dumps(content))  # of all the file only its inputs are needed
    logits_of(tmp_path / "dir", "--inputs", inputs)
    content["inputs"]["input_ids"]["data"] = encoded_ids(np.full((3, 24), 61))
    inputs.write_text(json.dumps(content))
    assert "ids below 61" in refused(tmp_path / "dir", "--inputs", inputs)
    long = write_file(tmp_path / "long.json", config, inputs_of(65, padded=False))
    assert "the model has 64 positions" in refused(long)


def encoded_ids(ids: NDArray[Any]) -> str:
    return base64.b64encode(ids.astype("<i4").tobytes()).decode()


@pytest.mark.parametrize("case", HOSTILE)
def test_a_lying_file_is_refused(case: str, tmp_path: Path) -> None:
    change, message = HOSTILE[case]
    RandomModel().write_exchange(tmp_path / "x.json")
    changed(tmp_path / "x.json", change)
    assert re.search(message, refused(tmp_path / "x.json"))


def test_more_lying_files(tmp_path: Path) -> None:
    file = tmp_path / "x.json"
    RandomModel().write_exchange(file)
    whole = file.read_bytes()
    for text, message in (
        (b"", "it is empty"),
        (b"[]", "not a JSON object"),
        (whole[: len(whole) // 2], "cut off in the middle of a string"),
        (whole[:-3], "not valid JSON, or cut off"),
        (b"[" * 100_000, "not valid JSON"),
        (b'{"a":' * 100_000, "not valid JSON"),
        (whole.replace(b'"float32"', b'"float\\n64"'), "float"),
        (whole.replace(b'"hidden_size": 64', b'"hidden_size": 1048576'), "the config asks for"),
        (whole.replace(b'"num_hidden_layers": 2', b'"num_hidden_layers": 4096'), "layers/2/"),
        (whole.replace(b'"vocab_size": 128', b'"vocab_size": 1e2'), "vocab_size must be"),
    ):
        assert text != whole
        file.write_bytes(text)
        assert message in refused(file)


def test_padding_stands_at_the_end_alone(tmp_path: Path) -> None:
    file = tmp_path / "x.json"
    RandomModel(hidden=8, heads=2, layers=1, vocab=16, max_pos=8, intermediate=8).write_exchange(file)
    content = json.loads(file.read_text())
    norm = content["weights"]["final_rms"]  # 32 bytes: 44 characters, one of them padding
    good = norm["data"]
    for data in (good[:-2] + "==", good[:-1] + "A", good[:8] + "=" + good[9:], good[:-4] + "\n" + good[-3:], " " * 44):
        norm["data"] = data
        file.write_text(json.dumps(content))
        assert "not valid base64" in refused(file)


def test_a_damaged_directory_is_refused(tmp_path: Path) -> None:
    config = config_of("llama")
    inputs = write_file(tmp_path / "inputs.json", config)
    folder, tensors = tmp_path / "dir", drawn(config)

    def message() -> str:
        return refused(folder, "--inputs", inputs)

    write_directory(folder, config | {"num_key_value_heads": 4}, tensors | {})
    assert "evenly" in message()
    (folder / "config.json").unlink()
    assert "config.json is missing" in message()
    for change, text in (
        ({"model_type": "gpt2"}, 'unknown model_type "gpt2"; known are llama'),
        ({"rope_scaling": {"rope_type": "longrope"}}, 'unknown rope scaling "longrope"'),
        ({"rope_scaling": {"rope_type": "linear", "factor": -1}}, "factor must be a positive number"),
        ({"quantization_config": {"bits": 4}}, "quantised checkpoint of another program"),
        ({"hidden_act": "gelu"}, "unknown hidden_act"),
        ({"head_dim": 7}, "is odd"),
        ({"rms_norm_eps": 0}, "rms_norm_eps must be"),
        ({"rope_theta": 1e-300}, "aren't finite"),
    ):
        (folder / "config.json").write_text(json.dumps(config | change))
        assert text in message(), change
    norm = "model.norm.weight"
    for changes, text in (
        ({norm: None}, "model.norm.weight is missing"),
        ({norm: np.ones(47, np.float32)}, "has shape (47,); the configuration asks for (48,)"),
        ({"x": np.ones(1, np.float32)}, "x is unexpected"),
        ({norm: np.full(48, np.nan, np.float32)}, "aren't finite"),
        ({"lm_head.weight": np.full((61, 48), np.inf, np.float32)}, "aren't finite"),
    ):
        kept = {n: t for n, t in tensors.items() if n not in changes}
        kept |= {n: Tensor(n, folder, "F32", x) for n, x in changes.items() if x is not None}
        write_directory(folder, config, kept)
        assert text in message()
    (folder / "model.safetensors").rename(folder / "pytorch_model.bin")
    assert "pickled" in message()


@pytest.mark.parametrize(("header", "data", "length"), LYING_HEADERS)
def test_a_lying_safetensors_header_is_refused(tmp_path: Path, header: object, data: bytes, length: int | None) -> None:
    inputs = write_file(tmp_path / "inputs.json", config_of("llama"))
    (tmp_path / "dir").mkdir()
    (tmp_path / "dir/config.json").write_text(json.dumps(config_of("llama")))
    hostile(tmp_path / "dir/model.safetensors", header, data, length)
    assert "safetensors" in refused(tmp_path / "dir", "--inputs", inputs)


def damaged(raw: bytes, rng: random.Random) -> bytes:
    """A few bytes changed, dropped, doubled or swapped for what JSON readers stumble over; sometimes cut off."""
    pieces = [
        b'"',
        b"[",
        b"]",
        b"{",
        b"}",
        b",",
        b"\\",
        b"-1",
        b"1e999",
        b"null",
        b"=",
        b"\xff",
        b'"shape":',
        b"0",
        b"9" * 30,
    ]
    raw = bytearray(raw)
    for _ in range(rng.randint(1, 3)):
        at = rng.randrange(len(raw))
        kind = rng.randrange(5)
        if kind == 0:
            raw[at] = rng.randrange(256)
        elif kind == 1:
            del raw[at : at + rng.choice([1, 1, 4, 100])]
        elif kind == 2:
            raw[at:at] = rng.choice(pieces)
        elif kind == 3:
            numbers = list(re.finditer(rb"\d+", raw))
            number = rng.choice(numbers)
            raw[number.start() : number.end()] = rng.choice(
                [b"0", b"1", b"3", b"4096", b"65536", b"99999999999", b"-2"]
            )
        else:
            raw[at:at] = raw[at : at + rng.choice([1, 10, 200])]
    return bytes(raw if rng.random() < 0.8 else raw[: rng.randrange(len(raw))])


def small_file(path: Path) -> bytes:
    """An exchange file of mostly structure, of which a change has something to say."""
    sizes = {"hidden": 8, "heads": 2, "layers": 1, "vocab": 16, "max_pos": 8, "intermediate": 8, "experts": 2}
    model = RandomModel(**sizes, qk_norm=True, tied=False)  # type: ignore[arg-type]
    model.write_exchange(path, preview=1)
    return path.read_bytes()


def fuzz(folder: Path, rounds: int, seed: int, runner: Path) -> None:
    """The runner reads or refuses each file, never crashes, and says what the Python reader says."""
    file, target = folder / "x.json", folder / "out.npy"
    raw, rng = small_file(file), random.Random(seed)
    for number in range(rounds):
        target.unlink(missing_ok=True)
        file.write_bytes(damaged(raw, rng))
        done = call(file, target, "--threads", 1, runner=runner)
        assert done.returncode in (0, 2), (number, done)
        assert target.exists() == (done.returncode == 0)
        theirs = None
        with contextlib.suppress(CutsetError), np.errstate(all="ignore"):
            source = open_source(file)
            theirs = None if source.inputs is None else reference(source)
        assert (theirs is None) == (done.returncode == 2), (number, done.stderr or "Python refuses it")
        if theirs is not None and np.isfinite(theirs).all():
            np.testing.assert_allclose(np.load(target), theirs, rtol=1e-3, atol=1e-3 * np.abs(theirs).max())


def test_damaged_files_are_refused_or_read(tmp_path: Path) -> None:
    fuzz(tmp_path, 300, 1, RUNNER)


@pytest.mark.slow
@pytest.mark.skipif(not SANITIZED.is_file(), reason="not built: make runner-asan")
def test_damaged_files_under_sanitizers(tmp_path: Path) -> None:
    fuzz(tmp_path, 1500, 2, SANITIZED)


@pytest.mark.slow
@pytest.mark.skipif(not SANITIZED.is_file(), reason="not built: make runner-asan")
@pytest.mark.parametrize("case", CONFIGS)
def test_runs_clean_under_sanitizers(case: str, tmp_path: Path) -> None:
    file = write_file(tmp_path / "model.json", config_of(case))
    done = call(file, tmp_path / "x.npy", runner=SANITIZED)
    assert (done.returncode, done.stderr) == (0, "")
    np.testing.assert_allclose(np.load(tmp_path / "x.npy"), logits_of(file), rtol=1e-4, atol=1e-4)
