"""YAML without what grows, runs or means different things in different versions."""

import time

import pytest

from cutset.config import load_settings
from cutset.errors import ConfigError
from cutset.models.files.plain_yaml import parse_yaml
from cutset.models.registry import BUNDLED, catalogue, registered, resolve


def merges(depth: int) -> str:
    """528 bytes that stand for 2^depth keys."""
    lines = ["a0: &a0 {k0: v}"]
    lines += [f"a{i}: &a{i} {{<<: [*a{i - 1}, *a{i - 1}], k{i}: v}}" for i in range(1, depth)]
    return "\n".join(lines)


BOMBS = {
    "aliases": "a: &a [x]\n" + "\n".join(f"b{i}: &b{i} [*a, *a]" for i in range(20)),
    "merges": merges(14),
    "merges of merges": merges(60),
    "sexagesimal": "a: {path: x, max_model_len: " + "1:" * 260_000 + "1}",
    "a sexagesimal path": "a: " + "1:" * 260_000 + "1",
    "a sexagesimal fraction": "a: " + "1:" * 200_000 + "1.5",
    "a sexagesimal key": "? " + "1:" * 100_000 + "1\n: x",
    "nested lists": "a: " + "[" * 100_000,
    "nested mappings": "a: " + "{b: " * 50_000,
    "nested blocks": "\n".join(" " * i + "a:" for i in range(1000)),
    "nested dashes": "- " * 50_000,
    "many parts": "a: [" + "x," * 200_000 + "]",
    "many keys": "\n".join(f"k{i}: x" for i in range(60_000)),
    "a long number": "a: {path: x, max_model_len: " + "9" * 500_000 + "}",
    "underscores": "a: {path: x, max_model_len: " + "1_" * 250_000 + "1}",
    "binary": "a: {path: x, max_model_len: 0b" + "1" * 500_000 + "}",
    "a long fraction": "a: " + "1" * 300_000 + "." + "1" * 300_000,
    "a document each": "---\na\n" * 50_000,
    "a directive": "%YAML 1.1\n---\na: &x b\nc: *x",
    "a tag": "a: !!python/object/apply:os.system [exit]",
    "a tag of its own": "!x\na: b",
    "a set": "a: !!set {x, y}",
    "a timestamp that overflows": "a: 0001-01-01t00:00:00+23:59",
    "a date": "a: 2024-01-01",
    "a date as a key": "2024-01-01: x",
    "a time zone": "a: 2001-12-14t21:59:43.10-99:99",
    "infinity": "a: {path: x, max_model_len: .inf}",
    "not a number": ".nan: x",
    "a list as a key": "? [a, b]\n: x",
    "a mapping as a key": "{a: b}: x",
    "twice": "a: x\nb: y\na: z",
    "unfinished": 'a: "x',
    "a tab": "a:\n\t- x",
    "a control character": "a: \x01",
    "bytes that aren't text": "a: \ufffe",
}


@pytest.mark.parametrize("what", BOMBS)
def test_what_grows_or_is_unclear_is_refused_at_once(what: str) -> None:
    started = time.process_time()
    with pytest.raises(ConfigError, match="here is not valid YAML") as caught:
        parse_yaml(BOMBS[what], "here")
    took = time.process_time() - started
    assert len(str(caught.value)) < 300
    assert "\n" not in str(caught.value)
    # As long as a harmless file of that size takes, and not thousands of times as long.
    plain = time.process_time()
    parse_yaml("a: [" + "word, " * 15_000 + "]", "here")
    assert took < 20 * (time.process_time() - plain) + 1.0


@pytest.mark.parametrize(
    ("text", "value"),
    [
        ("", None),
        ("# only a comment", None),
        ("a: 1", {"a": 1}),
        ("a: -12\nb: +3\nc: 0", {"a": -12, "b": 3, "c": 0}),
        ("a: yes\nb: No\nc: TRUE\nd: off\ne: yEs", {"a": True, "b": False, "c": True, "d": False, "e": "yEs"}),
        ("a: ~\nb:\nc: null", {"a": None, "b": None, "c": None}),
        ("a: '1'\nb: \"2024-01-01\"\nc: '1:20'\nd: '<<'", {"a": "1", "b": "2024-01-01", "c": "1:20", "d": "<<"}),
        ("a: v1.2\nb: x:y\nc: 12-inch\nd: Qwen3-0.6B", {"a": "v1.2", "b": "x:y", "c": "12-inch", "d": "Qwen3-0.6B"}),
        ("a: |\n  two\n  lines\nb: >\n  1\n", {"a": "two\nlines\n", "b": "1\n"}),
        ("a: [x, {b: c}]", {"a": ["x", {"b": "c"}]}),
        ("a: /models/2024-01-01/x", {"a": "/models/2024-01-01/x"}),
        ("a: C:/x", {"a": "C:/x"}),
    ],
)
def test_what_people_write_is_read(text: str, value: object) -> None:
    assert parse_yaml(text, "here") == value


def test_a_file_that_lies_around_can_t_redefine_the_bundled_model(tmp_path, monkeypatch) -> None:
    monkeypatch.chdir(tmp_path)
    (tmp_path / "models.yaml").write_text("story: elsewhere\n")
    environ = {"XDG_CONFIG_HOME": str(tmp_path / "home")}
    found = load_settings(environ=environ)
    for ask in (lambda: resolve("story", found), lambda: registered(found), lambda: catalogue(found)):
        with pytest.raises(ConfigError, match="'story' is the bundled model's name"):
            ask()
    (tmp_path / "cutset.toml").write_text('models_file = "models.yaml"')
    for more in ({}, {"CUTSET_MODELS_FILE": "models.yaml"}):
        with pytest.raises(ConfigError, match="'story' is the bundled model's name"):
            resolve("story", load_settings(environ=environ | more))
    named = load_settings({"models_file": "models.yaml"}, environ=environ)
    assert registered(named)["story"].directory == tmp_path / "elsewhere"
    (tmp_path / "models.yaml").write_text("tale: elsewhere\n")
    assert resolve("story", load_settings(environ=environ)).directory == BUNDLED["story"]
