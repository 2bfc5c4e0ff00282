"""A server whose model runs in two replicas, in processes of their own, and how tests ask it and kill these."""

from __future__ import annotations

import contextlib
import json
import os
import signal
import threading
import time
from collections.abc import Callable, Iterator
from pathlib import Path
from typing import Any

import httpx

from cutset.config import Settings, load_settings
from cutset.models.registry import BUNDLED
from cutset.serve.app import build_app
from cutset.serve.auth import Auth
from cutset.serve.replicas.replica_launchers import LocalReplicas
from cutset.serve.replicas.replica_scale import ReplicaScale
from cutset.serve.replicas.replica_set import ReplicaTimes
from cutset.serve.replicas.replicated_llm import ReplicatedLLM
from cutset.serve.request_limits import RequestLimits
from cutset.serve.server import Server, bind, serve_in_thread
from cutset.serve.service import Service
from tests.serve.conftest import Running

__all__ = ["Replicated", "SlowReplicas", "choices", "replicated", "small_settings", "stream"]

Body = dict[str, Any]
TEMPLATE = (
    "{% if tools %}<tools>{% for t in tools %}{{ t.function.name }} {% endfor %}<tool_call></tools>{% endif %}"
    "{% for m in messages %}{{ m.role if m.role != 'user' }}{{ m.content }}{% endfor %}"
)


def small_settings(folder: Path, **more: Any) -> Settings:
    """Of the bundled model with a chat template, as `tale`."""
    (folder / "chat.jinja").write_text(TEMPLATE)
    (folder / "models.yaml").write_text(f"tale:\n  path: {BUNDLED['story']}\n  chat_template: chat.jinja\n")
    values = {"threads": 1, "cache_mib": 8, "models_file": folder / "models.yaml", **more}
    return load_settings(values)


class SlowReplicas(LocalReplicas):
    """Those of `slow_replica`."""

    module = "tests.serve.slow_replica"


class Replicated(Running):
    """The server, and its replicas."""

    def __init__(self, service: Service, url: str, llm: ReplicatedLLM, folder: Path) -> None:
        super().__init__(service, url)
        self.llm, self.replicas = llm, llm.replicas
        self._slow = folder / "slow"

    @contextlib.contextmanager
    def slow(self) -> Iterator[None]:
        """Replicas take their time meanwhile."""
        self._slow.touch()
        try:
            yield
        finally:
            self._slow.unlink(missing_ok=True)

    def pids(self, *, busy: bool = False) -> dict[str, int]:
        """Of the processes of replicas, or of those that run something."""
        with self.replicas._lock:
            up = list(self.replicas._up.values())
            found = {one.name: getattr(one.launched, "pid", 0) for one in up if one.work or not busy}
        assert all(found.values())
        return found

    def go_on(self) -> None:
        """At full speed."""
        self._slow.unlink(missing_ok=True)

    def kill(self, *, busy: bool = False) -> list[str]:
        """Kills replicas, as the system does that has no more memory."""
        found = self.pids(busy=busy)
        for pid in found.values():
            os.kill(pid, signal.SIGKILL)
        return list(found)

    def until(self, true: Callable[[], bool], seconds: float = 60) -> None:
        end = time.monotonic() + seconds
        while not true():
            assert time.monotonic() < end, "it didn't come about"
            time.sleep(0.01)

    def whole(self) -> None:
        """Waits until all replicas are there."""
        self.until(lambda: len(self.replicas.states()) >= self.replicas._target)


@contextlib.contextmanager
def replicated(
    settings: Settings,
    scale: ReplicaScale | None = None,
    *,
    keys: tuple[str, ...] = (),
    times: ReplicaTimes | None = None,
    tool_parser: str = "hermes",
    model: str = "tale",
    launcher: SlowReplicas | None = None,
) -> Iterator[Replicated]:
    """A server of a model over replicas."""
    launcher = launcher or SlowReplicas(model, settings, threads=1)
    llm = ReplicatedLLM(model, launcher, scale or ReplicaScale(2, 2), settings=settings, times=times)
    with contextlib.ExitStack() as stack:
        stack.callback(llm.close)
        service = Service(llm, limits=RequestLimits(), tool_parser=tool_parser)
        server = Server(build_app(service, Auth(keys, "127.0.0.1")), service)
        found = Replicated(
            service, stack.enter_context(serve_in_thread(server, bind("127.0.0.1", 0))), llm, launcher.directory
        )
        stack.callback(found.close)
        yield found


def stream(url: str, path: str, body: Body, begun: threading.Event | None = None) -> list[Any]:
    """The events of a stream, which ends in order. `begun` is set after some of them."""
    found: list[Any] = []
    with httpx.stream("POST", url + path, json=body | {"stream": True}, timeout=120) as answer:
        assert answer.status_code == 200, answer.read()
        for line in answer.iter_lines():
            if not line.startswith("data: "):
                continue
            found.append(line[6:])
            if begun is not None and len(found) >= 8:
                begun.set()
    if path != "/v1/responses":
        assert found.pop() == "[DONE]"
    return [json.loads(one) for one in found]


def choices(path: str, events: list[Any]) -> Any:
    """What a client makes of a stream: each choice whole, however it was cut into pieces."""
    if path == "/v1/responses":
        last = events[-1]["response"]
        kinds = [one["type"] for one in events if not one["type"].endswith(".delta")]
        text = "".join(one["delta"] for one in events if one["type"] == "response.output_text.delta")
        output = [{name: value for name, value in one.items() if name != "id"} for one in last["output"]]
        return kinds, text, last["status"], last["usage"], output
    found: dict[int, Body] = {}
    ids = {one["id"] for one in events}
    assert len(ids) == 1
    for event in events:
        for choice in event["choices"]:
            one = found.setdefault(choice["index"], {"text": "", "calls": "", "roles": 0, "logprobs": [], "end": None})
            delta = choice.get("delta", choice)
            one["text"] += delta.get("text") or delta.get("content") or ""
            one["roles"] += "role" in delta
            for call in delta.get("tool_calls", ()):
                one["calls"] += (call["function"].get("name") or "") + (call["function"].get("arguments") or "")
            if (scores := choice.get("logprobs")) is not None:
                one["logprobs"] += scores.get("content") or list(zip(*scores.values(), strict=True))
            assert one["end"] is None, "nothing comes after the end"
            one["end"] = choice.get("finish_reason")
    return found, [event["usage"] for event in events if event.get("usage")]
