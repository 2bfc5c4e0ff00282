"""A process that goes on as another user: `python as_user.py UID cutset ARGUMENTS…` or `UID echo|reach ADDRESS [PID]`.

What it needs is loaded before, because the other user may not read these files.
"""

from __future__ import annotations

import importlib
import os
import sys
from typing import Any

import cutset.offload.accelerator.loading as opening
from cutset.cli import main as cutset_main
from cutset.errors import CutsetError
from cutset.link import Limits, connect, listen
from cutset.version import software

LIMITS = Limits(ring=1 << 20)


def become(uid: int) -> None:
    os.setgroups([])
    os.setgid(uid)
    os.setuid(uid)


def tries(pid: str) -> str:
    """What comes of reading another process's memory."""
    found = []
    for name in ("mem", "environ", "maps"):
        try:
            with open(f"/proc/{pid}/{name}", "rb") as file:
                if name == "mem":
                    file.seek(0x1000)
                file.read(1)
            found.append("read")
        except PermissionError:
            found.append("refused")
        except OSError:
            found.append("opened")
    return " ".join(found)


def echo(address: str, users: list[int]) -> None:
    listener = listen(address, users=users, limits=LIMITS)
    print("ready", flush=True)
    while True:
        if (found := listener.recv(0.2)) is not None:
            link, frame = found
            answer = tries(frame.header.decode()) if frame.header.isdigit() else frame.header.decode()
            link.send(answer.encode(), frame.arrays)
            frame.release()


def main() -> None:
    uid, what, *words = sys.argv[1:]
    for name in ("cutset.link.shm_client", "cutset.link.shm_listener", "pwd"):
        importlib.import_module(name)
    software()
    if what == "cutset":
        # The accelerator reads its model, and is another user from then on.
        real: Any = opening.listen

        def as_user(*given: Any, **named: Any) -> Any:
            become(int(uid))
            return real(*given, **named)

        opening.listen = as_user
        sys.exit(cutset_main(words))
    become(int(uid))
    if what == "echo":
        echo(words[0], [int(word) for word in words[1:]])
    try:
        link = connect(words[0], limits=LIMITS)
        link.send(b"hello")
        print(link.recv().header.decode(), flush=True)
        link.close()
    except CutsetError as error:
        print(f"{type(error).__name__}: {error}", flush=True)


if __name__ == "__main__":
    main()
