"""A server of the bundled model in this process, and OpenAI's own client."""

from __future__ import annotations

import contextlib
import time
from collections.abc import Callable, Iterator
from pathlib import Path
from typing import TYPE_CHECKING, Any

import pytest

pytest.importorskip("starlette")
pytest.importorskip("openai")

import openai

from cutset.config import load_settings
from cutset.llm import AsyncLLM
from cutset.models.registry import BUNDLED
from cutset.serve.app import build_app
from cutset.serve.auth import Auth
from cutset.serve.request_limits import RequestLimits
from cutset.serve.server import Server, bind, serve_in_thread
from cutset.serve.service import Service

if TYPE_CHECKING:
    from tests.serve.scripted import Script

CHROMIUM = Path("/usr/bin/chromium")
TEMPLATE = "{% for m in messages %}{{ m.role if m.role != 'user' }}{{ m.content }}{% endfor %}"


class Running:
    """A server, where it is, and what is behind it."""

    def __init__(self, service: Service, url: str) -> None:
        self.service, self.url = service, url
        self._clients: dict[str, openai.OpenAI] = {}

    def client(self, key: str = "none") -> openai.OpenAI:
        if key not in self._clients:
            self._clients[key] = openai.OpenAI(base_url=f"{self.url}/v1", api_key=key, max_retries=0, timeout=60)
        return self._clients[key]

    def close(self) -> None:
        for client in self._clients.values():
            client.close()

    def idle(self, seconds: float = 10) -> None:
        """Waits until nothing runs and every block is free."""
        end = time.monotonic() + seconds
        while time.monotonic() < end:
            stats = self.service.llm.stats()
            if not (stats.running or stats.waiting or stats.blocks_used or self.service.admission.taken):
                return
            time.sleep(0.01)
        raise AssertionError(f"still busy: {stats}, {self.service.admission.taken} admitted")


@pytest.fixture(scope="module")
def llm(tmp_path_factory: pytest.TempPathFactory) -> Iterator[AsyncLLM]:
    """The bundled model, with a chat template."""
    folder: Path = tmp_path_factory.mktemp("models")
    (folder / "chat.jinja").write_text(TEMPLATE)
    (folder / "models.yaml").write_text(f"tale:\n  path: {BUNDLED['story']}\n  chat_template: chat.jinja\n")
    found = AsyncLLM("tale", settings=load_settings({"threads": 1, "models_file": folder / "models.yaml"}))
    yield found
    found.close()


@pytest.fixture(scope="module")
def serve(llm: AsyncLLM) -> Iterator[Callable[..., Running]]:
    """Starts servers that end with the module."""
    with contextlib.ExitStack() as stack:

        def begin(keys: tuple[str, ...] = (), **limits: float) -> Running:
            service = Service(llm, limits=RequestLimits(**limits))
            listening = bind("127.0.0.1", 0)
            server = Server(build_app(service, Auth(keys, "127.0.0.1")), service)
            running = Running(service, stack.enter_context(serve_in_thread(server, listening)))
            stack.callback(running.close)
            return running

        yield begin


@pytest.fixture(scope="module")
def server(serve: Callable[..., Running]) -> Running:
    """One without keys."""
    return serve()


@pytest.fixture(scope="session")
def scripted(tmp_path_factory: pytest.TempPathFactory) -> Iterator[tuple[Script, Running]]:
    """A script, and the server of the model that follows it."""
    from tests.serve.scripted import scripted_server

    with contextlib.ExitStack() as stack:
        yield scripted_server(tmp_path_factory.mktemp("models"), stack)


@pytest.fixture
def script(scripted: tuple[Script, Running]) -> Script:
    """What the model says."""
    return scripted[0]


@pytest.fixture
def client(scripted: tuple[Script, Running]) -> openai.OpenAI:
    """A client of the model that says it."""
    return scripted[1].client()


@pytest.fixture(scope="module")
def browser() -> Iterator[Any]:
    playwright = pytest.importorskip("playwright.sync_api")
    if not CHROMIUM.exists():
        pytest.skip("there is no Chromium")
    with playwright.sync_playwright() as started:
        found = started.chromium.launch(executable_path=str(CHROMIUM), args=["--no-sandbox"])
        yield found
        found.close()


@pytest.fixture
def page(browser: Any) -> Iterator[Any]:
    """A page whose errors fail the test, and which may load nothing from elsewhere."""
    context = browser.new_context(viewport={"width": 1200, "height": 800})
    found, wrong, asked = context.new_page(), list[str](), list[str]()
    found.on("pageerror", lambda error: wrong.append(str(error)))
    found.on(
        "console", lambda line: wrong.append(line.text) if line.type == "error" and "401" not in line.text else None
    )
    found.on("request", lambda request: asked.append(request.url))
    yield found
    context.close()
    assert not [text for text in wrong if "401" not in text]
    assert all(url.startswith(("http://127.0.0.1:", "data:")) for url in asked)
