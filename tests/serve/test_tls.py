"""TLS, with certificates that are made here, and replaced while connections are open."""

from __future__ import annotations

import http.client
import socket
import ssl
from collections.abc import Callable, Iterator
from pathlib import Path

import httpx
import openai
import pytest
from cryptography import x509

from cutset.cli import main
from cutset.errors import ConfigError
from cutset.llm import AsyncLLM
from cutset.serve.app import build_app
from cutset.serve.auth import Auth
from cutset.serve.reload import FileWatch
from cutset.serve.server import Server, bind, serve_in_thread
from cutset.serve.service import Service
from cutset.serve.tls import Certificate
from tests.serve.certificates import Authority


class Served:
    """A server with TLS, its files, and what it has said."""

    def __init__(self, folder: Path, llm: AsyncLLM) -> None:
        self.authority = Authority(folder)
        self.chain, self.key = folder / "tls.pem", folder / "tls.key"
        self.serial = self.authority.write(self.chain, self.key)
        self.said: list[str] = []
        self.watch = FileWatch(self.said.append)
        certificate = Certificate(self.chain, self.key)
        self.watch.add([self.chain, self.key], certificate.read)
        self.service = Service(llm)
        app = build_app(self.service, Auth([], "127.0.0.1"))
        self.server = Server(app, self.service, tls=certificate, watch=self.watch)
        self.trusting = ssl.create_default_context(cafile=self.authority.file)

    def port(self) -> int:
        return int(self.url.rpartition(":")[2])

    def connect(self) -> http.client.HTTPSConnection:
        return http.client.HTTPSConnection("127.0.0.1", self.port(), context=self.trusting, timeout=30)

    def shown(self) -> int:
        """The serial number that a new connection is shown."""
        with (
            socket.create_connection(("127.0.0.1", self.port()), timeout=30) as plain,
            self.trusting.wrap_socket(plain, server_hostname="127.0.0.1") as secure,
        ):
            found = secure.getpeercert(binary_form=True)
        assert found is not None
        return x509.load_der_x509_certificate(found).serial_number


@pytest.fixture(scope="module")
def served(llm: AsyncLLM, tmp_path_factory: pytest.TempPathFactory) -> Iterator[Served]:
    found = Served(tmp_path_factory.mktemp("tls"), llm)
    with serve_in_thread(found.server, bind("127.0.0.1", 0)) as found.url:
        yield found


def test_the_official_client_over_tls(served: Served) -> None:
    assert served.url.startswith("https://127.0.0.1:")
    with httpx.Client(verify=served.trusting) as http:
        client = openai.OpenAI(base_url=f"{served.url}/v1", api_key="none", http_client=http, max_retries=0)
        stream = client.completions.create(model="tale", prompt="Once", max_tokens=8, stream=True)
        assert "".join(chunk.choices[0].text for chunk in stream)
    with pytest.raises(httpx.ConnectError):
        httpx.get(f"{served.url}/health")  # nobody has heard of that authority
    with pytest.raises((httpx.RemoteProtocolError, httpx.ReadError)):
        httpx.get(f"http://127.0.0.1:{served.port()}/health")


def test_old_versions_of_tls_are_refused(served: Served) -> None:
    old = ssl.create_default_context(cafile=served.authority.file)
    old.set_ciphers("DEFAULT:@SECLEVEL=0")
    with pytest.warns(DeprecationWarning, match="TLSv1_1"):
        old.minimum_version = old.maximum_version = ssl.TLSVersion.TLSv1_1
    with (
        socket.create_connection(("127.0.0.1", served.port()), timeout=30) as plain,
        pytest.raises(ssl.SSLError),
    ):
        old.wrap_socket(plain, server_hostname="127.0.0.1")


def test_a_new_certificate_is_taken_while_connections_are_open(served: Served) -> None:
    first = served.shown()
    kept = served.connect()
    kept.request("GET", "/health")
    assert kept.getresponse().read()
    serial = served.authority.write(served.chain, served.key)
    served.watch.check()
    assert served.shown() == serial != first
    connection = kept.sock
    kept.request("GET", "/health")
    assert kept.getresponse().read()
    assert kept.sock is connection  # the same connection, not a new one
    kept.close()
    assert any("certificate was read again" in line for line in served.said)
    before = len(served.said)
    served.watch.check()
    assert len(served.said) == before  # nothing has changed since


def test_a_pair_that_cannot_be_used_changes_nothing(served: Served, caplog: pytest.LogCaptureFixture) -> None:
    good = served.authority.write(served.chain, served.key)
    served.watch.check()
    key = served.key.read_bytes()
    served.authority.write(served.chain, served.key.with_name("other.key"))
    served.watch.check()
    assert "is not that of the certificate" in caplog.text
    assert served.shown() == good
    served.chain.write_text("nonsense")
    served.watch.check()
    assert served.shown() == good
    served.chain.unlink()
    served.watch.check()
    assert served.shown() == good
    assert key.decode().splitlines()[1] not in caplog.text
    good = served.authority.write(served.chain, served.key)
    served.watch.check()
    assert served.shown() == good


def test_keys_that_others_read_and_old_certificates_are_warned_of(tmp_path: Path) -> None:
    authority, chain, key = Authority(tmp_path), tmp_path / "a.pem", tmp_path / "a.key"
    authority.write(chain, key)
    assert Certificate(chain, key).cautions() == []
    key.chmod(0o644)
    assert "others can read the private key" in Certificate(chain, key).cautions()[0]
    authority.write(chain, key, days=-1)
    assert "expired" in Certificate(chain, key).cautions()[0]


@pytest.mark.parametrize("case", ["missing", "folder", "nonsense", "password", "other", "alone", "swapped"])
def test_wrong_files_are_one_line_and_code_2(case: str, tmp_path: Path, capsys: pytest.CaptureFixture[str]) -> None:
    authority, chain, key = Authority(tmp_path), tmp_path / "a.pem", tmp_path / "a.key"
    authority.write(chain, key, password=b"secret" if case == "password" else None)
    break_it: dict[str, Callable[[], object]] = {
        "missing": key.unlink,
        "nonsense": lambda: chain.write_bytes(b"\0" * 100),
        "other": lambda: authority.write(tmp_path / "b.pem", key),
    }
    break_it.get(case, lambda: None)()
    first, second = (key, chain) if case == "swapped" else (tmp_path if case == "folder" else chain, key)
    flags = ["--tls-cert", str(first)] + ([] if case == "alone" else ["--tls-key", str(second)])
    assert main(["serve", "story", "--port", "0", *flags]) == 2
    said = capsys.readouterr().err
    assert len(said.splitlines()) == 1
    assert "secret" not in said
    if case != "alone":
        with pytest.raises(ConfigError):
            Certificate(first, second)
