"""BENCHMARKS.md: every file, every loss, and twice the same text."""

import pytest

from benchmarks.report import report
from cutset.compare.metric_units import format_value
from cutset.compare.results import MachineInfo, Results, Row, save
from cutset.errors import ConfigError

MACHINE = MachineInfo("A CPU", 2, 1, {"python": "3.11", "numpy": "2.0"})


def put(folder, name, *rows, command="cutset bench decode"):
    folder.mkdir(exist_ok=True)
    save(Results(command, MACHINE, rows), folder / name)


def row(system, value, spread=None, workload="small", metric="decode", unit="tok/s"):
    return Row(workload, system, metric, value, unit, spread)


def table(text):
    return [line for line in text.splitlines() if line.startswith("|")]


def test_no_results(tmp_path):
    text = report(tmp_path)
    assert "There are no results yet." in text
    assert text == report(tmp_path)
    with pytest.raises(ConfigError, match="gone' is not a directory of result files"):
        report(tmp_path / "gone")


def test_sections(tmp_path):
    put(tmp_path, "b.json", row("cutset", 2.0))
    put(tmp_path, "a_x.json", row("cutset", 30.0, 0.021), row("rival|one", 20.0), row("cutset", 1.0, workload="big"))
    (tmp_path / "note.txt").write_text("no result")
    text = report(tmp_path)
    assert text == report(tmp_path)
    assert text.index("## a\\_x") < text.index("## b")
    assert "    cutset bench decode\n" in text
    assert "A CPU, 2 cores, 1 thread; numpy 2.0, python 3.11\n" in text
    assert "### decode (tok/s, more is better)" in text
    assert table(text) == [
        "| workload | cutset | rival\\|one | ours ÷ best |",
        "|---|---:|---:|---:|",
        "| small | 30.0 ±2.1 % | 20.0 | 1.50× **win** (rival\\|one) |",
        "| big | 1.00 | – | – |",
        "| workload | cutset |",
        "|---|---:|",
        "| small | 2.00 |",
    ]
    assert text.endswith("|\n")


def test_a_loss_is_marked_as_plainly_as_a_win(tmp_path):
    rivals = [row("rival", 100.0), row("slow rival", 20.0)]
    put(tmp_path, "r.json", row("cutset f32", 40.0), row("cutset int8", 50.0), *rivals)
    assert "| 0.500× **loss** (cutset int8 : rival) |" in report(tmp_path)


def test_less_is_better(tmp_path):
    times = [("rival", 4.0), ("slow rival", 9.0), ("cutset a", 2.0), ("cutset b", 3.0)]
    put(tmp_path, "r.json", *(row(system, value, unit="s") for system, value in times))
    text = report(tmp_path)
    assert "(s, less is better)" in text
    assert "| small | 2.00 | 3.00 | 4.00 | 9.00 | 2.00× **win** (cutset a : rival) |" in text


@pytest.mark.parametrize(
    ("ours", "rival", "cell"),
    [
        ((100.0, 0.1), (95.0, 0.1), "1.05× even (rival)"),
        ((95.0, 0.1), (100.0, 0.1), "0.950× even (rival)"),
        ((100.0, None), (100.1, None), "0.999× even (rival)"),
        ((0.0, None), (0.0, None), "– (rival)"),
        ((-1.0, None), (2.0, None), "– (rival)"),
        ((1.0, None), (0.0, None), "∞× **win** (rival)"),
        ((0.0, None), (1.0, None), "0.000× **loss** (rival)"),
    ],
)
def test_ratios(tmp_path, ours, rival, cell):
    put(tmp_path, "r.json", row("cutset", *ours), row("rival", *rival))
    assert table(report(tmp_path))[2].endswith(f"| {cell} |")


def test_metrics_and_units_have_tables_of_their_own(tmp_path):
    put(tmp_path, "r.json", row("cutset", 1.0), row("cutset", 2.0, metric="load", unit="s"))
    assert report(tmp_path).count("###") == 2


def test_commands_with_prompts_stay_on_a_line(tmp_path):
    put(tmp_path, "r.json", command="cutset generate --prompt '" + "a\n\x1b" * 200)
    line = next(line for line in report(tmp_path).splitlines() if line.startswith("    cutset generate"))
    assert len(line) == 304
    assert line.isprintable()
    assert "No rows." in report(tmp_path)


def test_errors_name_the_file(tmp_path):
    (tmp_path / "bad.json").write_text("{}")
    with pytest.raises(ConfigError, match=r"bad\.json has no 'command'"):
        report(tmp_path)
    (tmp_path / "bad.json").unlink()
    put(tmp_path, "r.json", row("cutset", 1.0, unit="furlong"))
    with pytest.raises(ConfigError, match="unit 'furlong'"):
        report(tmp_path)


@pytest.mark.parametrize(
    ("value", "text"),
    [
        (0.0, "0.000"), (0.0123, "0.012"), (0.5, "0.500"), (1.234, "1.23"), (12.34, "12.3"), (1234.5, "1234"),
        (12345678.0, "1.23e+07"), (0.00001, "1.00e-05"), (-2.5, "-2.50"), (float("inf"), "∞"),
        (float("-inf"), "-∞"), (float("nan"), "not a number"),
    ],
)  # fmt: skip
def test_format_value(value, text):
    assert format_value(value) == text
