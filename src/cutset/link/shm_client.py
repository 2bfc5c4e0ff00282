"""The client's way to a listener in shared memory: it is handed the listener's memory, and hands over its own rings."""

from __future__ import annotations

import os
import socket
import time

from cutset.errors import LinkClosed, LinkError
from cutset.link import segment, shm_files, shm_handshake
from cutset.link.addresses import Address
from cutset.link.limits import Limits, Timeouts
from cutset.link.shm import DATA_BELL, ShmLink, patience, ring
from cutset.link.users import credentials, own, user_id, user_name

__all__ = ["connect"]

RETRY = 0.02  # seconds between two tries
ROOT = 0  # reads everything anyhow


def connect(where: Address, timeouts: Timeouts, limits: Limits, any_user: bool = False) -> ShmLink:
    """`any_user`: whoever listens there may be another user, because what is sent may be seen by anybody."""
    wanted = user_id(where.user) if where.user else None
    deadline = time.monotonic() + timeouts.connect
    while True:
        if segment.in_enclave():
            found = shm_files.dial(where, timeouts, limits)
        else:
            found = _dial(where, timeouts, limits, wanted, any_user, deadline)
        if found is not None:
            return found
        if time.monotonic() >= deadline:
            if segment.in_enclave() and segment.socket_path(where.place).exists():
                raise LinkClosed(f"{where} has no files for clients in an enclave: start it with --ring-files")
            raise LinkClosed(f"nobody listens at {where}: start the other side first{_other_kind(where)}")
        time.sleep(RETRY)


def _other_kind(where: Address) -> str:
    control = segment.control_path(where.place)
    try:
        files = control.stat().st_size > 0 and not segment.socket_path(where.place).exists()
    except OSError:
        return ""
    return "; one that was started with --ring-files takes clients in an enclave alone" if files else ""


def _dial(
    where: Address, timeouts: Timeouts, limits: Limits, wanted: int | None, any_user: bool, deadline: float
) -> ShmLink | None:
    """A link, or None when nobody listens."""
    connection = _connected(where)
    if connection is None:
        return None
    try:
        connection.settimeout(max(0.05, deadline - time.monotonic()))
        user = credentials(connection).user
        if user != wanted and (wanted is not None or not (any_user or user in (own(), ROOT))):
            name = user_name(user)
            raise LinkError(f"it belongs to the user {name}: write shm://{name}@{where.place} if that is meant")
        return _join(where, timeouts, limits, connection, user)
    except TimeoutError:
        raise LinkClosed(f"{where} doesn't answer: it is stopped, or too busy") from None
    except ConnectionError:  # it ended just now
        return None
    except LinkClosed as error:
        raise LinkClosed(f"{where}: {error}") from None
    except LinkError as error:
        raise LinkError(f"{where}: {error}") from None
    finally:
        if connection.fileno() >= 0:
            connection.close()


def _connected(where: Address) -> socket.socket | None:
    path = segment.socket_path(where.place)
    connection = socket.socket(socket.AF_UNIX, socket.SOCK_SEQPACKET)
    folder = os.open(path.parent, os.O_PATH | os.O_DIRECTORY | os.O_CLOEXEC)
    try:
        connection.setblocking(False)
        connection.connect(f"/proc/self/fd/{folder}/{path.name}")  # the path may be longer than a socket's
    except PermissionError:
        connection.close()
        raise LinkError(f"{path} takes its own user alone: start the other side with --allow-user") from None
    except OSError as error:
        connection.close()
        if isinstance(error, FileNotFoundError | ConnectionRefusedError | BlockingIOError):
            return None  # a BlockingIOError: many come at once
        raise LinkError(f"{path} can't be connected to: {error.strerror}") from None
    finally:
        os.close(folder)
    return connection


def _join(where: Address, timeouts: Timeouts, limits: Limits, connection: socket.socket, user: int) -> ShmLink | None:
    welcome = shm_handshake.receive(connection, shm_handshake.WELCOME)
    if welcome is None:
        return None
    try:
        control = segment.map_sealed(welcome.descriptor, segment.CONTROL_BYTES)
    finally:
        os.close(welcome.descriptor)
    epoch, (spin, naps) = welcome.numbers[0], patience(timeouts)
    up = down = segment.capacity(limits)
    descriptor, memory = segment.create_sealed(segment.ring_bytes(up, down))
    try:
        flags = 0 if naps else segment.FUTEXES
        shm_handshake.send(
            connection, shm_handshake.Packet(shm_handshake.OFFER, flags, (up, down), descriptor=descriptor)
        )
    finally:
        os.close(descriptor)
    if shm_handshake.receive(connection, shm_handshake.ACCEPTED) is None:
        return None
    sender = ring.Sender(memory, 0, up, epoch, control, segment.BELL, spin, naps)
    base = segment.PAGE + up
    receiver = ring.Receiver(memory, base, down, epoch, memory, base + DATA_BELL, spin, naps)
    held = shm_handshake.LivenessSocket(connection)
    text = str(where)
    return ShmLink(
        text, text, timeouts, limits, memory, sender, receiver, base, 0, held.alive, lambda _: held.shut(), user
    )
