"""Chat templates in processes of their own, which are ended when one takes too long or too much memory.

A template may come from anybody. What it does in a step of its own the sandbox counts; but to compare, hash or print
tuples that are nested a hundred deep is one step that never ends, and the thread that is in it can't be stopped. So a
process renders, with nothing of ours in it: no weights, no keys, no environment. It is started when it is first needed.

    client ── kind, length, bytes ──> process      over a socket pair, which is the process's standard input
           <── kind, length, bytes ──
"""

from __future__ import annotations

import contextlib
import json
import os
import socket
import struct
import subprocess
import sys
import threading
import time
from collections.abc import Iterator, Mapping
from pathlib import Path
from typing import Any

from cutset.errors import RequestError, TokenizerError
from cutset.models.text.template_rendering import Rendering, limits, set_limits

__all__ = ["MOST_PROCESSES", "TemplateProcesses", "serve"]

SECONDS = 5.0  # of one rendering, or of compiling; a long conversation takes a tenth of one
START_SECONDS = 30.0
MEMORY = 1 << 30  # bytes of address space
MOST_PROCESSES = 2  # of one template: one conversation needn't wait for another that takes long

HEAD = struct.Struct("<cQ")
READY, COMPILE, RENDER, DONE, UNSAFE, REFUSED = b"H", b"C", b"R", b"D", b"T", b"E"
ERRORS = {UNSAFE: TokenizerError, REFUSED: RequestError}
MOST_REPLY = 4 * (8 << 20) + 4096  # bytes: of a text of the sandbox's largest size
# All that the process gets: where its interpreter and its libraries are, and what strftime_now goes by.
PASSED_ON = ("PATH", "LD_LIBRARY_PATH", "PYTHONHOME", "LANG", "LC_ALL", "TZ", "SYSTEMROOT")
BOOT = "import sys; sys.path[:] = sys.argv[1:]; from cutset.models.text.template_process import serve; serve()"


class TemplateProcesses:
    """A compiled template, rendered elsewhere. Safe to use from several threads; `close` ends the processes.

    `takes_parts` and `variables` are Rendering's.
    """

    def __init__(self, source: str, tool_source: str | None = None) -> None:
        """Raises TokenizerError for a template that isn't valid, or takes too long to compile."""
        bounds = {"limits": limits(), "memory": MEMORY, "seconds": 2 * SECONDS}
        self._sources = json.dumps({"source": source, "tool_source": tool_source, **bounds})
        self._places = threading.BoundedSemaphore(MOST_PROCESSES)
        self._free: list[_Process] = []  # appending to and popping from a list needs no lock
        self._owner = os.getpid()
        first = self._start()
        self._free.append(first)
        self.takes_parts, self.variables = first.takes_parts, first.variables

    def render(self, context: Mapping[str, Any], *, tools: bool) -> str:
        """As Rendering.render; TokenizerError too where it takes longer than SECONDS."""
        try:
            asked = _packed({"context": context, "tools": tools})
        except ValueError as error:  # a number with more digits than Python prints
            raise RequestError(f"the conversation can't be rendered: {error}") from None
        with self._places, self._process() as process:
            return process.ask(RENDER, asked, SECONDS).decode("utf-8", "surrogatepass")

    def close(self) -> None:
        """Can be called twice. What is being rendered goes on; its process ends with it."""
        if os.getpid() == self._owner:  # after a fork they are the parent's
            while self._free:
                self._free.pop().end()

    def __del__(self) -> None:
        if hasattr(self, "_owner"):
            self.close()

    @contextlib.contextmanager
    def _process(self) -> Iterator[_Process]:
        if os.getpid() != self._owner:
            self._free, self._owner = [], os.getpid()
        process = self._free.pop() if self._free else self._start()
        if not process.alive:  # somebody else ended it while nobody needed it
            process.end()
            process = self._start()
        try:
            yield process
        except BaseException:
            if not process.between:  # where it is nobody knows: too late, dead, or interrupted
                process.end()
            raise
        finally:
            if process.between:
                self._free.append(process)

    def _start(self) -> _Process:
        process = _Process()
        try:
            process.compile(self._sources.encode("utf-8", "surrogatepass"))
        except BaseException:
            process.end()
            raise
        return process


