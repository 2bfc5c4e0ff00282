"""The server's benchmark runs, and its client takes nothing but whole answers for one."""

from __future__ import annotations

from pathlib import Path

import pytest

pytest.importorskip("starlette")

from cutset.bench.decode import WORKLOADS
from cutset.bench.offload import integer_checkpoint
from cutset.bench.serve import ENGINE, SERVER, Load, run_load, server
from cutset.bench.serve_load import ask_together
from cutset.bench.serve_mixed import run_mixed
from cutset.cli import main
from cutset.errors import EngineError

TINY = WORKLOADS["tiny"].model


@pytest.mark.slow
def test_every_figure_is_there() -> None:
    load = Load("tiny", prompt=8, decode=8, batch=2, clients=(1, 2), each=2)
    with integer_checkpoint(TINY) as folder:
        rows = run_load(load, folder, TINY.vocab, threads=1, rounds=2, log=lambda line: None)
    assert {row.system for row in rows} == {ENGINE, SERVER}
    assert len({row.key for row in rows}) == len(rows) == 12
    assert all(row.value > 0 for row in rows)


@pytest.mark.slow
def test_an_answer_that_is_cut_short_is_an_error() -> None:
    with integer_checkpoint(TINY) as folder, server(folder, 1) as url:
        seconds, answers = ask_together(url, [[5, 6, 7], [8, 9]], 6, each=2)
        assert [answer.tokens for answer in answers] == [6] * 4
        assert all(0 < answer.first_s <= answer.whole_s <= seconds for answer in answers)
        with pytest.raises(EngineError, match="didn't give"):
            ask_together(url, [[5] * 100], 100)  # the context holds 128


@pytest.mark.slow
def test_many_clients_half_of_them_constrained() -> None:
    rows = run_mixed("story", clients=4, tokens=12, threads=1, rounds=2, log=lambda line: None)
    assert [(row.system, row.unit) for row in rows] == [
        ("cutset engine", "tok/s"),
        ("cutset server", "tok/s"),
        ("cutset server", "x"),
    ]
    assert all(row.value > 0 for row in rows)


def test_wrong_numbers_are_a_line_and_code_2(capsys: pytest.CaptureFixture[str]) -> None:
    for flags in (["--clients", "1"], ["--tokens", "100000"]):
        assert main(["bench", "serve", "--mixed", "story", *flags]) == 2
        assert flags[0] in capsys.readouterr().err


def test_a_server_that_does_not_start_says_why(tmp_path: Path) -> None:
    with pytest.raises(EngineError, match="didn't start"), server(tmp_path, 1):
        pass
