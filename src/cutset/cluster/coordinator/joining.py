"""Workers that dial in: which of those that were named do, and where they are waited for."""

from __future__ import annotations

from collections.abc import Callable, Mapping

from cutset.cluster.coordinator.reach import Addresses
from cutset.errors import ConfigError
from cutset.link.addresses import NAME, parse_address
from cutset.link.keys import Keys
from cutset.link.rendezvous import SCHEME, Rendezvous, dials_in

__all__ = ["check_joining", "is_joiner", "joiners", "open_rendezvous"]


def is_joiner(name: str) -> bool:
    """Whether a name is that of a worker that dials in: join://NAME."""
    return dials_in(name) and NAME.fullmatch(name[len(SCHEME) :]) is not None


def joiners(workers: Addresses) -> Mapping[bytes, str]:
    """The names of those that dial in, by the public key that each is known by."""
    return {key: name for name, (where, key) in workers.items() if key is not None and dials_in(where)}


def check_joining(listen: str, workers: Addresses, what: str) -> None:
    """Raises ConfigError for workers that dial in where nobody listens, or that can't be told apart. `what`: "stages"
    or "workers", which flags are named after."""
    joining = [name for name, (where, _) in workers.items() if dials_in(where)]
    one = what.removesuffix("s")
    if not joining and not listen:
        return
    if not listen:
        raise ConfigError(f"{joining[0]} dials in: say where this side listens, with --{what}-listen tcp://HOST:PORT")
    parse_address(listen)
    if not joining:
        raise ConfigError(f"--{what}-listen is for {what} that dial in: name them join://NAME")
    for name in joining:
        key = workers[name][1]
        if key is None:
            raise ConfigError(f"{name} needs its public key: give --{one}-keys, in the order of --{what}")
        if [workers[other][1] for other in joining].count(key) > 1:
            raise ConfigError(f"{name} has the public key of another {one}: who dials in is known by its own")
    other = next((name for name, (where, _) in workers.items() if where.startswith("ipc://")), None)
    if other is not None:
        raise ConfigError(
            f"{other} has no keys, without which it can't reach a {one} that dials in: listen at tcp://HOST:PORT"
        )


def open_rendezvous(
    listen: str, workers: Addresses, keys: Keys | None, log: Callable[[str], None] = lambda line: None
) -> Rendezvous | None:
    """Where those of the workers dial in that do; None where none does. Raises ConfigError and LinkError."""
    found = joiners(workers)
    if not found:
        return None
    if keys is None:
        raise ConfigError(f"{next(iter(found.values()))} needs --key, this side's secret key; see `cutset keys`")
    return Rendezvous(listen, keys, found, log)
