"""A party on a node of a Ray cluster: what an actor runs there.

Ray carries the order and the answer, which are a few words: the command, who may give orders, a policy of evidence, the
address and the public key. The pair is made on the node and the secret half stays there. All else goes over the party's
own links.
"""

from __future__ import annotations

import base64
import contextlib
import os
import re
import shutil
import subprocess
import sys
import tempfile
import threading
import time
from collections import deque
from collections.abc import Mapping, Sequence
from pathlib import Path
from typing import Any

from cutset.cluster.launch.party_evidence import FILES
from cutset.cluster.launch.party_keys import LISTENING, PartyKeys
from cutset.errors import ConfigError
from cutset.link.launch import PIPE, Child, environment
from cutset.version import compatible, software

__all__ = ["RayParty"]

# Waits until its stdin (which shells take from what runs behind them) ends, in no child of this process: Ray kills an
# actor's children with it, without a word.
REMOVE = 'exec 3<&0; { cat <&3; rm -rf -- "$1"; } >/dev/null 2>&1 &'
NODE_TICK = 0.25  # seconds between two looks whether the node's process runs
LAST_WORDS = 5  # lines of what a party said, for the reason of its end


class RayParty:
    """One party, as an actor: a child process that ends when the actor does, however that ends.

    Raises CutsetError where it can't be started; Ray brings that to the driver.
    """

    def __init__(self) -> None:
        self._child: Child | None = None
        self._folder: Path | None = None  # where files of its order lie, as long as the party runs
        self._alive = -1  # the writing end of a pipe that ends with this process
        self._said: deque[str] = deque(maxlen=LAST_WORDS)

    def begin(self, order: dict[str, Any]) -> dict[str, Any]:
        """Makes keys and starts the worker that `order` names: `command`, a module of Cutset's with its arguments;
        `threads`; `allow`, the public keys of those who may connect, in hexadecimal; `files`, in base64 by where the
        command finds them below FILES; `version`, of who asks. Where it listens, and its public key."""
        if not compatible(software(), str(order["version"])):
            raise ConfigError(f"the node has {software()}, which is too far from {str(order['version'])[:60]} here")
        with contextlib.suppress(OSError):  # Ray starts actors at 15, last of all; only some may take that back
            os.setpriority(os.PRIO_PROCESS, 0, 0)
        threading.Thread(target=self._end_with_node, args=(os.getppid(),), name="cutset-node", daemon=True).start()
        files = {str(name): base64.b64decode(data) for name, data in order.get("files", {}).items()}
        return self.start(order["command"], int(order["threads"]), list(order["allow"]), self.host(), files)

    def _end_with_node(self, node: int) -> None:
        """Ends this process when that of the node (its raylet, whose child it is) has ended: Ray leaves an actor alone
        that is in the middle of a call, and nobody would end its party any more."""
        while os.getppid() == node:
            time.sleep(NODE_TICK)
        if self._child is not None:
            self._child.end()
        self._clear()
        os._exit(1)

    def host(self) -> str:
        """The address of the node in the cluster."""
        import ray

        return str(ray.util.get_node_ip_address())

    def start(
        self,
        command: Sequence[str],
        threads: int,
        allowed: Sequence[str],
        host: str,
        files: Mapping[str, bytes] | None = None,
    ) -> dict[str, Any]:
        """`begin` for a node whose address is known."""
        self._folder = folder = Path(tempfile.mkdtemp(prefix="cutset-ray-"))  # mode 0700
        try:
            if files:
                self._remove_afterwards(folder)
            for name, data in (files or {}).items():
                place = folder / "files" / name
                if ".." in place.parts or Path(name).is_absolute():
                    raise ConfigError(f"{name[:100]!r} is no place below a directory")
                place.parent.mkdir(parents=True, exist_ok=True)
                place.write_bytes(data)
            there = str(folder / "files")
            own = [there + word.removeprefix(FILES) if word.startswith(FILES) else word for word in command]
            keys = PartyKeys(folder / "keys", [bytes.fromhex(key) for key in allowed], host)
            # Without Ray's token and clients' keys: a party has no business with the cluster, nor with these.
            env = environment(threads, drop=("RAY_", "CUTSET_API_KEY"))
            self._child = child = Child("the party", [*own, *keys.words], directory=folder, env=env, stderr=PIPE)
            try:
                address = child.until(LISTENING)[1]
            except BaseException:
                child.kill()
                raise
            self.enrolled(keys.secret)
            keys.forget()
            if not files:  # nothing stays on the node, however Ray ends this process
                self._clear()
        except BaseException:
            self._clear()
            raise
        threading.Thread(target=self._pass_on, args=(child,), name="cutset-party-words", daemon=True).start()
        return {"address": address, "key": keys.public.hex(), "pid": child.process.pid, "host": host}

    def _remove_afterwards(self, folder: Path) -> None:
        """Has the folder removed when this process is gone, however Ray ends it."""
        theirs, self._alive = os.pipe()
        try:
            command = ["/bin/sh", "-c", REMOVE, "sh", str(folder)]
            subprocess.run(command, stdin=theirs, start_new_session=True, check=True)
        finally:
            os.close(theirs)

    def _clear(self) -> None:
        if self._folder is not None:
            shutil.rmtree(self._folder, ignore_errors=True)
        alive, self._alive = self._alive, -1
        if alive >= 0:
            os.close(alive)

    def enrolled(self, secret: Path) -> None:
        """The party listens; its pair is in that file for a moment more."""

    def _pass_on(self, child: Child) -> None:
        """What it says goes to the actor's log; a pipe that nobody reads would stop it."""
        for line in child.process.stderr or ():
            self._said.append(line.strip())
            with contextlib.suppress(OSError):
                sys.stderr.write(line)
                sys.stderr.flush()

    def wait(self) -> str:
        """Until the party's process has ended: why, in a line."""
        assert self._child is not None
        code = self._child.process.wait()
        self._clear()
        said = re.sub(r"\s+", " ", self._said[-1])[:200] if self._said else "nothing"
        return f"its process ended with {code}, and last said: {said}"

    def stop(self) -> None:
        """Ends the party in order."""
        if self._child is not None:
            self._child.end()
        self._clear()
