"""Whether a Ray cluster is there, and whether it keeps strangers out: asked before, or beside, Ray's own dialling."""

from __future__ import annotations

import contextlib
import os
import socket
import subprocess
import sys

from cutset.errors import ConfigError, LinkError

__all__ = ["check_refuses_others", "reachable", "unreachable"]

REACHABLE = 5.0  # seconds until a head must accept a connection
PROBING = 30.0  # seconds until a cluster must say whether it takes callers without a token
# Ends with REFUSED where a cluster refuses somebody without a token, as it should.
REFUSED = 3
PROBE = f"""
import sys
from ray._raylet import GcsClient
from ray.exceptions import AuthenticationError
try:
    GcsClient(address=sys.argv[1]).internal_kv_keys(b"", None)
except AuthenticationError:
    sys.exit({REFUSED})
"""


def reachable(where: str) -> str:
    """The address of a head that accepts connections, a name resolved: Ray itself would try for a minute. Raises
    LinkError."""
    address = where
    if where == "auto":
        from ray._private.services import canonicalize_bootstrap_address

        with contextlib.suppress(ConnectionError):
            address = canonicalize_bootstrap_address("auto") or ""
        if address in ("", where):
            raise LinkError(unreachable(where, ConnectionError("none runs on this machine")))
    host, _, port = address.rpartition(":")
    try:
        with socket.create_connection((host.strip("[]"), int(port)), REACHABLE) as head:
            return f"{head.getpeername()[0]}:{port}" if head.family == socket.AF_INET else address
    except (OSError, ValueError) as error:
        raise LinkError(unreachable(address, error)) from None


def unreachable(where: str, error: Exception) -> str:
    """The line for a cluster that isn't there."""
    why = str(error).strip().splitlines()[0][:150] if str(error).strip() else type(error).__name__
    start = "start its head with `ray start --head`, or name another as --ray HOST:PORT"
    return f"no Ray cluster can be reached at {where} ({why}): {start}"


def check_refuses_others(address: str) -> None:
    """Raises ConfigError for a cluster that takes callers without a token, or of which nothing is known."""
    if not _refuses_others(address):
        raise ConfigError(
            f"the Ray cluster at {address} takes callers without a token, or doesn't say: whoever reaches it "
            "could vouch for any key. Start its nodes with RAY_AUTH_MODE=token, or accept it with --insecure-ray"
        )


def _refuses_others(address: str) -> bool:
    """Whether the cluster was seen to refuse who has no token; a cluster of which nothing is known doesn't."""
    env = {name: value for name, value in os.environ.items() if not name.startswith("RAY_AUTH_")}
    env |= {"RAY_AUTH_MODE": "disabled"}
    try:
        done = subprocess.run(
            [sys.executable, "-c", PROBE, address],
            env=env,
            stdin=subprocess.DEVNULL,
            stdout=subprocess.DEVNULL,
            stderr=subprocess.DEVNULL,
            timeout=PROBING,
            check=False,
        )
    except subprocess.TimeoutExpired:
        return False
    return done.returncode == REFUSED
