"""Result files: what is written can be read, and what is malformed is refused with its reason."""

import json
import subprocess
import sys

import pytest

from cutset.compare.metric_units import higher_is_better
from cutset.compare.results import MachineInfo, Results, Row, load, machine, save, summarise
from cutset.config import usable_cores
from cutset.errors import ConfigError

MACHINE = MachineInfo("A CPU", 2, 2, {"python": "3.11"})
ROW = {"workload": "w", "system": "cutset int8", "metric": "decode", "value": 2, "unit": "tok/s", "spread": None}


def document(**changes):
    machine = {"cpu": "A CPU", "cores": 2, "threads": 1, "versions": {"python": "3.11"}}
    return {"command": "cutset bench x", "machine": machine, "rows": [ROW]} | changes


def test_round_trip(tmp_path):
    rows = (Row("w", "cutset", "decode", 1.5, "tok/s", 0.02), Row("w", "other", "decode", 2.0, "tok/s"))
    results = Results("cutset bench x", MACHINE, rows)
    save(results, tmp_path / "r.json")
    assert load(tmp_path / "r.json") == results
    assert list(json.loads((tmp_path / "r.json").read_text())["rows"][0]) == list(ROW)


def test_save_refuses_what_load_would(tmp_path):
    with pytest.raises(ConfigError, match="row 0: value must be a finite number"):
        save(Results("c", MACHINE, (Row("w", "s", "m", float("nan"), "s"),)), tmp_path / "r.json")
    assert not (tmp_path / "r.json").exists()


@pytest.mark.parametrize(
    ("content", "message"),
    [
        ([], "must be an object with command, machine, rows"),
        ({"command": "x"}, "has no 'machine'"),
        (document(command=""), "command must be the command line that measured"),
        (document(command=["a"]), "command must be the command line that measured"),
        (document(rows=[ROW | {"more": 1}]), "row 0 has the unknown key 'more'; known: workload, system"),
        (document(machine=3), "machine must be an object with cpu, cores, threads, versions"),
        (document(machine=document()["machine"] | {"cores": 0}), "cores must be a positive whole number"),
        (document(machine=document()["machine"] | {"threads": True}), "threads must be a positive whole number"),
        (document(machine=document()["machine"] | {"versions": []}), "versions must be an object"),
        (document(machine=document()["machine"] | {"versions": {"a": 1}}), "the version of 'a' must be a printable"),
        (document(rows={}), "rows must be a list"),
        (document(rows=[3]), "row 0 must be an object"),
        (document(rows=[ROW, ROW]), "row 1: decode of cutset int8 on w is there twice"),
        (document(rows=[{k: v for k, v in ROW.items() if k != "spread"}]), "row 0 has no 'spread'"),
        (document(rows=[ROW | {"value": "2"}]), "row 0: value must be a finite number"),
        (document(rows=[ROW | {"value": True}]), "row 0: value must be a finite number"),
        (document(rows=[ROW | {"value": None}]), "row 0: value must be a finite number"),
        (document(rows=[ROW | {"value": 10**400}]), "row 0: value must be a finite number"),
        (document(rows=[ROW | {"value": float("nan")}]), "is not valid JSON: NaN is not a number"),
        (document(rows=[ROW | {"spread": -1}]), "row 0: spread must not be negative"),
        (document(rows=[ROW | {"unit": ["s"]}]), "row 0: unit must be a printable text"),
        (document(rows=[ROW | {"workload": "a\nb"}]), "row 0: workload must be a printable text"),
    ],
)
def test_malformed(tmp_path, content, message):
    path = tmp_path / "r.json"
    path.write_text(json.dumps(content))
    with pytest.raises(ConfigError) as caught:
        load(path)
    assert message in str(caught.value)
    assert str(path) in str(caught.value)


def test_what_a_command_adds_is_ignored(tmp_path):
    path = tmp_path / "r.json"
    path.write_text(json.dumps(document(output={"text": "Once"}, command="cutset generate --prompt 'a\nb'")))
    assert load(path).rows[0].value == 2.0


@pytest.mark.parametrize("text", ["", "{", "[" * 100_000, "1e999", "9" * 5000, '{"a": "\\ud800"}'])
def test_not_even_json(tmp_path, text):
    path = tmp_path / "r.json"
    path.write_text(text)
    with pytest.raises(ConfigError):
        load(path)


def test_too_large(tmp_path):
    path = tmp_path / "r.json"
    path.write_bytes(b" " * ((16 << 20) + 1))
    with pytest.raises(ConfigError, match="is larger than 16777216 bytes"):
        load(path)


def test_summarise():
    row = summarise("w", "cutset", "decode", [10.0, 12.0, 11.0, 9.0, 100.0], "tok/s")
    assert (row.value, row.spread) == (11.0, pytest.approx(1 / 11))
    assert summarise("w", "s", "m", [3.0], "s").spread is None
    assert summarise("w", "s", "m", [0.0, 0.0], "s") == Row("w", "s", "m", 0.0, "s", None)
    with pytest.raises(ConfigError, match="was measured not once"):
        summarise("w", "s", "m", [], "s")


def test_machine():
    here = machine(packages=("pytest", "no-such-package-anywhere"))
    assert here.cpu
    assert here.cores == here.threads == usable_cores()
    assert machine(threads=1).threads == 1
    assert {"python", "numpy", "pytest"} <= set(here.versions)
    assert "no-such-package-anywhere" not in here.versions


def test_versions_are_found_without_importing():
    code = (
        "import sys; from cutset.compare.results import machine; machine(packages=('torch', 'transformers'));"
        "print([m for m in ('numpy', 'torch', 'transformers') if m in sys.modules])"
    )
    done = subprocess.run([sys.executable, "-c", code], capture_output=True, text=True, timeout=60, check=True)
    assert done.stdout.strip() == "[]"


def test_units():
    assert all(higher_is_better(unit, "m") for unit in ("tok/s", "GB/s", "x"))
    assert not any(higher_is_better(unit, "m") for unit in ("s", "ms", "us", "MiB", "B", "%", "rel error"))
    assert higher_is_better("%", "accuracy")
    with pytest.raises(ConfigError, match="unit 'furlong' of metric 'm': whether more is better isn't known"):
        higher_is_better("furlong", "m")
