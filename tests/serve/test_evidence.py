"""A server that shows evidence, and clients that want it: questions, answers, and what a reload changes."""

from __future__ import annotations

import contextlib
import hashlib
import json
import ssl
import threading
from collections.abc import Iterator
from functools import partial
from pathlib import Path

import httpx
import openai
import pytest

from cutset.cli import main, serve
from cutset.cli.model_key import opened
from cutset.errors import EvidenceError, IntegrityError
from cutset.llm import AsyncLLM
from cutset.models.registry import BUNDLED
from cutset.serve.app import build_app
from cutset.serve.auth import Auth
from cutset.serve.reload import FileWatch
from cutset.serve.server import Server, bind, serve_in_thread
from cutset.serve.service import Service
from cutset.serve.tls import Certificate
from cutset.trust.audit import AuditLog
from cutset.trust.evidence.document import Prover, read_document
from cutset.trust.evidence.policy import load_policy
from cutset.trust.evidence.providers import SimulatorProvider
from cutset.trust.evidence.served_files import manifest_digest, served_files
from cutset.trust.evidence.statement import new_nonce
from cutset.trust.evidence.transport import AttestedTransport
from cutset.trust.evidence.verifier import Verifier
from cutset.trust.sealing.seal_model import seal_model, write_model_key
from tests.serve.certificates import Authority
from tests.trust.wire import policy_text, public_key

KEY = "an-api-key-of-a-test"


class Slow(SimulatorProvider):
    """Waits where a test says so, as hardware does."""

    def __init__(self) -> None:
        super().__init__(b"this enclave")
        self.go = threading.Event()
        self.go.set()

    def quote(self, data: bytes) -> bytes:
        assert self.go.wait(30)
        return super().quote(data)


class Proving:
    """A server with evidence, and a policy that fits it."""

    def __init__(self, folder: Path, llm: AsyncLLM) -> None:
        self.authority = Authority(folder)
        self.chain, self.key = folder / "tls.pem", folder / "tls.key"
        self.authority.write(self.chain, self.key)
        self.watch = FileWatch()
        certificate = Certificate(self.chain, self.key)
        self.watch.add([self.chain, self.key], certificate.read)
        self.provider = Slow()
        self.directory = llm.directory
        files = served_files({"tale": llm.directory})
        self.prover = Prover(self.provider, files, "none", "cutset 1")
        service = Service(llm)
        app = build_app(service, Auth([KEY], "127.0.0.1"), evidence=self.prover)
        self.server = Server(app, service, tls=certificate, watch=self.watch)
        self.policy = folder / "policy.toml"
        self.policy.write_text(policy_text(self.provider.measurement.hex(), manifest_digest(files).hex()))
        self.trusting = ssl.create_default_context(cafile=self.authority.file)

    def attested(self) -> httpx.Client:
        return httpx.Client(transport=AttestedTransport(self.policy, ca=self.authority.file), timeout=30)

    def check(self, document: bytes, key: bytes, nonce: bytes) -> None:
        Verifier(load_policy(self.policy)).check(document, channel="tls", key=key, nonce=nonce)


@pytest.fixture(scope="module")
def proving(llm: AsyncLLM, tmp_path_factory: pytest.TempPathFactory) -> Iterator[Proving]:
    found = Proving(tmp_path_factory.mktemp("evidence"), llm)
    with serve_in_thread(found.server, bind("127.0.0.1", 0)) as found.url:
        yield found


def test_the_official_client_streams_from_a_server_that_has_shown_evidence(proving: Proving) -> None:
    with proving.attested() as http:
        client = openai.OpenAI(base_url=f"{proving.url}/v1", api_key=KEY, http_client=http, max_retries=0)
        stream = client.completions.create(model="tale", prompt="Once", max_tokens=8, stream=True)
        text = "".join(chunk.choices[0].text for chunk in stream)
        assert text
        again = client.completions.create(model="tale", prompt="Once", max_tokens=8, temperature=0)
        assert again.usage is not None
        assert again.usage.completion_tokens == 8


def test_a_reloaded_certificate_comes_with_new_evidence(proving: Proving) -> None:
    """A connection that is open keeps its key, and what it shows is bound to that one; a new one has the new key."""
    first, nonce = public_key(proving.chain), new_nonce()
    with proving.attested() as http, httpx.Client(verify=proving.trusting) as kept:
        assert http.get(f"{proving.url}/health").status_code == 200
        assert kept.get(f"{proving.url}/health").status_code == 200
        proving.authority.write(proving.chain, proving.key)
        proving.watch.check()
        second = public_key(proving.chain)
        assert first != second
        assert http.get(f"{proving.url}/health").status_code == 200  # the connection that was checked
        old = kept.get(f"{proving.url}/evidence", params={"nonce": nonce.hex()}).content
        with httpx.Client(verify=proving.trusting) as fresh:
            new = fresh.get(f"{proving.url}/evidence", params={"nonce": nonce.hex()}).content
        proving.check(old, first, nonce)
        proving.check(new, second, nonce)
        for document, key in ((old, second), (new, first)):
            with pytest.raises(EvidenceError, match="another key"):
                proving.check(document, key, nonce)
    with proving.attested() as http:
        assert http.get(f"{proving.url}/health").status_code == 200


