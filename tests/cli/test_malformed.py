"""Files that once ended a command with a traceback, or worse: each is exit code 2 and one clear line."""

from __future__ import annotations

import base64
import json
import struct
import subprocess
import sys
import zipfile
from pathlib import Path

import numpy as np
import pytest

from cutset.cli import main
from cutset.config import parse_toml
from cutset.engine.params import SamplingParams
from cutset.errors import ConfigError, RequestError
from cutset.models.registry import BUNDLED
from cutset.partition.plan import read_plan
from cutset.video.profile.scenario import read_scenario
from cutset.video.sparsity.archive import read_archive

Capture = pytest.CaptureFixture[str]


def refused(capsys: pytest.CaptureFixture[str], *words: object) -> str:
    """What a command said that refused its file."""
    assert main([str(word) for word in words]) == 2
    said = capsys.readouterr().err
    assert said.startswith("cutset: error: ")
    assert len(said.splitlines()) <= 3
    return said


@pytest.mark.parametrize("dtype", [{}, {"a": 1}, [], ["F32"], 5, None, True, "\ud800", "F32 "])
def test_a_safetensors_dtype_that_is_none(tmp_path: Path, capsys: pytest.CaptureFixture[str], dtype: object) -> None:
    assert (
        main(
            ["random", "--hidden", "16", "--heads", "2", "--kv-heads", "1", "--vocab", "32", "-o", str(tmp_path / "m")]
        )
        == 0
    )
    header = json.dumps({"a": {"dtype": dtype, "shape": [1], "data_offsets": [0, 4]}}).encode()
    (tmp_path / "m/model.safetensors").write_bytes(struct.pack("<Q", len(header)) + header + bytes(4))
    assert "has dtype" in refused(capsys, "forward", tmp_path / "m", "--inputs", "none.json")


@pytest.mark.parametrize("data", [[[]], [[1, 2]], [{}], [None, 1], ["a", "b"], {}, 5, None, [1.5, 2], [True, False]])
def test_an_exchange_file_s_data_that_is_none(tmp_path: Path, capsys: pytest.CaptureFixture[str], data: object) -> None:
    path = tmp_path / "m.json"
    assert main(["random", "--hidden", "16", "--heads", "2", "--kv-heads", "1", "--vocab", "32", "-o", str(path)]) == 0
    whole = json.loads(path.read_text())
    whole["inputs"]["input_ids"]["data"] = data
    path.write_text(json.dumps(whole))
    assert "has no data" in refused(capsys, "forward", path)


@pytest.mark.parametrize(
    "text", ["a: 0001-01-01t00:00:00+23:59", "a: 2024-01-01", "2024-01-01: x", "a: {path: 2024-01-01}"]
)
def test_a_timestamp_in_models_yaml(tmp_path: Path, capsys: pytest.CaptureFixture[str], text: str) -> None:
    (tmp_path / "models.yaml").write_text(text)
    assert "is not valid YAML" in refused(capsys, "models", "--models-file", tmp_path / "models.yaml")


@pytest.mark.parametrize(
    "text", [b"\xa6", b'{"format":"\xa6"}', b'{"format": "\x80', b"[" * 100_000, b'{"stages":' * 9000]
)
def test_a_plan_that_isn_t_text(tmp_path: Path, text: bytes) -> None:
    (tmp_path / "plan.json").write_bytes(text)
    for source in (text, tmp_path / "plan.json"):
        with pytest.raises(ConfigError, match="this is not a plan"):
            read_plan(source)


@pytest.mark.parametrize("text", [b"\x80", b'{"traceEvents":[],"otherData":{"format":"\x80"}}', b"[" * 100_000])
def test_a_trace_that_isn_t_text(tmp_path: Path, capsys: pytest.CaptureFixture[str], text: bytes) -> None:
    (tmp_path / "trace.json").write_bytes(text)
    assert "not a trace" in refused(capsys, "stream", "trace", tmp_path / "trace.json")
    words = ("stream", "show", "latency", tmp_path / "trace.json", "--json", tmp_path / "out.json")
    refused(capsys, *words)


def npy(
    header: str | bytes, data: bytes = bytes(64), version: bytes = b"\x01\x00", claimed: int | None = None
) -> bytes:
    text = header.encode("latin-1") if isinstance(header, str) else header
    length = len(text) if claimed is None else claimed
    return b"\x93NUMPY" + version + length.to_bytes(2 if version[0] == 1 else 4, "little") + text + data


def described(descr: str, shape: str = "(4, 4)") -> str:
    return f"{{'descr': {descr}, 'fortran_order': False, 'shape': {shape}, }}\n"


