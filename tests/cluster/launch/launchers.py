"""Parties of every launcher, for tests that run on all: what is asked, what ends one, and what starts it again."""

from __future__ import annotations

import contextlib
import os
import signal
import socket
from collections.abc import Callable, Iterator
from pathlib import Path
from typing import Any, Protocol

import pytest

from cluster.launch.fake_ray import FakeCluster, Fakes
from cutset.cluster.launch import ray_launcher
from cutset.cluster.launch.ray_launcher import RayLauncher
from cutset.config import load_settings
from cutset.link.keys import load_keys, new_keys, save_keys
from cutset.link.launch import PIPE, Child, environment
from cutset.llm import LLM
from cutset.offload.accelerator.placed import PlacedAccelerator
from engine.stage_processes import running

__all__ = ["Given", "Launched", "Local", "Placed", "fake_ray"]

SMALL: dict[str, Any] = {"threads": 1, "max_model_len": 256, "cache_mib": 8}
Party = Callable[[int], object]  # what becomes of the party with that number
Stream = Any


class Launched(Protocol):
    """One launcher. Each of these yields what runs, what ends a party without a word, and what starts it again, where
    Cutset doesn't by itself."""

    def stages(self, count: int, spares: int = 0) -> contextlib.AbstractContextManager[tuple[LLM, Party, Party]]:
        """An engine over stages; spares have the numbers after those of stages."""

    def stream(self, model: Any, pictures: Any) -> contextlib.AbstractContextManager[tuple[Stream, Party, Party]]:
        """A stream over two workers."""

    def accelerator(self) -> contextlib.AbstractContextManager[tuple[Callable[[], dict[str, Any]], Party, Party]]:
        """An accelerator, and keywords of an LLM that reach it now."""


def nothing(number: int) -> None:
    """The one who asks starts it again."""


def free_address() -> str:
    with socket.socket() as free:
        free.bind(("127.0.0.1", 0))
        return f"tcp://127.0.0.1:{free.getsockname()[1]}"


class Local:
    """Processes on this machine."""

    def __init__(self, folder: Path) -> None:
        self._folder = folder

    @contextlib.contextmanager
    def stages(self, count: int, spares: int = 0) -> Iterator[tuple[LLM, Party, Party]]:
        how: dict[str, Any] = {"spares": spares} if spares else {}
        with LLM("story", stages=count, **how, **SMALL) as llm:
            assert llm.stages is not None
            local = llm.stages.local
            assert local is not None
            yield llm, lambda number: local.process(local.names[number]).kill(), nothing

    @contextlib.contextmanager
    def stream(self, model: Any, pictures: Any) -> Iterator[tuple[Stream, Party, Party]]:
        from cutset.stream import Stream

        with Stream(model, pictures, workers=2, scheduler="even", patience=60.0) as stream:
            local = stream._local
            assert local is not None
            yield stream, lambda number: local.process(local.names[number]).kill(), nothing

    @contextlib.contextmanager
    def accelerator(self) -> Iterator[tuple[Callable[[], dict[str, Any]], Party, Party]]:
        where = f"ipc://{self._folder}/accelerator"
        with _commands(lambda number: ["accelerator", "story", "--listen", where], 1) as (kill, start):
            yield lambda: {"offload": where}, kill, start


class Given:
    """Processes that somebody else has started, on tcp with keys."""

    def __init__(self, folder: Path) -> None:
        self._folder = folder

    @contextlib.contextmanager
    def stages(self, count: int, spares: int = 0) -> Iterator[tuple[LLM, Party, Party]]:
        names = [chr(ord("a") + number) for number in range(count + spares)]
        with running(self._folder, *names, tcp=True) as stages:
            how = stages.settings(*names[:count], spares=names[count:])
            with LLM("story", **how, **SMALL) as llm:
                yield llm, lambda number: stages.kill(names[number]), lambda number: stages.start(names[number])

    def _keyed(self, count: int) -> list[str]:
        for name in ("me", *(f"party{number}" for number in range(count))):
            save_keys(new_keys(), name, self._folder)
        return [free_address() for _ in range(count)]

    def _flags(self, where: str, number: int) -> list[str]:
        key, allow = self._folder / f"party{number}.key", self._folder / "me.pub"
        return ["--listen", where, "--key", str(key), "--allow", str(allow)]

    @contextlib.contextmanager
    def stream(self, model: Any, pictures: Any) -> Iterator[tuple[Stream, Party, Party]]:
        from cutset.stream import Stream

        places = self._keyed(2)
        how: dict[str, Any] = {
            "workers": places,
            "worker_keys": [self._folder / f"party{number}.pub" for number in range(2)],
            "key": self._folder / "me.key",
        }
        with (
            _commands(lambda number: ["stream", "worker", *self._flags(places[number], number)], 2) as (kill, start),
            Stream(model, pictures, scheduler="even", patience=60.0, **how) as stream,
        ):
            yield stream, kill, start

    @contextlib.contextmanager
    def accelerator(self) -> Iterator[tuple[Callable[[], dict[str, Any]], Party, Party]]:
        [where] = self._keyed(1)
        how = {"offload": where, "key": self._folder / "me.key", "accelerator_key": self._folder / "party0.pub"}
        with _commands(lambda number: ["accelerator", "story", *self._flags(where, number)], 1) as (kill, start):
            yield lambda: how, kill, start


