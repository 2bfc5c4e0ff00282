"""The command line as a user meets it: what starts, what is refused, and with which exit code."""

import importlib
import json
import os
import subprocess
import sys
import time
from pathlib import Path

import pytest

import cutset
from cutset import cli
from cutset.cli import COMMANDS, Command, main
from cutset.cli.output import table
from cutset.compare.results import MachineInfo, Results, Row, save
from cutset.config import OPTIONS
from cutset.errors import CutsetError, ModelError

SOURCE = str(Path(cutset.__file__).parent.parent)


@pytest.fixture(autouse=True)
def here(tmp_path, monkeypatch):
    """An empty current directory, and nothing of the user's own configuration."""
    monkeypatch.chdir(tmp_path)
    monkeypatch.setenv("XDG_CONFIG_HOME", str(tmp_path / "none"))
    for name in [name for name in os.environ if name.startswith("CUTSET_")]:
        monkeypatch.delenv(name)
    return tmp_path


def python(code, *args, **options):
    environ = os.environ | {"PYTHONPATH": SOURCE}
    command = [sys.executable, "-c", code, *args]
    return subprocess.run(command, env=environ, capture_output=True, text=True, timeout=120, check=False, **options)


def command(monkeypatch, run, configure=lambda parser: None):
    """Puts a command named `fake` into the table."""
    module = type("Module", (), {"configure": staticmethod(configure), "run": staticmethod(run)})
    monkeypatch.setitem(sys.modules, "cutset.cli.fake", module)
    monkeypatch.setitem(cli.COMMANDS, "fake", Command("cutset.cli.fake", "does what the test says"))


def fails(*errors):
    def run(args):
        raise errors[0]

    return run


# ---- starting


LOADED = """
import sys
from cutset.cli import main
code = main(sys.argv[1:])
heavy = {"numpy", "torch", "transformers", "tokenizers", "yaml", "jinja2"} & set(sys.modules)
print("LOADED", sorted(heavy), sorted(m for m in sys.modules if m.startswith("cutset.")))
sys.exit(code)
"""


def loaded(*args):
    done = python(LOADED, *args)
    assert done.returncode == 0, done.stderr
    line = next(line for line in done.stdout.splitlines() if line.startswith("LOADED"))
    return done.stdout, line


def test_help_imports_no_command():
    text, line = loaded("--help")
    assert line == "LOADED [] ['cutset.cli', 'cutset.errors']"
    for name, (_, help) in COMMANDS.items():
        assert f"  {name:<13}{help}" in text


def test_help_is_quick():
    best = 9.0
    for _ in range(3):
        started = time.perf_counter()
        python("import sys; from cutset.cli import main; sys.exit(main())", "--help")
        best = min(best, time.perf_counter() - started)
    assert best < 2.0  # 0.05 s on an idle machine; the test that nothing heavy is loaded is the strict one


@pytest.mark.parametrize("name", ["config", "models", "bench"])
def test_help_of_a_command_imports_no_other(name):
    _, line = loaded(name, "--help")
    assert line.startswith("LOADED [] ")
    assert COMMANDS[name].module in line
    assert not any(repr(other.module) in line for key, other in COMMANDS.items() if key != name)


@pytest.mark.parametrize("name", COMMANDS)
def test_help_of_every_command(name, capsys):
    assert main([name, "--help"]) == 0
    assert capsys.readouterr().out.startswith(f"usage: cutset {name}")


def test_every_command_module_has_the_two_functions():
    for module, help in COMMANDS.values():
        loaded = importlib.import_module(module)
        assert callable(loaded.configure)
        assert callable(loaded.run)
        assert help[0].islower()
        assert not help.endswith(".")


def test_version(capsys):
    assert main(["--version"]) == 0
    assert capsys.readouterr().out.startswith("cutset ")


def test_nothing_asked(capsys):
    assert main([]) == 2
    assert "commands:" in capsys.readouterr().err


def test_as_a_module():
    command, environ = [sys.executable, "-m", "cutset.cli", "nothing"], os.environ | {"PYTHONPATH": SOURCE}
    done = subprocess.run(command, env=environ, capture_output=True, timeout=120, check=False)
    assert done.returncode == 2


