"""Random models through the commands: made, converted, run, compared, quantised."""

from __future__ import annotations

import base64
import json
from pathlib import Path
from typing import Any

import numpy as np
import pytest

from cutset.cli import main
from cutset.cli.options import SIZES
from cutset.models.random import RandomModel


@pytest.fixture
def model(tmp_path: Path) -> Path:
    path = tmp_path / "model.json"
    assert main(["random", "--hidden", "32", "--heads", "4", "--vocab", "61", "-o", str(path)]) == 0
    return path


def test_flags_state_the_defaults_of_the_model() -> None:
    assert {name: default for name, (default, _) in SIZES.items()} == {
        name: getattr(RandomModel(), name) for name in SIZES
    }


def run(*argv: Any) -> int:
    return main([str(word) for word in argv])


def test_two_backends_agree_and_a_broken_one_does_not(model: Path, capsys: Any) -> None:
    folder = model.parent
    for backend in ("native", "reference"):
        files = ("-o", folder / f"{backend}.npy", "--trace", folder / backend, "--json", folder / f"{backend}.json")
        assert run("forward", model, "--backend", backend, "--warmup", 1, "--repeat", 3, *files) == 0
    assert run("compare", folder / "native.npy", folder / "reference.npy", "--mask", model) == 0
    assert "top-1 agreement 100.00%" in capsys.readouterr().out
    assert run("compare", folder / "native", folder / "reference") == 0
    rows = json.loads((folder / "native.json").read_text())["rows"]
    assert rows[0]["system"] == "cutset native float32"
    assert rows[0]["spread"] is not None

    logits = np.load(folder / "native.npy")
    assert logits.shape == (2, 5, 61)
    np.save(folder / "zeros.npy", np.zeros_like(logits))
    swapped = logits.copy()
    swapped[:, [0, 1]] = swapped[:, [1, 0]]
    np.save(folder / "swapped.npy", swapped)
    nan = logits.copy()
    nan[0, 0, 0] = np.nan
    np.save(folder / "nan.npy", nan)
    np.save(folder / "shorter.npy", logits[:, 1:])
    for wrong in ("zeros", "swapped", "nan", "shorter"):
        assert run("compare", folder / f"{wrong}.npy", folder / "reference.npy", "--tolerance", "1e9") == (
            0 if wrong == "swapped" else 1
        )
        assert run("compare", folder / f"{wrong}.npy", folder / "reference.npy") == 1
    zeros = folder / "zeros.npy"
    assert run("compare", zeros, zeros) == 1  # zeros agree with nothing, themselves included


def test_a_trace_names_the_first_operator_that_parts(model: Path, capsys: Any) -> None:
    folder = model.parent
    for name in ("a", "b"):
        assert run("forward", model, "--trace", folder / name) == 0
    broken = next((folder / "b").glob("*layer01-attention.npy"))
    np.save(broken, np.load(broken) * 1.01)
    capsys.readouterr()
    assert run("compare", folder / "a", folder / "b") == 1
    marked = [line for line in capsys.readouterr().out.splitlines() if "part here" in line]
    assert len(marked) == 1
    assert marked[0].startswith("layer01-attention ")
    broken.unlink()
    assert run("compare", folder / "a", folder / "b") == 1


def test_convert_keeps_bytes_and_configuration_both_ways(tmp_path: Path) -> None:
    sizes = ("--hidden", 32, "--heads", 4, "--experts", 3, "--qk-norm", "--untied")
    assert run("random", *sizes, "-o", tmp_path / "dir") == 0
    assert run("convert", tmp_path / "dir", "-o", tmp_path / "file.json") == 0
    assert run("convert", tmp_path / "file.json", "-o", tmp_path / "back") == 0
    for name in ("model.safetensors", "config.json"):
        ours, theirs = ((tmp_path / folder / name).read_bytes() for folder in ("dir", "back"))
        assert json.loads(ours) == json.loads(theirs) if name == "config.json" else ours == theirs


@pytest.mark.parametrize("command", ["random", "convert"])
def test_nothing_is_written_over_a_checkpoint(command: str, model: Path, tmp_path: Path, capsys: Any) -> None:
    """Weights that an index names would be read in place of the new ones."""
    target = tmp_path / "dir"
    assert run("random", "-o", target) == 0
    before = {path.name: path.read_bytes() for path in target.iterdir()}
    words = ("--seed", 5) if command == "random" else (model,)
    assert run(command, *words, "-o", target) == 2
    assert "not an empty directory" in capsys.readouterr().err
    assert {path.name: path.read_bytes() for path in target.iterdir()} == before


def test_half_of_a_checkpoint_does_not_stay(model: Path, tmp_path: Path) -> None:
    content = json.loads(model.read_text())
    content["weights"]["layers"][1]["w_down"]["data"] = "*" * len(content["weights"]["layers"][1]["w_down"]["data"])
    model.write_text(json.dumps(content))
    (tmp_path / "there").mkdir()
    for name in ("new", "there"):
        assert run("convert", model, "-o", tmp_path / name) == 2
    assert sorted(path.name for path in tmp_path.iterdir()) == ["model.json", "there"]
    assert not any((tmp_path / "there").iterdir())


