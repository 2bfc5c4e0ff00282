"""From settings to a decoder whose products are multiplied elsewhere."""

from __future__ import annotations

import ipaddress
import os
import socket
import warnings
from collections.abc import Callable
from dataclasses import dataclass, replace
from pathlib import Path

from cutset.config import OPTIONS, Settings
from cutset.errors import ConfigError, DeviceError, IntegrityError, OffloadError
from cutset.kernels import native
from cutset.kernels.reference_field import Residues
from cutset.link import Limits, Link, Timeouts, connect, parse_address
from cutset.link.keys import dialling_keys, load_keys, load_public
from cutset.link.peer import Binding, Handshake
from cutset.link.users import user_name
from cutset.models.files.integer import Progress
from cutset.models.files.source import ModelSource
from cutset.models.run.backend import BackendChoice
from cutset.models.run.native import NativeDecoder, thread_pool
from cutset.offload.client.client_weights import ClientWeights, load_weights
from cutset.offload.client.ledger import Ledger
from cutset.offload.client.linears import OffloadLinears
from cutset.offload.client.paced_decoder import PacedDecoder
from cutset.offload.client.pads import BLOCK_ROWS, Empty, PadPool
from cutset.offload.client.private_memory import keep_out
from cutset.offload.client.session import FRONT, MOST_BYTES, Patience, Session
from cutset.offload.messages import HANDSHAKE, MOST_PADS
from cutset.offload.modes import DEFAULT_MODE, Mode, mode_named

QUEUE = 2  # frames that wait here: a call at a time is asked for
IPAddress = ipaddress.IPv4Address | ipaddress.IPv6Address

__all__ = [
    "Offload",
    "Parties",
    "caution",
    "check_settings",
    "connected",
    "dial",
    "makes_own_pads",
    "open_offload",
]


@dataclass(frozen=True, slots=True)
class Offload:
    """A decoder that is split, and what splits it."""

    executor: NativeDecoder
    choice: BackendChoice
    mode: Mode
    linears: OffloadLinears
    pad_session: Session | None
    caution: str = ""  # what the user should know about this accelerator; commands print it

    def summary(self) -> str:
        """One line: the mode that was kept, what went over the link, and where pads came from."""
        times = self.linears.times
        said = f"mode {self.mode.name}: {times.calls} calls to {self.linears.session.address}"
        said += f", {times.bytes_up / 1e6:.1f} MB up, {times.bytes_down / 1e6:.1f} MB down"
        if self.linears.pads is not None:
            pads = self.linears.pads.counters()
            said += f"; {pads.used} rows of pads, {pads.made} made ahead, {pads.inline} inline"
            if pads.waited:
                said += f", waited {pads.seconds_waited:.1f} s for some"
        return f"[{said}]"

    def burned(self, wrong: int, rows: int) -> tuple[int, float]:
        """About how many rows of pads so many of all rows that were computed took, and the CPU seconds that making them
        took ahead of time; (0, 0.0) where there are no pads."""
        if self.linears.pads is None or not rows:
            return 0, 0.0
        pads = self.linears.pads.counters()
        burned = round(pads.used * min(1.0, wrong / rows))
        return burned, burned * pads.cpu_seconds / pads.made if pads.made else 0.0

    @property
    def broken(self) -> IntegrityError | None:
        """The IntegrityError that ended the session with the accelerator, or the making of pads."""
        pads = self.linears.pads
        return self.linears.session.broken or (None if pads is None else pads.broken)

    def renew(self) -> None:
        """Opens a new session after that. Raises what Session.renew raises, and an IntegrityError about pads."""
        if self.linears.pads is not None and self.linears.pads.broken is not None:
            raise self.linears.pads.broken
        self.linears.renew()

    def close(self) -> None:
        """Ends the sessions and the making of pads."""
        if isinstance(self.executor, PacedDecoder):
            self.executor.end_pace()
        self.linears.close()
        if self.pad_session is not None:
            self.pad_session.close()


