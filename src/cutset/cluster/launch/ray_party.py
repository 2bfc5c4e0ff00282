"""A party on a node of a Ray cluster: what an actor runs there.

Ray carries the order and the answer, which are a few words: the command, who may give orders, the address and the
public key. The pair is made on the node and the secret half stays there. All else goes over the party's own links.
"""

from __future__ import annotations

import contextlib
import os
import re
import sys
import tempfile
import threading
import time
from collections import deque
from collections.abc import Sequence
from pathlib import Path
from typing import Any

from cutset.errors import ConfigError
from cutset.link.addresses import parse_address
from cutset.link.keys import new_keys, save_keys
from cutset.link.launch import PIPE, Child, environment
from cutset.version import compatible, software

__all__ = ["RayParty", "tcp_address"]

LISTENING = r"listening on (tcp://\S+?)[,:] "
NODE_TICK = 0.25  # seconds between two looks whether the node's process runs
LAST_WORDS = 5  # lines of what a party said, for the reason of its end
KEPT = "party"  # the pair's name in its directory


def tcp_address(host: str, port: int = 0) -> str:
    """The address of a port at a node. Raises ConfigError for what is no host."""
    host = f"[{host}]" if ":" in host and not host.startswith("[") else host
    return str(parse_address(f"tcp://{host}:{port}"))


class RayParty:
    """One party, as an actor: a child process that ends when the actor does, however that ends.

    Raises CutsetError where it can't be started; Ray brings that to the driver.
    """

    def __init__(self) -> None:
        self._child: Child | None = None
        self._said: deque[str] = deque(maxlen=LAST_WORDS)

    def begin(self, order: dict[str, Any]) -> dict[str, Any]:
        """Makes keys and starts the worker that `order` names: `command`, a module of Cutset's with its arguments;
        `threads`; `allow`, the public keys of those who may connect, in hexadecimal; `version`, of who asks. Where it
        listens, and its public key."""
        if not compatible(software(), str(order["version"])):
            raise ConfigError(f"the node has {software()}, which is too far from {str(order['version'])[:60]} here")
        with contextlib.suppress(OSError):  # Ray starts actors at 15, last of all; only some may take that back
            os.setpriority(os.PRIO_PROCESS, 0, 0)
        threading.Thread(target=self._end_with_node, args=(os.getppid(),), name="cutset-node", daemon=True).start()
        return self.start(order["command"], int(order["threads"]), list(order["allow"]), self.host())

    def _end_with_node(self, node: int) -> None:
        """Ends this process when that of the node (its raylet, whose child it is) has ended: Ray leaves an actor alone
        that is in the middle of a call, and nobody would end its party any more."""
        while os.getppid() == node:
            time.sleep(NODE_TICK)
        if self._child is not None:
            self._child.end()
        os._exit(1)

    def host(self) -> str:
        """The address of the node in the cluster."""
        import ray

        return str(ray.util.get_node_ip_address())

    def start(self, command: Sequence[str], threads: int, allowed: Sequence[str], host: str) -> dict[str, Any]:
        """`begin` for a node whose address is known."""
        with tempfile.TemporaryDirectory(prefix="cutset-ray-") as name:  # mode 0700
            directory = Path(name)
            keys = new_keys()
            secret, _ = save_keys(keys, KEPT, directory)
            allow = directory / "allowed"
            allow.write_text("".join(f"{bytes.fromhex(key).hex()}\n" for key in allowed))
            words = [*command, "--listen", tcp_address(host), "--key", str(secret), "--allow", str(allow)]
            # Without Ray's token and clients' keys: a party has no business with the cluster, nor with these.
            env = environment(threads, drop=("RAY_", "CUTSET_API_KEY"))
            self._child = child = Child("the party", words, directory=directory, env=env, stderr=PIPE)
            try:
                address = child.until(LISTENING)[1]
            except BaseException:
                child.kill()
                raise
            self.enrolled(secret)
        # It has read its keys, and their files are gone: nothing stays on the node, however Ray ends this process.
        threading.Thread(target=self._pass_on, args=(child,), name="cutset-party-words", daemon=True).start()
        return {"address": address, "key": keys.public.hex(), "pid": child.process.pid, "host": host}

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
        said = re.sub(r"\s+", " ", self._said[-1])[:200] if self._said else "nothing"
        return f"its process ended with {code}, and last said: {said}"

    def stop(self) -> None:
        """Ends the party in order."""
        if self._child is not None:
            self._child.end()
