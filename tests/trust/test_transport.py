"""Nothing of a request leaves before evidence was enough: whoever sits in between is refused, seen on the wire."""

from __future__ import annotations

import asyncio
import contextlib
import json
from collections.abc import Callable, Iterator
from pathlib import Path

import httpx
import msgspec
import openai
import pytest

from cutset.errors import EvidenceError
from cutset.trust.audit import AuditLog
from cutset.trust.evidence.document import EvidenceDocument, Prover
from cutset.trust.evidence.policy import load_policy
from cutset.trust.evidence.providers import SimulatorProvider
from cutset.trust.evidence.served_files import ServedFile, manifest_digest
from cutset.trust.evidence.transport import AsyncAttestedTransport, AttestedTransport
from cutset.trust.evidence.verifier import Verifier
from tests.serve.certificates import Authority
from tests.trust.wire import ANSWER, FILES, Answer, Wire, body_of, policy_text, prover, relayed

PROMPT, KEY = "the secret of the old well", "sk-an-api-key"


class Scene:
    """An authority, a genuine server, a policy that fits it, and servers beside it that differ."""

    def __init__(self, folder: Path, stack: contextlib.ExitStack) -> None:
        self._folder, self._stack, self._count = folder, stack, 0
        self.authority = Authority(folder)
        self.prover = prover()
        self.policy = self.write_policy()
        self.genuine = self.server(self.honest)

    def write_policy(self, *, certificate: str = "authority") -> Path:
        provider = self.prover.provider
        assert isinstance(provider, SimulatorProvider)
        path = self._folder / f"{certificate}.toml"
        text = policy_text(provider.measurement.hex(), manifest_digest(FILES).hex(), certificate=certificate)
        path.write_text(text, encoding="utf-8")
        return path

    def honest(self, nonce: bytes, key: bytes) -> bytes:
        return body_of(self.prover.show("tls", key, nonce))

    def server(self, answer: Answer) -> Wire:
        self._count += 1
        made = Wire(self._folder, self.authority, answer, f"server{self._count}")
        return self._stack.enter_context(made.running())

    def transport(self) -> AttestedTransport:
        return AttestedTransport(self.policy, ca=self.authority.file)

    def client(self) -> httpx.Client:
        headers = {"authorization": f"Bearer {KEY}"}
        return httpx.Client(transport=self.transport(), headers=headers, timeout=20, follow_redirects=True)

    def ask(self, server: Wire) -> httpx.Response:
        with self.client() as client:
            return client.post(f"{server.url}/v1/completions", json={"prompt": PROMPT})

    def refused(self, server: Wire, match: str = ".") -> None:
        """A request to this server fails, and it has seen nothing of it."""
        before = len(server.received)
        with pytest.raises(EvidenceError, match=match):
            self.ask(server)
        seen = b"".join(bytes(one) for one in server.received[before:])
        assert seen.startswith(b"GET /evidence?nonce=")
        assert seen.count(b"HTTP/1.1\r\n") == 1
        for secret in (PROMPT, KEY, "authorization", "completions", "POST"):
            assert secret.encode() not in seen


@pytest.fixture(scope="module")
def scene(tmp_path_factory: pytest.TempPathFactory) -> Iterator[Scene]:
    with contextlib.ExitStack() as stack:
        yield Scene(tmp_path_factory.mktemp("wire"), stack)


def test_evidence_comes_first_on_every_connection_and_once_on_each(scene: Scene) -> None:
    server = scene.server(scene.honest)
    with scene.client() as client:
        for _ in range(3):
            assert client.post(f"{server.url}/v1/completions", json={"prompt": PROMPT}).status_code == 200
    assert server.requests() == [b"/evidence", *[b"/v1/completions"] * 3]
    scene.ask(server)
    assert server.requests()[4:] == [b"/evidence", b"/v1/completions"]
    nonces = {bytes(one)[:90] for one in server.received}
    assert len(nonces) == 2  # never the same question twice


def test_the_official_client(scene: Scene) -> None:
    server = scene.server(scene.honest)
    with httpx.Client(transport=scene.transport()) as http:
        client = openai.OpenAI(base_url=f"{server.url}/v1", api_key=KEY, http_client=http, max_retries=0)
        assert client.completions.create(model="tale", prompt=PROMPT).choices[0].text == " said the fox"
        bad = scene.server(lambda nonce, key: body_of(b"", status="404 Not Found"))
        client = openai.OpenAI(base_url=f"{bad.url}/v1", api_key=KEY, http_client=http, max_retries=1)
        with pytest.raises(openai.APIConnectionError) as caught:
            client.completions.create(model="tale", prompt=PROMPT)
    assert isinstance(caught.value.__cause__, EvidenceError)
    assert PROMPT.encode() not in b"".join(bytes(one) for one in bad.received)
    assert set(bad.requests()) == {b"/evidence"}