def check_settings(settings: Settings) -> Mode | None:
    """The mode that the settings ask for, None for a run without offload. Raises ConfigError or DeviceError."""
    if not (settings.offload or settings.mode):
        if settings.pads_from or settings.pad_rows or settings.pad_steps:
            raise ConfigError("pads_from, pad_rows and pad_steps belong to an offload: give --offload ADDRESS too")
        if settings.offload_policy is not None:
            raise ConfigError("--offload-policy is for the accelerator of an offload: give --offload ADDRESS too")
        return None
    mode = mode_named(settings.mode or DEFAULT_MODE)
    if mode.remote and not settings.offload:
        raise ConfigError(f"--mode {mode.name} needs an accelerator: give --offload ADDRESS")
    if settings.dtype not in ("auto", "exact"):
        raise ConfigError(f"an offload computes in exact, not in {settings.dtype}: leave out --dtype")
    if settings.device != "cpu" or settings.backend not in ("auto", "native"):
        raise ConfigError("the client of an offload runs on the native backend: leave out --backend and --device")
    if mode.masked and settings.prefix_cache is not None:
        raise ConfigError(
            f"prefix_cache ({settings.sources['prefix_cache']}) has no place in mode {mode.name}: rows that "
            "aren't computed tell which prompts came before; leave it out"
        )
    if mode.remote and not native.available():
        raise DeviceError("the client of an offload needs the native extension: install Cutset with a C++ compiler")
    for name in ("offload", "accelerator_key") if mode.remote and not (mode.masked and mode.verified) else ():
        # Who is trusted to read, or to be right, isn't chosen by a file left from before.
        if getattr(settings, name) and not settings.by_hand(name):
            flag = OPTIONS[name].flag
            raise ConfigError(
                f"mode {mode.name} trusts the accelerator, so {name} from {settings.sources[name]} is not accepted: "
                f"give {flag} on the command line, or leave out --mode"
            )
    if settings.offload_policy is not None and not settings.offload.startswith("tcp://"):
        raise ConfigError("--offload-policy is for an accelerator over tcp: evidence is bound to the keys of a link")
    if settings.pads_from and not mode.masked:
        raise ConfigError(f"--pads-from has no use in mode {mode.name}: only masked modes have pads")
    if settings.pad_steps and not mode.masked:
        raise ConfigError(f"--pad-steps has no use in mode {mode.name}: its steps show what they are")
    return mode


def open_offload(
    source: ModelSource,
    settings: Settings,
    mode: Mode,
    progress: Progress | None = None,
    verify: Callable[[bytes, Binding], bool] | None = None,
) -> Offload:
    """Connects, compares the models, reads the weights. `verify`: the accelerator must show evidence, and it says
    whether that is enough; see Handshake.

    Raises LinkError where nobody answers, OffloadError where the mode can't be kept, and what loading raises.
    """
    if mode.masked:
        keep_out()
    pool = thread_pool(settings.thread_count)
    if mode.name == "plain":
        warnings.warn(
            f"mode plain: whoever runs {settings.offload} reads every prompt and answer, and can change both",
            stacklevel=2,
        )
    weights = load_weights(source, mode, pool, pack=makes_own_pads(settings, mode), progress=progress)
    parties = connected(weights, settings, mode, verify=verify)
    try:
        linears = OffloadLinears(
            parties.session, weights, mode, pool, parties.pads, pad_rows=settings.pad_rows and mode.masked
        )
        paced = PacedDecoder if settings.pad_steps else NativeDecoder
        decoder = paced(source.spec, source.tensors, pool, linears)
        linears.use_rings(decoder.core)
        if settings.data_oblivious:
            decoder.be_data_oblivious()
        source.forget()
        if isinstance(decoder, PacedDecoder):
            drafts = settings.speculate_tokens if settings.speculate != "off" else 0
            decoder.pace(settings.pad_steps / 1000, 1 + drafts, settings.block_size)
    except BaseException:
        parties.close()
        raise
    choice = BackendChoice("native", "exact", "cpu", settings.thread_count)
    return Offload(decoder, choice, mode, linears, parties.pad_session, caution(mode, parties.session))


