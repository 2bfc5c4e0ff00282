"""An accelerator that shows evidence over its link, and clients that want it before they hand over anything."""

from __future__ import annotations

from collections.abc import Iterator
from dataclasses import replace
from pathlib import Path

import pytest

from cutset import LLM, SamplingParams
from cutset.cli import main
from cutset.config import load_settings
from cutset.errors import ConfigError, EvidenceError, HandshakeError, OffloadError
from cutset.link.keys import new_keys, save_keys
from cutset.link.peer import Binding
from cutset.models.registry import BUNDLED
from cutset.offload.accelerator.accelerator import Accelerator, Quota
from cutset.offload.accelerator.loading import open_accelerator
from cutset.trust.evidence.document import Prover
from cutset.trust.evidence.link_evidence import prove_link, verify_by, verify_link
from cutset.trust.evidence.policy import load_policy
from cutset.trust.evidence.providers import SimulatorProvider
from cutset.trust.evidence.served_files import ServedFile, manifest_digest, served_files
from cutset.trust.evidence.verifier import Verifier
from tests.offload.conftest import serve_in_thread
from tests.trust.wire import policy_text

FEW = SamplingParams(max_tokens=4, temperature=0)


class Enclave:
    """An accelerator over tcp whose evidence a policy fits."""

    def __init__(self, folder: Path) -> None:
        for name in ("server", "client"):
            save_keys(new_keys(), name, folder)
        self.provider = SimulatorProvider(b"an accelerator")
        self.files = served_files({"story": BUNDLED["story"]})
        self.policy = folder / "policy.toml"
        text = policy_text(self.provider.measurement.hex(), manifest_digest(self.files).hex())
        self.policy.write_text(text.replace('modes = ["none"]', 'modes = ["accelerator"]'))
        self.keys = {"key": folder / "client.key", "accelerator_key": folder / "server.pub"}
        self.accelerator: Accelerator = open_accelerator(
            "story",
            "tcp://127.0.0.1:0",
            load_settings({"threads": 1}),
            quota=Quota(),
            key=str(folder / "server.key"),
            allow=str(folder / "client.pub"),
        )
        self.plain = self.accelerator.handshake
        self.show(self.prover())

    def prover(self, measured: bytes | None = None, mode: str = "accelerator") -> Prover:
        provider = self.provider if measured is None else SimulatorProvider(measured)
        return Prover(provider, self.files, mode, "cutset 1")

    def show(self, prover: Prover | None) -> None:
        prove = None if prover is None else prove_link(prover)
        self.accelerator.handshake = replace(self.plain, prove=prove)

    def open(self, *, asking: bool = True) -> LLM:
        policy = self.policy if asking else None
        address = self.accelerator.listener.address
        return LLM("story", threads=1, offload=address, offload_policy=policy, **self.keys)


@pytest.fixture(scope="module")
def enclave(tmp_path_factory: pytest.TempPathFactory) -> Iterator[Enclave]:
    found = Enclave(tmp_path_factory.mktemp("enclave"))
    ended = serve_in_thread(found.accelerator)
    yield found
    ended()


def test_a_client_goes_on_once_the_evidence_fits(enclave: Enclave) -> None:
    with enclave.open() as llm, LLM("story", threads=1, mode="local") as local:
        assert llm.generate("Once", FEW)[0].token_ids == local.generate("Once", FEW)[0].token_ids
    with enclave.open(asking=False) as llm:  # one that doesn't ask is shown none, and works
        assert llm.generate("Once", FEW)[0].token_ids


@pytest.mark.parametrize("wrong", ["another enclave", "another mode", "none", "another link's"])
def test_and_not_before(enclave: Enclave, wrong: str) -> None:
    counted = enclave.accelerator.totals()["calls"]
    try:
        if wrong == "another link's":
            other = enclave.prover()
            stale = other.show("curve", bytes(32), bytes(32))
            enclave.accelerator.handshake = replace(enclave.plain, prove=lambda binding: stale)
        elif wrong == "none":
            enclave.show(None)
        else:
            enclave.show(enclave.prover(b"x") if wrong == "another enclave" else enclave.prover(mode="none"))
        with pytest.raises(OffloadError, match=r"bound to something else|isn't one that|shows no evidence"):
            enclave.open()
    finally:
        enclave.show(enclave.prover())
    assert enclave.accelerator.totals()["calls"] == counted


def test_a_binding_counts_with_all_that_is_in_it(enclave: Enclave) -> None:
    prove, verify = prove_link(enclave.prover()), verify_link(Verifier(load_policy(enclave.policy)))
    binding = Binding(b"p" * 32, b"v" * 32, b"t" * 32)
    shown = prove(binding)
    assert verify(shown, binding) is True
    for name in ("prover", "verifier", "transcript"):
        with pytest.raises(HandshakeError):
            verify(shown, replace(binding, **{name: b"x" * 32}))


def test_a_policy_is_read_again_for_the_next_link(enclave: Enclave, tmp_path: Path) -> None:
    policy, said = tmp_path / "p.toml", list[str]()
    policy.write_text(enclave.policy.read_text())
    prove, verify = prove_link(enclave.prover()), verify_by(policy, warn=said.append)
    binding = Binding(b"p" * 32, b"v" * 32, b"t" * 32)
    assert verify(prove(binding), binding) is True
    policy.write_text(policy.read_text().replace('["accelerator"]', '["none"]'))
    with pytest.raises(EvidenceError, match="mode 'accelerator'"):
        verify(prove(binding), binding)
    policy.write_text("version = 2")
    with pytest.raises(EvidenceError, match="mode 'accelerator'"):
        verify(prove(binding), binding)
    policy.unlink()
    policy.write_text(enclave.policy.read_text())
    assert verify(prove(binding), binding) is True
    assert [line.partition(":")[0] for line in said] == [
        "NOT CONFIDENTIAL",
        "the policy that was read before stays in force",
    ]


def test_evidence_that_is_too_large_is_said_at_the_start(enclave: Enclave) -> None:
    many = [ServedFile("m", f"{number}.bin", 1, "ab" * 32) for number in range(400)]
    with pytest.raises(ConfigError, match="over a link"):
        prove_link(Prover(enclave.provider, many, "accelerator", "cutset 1"))


@pytest.mark.parametrize(
    ("words", "match"),
    [
        (["accelerator", "story", "--listen", "shm://x", "--evidence", "simulator"], "tcp://"),
        (["accelerator", "story", "--listen", "shm://x", "--evidence-root", "/x"], "--evidence"),
        (["generate", "story", "--prompt", "x", "--offload", "shm://x", "--offload-policy", "p"], "tcp"),
        (["generate", "story", "--prompt", "x", "--offload-policy", "p"], "--offload ADDRESS"),
        (["generate", "story", "--prompt", "x", "--mode", "local", "--offload-policy", "p"], "tcp"),
    ],
)
def test_flags_that_promise_nothing(words: list[str], match: str, capsys: pytest.CaptureFixture[str]) -> None:
    assert main(words) == 2
    said = capsys.readouterr().err
    assert match in said
    assert len(said.splitlines()) == 1
