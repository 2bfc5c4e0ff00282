"""A manifest that runs attested: its enclave asks a key server for its encrypted mount's key, then runs its command."""

from __future__ import annotations

import json
import os
import re
import tomllib
from pathlib import Path
from typing import Any

import jinja2
import jsonschema
import pytest

from cutset.cli import main
from cutset.errors import ConfigError, OffloadError
from cutset.models.registry import BUNDLED
from cutset.offload.enclave.client_files import MeasuredFiles, Mount
from cutset.offload.enclave.lint import lint
from cutset.offload.enclave.manifest import Provision, render
from cutset.offload.enclave.memory_sizes import Use
from cutset.trust.evidence.document import Prover
from cutset.trust.evidence.providers import SimulatorProvider
from cutset.trust.sealing import mount_key as module
from cutset.trust.sealing.mount_key import mount_key, provision
from cutset.trust.sealing.sealed_format import ModelKey, load_model_key
from tests.offload.gramine_schema import GRAMINE

SEAL = "ab" * 32
SERVER = "https://keys.example:8100"


def rendered(folder: Path, attestation: str = "dcap", address: str = "shm://cutset", **more: Any) -> dict[str, Any]:
    file = folder / "app.py"
    file.write_text("pass")
    client = MeasuredFiles((Mount("/app/app.py", file),), (file,))
    use = Use(context=128, threads=1)
    return tomllib.loads(render(BUNDLED["story"], address, use, attestation=attestation, client=client, **more).text)


def problems(document: dict[str, Any]) -> list[str]:
    return lint(json.loads(json.dumps(document).replace("file:/tmp/", "file:/srv/")))


def test_it_asks_first_and_is_sound(tmp_path: Path) -> None:
    (tmp_path / "ca.pem").write_text("certificates")
    document = rendered(tmp_path, provision=Provision(SERVER, SEAL, tmp_path / "ca.pem", product=7, svn=3))
    assert problems(document) == []
    sgx, argv = document["sgx"], document["loader"]["argv"]
    assert (sgx["remote_attestation"], sgx["isvprodid"], sgx["isvsvn"]) == ("dcap", 7, 3)
    at = argv.index("cutset.cli")
    asking = ["trust", "provision", "--from", SERVER, "--seal", SEAL, "--ca", "/app/key-server.pem", "--"]
    assert argv[at + 1 : at + 12] == [*asking, "generate", "/model"]
    assert any(entry["uri"].endswith("ca.pem") and entry["sha256"] for entry in sgx["trusted_files"])


class Gramine:
    """What a template is rendered with."""

    libos = "/usr/lib/gramine/libsysdb.so"

    def runtimedir(self) -> str:
        return "/usr/lib/gramine/runtime"


@pytest.mark.parametrize("address", ["shm://cutset", "tcp://gpu:1"])
@pytest.mark.parametrize("attestation", ["dcap", "none"])
def test_gramine_takes_it(tmp_path: Path, attestation: str, address: str) -> None:
    """By the keys and types that its documentation has, once the template is filled in."""
    provision = Provision(SERVER, SEAL, svn=65535) if attestation == "dcap" else None
    document = rendered(tmp_path, attestation, address, provision=provision)
    filled = json.loads(jinja2.Template(json.dumps(document)).render(gramine=Gramine()))
    jsonschema.validate(filled, GRAMINE)
    # What the check is worth: a key that isn't one, another type, and what older Gramines took.
    for place, wrong in (
        ("sgx", {"remote_attestatoin": "dcap"}),
        ("sgx", {"isvsvn": "1"}),
        ("sgx", {"isvsvn": 65536}),
        ("sgx", {"remote_attestation": "DCAP"}),
        ("loader", {"entrypoint": "file:/usr/lib/gramine/libsysdb.so"}),
        ("fs", {"mounts": [{"path": "/x", "type": "encrypted"}]}),
        ("oops", {}),
    ):
        with pytest.raises(jsonschema.ValidationError):
            jsonschema.validate(filled | {place: filled.get(place, {}) | wrong}, GRAMINE)


@pytest.mark.parametrize(
    ("more", "error", "match"),
    [
        ({}, OffloadError, "is not there yet"),
        ({"attestation": "none", "provision": Provision(SERVER, SEAL)}, ConfigError, "--attestation dcap"),
        ({"provision": Provision("http://keys:1", SEAL)}, ConfigError, "https://"),
        ({"provision": Provision(f"{SERVER}/a b", SEAL)}, ConfigError, "https://"),
        ({"provision": Provision(SERVER, "ab")}, ConfigError, "64"),
        ({"provision": Provision(SERVER, SEAL, svn=70_000)}, ConfigError, "65535"),
        ({"provision": Provision(SERVER, SEAL, Path("/nowhere"))}, ConfigError, "certificates"),
    ],
)
def test_what_is_refused(tmp_path: Path, more: dict[str, Any], error: type[Exception], match: str) -> None:
    with pytest.raises(error, match=match):
        rendered(tmp_path, **more)