@dataclass(frozen=True, slots=True)
class Parties:
    """Who multiplies, and where pads come from."""

    session: Session
    pad_session: Session | None
    pads: PadPool | None

    def close(self) -> None:
        """Ends the sessions and the making of pads."""
        self.session.close()
        if self.pads is not None:
            self.pads.close()
        if self.pad_session is not None:
            self.pad_session.close()


def makes_own_pads(settings: Settings, mode: Mode) -> bool:
    """Whether pads are made here, or in place of a server that fails to. Raises OffloadError where the two who must be
    apart aren't."""
    if settings.pads_from:
        _check_apart(settings)
    return mode.masked and (not settings.pads_from or settings.pads_policy == "inline")


def connected(
    weights: ClientWeights,
    settings: Settings,
    mode: Mode,
    block_rows: int = BLOCK_ROWS,
    verify: Callable[[bytes, Binding], bool] | None = None,
) -> Parties:
    """Greets the accelerator, and a pad server where there is one, and begins to make pads, in blocks of `block_rows`.
    `verify` as in `open_offload`.

    Raises LinkError where nobody answers, OffloadError for another model.
    """
    patience = Patience(total=float(settings.offload_timeout), resend=max(1.0, settings.offload_timeout / 3))
    ring, most = _ring(weights), _most_bytes(weights, 1)
    anybody = mode.masked and mode.verified  # what is sent reveals nothing, and wrong products are found
    session = Session(
        lambda: dial(settings, settings.offload, settings.accelerator_key, ring, frame=most + FRONT, any_user=anybody),
        patience,
        digest=weights.digest,
        most_bytes=most,
        handshake=_asking(settings, verify),
    )
    pad_session: Session | None = None
    try:
        if settings.pads_from:
            blocks = _most_bytes(weights, block_rows)
            pad_session = Session(
                lambda: dial(settings, settings.pads_from, settings.pads_key, frame=blocks + FRONT),
                patience,
                digest=weights.digest,
                most_bytes=blocks,
            )
            if not pad_session.capabilities.makes_pads:
                raise OffloadError(f"{settings.pads_from} makes no pads: start it without --no-pads")
        pads = _pad_pool(weights, settings, pad_session, block_rows) if mode.masked else None
    except BaseException:
        session.close()
        if pad_session is not None:
            pad_session.close()
        raise
    return Parties(session, pad_session, pads)


def _asking(settings: Settings, verify: Callable[[bytes, Binding], bool] | None) -> Handshake:
    """The handshake with the accelerator, on every link to it."""
    if verify is None:
        return HANDSHAKE
    keys = None if settings.key is None else load_keys(settings.key)
    return replace(HANDSHAKE.with_keys(keys), verify=verify)


def caution(mode: Mode, session: Session) -> str:
    """Masks hide what is sent, and nothing from a process that may look into this one."""
    own = os.geteuid()
    if not mode.masked or session.user not in (own, 0):
        return ""
    whose = f"root and this process runs as {user_name(own)}" if session.user != own else f"this user, {user_name(own)}"
    return (
        f"the accelerator at {session.address} runs as {whose}: mode {mode.name} hides nothing from a process that may "
        "read this one's memory and files; run it as another user, with --allow-user (README, Private offload)"
    )


def _pad_pool(weights: ClientWeights, settings: Settings, pad_session: Session | None, block_rows: int) -> PadPool:
    policies: dict[str, Empty] = {"wait": "wait", "inline": "inline", "fail": "fail"}
    empty: Empty = "inline" if pad_session is None else "wait"
    if settings.pads_policy != "auto":
        empty = policies[settings.pads_policy]
    matrices = weights.matrices

    def multiply(requests: list[tuple[int, bytes, int]]) -> list[Residues]:
        if pad_session is None:
            raise OffloadError("there is no pad server")
        found: list[Residues] = []
        while len(found) < len(requests):
            some, nbytes, rows = list[tuple[int, bytes, int]](), 0, 0
            for request in requests[len(found) : len(found) + MOST_PADS]:
                nbytes += 4 * request[2] * matrices[request[0]].outputs
                rows += request[2]
                if some and (nbytes > pad_session.most_bytes or rows > pad_session.capabilities.max_rows):
                    break
                some.append(request)
            found += pad_session.pads(some, [matrices[number].outputs for number, _, _ in some])
        return found

    return PadPool(
        Ledger(),
        matrices,
        multiply=None if pad_session is None else multiply,
        empty=empty,
        memory=settings.pads_mib << 20,
        block_rows=block_rows,
        most_rows=0 if settings.pads == "inline" and pad_session is None else None,
        timeout=float(settings.offload_timeout),
    )