def test_the_official_client_without_threads(scene: Scene) -> None:
    server = scene.server(scene.honest)
    bad = scene.server(relayed(scene.genuine.port, scene.authority.file))

    async def both() -> str:
        transport = AsyncAttestedTransport(scene.policy, ca=scene.authority.file)
        async with httpx.AsyncClient(transport=transport) as http:
            client = openai.AsyncOpenAI(base_url=f"{server.url}/v1", api_key=KEY, http_client=http, max_retries=0)
            found = await client.completions.create(model="tale", prompt=PROMPT)
            with pytest.raises(EvidenceError, match="https"):
                await http.post(f"http://127.0.0.1:{server.port}/v1/completions", json={"prompt": PROMPT})
            with pytest.raises(EvidenceError, match="another key"):
                await http.post(f"{bad.url}/v1/completions", json={"prompt": PROMPT})
        return found.choices[0].text

    assert asyncio.run(both()) == " said the fox"
    assert server.requests() == [b"/evidence", b"/v1/completions"]
    assert bad.requests() == [b"/evidence"]


def test_in_between_with_a_valid_quote_of_another_enclave(scene: Scene) -> None:
    other = prover(measured=b"evil")
    scene.refused(scene.server(lambda nonce, key: body_of(other.show("tls", key, nonce))), "measurement")


def test_in_between_with_the_genuine_servers_evidence(scene: Scene) -> None:
    scene.refused(scene.server(relayed(scene.genuine.port, scene.authority.file)), "another key")


def test_in_between_with_an_old_quote(scene: Scene) -> None:
    kept: dict[bytes, bytes] = {}

    def old(nonce: bytes, key: bytes) -> bytes:
        return kept.setdefault(key, scene.honest(nonce, key))

    server = scene.server(old)
    assert scene.ask(server).status_code == 200  # its first answer was fresh
    scene.refused(server, "another question")
    scene.refused(server, "another question")


def test_in_between_with_a_quote_for_a_nonce_of_its_own(scene: Scene) -> None:
    scene.refused(scene.server(lambda nonce, key: scene.honest(bytes(32), key)), "another question")
    scene.refused(scene.server(lambda nonce, key: scene.honest(nonce[:-1] + bytes([nonce[-1] ^ 1]), key)), "another")


def test_in_between_with_a_quote_for_a_link(scene: Scene) -> None:
    """The same key on another kind of channel is another statement."""
    scene.refused(scene.server(lambda nonce, key: body_of(scene.prover.show("curve", key, nonce))), "something else")


def test_in_between_after_a_first_connection_that_was_genuine(scene: Scene) -> None:
    answers = [scene.honest, relayed(scene.genuine.port, scene.authority.file)]
    server = scene.server(lambda nonce, key: answers[min(len(server.received) - 1, 1)](nonce, key))
    with scene.client() as client:
        assert client.post(f"{server.url}/v1/completions", json={"prompt": "hello"}).status_code == 200
        pool = client._transport
        assert isinstance(pool, AttestedTransport)
        pool.close()  # the connection is lost
        pool.__enter__()
        with pytest.raises(EvidenceError, match="another key"):
            client.post(f"{server.url}/v1/completions", json={"prompt": PROMPT})
    assert PROMPT.encode() not in bytes(server.received[-1])


@pytest.mark.parametrize(
    ("answer", "match"),
    [
        (body_of(b"", status="404 Not Found"), "shows no evidence"),
        (body_of(b"{}", status="401 Unauthorized"), "HTTP 401"),
        (body_of(b"", status="302 Found", more="location: http://127.0.0.1:1/evidence\r\n"), "HTTP 302"),
        (body_of(b"", status="503 Service Unavailable"), "too many ask"),
        (body_of(b""), "can't be read"),
        (body_of(b"null"), "can't be read"),
        (body_of(b'{"kind":"none"}'), "can't be read"),
        (b"HTTP/1.1 200 OK\r\n\r\n" + b"x" * 300_000, "more than 256 KiB"),
        (b"HTTP/1.1 200 OK\r\nconnection: close\r\ncontent-length: 2\r\n\r\n{}", "keep the connection open"),
        (body_of(b"{}") + ANSWER, "keep the connection open"),
        (b"HTTP/1.1 200 OK\r\ncontent-length: 99999999\r\n\r\n" + b"x" * 300_000, "more than 256 KiB"),
        (b"HTTP/1.1 200 OK\r\nx: " + b"x" * 40_000, "makes no sense"),
        (b"SSH-2.0-OpenSSH_9.2\r\n\r\n", "makes no sense"),
        (b"", "makes no sense"),
    ],
)
def test_a_downgrade_to_none(scene: Scene, answer: bytes, match: str) -> None:
    scene.refused(scene.server(lambda nonce, key: answer), match)


