"""`cutset trust`, and the receipts that commands write."""

from __future__ import annotations

import base64
import json
import os
import stat
import subprocess
import sys
from pathlib import Path
from typing import Any

import pytest

from cutset.cli import main
from cutset.kernels.native import extension
from cutset.models.registry import BUNDLED
from cutset.trust.canonical import encode
from cutset.trust.receipt import Receipt, read_receipt
from cutset.trust.signing_key import SigningKey
from cutset.trust.verify_receipt import DOMAIN, decode

Output = tuple[int, str, str]
GENERATE = ("generate", "story", "--threads", "1", "--max-tokens", "12", "--temperature", "0.8")


@pytest.fixture(scope="module")
def signed(tmp_path_factory: pytest.TempPathFactory) -> Path:
    """A folder with me.key, me.pub and a receipt r."""
    folder = tmp_path_factory.mktemp("signed")
    assert main(["trust", "key", "me", "-o", str(folder)]) == 0
    flags = ("--prompt", "Once upon a time", "--receipt", str(folder / "r"), "--receipt-key", str(folder / "me.key"))
    assert main([*GENERATE, *flags, "--json", str(folder / "json")]) == 0
    return folder


@pytest.fixture
def cutset(capsys: pytest.CaptureFixture[str], monkeypatch: pytest.MonkeyPatch, tmp_path: Path) -> Any:
    monkeypatch.setenv("XDG_CONFIG_HOME", str(tmp_path / "config"))

    def run(*argv: object) -> Output:
        code = main([str(one) for one in argv])
        captured = capsys.readouterr()
        return code, captured.out, captured.err

    return run


def changed(path: Path, to: Path, **fields: Any) -> Path:
    """The receipt with another statement, signed again by the same key."""
    key, envelope = SigningKey.load(path.parent / "me.key"), decode(path.read_bytes())
    statement = encode(decode(envelope["statement"]) | fields)
    to.write_bytes(encode(envelope | {"statement": statement, "signature": key.sign(DOMAIN + statement)}))
    return to


def test_a_receipt_is_written_and_verified(signed: Path, cutset: Any) -> None:
    file, public = signed / "r", signed / "me.pub"
    assert stat.S_IMODE(file.stat().st_mode) == 0o600
    receipt = read_receipt(file)
    output = json.loads((signed / "json").read_text())["output"]
    found = [leaf[0] for leaf in receipt.whole("answer:0").values() if leaf is not None]
    assert found == output["token_ids"]
    text = b"".join(leaf[1] for leaf in receipt.whole("answer:0").values() if leaf is not None)
    assert text.decode().strip() == output["text"].strip()
    code, out, _ = cutset("trust", "verify", file, "--key", public)
    assert (code, "the receipt verifies" in out) == (0, True)
    other = SigningKey.new().public.hex()
    code, out, err = cutset("trust", "verify", file, "--key", other)
    assert (code, out) == (1, "")
    assert "does NOT verify" in err


def test_a_receipt_of_one_answer_has_evidence_too(cutset: Any, tmp_path: Path) -> None:
    file = tmp_path / "r"
    asked = [*GENERATE, "--prompt", "Once", "--receipt", file, "--evidence", "simulator"]
    code, _, err = cutset(*asked)
    assert code == 0
    assert "NOT CONFIDENTIAL" in err
    assert read_receipt(file).statement["evidence"][0] == "simulator"
    code, out, _ = cutset("trust", "verify", file, "--any-key")
    assert code == 0
    assert "its quote carries this key's hash" in out
    assert "NOT CONFIDENTIAL" in out
    code, _, err = cutset(*GENERATE, "--prompt", "Once", "--evidence", "simulator")
    assert code == 2
    assert "give --receipt" in err


def test_the_answer_is_the_same_with_a_receipt(cutset: Any, tmp_path: Path) -> None:
    flags = (*GENERATE, "--prompt", "One day", "--seed", "4")
    _, plain, _ = cutset(*flags)
    code, out, err = cutset(*flags, "--receipt", tmp_path / "r")
    assert (code, out) == (0, plain)
    key = read_receipt(tmp_path / "r").found.signer.hex()
    assert key in err
    assert cutset("trust", "key")[1].split()[0] == key  # the user's own, made for it
    assert read_receipt(tmp_path / "r").statement["seed"] == 4


