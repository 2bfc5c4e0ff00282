"""The whole flow of random models in one command: it says who agrees, and fails where one doesn't."""

from __future__ import annotations

import json
from pathlib import Path
from typing import Any

import numpy as np
import pytest

from cutset.cli import main
from cutset.models.run.native import NativeDecoder

FLAGS = ["bench", "exchange", "--hidden", "32", "--heads", "4", "--vocab", "61", "--warmup", "0", "--repeat", "2"]


def test_every_backend_is_timed_and_compared(tmp_path: Path, capsys: Any) -> None:
    file = tmp_path / "x.json"
    assert main([*FLAGS, "--threads", "1", "--json", str(file)]) == 0
    systems = [row["system"] for row in json.loads(file.read_text())["rows"]]
    assert {"cutset reference float32", "cutset native float32", "cutset native int8"} <= set(systems)
    assert "NO" not in capsys.readouterr().out


def test_a_plot_is_drawn_in_the_form_that_its_name_says(tmp_path: Path, capsys: Any) -> None:
    pytest.importorskip("matplotlib")
    flags = [*FLAGS, "--threads", "1", "--plot"]
    assert main([*flags, str(tmp_path / "x.svg")]) == 0
    assert b"<svg" in (tmp_path / "x.svg").read_bytes()
    assert main([*flags, str(tmp_path / "x.xyz")]) == 2
    assert "a drawing's name ends with .png or .svg" in capsys.readouterr().err
    assert not (tmp_path / "x.xyz").exists()


def test_a_backend_that_is_wrong_is_an_error(monkeypatch: pytest.MonkeyPatch, capsys: Any) -> None:
    right = NativeDecoder.forward
    monkeypatch.setattr(NativeDecoder, "forward", lambda *args: np.zeros_like(right(*args)))
    assert main([*FLAGS, "--threads", "1"]) == 1
    assert "NO the first is all zeros" in capsys.readouterr().out
