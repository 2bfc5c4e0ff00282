"""Child processes of Cutset's on this machine: they end with the process that started them, however that ends.

A child has the reading end of a pipe, its lifeline; the writing end is its parent's alone. When the pipe closes without
a word, nobody is left to stop the child: it removes the directory that it shares with its parent and ends. It runs as

    PYTHON -m cutset.link.launch LIFELINE DIRECTORY MODULE ARGUMENTS…
"""

from __future__ import annotations

import contextlib
import json
import os
import re
import runpy
import shutil
import signal
import subprocess
import sys
import threading
import time
from collections.abc import Mapping, Sequence
from pathlib import Path
from typing import Any

from cutset.errors import DeviceError, EngineError

__all__ = ["DEVNULL", "PIPE", "Child", "end_all", "environment", "probe"]

DEVNULL, PIPE = subprocess.DEVNULL, subprocess.PIPE
ON_PURPOSE = b"."  # on a lifeline, before it closes: the parent still runs
GRACE = 2.0  # seconds that a child without a parent may take to end in order


def environment(threads: int = 0, *, drop: tuple[str, ...] = (), keep: Sequence[str] = ()) -> dict[str, str]:
    """This process's variables for a child that may use so many threads (0: as many as it likes), without those that
    begin with one of `drop`, but for `keep`."""
    found = {name: value for name, value in os.environ.items() if name in keep or not name.startswith(drop)}
    return found | ({"OMP_NUM_THREADS": str(threads), "MKL_NUM_THREADS": str(threads)} if threads else {})


class Child:
    """A process in a session of its own, so that Ctrl-C is for its parent alone, which stops it.

    what: for messages. command: a module of Cutset's and its arguments; or, where it isn't `own`, another program. That
    has no lifeline, and ends with its parent only if it reads stdin. prefix: a program with its arguments that becomes
    the child (by exec, so that its pid and files stay), as `nice -n 10` does; none: the child itself. directory:
    removed by the child where its parent is gone. stdin, stdout, stderr: as for Popen, text.
    """

    def __init__(
        self,
        what: str,
        command: Sequence[str],
        *,
        own: bool = True,
        prefix: Sequence[str] = (),
        directory: Path | None = None,
        env: Mapping[str, str] | None = None,
        stdin: int = DEVNULL,
        stdout: int | None = DEVNULL,
        stderr: int | None = DEVNULL,
    ) -> None:
        self.what = what
        theirs, self._lifeline = os.pipe() if own else (-1, -1)
        if own:
            launcher = [sys.executable, "-m", "cutset.link.launch", str(theirs), str(directory or "")]
            command = [*launcher, *command]
        try:
            self.process = subprocess.Popen(
                [*prefix, *command],
                stdin=stdin,
                stdout=stdout,
                stderr=stderr,
                env=env,
                text=True,
                start_new_session=True,
                pass_fds=(theirs,) if own else (),
            )
        except BaseException:
            self._let_go()
            raise
        finally:
            if own:
                os.close(theirs)

    def until(self, pattern: str) -> re.Match[str]:
        """Reads lines of its stderr (where that is no pipe, of its stdout) until one has the pattern.

        Raises EngineError, with what it said, where it ends before.
        """
        said = []
        for line in self.process.stderr or self.process.stdout or ():
            if found := re.search(pattern, line):
                return found
            said.append(line)
        raise EngineError(
            f"{self.what} ended with {self.process.wait()} and didn't start: {''.join(said).strip()[-300:]}"
        )

    def ask(self, command: Mapping[str, Any]) -> None:
        """Sends it a line of JSON; `answer` waits for what comes back. Raises EngineError if it has ended."""
        assert self.process.stdin is not None
        try:
            self.process.stdin.write(json.dumps(command) + "\n")
            self.process.stdin.flush()
        except OSError:
            raise EngineError(f"{self.what} ended with {self.process.wait()}") from None

    def answer(self) -> dict[str, Any]:
        """Its next line of JSON. Raises EngineError if it has ended; it may have said why on stderr."""
        assert self.process.stdout is not None
        line = self.process.stdout.readline()
        if not line:
            raise EngineError(f"{self.what} ended with {self.process.wait()}")
        first: dict[str, Any] = json.loads(line)
        return first

    def end(self, patience: float = 1.0) -> None:
        """Stops it and takes it away: closes its stdin, if that is a pipe, then asks it to end, then kills it, with
        `patience` seconds in between. A second call does nothing."""
        self._let_go()
        if self.process.stdin is not None:
            with contextlib.suppress(OSError):
                self.process.stdin.close()
            self._ended(patience)
        self.process.terminate()
        if not self._ended(patience):
            self.kill()
        for stream in (self.process.stdout, self.process.stderr):
            if stream is not None:
                stream.close()

    def kill(self) -> None:
        """Ends it at once and takes it away."""
        self._let_go()
        self.process.kill()
        self.process.wait()

    def _ended(self, patience: float) -> bool:
        try:
            self.process.wait(patience)
        except subprocess.TimeoutExpired:
            return False
        return True

    def _let_go(self) -> None:
        lifeline, self._lifeline = self._lifeline, -1
        if lifeline >= 0:
            with contextlib.suppress(OSError):
                os.write(lifeline, ON_PURPOSE)
            os.close(lifeline)


def end_all(children: Sequence[Child], patience: float = 1.0) -> None:
    """Stops them all at once; kills them where a signal interrupts that."""
    try:
        for child in children:
            child.process.terminate()
        for child in children:
            child.end(patience)
    except BaseException:
        for child in children:
            child.kill()
        raise


def probe(code: str, *arguments: str, timeout: float) -> Any:
    """What a piece of Python prints as JSON, in a process of its own: what it loads, or breaks, stays there.

    Raises DeviceError with the last line that it said.
    """
    try:
        done = subprocess.run(
            [sys.executable, "-c", code, *arguments], capture_output=True, text=True, timeout=timeout, check=True
        )
        return json.loads(done.stdout)
    except (OSError, subprocess.SubprocessError, ValueError) as error:
        detail = (getattr(error, "stderr", "") or str(error)).strip().splitlines()[-1:]
        raise DeviceError(" ".join(detail)[:200]) from None


def _watch(lifeline: int, directory: str) -> None:
    """Ends this process in order when its parent is gone, and soon in any case."""
    if os.read(lifeline, 1):
        return
    if directory:
        shutil.rmtree(directory, ignore_errors=True)
    os.kill(os.getpid(), signal.SIGTERM)
    time.sleep(GRACE)
    os._exit(1)


def main() -> None:
    """A child's first steps."""
    lifeline, directory, module, *arguments = sys.argv[1:]
    threading.Thread(target=_watch, args=(int(lifeline), directory), name="cutset-parent", daemon=True).start()
    sys.argv = [module, *arguments]
    runpy.run_module(module, run_name="__main__", alter_sys=True)


if __name__ == "__main__":
    main()