def dial(
    settings: Settings,
    address: str,
    server_key: Path | None,
    ring: int = 1 << 20,
    timeout: float | None = None,
    frame: int = MOST_BYTES + FRONT,
    any_user: bool = False,
) -> Link:
    """Opens a link with the keys that the settings name. `ring`: bytes each way, in shared memory. `timeout`: seconds
    until somebody must have answered, other than the settings say. `frame`: the most bytes of one that is taken.
    `any_user`: see `connect`."""
    keys = None
    if address.startswith("tcp://"):
        own = None if settings.key is None else load_keys(settings.key)
        keys = dialling_keys(address, own, None if server_key is None else load_public(server_key))
    timeouts = Timeouts(connect=min(5.0, settings.offload_timeout) if timeout is None else timeout)
    # What fits in the ring is there already, whatever its size.
    most = max(frame, ring) if address.startswith("shm://") else frame
    return connect(
        address, keys=keys, any_user=any_user, timeouts=timeouts, limits=Limits(frame=most, ring=ring, queue=QUEUE)
    )


def _most_bytes(weights: ClientWeights, rows: int) -> int:
    """Bytes of the largest array that is sent or received: `rows` of the widest matrix always fit."""
    widest = max(max(matrix.outputs, matrix.depth) for matrix in weights.matrices)
    return max(MOST_BYTES, 4 * rows * widest)


def _ring(weights: ClientWeights) -> int:
    """A ring in which the rows of a middling prefill, or a picture's map, are sent and received in place, and no more
    than that: what is written over and over stays in a cache."""
    widest = max(max(matrix.outputs, matrix.depth) for matrix in weights.matrices if matrix.site != "lm_head")
    rows = 1 if any(matrix.positions > 1 for matrix in weights.matrices) else 128
    return min(max(1 << 20, 1 << (2 * 4 * rows * widest - 1).bit_length()), 64 << 20)


def _check_apart(settings: Settings) -> None:
    """Who makes pads must not be who multiplies: together they see everything. Raises OffloadError."""
    if settings.pads_same_host:
        return
    same = "pads_from must be another party than offload, or together they read everything"
    keys = [load_public(path) for path in (settings.pads_key, settings.accelerator_key) if path is not None]
    if len(keys) == 2 and keys[0] == keys[1]:
        raise OffloadError(f"{same}: both have the same key")
    if _hosts(settings.offload) & _hosts(settings.pads_from):
        raise OffloadError(f"{same}: both are on one host")


def _hosts(address: str) -> set[str]:
    """Where an address may lead; shared memory and sockets in the file system are this machine."""
    where = parse_address(address)
    if where.scheme != "tcp":
        return {"this machine"}
    try:
        listed = socket.getaddrinfo(where.place.rpartition(":")[0].strip("[]"), None)
    except OSError as error:
        raise OffloadError(f"{address}: its host can't be found: {error.strerror}") from None
    found = {_plain(str(entry[4][0])) for entry in listed}
    return {str(host) for host in found} | ({"this machine"} if any(map(_is_here, found)) else set())


def _plain(host: str) -> IPAddress:
    """The same host in one spelling: ::ffff:10.0.0.5 is 10.0.0.5."""
    found = ipaddress.ip_address(host.partition("%")[0])
    mapped = found.ipv4_mapped if isinstance(found, ipaddress.IPv6Address) else None
    return mapped or found


def _is_here(host: IPAddress) -> bool:
    """An address of this machine: that of any interface can be bound, another one's can't."""
    if host.is_loopback or host.is_unspecified:
        return True
    family = socket.AF_INET if host.version == 4 else socket.AF_INET6
    try:
        with socket.socket(family, socket.SOCK_DGRAM) as sock:
            sock.bind((str(host), 0))
    except OSError:
        return False
    return True
