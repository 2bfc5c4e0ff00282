"""What lowers a promise comes from a flag or a Python call; a file or a variable that lies around may only raise it."""

from __future__ import annotations

from collections.abc import Callable
from pathlib import Path

import pytest

from cutset.config import OPTIONS, Settings, load_settings
from cutset.engine.params import SamplingParams
from cutset.errors import ConfigError
from cutset.llm import LLM
from cutset.offload.client.offload import check_settings

Load = Callable[..., Settings]


@pytest.fixture
def load(tmp_path: Path) -> Load:
    """Settings of these files, variables and flags, and of nothing else that is on this machine."""
    here, home = tmp_path / "here", tmp_path / "home/cutset"
    here.mkdir()
    home.mkdir(parents=True)

    def found(flags: dict[str, object] | None = None, toml: str = "", users: str = "", **environ: str) -> Settings:
        (here / "cutset.toml").write_text(toml)
        if not toml:
            (here / "cutset.toml").unlink()
        (home / "cutset.toml").write_text(users)
        return load_settings(flags, environ={"XDG_CONFIG_HOME": str(tmp_path / "home"), **environ}, cwd=here)

    return found


@pytest.mark.parametrize(
    ("name", "value"),
    [
        ("pads_from", "shm://their-own"),
        ("pads_from", "tcp://collaborator:1"),
        ("pads_key", "their.pub"),
        ("offload_policy", "their.toml"),
        ("pads_same_host", "true"),
        ("mode", "plain"),
        ("mode", "masked+verified"),
    ],
)
def test_who_makes_pads_and_the_mode_come_from_a_flag_alone(load: Load, name: str, value: str) -> None:
    toml = f"{name} = {value if value == 'true' else repr(value)}".replace("'", '"')
    for more in ({"toml": toml}, {"users": toml}, {OPTIONS[name].variable: value}):
        for flags in ({}, {"offload": "shm://x"}, {"offload": "shm://x", "mode": "masked+verified"}):
            with pytest.raises(ConfigError, match=f"is not accepted: give {OPTIONS[name].flag} on the command line"):
                load(flags, **more)
    assert load({name: value}).by_hand(name)


@pytest.mark.parametrize("where", ["toml", "users", "variable"])
def test_a_file_doesn_t_turn_on_the_reuse_of_prefixes_in_masked_modes(load: Load, inproc: str, where: str) -> None:
    prompt = "Once upon a time, there was a little girl who lived near the sea with her dog and her cat."
    one = SamplingParams(max_tokens=1, temperature=0)
    lies = {"CUTSET_PREFIX_CACHING": "1"} if where == "variable" else {where: "prefix_caching = true"}
    for flags, reused in (({}, False), ({"mode": "masked"}, False), ({"prefix_caching": True}, True)):
        settings = load({"offload": inproc, "threads": 1, **flags}, **lies)
        with LLM("story", settings=settings) as llm:
            llm.generate(prompt, one)
            assert (llm.generate(prompt, one)[0].usage.cached_tokens > 0) == reused
    with LLM("story", settings=load({"threads": 1}, **lies)) as llm:  # without an offload it is nobody's secret
        llm.generate(prompt, one)
        assert llm.generate(prompt, one)[0].usage.cached_tokens > 0


def test_a_file_may_turn_it_off(load: Load) -> None:
    assert not load(toml="prefix_caching = false").prefix_caching


@pytest.mark.parametrize(("name", "strict", "loose"), [("pad_rows", "true", "false"), ("offline", "true", "false")])
def test_what_a_file_promises_is_kept(load: Load, name: str, strict: str, loose: str) -> None:
    variable = OPTIONS[name].variable
    for more in (
        {"toml": f"{name} = {strict}", variable: loose},
        {"toml": "threads = 1", "users": f"{name} = {strict}"},  # the user's own file, behind one that lies around
        {"toml": f"{name} = {loose}", "users": f"{name} = {strict}"},
        {"toml": f"{name} = {loose}", "users": f"{name} = {strict}", variable: loose},
        {"toml": f"{name} = {strict}"},
        {variable: strict, "toml": f"{name} = {loose}"},
    ):
        found = load(**more)
        assert getattr(found, name) is True, more
        assert found.sources[name] != "default"
        assert getattr(load({name: False}, **more), name) is False  # a flag is seen
    assert load(toml="verify = 'always'", CUTSET_VERIFY="changed").verify == "always"
    assert load({"verify": "changed"}, toml="verify = 'always'").verify == "changed"
    assert load(toml=f"{name} = {loose}", **{variable: loose}).sources[name] == variable


def test_nothing_else_of_the_hidden_file_counts(load: Load) -> None:
    found = load(toml="threads = 1", users="threads = 2\ncache_mib = 3\npad_rows = false")
    assert (found.threads, found.cache_mib, found.pad_rows) == (1, 0, False)
    assert found.sources["pad_rows"] == "default"


@pytest.mark.parametrize("mode", ["plain", "verified", "masked"])
@pytest.mark.parametrize("name", ["offload", "accelerator_key"])
def test_whom_a_mode_trusts_isn_t_said_by_a_file(load: Load, mode: str, name: str) -> None:
    flags: dict[str, object] = {"mode": mode, "offload": "tcp://good:1", "accelerator_key": "good.pub"}
    good = flags.pop(name)
    lies = {"offload": "tcp://evil:1", "accelerator_key": "evil.pub"}[name]
    for more in ({"toml": f'{name} = "{lies}"'}, {OPTIONS[name].variable: lies}):
        with pytest.raises(ConfigError, match=f"{name} from .* is not accepted: give {OPTIONS[name].flag}"):
            check_settings(load(flags, **more))
        assert check_settings(load({**flags, name: good}, **more)) is not None
        # Where nothing that is sent tells anything, and no lie is believed, a file may say it.
        assert check_settings(load({**flags, "mode": None}, **more)) is not None


def test_which_settings_promise_something() -> None:
    flag_only = {"mode", "pads_from", "pads_key", "pads_same_host", "offload_policy"}
    assert {name for name, option in OPTIONS.items() if option.flag_only} >= flag_only
    assert {name for name, option in OPTIONS.items() if option.strict is not None} >= {"pad_rows", "verify", "offline"}
