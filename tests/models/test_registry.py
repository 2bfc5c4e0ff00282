"""Finding models: what a name means, what models.yaml may say, and that offline means offline."""

import json
import os
import subprocess
import sys
from pathlib import Path

import pytest

from cutset.config import Settings, load_settings
from cutset.errors import ConfigError, DeviceError, ModelError
from cutset.models import registry
from cutset.models.registry import ModelRef, Overrides, catalogue, registered, resolve, settings_for

CONFIG = {
    "model_type": "llama",
    "hidden_size": 8,
    "num_hidden_layers": 1,
    "num_attention_heads": 2,
    "intermediate_size": 16,
    "vocab_size": 32,
}


@pytest.fixture(autouse=True)
def here(tmp_path, monkeypatch):
    monkeypatch.chdir(tmp_path)
    monkeypatch.setitem(registry.BUNDLED, "story", make(tmp_path / "bundled" / "story"))
    monkeypatch.setenv("HF_HUB_DISABLE_TELEMETRY", "1")
    return tmp_path


def make(directory, **files):
    directory.mkdir(parents=True)
    (directory / "config.json").write_text(json.dumps(CONFIG))
    (directory / "model.safetensors").write_bytes(b"12345678")
    (directory / "tokenizer.json").write_text("{}")
    return directory


def settings(text, **more):
    Path("models.yaml").write_text(text)
    return Settings(models_file=Path.cwd() / "models.yaml", **more)


def test_a_directory_comes_first(here):
    make(here / "story")
    ref = resolve("story", settings("story: elsewhere"))
    assert ref == ModelRef(Path("story"), "story", Overrides(), "directory")
    assert resolve(here / "story", Settings()).name == "story"
    os.chdir("story")
    assert resolve(".", Settings()).name == "story"


def test_the_bundled_model(here):
    (here / "story").mkdir()  # a directory of that name without a model in it is not meant
    ref = resolve("story", Settings())
    assert (ref.directory, ref.origin) == (here / "bundled/story", "bundled")
    registry.BUNDLED["story"] = here / "gone"
    with pytest.raises(ModelError, match=r"'story' should be in .*gone, which is not a directory; reinstall Cutset"):
        resolve("story", Settings())


def test_registered_models(here):
    make(here / "models/tiny")
    (here / "t.jinja").write_text("from a file")
    found = settings(
        "tiny: models/tiny\n"
        "helper:\n  path: ~/helper\n  dtype: int8\n  max_model_len: 512\n"
        "  chat_template: t.jinja\n  description: helps\n"
        "inline: {path: /x, chat_template: '{{ messages }}'}\n"
    )
    assert resolve("tiny", found).directory == here / "models/tiny"
    assert resolve("tiny", found).origin == str(here / "models.yaml")
    helper = registered(found)["helper"]
    assert helper.directory == Path.home() / "helper"
    assert helper.overrides == Overrides("int8", "from a file", 512, "helps")
    assert registered(found)["inline"].overrides.chat_template == "{{ messages }}"
    with pytest.raises(ModelError, match=r"'helper' should be in .*; correct its path in .*models\.yaml"):
        resolve("helper", found)


def test_a_registered_name_hides_the_bundled_one(here):
    mine = make(here / "mine")
    assert resolve("story", settings("story: mine")) == ModelRef(mine, "story", Overrides(), str(here / "models.yaml"))


@pytest.mark.parametrize("text", ["", "# nothing\n", "{}"])
def test_an_empty_file(text):
    assert registered(settings(text)) == {}


@pytest.mark.parametrize(
    ("text", "message"),
    [
        ("- a", "must map names to models, not be a list"),
        ("a: [", "is not valid YAML"),
        ("a: !!python/object/apply:os.system [exit]", "is not valid YAML"),
        ("a: 2024-99-99", "is not valid YAML"),
        ("[" * 3000, "is not valid YAML"),
        ("a: 3", "'a' must be a path or a mapping, not a int"),
        ("1: x", "a model's name must be text, not 1; put it in quotes"),
        ("yes: x", "a model's name must be text, not True; put it in quotes"),
        ("a: {}", "'a' needs a text as its path"),
        ("a: {path: 3}", "'a' needs a text as its path"),
        ("a: {path: x, description: [1]}", "'a' needs a text as its description"),
        ("a: {path: x, dtyp: int8}", "'a' has the unknown key 'dtyp'; did you mean 'dtype'?"),
        ("a: {path: x, 7: int8}", "'a' has the unknown key '7'; known: chat_template"),
        ("a: {path: x, dtype: int9}", "dtype of 'a' must be one of auto, float32"),
        ("a: {path: x, max_model_len: -1}", "max_model_len of 'a' must be a whole number from 0"),
        ("a: {path: x, max_model_len: null}", "max_model_len of 'a' must be a whole number from 0"),
        ("a: {path: x, chat_template: gone.jinja}", "gone.jinja can't be read: No such file"),
        ('a: {path: x, chat_template: "a\\0b"}', "can't be read: embedded null byte"),
        ("# " + "x" * (1 << 20), "models.yaml is larger than 1048576 bytes"),
    ],
)
def test_malformed_files(text, message):
    with pytest.raises(ConfigError) as caught:
        registered(settings(text))
    assert message in str(caught.value)
    assert "models.yaml" in str(caught.value) or "can't be read" in message or "gone" in message
    assert len(str(caught.value)) < 500


