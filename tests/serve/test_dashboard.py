"""The dashboard in a headless Chromium: numbers change while something runs, with the keyboard and without colours."""

from __future__ import annotations

import itertools
import json
import re
import ssl
import threading
from collections.abc import Callable
from pathlib import Path
from typing import Any

import httpx
import pytest

from cutset.llm import AsyncLLM
from cutset.serve.app import build_app
from cutset.serve.auth import Auth
from cutset.serve.front import Front
from cutset.serve.server import Server, bind, serve_in_thread
from cutset.serve.service import Service
from cutset.serve.tls import Certificate
from tests.serve.certificates import Authority
from tests.serve.conftest import Running


def number(page: Any, name: str) -> float:
    return float(page.text_content(f"#{name}").replace(",", ""))


def becomes(page: Any, name: str, text: str | re.Pattern[str]) -> None:
    """Waits until an element says that. (The page lets no script be evaluated in it, so its own waiting can't.)"""
    from playwright.sync_api import expect

    expect(page.locator(f"#{name}")).to_have_text(text, timeout=20_000)


def test_numbers_change_during_a_generation(server: Running, page: Any) -> None:
    page.goto(server.url)
    becomes(page, "state", "live")
    page.wait_for_selector("#engine:not([hidden])")
    assert "tale" in page.title()
    assert number(page, "running") == 0
    before = number(page, "generated")
    body = {"prompt": "Once", "max_tokens": 450, "n": 24, "ignore_eos": True}
    asked = threading.Thread(
        target=httpx.post, args=(f"{server.url}/v1/completions",), kwargs={"json": body, "timeout": 60}
    )
    asked.start()
    becomes(page, "running", "24")
    becomes(page, "rate", re.compile("[1-9]"))
    assert page.locator("#requests tr th").first.text_content().startswith("cmpl-")
    assert page.locator("#cache-meter").evaluate("meter => meter.value") > 0
    asked.join()
    becomes(page, "generated", f"{before + 24 * 450:,.0f}")
    becomes(page, "running", "0")


def test_pausing_holds_the_numbers_with_the_keyboard(server: Running, page: Any) -> None:
    page.goto(server.url)
    page.wait_for_selector("#engine:not([hidden])")
    page.keyboard.press("Tab")
    assert page.evaluate("document.activeElement.className") == "skip"
    page.keyboard.press("Tab")
    assert page.evaluate("document.activeElement.id") == "pause"
    page.keyboard.press("Enter")
    assert page.get_attribute("#pause", "aria-pressed") == "true"
    before = number(page, "generated")
    server.client().completions.create(model="tale", prompt="Once", max_tokens=7, extra_body={"ignore_eos": True})
    page.wait_for_timeout(1200)  # two readings
    assert number(page, "generated") == before
    page.keyboard.press("Space")
    assert number(page, "generated") == before + 7


def test_it_fits_a_phone_and_follows_the_dark(server: Running, browser: Any) -> None:
    colours = {}
    for scheme in ("light", "dark"):
        context = browser.new_context(viewport={"width": 360, "height": 700}, color_scheme=scheme)
        page = context.new_page()
        page.goto(server.url)
        page.wait_for_selector("#engine:not([hidden])")
        assert page.evaluate("document.documentElement.scrollWidth") <= 360  # tables scroll by themselves
        colours[scheme] = page.evaluate("getComputedStyle(document.body).backgroundColor")
        context.close()
    assert colours["light"] != colours["dark"]


def test_every_figure_has_a_name(server: Running, page: Any) -> None:
    page.goto(server.url)
    page.wait_for_selector("#engine:not([hidden])")
    unnamed = page.evaluate(
        """() => [...document.querySelectorAll("section, meter, svg[role=img], [role=region], input, button, ol")]
            .filter(e => !(e.ariaLabel || e.getAttribute("aria-labelledby")?.split(" ")
                .every(id => document.getElementById(id)?.textContent) || e.labels?.length || e.textContent.trim()))
            .map(e => e.id || e.outerHTML)"""
    )
    assert unnamed == []
    levels = page.evaluate("[...document.querySelectorAll('h1, h2, h3')].map(h => Number(h.tagName[1]))")
    assert all(after <= before + 1 for before, after in itertools.pairwise(levels))
    assert page.get_attribute("#state", "role") == "status"


def test_a_key_is_asked_for(serve: Callable[..., Running], page: Any) -> None:
    guarded = serve(("a-secret-key",))
    page.goto(guarded.url)
    page.wait_for_selector("#login:not([hidden])")
    assert page.evaluate("document.activeElement.id") == "key"
    page.keyboard.type("a-wrong-key")
    page.keyboard.press("Enter")
    page.wait_for_selector("#login:not([hidden])")
    page.fill("#key", "a-secret-key")
    page.keyboard.press("Enter")
    page.wait_for_selector("#engine:not([hidden])")
    assert page.is_hidden("#login")
    assert "secret" not in page.url


def test_it_is_live_over_tls_below_a_path(llm: AsyncLLM, browser: Any, tmp_path: Path) -> None:
    from playwright.sync_api import Error

    Authority(tmp_path).write(tmp_path / "tls.pem", tmp_path / "tls.key")
    service, front = Service(llm), Front(root_path="/models/a")
    app = build_app(service, Auth(("a-secret-key",), "127.0.0.1"), front)
    certificate = Certificate(tmp_path / "tls.pem", tmp_path / "tls.key")
    with serve_in_thread(Server(app, service, tls=certificate), bind("127.0.0.1", 0)) as url:
        assert url.startswith("https://")
        stranger = browser.new_context()  # nobody has heard of who signed it
        with pytest.raises(Error, match="ERR_CERT_AUTHORITY_INVALID"):
            stranger.new_page().goto(f"{url}/models/a/")
        stranger.close()
        context = browser.new_context(ignore_https_errors=True)
        page, wrong, asked = context.new_page(), list[str](), list[str]()
        page.on("pageerror", lambda error: wrong.append(str(error)))
        page.on("request", lambda request: asked.append(request.url))
        for path in ("/models/a/", "/models/a"):
            page.goto(url + path)
            page.wait_for_selector("#login:not([hidden])")
            page.fill("#key", "a-secret-key")
            page.keyboard.press("Enter")
            page.wait_for_selector("#engine:not([hidden])")
            becomes(page, "state", "live")
            before = number(page, "generated")
            body = {"prompt": "Once", "max_tokens": 7, "ignore_eos": True}
            headers = {"authorization": "Bearer a-secret-key"}
            trusting = ssl.create_default_context(cafile=tmp_path / "authority.pem")
            said = httpx.post(f"{url}/models/a/v1/completions", json=body, headers=headers, verify=trusting)
            assert said.json()["usage"]["completion_tokens"] == 7
            becomes(page, "generated", f"{before + 7:,.0f}")
            page.evaluate("sessionStorage.clear()")
        assert page.evaluate("window.isSecureContext")
        context.close()
    assert not wrong
    assert len(asked) > 10
    assert all(one.startswith((f"{url}/models/a", "data:")) for one in asked)


def test_events_are_the_last_of_each_kind_then_new_ones(server: Running) -> None:
    with httpx.stream("GET", f"{server.url}/events", timeout=10) as answer:
        assert answer.headers["content-type"] == "text/event-stream"
        seen = []
        for line in answer.iter_lines():
            if line.startswith("data: "):
                seen.append(json.loads(line[6:]))
            if len(seen) == 4:
                break
    assert seen[0]["type"] == "model"
    assert [event["type"] for event in seen[1:]] == ["engine"] * 3
    assert seen[2]["time"] < seen[3]["time"]