ARRAYS = {
    "bytes of no length": npy(described("'|S0'")),
    "text of no length": npy(described("'<U0'")),
    "nothing of no length": npy(described("'|V0'")),
    "bytes": npy(described("'|S4'")),
    "text": npy(described("'<U1'")),
    "objects": npy(described("'|O'")),
    "a structure": npy(described("[('a', '<f4'), ('b', '<i4')]")),
    "a structure of nothing": npy(described("[]")),
    "subarrays": npy(described("('<f4', (2, 2))")),
    "dates": npy(described("'<M8[ns]'")),
    "complex numbers": npy(described("'<c8'")),
    "long floats": npy(described("'<f16'")),
    "a dtype that numpy takes": npy(described("'f4,f4'")),
    "no dtype": npy(described("None")),
    "a huge dtype": npy(described("'|V" + "9" * 30 + "'")),
    "a negative size": npy(described("'<f4'", "(-1, 4)")),
    "two negative sizes": npy(described("'<f4'", "(-4, -4)")),
    "a huge size": npy(described("'<f4'", f"({1 << 62}, 4)")),
    "huge sizes whose product is small": npy(described("'<f4'", f"({1 << 33}, {1 << 31}, 0)")),
    "a size of thousands of digits": npy(described("'<f4'", "(" + "9" * 4000 + ",)")),
    "a truth for a size": npy(described("'<f4'", "(True, 16)")),
    "a fraction for a size": npy(described("'<f4'", "(16.0,)")),
    "no tuple": npy(described("'<f4'", "16")),
    "many dimensions": npy(described("'<f4'", "(" + "1, " * 70 + ")")),
    "more data than there is": npy(described("'<f4'", "(400, 400)")),
    "less data than there is": npy(described("'<f4'", "(2,)")),
    "no data": npy(described("'<f4'"), b""),
    "an empty header": npy(""),
    "a long header": npy(described("'<f4'") + " " * 50_000),
    "a header that is cut off": npy(described("'<f4'"), b"", claimed=60_000),
    "a header of 4 GiB": npy(described("'<f4'"), version=b"\x02\x00", claimed=(1 << 32) - 1),
    "code": npy("__import__('os').system('exit')\n"),
    "nesting": npy("(" * 3000),
    "signs": npy("-" * 3000 + "1"),
    "sums": npy("1" + "+1j" * 1000),
    "not UTF-8": npy(b"\xff\xfe{}", version=b"\x03\x00"),
    "a zero byte": npy("{'descr': '\0'}"),
    "a list": npy("[1, 2]"),
    "more keys": npy("{'descr': '<f4', 'fortran_order': False, 'shape': (4, 4), 'x': 1}"),
    "no order": npy("{'descr': '<f4', 'fortran_order': 2, 'shape': (4, 4)}"),
    "version 9": npy(described("'<f4'"), version=b"\x09\x00"),
    "a pickle": b"\x80\x04N.",
    "a zip": b"PK\x03\x04",
    "nothing": b"",
    "the magic": b"\x93NUMPY",
}


@pytest.mark.parametrize("what", ARRAYS)
def test_an_array_that_can_t_be(tmp_path: Path, capsys: pytest.CaptureFixture[str], what: str) -> None:
    path, good = tmp_path / "bad.npy", tmp_path / "good.npy"
    path.write_bytes(ARRAYS[what])
    np.save(good, np.ones((4, 4), np.float32))
    for words in ((path, good), (good, path), (good, good, "--mask", path)):
        assert "can't be read as an array" in refused(capsys, "compare", *words)


def test_numpy_itself_never_sees_an_array_of_no_length(tmp_path: Path) -> None:
    """It divided by the length: the process ended with SIGFPE."""
    (tmp_path / "bad.npy").write_bytes(ARRAYS["bytes of no length"])
    command = [sys.executable, "-m", "cutset", "compare", str(tmp_path / "bad.npy"), str(tmp_path / "bad.npy")]
    done = subprocess.run(command, capture_output=True, text=True)
    assert (done.returncode, "Traceback" in done.stderr) == (2, False)


@pytest.mark.parametrize("order", ["C", "F"])
@pytest.mark.parametrize("dtype", ["<f4", ">f8", "<f2", "|b1", "|i1", "<u8", ">i2"])
@pytest.mark.parametrize("shape", [(), (0,), (3,), (2, 3, 4), (0, 5)])
def test_arrays_that_numpy_writes_are_read(tmp_path: Path, shape: tuple[int, ...], dtype: str, order: str) -> None:
    from cutset.models.files.npy import map_npy

    wanted = np.asarray(np.arange(np.prod(shape, dtype=int)).reshape(shape).astype(dtype), order=order)
    np.save(tmp_path / "a.npy", wanted)
    found = map_npy(tmp_path / "a.npy")
    assert (found.shape, found.dtype) == (wanted.shape, wanted.dtype)
    np.testing.assert_array_equal(found, wanted)