def test_parts_are_shown(signed: Path, cutset: Any, tmp_path: Path) -> None:
    code, out, _ = cutset("trust", "show", signed / "r", "--part", "3-5", "--part", "prompt:1")
    assert code == 0
    part = tmp_path / "part"
    part.write_text(out)
    assert list(Receipt(base64.b64decode(out)).found.shown) == ["prompt:0", "answer:0"]
    code, out, _ = cutset("trust", "verify", part, "--key", signed / "me.pub")
    assert code == 0
    assert "answer:0, tokens 3 to 5" in out
    assert cutset("trust", "show", signed / "r", "-o", tmp_path / "bare")[0] == 0
    assert (tmp_path / "bare").read_bytes() == read_receipt(signed / "r").bare
    code, _, err = cutset("trust", "show", part, "--part", "1")
    assert (code, err.count("\n")) == (2, 1)
    code, _, err = cutset("trust", "show", signed / "r", "--part", "16")
    assert (code, "has 16 leaves" in err) == (2, True)


def test_a_replay_says_whether_the_tokens_are_those(signed: Path, cutset: Any, tmp_path: Path) -> None:
    replay = ("trust", "replay")
    assert cutset(*replay, signed / "r", "story", "--threads", "1") == (0, "the same 12 tokens\n", "")
    assert cutset(*replay, signed / "r", "story", "--key", signed / "me.pub")[0] == 0
    code, _, err = cutset(*replay, signed / "r", "story", "--key", SigningKey.new().public.hex())
    assert (code, "signed by another key" in err) == (2, True)
    other = changed(signed / "r", tmp_path / "seed", seed=5)  # whose tokens aren't those of this seed
    code, out, _ = cutset(*replay, other, "story")
    assert (code, out.startswith("other tokens: answer 0 differs from token")) == (1, True)
    said = read_receipt(signed / "r").statement
    for name, value in (
        ("libraries", ["another set"]),
        ("code", bytes(32)),
        ("machine", "riscv64"),
        ("arithmetic", 1),
        ("software", "cutset 99"),
    ):
        odd = changed(signed / "r", tmp_path / name, run=said["run"] | {name: value})
        code, out, _ = cutset(*replay, odd, "story")
        assert code == 3, name
        assert out.startswith(f"can't tell: {name}: ")
    odd = changed(signed / "r", tmp_path / "files", model=said["model"] | {"files": bytes(32)})
    code, out, _ = cutset(*replay, odd, "story")
    assert (code, "another model" in out) == (3, True)
    odd = changed(signed / "r", tmp_path / "adapter", model=said["model"] | {"adapter": bytes(16)})
    code, out, _ = cutset(*replay, odd, "story")
    assert (code, "adapter" in out) == (3, True)
    assert cutset("trust", "show", signed / "r", "--part", "0", "-o", tmp_path / "part")[0] == 0
    code, _, err = cutset(*replay, tmp_path / "part", "story")
    assert (code, "doesn't show all of prompt:0" in err) == (2, True)


def test_another_instruction_set_cannot_tell(signed: Path, cutset: Any, tmp_path: Path) -> None:
    run = decode(decode((signed / "r").read_bytes())["statement"])["run"]
    odd = changed(signed / "r", tmp_path / "odd", run=run | {"libraries": ["of another instruction set"]})
    code, out, _ = cutset("trust", "replay", odd, "story")
    assert (code, "libraries" in out) == (3, True)


def test_fewer_instructions_cannot_tell(signed: Path) -> None:
    """As a replay finds them here: with all that this machine has the tokens are the same."""
    own, replay = extension().isa(), [sys.executable, "-m", "cutset", "trust", "replay", str(signed / "r"), "story"]
    for isa in {own, extension().available_isas()[0]}:
        how = os.environ | {"CUTSET_ISA": isa}
        done = subprocess.run(replay, capture_output=True, text=True, timeout=60, env=how)
        assert done.returncode == (0 if isa == own else 3), done.stderr
        assert ("libraries" in done.stdout) == (isa != own)


