"""Policies: what is not said is off, what is misspelt is an error, and the template accepts nothing."""

from __future__ import annotations

from pathlib import Path

import pytest

from cutset.cli import main
from cutset.errors import ConfigError
from cutset.trust.evidence.policy import load_policy
from cutset.trust.evidence.policy_template import TEMPLATE_KINDS, policy_template
from cutset.trust.evidence.statement import CHANNELS, Statement, sequence

GOOD = """
version = 1
[server]
manifests = ["{d32}"]
modes = ["none"]
versions = "any"
[sgx]
collateral = "there"
tcb_status = ["UpToDate"]
mr_enclave = ["{d32}"]
mr_signer = "any"
""".format(d32="ab" * 32)


def written(folder: Path, text: str) -> Path:
    path = folder / "policy.toml"
    path.write_text(text, encoding="utf-8")
    return path


def test_paths_are_relative_to_the_file(tmp_path: Path) -> None:
    policy = load_policy(written(tmp_path, GOOD))
    assert policy.sgx is not None
    assert policy.sgx.collateral == str(tmp_path / "there")
    assert policy.kinds == ["sgx"]


def test_what_is_not_said_is_off(tmp_path: Path) -> None:
    policy = load_policy(written(tmp_path, 'version = 1\n[sgx]\ncollateral = "c"\n[tdx]\ncollateral = "c"\n'))
    assert policy.server.manifests == policy.server.modes == policy.server.versions == []
    assert policy.sgx is not None
    assert policy.tdx is not None
    for rules in (policy.sgx, policy.tdx):
        assert rules.tcb_status == rules.advisories == []
        assert not any((rules.debug, rules.dynamic_platform, rules.cached_keys, rules.smt))
    assert policy.sgx.mr_enclave == policy.sgx.mr_signer == []
    assert policy.tdx.mr_td == policy.tdx.rt_mr3 == []
    assert policy.tdx.mr_config_id == ["00" * 48]
    assert policy.tls.certificate == "authority"
    assert policy.snp is policy.simulator is None


@pytest.mark.parametrize(
    ("old", "new", "match"),
    [
        ("version = 1", "version = 2", "version"),
        ("version = 1", "", "version"),
        ("version = 1", "version = 1\nfoo = 1", "foo"),
        ("modes", "mode", "mode"),
        ("tcb_status", "tcb_statuses", "tcb_statuses"),
        ('["UpToDate"]', '["uptodate"]', "uptodate"),
        ('["UpToDate"]', '["Revoked"]', "Revoked"),
        ('["UpToDate"]', '"any"', "tcb_status"),
        ('mr_signer = "any"', 'mr_signer = "all"', "mr_signer"),
        ('mr_signer = "any"', f'mr_signer = ["{"ab" * 31}"]', "64 digits"),
        ('mr_signer = "any"', f'mr_signer = ["{"AB" * 32}"]', "64 digits"),
        ('mr_signer = "any"', f'mr_signer = [" {"ab" * 32}"]', "64 digits"),
        ('mr_signer = "any"', "mr_signer = [1]", "mr_signer"),
        ('mr_signer = "any"', 'mr_signer = "any"\ndebug = true', "debug can't be allowed"),
        ('mr_signer = "any"', "isv_svn = -1", "isv_svn"),
        (f'mr_enclave = ["{"ab" * 32}"]', 'mr_enclave = "any"', "any enclave of anybody"),
        ('mr_signer = "any"', 'mr_signer = "any"\nmost_collateral_days = 0', "most_collateral_days"),
        ('collateral = "there"\n', "", "collateral"),
        ("[sgx]", "[sev]", "sev"),
        ("[server]", "[simulator]\naccept = true\n[server]", "accept"),
        ("[server]", '[simulator]\naccept = "yes"\n[server]', "accept"),
        ("[server]", "[simulator]\n[server]", "accept"),
        ("[server]", '[tls]\ncertificate = "none"\n[server]', "certificate"),
    ],
)
def test_what_is_wrong_is_one_line(
    tmp_path: Path, capsys: pytest.CaptureFixture[str], old: str, new: str, match: str
) -> None:
    assert old in GOOD
    path = written(tmp_path, GOOD.replace(old, new, 1))
    with pytest.raises(ConfigError, match=match):
        load_policy(path)
    assert main(["trust", "policy", str(path)]) == 2
    assert len(capsys.readouterr().err.splitlines()) == 1