def test_a_dir_runs_with_the_inputs_of_a_file(model: Path, tmp_path: Path) -> None:
    assert run("convert", model, "-o", tmp_path / "dir") == 0
    assert run("forward", tmp_path / "dir") == 2
    assert run("forward", tmp_path / "dir", "--inputs", model, "-o", tmp_path / "a.npy") == 0
    assert run("forward", model, "-o", tmp_path / "b.npy") == 0
    assert (tmp_path / "a.npy").read_bytes() == (tmp_path / "b.npy").read_bytes()


@pytest.mark.parametrize("backend", ["native", "reference"])
def test_padding_is_not_seen(backend: str, model: Path, tmp_path: Path) -> None:
    """Whatever ids stand where the mask has a zero; and without the mask they would show."""

    def logits(name: str, first: int, masked: bool) -> Any:
        content = json.loads(model.read_text())
        ids, mask = np.array([[first, 5, 6, 7, 8]] * 2, "<i4"), np.array([[not masked, 1, 1, 1, 1]] * 2, "u1")
        for key, value in (("input_ids", ids), ("attention_mask", mask)):
            content["inputs"][key]["data"] = base64.b64encode(value.tobytes()).decode()
        (tmp_path / f"{name}.json").write_text(json.dumps(content))
        assert run("forward", tmp_path / f"{name}.json", "--backend", backend, "-o", tmp_path / "x.npy") == 0
        return np.load(tmp_path / "x.npy")[:, 1:]

    np.testing.assert_array_equal(logits("a", 3, True), logits("b", 4, True))
    assert np.abs(logits("c", 3, False) - logits("d", 4, False)).max() > 0.01


def test_inputs_that_are_longer_than_the_model_are_refused(model: Path, tmp_path: Path, capsys: Any) -> None:
    assert run("random", "--max-pos", 300, "--seq-len", 200, "--vocab", 61, "-o", tmp_path / "long.json") == 0
    assert run("forward", model, "--inputs", tmp_path / "long.json", "-o", tmp_path / "x.npy") == 2
    assert "the inputs have 200 tokens; the model has 128 positions" in capsys.readouterr().err
    assert not (tmp_path / "x.npy").exists()


def test_large_numbers_that_differ_do_not_agree(tmp_path: Path) -> None:
    values = np.random.default_rng(0).standard_normal((3, 7)) * 1e160
    np.save(tmp_path / "a.npy", values)
    np.save(tmp_path / "b.npy", values + 1e152)
    np.save(tmp_path / "tiny.npy", values * 1e-320)
    report = tmp_path / "report.json"
    assert run("compare", tmp_path / "a.npy", tmp_path / "b.npy", "--tolerance", "1e-9") == 1
    assert run("compare", tmp_path / "a.npy", tmp_path / "b.npy", "--tolerance", "1e-7", "--json", report) == 0
    assert json.loads(report.read_text())["steps"]["array"]["cosine"] == pytest.approx(1)
    assert run("compare", tmp_path / "tiny.npy", tmp_path / "tiny.npy") == 0


def test_an_integer_checkpoint_gives_what_quantising_in_memory_gives(model: Path, tmp_path: Path) -> None:
    assert run("convert", model, "-o", tmp_path / "dir") == 0
    (tmp_path / "dir" / "tokenizer.json").write_text("{}")
    (tmp_path / "dir" / "tokenizer_notes").mkdir()  # only files go along
    assert run("quantize", tmp_path / "dir", "-o", tmp_path / "int") == 0
    assert (tmp_path / "int" / "tokenizer.json").read_text() == "{}"
    for folder, output in (("dir", "a"), ("int", "b")):
        flags = ("--inputs", model, "--dtype", "exact", "-o", tmp_path / f"{output}.npy")
        assert run("forward", tmp_path / folder, *flags) == 0
    assert (tmp_path / "a.npy").read_bytes() == (tmp_path / "b.npy").read_bytes()
    reference = ("--backend", "reference", "-o", tmp_path / "c.npy")
    assert run("forward", tmp_path / "int", "--inputs", model, "--dtype", "exact", *reference) == 0
    # The float part rounds differently, so here and there an activation falls on the next integer.
    assert run("compare", tmp_path / "a.npy", tmp_path / "c.npy", "--tolerance", "1e-3") == 0
    assert run("forward", tmp_path / "int", "--inputs", model, "--dtype", "float32") == 2


def test_a_changed_integer_checkpoint_is_refused(model: Path, tmp_path: Path, capsys: Any) -> None:
    assert run("convert", model, "-o", tmp_path / "dir") == 0
    assert run("quantize", tmp_path / "dir", "-o", tmp_path / "int") == 0
    weights = tmp_path / "int" / "model.safetensors"
    content = bytearray(weights.read_bytes())
    content[-1] ^= 1
    weights.write_bytes(content)
    for verify in ("changed", "always"):
        assert run("forward", tmp_path / "int", "--inputs", model, "--verify", verify) == 2
        assert "the file was changed" in capsys.readouterr().err


def test_an_instruction_set_that_is_not_there(model: Path, monkeypatch: pytest.MonkeyPatch, capsys: Any) -> None:
    monkeypatch.setenv("CUTSET_ISA", "mmx")
    from cutset.kernels.native import extension

    with pytest.raises(Exception, match="CUTSET_ISA=mmx"):
        extension()
