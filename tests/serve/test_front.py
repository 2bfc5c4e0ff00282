"""Names, origins and paths: who reaches the server, and by which web pages. Without a model."""

from __future__ import annotations

import asyncio
from typing import Any

import httpx
import pytest
from starlette.requests import Request
from starlette.responses import PlainTextResponse, Response
from starlette.routing import Route

from cutset.cli import main
from cutset.errors import ConfigError
from cutset.serve.app import guarded
from cutset.serve.auth import Auth
from cutset.serve.front import Front, check_hosts, check_origins, check_root_path
from cutset.serve.hub import Hub
from cutset.serve.pages import dashboard_routes

KEY = "a-secret-key"
PAGE = "https://chat.example"


def ask(method: str, path: str, *, auth: Auth | None = None, front: Front | None = None, **more: Any) -> httpx.Response:
    async def told(request: Request) -> Response:
        return PlainTextResponse(request.url.path)

    root = front.root_path if front else ""
    routes = [Route("/v1/models", told, methods=["GET", "POST"]), *dashboard_routes(Hub(), root)]
    app = guarded(routes, auth or Auth([], "127.0.0.1"), front=front)

    async def run() -> httpx.Response:
        transport = httpx.ASGITransport(app)
        async with httpx.AsyncClient(transport=transport, base_url="http://127.0.0.1:8000") as client:
            return await client.request(method, path, **more)

    return asyncio.run(run())


def preflight(origin: str, front: Front, auth: Auth | None = None) -> httpx.Response:
    headers = {"origin": origin, "access-control-request-method": "POST"}
    headers["access-control-request-headers"] = "authorization,content-type,x-stainless-os"
    return ask("OPTIONS", "/v1/models", front=front, auth=auth, headers=headers)


def test_without_a_flag_no_page_may_ask() -> None:
    found = ask("GET", "/v1/models", headers={"origin": PAGE})
    assert "access-control-allow-origin" not in found.headers
    assert "access-control-allow-origin" not in preflight(PAGE, Front()).headers


def test_pages_of_an_origin_may_ask_and_no_others() -> None:
    front, auth = Front((PAGE, "http://localhost:3000")), Auth([KEY], "127.0.0.1")
    allowed = preflight(PAGE, front, auth)  # without the key, as browsers send it
    assert allowed.status_code == 200
    assert allowed.headers["access-control-allow-origin"] == PAGE
    assert "x-stainless-os" in allowed.headers["access-control-allow-headers"]
    assert "DELETE" in allowed.headers["access-control-allow-methods"]  # stored responses
    assert "access-control-allow-credentials" not in allowed.headers
    for other in ("https://evil.example", "https://chat.example.evil", "http://chat.example", "null"):
        assert "access-control-allow-origin" not in preflight(other, front, auth).headers
    refused = ask("GET", "/v1/models", front=front, auth=auth, headers={"origin": PAGE})
    assert refused.status_code == 401
    assert refused.headers["access-control-allow-origin"] == PAGE  # the page is told why
    answered = ask(
        "GET", "/v1/models", front=front, auth=auth, headers={"origin": PAGE, "authorization": f"Bearer {KEY}"}
    )
    assert answered.status_code == 200
    assert "x-request-id" in answered.headers["access-control-expose-headers"].lower()


def test_all_pages_where_a_key_is_asked_for() -> None:
    found = preflight("https://any.example", Front(check_origins(["*"], keys=True)), Auth([KEY], "127.0.0.1"))
    assert found.headers["access-control-allow-origin"] == "*"
    with pytest.raises(ConfigError, match="API key"):
        check_origins(["*"], keys=False)


def test_origins_are_what_browsers_send() -> None:
    given = ["HTTPS://Chat.Example", "https://a.example:443", "http://localhost:3000", "http://[::1]:80", "app://x"]
    assert check_origins(given, keys=False) == (
        "https://chat.example",
        "https://a.example",
        "http://localhost:3000",
        "http://[::1]",
        "app://x",
    )
    for wrong in (
        "chat.example",
        "https://",
        "https://a/",
        "https://a/b",
        "https://a?b",
        "https://a#b",
        "https://u:p@a",
        "https://a:99999",
        "https://a:x",
        "null",
        "",
        " https://a",
        "https://*.a",
        "https://a b",
        "https://a\n",
    ):
        with pytest.raises(ConfigError, match="--cors-origin"):
            check_origins([wrong], keys=True)