def test_what_it_shows(proving: Proving) -> None:
    nonce = new_nonce()
    found = httpx.get(f"{proving.url}/evidence?nonce={nonce.hex()}", verify=proving.trusting)
    document = read_document(found.content)
    assert (document.kind, document.mode, document.version) == ("simulator", "none", "cutset 1")
    assert "NOT CONFIDENTIAL" in document.notice
    by_name = {one.file: one for one in document.files}
    weights = proving.directory / "model.safetensors"
    assert by_name["model.safetensors"].sha256 == hashlib.sha256(weights.read_bytes()).hexdigest()
    assert found.headers["cache-control"] == "no-store"


def test_all_that_a_simulator_touches_says_so(proving: Proving) -> None:
    for path in ("/health", "/evidence", "/nothing", "/v1/models"):
        found = httpx.get(f"{proving.url}{path}", verify=proving.trusting)
        assert found.headers["x-cutset-evidence"].startswith("NOT CONFIDENTIAL")


def test_no_key_is_needed_for_it_and_nothing_else_is_open(proving: Proving) -> None:
    with httpx.Client(verify=proving.trusting) as http:
        assert http.get(f"{proving.url}/evidence?nonce={'0' * 64}").status_code == 200
        assert http.get(f"{proving.url}/v1/models").status_code == 401


@pytest.mark.parametrize(
    "query",
    [
        *("", "?nonce=", f"?nonce={'0' * 63}", f"?nonce={'0' * 65}", f"?nonce={'g' * 64}", f"?nonce={'A' * 64}"),
        *(f"?nonce={'0' * 64}&nonce={'1' * 64}", f"?nonce={'0' * 64}&more=1", f"?other={'0' * 64}"),
        f"?nonce={'0' * 9000}",
    ],
)
def test_other_questions_are_refused(proving: Proving, query: str) -> None:
    found = httpx.get(f"{proving.url}/evidence{query}", verify=proving.trusting)
    assert found.status_code == 400
    assert "nonce" in found.json()["error"]["message"]


def test_questions_are_bounded(proving: Proving) -> None:
    """Who asks a lot waits, and then is refused; requests are answered all the while."""
    proving.provider.go.clear()
    found: list[int] = []

    def ask() -> None:
        url = f"{proving.url}/evidence?nonce={new_nonce().hex()}"
        found.append(httpx.get(url, verify=proving.trusting, timeout=60).status_code)

    threads = [threading.Thread(target=ask) for _ in range(40)]
    try:
        for thread in threads:
            thread.start()
        while not any(not thread.is_alive() for thread in threads):
            threads[-1].join(0.02)
        assert httpx.get(f"{proving.url}/health", verify=proving.trusting).status_code == 200
    finally:
        proving.provider.go.set()
        for thread in threads:
            thread.join(60)
    assert found.count(503) == 8
    assert found.count(200) == 32


def test_without_tls_there_is_none(llm: AsyncLLM, proving: Proving) -> None:
    service = Service(llm)
    for evidence, status in ((proving.prover, 400), (None, 404)):
        server = Server(build_app(service, Auth([], "127.0.0.1"), evidence=evidence), service)
        with serve_in_thread(server, bind("127.0.0.1", 0)) as url:
            assert httpx.get(f"{url}/evidence?nonce={'0' * 64}").status_code == status


def test_the_commands(proving: Proving, tmp_path: Path, capsys: pytest.CaptureFixture[str]) -> None:
    file, policy, ca = tmp_path / "evidence.json", str(proving.policy), str(proving.authority.file)
    assert main(["trust", "fetch", proving.url, "-o", str(file)]) == 0
    assert "NOT CONFIDENTIAL" in capsys.readouterr().out
    assert main(["trust", "check", str(file), "--policy", policy]) == 0
    assert "a recording" in capsys.readouterr().out
    assert main(["trust", "check", proving.url, "--policy", policy, "--ca", ca]) == 0
    assert "NOT CONFIDENTIAL" in capsys.readouterr().out
    other = tmp_path / "other.toml"
    other.write_text(proving.policy.read_text().replace('modes = ["none"]', 'modes = ["local"]'))
    log = tmp_path / "audit.jsonl"
    assert main(["trust", "check", proving.url, "--policy", str(other), "--ca", ca, "--audit-log", str(log)]) == 1
    assert "mode" in capsys.readouterr().err
    assert json.loads(log.read_text())["event"] == "refused"
    changed = json.loads(file.read_text())
    changed["nonce"] = "A" * 43 + "="
    file.write_text(json.dumps(changed))
    assert main(["trust", "check", str(file), "--policy", policy]) == 1


