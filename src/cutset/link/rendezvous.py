"""Where parties that can't be dialled dial in, and where others reach them.

One port takes everything. A connection that begins as ZeroMQ does is a link, over which a joiner waits to be called;
one that begins with an opening (relay.py) is passed on. Whoever wants a joiner dials with its ticket; the joiner is
called over its link, dials in answer, and the two connections become one. Links have CURVE keys as everywhere; what is
passed on has those of its ends.
"""

from __future__ import annotations

import contextlib
import ipaddress
import secrets
import socket
import threading
import time
from collections.abc import Callable, Mapping

from cutset.errors import ConfigError, CutsetError, FrameError, LinkClosed, LinkError
from cutset.link import router
from cutset.link.addresses import Address
from cutset.link.interface import Link
from cutset.link.joiner import JOIN, JoinCall, encode_call
from cutset.link.keys import Keys, key_allowed
from cutset.link.limits import Limits, Timeouts
from cutset.link.peer import is_hello, peer_key, refusal, refused
from cutset.link.relay import DIAL, OPENING, TOKEN, Splice, dial_plain, endpoint, read_opening, reset

__all__ = ["SCHEME", "Rendezvous", "dials_in"]

SCHEME = "join://"  # then a name: who isn't dialled, but dials in
LINK = b"\xff"  # the first byte of a ZeroMQ connection
FIRST = 10.0  # seconds until whoever connects must have said what it wants, and a joiner must have answered a call
MOST_UNKNOWN = 64  # connections that haven't said yet what they want
MOST_PASSED = 512  # connections that are passed on, links of joiners included
TICK = 0.2  # seconds
LIMITS = Limits(frame=1 << 20, queue=64, clients=1024, each=16)