@contextlib.contextmanager
def _commands(command: Callable[[int], list[str]], count: int) -> Iterator[tuple[Party, Party]]:
    """Processes of `cutset`, by hand; what kills one, and what starts it again."""
    children: dict[int, Child] = {}

    def start(number: int) -> None:
        words = ["cutset.cli", *command(number), "--threads", "1"]
        children[number] = Child(f"party{number}", words, env=environment(1), stderr=PIPE)
        children[number].until("listening on")

    def kill(number: int) -> None:
        child = children.pop(number)
        child.kill()
        assert child.process.stderr is not None
        child.process.stderr.close()

    try:
        for number in range(count):
            start(number)
        yield kill, start
    finally:
        for number in list(children):
            kill(number)


class Placed:
    """Actors of Ray's."""

    def __init__(self, folder: Path, **how: Any) -> None:
        """`how`: which cluster, as settings."""
        self._folder, self._how = folder, how

    @contextlib.contextmanager
    def stages(self, count: int, spares: int = 0) -> Iterator[tuple[LLM, Party, Party]]:
        how: dict[str, Any] = self._how | ({"spares": spares} if spares else {})
        with LLM("story", stages=count, **how, **SMALL) as llm:
            assert llm.stages is not None
            launcher = llm.stages.pipeline.workers.launcher
            assert isinstance(launcher, RayLauncher)
            yield llm, self._killing(launcher), nothing

    @contextlib.contextmanager
    def stream(self, model: Any, pictures: Any) -> Iterator[tuple[Stream, Party, Party]]:
        from cutset.stream import Stream

        launchers: list[RayLauncher] = []
        with pytest.MonkeyPatch.context() as patch:
            from cutset import stream as module

            place = module.ray_workers

            def placing(*given: Any) -> RayLauncher:
                launchers.append(place(*given))
                return launchers[-1]

            patch.setattr(module, "ray_workers", placing)
            stream = Stream(model, pictures, workers=2, scheduler="even", patience=60.0, **self._how)
        with stream:
            yield stream, self._killing(launchers[0]), nothing

    @contextlib.contextmanager
    def accelerator(self) -> Iterator[tuple[Callable[[], dict[str, Any]], Party, Party]]:
        mine = new_keys()
        secret, _ = save_keys(mine, "me", self._folder)
        public = frozenset({load_keys(secret).public})
        with PlacedAccelerator("story", [], public, load_settings(dict(self._how)), lambda line: None) as placed:

            def reached() -> dict[str, Any]:
                address, key = placed.place
                (self._folder / "there.pub").write_text(f"{key.hex()} accelerator\n")
                return {"offload": address, "key": secret, "accelerator_key": self._folder / "there.pub"}

            yield reached, self._killing(placed._launcher), nothing

    def _killing(self, launcher: RayLauncher) -> Party:
        return lambda number: os.kill(launcher.process_id(launcher.names[number]), signal.SIGKILL)


def fake_ray(folder: Path, patch: pytest.MonkeyPatch) -> Placed:
    """Ray of `fake_ray`, with nodes that are names."""
    fakes = Fakes(FakeCluster({"a": 1, "b": 1, "c": 1}))
    patch.setattr("cutset.cluster.launch.ray_security.installed", lambda: "2.60.0")
    patch.setattr(ray_launcher, "open_driver", fakes.open)
    return Placed(folder, ray="auto", insecure_ray=True)