def test_aliases_do_not_blow_up(here):
    lines = ["a0: &a0 [x, x]"] + [f"a{i}: &a{i} [*a{i - 1}, *a{i - 1}]" for i in range(1, 60)]
    for text in ("\n".join(lines), "\n".join(lines).replace("[", "{<<: ").replace(", *a", ", x: *a").replace("]", "}")):
        with pytest.raises(ConfigError, match=r"models\.yaml is not valid YAML: line 1: anchors and aliases"):
            registered(settings(text))


def test_a_models_file_that_is_not_there(here):
    given = load_settings({"models_file": "gone.yaml"}, environ={"XDG_CONFIG_HOME": str(here)})
    with pytest.raises(ConfigError, match=r"gone\.yaml, given by --models-file, is not a file"):
        resolve("anything", given)


@pytest.mark.parametrize(
    ("name", "message"),
    [
        ("stroy", "'stroy' is no directory, no hub id and no name in models.yaml (there is none)"),
        ("stroy", "; did you mean 'story'?"),
        ("zz", "; known: story"),
        ("", "'' is no directory"),
        ("a\0b", "is no directory"),
        ("../x/y", "'../x/y' is no directory"),
        ("x" * 5000, "…' is no directory"),
        ("empty", "'empty' is a directory without a config.json, and no registered model has that name"),
        ("file.bin", "'file.bin' is a file; name the directory that holds config.json and *.safetensors"),
    ],
)
def test_not_found(here, name, message):
    (here / "empty").mkdir()
    (here / "file.bin").write_text("")
    with pytest.raises(ModelError) as caught:
        resolve(name, Settings())
    assert message in str(caught.value)
    assert len(str(caught.value)) < 400


def test_an_empty_name_is_not_the_current_directory(here, monkeypatch):
    monkeypatch.chdir(here / "bundled/story")
    with pytest.raises(ModelError, match="'' is no directory"):
        resolve("", Settings())


def test_overrides_lie_between_file_and_environment(here):
    ref = ModelRef(here, "m", Overrides(dtype="int8", max_model_len=99), str(here / "models.yaml"))
    (here / "cutset.toml").write_text('dtype = "float16"\nthreads = 2')
    environ = {"XDG_CONFIG_HOME": str(here)}
    plain = settings_for(ref, load_settings({}, environ=environ))
    assert (plain.dtype, plain.max_model_len, plain.threads) == ("int8", 99, 2)
    assert plain.sources["dtype"] == f"models.yaml ({here / 'models.yaml'})"
    assert plain.sources["threads"].startswith("cutset.toml")
    strong = settings_for(ref, load_settings({"dtype": "float32"}, environ=environ | {"CUTSET_MAX_MODEL_LEN": "7"}))
    assert (strong.dtype, strong.max_model_len) == ("float32", 7)
    assert settings_for(ref, Settings(dtype="float32")).dtype == "float32"
    assert settings_for(ModelRef(here, "m"), Settings()) == Settings()


def test_catalogue(here):
    make(here / "b")
    (here / "b/tokenizer.json").unlink()
    make(here / "c")
    (here / "c/model.safetensors").unlink()
    found = catalogue(settings("b: b\nc: c\ngone: gone\n"))
    assert [info.ref.name for info in found] == ["b", "c", "gone", "story"]
    assert [info.problem[:24] for info in found[:2]] == ["tokenizer.json is missin", "no *.safetensors"]
    assert "gone is not a directory" in found[2].problem
    story = found[3]
    assert (story.architecture, story.nbytes, story.problem) == ("llama", 8, "")
    assert story.parameters > 0


class Hub:
    """Stands in for huggingface_hub and remembers what it was asked."""

    def __init__(self, answer):
        self.answer, self.calls = answer, []

    def snapshot_download(self, hub_id, **options):
        self.calls.append((hub_id, options))
        if isinstance(self.answer, Exception):
            raise self.answer
        return str(self.answer)