class _Process:
    """One process. `between`: it has answered all that it was asked."""

    def __init__(self) -> None:
        from cutset.link.launch import Child, environment  # what renders needs none of it

        ours, theirs = socket.socketpair()
        paths = [str(Path(__file__).parents[2]), *(os.path.abspath(path) for path in sys.path)]
        command = [sys.executable, "-s", "-P", "-S", "-B", "-c", BOOT, *paths]
        with theirs:
            try:  # in a session of its own: a Ctrl-C is for the command, which may want to render again
                env = environment(drop=("",), keep=PASSED_ON)
                self._child = Child("the template's process", command, own=False, env=env, stdin=theirs.fileno())
            except OSError as error:
                ours.close()
                raise TokenizerError(
                    f"the process that renders chat templates can't be started: {error.strerror}"
                ) from error
        self._socket = ours
        self.between = False

    @property
    def alive(self) -> bool:
        return self._child.process.poll() is None

    def compile(self, sources: bytes) -> None:
        """Waits until the process is there, and has it compile."""
        self._socket.settimeout(START_SECONDS)
        try:
            self._answer(time.monotonic() + START_SECONDS)
        except (OSError, EOFError) as error:
            raise TokenizerError(
                f"the process that renders chat templates didn't start ({self._end_of_it()}); see whether "
                f"`{sys.executable} -c 'import jinja2'` works"
            ) from error
        found = json.loads(self.ask(COMPILE, sources, SECONDS))
        self.takes_parts, self.variables = bool(found["takes_parts"]), frozenset(map(str, found["variables"]))

    def ask(self, kind: bytes, data: bytes, seconds: float) -> bytes:
        """The answer. Raises what the process says, and TokenizerError if it is too late or dies."""
        self.between, end = False, time.monotonic() + seconds
        try:
            self._socket.settimeout(seconds)
            self._socket.sendall(HEAD.pack(kind, len(data)) + data)
            answer, content = self._answer(end)
        except TimeoutError as error:
            raise TokenizerError(f"the chat template isn't safe to run: it takes longer than {seconds:g} s") from error
        except (OSError, EOFError) as error:
            raise TokenizerError(
                f"the chat template isn't safe to run: it ended its process ({self._end_of_it()})"
            ) from error
        self.between = True
        if answer in ERRORS:
            raise ERRORS[answer](content.decode("utf-8", "replace"))
        return content

    def end(self) -> None:
        self.between = False
        self._socket.close()
        self._child.kill()

    def _answer(self, end: float) -> tuple[bytes, bytes]:
        kind, size = HEAD.unpack(self._read(HEAD.size, end))
        if size > MOST_REPLY or kind not in (READY, DONE, UNSAFE, REFUSED):
            raise EOFError("what it sends makes no sense")
        return kind, self._read(size, end)

    def _read(self, size: int, end: float) -> bytes:
        got = bytearray()
        while len(got) < size:
            left = end - time.monotonic()
            if left <= 0:
                raise TimeoutError
            self._socket.settimeout(left)
            piece = self._socket.recv(min(size - len(got), 1 << 16))
            if not piece:
                raise EOFError
            got += piece
        return bytes(got)

    def _end_of_it(self) -> str:
        try:
            code = self._child.process.wait(1)
        except subprocess.TimeoutExpired:
            return "it is still there"
        return f"signal {-code}" if code < 0 else f"exit code {code}"


def serve() -> None:
    """The process: answers until the other end closes."""
    with socket.socket(fileno=0) as channel, channel.makefile("rwb") as stream:

        def answer(kind: bytes, content: bytes = b"") -> None:
            stream.write(HEAD.pack(kind, len(content)) + content)
            stream.flush()

        rendering, seconds = None, 2 * SECONDS
        answer(READY)
        while head := stream.read(HEAD.size):
            kind, size = HEAD.unpack(head)
            asked = json.loads(stream.read(size).decode("utf-8", "surrogatepass"))
            try:
                if kind == COMPILE:
                    _limit_memory(asked["memory"])
                    seconds = asked["seconds"]
                _limit_time(seconds)
                if kind == COMPILE:
                    set_limits(*asked["limits"])
                    rendering = Rendering(asked["source"], asked["tool_source"])
                    found = {"takes_parts": rendering.takes_parts, "variables": sorted(rendering.variables)}
                    content = json.dumps(found).encode()
                else:
                    assert rendering is not None
                    text = rendering.render(asked["context"], tools=asked["tools"])
                    content = text.encode("utf-8", "surrogatepass")
            except (RequestError, TokenizerError) as error:
                unsafe = isinstance(error, TokenizerError)
                answer(UNSAFE if unsafe else REFUSED, str(error).encode("utf-8", "replace"))
            else:
                answer(DONE, content)


def _limit_memory(nbytes: int) -> None:
    with contextlib.suppress(ImportError, OSError, ValueError):  # not every system has such limits
        import resource

        resource.setrlimit(resource.RLIMIT_CORE, (0, 0))
        resource.setrlimit(resource.RLIMIT_AS, (nbytes, nbytes))


def _limit_time(seconds: float) -> None:
    """The process ends itself if whoever would end it is gone."""
    with contextlib.suppress(ImportError, OSError, ValueError):
        import resource

        used = resource.getrusage(resource.RUSAGE_SELF)
        end = int(used.ru_utime + used.ru_stime + seconds) + 1
        resource.setrlimit(resource.RLIMIT_CPU, (end, resource.getrlimit(resource.RLIMIT_CPU)[1]))


def _packed(content: Any) -> bytes:
    return json.dumps(content, ensure_ascii=False).encode("utf-8", "surrogatepass")