def test_any_enclave_of_a_signer_needs_the_oldest_version_that_will_do(tmp_path: Path) -> None:
    text = GOOD.replace(f'mr_enclave = ["{"ab" * 32}"]', 'mr_enclave = "any"')
    text = text.replace('mr_signer = "any"', f'mr_signer = ["{"cd" * 32}"]')
    with pytest.raises(ConfigError, match="isv_svn"):
        load_policy(written(tmp_path, text))
    assert load_policy(written(tmp_path, f"{text}isv_svn = 2\n")).sgx is not None


@pytest.mark.parametrize(
    "content", [b"", b"\xff", b"version = ", b"[" * 100_000, b"version = 1", b"a." * 60 + b"a = 1"]
)
def test_what_is_no_policy(tmp_path: Path, content: bytes) -> None:
    path = tmp_path / "policy.toml"
    path.write_bytes(content)
    with pytest.raises(ConfigError):
        load_policy(path)


def test_the_template_is_a_policy_that_accepts_nothing(tmp_path: Path, capsys: pytest.CaptureFixture[str]) -> None:
    policy = load_policy(written(tmp_path, policy_template(TEMPLATE_KINDS)))
    assert tuple(policy.kinds) == TEMPLATE_KINDS
    assert policy.server.manifests == policy.server.versions == []
    path = tmp_path / "new.toml"
    (tmp_path / "model").mkdir()
    (tmp_path / "model" / "config.json").write_text("{}")
    assert main(["trust", "policy", "-o", str(path), "--kind", "tdx", "--model", f"m={tmp_path / 'model'}"]) == 0
    digest = capsys.readouterr().out.split()[0]
    made = load_policy(path)
    assert made.kinds == ["tdx"]
    assert made.server.manifests == [digest]
    assert main(["trust", "policy", str(path)]) == 0
    assert "nothing yet" in capsys.readouterr().out


@pytest.mark.parametrize("words", [[], ["a", "-o", "b"], ["a", "--kind", "tdx"], ["--model", "x", "-o", "y"]])
def test_flags_that_make_no_sense(
    words: list[str], tmp_path: Path, monkeypatch: pytest.MonkeyPatch, capsys: pytest.CaptureFixture[str]
) -> None:
    monkeypatch.chdir(tmp_path)
    assert main(["trust", "policy", *words]) == 2
    assert len(capsys.readouterr().err.splitlines()) == 1


def test_two_statements_have_never_the_same_bytes() -> None:
    base = {"channel": "tls", "key": b"k", "manifest": b"m" * 32, "mode": "none", "version": "1", "nonce": b"n" * 32}
    made = [Statement(**base)]
    for name, value in (("channel", "curve"), ("key", b"kk"), ("manifest", b"M" * 32), ("nonce", b"N" * 32)):
        made.append(Statement(**{**base, name: value}))
    # What stands at the end of one field, and what at the beginning of the next.
    made += [
        Statement(**{**base, "mode": mode, "version": version}) for mode, version in (("none1", ""), ("non", "e1"))
    ]
    made += [
        Statement(**{**base, "key": b"", "manifest": b"k" + b"m" * 32}),
        Statement(**{**base, "mode": "", "version": "none1"}),
    ]
    found = {one.report_data for one in made}
    assert len(found) == len(made)
    assert {len(one) for one in found} == {64}
    assert sequence(b"ab", b"c") != sequence(b"a", b"bc") != sequence(b"abc") != sequence(b"abc", b"")
    assert CHANNELS == ("tls", "curve", "release")
