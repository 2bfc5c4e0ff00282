"""What a shell is offered at Tab, by asking as its script does; and the progress bar."""

from __future__ import annotations

import io
import os
import subprocess
import sys
from pathlib import Path

import pytest

pytest.importorskip("argcomplete")
pytest.importorskip("rich")

from cutset.cli import COMMANDS, main
from cutset.cli import progress as progress_module
from cutset.cli.completion import SHELLS
from cutset.cli.progress import Progress


def offered(line: str, folder: Path) -> list[str]:
    file = folder / "offered"
    environment = os.environ | {
        "_ARGCOMPLETE": "1",
        "_ARGCOMPLETE_IFS": "\n",
        "_ARGCOMPLETE_STDOUT_FILENAME": str(file),
        "COMP_LINE": line,
        "COMP_POINT": str(len(line)),
        "COMP_TYPE": "9",
    }
    done = subprocess.run(
        [sys.executable, "-m", "cutset"], env=environment, cwd=folder, capture_output=True, timeout=60, check=False
    )
    assert done.stdout == b""
    return [word.strip() for word in file.read_text().split("\n")]


@pytest.mark.parametrize(
    ("line", "words"),
    [
        ("cutset ", set(COMMANDS)),
        ("cutset ser", {"serve"}),
        ("cutset serve --tls", {"--tls-cert", "--tls-key"}),
        ("cutset serve --log-format ", {"text", "json"}),
        ("cutset serve sto", {"story"}),
        ("cutset completion ", set(SHELLS)),
        ("cutset bench ser", {"serve"}),
    ],
)
def test_a_shell_is_offered_what_fits(line: str, words: set[str], tmp_path: Path) -> None:
    assert words <= set(offered(line, tmp_path))
    assert len(offered(line, tmp_path)) < 60


def test_models_of_the_user_and_files_are_offered(tmp_path: Path) -> None:
    (tmp_path / "models.yaml").write_text("helper: models/helper\n")
    (tmp_path / "helmet.gguf").touch()
    assert {"helper", "helmet.gguf"} <= set(offered("cutset serve hel", tmp_path))
    (tmp_path / "models.yaml").write_text("[")  # said when a command is run
    assert offered("cutset serve helm", tmp_path) == ["helmet.gguf"]


@pytest.mark.parametrize("shell", SHELLS)
def test_the_script_of_each_shell(shell: str, capsys: pytest.CaptureFixture[str]) -> None:
    assert main(["completion", shell]) == 0
    script = capsys.readouterr().out
    assert "cutset" in script
    if shell == "bash":
        subprocess.run(["bash", "-n"], input=script, text=True, check=True)
    assert main(["completion", "cmd"]) == 2


class Terminal(io.StringIO):
    """What a terminal was sent."""

    def isatty(self) -> bool:
        return True


def test_a_bar_is_drawn_on_a_terminal_only(monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setattr(progress_module, "DELAY_S", 0.0)
    monkeypatch.setenv("TERM", "xterm")
    for where, drawn in ((Terminal(), True), (io.StringIO(), False)):
        monkeypatch.setattr(sys, "stderr", where)
        with Progress() as progress:
            progress("packing [red]weights\x1b[31m", 1, 3)
            progress("packing [red]weights\x1b[31m", 2, 3)
            progress("packing [red]weights\x1b[31m", 3, 3)
        assert bool(where.getvalue()) is drawn
        if drawn:
            assert "1/3" in where.getvalue()
            assert where.getvalue().count("[red]") == where.getvalue().count("weights")
            assert "\x1b[31m" not in where.getvalue()


def test_without_rich_there_is_a_plain_bar(monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setattr(progress_module, "DELAY_S", 0.0)
    monkeypatch.setattr(progress_module, "_bars", lambda: None)
    monkeypatch.setattr(sys, "stderr", where := Terminal())
    with Progress() as progress:
        progress("packing weights", 1, 2)
    assert "█" in where.getvalue()
    assert "1/2 packing weights" in where.getvalue()
