"""Who may ask."""

from __future__ import annotations

from collections.abc import Callable
from pathlib import Path

import httpx
import openai
import pytest

from cutset.cli import main
from cutset.errors import ConfigError
from cutset.serve.auth import Auth, is_loopback, keys_from
from tests.serve.conftest import Running

KEYS = ("first-secret-key", "second-secret-key")
PATHS = ("/v1/models", "/v1/models/tale", "/metrics", "/events", "/nothing", "//v1/models", "/v1/../v1/models")


@pytest.fixture(scope="module")
def guarded(serve: Callable[..., Running]) -> Running:
    return serve(KEYS)


def test_a_key_is_needed(guarded: Running) -> None:
    for key in KEYS:
        assert guarded.client(key).models.list().data
    for wrong in ("first-secret-kez", "first-secret-key2", "first", "first-secret-key,second-secret-key"):
        with pytest.raises(openai.AuthenticationError) as caught:
            guarded.client(wrong).models.list()
        assert caught.value.code == "invalid_api_key"
        assert wrong not in str(caught.value)


def test_nothing_but_the_page_and_the_health_is_open(guarded: Running) -> None:
    for path in PATHS:
        assert httpx.get(guarded.url + path).status_code == 401, path
    for method in ("POST", "PUT", "OPTIONS"):
        assert httpx.request(method, f"{guarded.url}/v1/completions").status_code == 401
    for path in ("/", "/health", "/dashboard/main.js"):
        assert httpx.get(guarded.url + path).status_code == 200, path
    for scheme in ("Basic", "Key", "Bearer:"):
        found = httpx.get(f"{guarded.url}/v1/models", headers={"authorization": f"{scheme} {KEYS[0]}"})
        assert found.status_code == 401


def test_clients_with_other_keys_share_no_cached_prompts(guarded: Running) -> None:
    prompt = "The queen and the fox met in the wood and talked. " * 3

    def cached(key: str) -> int:
        found = guarded.client(key).completions.create(model="tale", prompt=prompt, max_tokens=1)
        return found.usage.prompt_tokens_details.cached_tokens

    assert cached(KEYS[0]) == 0 < cached(KEYS[0])
    assert cached(KEYS[1]) == 0 < cached(KEYS[1])


def test_without_a_key_only_this_machines_names_are_answered(server: Running) -> None:
    for host in ("localhost", "127.0.0.1:80", "[::1]:8000"):
        assert httpx.get(f"{server.url}/v1/models", headers={"host": host}).status_code == 200
    for host in ("evil.example", "localhost.evil.example", "127.0.0.1.evil.example:8000", "10.0.0.1"):
        assert httpx.get(f"{server.url}/v1/models", headers={"host": host}).status_code == 403


def test_a_server_that_others_reach_has_keys() -> None:
    for host in ("0.0.0.0", "::", "192.168.0.1", "example.com"):
        with pytest.raises(ConfigError, match="api-key"):
            Auth([], host)
        assert Auth(["long-enough"], host).needed
    assert is_loopback("localhost")
    assert is_loopback("127.0.0.2")
    assert is_loopback("::1")


def test_keys_come_from_flags_files_and_the_environment() -> None:
    assert keys_from(["key-number-1"], "key-number-2\n\n key-number-1 \n", "key-number-3") == [
        f"key-number-{i}" for i in (1, 2, 3)
    ]
    for bad in ("short", "with a space in it", "ünprintable-key", "x" * 600):
        with pytest.raises(ConfigError) as caught:
            keys_from([], bad)
        assert bad not in str(caught.value)
    with pytest.raises(ConfigError, match="empty"):
        keys_from([""])


def test_a_file_of_keys_without_a_key_is_refused(tmp_path: Path, capsys: pytest.CaptureFixture[str]) -> None:
    """Whoever names one wants keys to be asked for."""
    for text in ("", "\n \n"):
        (tmp_path / "keys").write_text(text)
        assert main(["serve", "story", "--port", "0", "--api-key-file", str(tmp_path / "keys")]) == 2
        assert "has no key in it" in capsys.readouterr().err
