"""The rendered manifest: sound by our own linter, and what it measures is enough to run the client, and all of it."""

import contextlib
import json
import os
import shutil
import subprocess
import sys
import tomllib
from dataclasses import replace
from pathlib import Path

import jinja2
import pytest

from cutset.cli import main
from cutset.errors import ConfigError, ModelError, OffloadError
from cutset.models.files.source import open_source
from cutset.models.registry import BUNDLED
from cutset.offload.enclave.client_files import MeasuredFiles, Mount, client_files, digest
from cutset.offload.enclave.lint import lint
from cutset.offload.enclave.manifest import render
from cutset.offload.enclave.memory_sizes import Use, enclave_bytes, parts, size_text

STORY = BUNDLED["story"]
USE = Use(context=128, threads=1)


@pytest.fixture(scope="module")
def client():
    return client_files()


@pytest.fixture
def small(tmp_path):
    """A client of one file, so that rendering takes no time."""
    file = tmp_path / "app.py"
    file.write_text("pass")
    return MeasuredFiles((Mount("/app/app.py", file),), (file,))


def rendered(client, address="shm://cutset", use=USE, model=STORY, **options):
    return tomllib.loads(render(model, address, use, client=client, **options).text)


def problems(document):
    """What the linter says, wherever this checkout and pytest's files lie: in /tmp it would be right to complain."""
    return lint(json.loads(json.dumps(document).replace("file:/tmp/", "file:/srv/")))


def test_the_rendered_manifest_is_sound(client):
    document = rendered(client)
    assert problems(document) == []
    assert document["loader"]["argv"][5:9] == ["-m", "cutset.cli", "generate", "/model"]
    entries = {entry["uri"]: entry.get("sha256") for entry in document["sgx"]["trusted_files"]}
    weights = STORY / "model.safetensors"
    assert entries[f"file:{weights.resolve()}"] == digest(weights)
    assert [uri for uri, sha in entries.items() if sha is None and "gramine" not in uri] == []
    assert sum(uri.endswith(("cutset/llm.py", "encodings/utf_8.py")) for uri in entries) == 2
    assert not any(part in uri for uri in entries for part in ("/torch/", "/transformers/", "__pycache__"))


def test_it_is_sound_as_gramine_fills_it_in(client):
    """`gramine-manifest` renders Jinja with an object that knows where Gramine lies."""

    class Gramine:
        libos = "/usr/lib/x86_64-linux-gnu/gramine/libsysdb.so"

        def runtimedir(self):
            return "/usr/lib/x86_64-linux-gnu/gramine/runtime/glibc"

    text = render(STORY, "shm://cutset", USE, client=client).text
    document = tomllib.loads(jinja2.Template(text).render(gramine=Gramine()))
    assert "{{" not in str(document)
    assert problems(document) == []


def host(path, root):
    return Path(str(root) + path)


CHECK = """
import sys
from cutset.cli import main
root = sys.argv.pop(1)
code = main(sys.argv[1:])
files = {getattr(module, "__file__", None) or root for module in list(sys.modules.values())}
with open("/proc/self/maps") as maps:
    files |= {line.split()[-1] for line in maps if ".so" in line.split()[-1]}
runtime = ("ld-linux", "libc.so", "libm.so", "libdl.so", "libpthread.so", "librt.so", "libutil.so")
strangers = {f for f in files if not f.startswith((root, "<")) and not f.rpartition("/")[2].startswith(runtime)}
sys.exit(code or (f"from outside: {sorted(strangers)}" if strangers else 0))
"""


@contextlib.contextmanager
def accelerator(ring):
    """An accelerator outside, with its ring in the directory `ring`."""
    environ = {name: value for name, value in os.environ.items() if not name.startswith("CUTSET_")}
    environ["CUTSET_SHM_DIR"] = str(ring)
    command = [sys.executable, "-m", "cutset", "accelerator", "story", "--listen", "shm://cutset", "--threads", "1"]
    with subprocess.Popen(command, env=environ, stderr=subprocess.PIPE, text=True) as process:
        try:
            assert any("listening" in line for line in process.stderr)
            yield
        finally:
            process.terminate()