def test_hub_ids_are_downloaded_only_when_that_is_allowed(here, monkeypatch):
    hub = Hub(here / "snapshot")
    monkeypatch.setitem(sys.modules, "huggingface_hub", hub)
    ref = resolve("owner/name", Settings(download=True))
    assert ref == ModelRef(here / "snapshot", "owner/name", Overrides(), "hub")
    for given in (Settings(), Settings(offline=True), Settings(download=True, offline=True)):
        resolve("owner/name", given)
    assert [options["local_files_only"] for _, options in hub.calls] == [False, True, True, True]
    patterns = hub.calls[0][1]
    assert not any(name.endswith((".bin", ".pt", ".py")) for name in patterns["allow_patterns"])
    assert {"*.bin", "*.pt", "*.py"} <= set(patterns["ignore_patterns"])


def test_local_files_come_before_the_hub(here, monkeypatch):
    hub = Hub(here)
    monkeypatch.setitem(sys.modules, "huggingface_hub", hub)
    make(here / "owner/name")
    assert resolve("owner/name", Settings(download=True)).origin == "directory"
    assert resolve("own/er", settings("own/er: owner/name", download=True)).origin != "hub"
    assert hub.calls == []


@pytest.mark.parametrize(
    ("given", "message"),
    [
        ({}, "'owner/name' is no directory, no registered name; known: story\n"),
        ({}, "\nAs a hub id it is not in the hub's cache; give --download to fetch it"),
        ({"offline": True, "download": True}, "; offline (from argument) forbids fetching it"),
        ({"download": True}, "'owner/name' can't be downloaded: OSError: no route to host"),
    ],
)
def test_hub_failures(monkeypatch, given, message):
    monkeypatch.setitem(sys.modules, "huggingface_hub", Hub(OSError("no route\nto host")))
    with pytest.raises(ModelError) as caught:
        resolve("owner/name", Settings(**given))
    assert message in str(caught.value)


@pytest.mark.parametrize(("download", "kind"), [(True, DeviceError), (False, ModelError)])
def test_without_the_hub_extra(monkeypatch, download, kind):
    monkeypatch.setitem(sys.modules, "huggingface_hub", None)
    with pytest.raises(kind, match=r"Hub ids need huggingface_hub: pip install 'cutset\[hub\]'"):
        resolve("owner/name", Settings(download=download))


NO_NETWORK = """
import sys

def refuse(event, args):
    if event.split(".")[0] == "socket" and event not in ("socket.__new__", "socket.gethostname"):
        print("NETWORK", event, args)
        raise SystemExit(3)

sys.addaudithook(refuse)
from cutset.config import Settings
from cutset.errors import ModelError
from cutset.models.registry import resolve
offline = Settings(offline=True, download=True)
print(resolve("owner/name", offline).directory)
try:
    resolve("owner/other", offline)
except ModelError as error:
    print("refused:", error)
"""


def test_offline_never_touches_the_network(here):
    """With the real library: a cached snapshot is found, another is not, and no socket is used for either."""
    pytest.importorskip("huggingface_hub")
    cache = here / "hub" / "models--owner--name"
    make(cache / "snapshots" / ("c" * 40))
    (cache / "refs").mkdir()
    (cache / "refs/main").write_text("c" * 40)
    environ = {k: v for k, v in os.environ.items() if not k.startswith(("HF_", "CUTSET_"))}
    environ |= {"HF_HUB_CACHE": str(here / "hub")}
    done = subprocess.run(
        [sys.executable, "-c", NO_NETWORK], capture_output=True, text=True, timeout=120, env=environ, check=False
    )
    assert done.returncode == 0, done.stdout + done.stderr
    first, second = done.stdout.splitlines()[:2]
    assert first == str(cache / "snapshots" / ("c" * 40))
    assert second.startswith("refused: 'owner/other' is no directory")


def test_a_download_is_told_of_as_it_comes(monkeypatch):
    """By the hub's own bars, which draw nothing then."""
    pytest.importorskip("huggingface_hub")
    from cutset.models.fetch_progress import fetch_bars

    told = []
    monkeypatch.setattr(sys, "stderr", None)  # what is written would fail
    bar = fetch_bars("owner/name", lambda *what: told.append(what))(total=3 << 20, unit="B", mininterval=0)
    for _ in range(3):
        bar.update(1 << 20)
        bar.refresh()
    bar.close()
    assert {what for what, _, _ in told} == {"MiB of owner/name"}
    assert [done for _, done, _ in told[:-1]] == sorted(done for _, done, _ in told[:-1])
    assert (2, 3) in [what[1:] for what in told]
    assert told[-1][1] == told[-1][2]
    assert all(done < total for _, done, total in told[:-1])