def test_a_log_of_receipts(signed: Path, cutset: Any, tmp_path: Path) -> None:
    log, public = tmp_path / "log", signed / "me.pub"
    other = changed(signed / "r", tmp_path / "other", seed=6)
    third = changed(signed / "r", tmp_path / "third", seed=7)
    append = ("trust", "log", "append", log, "--key", signed / "me.key")
    code, out, _ = cutset(*append, signed / "r")
    assert (code, out.splitlines()[0]) == (0, f"0  {signed / 'r'}")
    head = tmp_path / "kept"
    head.write_bytes((tmp_path / "log.head").read_bytes())
    assert cutset(*append, other)[0] == 0
    proof = ("-o", tmp_path / "proof", "--key", public)
    assert cutset("trust", "log", "prove", log, other, "--since", head, *proof)[0] == 0
    check = ("trust", "log", "check", tmp_path / "proof")
    code, out, _ = cutset(*check, other, "--since", head, "--key", public)
    assert (code, out) == (0, "entry 1 of a log of 2, which holds all 1 of the earlier head\n")
    assert cutset("trust", "show", other, "--part", "0", "-o", tmp_path / "part")[0] == 0
    assert cutset(*check, tmp_path / "part", "--key", public)[0] == 0  # whatever of it is shown
    code, out, _ = cutset(*check, third, "--key", public)
    assert (code, out.startswith("the proof does NOT hold")) == (1, True)
    code, _, err = cutset("trust", "log", "prove", log, third, *proof)
    assert (code, "append it first" in err) == (2, True)
    assert cutset(*check, other, "--key", SigningKey.new().public.hex())[0] == 1


def test_a_chat_has_a_receipt_of_each_answer(tmp_path: Path) -> None:
    template = "{% for m in messages %}{{ m.content }}\n{% endfor %}"
    models = {"talker": {"path": str(BUNDLED["story"]), "chat_template": template}}
    (tmp_path / "models.yaml").write_text(json.dumps(models))
    SigningKey.new().save("me", tmp_path)
    flags = ["--receipts", "kept", "--receipt-key", "me.key", "--max-tokens", "8", "--threads", "1"]
    command = [sys.executable, "-m", "cutset.cli", "chat", "talker", *flags]
    done = subprocess.run(
        command, input="Once upon a time\nOne day\n", capture_output=True, text=True, timeout=60, cwd=tmp_path
    )
    assert done.returncode == 0, done.stderr
    found = [read_receipt(tmp_path / "kept" / f"{number}.receipt") for number in (1, 2)]
    assert len(list((tmp_path / "kept").iterdir())) == 2
    assert found[0].statement["model"]["template"] == found[1].statement["model"]["template"] is not None
    sizes = [len([leaf for leaf in one.whole("prompt:0").values() if leaf is not None]) for one in found]
    assert sizes[0] < sizes[1]


@pytest.mark.parametrize(
    ("argv", "why"),
    [
        ((*GENERATE, "--prompt", "x", "--receipt-key", "k"), "has no use without --receipt"),
        ((*GENERATE, "--prompt", "x", "--receipt", "r", "--receipt-key", "none"), "none can't be read"),
        ((*GENERATE, "--prompt", "x", "--receipt", "gone/r"), "can't be written"),
        ((*GENERATE, "--prompt", "x", "--receipt", "r", "--json", "./r"), "name the same file"),
        (("chat", "story", "--receipt-key", "k"), "has no use without --receipts"),
        (("serve", "story", "--port", "0", "--receipt-key", "none"), "none can't be read"),
        (("trust", "show", "none"), "can't read the receipt none"),
        (("trust", "replay", "none", "story"), "can't read the receipt none"),
        (("trust", "replay", "none", "story", "--key", "12"), "--key"),
        (("trust", "log", "append", "log", "none"), "can't read the receipt none"),
        (("trust", "log", "check", "proof", "none", "--key", "1" * 64), "can't read the receipt none"),
        (("trust", "key", "../x"), "a key's name"),
    ],
)
def test_what_cannot_be(
    argv: tuple[str, ...], why: str, cutset: Any, tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    monkeypatch.chdir(tmp_path)
    code, out, err = cutset(*argv)
    assert (code, out) == (2, "")
    assert why in err
    assert err.count("\n") <= 2
