"""GPUs that vouch beside a quote: a public report of a real one, and GPUs of the tests' own."""

from __future__ import annotations

import datetime
import hashlib
import json
import sys
from dataclasses import dataclass, field, replace
from pathlib import Path
from types import SimpleNamespace
from typing import Any

import msgspec
import pytest
from cryptography import x509
from cryptography.exceptions import UnsupportedAlgorithm
from cryptography.hazmat.primitives.asymmetric import ec, utils
from cryptography.hazmat.primitives.hashes import SHA384
from cryptography.hazmat.primitives.serialization import Encoding
from cryptography.x509.oid import NameOID

from cutset.cli import main
from cutset.errors import ConfigError, EvidenceError
from cutset.trust.evidence.device_reports import DeviceReport, device_nonce
from cutset.trust.evidence.document import Prover, read_document
from cutset.trust.evidence.nvidia_reports import NvidiaDevices, read_gpu_report, verify_gpus
from cutset.trust.evidence.policy import NvidiaRules, load_policy
from cutset.trust.evidence.policy_template import policy_template
from cutset.trust.evidence.providers import SimulatorProvider
from cutset.trust.evidence.statement import new_nonce
from cutset.trust.evidence.verifier import Verifier
from tests.trust.wire import FILES

# NVIDIA's root of device identities, as it publishes it; the report is of a GH100, see the file.
ROOT = "102bf659d5419614c9d8e6aecebc80454eb26b1df6a769ac720b9a690b167b48"
NOW = datetime.datetime(2026, 6, 1, tzinfo=datetime.UTC).timestamp()
FIRST = "04" * 48


@pytest.fixture(scope="module")
def real() -> tuple[DeviceReport, NvidiaRules]:
    """A report of a real GPU, and rules that fit it."""
    found = json.loads((Path(__file__).parent / "vectors" / "nvidia_gh100.json").read_text())
    chain = x509.load_pem_x509_certificates(found["certificates"].encode())
    shown = DeviceReport("nvidia", bytes.fromhex(found["report"]), [one.public_bytes(Encoding.DER) for one in chain])
    read = read_gpu_report(shown.report)
    rules = NvidiaRules(
        roots=[ROOT],
        drivers=["550.90.07"],
        vbios=["96.00.9F.00.01"],
        measurements={str(index): [value] for index, value in read.measurements.items()},
    )
    return shown, rules


def _sha256(data: bytes) -> str:
    return hashlib.sha256(data).hexdigest()


def test_a_real_report_is_read_and_fits(real: tuple[DeviceReport, NvidiaRules]) -> None:
    shown, rules = real
    (found,) = verify_gpus([shown], shown.report[4:36], rules, NOW)
    assert (found.name, found.driver, found.vbios) == ("GH100 A01 GSP FMC LF", "550.90.07", "96.00.9F.00.01")
    assert len(found.measurements) == 64
    assert found.measurements[2].startswith("8048dfd18fe229bf")


def test_no_byte_of_a_real_report_can_be_another(real: tuple[DeviceReport, NvidiaRules]) -> None:
    shown, rules = real
    nonce, step = shown.report[4:36], 41
    for at in [*range(48), *range(48, len(shown.report), step), *range(len(shown.report) - 100, len(shown.report))]:
        changed = bytearray(shown.report)
        changed[at] ^= 1 << at % 8
        with pytest.raises(EvidenceError):
            verify_gpus([msgspec.structs.replace(shown, report=bytes(changed))], nonce, rules, NOW)
    for wrong in (shown.report[:-1], shown.report + b"\0", shown.report[:36], b"x"):
        with pytest.raises(EvidenceError):
            verify_gpus([msgspec.structs.replace(shown, report=wrong)], nonce, rules, NOW)
    for number in range(5):
        for at in range(4, len(shown.certificates[number]), 97):
            chain = [*shown.certificates]
            changed = bytearray(chain[number])
            changed[at] ^= 1 << at % 8
            chain[number] = bytes(changed)
            with pytest.raises(EvidenceError):
                verify_gpus([msgspec.structs.replace(shown, certificates=chain)], nonce, rules, NOW)


@pytest.mark.parametrize(
    ("changed", "match"),
    [
        ({"roots": []}, "root of its GPU's certificates"),
        ({"roots": ["ab" * 32]}, "root of its GPU's certificates"),
        ({"drivers": []}, "driver '550.90.07' of its GPU isn't one"),
        ({"drivers": ["570.1"]}, "driver"),
        ({"vbios": ["96.00.9F.00.02"]}, "VBIOS"),
        ({"measurements": {}}, "says nothing of its GPU's measurements"),
        ({"measurements": {"2": ["00" * 48]}}, "measurement 2 of its GPU"),
        ({"measurements": {"65": ["00" * 48]}}, "measurement 65 of its GPU, none"),
        ({"least": 2}, "reports of 1 GPUs, and the policy wants 2"),
    ],
)
def test_what_a_policy_does_not_say_is_refused(
    real: tuple[DeviceReport, NvidiaRules], changed: dict[str, Any], match: str
) -> None:
    shown, rules = real
    with pytest.raises(EvidenceError, match=match):
        verify_gpus([shown], shown.report[4:36], msgspec.structs.replace(rules, **changed), NOW)


