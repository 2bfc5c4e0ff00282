"""Keys of sealed models are released to evidence that fits a policy, and to nothing else."""

from __future__ import annotations

import asyncio
import json
import ssl
from collections.abc import Iterator
from pathlib import Path
from typing import Any

import httpx
import msgspec
import pytest
import uvicorn
from cryptography.hazmat.primitives.asymmetric.x25519 import X25519PrivateKey

from cutset.errors import EvidenceError, LinkClosed
from cutset.serve import key_server
from cutset.serve.auth import Auth
from cutset.serve.key_server import NONCE_S, KeyServer, build_key_app, key_files_watch
from cutset.serve.request_limits import RequestLimits
from cutset.serve.server import bind, configuration, serve_in_thread
from cutset.serve.tls import Certificate
from cutset.trust.audit import AuditLog
from cutset.trust.evidence.document import Prover
from cutset.trust.evidence.policy import load_policy
from cutset.trust.evidence.providers import SimulatorProvider
from cutset.trust.evidence.served_files import manifest_digest
from cutset.trust.evidence.statement import new_nonce
from cutset.trust.evidence.verifier import Verifier
from cutset.trust.sealing.key_release import ReleaseRequest, ask_for_key
from cutset.trust.sealing.seal_model import write_model_key
from cutset.trust.sealing.sealed_format import ModelKey
from tests.serve.certificates import Authority
from tests.trust.wire import policy_text

KEY = ModelKey("ab" * 32, bytes(range(32)))


class Releasing:
    """A key server, and an enclave that fits its policy."""

    def __init__(self, folder: Path) -> None:
        self.authority, self.keys, self.log = Authority(folder), folder / "keys", folder / "audit.jsonl"
        self.authority.write(folder / "tls.pem", folder / "tls.key")
        self.keys.mkdir()
        write_model_key(KEY, self.keys / "story.key")
        self.provider, self.time = SimulatorProvider(b"an enclave"), 1000.0
        self.policy = folder / "policy.toml"
        text = policy_text(self.provider.measurement.hex(), manifest_digest([]).hex())
        self.policy.write_text(text.replace('modes = ["none"]', 'modes = ["release"]'))
        audit = AuditLog(self.log)
        verifier = Verifier(load_policy(self.policy), audit=audit)
        self.server = KeyServer(self.keys, verifier, audit, lambda: self.time)
        certificate = Certificate(folder / "tls.pem", folder / "tls.key")
        self.said: list[str] = []
        self.watch = key_files_watch(verifier, self.policy, certificate, self.said.append)
        app = build_key_app(self.server, Auth([], "127.0.0.1"), RequestLimits())
        self.http = uvicorn.Server(configuration(app, RequestLimits(), tls=certificate))

    def prover(self, measured: bytes | None = None, mode: str = "release") -> Prover:
        return Prover(self.provider if measured is None else SimulatorProvider(measured), [], mode, "cutset 1")

    def ask(self, prover: Prover, seal: str = KEY.seal) -> ModelKey:
        return ask_for_key(self.url, seal, prover, str(self.authority.file))

    def post(self, path: str, content: bytes) -> httpx.Response:
        with httpx.Client(verify=ssl.create_default_context(cafile=self.authority.file)) as client:
            return client.post(f"{self.url}{path}", content=content)

    def nonce(self) -> bytes:
        found: bytes = msgspec.json.decode(self.post("/nonce", b"{}").content, type=dict[str, bytes])["nonce"]
        return found

    def lines(self) -> list[dict[str, str]]:
        return [json.loads(line) for line in self.log.read_text().splitlines()]


@pytest.fixture(scope="module")
def releasing(tmp_path_factory: pytest.TempPathFactory) -> Iterator[Releasing]:
    found = Releasing(tmp_path_factory.mktemp("keys"))
    with serve_in_thread(found.http, bind("127.0.0.1", 0)) as found.url:
        yield found


def test_a_key_goes_to_evidence_that_fits(releasing: Releasing) -> None:
    assert releasing.ask(releasing.prover()).secret == KEY.secret
    last = releasing.lines()[-1]
    assert (last["event"], last["seal"], last["kind"]) == ("key released", KEY.seal, "simulator")
    assert KEY.secret.hex() not in releasing.log.read_text()