def test_generate_asks_a_server_once_its_evidence_fits(
    proving: Proving, tmp_path: Path, capsys: pytest.CaptureFixture[str], monkeypatch: pytest.MonkeyPatch
) -> None:
    monkeypatch.setenv("CUTSET_API_KEY", KEY)
    policy, ca = str(proving.policy), str(proving.authority.file)
    words = ["generate", "tale", "--prompt", "Once upon", "--max-tokens", "12", "--remote", proving.url, "--ca", ca]
    assert main([*words, "--policy", policy]) == 0
    said = capsys.readouterr()
    assert said.out.strip()
    assert "NOT CONFIDENTIAL" in said.err
    with proving.attested() as http:
        client = openai.OpenAI(base_url=f"{proving.url}/v1", api_key=KEY, http_client=http)
        same = client.completions.create(model="tale", prompt="Once upon", max_tokens=12, temperature=0)
    assert said.out.rstrip("\n") == same.choices[0].text.rstrip("\n")
    other = tmp_path / "other.toml"
    other.write_text(proving.policy.read_text().replace('versions = ["cutset 1"]', "versions = []"))
    assert main([*words, "--policy", str(other)]) == 2
    assert "version" in capsys.readouterr().err


@pytest.mark.parametrize(
    ("flags", "match"),
    [
        ([], "--policy"),
        (["--policy", "nowhere.toml"], "can't be read"),
        (["--policy", "nowhere.toml", "--remote", "http://127.0.0.1:1"], "https"),
        (["--policy", "nowhere.toml", "--offload", "shm://x"], "--offload"),
        (["--policy", "nowhere.toml", "--adapter", "x"], "--adapter"),
    ],
)
def test_flags_that_promise_nothing(flags: list[str], match: str, capsys: pytest.CaptureFixture[str]) -> None:
    words = ["generate", "tale", "--prompt", "x", "--remote", "https://127.0.0.1:1"]
    assert main([*words, *flags]) == 2
    said = capsys.readouterr().err
    assert match in said
    assert len(said.splitlines()) == 1


@pytest.mark.parametrize(
    ("flags", "match"),
    [
        (["--evidence", "simulator"], "--tls-cert"),
        (["--evidence-root", "/x"], "--evidence"),
        (["--evidence", "tdx", "CERT"], "isn't there"),
        (["--evidence", "sgx", "CERT"], "can't be read"),
    ],
)
def test_a_server_that_cannot_show_any_does_not_start(
    flags: list[str], match: str, tmp_path: Path, capsys: pytest.CaptureFixture[str]
) -> None:
    if "CERT" in flags:
        Authority(tmp_path).write(tmp_path / "a.pem", tmp_path / "a.key")
        flags = [*flags[:-1], "--tls-cert", str(tmp_path / "a.pem"), "--tls-key", str(tmp_path / "a.key")]
        flags += ["--evidence-root", str(tmp_path / "none")]
    assert main(["serve", "story", "--port", "0", *flags]) == 2
    said = capsys.readouterr().err
    assert match in said
    assert len(said.splitlines()) == 1


def test_parts_of_a_manifest(tmp_path: Path) -> None:
    (tmp_path / "templates").mkdir()
    for name in ("config.json", "templates/a.jinja", ".hidden"):
        (tmp_path / name).write_text(name)
    files = served_files({"m": tmp_path}, {"m": "a template"})
    assert [one.file for one in files] == ["config.json", "templates/a.jinja", "(given by a flag)"]
    digest = manifest_digest(files)
    assert digest == manifest_digest(reversed(files))
    seen = {digest}
    with contextlib.suppress(FileNotFoundError):
        for name in ("config.json", "templates/a.jinja"):
            (tmp_path / name).write_text("changed")
            seen.add(manifest_digest(served_files({"m": tmp_path}, {"m": "a template"})))
    seen.add(manifest_digest(served_files({"n": tmp_path}, {"n": "a template"})))
    assert len(seen) == 4


def test_lies_and_keys_go_to_the_audit_log(llm: AsyncLLM, tmp_path: Path) -> None:
    """What `serve --audit-log` ties together: the first wrong product of a session is a line, once."""
    audit, service = AuditLog(tmp_path / "audit.jsonl"), Service(llm)
    service.readiness.lied = partial(serve._lied, audit)
    error = IntegrityError("the accelerator gave a wrong product")
    for _ in range(3):  # the requests of a session end one after the other, with the same error
        service.readiness.request_failed(error)
    key = seal_model(BUNDLED["story"], tmp_path / "sealed")
    write_model_key(key, tmp_path / "key")
    with contextlib.ExitStack() as stack:
        opened(str(tmp_path / "sealed"), str(tmp_path / "key"), 1, stack, audit=audit)
    lines = [json.loads(line) for line in (tmp_path / "audit.jsonl").read_text().splitlines()]
    assert [line["event"] for line in lines] == ["lied", "key used"]
    assert lines[1]["seal"] == key.seal
    assert key.secret.hex() not in (tmp_path / "audit.jsonl").read_text()