RUN = ["python3", "-m", "cutset.cli"]
ASK = ["trust", "provision", "--from", SERVER, "--seal", SEAL, "--"]
ONE = ["generate", "/model", "--mode", "masked+verified", "--prompt-file", "/private/p", "--output", "/private/a"]
TLS = ["--tls-cert", "/private/tls.pem", "--tls-key", "/private/tls.key", "--evidence", "sgx"]


@pytest.mark.parametrize(
    ("argv", "match"),
    [
        ([*RUN, *ASK, *ONE], None),
        ([*RUN, "serve", "/model", *TLS], None),
        ([*RUN, *ASK, "serve", "/model", *TLS], None),
        ([*RUN, *ASK, "serve", "/model", *TLS, "--model-key", "https://keys:1"], None),
        ([*RUN, *ASK, "serve", "/model", *TLS, "--model-key", "/model/k"], "is a file that the host reads"),
        ([*RUN, *ASK, "serve", "/model"], "speaks HTTP in clear"),
        ([*RUN, *ASK, "chat", "/model"], "chat reads and writes"),
        ([*RUN, *ASK, *ONE[:4], "--prompt", "x"], "--prompt stands in the manifest"),
        ([*RUN, "serve", "/model", "--tls-cert", "/model/c", "--tls-key", "/model/k"], "is a file that the host reads"),
        ([*RUN, "serve", "/model", *TLS, "--evidence-root", "/private"], "--evidence-root"),
        ([*RUN, "serve", "/model", *TLS[:-1], "simulator"], "proves nothing"),
        ([*RUN, "serve", "/model", *TLS, "--stage-evidence", "simulator"], "proves nothing"),
        ([*RUN, *ASK[:-1], "--attestation-root", "/private", "--", *ONE], "--attestation-root"),
        ([*RUN, "trust", "provision", "--from", "http://keys:1", "--seal", SEAL, "--", *ONE], "https://"),
    ],
)
def test_the_linter(tmp_path: Path, argv: list[str], match: str | None) -> None:
    document = rendered(tmp_path, provision=Provision(SERVER, SEAL))
    document["loader"]["argv"] = argv
    found = problems(document)
    if match is None:
        assert found == []
    else:
        assert any(re.search(re.escape(match), line) for line in found), found


def test_the_key_goes_to_gramine(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    key = ModelKey(SEAL, bytes(range(32)))
    monkeypatch.setattr(module, "ask_for_key", lambda server, seal, prover, ca: key)
    (tmp_path / "keys").mkdir()
    prover = Prover(SimulatorProvider(), [], "release", "cutset 1")
    with pytest.raises(ConfigError, match="no encrypted mount"):
        provision(SERVER, SEAL, "private", prover, tmp_path)
    (tmp_path / "keys" / "private").touch()
    provision(SERVER, SEAL, "private", prover, tmp_path)
    assert (tmp_path / "keys" / "private").read_bytes() == mount_key(key, "private")
    assert len(mount_key(key, "private")) == 16
    assert mount_key(key, "private") != mount_key(key, "other") != mount_key(ModelKey(SEAL, bytes(32)), "other")


def test_the_commands(tmp_path: Path, capsys: pytest.CaptureFixture[str]) -> None:
    key, wrap = tmp_path / "mount.key", tmp_path / "wrap"
    assert main(["trust", "mount-key", "--key", str(key), "--wrap", str(wrap)]) == 0
    made = load_model_key(key)
    assert capsys.readouterr().out.split()[0] == made.seal
    assert wrap.read_bytes() == mount_key(made, "private")
    assert os.stat(wrap).st_mode & 0o077 == 0
    assert main(["trust", "mount-key", "--key", str(key), "--wrap", str(wrap)]) == 2
    for words, match in (
        (["--from", SERVER, "--seal", "x", "--", "generate"], "64"),
        (["--from", SERVER, "--seal", SEAL], "behind --"),
        (["--from", SERVER, "--seal", SEAL, "--", "trust", "provision"], "behind --"),
        (["--from", SERVER, "--seal", SEAL, "--", "doctor"], "attestation"),  # there is no Gramine here
    ):
        capsys.readouterr()
        assert main(["trust", "provision", *words]) == 2
        said = capsys.readouterr().err
        assert match in said
        assert len(said.splitlines()) == 1