def test_and_to_nothing_else(releasing: Releasing) -> None:
    for prover, seal, match in (
        (releasing.prover(measured=b"another"), KEY.seal, "measurement"),
        (releasing.prover(mode="none"), KEY.seal, "mode"),
        (releasing.prover(), "cd" * 32, "no key"),
    ):
        with pytest.raises(EvidenceError, match=match):
            releasing.ask(prover, seal)
        assert releasing.lines()[-1]["event"] == "key refused"


def request(releasing: Releasing, **changes: object) -> ReleaseRequest:
    """One that would be answered, but for the changes."""
    nonce, key = releasing.nonce(), X25519PrivateKey.generate().public_key().public_bytes_raw()
    made = ReleaseRequest(KEY.seal, nonce, key, releasing.prover().show("release", key, nonce))
    return msgspec.structs.replace(made, **changes)


def test_a_request_counts_once_and_for_its_own_key(releasing: Releasing) -> None:
    good = request(releasing)
    assert releasing.post("/release", msgspec.json.encode(good)).status_code == 200
    again = releasing.post("/release", msgspec.json.encode(good))
    assert again.status_code == 403
    assert "was used" in again.text
    mine = X25519PrivateKey.generate().public_key().public_bytes_raw()
    for changed in (
        request(releasing, key=mine),  # somebody in between who would like to read it
        request(releasing, key=bytes(32)),
        request(releasing, nonce=new_nonce()),
        request(releasing, document=releasing.prover().show("tls", mine, new_nonce())),
        request(releasing, document=b"{}"),
    ):
        assert releasing.post("/release", msgspec.json.encode(changed)).status_code == 403
    other = request(releasing)
    swapped = msgspec.structs.replace(request(releasing), document=other.document)
    assert releasing.post("/release", msgspec.json.encode(swapped)).status_code == 403


def test_a_key_of_order_one_is_refused(releasing: Releasing) -> None:
    nonce = releasing.nonce()
    weak = ReleaseRequest(KEY.seal, nonce, bytes(32), releasing.prover().show("release", bytes(32), nonce))
    assert releasing.post("/release", msgspec.json.encode(weak)).status_code == 403


def test_nonces_have_their_time(releasing: Releasing) -> None:
    late = request(releasing)
    releasing.time += NONCE_S + 1
    assert releasing.post("/release", msgspec.json.encode(late)).status_code == 403
    assert releasing.ask(releasing.prover()).secret == KEY.secret


def test_keys_come_and_go_without_a_restart(releasing: Releasing) -> None:
    other = ModelKey("ef" * 32, bytes(32))
    write_model_key(other, releasing.keys / "new.key")
    assert releasing.ask(releasing.prover(), other.seal).secret == other.secret
    (releasing.keys / "new.key").unlink()
    with pytest.raises(EvidenceError, match="no key"):
        releasing.ask(releasing.prover(), other.seal)


def test_a_sealed_model_that_is_older_is_not_opened_any_more(releasing: Releasing) -> None:
    old, new, other = (ModelKey(one * 32, bytes(32), line, n) for one, line, n in (("01", "bot", 3), ("02", "bot", 12),
                                                                                   ("03", "else", 1)))  # fmt: skip
    write_model_key(old, releasing.keys / "old.key")
    assert releasing.ask(releasing.prover(), old.seal).secret == old.secret
    write_model_key(new, releasing.keys / "new.key")
    write_model_key(other, releasing.keys / "other.key")
    for key in (new, other):
        assert releasing.ask(releasing.prover(), key.seal).secret == key.secret
    with pytest.raises(EvidenceError, match="generation 3 of bot, of which 12 is there"):
        releasing.ask(releasing.prover(), old.seal)
    last = releasing.lines()[-1]
    assert (last["event"], last["seal"]) == ("key refused", old.seal)
    # Nor when the newer key is gone: what was there once counts.
    (releasing.keys / "new.key").unlink()
    with pytest.raises(EvidenceError, match="of which 12 is there"):
        releasing.ask(releasing.prover(), old.seal)
    for spoil in ("x", "1" * 30):
        (releasing.keys / "bot.generation").write_text(spoil)
        with pytest.raises(EvidenceError, match=r"bot\.generation isn't a number") as caught:
            releasing.ask(releasing.prover(), old.seal)
        assert str(releasing.keys) not in str(caught.value)
    (releasing.keys / "bot.generation").write_text("3")
    assert releasing.ask(releasing.prover(), old.seal).secret == old.secret
    for path in ("old.key", "other.key", "bot.generation", "else.generation"):
        (releasing.keys / path).unlink()
    assert releasing.ask(releasing.prover()).secret == KEY.secret, "without a line there is nothing to count"


