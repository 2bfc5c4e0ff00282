"""Parties placed by Ray: on nodes of a cluster, with processors and memory reserved, started elsewhere when they die.

Ray says where parties run and notices when they die; it carries no value of a model. Each party is reached over a link
of Cutset's own, with a key made on its node.
"""

from __future__ import annotations

import base64
import contextlib
import os
import re
import secrets
import threading
import time
from collections.abc import Callable, Mapping, Sequence
from dataclasses import asdict, dataclass, field
from pathlib import Path
from typing import Any, Protocol

from cutset.cluster.launch.party_needs import Needs
from cutset.cluster.launch.ray_security import check_installed, check_protected
from cutset.cluster.launch.run_folder import RunFolder
from cutset.cluster.model import Model
from cutset.errors import ConfigError, CutsetError, EngineError, LinkError, printable
from cutset.link.addresses import parse_address
from cutset.link.keys import new_keys
from cutset.link.launch import DEVNULL, PIPE, Child, environment
from cutset.version import software

__all__ = ["PartyOrder", "RayDriverProcess", "RayLauncher", "RayOptions", "check_ray", "open_driver"]

# Seconds until the driver is connected (a local cluster is started meanwhile), until there is room for all parties, and
# until all have said where they listen.
CONNECTING, PLACING, BEGINNING = 150.0, 60.0, 120.0
ENDING = 10.0  # seconds that the driver gets to end parties, and a cluster of its own
FIRST_PAUSE, LONGEST_PAUSE = 1.0, 15.0  # seconds until a driver is started again, after one that ended
HEX = re.compile("[0-9a-f]{64}")


@dataclass(frozen=True)
class RayOptions:
    """`where`: local, auto or HOST:PORT; `places`: see `parse_places`; `insecure`: a cluster without tokens will do."""

    where: str
    places: Sequence[str] = ()
    insecure: bool = False


@dataclass(frozen=True)
class PartyOrder:
    """What runs as a party: a module of Cutset's and its arguments, without where it listens and its keys. `files`:
    what it finds on its node below FILES, see `party_evidence`."""

    command: Sequence[str]
    threads: int
    needs: Needs
    allow: frozenset[bytes] = frozenset()  # public keys of those who may connect; none: the launcher's own
    files: Mapping[str, bytes] = field(default_factory=dict)


class RayDriverProcess(Protocol):
    """The process of `ray_driver`, as `Child` has it."""

    def ask(self, command: Mapping[str, Any]) -> None:
        """Sends a command. Raises EngineError if it has ended."""

    def answer(self) -> dict[str, Any]:
        """The next event. Raises EngineError when it has ended."""

    def end(self, patience: float = 1.0) -> None:
        """Ends it, in order while the patience lasts."""


def open_driver(folder: Path | None = None) -> RayDriverProcess:
    """A driver's process, with the Ray that is installed; it removes the folder when it is left alone. Raises
    ConfigError where that isn't the right Ray."""
    check_installed()
    env = environment(drop=("CUTSET_API_KEY",)) | {"RAY_USAGE_STATS_ENABLED": "0"}
    module, stderr = "cutset.cluster.launch.ray_driver", None if os.environ.get("CUTSET_DEBUG") else DEVNULL
    return Child("Ray's driver", [module], directory=folder, env=env, stdin=PIPE, stdout=PIPE, stderr=stderr)


def check_ray(ray: str, place: Sequence[str], *, insecure: bool, counted: bool, flag: str) -> RayOptions | None:
    """The options that settings say, None without Ray. `counted`: so many parties are to be started, as `flag` N says.

    Raises ConfigError for what doesn't go together, for a cluster without tokens, and where Ray is missing.
    """
    if not ray:
        for name, given in (("place", bool(place)), ("insecure-ray", insecure)):
            if given:
                raise ConfigError(f"--{name} is for --ray: say which cluster, as --ray local, auto or HOST:PORT")
        return None
    if ray.startswith("ray://"):
        raise ConfigError(f"--ray {ray[:80]}: that is Ray's client protocol; name the head itself, as HOST:6379")
    if not counted:
        raise ConfigError(f"--ray places parties that are started for this run: say how many, with {flag} N")
    if ray not in ("local", "auto"):
        parse_address(f"tcp://{ray}")
    check_installed()
    check_protected(ray, insecure=insecure)
    return RayOptions(ray, tuple(place), insecure)