# ---- what goes wrong


@pytest.mark.parametrize(
    ("argv", "message"),
    [
        (["genrate"], "cutset: error: 'genrate' is not a command; did you mean 'generate'?\n"),
        (["zzz"], "cutset: error: 'zzz' is not a command; known: accelerator, "),
        (["--bogus"], "cutset: error: unrecognized arguments: --bogus\n"),
        (["--vers"], "cutset: error: unrecognized arguments: --vers\n"),
        (["config", "--thread", "2"], "cutset config: error: unrecognized arguments: --thread 2\n"),
        (["config", "--threads", "x"], "cutset: error: --threads must be a whole number from 0 to 1024, not 'x'\n"),
        (["config", "--json", "gone/x"], "cutset: error: 'gone/x' can't be written: No such file or directory\n"),
        (["models", "--models-file", "gone.yaml"], "gone.yaml, given by --models-file, is not a file\n"),
        (["bench"], "the following arguments are required: ACTION\n"),
        (["bench", "diff", "a.json", "b.json"], "cutset: error: a.json can't be read: No such file or directory\n"),
        (["bench", "report"], "cutset: error: 'benchmarks' is not a directory of result files\n"),
    ],
)
def test_errors_exit_with_2(argv, message, capsys):
    assert main(argv) == 2
    out, err = capsys.readouterr()
    assert message in err
    assert "Traceback" not in err
    assert out == "" or "--json" in argv


@pytest.mark.parametrize(
    ("variable", "value", "message"),
    [
        ("CUTSET_THREAD", "1", "CUTSET_THREAD in the environment is not a setting; did you mean 'CUTSET_THREADS'?"),
        ("CUTSET_THREADS", "many", "CUTSET_THREADS must be a whole number from 0 to 1024, not 'many'"),
        ("CUTSET_CONFIG", "gone.toml", "CUTSET_CONFIG names 'gone.toml', which is not a file"),
    ],
)
def test_errors_of_the_environment(variable, value, message, monkeypatch, capsys):
    monkeypatch.setenv(variable, value)
    assert main(["config"]) == 2
    assert capsys.readouterr().err == f"cutset: error: {message}\n"


def test_errors_of_files(here, capsys):
    (here / "cutset.toml").write_text("thread = 1")
    assert main(["models"]) == 2
    message = f"'thread' in cutset.toml ({here / 'cutset.toml'}) is not a setting; did you mean 'threads'?"
    assert capsys.readouterr().err == f"cutset: error: {message}\n"
    (here / "cutset.toml").write_text("")
    (here / "models.yaml").write_text("a: {path: x, dtyp: y}")
    assert main(["models"]) == 2
    assert "'a' has the unknown key 'dtyp'; did you mean 'dtype'?" in capsys.readouterr().err


def test_debug_shows_the_traceback(monkeypatch, capsys):
    command(monkeypatch, fails(ModelError("no such model")))
    assert main(["fake"]) == 2
    assert capsys.readouterr().err == "cutset: error: no such model\n"
    monkeypatch.setenv("CUTSET_DEBUG", "1")
    with pytest.raises(CutsetError):
        main(["fake"])
    monkeypatch.setenv("CUTSET_DEBUG", "0")
    assert main(["fake"]) == 2


def test_errors_of_another_party_can_t_command_the_terminal(monkeypatch, capsys):
    command(monkeypatch, fails(CutsetError("it said: \x1b[2J\x9b31m\rfine\nuse another one")))
    assert main(["fake"]) == 2
    assert capsys.readouterr().err == "cutset: error: it said: \ufffd[2J\ufffd31m\ufffdfine\nuse another one\n"


def test_interrupt_is_quiet(monkeypatch, capsys):
    command(monkeypatch, fails(KeyboardInterrupt()))
    assert main(["fake"]) == 130
    assert capsys.readouterr() == ("", "")


def test_a_bug_keeps_its_traceback(monkeypatch):
    command(monkeypatch, fails(ZeroDivisionError()))
    with pytest.raises(ZeroDivisionError):
        main(["fake"])


