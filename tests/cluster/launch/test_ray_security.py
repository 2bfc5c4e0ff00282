"""Which Ray will do, and which cluster."""

from __future__ import annotations

from pathlib import Path

import pytest

from cutset.cli import main
from cutset.cluster.launch import ray_security
from cutset.cluster.launch.ray_launcher import check_ray
from cutset.cluster.launch.ray_security import check_protected, has_token, ray_findings
from cutset.errors import ConfigError

TOKENS = ("RAY_AUTH_MODE", "RAY_AUTH_TOKEN", "RAY_AUTH_TOKEN_PATH", "RAY_USE_TLS")


@pytest.fixture
def there(monkeypatch: pytest.MonkeyPatch, tmp_path: Path) -> pytest.MonkeyPatch:
    """The right Ray, without a token."""
    for name in TOKENS:
        monkeypatch.delenv(name, raising=False)
    monkeypatch.setenv("HOME", str(tmp_path))
    monkeypatch.setattr(ray_security, "installed", lambda: "2.60.0")
    return monkeypatch


def checked(ray: str, *, insecure: bool = False, counted: bool = True) -> object:
    return check_ray(ray, (), insecure=insecure, counted=counted, flag="--stages")


@pytest.mark.parametrize(("version", "words"), [("", "isn't installed"), ("2.59.1", "2.59.1 is"), ("2.6.0", "2.6.0")])
def test_another_ray_or_none_is_one_line_that_says_what_to_install(
    there: pytest.MonkeyPatch, version: str, words: str, capsys: pytest.CaptureFixture[str]
) -> None:
    there.setattr(ray_security, "installed", lambda: version)
    with pytest.raises(ConfigError, match=words) as caught:
        checked("local")
    assert "pip install 'cutset[ray]'" in str(caught.value)
    assert main(["generate", "story", "--prompt", "a", "--stages", "2", "--ray", "local"]) == 2
    error = capsys.readouterr().err
    assert "pip install 'cutset[ray]'" in error
    assert "Traceback" not in error


def test_without_tokens_a_cluster_has_to_be_accepted(there: pytest.MonkeyPatch) -> None:
    for where in ("auto", "10.0.0.1:6379"):
        with pytest.raises(ConfigError, match="--insecure-ray"):
            checked(where)
        assert checked(where, insecure=True)
        there.setenv("RAY_AUTH_MODE", "token")
        assert checked(where)
        there.delenv("RAY_AUTH_MODE")
    assert checked("local"), "it has a token of its own"


def test_as_ray_decides_it(tmp_path: Path) -> None:
    home = {"HOME": str(tmp_path)}
    assert not has_token(home)
    assert has_token(home | {"RAY_AUTH_MODE": "Token"})
    assert has_token(home | {"RAY_AUTH_TOKEN": "x"})
    assert not has_token(home | {"RAY_AUTH_TOKEN": "x", "RAY_AUTH_MODE": "disabled"})
    (tmp_path / ".ray").mkdir()
    (tmp_path / ".ray" / "auth_token").write_text("x")
    assert has_token(home)
    check_protected("auto", insecure=False, environ=home)


def test_what_does_not_go_together(there: pytest.MonkeyPatch) -> None:
    with pytest.raises(ConfigError, match="with --stages N"):
        checked("auto", counted=False)
    with pytest.raises(ConfigError, match="client protocol"):
        checked("ray://head:10001")
    with pytest.raises(ConfigError, match="HOST:PORT"):
        checked("head:99999")
    for how in ({"place": ["stage0=gpu:1"], "insecure": False}, {"place": [], "insecure": True}):
        with pytest.raises(ConfigError, match="is for --ray"):
            check_ray("", counted=True, flag="--stages", **how)
    assert check_ray("", (), insecure=False, counted=False, flag="--stages") is None


@pytest.mark.parametrize(
    ("flags", "words"),
    [
        (["--ray", "local"], "with --stages N"),
        (["--ray", "local", "--stages", "ipc:///tmp/x"], "with --stages N"),
        (["--ray", "somewhere", "--stages", "2"], "local, auto or HOST:PORT"),
        (["--ray", "local", "--stages", "2", "--place", "stage5=gpu:1"], "there is no 'stage5'"),
        (["--place", "stage0=gpu:1", "--stages", "2"], "is for --ray"),
        (["--insecure-ray", "--stages", "2"], "is for --ray"),
        (["--ray", "local", "--stages", "2", "--spares", "ipc:///tmp/x"], "don't go together"),
        (["--ray", "auto", "--stages", "2"], "--insecure-ray"),
    ],
)
def test_a_command_says_it_in_one_line(
    there: pytest.MonkeyPatch, flags: list[str], words: str, capsys: pytest.CaptureFixture[str]
) -> None:
    assert main(["generate", "story", "--prompt", "a", *flags]) == 2
    error = capsys.readouterr().err
    assert words in error
    assert "Traceback" not in error
    assert len(error.strip().splitlines()) <= 2


@pytest.mark.parametrize(
    ("flags", "words"),
    [
        ([], "say where to listen"),
        (["--ray", "local"], "--ray needs --allow"),
        (["--ray", "local", "--allow", "x", "--listen", "shm://x"], "--listen and --ray don't go together"),
        (["--ray", "auto", "--allow", "{key}"], "--insecure-ray"),
        (["--ray", "local", "--allow", "{key}", "--place", "stage0=gpu:1"], "there is no 'stage0'"),
        (["--place", "accelerator=gpu:1", "--allow", "{key}"], "is for --ray"),
    ],
)
def test_an_accelerator_says_it_too(
    there: pytest.MonkeyPatch, tmp_path: Path, flags: list[str], words: str, capsys: pytest.CaptureFixture[str]
) -> None:
    key = tmp_path / "me.pub"
    key.write_text("ab" * 32)
    assert main(["accelerator", "story", *(flag.format(key=key) for flag in flags)]) == 2
    error = capsys.readouterr().err
    assert words in error
    assert "Traceback" not in error


def test_a_variable_left_from_before_places_nothing(there: pytest.MonkeyPatch) -> None:
    there.setenv("CUTSET_RAY", "auto")
    assert main(["generate", "story", "--prompt", "a", "--max-tokens", "1"]) == 2


def test_the_doctor_says_what_is_off(there: pytest.MonkeyPatch) -> None:
    def found() -> list[tuple[str, str, str]]:
        return list(ray_findings())

    assert [verdict for _, verdict, _ in found()] == ["warn", "warn"]
    assert "vouch for any key" in found()[0][2]
    assert "TLS" in found()[1][0]
    there.setenv("RAY_AUTH_MODE", "token")
    there.setenv("RAY_USE_TLS", "1")
    assert [verdict for _, verdict, _ in found()] == ["good", "good"]
    there.setattr(ray_security, "installed", lambda: "")
    assert found() == [("not installed; --ray needs it (cutset[ray])", "good", "")]
    there.setattr(ray_security, "installed", lambda: "2.59.0")
    assert "2.60" in found()[0][2]