def test_another_question_and_the_same_gpu_twice(real: tuple[DeviceReport, NvidiaRules]) -> None:
    shown, rules = real
    with pytest.raises(EvidenceError, match="another question"):
        verify_gpus([shown], new_nonce(), rules, NOW)
    with pytest.raises(EvidenceError, match="one GPU twice"):
        verify_gpus([shown, shown], shown.report[4:36], msgspec.structs.replace(rules, least=2), NOW)
    with pytest.raises(EvidenceError, match="isn't valid now"):
        verify_gpus([shown], shown.report[4:36], rules, NOW - 20 * 365 * 86400)


def _negated(certificate: bytes) -> bytes:
    """The same certificate in other bytes: ECDSA takes s for n - s."""
    order = int("f" * 48 + "c7634d81f4372ddf581a0db248b0a77aecec196accc52973", 16)
    read = x509.load_der_x509_certificate(certificate)
    r, s = utils.decode_dss_signature(read.signature)
    signature = utils.encode_dss_signature(r, order - s)
    signed_by = bytes.fromhex("300a06082a8648ce3d040303")  # ecdsa-with-SHA384, as DER
    signed = read.tbs_certificate_bytes + signed_by + b"\x03" + bytes([len(signature) + 1]) + b"\0" + signature
    return b"\x30\x82" + len(signed).to_bytes(2) + signed


def test_one_gpu_is_not_two_by_a_certificate_in_other_bytes() -> None:
    gpu, nonce = Gpu(AUTHORITY), new_nonce()
    rules = NvidiaRules(roots=[_sha256(AUTHORITY.root)], drivers="any", vbios="any", measurements="any", least=2)
    one = DeviceReport("nvidia", gpu.report(nonce), [gpu.certificate, AUTHORITY.root])
    other = DeviceReport("nvidia", gpu.report(nonce), [_negated(gpu.certificate), AUTHORITY.root])
    assert verify_gpus([other], nonce, msgspec.structs.replace(rules, least=1), NOW), "it is genuine, too"
    with pytest.raises(EvidenceError, match="one GPU twice"):
        verify_gpus([one, other], nonce, rules, NOW)


def test_certificates_that_somebody_made_up_are_an_error_of_ours() -> None:
    """Also where they are odd in ways that aren't a ValueError for who reads them."""
    gpu, nonce = Gpu(AUTHORITY), new_nonce()
    rules = NvidiaRules(roots=[_sha256(AUTHORITY.root)], drivers="any", vbios="any", measurements="any")
    version = gpu.certificate.replace(bytes.fromhex("a003020102"), bytes.fromhex("a003020104"), 1)
    curve = AUTHORITY.root.replace(bytes.fromhex("2b81040022"), bytes.fromhex("2b81040029"), 1)
    between = Authority()
    # InhibitAnyPolicy becomes a second BasicConstraints.
    twice = AUTHORITY.certify("root", between.key.public_key(), "root", x509.InhibitAnyPolicy(0))
    twice = twice.replace(bytes.fromhex("551d36"), bytes.fromhex("551d13"), 1)
    below = between.certify("GB900", gpu.key.public_key(), "root")
    with pytest.raises(x509.InvalidVersion):
        x509.load_der_x509_certificate(version)
    with pytest.raises(UnsupportedAlgorithm):
        x509.load_der_x509_certificate(curve).public_key()
    with pytest.raises(x509.DuplicateExtension):
        _ = x509.load_der_x509_certificate(twice).extensions
    for wrong in ([version, AUTHORITY.root], [gpu.certificate, curve], [below, twice, AUTHORITY.root], [b"0", b"1"]):
        shown = DeviceReport("nvidia", gpu.report(nonce), wrong)
        with pytest.raises(EvidenceError, match="certificates"):
            verify_gpus([shown], nonce, msgspec.structs.replace(rules, roots=[_sha256(wrong[-1])]), NOW)