@pytest.mark.parametrize(
    "what", ["bytes of no length", "objects", "a structure", "a negative size", "a huge size", "nesting"]
)
def test_an_archive_with_such_an_array(tmp_path: Path, what: str) -> None:
    with zipfile.ZipFile(tmp_path / "a.npz", "w") as file:
        file.writestr("header.npy", npy(described("'|u1'", "(2,)"), b"{}"))
        file.writestr("a.npy", ARRAYS[what])
    with pytest.raises(ConfigError, match="is not an archive"):
        read_archive(tmp_path / "a.npz", "f", "an archive")


@pytest.mark.parametrize(
    "value", [10**400, -(10**400), pytest.param(10**5000, id="huge"), float("nan"), float("inf"), True, "1", None, [1]]
)
def test_numbers_that_are_no_temperature(value: object) -> None:
    with pytest.raises(RequestError):
        SamplingParams(temperature=value)
    with pytest.raises(RequestError):
        SamplingParams(max_tokens=value if value is not None else -1, top_p=value)


@pytest.mark.parametrize("name", ["config.json", "generation_config.json", "tokenizer_config.json", "tokenizer.json"])
@pytest.mark.parametrize(
    "text", ["[" * 100_000, '{"a":' * 5000, "9" * 5000, '{"eos_token_id": ' + "9" * 5000 + "}", "\ufeff{}", "[]"]
)
def test_files_of_a_model_that_nest_or_hold_huge_numbers(
    tmp_path: Path, capsys: pytest.CaptureFixture[str], name: str, text: str
) -> None:
    for file in BUNDLED["story"].iterdir():
        if file.name != name:
            (tmp_path / file.name).symlink_to(file)
    (tmp_path / name).write_text(text)
    refused(capsys, "generate", tmp_path, "--prompt", "x", "--max-tokens", "1", "--threads", "1")


def test_base64_of_the_wrong_length(tmp_path: Path, capsys: pytest.CaptureFixture[str]) -> None:
    path = tmp_path / "m.json"
    assert main(["random", "--hidden", "16", "--heads", "2", "--kv-heads", "1", "--vocab", "32", "-o", str(path)]) == 0
    whole = json.loads(path.read_text())
    whole["inputs"]["input_ids"]["data"] = base64.b64encode(bytes(3)).decode()
    path.write_text(json.dumps(whole))
    assert "base64 characters" in refused(capsys, "forward", path)


TOML = {
    "parts": "a." * 100_000 + "a = 1",
    "parts of a table": "[" + "a . " * 100_000 + "a]",
    "parts of an array of tables": "[[" + "a." * 100_000 + "a]]",
    "parts in quotes": '"a".' * 50_000 + "a = 1",
    "parts in single quotes": "'a.b' ." * 50_000 + "a = 1",
    "parts within": "x = { " + "a." * 100_000 + "a = 1 }",
    "arrays": "a = " + "[" * 200_000,
    "tables": "a = " + "{a = " * 50_000,
    "digits": "threads = " + "9" * 5000,
}


@pytest.mark.parametrize("what", TOML)
def test_toml_that_grows(tmp_path: Path, monkeypatch: pytest.MonkeyPatch, capsys: Capture, what: str) -> None:
    """A file of 64 KB took 11 seconds, and one of 1 MB would have taken most of an hour."""
    monkeypatch.chdir(tmp_path)
    Path("cutset.toml").write_text(TOML[what])
    Path("scenario.toml").write_text(TOML[what])
    assert "is not valid TOML" in refused(capsys, "config")
    Path("cutset.toml").unlink()
    assert "is not valid TOML" in refused(capsys, "manifest", "--check", "scenario.toml")
    with pytest.raises(ConfigError, match="is not valid TOML"):
        read_scenario(Path("scenario.toml"))


def test_toml_with_many_dots_that_are_no_names(tmp_path: Path) -> None:
    text = 'a = "' + "x/y.so, " * 500 + '"\nb = [' + '"a.b", ' * 500 + "]\nc.d.e = 1\nf = " + repr("w" * 100_000)
    assert parse_toml(text, "here")["c"] == {"d": {"e": 1}}
