"""Settings: who wins, what is refused, and what the error says."""

import os
import subprocess
import sys
from dataclasses import FrozenInstanceError, replace
from pathlib import Path

import pytest

from cutset.config import OPTIONS, Option, Settings, did_you_mean, gather, load_settings, read_bounded, usable_cores
from cutset.errors import ConfigError


@pytest.fixture
def place(tmp_path):
    """A current directory and a user's configuration directory, both empty."""
    (tmp_path / "here").mkdir()
    (tmp_path / "home" / "cutset").mkdir(parents=True)
    return tmp_path


def load(place, flags=None, **environ):
    environ.setdefault("XDG_CONFIG_HOME", str(place / "home"))
    return load_settings(flags, environ=environ, cwd=place / "here")


def write(place, text, where="here/cutset.toml"):
    path = place / where
    path.write_text(text)
    return path


def test_defaults(place):
    settings = load(place)
    assert settings == Settings()
    assert set(settings.sources.values()) == {"default"}
    assert set(settings.sources) == set(OPTIONS)
    assert (settings.block_size, settings.max_num_seqs, settings.max_batch_tokens) == (16, 64, 512)
    assert settings.prefix_caching
    assert not settings.downloads_allowed
    assert settings.file is None


def test_flags_over_environment_over_file_over_defaults(place):
    path = write(place, "threads = 2\nblock_size = 32\ncache_mib = 7\n")
    settings = load(place, {"threads": "4", "backend": None}, CUTSET_THREADS="3", CUTSET_BLOCK_SIZE="64")
    assert (settings.threads, settings.block_size, settings.cache_mib, settings.backend) == (4, 64, 7, "auto")
    assert settings.sources["threads"] == "--threads"
    assert settings.sources["block_size"] == "CUTSET_BLOCK_SIZE"
    assert settings.sources["cache_mib"] == f"cutset.toml ({path})"
    assert settings.sources["backend"] == "default"
    assert settings.file == path


def test_every_setting_can_come_from_every_source(place):
    values = {str: ("int8", "exact"), int: ("3", "4"), float: ("1.5", "2"), bool: ("false", "true"), Path: ("a", "b")}
    address, policy = ("shm://a", "ipc://b"), ("wait", "fail")
    special = {
        "backend": ("native", "torch"),
        "device": ("cuda:1", "cuda"),
        "pads_policy": policy,
        "pads": ("idle", "inline"),
    }
    special |= {"kv_dtype": ("int8", "auto"), "prefix_cache_size": ("512MiB", "3GB")}
    special |= {"pads": ("idle", "inline"), "offload": address, "pads_from": address, "verify": ("changed", "always")}
    for name, option in OPTIONS.items():
        if option.flag_only:
            continue
        low, high = special.get(name, values[option.kind])
        toml = low if option.kind in (int, float, bool) else f'"{low}"'
        write(place, f"{name} = {toml}\n")
        from_file = load(place)
        from_env = load(place, CUTSET_CONFIG="", **{option.variable: high})
        from_flag = load(place, {name: low}, **{option.variable: high})
        assert getattr(from_file, name) == getattr(from_flag, name) != getattr(from_env, name), name
        assert from_file.sources[name].startswith("cutset.toml (")
        assert from_env.sources[name] == option.variable
        assert from_flag.sources[name] == option.flag


@pytest.mark.parametrize(("name", "value"), [("mode", "masked+verified"), ("pads_same_host", "true")])
def test_what_weakens_a_promise_comes_from_a_flag_alone(place, name, value):
    assert str(getattr(load(place, {name: value}), name)).lower() == value
    with pytest.raises(ConfigError, match=f"CUTSET_{name.upper()} is not accepted: give --"):
        load(place, **{f"CUTSET_{name.upper()}": value})
    write(place, f"{name} = {value if name != 'mode' else repr(value)}\n")
    with pytest.raises(ConfigError, match=r"cutset\.toml .* is not accepted"):
        load(place)


def test_the_file_here_hides_the_one_at_home(place):
    write(place, "threads = 2", "home/cutset/cutset.toml")
    assert load(place).threads == 2
    write(place, "block_size = 32")
    assert (load(place).threads, load(place).block_size) == (0, 32)


def test_cutset_config_names_another_file(place):
    write(place, "threads = 2")
    other = write(place, "threads = 5", "other.toml")
    settings = load(place, CUTSET_CONFIG="../other.toml")
    assert settings.threads == 5
    assert settings.sources["threads"].startswith("other.toml (")
    assert load(place, CUTSET_CONFIG=str(other)).threads == 5
    with pytest.raises(ConfigError, match=r"CUTSET_CONFIG names 'gone.toml', which is not a file"):
        load(place, CUTSET_CONFIG="gone.toml")