def test_what_is_not_https_is_refused_before_a_connection(scene: Scene) -> None:
    server = scene.server(scene.honest)
    with scene.client() as client, pytest.raises(EvidenceError, match="https"):
        client.post(f"http://127.0.0.1:{server.port}/v1/completions", json={"prompt": PROMPT})
    assert not server.received


def test_a_redirect_is_judged_anew(scene: Scene) -> None:
    bad = scene.server(relayed(scene.genuine.port, scene.authority.file))
    for target in (bad.url, f"http://127.0.0.1:{bad.port}"):
        server = scene.server(scene.honest)
        moved = body_of(b"", status="307 Temporary Redirect", more=f"location: {target}/v1/completions\r\n")
        server.other = moved
        with pytest.raises(EvidenceError):
            scene.ask(server)
    assert set(bad.requests()) == {b"/evidence"}
    assert PROMPT.encode() not in b"".join(bytes(one) for one in bad.received)


def test_a_certificate_of_nobody_is_refused_unless_the_policy_says_so(scene: Scene, tmp_path: Path) -> None:
    stranger = Wire(tmp_path, Authority(tmp_path), scene.honest)
    with stranger.running():
        with pytest.raises(httpx.ConnectError, match="certificate"):
            scene.ask(stranger)
        assert not stranger.received or not any(stranger.received)
        policy = scene.write_policy(certificate="evidence")
        with httpx.Client(transport=AttestedTransport(policy)) as client:
            assert client.post(f"{stranger.url}/v1/completions", json={"prompt": PROMPT}).status_code == 200


def changed(document: EvidenceDocument, **fields: object) -> EvidenceDocument:
    return msgspec.structs.replace(document, **fields)


CHANGES: dict[str, Callable[[EvidenceDocument], EvidenceDocument]] = {
    "mode": lambda one: changed(one, mode="local"),
    "version": lambda one: changed(one, version="cutset 2"),
    "no files": lambda one: changed(one, files=[]),
    "a file's digest": lambda one: changed(one, files=[ServedFile("tale", "x", 7, "00" * 32), *one.files[1:]]),
    "a file's name": lambda one: changed(one, files=[msgspec.structs.replace(one.files[0], file="y"), *one.files[1:]]),
    "a file's model": lambda one: changed(one, files=[msgspec.structs.replace(one.files[0], of="z"), *one.files[1:]]),
    "a file twice": lambda one: changed(one, files=[*one.files, one.files[0]]),
    "kind": lambda one: changed(one, kind="tdx"),
    "quote": lambda one: changed(one, quote=one.quote + b"\0"),
}


@pytest.mark.parametrize("change", CHANGES)
def test_a_document_that_says_something_else(scene: Scene, change: str) -> None:
    def altered(nonce: bytes, key: bytes) -> bytes:
        shown = msgspec.json.decode(scene.prover.show("tls", key, nonce), type=EvidenceDocument)
        return body_of(msgspec.json.encode(CHANGES[change](shown)))

    scene.refused(scene.server(altered))


def test_what_a_policy_does_not_say_is_refused(scene: Scene) -> None:
    """The same documents, honest in all they say, under the policy."""
    for other, match in (
        (Prover(scene.prover.provider, FILES, "plain", "cutset 1"), "mode"),
        (Prover(scene.prover.provider, FILES, "none", "cutset 2"), "version"),
        (Prover(scene.prover.provider, FILES[:1], "none", "cutset 1"), "manifest"),
    ):

        def honest(nonce: bytes, key: bytes, shown: Prover = other) -> bytes:
            return body_of(shown.show("tls", key, nonce))

        scene.refused(scene.server(honest), match)


def test_refusals_go_to_the_audit_log_and_secrets_do_not(scene: Scene, tmp_path: Path) -> None:
    log = tmp_path / "audit.jsonl"
    log.write_text('{"event": "older"}\n')
    server = scene.server(relayed(scene.genuine.port, scene.authority.file))
    verifier = Verifier(load_policy(scene.policy), audit=AuditLog(log))
    with httpx.Client(transport=AttestedTransport(verifier, ca=scene.authority.file)) as client:
        for _ in range(2):
            with pytest.raises(EvidenceError):
                client.post(f"{server.url}/v1/completions", json={"prompt": PROMPT}, headers={"authorization": KEY})
    lines = [json.loads(line) for line in log.read_text().splitlines()]
    assert [line["event"] for line in lines] == ["older", "refused", "refused"]
    assert lines[1]["peer"] == f"127.0.0.1:{server.port}"
    assert "another key" in lines[1]["reason"]
    assert PROMPT not in log.read_text()
    assert KEY not in log.read_text()
