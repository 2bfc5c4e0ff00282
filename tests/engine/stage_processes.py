"""Stages as processes of their own, with keys and without, for tests that stop and start them."""

from __future__ import annotations

import os
import signal
import socket
import time
from collections.abc import Iterator, Sequence
from contextlib import contextmanager
from pathlib import Path
from typing import Any

from cutset.link.keys import Keys, new_keys, save_keys
from cutset.link.launch import PIPE, Child, environment
from cutset.llm import LLM


class Stages:
    """Starts `cutset stage` under names; `addresses` and `keys` are what an engine needs to reach them.

    Those that are in `joins` dial in where the engine listens.
    """

    def __init__(self, folder: Path, *, tcp: bool = False, shm: bool = False, joins: Sequence[str] = ()) -> None:
        self.folder, self.tcp, self.shm, self.joins = folder, tcp or bool(joins), shm, joins
        self.meeting = f"tcp://127.0.0.1:{_free_port()}"
        self.children: dict[str, Child] = {}
        self.places: dict[str, str] = {}
        self.extra: dict[str, Sequence[str]] = {}
        self.env: dict[str, dict[str, str]] = {}  # of its own, by name
        self.public: dict[str, Keys] = {}
        if self.tcp:
            save_keys(new_keys(), "me", folder)

    def start(self, *names: str, model: str = "story", extra: Sequence[str] | None = None) -> None:
        for name in names:
            self.extra[name] = [model, *(extra or ())] if extra is not None else self.extra.get(name, [model])
            self.extra[name] = [word for word in self.extra[name] if word]
            where = ["--join", self.meeting] if name in self.joins else ["--listen", self._place(name)]
            self._place(name)
            command = ["cutset.cli", "stage", *self.extra[name], *where, "--threads", "1"]
            if self.tcp:
                command += ["--key", str(self.folder / f"{name}.key"), "--allow", str(self.folder / "me.pub")]
            self.children[name] = Child(name, command, env=environment(1) | self.env.get(name, {}), stderr=PIPE)
        for name in names:
            self.children[name].until("listening on|dialling")

    def _place(self, name: str) -> str:
        if name not in self.places:
            if self.shm:
                self.places[name] = f"shm://stages-{os.getpid()}-{name}"
            elif not self.tcp:
                self.places[name] = f"ipc://{self.folder}/{name}"
            else:
                save_keys(new_keys(), name, self.folder)
                joins = name in self.joins
                self.places[name] = f"join://{name}" if joins else f"tcp://127.0.0.1:{_free_port()}"
        return self.places[name]

    def settings(self, *names: str, spares: Sequence[str] = ()) -> dict[str, Any]:
        """Keywords of an LLM on these stages."""
        found: dict[str, Any] = {"stages": [self._place(name) for name in names]}
        if spares:
            found["spares"] = [self._place(name) for name in spares]
        if any(name in self.joins for name in (*names, *spares)):
            found["stages_listen"] = self.meeting
        if self.tcp:
            found |= {"key": self.folder / "me.key", "stage_keys": [self.folder / f"{name}.pub" for name in names]}
            if spares:
                found["spare_keys"] = [self.folder / f"{name}.pub" for name in spares]
        return found

    def kill(self, name: str) -> None:
        """As `kill -9` does."""
        child = self.children.pop(name)
        child.kill()
        if child.process.stderr is not None:
            child.process.stderr.close()

    def freeze(self, name: str) -> None:
        """It is there, and does nothing."""
        os.kill(self.children[name].process.pid, signal.SIGSTOP)

    def close(self) -> None:
        for name in list(self.children):
            self.kill(name)


def _free_port() -> int:
    with socket.socket() as free:
        free.bind(("127.0.0.1", 0))
        port: int = free.getsockname()[1]
    return port


@contextmanager
def running(
    folder: Path,
    *names: str,
    tcp: bool = False,
    shm: bool = False,
    joins: Sequence[str] = (),
    env: Any = None,
    **how: Any,
) -> Iterator[Stages]:
    stages = Stages(folder, tcp=tcp, shm=shm, joins=joins)
    stages.env = env or {}
    try:
        stages.start(*names, **how)
        yield stages
    finally:
        stages.close()


def until(true: Any, seconds: float = 20.0) -> None:
    """Waits until something holds."""
    end = time.monotonic() + seconds
    while not true():
        assert time.monotonic() < end, "it never came to be"
        time.sleep(0.02)


def workers_of(llm: LLM) -> list[str]:
    """The addresses of the stages in use."""
    assert llm.stages is not None
    plan = llm.stages.pipeline.plan
    return [] if plan is None else [stage.worker for stage in plan.stages]