class Rendezvous:
    """Listens at `address` until it is closed. `joiners`: public keys of those that may dial in, and their names.

    Any thread may call. Raises ConfigError for an address that isn't tcp, LinkError for one that can't be had.
    """

    def __init__(
        self, address: str, keys: Keys, joiners: Mapping[bytes, str], log: Callable[[str], None] = lambda line: None
    ) -> None:
        if not joiners:
            raise ConfigError(f"nobody may dial in at {address}: name the public keys of those who may")
        self._names, self._log = dict(joiners), log
        self._tickets = {key: secrets.token_bytes(TOKEN) for key in joiners}
        self._keys_by_ticket = {ticket: key for key, ticket in self._tickets.items()}
        self._here: dict[bytes, Link] = {}  # by key, the link over which it is called
        self._waiting: dict[bytes, tuple[socket.socket, float]] = {}  # dialled and not answered, by the call's number
        self._unknown: set[socket.socket] = set()
        self._passed: set[Splice] = set()
        self._seen_from: dict[str, str] = {}
        self._lock = threading.Lock()
        self._handshake = JOIN.with_keys(keys)
        self._open = True
        host, port = endpoint(address)
        self._door = _listen(address, host, port)
        self.port: int = self._door.getsockname()[1]
        self._host = host
        self.address = f"tcp://{f'[{host}]' if ':' in host else host or '*'}:{self.port}"
        try:
            self._links = router.listen(
                Address("tcp", "127.0.0.1:0"), keys, frozenset(joiners), Timeouts(first=FIRST), LIMITS
            )
        except BaseException:
            self._door.close()
            raise
        self._threads = [
            threading.Thread(target=work, name=f"cutset-{name}", daemon=True)
            for work, name in ((self._admit, "rendezvous"), (self._serve, "joiners"))
        ]
        for thread in self._threads:
            thread.start()

    # Any thread.

    def here(self, key: bytes) -> bool:
        """Whether the joiner with this public key can be reached now."""
        return key in self._here

    def ticket(self, key: bytes) -> bytes:
        """What lets others reach a joiner here, whether it is there or not; the same as long as this listens."""
        return self._tickets[key]

    def check(self, key: bytes) -> None:
        """Raises LinkClosed unless the joiner with this public key is here."""
        if key not in self._here:
            raise LinkClosed(f"it hasn't dialled in at {self.address}: start it with --join")

    @property
    def own(self) -> str:
        """The address at which this process reaches it."""
        return self._at("127.0.0.1" if _everywhere(self._host) else self._host)

    def seen_from(self, address: str) -> str:
        """The address at which a party that listens at `address` reaches it."""
        if not _everywhere(self._host) or not address.startswith("tcp://"):
            return self.own
        if address in self._seen_from:  # names aren't looked up again and again
            return self._seen_from[address]
        host, port = endpoint(address)
        try:  # which of this machine's addresses is used on the way there; nothing is sent
            family = socket.getaddrinfo(host, port, type=socket.SOCK_DGRAM)[0][0]
            with socket.socket(family, socket.SOCK_DGRAM) as probe:
                probe.connect((host, port or 9))
                return self._seen_from.setdefault(address, self._at(str(probe.getsockname()[0])))
        except OSError:
            return self.own

    def _at(self, host: str) -> str:
        return f"tcp://{f'[{host}]' if ':' in host else host}:{self.port}"

    def close(self) -> None:
        """Ends every connection that is passed on, and frees the address. A second call does nothing."""
        if not self._open:
            return
        self._open = False
        with contextlib.suppress(OSError):
            self._door.shutdown(socket.SHUT_RDWR)
        self._door.close()
        for thread in self._threads:
            thread.join(2.0)
        self._links.close()
        with self._lock:
            splices, waiting = list(self._passed), [one for one, _ in self._waiting.values()]
            waiting += self._unknown
            self._waiting.clear()
        for splice in splices:
            splice.close()
        for one in waiting:
            reset(one)

    # The thread that admits connections, and one for each of them until it is known what it wants.

    def _admit(self) -> None:
        while self._open:
            try:
                connection, _ = self._door.accept()
            except OSError:
                if not self._open:
                    return
                time.sleep(TICK)  # no descriptor left, say
                continue
            with self._lock:
                full = len(self._unknown) >= MOST_UNKNOWN or len(self._passed) >= MOST_PASSED
                if not full:
                    self._unknown.add(connection)
            if full:
                reset(connection)
            else:
                threading.Thread(target=self._greet, args=(connection,), name="cutset-opening", daemon=True).start()

    def _greet(self, connection: socket.socket) -> None:
        try:
            connection.settimeout(FIRST)
            if connection.recv(1, socket.MSG_PEEK) == LINK:
                links = endpoint(self._links.address)
                self._splice(connection, dial_plain(*links))
                return
            wanted = read_opening(_exactly(connection, OPENING))
            if wanted.kind == DIAL:
                self._call(connection, self._keys_by_ticket.get(wanted.token, b""))
                return
            with self._lock:
                caller, _ = self._waiting.pop(wanted.token, (None, 0.0))
            if caller is None:
                raise FrameError("an answer to no call")
            self._splice(caller, connection)
        except (CutsetError, OSError):
            reset(connection)
        finally:
            with self._lock:
                self._unknown.discard(connection)

    def _call(self, connection: socket.socket, key: bytes) -> None:
        """Asks a joiner to dial in answer. Raises LinkError where it can't be asked."""
        link = self._here.get(key)
        if link is None:
            raise LinkClosed("who was dialled isn't here")
        number = secrets.token_bytes(TOKEN)
        with self._lock:
            if not self._open or len(self._waiting) >= MOST_UNKNOWN:
                raise LinkError("too many calls wait for an answer")
            self._waiting[number] = connection, time.monotonic()
        try:
            link.send(encode_call(JoinCall(number)), timeout=1.0)
        except CutsetError:
            with self._lock:
                self._waiting.pop(number, None)
            raise

    def _splice(self, first: socket.socket, second: socket.socket) -> None:
        with self._lock, contextlib.suppress(OSError):  # one of them broke just now
            self._unknown -= {first, second}
            if self._open:
                self._passed.add(Splice(first, second, self._ended))
                return
        for one in (first, second):
            reset(one)

    def _ended(self, splice: Splice) -> None:
        with self._lock:
            self._passed.discard(splice)

    # The thread of the joiners' links.

    def _serve(self) -> None:
        while self._open:
            try:
                got = self._links.recv(TICK)
            except CutsetError:
                return
            if got is not None:
                link, frame = got
                try:
                    self._greeted(link, frame.header)
                except CutsetError as error:
                    self._log(f"refused who dialled in: {error}")
                    with contextlib.suppress(CutsetError):
                        link.send(refusal(frame.header, str(error)), timeout=0.2)
                    link.close()
                finally:
                    frame.release()
            for link in self._links.gone():
                for key in [key for key, one in self._here.items() if one is link]:
                    del self._here[key]
                    self._log(f"{self._names[key]} is no longer dialled in")
            self._expire(time.monotonic() - FIRST)

    def _greeted(self, link: Link, header: bytes) -> None:
        if not is_hello(header):
            raise FrameError("a joiner only says hello")
        hello = self._handshake.accept(link, header)
        key = peer_key(link)
        if key is None or not key_allowed(key, self._names.keys()):
            raise LinkError("this key may not dial in")
        link.send(self._handshake.welcome(link, hello), timeout=1.0)
        before = self._here.get(key)
        self._here[key] = link
        if before is not None and before is not link:
            with contextlib.suppress(CutsetError):
                before.send(encode_call(refused("somebody else with this key has dialled in")), timeout=0.2)
            before.close()
        self._log(f"{self._names[key]} has dialled in ({hello.software})")

    def _expire(self, before: float) -> None:
        with self._lock:
            late = [number for number, (_, since) in self._waiting.items() if since < before]
            connections = [self._waiting.pop(number)[0] for number in late]
        for one in connections:
            reset(one)


def dials_in(address: str) -> bool:
    """Whether an address is join://NAME: that of a party which dials in at a rendezvous."""
    return address.startswith(SCHEME)


def _everywhere(host: str) -> bool:
    try:
        return not host or ipaddress.ip_address(host).is_unspecified
    except ValueError:
        return False


def _listen(address: str, host: str, port: int) -> socket.socket:
    try:
        family = socket.getaddrinfo(host or None, port, type=socket.SOCK_STREAM, flags=socket.AI_PASSIVE)[0][0]
        return socket.create_server((host, port), family=family if host else socket.AF_INET, backlog=64)
    except (OSError, UnicodeError) as error:
        raise LinkError(f"can't listen at {address}: {getattr(error, 'strerror', None) or error}") from None


def _exactly(connection: socket.socket, count: int) -> bytes:
    """So many bytes, within FIRST seconds in all. Raises FrameError and OSError."""
    until, data = time.monotonic() + FIRST, b""
    while len(data) < count:
        connection.settimeout(max(until - time.monotonic(), 0.001))
        part = connection.recv(count - len(data))
        if not part:
            raise FrameError("a connection ended before it said what it wants")
        data += part
    return data
