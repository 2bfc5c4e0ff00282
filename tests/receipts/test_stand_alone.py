"""The verifier in one file, where Cutset isn't: what strangers run."""

from __future__ import annotations

import ast
import base64
import shutil
import subprocess
import sys
from pathlib import Path

import pytest

from cutset.trust import verify_receipt
from cutset.trust.receipt import Receipt
from cutset.trust.signing_key import Signer, SigningKey
from tests.receipts.conftest import OFFLOAD, Make

# Refuses whatever belongs to Cutset or to what it needs besides, and says in the end what was loaded.
ALONE = """
import runpy, sys
class Refuse:
    def find_spec(self, name, path=None, target=None):
        if name.split(".")[0] in ("cutset", "numpy", "msgspec", "tokenizers", "zmq", "yaml", "jinja2"):
            raise ImportError(f"{name} isn't here")
sys.meta_path.insert(0, Refuse())
try:
    import cutset
except ImportError:
    pass
else:
    sys.exit("cutset is here")
sys.argv = sys.argv[1:]
runpy.run_path(sys.argv[0], run_name="__main__")
"""


@pytest.fixture
def alone(tmp_path: Path) -> Path:
    """A copy of the program, far from the package."""
    place = tmp_path / "elsewhere"
    place.mkdir()
    return Path(shutil.copy(verify_receipt.__file__, place / "check.py"))


def call(program: Path, *args: str, data: bytes | None = None) -> subprocess.CompletedProcess[bytes]:
    command = [sys.executable, "-I", "-c", ALONE, str(program), *args]
    return subprocess.run(command, input=data, capture_output=True, timeout=60, cwd=program.parent)


def test_it_needs_nothing_but_cryptography() -> None:
    tree = ast.parse(Path(verify_receipt.__file__).read_text(encoding="utf-8"))
    found = set()
    for node in ast.walk(tree):
        if isinstance(node, ast.Import):
            found |= {alias.name.split(".")[0] for alias in node.names}
        elif isinstance(node, ast.ImportFrom):
            found.add((node.module or "").split(".")[0])
    assert found - sys.stdlib_module_names == {"cryptography"}


def test_it_verifies_where_cutset_is_not(alone: Path, make: Make, signer: Signer, tmp_path: Path) -> None:
    whole, part, broken, failed = (tmp_path / name for name in ("whole", "part", "broken", "failed"))
    data = make(answers=("hello there",), details={"text:0": "hello \x1b[2J there"})
    whole.write_bytes(data)
    part.write_bytes(base64.b64encode(Receipt(data).show(["6-10"])) + b"\n")
    broken.write_bytes(data[:-1] + bytes([data[-1] ^ 1]))
    failed.write_bytes(make(outcome="integrity", offload=OFFLOAD | {"failures": 1}))
    key, public = signer.key.public.hex(), tmp_path / "me.pub"
    public.write_text(f"{key} me\n")

    done = call(alone, str(whole), "--key", key)
    assert (done.returncode, done.stderr) == (0, b"")
    said = done.stdout.decode()
    for words in ("the receipt verifies", key, "seed       -5", "hello there", "masked+verified", "1970-01-01"):
        assert words in said
    assert "\x1b" not in said

    done = call(alone, str(part), "--key", str(public))
    assert done.returncode == 0
    assert b"'...there'" in done.stdout
    assert b"hello" not in done.stdout

    done = call(alone, str(failed), "--key", key)
    assert done.returncode == 3
    assert b"FAILED" in done.stdout

    done = call(alone, str(broken), "--key", key)
    assert (done.returncode, done.stdout) == (1, b"")
    assert b"does NOT verify" in done.stderr
    assert call(alone, str(whole), "--key", SigningKey.new().public.hex()).returncode == 1
    assert b"whoever that is" in call(alone, "-", "--any-key", data=data).stdout


def test_wrong_use_is_no_verdict(tmp_path: Path, make: Make, capsys: pytest.CaptureFixture[str]) -> None:
    file = tmp_path / "receipt"
    file.write_bytes(make())
    (tmp_path / "no.pub").write_text("no key")
    for args in (
        [str(tmp_path / "none"), "--any-key"],
        [str(tmp_path), "--any-key"],
        [str(file), "--key", "12"],
        [str(file), "--key", str(tmp_path / "no.pub")],
    ):
        assert verify_receipt.main(args) == 2
        assert capsys.readouterr().err.startswith("cutset-verify: error:")
    for args in ([str(file)], [str(file), "--any-key", "--key", "1" * 64]):
        with pytest.raises(SystemExit) as stop:
            verify_receipt.main(args)
        assert stop.value.code == 2
    for data in (b"", b"\xff", b"text", b"\xa4" * 100, b"\x9b" + b"\x7f" * 8):
        file.write_bytes(data)
        assert verify_receipt.main([str(file), "--any-key"]) == 1