def test_what_is_measured_runs_the_client(client, tmp_path, capsys):
    """A tree of the measured files alone, in their places, and the manifest's own arguments and variables: the client
    answers through an accelerator outside, and loads nothing else."""
    document, root = rendered(client), tmp_path / "root"
    measured = {Path(entry["uri"].removeprefix("file:")) for entry in document["sgx"]["trusted_files"][2:]}
    for mount in document["fs"]["mounts"]:
        source = Path(mount["uri"].partition(":")[2])
        if mount.get("type"):
            host(mount["path"], root).mkdir(parents=True)
            continue
        for file in measured:
            if file == source or file.is_relative_to(source):
                target = host(mount["path"], root) / file.relative_to(source)
                target.parent.mkdir(parents=True, exist_ok=True)
                shutil.copy(file, target)
    (root / "private/prompt.txt").write_text("Once upon a time")
    places = ("/python", "/app", "/lib:/libs", "/model", "/private", "/dev")

    def inside(text):
        return str(host(text, root)).replace(":/", f":{root}/") if text.startswith(places) else text

    environ = {name: inside(value) for name, value in document["loader"]["env"].items()}
    python, *flags, _, module = [inside(word) for word in document["loader"]["argv"][:7]]
    assert module == "cutset.cli"
    words = [inside(word) for word in document["loader"]["argv"][7:]]
    command = [python, *flags, "-c", CHECK, str(root), *words, "--max-tokens", "8"]
    with accelerator(root / "dev/shm/cutset"):
        done = subprocess.run(command, env=environ, cwd=root, capture_output=True, text=True, timeout=120)
    assert done.returncode == 0, done.stderr
    assert done.stdout == ""
    assert main(["generate", "story", "--prompt", "Once upon a time", "--max-tokens", "8", "--mode", "local"]) == 0
    assert (root / "private/answer.txt").read_text() == capsys.readouterr().out


def test_only_the_ring_is_shared(small):
    document = rendered(small)
    shared = [mount for mount in document["fs"]["mounts"] if mount.get("type") == "untrusted_shm"]
    assert len(shared) == 1
    assert document["sgx"]["allowed_files"] == [shared[0]["uri"]]
    assert shared[0]["uri"] == "dev:/dev/shm/cutset/"
    remote = rendered(small, "tcp://accelerator:5555")
    assert "allowed_files" not in remote["sgx"]
    assert not any(mount.get("type") == "untrusted_shm" for mount in remote["fs"]["mounts"])
    assert problems(remote) == []


def test_what_is_asked_for_is_in_it(small):
    document = rendered(
        small,
        use=replace(USE, threads=5, sequences=3),
        pads_from="tcp://pads:7",
        command=["ping", "shm://cutset"],
    )
    assert document["loader"]["argv"][7:] == ["ping", "shm://cutset"]
    assert document["sgx"]["remote_attestation"] == "none"
    assert document["sgx"]["max_threads"] == 16  # 5 and Gramine's 4 and 3 of ours, up to a power of two
    assert document["loader"]["env"]["CUTSET_THREADS"] == "5"
    arguments = rendered(small, pads_from="tcp://pads:7")["loader"]["argv"]
    assert arguments[arguments.index("--pads-key") + 1] == "/private/pads.pub"
    assert "--accelerator-key" not in arguments
    assert rendered(small, "tcp://far:7")["loader"]["argv"].count("--key") == 1
    assert arguments[arguments.index("--pads-from") + 1] == "tcp://pads:7"
    assert arguments[arguments.index("--mode") + 1] == "masked+verified"


def test_sizes():
    spec = open_source(STORY).spec
    found = parts(spec, Use(context=100, sequences=3, threads=2, pad_rows=10), 12345)
    assert found["KV cache"] == 100 * 3 * spec.layers * 2 * spec.kv_heads * spec.head_dim * 4
    matrices = [
        (sum(spec.qkv_parts(0)), spec.hidden),
        (spec.hidden, spec.heads_of(0).q_size),
        (2 * spec.intermediate, spec.hidden),
        (spec.hidden, spec.intermediate),
    ] * spec.layers + [(spec.vocab_size, spec.hidden)]
    assert found["weights, to make pads"] == sum(outputs * depth for outputs, depth in matrices)
    assert found["pads"] == 10 * 4 * sum(outputs + depth for outputs, depth in matrices)
    norms = (2 * spec.layers + 1) * spec.hidden
    assert found["embedding, norms, biases"] == 4 * (norms + spec.vocab_size * spec.hidden)
    assert found["checkpoint, while it is mapped"] == 12345
    assert "weights, to make pads" not in parts(spec, Use(context=100, pads_here=False), 0)
    large = parts(spec, Use(context=1 << 22), 0)
    size = enclave_bytes(large)
    assert size & (size - 1) == 0
    assert size / 2 < sum(large.values()) * 1.25 <= size
    assert enclave_bytes({"a": 1}) == 512 << 20
    assert [size_text(n << 20) for n in (512, 1024, 8192)] == ["512M", "1G", "8G"]