class Authority:
    """A root as NVIDIA's, and certificates of GPUs below it."""

    def __init__(self) -> None:
        self.key = ec.generate_private_key(ec.SECP384R1())
        self.root = self.certify("root", self.key.public_key(), "root")

    def certify(self, name: str, key: ec.EllipticCurvePublicKey, issuer: str, *more: x509.ExtensionType) -> bytes:
        def named(text: str) -> x509.Name:
            return x509.Name([x509.NameAttribute(NameOID.COMMON_NAME, text)])

        built = x509.CertificateBuilder(named(issuer), named(name), key, 7)
        built = built.not_valid_before(datetime.datetime(2020, 1, 1)).not_valid_after(datetime.datetime(2040, 1, 1))
        built = built.add_extension(x509.BasicConstraints(ca=name == "root", path_length=None), critical=True)
        for one in more:
            built = built.add_extension(one, critical=False)
        return built.sign(self.key, SHA384()).public_bytes(Encoding.DER)


@dataclass
class Gpu:
    """Answers as NVML does."""

    authority: Authority
    driver: str = "600.1"
    measurements: dict[int, bytes] = field(default_factory=lambda: {1: b"\x04" * 48, 2: b"\x05" * 48})
    key: ec.EllipticCurvePrivateKey = field(default_factory=lambda: ec.generate_private_key(ec.SECP384R1()))

    def __post_init__(self) -> None:
        self.certificate = self.authority.certify("GB900", self.key.public_key(), "root")

    def report(self, nonce: bytes) -> bytes:
        block = b"".join(bytes([i, 1, 51, 0, 1, 48, 0]) + value for i, value in self.measurements.items())
        fields = [(3, self.driver.encode() + b"\0"), (6, bytes.fromhex("009f009601000000"))]
        more = b"".join(k.to_bytes(2, "little") + len(v).to_bytes(2, "little") + v for k, v in fields)
        count = bytes([len(self.measurements)]) + len(block).to_bytes(3, "little")
        said = b"\x11\xe0\x01\xff" + nonce + b"\0\x11\x60\0\0" + count + block
        said += bytes(32) + len(more).to_bytes(2, "little") + more
        r, s = utils.decode_dss_signature(self.key.sign(said, ec.ECDSA(SHA384())))
        return said + r.to_bytes(48) + s.to_bytes(48)


class FakeNvml:
    """NVIDIA's library, as far as it is asked."""

    class NVMLError(Exception):
        pass

    def __init__(self, *gpus: Gpu, on: int = 1, developers: int = 0, fails: str = "") -> None:
        self.gpus, self.fails = gpus, fails
        self.state = SimpleNamespace(ccFeature=on, devToolsMode=developers)

    def nvmlInit(self) -> None:
        if self.fails:
            raise self.NVMLError(self.fails)

    def nvmlSystemGetConfComputeState(self) -> SimpleNamespace:
        return self.state

    def nvmlDeviceGetCount(self) -> int:
        return len(self.gpus)

    def nvmlDeviceGetHandleByIndex(self, index: int) -> Gpu:
        return self.gpus[index]

    def nvmlDeviceGetConfComputeGpuAttestationReport(self, device: Gpu, nonce: bytes) -> SimpleNamespace:
        found = device.report(nonce)
        return SimpleNamespace(attestationReport=[*found, 0, 0, 0], attestationReportSize=len(found))

    def nvmlDeviceGetConfComputeGpuCertificate(self, device: Gpu) -> SimpleNamespace:
        ders = [device.certificate, device.authority.root]
        pem = b"".join(x509.load_der_x509_certificate(der).public_bytes(Encoding.PEM) for der in ders)
        return SimpleNamespace(attestationCertChain=[*pem, 0, 0], attestationCertChainSize=len(pem))


AUTHORITY = Authority()
POLICY = """
version = 1
[server]
manifests = "any"
modes = ["accelerator"]
versions = ["cutset 1"]
[simulator]
accept = "NOT CONFIDENTIAL"
measurement = "any"
[nvidia]
roots = ["{root}"]
drivers = ["600.1"]
vbios = "any"
least = {least}
measurements = {{ 1 = ["{first}"] }}
"""


def verifier(folder: Path, **changed: Any) -> Verifier:
    text = POLICY.format(**{"root": _sha256(AUTHORITY.root), "least": 1, "first": FIRST} | changed)
    (folder / "p.toml").write_text(text)
    return Verifier(load_policy(folder / "p.toml"), clock=lambda: NOW)


def shown(*gpus: Gpu, key: bytes, nonce: bytes) -> bytes:
    provider = SimulatorProvider()
    provider.devices = NvidiaDevices(FakeNvml(*gpus)) if gpus else None
    return Prover(provider, FILES, "accelerator", "cutset 1").show("curve", key, nonce)


