"""The settings of streams: one table for Python, the command line, variables and cutset.toml."""

from __future__ import annotations

import argparse
from dataclasses import fields
from pathlib import Path
from typing import Any

import pytest

import cutset
from cutset.cli import main, stream_run
from cutset.cli.options import stream_settings_from
from cutset.config import STREAM_OPTIONS, Option, StreamSettings, load_settings, load_stream_settings
from cutset.errors import ConfigError

DOCS = Path(__file__).resolve().parents[1] / "docs" / "streaming.md"
FIELDS = [field.name for field in fields(StreamSettings) if field.metadata]
RUN = ["alexnet", "--source", "generated:64x96,pictures=2"]


@pytest.fixture(autouse=True)
def place(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> Path:
    """A current directory and a user's configuration directory, both empty."""
    (tmp_path / "here").mkdir()
    (tmp_path / "home").mkdir()
    monkeypatch.setenv("XDG_CONFIG_HOME", str(tmp_path / "home"))
    monkeypatch.chdir(tmp_path / "here")
    return tmp_path


def parsed(*flags: str) -> StreamSettings:
    """What `cutset stream run` makes of its flags."""
    parser = argparse.ArgumentParser()
    stream_run.configure(parser)
    return stream_settings_from(parser.parse_args([*RUN, *flags]))


def other(option: Option) -> tuple[Any, str]:
    """A value that isn't the default, and the text that spells it."""
    special: dict[str, tuple[Any, str]] = {
        "size": ("48x64", "48x64"),
        "workers": (("tcp://a:1", "tcp://b:2"), "tcp://a:1,tcp://b:2"),
        "link": (("8MB/s,20ms", "1MB/s"), "8MB/s,20ms;1MB/s"),
        "speed": ((0.5, 1.0), "0.5, 1"),
        "scheduler": ("edge", "edge"),
        "min_agreement": (0.98, "0.98"),
        "ray": ("auto", "auto"),
        "place": (("worker1=gpu:1,node:edge", "worker2=cpu:2"), "worker1=gpu:1,node:edge;worker2=cpu:2"),
    }
    if option.name in special:
        return special[option.name]
    if option.choices:
        value = next(choice for choice in option.choices if choice != option.default)
        return value, value
    if option.kind is bool:
        return True, "yes"
    if option.kind is Path:
        path = Path.cwd() / "a.file"
        return ((path, path), "a.file,a.file") if option.separator else (path, "a.file")
    number = (option.default or 0) + 3
    return option.kind(number), str(number)


def test_every_field_is_declared_and_documented() -> None:
    assert list(STREAM_OPTIONS) == FIELDS
    assert len(FIELDS) > 25
    page = DOCS.read_text()
    for name, option in STREAM_OPTIONS.items():
        assert len(option.help) > 10, f"{name} has no help"
        assert f"`{name}`" in page, f"docs/streaming.md doesn't say what {name} is"


def test_the_command_line_and_python_have_the_same_defaults(monkeypatch: pytest.MonkeyPatch) -> None:
    """Every field, as both faces hand it to the one function that puts streams together."""
    pytest.importorskip("torch")
    from cutset import stream
    from cutset.video import assembly

    seen: list[StreamSettings] = []

    def assemble(model: Any, sources: Any, settings: StreamSettings, *rest: Any, **more: Any) -> None:
        seen.append(settings)
        raise ConfigError("seen")

    monkeypatch.setattr(assembly, "assemble", assemble)
    monkeypatch.setattr(stream, "assemble", assemble)
    assert main(["stream", "run", *RUN]) == 2
    for how in ({}, {"settings": StreamSettings()}, {"workers": 2}):
        with pytest.raises(ConfigError, match="seen"):
            cutset.Stream("alexnet", [], **how)
    command, *python = seen
    assert len(python) == 3
    for name in FIELDS:
        default = getattr(StreamSettings(), name)
        assert default == STREAM_OPTIONS[name].default
        for settings in (command, *python):
            assert getattr(settings, name) == default, name


@pytest.mark.parametrize("name", FIELDS)
def test_a_field_comes_from_each_of_its_sources(name: str, place: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    option = STREAM_OPTIONS[name]
    value, text = other(option)
    assert value != option.default
    assert getattr(StreamSettings(**{name: value}), name) == value
    flags = [option.flag] if option.kind is bool else [f"{option.flag}={text}"]
    if name in ("link", "place"):
        flags = [f"--{name}={one}" for one in value]
    settings = parsed(*flags)
    assert (getattr(settings, name), settings.sources[name]) == (value, option.flag)
    assert settings.by_hand(name)
    assert getattr(load_stream_settings({name: value}), name) == value
    file = place / "here" / "cutset.toml"
    spelled = text if option.kind in (int, float) and not option.separator else f'"{text}"'
    file.write_text(f"[stream]\n{name} = {spelled if option.kind is not bool else 'true'}\n")
    variable = f"CUTSET_STREAM_{name.upper()}"
    if option.flag_only:
        with pytest.raises(
            ConfigError, match=rf"stream\.{name} in cutset\.toml .* is not accepted: give {option.flag}"
        ):
            load_stream_settings()
        file.unlink()
        monkeypatch.setenv(variable, text)
        with pytest.raises(ConfigError, match=f"{variable} is not accepted"):
            load_stream_settings()
        return
    settings = load_stream_settings()
    assert (getattr(settings, name), settings.sources[name]) == (value, f"cutset.toml ({file})")
    assert load_settings().file == file, "a table of streams is no error for a language model"
    file.unlink()
    monkeypatch.setenv(variable, text)
    settings = load_stream_settings()
    assert (getattr(settings, name), settings.sources[name]) == (value, variable)


def test_flags_over_variables_over_the_file(place: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    (place / "here" / "cutset.toml").write_text("threads = 7\n[stream]\nthreads = 2\nin_flight = 9\nlook = 5\n")
    monkeypatch.setenv("CUTSET_STREAM_IN_FLIGHT", "3")
    monkeypatch.setenv("CUTSET_STREAM_LOOK", "4.5")
    settings = parsed("--look", "1")
    assert (settings.threads, settings.in_flight, settings.look, settings.mode) == (2, 3, 1.0, "delta")
    assert load_settings().threads == 7
    assert settings.file == place / "here" / "cutset.toml"


def test_lists_and_paths_of_the_file_are_read_as_toml_has_them(place: Path) -> None:
    (place / "home" / "cutset").mkdir()
    (place / "home" / "cutset" / "cutset.toml").write_text(
        '[stream]\nspeed = [0.5, 1]\nlink = ["8MB/s,20ms", "5ms"]\nprofile = ["p.json"]\nweights = "w.pt"\n'
    )
    settings = load_stream_settings()
    assert settings.speed == (0.5, 1.0)
    assert settings.link == ("8MB/s,20ms", "5ms")
    assert settings.profile == (place / "home" / "cutset" / "p.json",)
    assert settings.weights == place / "home" / "cutset" / "w.pt"


def test_a_variable_does_not_take_back_that_pictures_stay(place: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    (place / "here" / "cutset.toml").write_text("[stream]\npictures_stay = true\n")
    monkeypatch.setenv("CUTSET_STREAM_PICTURES_STAY", "no")
    assert load_stream_settings().pictures_stay
    assert not parsed("--no-pictures-stay").pictures_stay


WRONG = {
    "size": ["480", "480x", "0x0x0", "480x720\n"],
    "fit": ["", "crop"],
    "limit": ["0", "-1", "2.5", "x"],
    "rate": ["0", "-1", "nan", "inf", "x"],
    "deadline": ["0", "nan"],
    "bad_packets": ["-1", "1000001"],
    "source_timeout": ["0", "inf"],
    "source_patience": ["-1", "nan"],
    "features": ["perhaps"],
    "weights": ["a\0b"],
    "seed": ["-1", "x", str(1 << 64)],
    "pixels": ["half", ""],
    "bgr": ["perhaps"],
    "runtime": ["tensorrt", ""],
    "tolerance": ["-1", "nan", "x"],
    "workers": ["0", "65", "a\0b"],
    "key": ["a\0b"],
    "worker_keys": ["a\0b"],
    "worker_policy": ["a\0b"],
    "worker_evidence": ["none", "TDX", "a\0b"],
    "workers_listen": ["a\0b"],
    "ray": ["somewhere", "head:x", "a\0b"],
    "place": ["a\0b"],
    "insecure_ray": ["perhaps"],
    "threads": ["0", "1025"],
    "link": ["a\0b", "x" * 5000],
    "speed": ["0", "2", "fast", "1,x"],
    "mode": ["deltas"],
    "in_flight": ["0", "1025", "-1"],
    "threshold": ["-1", "nan"],
    "levels": ["-1", "256"],
    "max_error": ["0", "-1", "nan"],
    "min_agreement": ["0", "1.5", "nan"],
    "delta_compute": ["perhaps"],
    "float16": ["perhaps"],
    "patience": ["0"],
    "silence": ["-1"],
    "plan": ["a\0b"],
    "scheduler": ["best", ""],
    "objective": ["speed"],
    "pictures_stay": ["perhaps"],
    "profile": ["a\0b"],
    "sparsity": ["a\0b"],
    "look": ["0", "1e10"],
}


@pytest.mark.parametrize(("name", "text"), [(name, text) for name, texts in WRONG.items() for text in texts])
def test_a_wrong_value_is_an_error_of_a_line(
    name: str, text: str, capsys: pytest.CaptureFixture[str], monkeypatch: pytest.MonkeyPatch
) -> None:
    option = STREAM_OPTIONS[name]
    if option.kind is not bool:
        assert main(["stream", "run", *RUN, f"{option.flag}={text}"]) == 2
        said = capsys.readouterr().err
        assert said.startswith(f"cutset: error: {option.flag} must be ")
        assert said.count("\n") == 1
    if not option.flag_only and text and "\0" not in text:
        monkeypatch.setenv(option.variable, text)
        with pytest.raises(ConfigError, match=f"{option.variable} must be "):
            load_stream_settings()
    with pytest.raises(ConfigError, match=rf"StreamSettings\.{name} must be "):
        StreamSettings(**{name: object()})


def test_there_is_a_wrong_value_of_every_field() -> None:
    assert list(WRONG) == FIELDS


@pytest.mark.parametrize(
    ("text", "message"),
    [
        ("[stream]\nin_flite = 3\n", "'in_flite' in [stream] of cutset.toml (FILE) is not a setting; did you mean"),
        ("stream = 3\n", "stream in cutset.toml (FILE) must be a table, [stream]"),
        ("[stream]\nin_flight = 0\n", "stream.in_flight in cutset.toml (FILE) must be a whole number"),
        ("[stream]\nin_flight = true\n", "stream.in_flight in cutset.toml (FILE) must be a whole number"),
        ('[stream]\nrate = "fast"\n', "stream.rate in cutset.toml (FILE) must be a number above 0, not 'fast'"),
        ("[stream]\nspeed = [[1]]\n", "stream.speed in cutset.toml (FILE) must be "),
    ],
)
def test_what_is_wrong_in_the_file_is_named(text: str, message: str, place: Path) -> None:
    file = place / "here" / "cutset.toml"
    file.write_text(text)
    with pytest.raises(ConfigError) as caught:
        load_stream_settings()
    assert message.replace("FILE", str(file)) in str(caught.value)


def test_unknown_variables_are_refused_whatever_is_loaded(monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setenv("CUTSET_STREAM_IN_FLITE", "3")
    for load in (load_settings, load_stream_settings):
        with pytest.raises(ConfigError, match=r"CUTSET_STREAM_IN_FLITE .*did you mean 'CUTSET_STREAM_IN_FLIGHT'"):
            load()


def test_config_shows_them_with_their_sources(
    place: Path, capsys: pytest.CaptureFixture[str], monkeypatch: pytest.MonkeyPatch
) -> None:
    import json

    monkeypatch.setenv("CUTSET_STREAM_SPEED", "0.5,1")
    assert main(["config", "--json", "c.json"]) == 0
    lines = [line.split() for line in capsys.readouterr().out.splitlines()]
    for name in FIELDS:
        assert any(line and line[0] == name for line in lines), f"`cutset config` doesn't show {name}"
    assert ["speed", "0.5,", "1.0", "CUTSET_STREAM_SPEED"] in lines
    shown = json.loads((place / "here" / "c.json").read_text())["stream"]
    assert list(shown) == FIELDS
    assert shown["speed"] == {"value": [0.5, 1.0], "source": "CUTSET_STREAM_SPEED"}


def test_what_is_listed_here_is_what_there_is() -> None:
    pytest.importorskip("torch")
    from cutset.cluster.launch.local import MOST_WORKERS
    from cutset.partition.schedulers import SCHEDULERS

    assert set(STREAM_OPTIONS["scheduler"].choices) == {"auto", "even", *SCHEDULERS}
    assert STREAM_OPTIONS["workers"].counts == MOST_WORKERS


def test_keywords_of_a_stream_are_settings(monkeypatch: pytest.MonkeyPatch) -> None:
    """With the names that they had before there were settings, too."""
    pytest.importorskip("torch")
    from cutset import stream

    seen: list[StreamSettings] = []
    monkeypatch.setattr(stream, "assemble", lambda *how, **more: seen.append(how[2]))
    monkeypatch.setattr(stream.Stream, "_begin", lambda *how: None)
    cutset.Stream("alexnet", [], workers=3, mode="full", half=True, head=False, speeds=(0.5,), deadline=None, rate=9)
    [settings] = seen
    assert (settings.workers, settings.mode, settings.rate) == (3, "full", 9.0)
    assert (settings.float16, settings.features, settings.speed, settings.deadline) == (True, True, (0.5,), None)
    begun: list[object] = []
    monkeypatch.setattr(stream.Stream, "_begin", lambda *how: begun.append(how[-1]))
    cutset.Stream("alexnet", [], log=print)
    cutset.Stream("alexnet", [], tell=print)
    assert begun == [print, print]
    with pytest.raises(ConfigError, match="'in_flite' is not a setting; did you mean 'in_flight'"):
        cutset.Stream("alexnet", [], in_flite=3)
    with pytest.raises(ConfigError, match="--in-flight must be a whole number of pictures in flight from 1 to 1024"):
        cutset.Stream("alexnet", [], in_flight=0)
    with pytest.raises(ConfigError, match="either settings or single ones"):
        cutset.Stream("alexnet", [], settings=StreamSettings(), in_flight=3)


def test_settings_are_frozen_and_exported() -> None:
    from cutset.stream import StreamSettings as face

    assert cutset.StreamSettings is face is StreamSettings
    with pytest.raises(AttributeError):
        StreamSettings().mode = "full"