def test_a_larger_context_makes_a_larger_enclave(small):
    sizes = [render(STORY, "shm://c", Use(context=256, sequences=n), client=small).enclave_size for n in (1, 1 << 16)]
    assert sizes[1] > sizes[0]


@pytest.mark.parametrize(
    ("options", "error", "message"),
    [
        ({"address": "ipc:///tmp/x"}, OffloadError, "can't be reached from an enclave"),
        ({"pads_from": "inproc://x"}, OffloadError, "can't be reached from an enclave"),
        ({"pads_from": "shm://x"}, OffloadError, "pads come over tcp"),
        ({"use": Use(context=1 << 30)}, ConfigError, "the context must be at most the model's"),
        ({"attestation": "dcap"}, OffloadError, "provisioning of the encrypted mount's key is not there yet"),
        ({"attestation": "trust me"}, ConfigError, "attestation must be one of dcap, none"),
    ],
)
def test_what_is_refused(options, error, message, small):
    with pytest.raises(error, match=message):
        rendered(small, **options)


def test_a_mixture_of_experts_is_refused(small, tmp_path):
    assert main(["random", "-o", str(tmp_path / "moe"), "--experts", "4"]) == 0
    with pytest.raises(OffloadError, match="the rows of an expert tell the routing"):
        rendered(small, model=tmp_path / "moe")


def test_a_path_that_the_template_would_change(tmp_path):
    file = tmp_path / "{{ gramine.libos }}"
    file.write_text("")
    with pytest.raises(ModelError, match="move it to a plainer path"):
        rendered(MeasuredFiles((Mount("/app/x", file),), (file,)))


def test_the_command(tmp_path, capsys, monkeypatch, small):
    monkeypatch.chdir(tmp_path)
    for name in [name for name in os.environ if name.startswith("CUTSET_")]:
        monkeypatch.delenv(name)
    monkeypatch.setattr("cutset.offload.enclave.manifest.client_files", lambda: small)
    assert main(["manifest", "story", "-o", "out", "--context", "64", "--threads", "1"]) == 0
    out = capsys.readouterr().out
    assert "KV cache" in out
    assert "512M" in out
    template = Path("out/cutset.manifest.template")
    template.write_text(template.read_text().replace("file:/tmp/", "file:/srv/"))
    assert main(["manifest", "--check", str(template)]) == 0
    assert "no holes" in capsys.readouterr().out
    template.write_text(template.read_text().replace("sgx.debug = false", "sgx.debug = true"))
    assert main(["manifest", "--check", str(template)]) == 1
    assert "sgx.debug: opens the enclave to the host" in capsys.readouterr().out
    for words in (["-o", "out", "story"], ["story", "-o", "out"], ["story", "--context", "64", "-o", "out"]):
        assert main(["manifest", *words, "--", "ping", "shm://cutset", "--json", "-o"]) == 0
        assert '"cutset.cli", "ping", "shm://cutset", "--json", "-o"]' in template.read_text()
    assert main(["manifest", "story", "-o", "out", "--attestation", "none"]) == 0
    capsys.readouterr()
    assert main(["manifest", "story", "-o", "out", "--attestation", "dcap"]) == 2
    assert "provisioning of the encrypted mount's key is not there yet" in capsys.readouterr().err
    for address in ("shm://../x", "tcp://x", "tcp://host:1 x"):
        assert main(["manifest", "story", "-o", "out", "--offload", address]) == 2
        assert main(["manifest", "story", "-o", "out", "--pads-from", address]) == 2
    assert main(["manifest", "story"]) == 2
    assert main(["manifest", "story", "-o", "out", "--context", "0"]) == 2
    assert main(["manifest", "--check", "nothing"]) == 2