@pytest.mark.parametrize("text", ["1", "true", "TRUE", "yes", "On", " on "])
def test_true(place, text):
    assert load(place, CUTSET_OFFLINE=text).offline is True


@pytest.mark.parametrize("text", ["0", "false", "No", "OFF"])
def test_false(place, text):
    settings = load(place, CUTSET_PREFIX_CACHING=text)
    assert settings.prefix_caching is False
    assert settings.sources["prefix_caching"] == "CUTSET_PREFIX_CACHING"


def test_an_empty_variable_is_not_set(place):
    assert load(place, CUTSET_THREADS="", CUTSET_OFFLINE="").sources["threads"] == "default"


def test_a_negated_flag_is_named_as_it_was_given(place):
    assert load(place, {"prefix_caching": False}).sources["prefix_caching"] == "--no-prefix-caching"


@pytest.mark.parametrize(
    ("flags", "environ", "toml", "message"),
    [
        ({"threads": "-1"}, {}, "", "--threads must be a whole number from 0 to 1024, not -1"),
        ({"threads": "2.5"}, {}, "", "--threads must be a whole number from 0 to 1024, not '2.5'"),
        ({"threads": "9" * 5000}, {}, "", "--threads must be a whole number"),
        ({"threads": True}, {}, "", "--threads must be a whole number"),
        ({"block_size": "0"}, {}, "", "--block-size must be a whole number from 1 to 1024, not 0"),
        ({}, {"CUTSET_THREADS": "many"}, "", "CUTSET_THREADS must be a whole number from 0 to 1024, not 'many'"),
        ({}, {"CUTSET_OFFLINE": "maybe"}, "", "CUTSET_OFFLINE must be true or false, not 'maybe'"),
        ({"backend": "cuda"}, {}, "", "--backend must be one of auto, reference, torch, native, not 'cuda'"),
        ({"device": "cuda:x"}, {}, "", "--device must be one of cpu, cuda, cuda:N, not 'cuda:x'"),
        ({"device": "cpu\n"}, {}, "", "--device must be"),
        ({"models_file": ""}, {}, "", "--models-file must be a path, not ''"),
        ({"models_file": "a\0b"}, {}, "", "--models-file must be a path"),
        ({}, {}, 'threads = "2"', "threads in cutset.toml (FILE) must be a whole number from 0 to 1024, not '2'"),
        ({}, {}, "threads = true", "threads in cutset.toml (FILE) must be a whole number from 0 to 1024, not True"),
        ({}, {}, "threads = 0x" + "f" * 6000, "not a value of type int"),
        ({}, {}, "offline = 1", "offline in cutset.toml (FILE) must be true or false, not 1"),
        ({}, {}, "dtype = [1]", "not a value of type list"),
        ({}, {}, "thread = 2", "'thread' in cutset.toml (FILE) is not a setting; did you mean 'threads'?"),
        ({"thread": 2}, {}, "", "'thread' is not a setting; did you mean 'threads'?"),
        ({}, {}, "max-model-len = 2", "did you mean 'max_model_len'?"),
        (
            {},
            {},
            "[zzzz]\nq = 2",
            "'zzzz' in cutset.toml (FILE) is not a setting; known: accelerator_key, backend,",
        ),
        ({}, {}, "threads = ", "FILE is not valid TOML: "),
        ({}, {}, "threads = " + "9" * 5000, "FILE is not valid TOML: "),
        ({}, {}, "a = " + "[" * 5000, "FILE is not valid TOML: "),
        ({}, {}, "#" * (1 << 20) + "\n", "FILE is larger than 1048576 bytes"),
        ({}, {"CUTSET_THREAD": "1"}, "", "CUTSET_THREAD in the environment is not a setting; did you mean"),
    ],
)
def test_errors_name_what_where_and_what_is_known(place, flags, environ, toml, message):
    path = write(place, toml)
    with pytest.raises(ConfigError) as caught:
        load(place, flags, **environ)
    text = str(caught.value)
    assert message.replace("FILE", str(path)) in text
    assert text.count("\n") <= 1
    assert len(text) < 600


def test_a_file_that_is_not_text(place):
    (place / "here/cutset.toml").write_bytes(b"\xff\xfe")
    with pytest.raises(ConfigError, match=r"cutset\.toml can't be read: .*utf-8"):
        load(place)


def test_an_overridden_wrong_value_does_no_harm(place):
    assert load(place, {"threads": "2"}, CUTSET_THREADS="many").threads == 2


def test_reserved_and_foreign_variables_are_left_alone(place):
    assert load(place, CUTSET_ISA="avx2", CUTSET_DEBUG="1", CUTSETTER="x", OTHER="y") == Settings()


def test_models_file_is_found_beside_the_file_or_here(place):
    assert load(place).models_file is None
    here = write(place, "", "here/models.yaml")
    assert load(place).models_file == here
    beside = write(place, "", "home/cutset/models.yaml")
    write(place, "", "home/cutset/cutset.toml")
    assert load(place).models_file == beside
    beside.unlink()
    assert load(place).models_file == here
    assert load(place).sources["models_file"] == "default"


