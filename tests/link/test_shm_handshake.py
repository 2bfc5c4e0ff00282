"""What is left of a handshake over a Unix socket: how either process sees that the other one lives."""

from __future__ import annotations

import socket
import threading

from cutset.link import shm_handshake


def test_several_threads_ask_at_once_whether_the_other_side_lives() -> None:
    """The acceptor counts a user's links while the listener looks whether they live. Nobody ends by that."""
    ours, other = socket.socketpair(socket.AF_UNIX, socket.SOCK_SEQPACKET)
    held, told, errors = shm_handshake.LivenessSocket(ours), list[bool](), list[BaseException]()

    def ask() -> None:
        try:
            told.extend(held.alive() for _ in range(5000))
        except BaseException as error:
            errors.append(error)

    threads = [threading.Thread(target=ask) for _ in range(8)]
    for thread in threads:
        thread.start()
    for thread in threads:
        thread.join()
    assert not errors
    assert len(told) == 40_000
    assert all(told)
    other.close()
    assert not held.alive()
