"""The other process of a test: `python party.py echo|late|client ADDRESS [KEYS…]`. Says "ready" when it is."""

from __future__ import annotations

import signal
import sys
import time

import numpy as np

from cutset.errors import LinkClosed, LinkTimeout
from cutset.link import Limits, Timeouts, connect, listen
from cutset.link.keys import load_keys, load_public

LIMITS = Limits(ring=1 << 20)


def main() -> None:
    signal.signal(signal.SIGINT, signal.default_int_handler)  # ignored where the tests run in the background
    role, address, *files = sys.argv[1:]
    keys = load_keys(files[0]) if files else None
    if role == "late":  # takes one frame, does nothing for a while, and then takes all that came meanwhile
        listener = listen(address, keys=keys, allow=[load_public(files[1])] if files else None, limits=LIMITS)
        print("ready", listener.address, flush=True)
        counts: list[int] = []
        for pause in (10.0, 0.0):
            while (found := listener.recv(1.0 if counts else 10.0)) is not None:
                found[1].release()
                counts.append(1)
                if pause:
                    break
            time.sleep(3.0 if pause else 0.0)
        print("took", len(counts), flush=True)
        return
    if role == "echo":
        allow = [load_public(files[1])] if files else None
        listener = listen(address, keys=keys, allow=allow)
        print("ready", listener.address, flush=True)
        while True:
            found = listener.recv(0.2)
            if found is not None:
                link, frame = found
                try:
                    link.send(frame.header, frame.arrays)
                except (LinkClosed, LinkTimeout) as error:
                    print(type(error).__name__, flush=True)
                frame.release()
            for _ in listener.gone():
                print("gone", flush=True)
    keys = keys.expecting(load_public(files[1])) if keys else None
    link = connect(address, keys=keys, timeouts=Timeouts(connect=10), limits=LIMITS)
    link.send(b"hello", [np.arange(10)])
    print("ready", flush=True)
    if role == "mute":  # holds its link and says no more
        time.sleep(600)
    for _ in range(100):
        link.send(link.recv().header, [np.arange(300_000)])


if __name__ == "__main__":
    main()