def test_gpus_vouch_beside_a_quote(tmp_path: Path) -> None:
    key, nonce, two = bytes(32), new_nonce(), (Gpu(AUTHORITY), Gpu(AUTHORITY))
    how: dict[str, Any] = {"channel": "curve", "key": key, "nonce": nonce}
    checked = verifier(tmp_path, least=2).check(shown(*two, key=key, nonce=nonce), **how)
    assert [gpu.driver for gpu in checked.gpus] == ["600.1", "600.1"]
    for document, match in (
        (shown(key=key, nonce=nonce), "reports of 0 GPUs"),
        (shown(two[0], key=key, nonce=nonce), "reports of 1 GPUs"),
        (shown(two[0], two[0], key=key, nonce=nonce), "one GPU twice"),
        (shown(*two, key=b"x" * 32, nonce=nonce), "bound to something else"),
        (shown(*two, key=key, nonce=new_nonce()), "bound to something else"),
        (shown(replace(two[0], driver="1"), two[1], key=key, nonce=nonce), "driver '1'"),
        (shown(replace(two[0], measurements={1: bytes(48)}), two[1], key=key, nonce=nonce), "measurement 1"),
        (shown(Gpu(Authority()), two[1], key=key, nonce=nonce), "root of its GPU's certificates"),
    ):
        with pytest.raises(EvidenceError, match=match):
            verifier(tmp_path, least=2).check(document, **how)


def test_reports_of_another_channel_and_swapped_ones(tmp_path: Path) -> None:
    """Whoever sits in between may ask a genuine GPU whatever it likes; the quote says what it was asked by whom."""
    key, nonce, gpu = bytes(32), new_nonce(), Gpu(AUTHORITY)
    right = msgspec.json.decode(shown(gpu, key=key, nonce=nonce))
    other = msgspec.json.decode(shown(gpu, key=b"x" * 32, nonce=nonce))
    judge, how = verifier(tmp_path), {"channel": "curve", "key": key, "nonce": nonce}
    for changed in (
        right | {"devices": other["devices"]},
        right | {"devices": right["devices"] * 2},
        {name: value for name, value in right.items() if name != "devices"},
        right | {"devices": []},
        right | {"devices": [["amd", *right["devices"][0][1:]]]},
    ):
        with pytest.raises(EvidenceError):
            judge.check(msgspec.json.encode(changed), **how)
    assert judge.check(msgspec.json.encode(right), **how).gpus
    read = read_document(msgspec.json.encode(right))
    plain = replace(read.statement("curve", key, nonce), devices=b"")
    assert device_nonce(plain.report_data) == read.reports[0].report[4:36]


def test_without_devices_a_document_is_what_it_was() -> None:
    document = msgspec.json.decode(shown(key=bytes(32), nonce=bytes(32)))
    assert "devices" not in document
    assert document["format"] == "cutset evidence 1"


@pytest.mark.parametrize(
    ("nvml", "match"),
    [
        (FakeNvml(Gpu(AUTHORITY), on=0), "aren't in confidential-computing mode"),
        (FakeNvml(Gpu(AUTHORITY), developers=1), "mode for developers"),
        (FakeNvml(), "has 0 GPUs"),
        (FakeNvml(fails="Driver Not Loaded"), "gives no evidence: Driver Not Loaded"),
    ],
)
def test_machines_that_cannot_vouch(nvml: FakeNvml, match: str) -> None:
    with pytest.raises(ConfigError, match=match):
        NvidiaDevices(nvml)


def test_flags_and_policies_that_promise_nothing(
    tmp_path: Path, capsys: pytest.CaptureFixture[str], monkeypatch: pytest.MonkeyPatch
) -> None:
    monkeypatch.setitem(sys.modules, "pynvml", None)
    tcp = ["--listen", "tcp://127.0.0.1:0"]
    for words, match in (
        (["stage", *tcp, "--device-evidence", "nvidia"], "goes with --evidence"),
        (["accelerator", "story", *tcp, "--device-evidence", "nvidia"], "goes with --evidence"),
        (["stage", *tcp, "--evidence", "simulator", "--device-evidence", "nvidia"], "pip install 'cutset[nvidia]'"),
    ):
        assert main(words) == 2
        said = capsys.readouterr().err
        assert match in said
        assert len(said.splitlines()) == 1
    place = tmp_path / "p.toml"
    place.write_text("version = 1\n[nvidia]\n")
    with pytest.raises(ConfigError, match="accepts no kind of evidence"):
        load_policy(place)
    for wrong in (
        "measurements = { x = [] }",
        'measurements = { 1 = ["ab"] }',
        'roots = ["ab"]',
        "least = 0",
        "oops = 1",
    ):
        place.write_text(f'version = 1\n[simulator]\naccept = "NOT CONFIDENTIAL"\n[nvidia]\n{wrong}\n')
        with pytest.raises(ConfigError):
            load_policy(place)
    place.write_text(policy_template(["tdx", "nvidia"]))
    assert main(["trust", "policy", str(place)]) == 0
    assert "nvidia: nothing yet: roots, drivers, vbios, measurements are empty" in capsys.readouterr().out