def test_names_of_the_server() -> None:
    named = Auth([], "127.0.0.1", hosts=check_hosts(["GPU.example", "*.lan"], keys=False))

    def status(host: str, auth: Auth = named) -> int:
        return ask("GET", "/v1/models", auth=auth, headers={"host": host}).status_code

    for host in ("gpu.example", "GPU.EXAMPLE:8000", "a.lan", "b.a.lan:1", "localhost", "127.0.0.1:8000", "[::1]:8000"):
        assert status(host) == 200, host
    for host in ("evil.example", "gpu.example.evil", "xgpu.example", "lan", "a.lan.evil", "10.0.0.1", ""):
        assert status(host) == 403, host
    outside = Auth([KEY], "0.0.0.0", hosts=check_hosts(["gpu.example"], keys=True))
    assert status("localhost", outside) == 403  # it doesn't listen on this machine alone
    assert status("gpu.example", outside) == 401
    with_key = Auth([KEY], "127.0.0.1")
    assert status("any.example", with_key) == 401  # who knows the key may call it what he likes
    assert status("any.example", Auth([], "127.0.0.1")) == 403
    assert status("any.example", Auth([KEY], "0.0.0.0", hosts=check_hosts(["*"], keys=True))) == 401


def test_names_that_are_none() -> None:
    assert check_hosts(["[::1]", "10.0.0.1"], keys=False) == ("::1", "10.0.0.1")
    for wrong in ("https://a", "a:80", "a/b", "*a.example", "a.*", "", "ä.example", "a b", "*."):
        with pytest.raises(ConfigError, match="--allowed-host"):
            check_hosts([wrong], keys=True)
    with pytest.raises(ConfigError, match="DNS rebinding"):
        check_hosts(["*"], keys=False)


def test_a_path_in_front_may_be_there_or_not() -> None:
    front = Front(root_path=check_root_path("/models/a/"))
    for path in ("/v1/models", "/models/a/v1/models", "/models/a/v1/models/"):
        assert ask("GET", path, front=front).text == "/v1/models", path
    for path in ("/models/av1/models", "/models/v1/models", "/a/v1/models"):
        assert ask("GET", path, front=front).status_code == 404, path
    for path in ("/models/a", "/models/a/", "/"):
        page = ask("GET", path, front=front)
        assert page.status_code == 200
        assert 'src="/models/a/dashboard/main.js"' in page.text
        assert '="/dashboard' not in page.text
    assert ask("GET", "/models/a/dashboard/main.js", front=front).status_code == 200
    guarded_too = Auth([KEY], "127.0.0.1")
    assert ask("GET", "/models/a/v1/models", front=front, auth=guarded_too).status_code == 401
    assert ask("GET", "/models/a", front=front, auth=guarded_too).status_code == 200


def test_paths_that_are_none() -> None:
    assert check_root_path("") == check_root_path("/") == ""
    for wrong in ("models", "//a", "/a//b", "/a/../b", "/.", "/a b", "/a?b", "/a%2fb", "/ä", "http://a/b"):
        with pytest.raises(ConfigError, match="--root-path"):
            check_root_path(wrong)


@pytest.mark.parametrize(
    "flags",
    [
        ["--cors-origin", "chat.example"],
        ["--cors-origin", "*"],
        ["--allowed-host", "a:80"],
        ["--allowed-host", "*"],
        ["--root-path", "models"],
        ["--chat-template", "/no/such/file"],
        ["--otlp-traces-endpoint", "localhost"],
        ["--log-format", "xml"],
        ["--memory", "much"],
        ["--memory", "0"],
        ["--memory", "1MiB"],
        ["--model", "no-such-model"],
        ["--model", "story"],
        ["--model", "b=story", "--served-model-name", "x"],
        ["--model", "b=story", "--lora-modules", "a=b"],
        ["--model", "b=story", "--stages", "2"],
        ["--api-key-file", "/no/such/file"],
    ],
)
def test_wrong_flags_are_one_line_and_code_2(flags: list[str], capsys: pytest.CaptureFixture[str]) -> None:
    assert main(["serve", "story", "--port", "0", *flags]) == 2
    said = capsys.readouterr().err.splitlines()
    assert "error" in said[-1]
    assert len(said) == 1 or said[0].startswith("usage")


def test_a_template_that_is_none(tmp_path: Any, capsys: pytest.CaptureFixture[str]) -> None:
    for source in ("{% for %}", "", " \n"):
        (tmp_path / "chat.jinja").write_text(source)
        assert main(["serve", "story", "--port", "0", "--chat-template", str(tmp_path / "chat.jinja")]) == 2
        assert "chat.jinja" in capsys.readouterr().err
    assert main(["serve", "--port", "0"]) == 2
    assert "name a model" in capsys.readouterr().err