def test_paths_are_relative_to_who_names_them(place):
    write(place, 'models_file = "sub/m.yaml"', "home/cutset/cutset.toml")
    assert load(place).models_file == place / "home/cutset/sub/m.yaml"
    assert load(place, CUTSET_MODELS_FILE="m.yaml").models_file == place / "here/m.yaml"
    assert load(place, {"models_file": "~/m.yaml"}).models_file == Path.home() / "m.yaml"


def test_offline_wins_over_download(place):
    assert load(place, {"download": True}).downloads_allowed
    assert not load(place, {"download": True}, CUTSET_OFFLINE="1").downloads_allowed


def test_flag_only_settings_refuse_file_and_environment(place):
    mode = Option("what is promised", name="mode", default="masked", choices=("plain", "masked"), flag_only=True)
    here = place / "here"

    def get(flags, environ, file=None):
        return gather({"mode": mode}, flags, environ, file, here)

    assert get({}, {}) == ({"mode": "masked"}, {"mode": "default"})
    assert get({"mode": "plain"}, {}) == ({"mode": "plain"}, {"mode": "--mode"})
    for flags in ({}, {"mode": "masked"}):  # a flag that says otherwise doesn't make it acceptable
        with pytest.raises(ConfigError, match="CUTSET_MODE is not accepted: give --mode on the command line"):
            get(flags, {"CUTSET_MODE": "plain"})
        with pytest.raises(ConfigError, match=r"mode in cutset\.toml \(.*\) is not accepted: give --mode"):
            get(flags, {}, write(place, 'mode = "plain"'))


def test_settings_built_directly():
    settings = Settings(threads=3)
    assert settings.sources["threads"] == "argument"
    assert settings.sources["dtype"] == "default"
    assert settings.thread_count == 3
    assert replace(settings, dtype="int8").sources["threads"] == "argument"
    with pytest.raises(ConfigError, match=r"Settings\.threads must be a whole number from 0 to 1024, not 2000"):
        Settings(threads=2000)
    with pytest.raises(FrozenInstanceError):
        settings.threads = 4
    with pytest.raises(TypeError):
        settings.sources["threads"] = "me"


def test_did_you_mean():
    assert did_you_mean("sotry", ["story", "tiny"]) == "; did you mean 'story'?"
    assert did_you_mean("zz", ["b", "a"]) == "; known: a, b"
    assert did_you_mean("zz", []) == ""


def test_read_bounded_refuses_odd_paths(tmp_path):
    for path in (tmp_path, tmp_path / "gone", Path("a\0b")):
        with pytest.raises(ConfigError, match="can't be read"):
            read_bounded(path)


@pytest.mark.parametrize(
    ("groups", "files", "quota"),
    [
        ("0::/", {"cpu.max": "150000 100000"}, 1),
        ("0::/", {"cpu.max": "max 100000"}, None),
        ("0::/", {"cpu.max": "50000 100000"}, 1),
        ("0::/a/b", {"cpu.max": "100000 100000", "a/cpu.max": "900000 100000", "a/b/cpu.max": "max 100000"}, 1),
        ("0::/not/mounted", {"cpu.max": "100000 100000"}, 1),
        ("1:cpu,cpuacct:/", {"cpu,cpuacct/cpu.cfs_quota_us": "-1", "cpu,cpuacct/cpu.cfs_period_us": "100000"}, None),
        ("2:memory:/\n1:cpu:/x", {"cpu/cpu.cfs_quota_us": "100000\n", "cpu/cpu.cfs_period_us": "100000\n"}, 1),
        ("nonsense", {"cpu.max": "nonsense"}, None),
    ],
)
def test_usable_cores_obey_quotas(tmp_path, groups, files, quota):
    affinity = len(os.sched_getaffinity(0)) if hasattr(os, "sched_getaffinity") else os.cpu_count()
    assert usable_cores(tmp_path) == affinity
    (tmp_path / "proc/self").mkdir(parents=True)
    (tmp_path / "proc/self/cgroup").write_text(groups + "\n")
    for name, text in files.items():
        path = tmp_path / "sys/fs/cgroup" / name
        path.parent.mkdir(parents=True, exist_ok=True)
        path.write_text(text)
    assert usable_cores(tmp_path) == (affinity if quota is None else quota)


def test_import_is_cheap():
    """Standard library only, and not tomllib."""
    code = "import sys, cutset.config; print([m for m in ('numpy', 'yaml', 'tomllib', 'argparse') if m in sys.modules])"
    done = subprocess.run([sys.executable, "-c", code], capture_output=True, text=True, timeout=60, check=True)
    assert done.stdout.strip() == "[]"