@pytest.mark.parametrize(
    "argv",
    [
        ["config"],
        ["generate", "story", "--prompt", "Once", "--max-tokens", "3"],
        ["generate", "story", "--prompt", "Once", "--max-tokens", "3", "--output", "/dev/full"],
    ],
)
def test_a_full_disk_is_one_line(argv):
    with open("/dev/full", "w") as full:
        command = [sys.executable, "-m", "cutset.cli", *argv]
        done = subprocess.run(command, stdout=full, stderr=subprocess.PIPE, text=True, timeout=120, check=False)
    assert done.returncode == 2
    assert done.stderr.splitlines()[-1] == "cutset: error: No space left on device"
    assert "Traceback" not in done.stderr
    assert "Exception ignored" not in done.stderr


@pytest.mark.parametrize(
    "argv",
    [["forward", "x" * 300], ["convert", "x" * 300, "-o", "y.json"], ["models", "--models-file", "x" * 300]],
)
def test_a_name_that_is_too_long_is_one_line(argv, capsys):
    assert main(argv) == 2
    shown = os.path.abspath("x" * 300) if argv[0] == "models" else "x" * 300
    assert capsys.readouterr().err == f"cutset: error: {shown}: File name too long\n"


def test_a_current_directory_that_is_gone_is_one_line(tmp_path):
    code = "import os, sys; os.rmdir(os.getcwd()); from cutset.cli import main; sys.exit(main())"
    (tmp_path / "gone").mkdir()
    done = python(code, "config", cwd=tmp_path / "gone")
    assert (done.returncode, done.stderr) == (2, "cutset: error: No such file or directory\n")


def test_memory_that_is_not_there_is_one_line(monkeypatch, capsys):
    command(monkeypatch, fails(MemoryError("Unable to allocate 7 TiB")))
    assert main(["fake"]) == 2
    assert capsys.readouterr().err == "cutset: error: there is not enough memory: Unable to allocate 7 TiB\n"


def test_the_exit_code_is_the_commands_own(monkeypatch):
    seen = []
    command(monkeypatch, lambda args: seen.append(args.n) or 7, lambda parser: parser.add_argument("n", type=int))
    assert main(["fake", "3"]) == 7
    assert main(["fake", "x"]) == 2
    assert seen == [3]


@pytest.mark.parametrize("argument", ["--help", "config"])
def test_a_reader_that_goes_away(argument):
    read, write = os.pipe()
    os.close(read)
    code = "import sys; from cutset.cli import main; sys.exit(main())"
    environ = os.environ | {
        "PYTHONPATH": SOURCE,
        "PYTHONUNBUFFERED": "",
    }  # unbuffered, argparse hides it and exits with 0
    command = [sys.executable, "-c", code, argument]
    done = subprocess.run(command, env=environ, stdout=write, stderr=subprocess.PIPE, timeout=120, check=False)
    os.close(write)
    assert (done.returncode, done.stderr) == (141, b"")


@pytest.mark.parametrize(
    ("command", "code"),
    [
        ("config >&-", 0),
        ("config 2>&-", 0),
        ("tokenize >&- 2>&-", 2),
        ("tokenize no x >&-", 2),
        ("generate no --prompt - <&-", 2),
    ],
)
def test_closed_streams(command, code):
    done = subprocess.run(
        ["sh", "-c", f"{sys.executable} -m cutset.cli {command}"], capture_output=True, text=True, timeout=60
    )
    assert (done.returncode, "Traceback" in done.stderr) == (code, False), done.stderr


def test_a_terminal_without_unicode():
    environ = os.environ | {"PYTHONPATH": SOURCE, "PYTHONIOENCODING": "ascii"}
    command = [sys.executable, "-m", "cutset.cli", "--help"]
    done = subprocess.run(command, env=environ, capture_output=True, timeout=120, check=False)
    assert done.returncode == 0
    assert b"COMMAND ?" in done.stdout


# ---- the commands


