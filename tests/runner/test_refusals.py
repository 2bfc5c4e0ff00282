"""The stand-alone runner refuses what the Python readers refuse, in one line, and writes nothing."""

from __future__ import annotations

import json
import re
from pathlib import Path

import numpy as np
import pytest

from cutset.errors import CutsetError
from cutset.models.files.checkpoint import Tensor
from cutset.models.files.source import specify
from cutset.models.random import RandomModel
from models.test_checkpoint import hostile, test_a_lying_header_is_refused
from models.test_exchange import HOSTILE, changed
from runner.files import (
    RUNNER,
    call,
    config_of,
    drawn,
    encoded_ids,
    inputs_of,
    logits_of,
    refused,
    write_directory,
    write_file,
)

pytestmark = pytest.mark.skipif(not RUNNER.is_file(), reason="the runner is not built: make runner")

# The cases of the Python reader.
LYING_HEADERS = test_a_lying_header_is_refused.pytestmark[0].args[1]
del test_a_lying_header_is_refused


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
        (whole.replace(b'"hidden": 64', b'"hidden": 1048576'), "the specification asks for"),
        (whole.replace(b'"layers": 2', b'"layers": 3').replace(b"[0, 0]", b"[0, 0, 0]"), "layers/2/"),
        (whole.replace(b'"layers": 2', b'"layers": 4096'), "windows must be a list of 4096"),
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

    write_directory(folder, config, tensors)
    (folder / "config.json").unlink()
    assert "config.json is missing" in message()
    for change, text in (
        ({"num_key_value_heads": 4}, "evenly"),
        ({"model_type": "gpt2"}, "unknown model_type 'gpt2'; the nearest known are"),
        ({"rope_scaling": {"rope_type": "longest"}}, "unknown rope scaling 'longest'"),
        ({"rope_scaling": {"rope_type": "linear", "factor": -1}}, "factor must be a positive number"),
        ({"quantization_config": {"bits": 4}}, "quantised checkpoint of another program"),
        ({"hidden_act": "mish"}, "unknown hidden_act"),
        ({"head_dim": 7}, "is odd"),
        ({"rms_norm_eps": 0}, "rms_norm_eps must be"),
        ({"rope_theta": 1e-300}, "aren't finite"),
        ({"rope_theta": 1e31}, "at most 1e+30"),
        ({"rms_norm_eps": 1e300}, "at most 1e+30"),
        ({"model_type": "minimind", "use_moe": True, "n_routed_experts": 4096, "num_hidden_layers": 4096}, "MLPs"),
    ):
        (folder / "config.json").write_text(json.dumps(config | change))
        with pytest.raises(CutsetError, match=re.escape(text)):
            specify(folder)
        assert "config.json has changed since specification.json was written" in message()
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