def test_more_keys_than_are_read_release_none(releasing: Releasing, monkeypatch: pytest.MonkeyPatch) -> None:
    """The newest of a line might be among the others."""
    write_model_key(ModelKey("0e" * 32, bytes(32), "bot", 4), releasing.keys / "a.key")
    monkeypatch.setattr(key_server, "MOST_KEYS", 1)
    with pytest.raises(EvidenceError, match="more than 1 keys"):
        releasing.ask(releasing.prover())
    (releasing.keys / "a.key").unlink()
    assert releasing.ask(releasing.prover()).secret == KEY.secret


def test_a_policy_is_read_again(releasing: Releasing, caplog: pytest.LogCaptureFixture) -> None:
    before, other = releasing.policy.read_text(), SimulatorProvider(b"another").measurement.hex()
    try:
        releasing.policy.write_text(before.replace(releasing.provider.measurement.hex(), other))
        releasing.watch.check()
        with pytest.raises(EvidenceError, match="measurement"):
            releasing.ask(releasing.prover())
        assert releasing.ask(releasing.prover(measured=b"another")).secret == KEY.secret
        releasing.policy.write_text("version = 2")
        releasing.watch.check()
        assert "stays in force" in caplog.text
        assert releasing.ask(releasing.prover(measured=b"another")).secret == KEY.secret
    finally:
        releasing.policy.write_text(before)
        releasing.watch.check()
    assert releasing.ask(releasing.prover()).secret == KEY.secret
    assert releasing.said == [f"the policy was read again: {releasing.policy}"] * 2


@pytest.mark.parametrize("body", [b"", b"null", b"{}", b"[" * 10_000, b'{"seal":"../x"}'])
def test_what_makes_no_sense(releasing: Releasing, body: bytes) -> None:
    assert releasing.post("/release", body).status_code == 400


def test_too_much(releasing: Releasing) -> None:
    assert releasing.post("/release", bytes(600 << 10)).status_code == 413
    for path, status in (("/", 404), ("/v1/models", 404), ("/keys/story.key", 404)):
        assert releasing.post(path, b"").status_code == status


@pytest.mark.parametrize(("ends", "seconds", "status"), [(False, 0.1, 408), (True, 100.0, 400)])
def test_a_body_that_does_not_come(releasing: Releasing, ends: bool, seconds: float, status: int) -> None:
    """One that comes slowly, or not at all, holds nothing up for long; one that breaks off is no bug of ours."""
    scope = {"type": "http", "method": "POST", "path": "/release", "root_path": "", "query_string": b"", "client": None}
    scope |= {"headers": [(b"host", b"127.0.0.1"), (b"content-length", b"100")], "server": None, "scheme": "https"}
    messages: list[Any] = [{"type": "http.request", "body": b'{"seal":', "more_body": True}]
    if ends:
        messages.append({"type": "http.disconnect"})
    sent: list[Any] = []

    async def receive() -> Any:
        if messages:
            return messages.pop(0)
        await asyncio.Event().wait()
        raise AssertionError("it waits without end")

    async def send(message: Any) -> None:
        sent.append(message)

    app = build_key_app(releasing.server, Auth([], "127.0.0.1"), RequestLimits(body_s=seconds))
    asyncio.run(asyncio.wait_for(app(scope, receive, send), 60.0))
    assert sent[0]["status"] == status
    assert dict(sent[0]["headers"])[b"connection"] == b"close"


def test_a_server_that_is_not_there(releasing: Releasing) -> None:
    with pytest.raises(LinkClosed):
        ask_for_key("https://127.0.0.1:1", KEY.seal, releasing.prover())
    with pytest.raises(LinkClosed, match="certificate"):  # of an authority that nobody has heard of
        ask_for_key(releasing.url, KEY.seal, releasing.prover())