def test_config(here, monkeypatch, capsys):
    (here / "cutset.toml").write_text("block_size = 32")
    monkeypatch.setenv("CUTSET_CACHE_MIB", "9")
    assert main(["config", "--threads", "2", "--no-prefix-caching", "--json", "out.json"]) == 0
    lines = capsys.readouterr().out.splitlines()
    cells = {line.split()[0]: line.split(maxsplit=2)[1:] for line in lines[1 : 1 + len(OPTIONS)]}
    assert list(cells) == list(OPTIONS)
    assert cells["threads"] == ["2", "--threads"]
    assert cells["cache_mib"] == ["9", "CUTSET_CACHE_MIB"]
    assert cells["block_size"] == ["32", f"cutset.toml ({here / 'cutset.toml'})"]
    assert cells["prefix_caching"] == ["no", "--no-prefix-caching"]
    assert cells["models_file"] == ["none", "default"]
    assert lines[-1] == f"read: {here / 'cutset.toml'}"
    document = json.loads((here / "out.json").read_text())
    assert document["file"] == str(here / "cutset.toml")
    assert document["settings"]["threads"] == {"value": 2, "source": "--threads"}
    assert list(document["settings"]) == list(OPTIONS)


def test_config_says_how_many_threads_all_are(capsys):
    assert main(["config"]) == 0
    assert "0 = " in next(line for line in capsys.readouterr().out.splitlines() if line.startswith("threads"))


def test_models(here, capsys):
    (here / "models.yaml").write_text("mine: {path: nowhere, description: not yet}")
    assert main(["models", "--json", "out.json"]) == 0
    out = capsys.readouterr().out
    assert "mine can't be used: " in out
    assert f"registered in: {here / 'models.yaml'}" in out
    models = {model["name"]: model for model in json.loads((here / "out.json").read_text())["models"]}
    assert set(models) == {"mine", "story"}
    assert models["mine"]["usable"] is False
    assert models["mine"]["description"] == "not yet"
    assert models["story"]["directory"].endswith(str(Path("bundled/story")))


def test_a_model_whose_weights_are_gone_is_listed(here, capsys):
    (here / "models.yaml").write_text("broken: model")
    (here / "model").mkdir()
    (here / "model" / "model.safetensors").symlink_to(here / "gone")
    assert main(["models"]) == 0
    assert "broken can't be used" in capsys.readouterr().out


def result(path, ours, rival):
    rows = [Row("w", system, "decode", value, "tok/s", 0.01) for system, value in (("cutset", ours), ("rival", rival))]
    save(Results("cutset bench x", MachineInfo("cpu", 2, 2, {}), tuple(rows)), path)


def test_bench_diff(here, capsys):
    result("old.json", 10.0, 5.0)
    result("new.json", 12.0, 5.0)
    assert main(["bench", "diff", "old.json", "new.json"]) == 0
    out = capsys.readouterr().out
    assert "improvement  w         decode  cutset  rival            2.00    2.40    1.20     10 %\n" in out
    assert out.endswith("\n0 regression, 0 gone, 1 improvement, 0 same, 0 new, 0 not comparable\n")
    assert main(["bench", "diff", "new.json", "old.json"]) == 1
    assert "REGRESSION" in capsys.readouterr().out
    assert main(["bench", "diff", "new.json", "old.json", "--tolerance", "0.5"]) == 0
    assert main(["bench", "diff", "new.json", "old.json", "--tolerance", "nan"]) == 2
    assert "the tolerance must be a finite number of 0 or more, not nan" in capsys.readouterr().err


def test_bench_report(here, capsys):
    (here / "benchmarks").mkdir()
    assert main(["bench", "report", "--check"]) == 1
    assert (
        "BENCHMARKS.md differs from what benchmarks says: run `python -m benchmarks report`" in capsys.readouterr().out
    )
    assert main(["bench", "report"]) == 0
    assert main(["bench", "report", "--check"]) == 0
    first = (here / "BENCHMARKS.md").read_bytes()
    assert b"There are no results yet." in first
    result("benchmarks/decode.json", 10.0, 5.0)
    assert main(["bench", "report", "--check"]) == 1
    assert (here / "BENCHMARKS.md").read_bytes() == first
    assert main(["bench", "report", "--output", "other.md"]) == 0
    assert "2.00× **win** (rival)" in (here / "other.md").read_text()


def test_table():
    assert table([("a", "b"), ("long", "1"), ("", "22")], right=[1]) == "a      b\nlong   1\n      22"
    assert table([]) == ""