class RayLauncher:
    """Places and starts parties, and knows where they are; see Launcher.

    `keys` is this side's pair, made for this run: the parties obey whoever has it. Raises CutsetError where the cluster
    can't be reached, has no room, or a party can't be started; nothing is left then.
    """

    def __init__(
        self,
        orders: Mapping[str, PartyOrder],
        options: RayOptions,
        *,
        room: Sequence[Needs] = (),
        beginning: float = BEGINNING,
        log: Callable[[str], None] = lambda line: None,
        driver: Callable[[], RayDriverProcess] | None = None,
    ) -> None:
        """`room`: what a local cluster has room for, where others are added later than these; `beginning`: seconds that
        the first ones may take to start; `driver` starts the process that talks to Ray."""
        self.keys = new_keys()
        self._orders, self._options, self._log = dict(orders), options, log
        self._together = frozenset(orders)  # are placed together, or none of them; each other one by itself
        self._room, self._beginning = room or [order.needs for order in orders.values()], beginning
        self.token = secrets.token_hex(32) if options.where == "local" else ""  # of a cluster that ends with this
        self.cluster = ""  # its head's address, HOST:PORT
        self._numbers: dict[str, int] = dict.fromkeys(orders, 0)  # of each party's starts: the last one's events count
        self._places: dict[str, tuple[str, bytes]] = {}  # where each is, or was
        self._nodes: dict[str, str] = {}
        self._pids: dict[str, int] = {}
        self._why: dict[str, str] = dict.fromkeys(orders, "it wasn't started yet")  # of those that are nowhere
        self._ended: dict[str, str] = {}
        self._revoked: set[bytes] = set()  # keys of parties that are gone: none of them comes back
        self._lock = threading.Lock()
        self._closed = threading.Event()
        self._folder = RunFolder() if options.where == "local" else None
        self._open = driver or (lambda: open_driver(None if self._folder is None else self._folder.path))
        self._driver: RayDriverProcess | None = None
        self._failed: CutsetError | None = None
        self._step = threading.Condition(self._lock)
        self._stage = "connecting"  # what the driver is at
        self._thread: threading.Thread | None = None
        try:
            self._begin()
            self._thread = threading.Thread(target=self._run, name="cutset-ray", daemon=True)
            self._thread.start()
            self._wait_for_all()
        except BaseException:
            self.close()
            raise

    @property
    def names(self) -> list[str]:
        """See Launcher."""
        return list(self._orders)

    @property
    def addresses(self) -> dict[str, tuple[str, bytes | None]]:
        """See Launcher: where each is, or was last."""
        with self._lock:
            return {name: self._places[name] for name in self._orders if name in self._places}

    @property
    def nodes(self) -> dict[str, str]:
        """The address of the node that each party runs on."""
        with self._lock:
            return dict(self._nodes)

    @property
    def revoked(self) -> frozenset[bytes]:
        """Public keys of parties that are gone. Nobody dials them any more, and no worker is told to admit them."""
        with self._lock:
            return frozenset(self._revoked)

    def process_id(self, name: str) -> int:
        """Of a party's process, on its node."""
        with self._lock:
            return self._pids[name]

    def locate(self, name: str) -> tuple[str, bytes | None]:
        """See Launcher."""
        with self._lock:
            if name in self._why or name not in self._places:
                raise LinkError(f"{name} is nowhere: {self._why.get(name, 'it was stopped')}")
            return self._places[name]

    def ended(self) -> dict[str, str]:
        """See Launcher: while Ray can be reached."""
        with self._lock:
            return dict(self._ended) if self._driver is not None else {}

    def start(self, name: str) -> None:
        """See Launcher: another actor, with a new key, where there is room."""
        with self._lock:
            self._count(name)
            self._ask({"command": "start", "name": name, "number": self._numbers[name]})

    def add(self, name: str, order: PartyOrder) -> None:
        """Starts another party, or one of before by another order. Doesn't wait until it is there, or for room."""
        with self._lock:
            self._orders[name] = order
            self._count(name)
            self._ask({"command": "add", "name": name, "party": self._described(name)})

    def remove(self, name: str) -> None:
        """Ends a party for good. A second call does nothing."""
        with self._lock:
            if self._orders.pop(name, None) is None:
                return
            self._lost(name, "it was stopped")
            for known in (self._places, self._nodes, self._pids, self._why, self._ended):
                known.pop(name, None)
            self._ask({"command": "stop", "name": name})

    def _count(self, name: str) -> None:
        """Another start of a party. With the lock."""
        self._numbers[name] = self._numbers.get(name, 0) + 1
        self._ended.pop(name, None)
        self._why[name] = "it is being started"

    def _ask(self, command: Mapping[str, Any]) -> None:
        """With the lock. Where there is no driver, the next one is told what there is to start."""
        if self._driver is not None:
            with contextlib.suppress(EngineError):  # its end is noticed by who reads
                self._driver.ask(command)

    def stock(self, model: Model) -> None:
        """See Launcher: weights go to each over its link."""

    def close(self) -> None:
        """See Launcher."""
        self._closed.set()
        with self._lock:
            driver, self._driver = self._driver, None
            self._step.notify_all()
        try:
            if driver is not None:
                with contextlib.suppress(EngineError):
                    driver.ask({"command": "end"})
                driver.end(ENDING)
            if self._thread is not None and self._thread is not threading.current_thread():
                self._thread.join(ENDING)
        finally:
            if self._folder is not None:
                self._folder.close()

    # Starting, and the thread that reads events.

    def _begin(self) -> None:
        """Starts a driver, and has it place and start all parties."""
        driver = self._open()
        with self._lock:
            if self._closed.is_set():
                driver.end()
                return
            self._driver, self._stage = driver, "connecting"
            self._ended.clear()
            cpus = max(sum(needs.cpus for needs in self._room), 1.0)
            gpus = sum(needs.gpus for needs in self._room)
            driver.ask(
                {
                    "command": "begin",
                    "where": self._options.where,
                    "nodes": len(self._room),
                    "gpus": -(-gpus // 1),
                    "cpus": -(-cpus // 1),  # any of the local nodes has room for all: a party that dies finds a place
                    "folder": "" if self._folder is None else str(self._folder.path),
                    "token": self.token,
                    "insecure": self._options.insecure,
                    "parties": {name: self._described(name) for name in self._orders if name in self._together},
                }
            )
            # Those that came later wait for room by themselves: the first ones don't wait for them.
            for name in self._orders:
                if name not in self._together:
                    driver.ask({"command": "add", "name": name, "party": self._described(name)})

    def _described(self, name: str) -> dict[str, Any]:
        order = self._orders[name]
        needs = asdict(order.needs) | {"resources": dict(order.needs.resources)}
        words = {"command": list(order.command), "threads": order.threads}
        allow = [key.hex() for key in sorted(order.allow or {self.keys.public})]
        files = {name: base64.b64encode(data).decode() for name, data in order.files.items()}
        made = words | {"allow": allow, "files": files, "version": software()}
        return {"needs": needs, "number": self._numbers[name], "order": made}

    def _wait_for_all(self) -> None:
        """Raises CutsetError with what keeps them."""
        limits = {"connecting": CONNECTING, "placing": PLACING, "placed": self._beginning}
        stage, since = "", time.monotonic()
        with self._lock:
            while self._why or self._stage != "placed":
                if self._failed is not None:
                    raise self._failed
                if self._ended:
                    name, why = next(iter(self._ended.items()))
                    raise LinkError(f"{name} can't be started: {why}")
                if self._stage != stage:
                    stage, since = self._stage, time.monotonic()
                if time.monotonic() - since > limits[stage]:
                    raise LinkError(self._late(stage, limits[stage]))
                self._step.wait(0.5)

    def _late(self, stage: str, seconds: float) -> str:
        where = self._options.where
        if stage == "connecting":
            advice = "look whether its head answers (`ray status`), or name another with --ray HOST:PORT"
            return f"Ray at {where} didn't answer within {seconds:.0f} s: {advice}"
        if stage == "placing":
            return f"Ray at {where} placed no party within {seconds:.0f} s: look at `ray status`"
        absent = ", ".join(f"{name} ({why})" for name, why in self._why.items())
        return f"Ray at {where} started not all parties within {seconds:.0f} s: {absent}"

    def _run(self) -> None:
        pause = FIRST_PAUSE
        while not self._closed.is_set():
            if self._driver is not None:
                if self._read():
                    pause = FIRST_PAUSE
                if self._closed.is_set() or self._failed is not None:
                    return
            self._closed.wait(pause)
            pause = min(2 * pause, LONGEST_PAUSE)
            try:
                if not self._closed.is_set():
                    self._begin()
            except CutsetError as error:
                self._log(f"Ray can't be asked again: {error}")

    def _read(self) -> bool:
        """Takes events until this driver has ended; whether it had parties placed."""
        driver, placed, failure = self._driver, False, ""
        assert driver is not None
        hangs = threading.Timer(CONNECTING + PLACING, driver.end)
        hangs.daemon = True
        hangs.start()
        while True:
            try:
                event = driver.answer()
            except (EngineError, ValueError, OSError) as error:
                failure = failure or str(error)
                break
            if event["event"] == "failed":
                failure = str(event["why"])
                break
            if event["event"] == "placed":
                placed = True
                hangs.cancel()
            self._take(event)
        hangs.cancel()
        with self._lock:
            first = not self._places and not placed
            if self._driver is driver:
                self._driver = None
            if first:
                self._failed = LinkError(printable(failure))
            self._step.notify_all()
        if not self._closed.is_set():
            driver.end()
            if not first:
                self._log(f"Ray is out of reach: {failure}; parties go on while their nodes do, and Ray is asked again")
        return placed

    def _take(self, event: Mapping[str, Any]) -> None:
        """Raises nothing: what the cluster says may be wrong, and is looked at before it is believed."""
        kind, name, lines = event["event"], str(event.get("name", "")), []
        with self._lock:
            known = name in self._orders and event.get("number", 0) == self._numbers[name]
            if kind == "step":
                self._stage = str(event["what"])
            elif kind == "placed":
                self._stage, self.cluster = "placed", str(event.get("address", ""))
                lines.append(f"parties are placed by {event['where']}")
            elif kind == "up" and known:
                lines.append(self._up(name, event))
            elif kind == "gone" and known:
                self._lost(name, str(event["why"]))
            elif kind == "waiting" and known:
                self._why[name] = str(event["why"])
                lines.append(f"{name}: {event['why']}")
            self._step.notify_all()
        for line in lines:
            self._log(line)

    def _up(self, name: str, event: Mapping[str, Any]) -> str:
        address, key, node = str(event["address"]), str(event["key"]), printable(str(event["node"]))[:80]
        try:
            good = HEX.fullmatch(key) is not None and parse_address(address).scheme == "tcp"
        except ConfigError:
            good = False
        public = bytes.fromhex(key) if good else b""
        others = {place[1] for other, place in self._places.items() if other != name}
        if not good or public in self._revoked or public in others:
            self._lost(name, "what it says of its address and key can't be: it is not a new key of its own")
            return f"{name}: its address and key aren't believed"
        before = self._places.get(name)
        if before is not None and before[1] != public:
            self._revoked.add(before[1])
        self._places[name], self._nodes[name], self._pids[name] = (address, public), node, int(event["pid"])
        self._why.pop(name, None)
        self._ended.pop(name, None)
        return f"{name} runs on {node}"

    def _lost(self, name: str, why: str) -> None:
        if name in self._places:
            self._revoked.add(self._places[name][1])
        self._why[name] = self._ended[name] = why
