"""What protects a Ray cluster, and what of it is off: who may join could vouch for any key.

Nothing here loads Ray.
"""

from __future__ import annotations

import importlib.metadata
import os
from collections.abc import Iterator, Mapping
from pathlib import Path

from cutset.errors import ConfigError

__all__ = ["WANTED", "check_installed", "check_protected", "has_token", "installed", "ray_findings"]

WANTED = "2.60"  # the Ray that this is written for, as pyproject.toml pins it
INSTALL = "pip install 'cutset[ray]'"
TRUE = ("1", "true")


def installed() -> str:
    """The version of Ray; "" where there is none."""
    try:
        return importlib.metadata.version("ray")
    except importlib.metadata.PackageNotFoundError:
        return ""


def check_installed() -> None:
    """Raises ConfigError where Ray is missing, or is another one."""
    version = installed()
    if not version:
        raise ConfigError(f"--ray needs Ray {WANTED}, which isn't installed: {INSTALL}")
    if not version.startswith(f"{WANTED}."):
        raise ConfigError(f"--ray needs Ray {WANTED}, and {version} is installed: {INSTALL}")


def has_token(environ: Mapping[str, str] = os.environ) -> bool:
    """Whether Ray would use token authentication from here, as Ray decides it: by RAY_AUTH_MODE, else by a token."""
    mode = environ.get("RAY_AUTH_MODE")
    if mode is not None:
        return mode.lower() == "token"
    if environ.get("RAY_AUTH_TOKEN") or environ.get("RAY_AUTH_TOKEN_PATH"):
        return True
    return (Path(environ.get("HOME") or "~").expanduser() / ".ray" / "auth_token").is_file()


def check_protected(where: str, *, insecure: bool, environ: Mapping[str, str] = os.environ) -> None:
    """Raises ConfigError for a cluster without token authentication, unless that is accepted. A local one has a token
    of its own."""
    if where == "local" or insecure or has_token(environ):
        return
    raise ConfigError(
        f"--ray {where}: Ray's token authentication is off, so whoever reaches the cluster runs code on its nodes and "
        "could vouch for any key. Set RAY_AUTH_MODE=token here and on all nodes, or accept it with --insecure-ray"
    )


def ray_findings(environ: Mapping[str, str] = os.environ) -> Iterator[tuple[str, str, str]]:
    """What was found, "good" or "warn", and what to do."""
    version = installed()
    if not version:
        yield "not installed; --ray needs it (cutset[ray])", "good", ""
        return
    if not version.startswith(f"{WANTED}."):
        yield f"Ray {version}", "warn", f"--ray needs {WANTED}: {INSTALL}"
    if has_token(environ):
        yield f"Ray {version}, token authentication on: who has no token can't join or call", "good", ""
    else:
        yield (
            f"Ray {version}, token authentication off",
            "warn",
            "whoever reaches the cluster runs code on its nodes, and could vouch for any key: set RAY_AUTH_MODE=token "
            "here and on all nodes (`ray get-auth-token --generate`)",
        )
    if environ.get("RAY_USE_TLS", "0").lower() in TRUE:
        yield "TLS between Ray's processes on", "good", ""
    else:
        yield (
            "TLS between Ray's processes off",
            "warn",
            "who reads the network sees Ray's token and can change what Ray says, which party has which key too; "
            "tokens, pictures and hidden states don't go that way. Set RAY_USE_TLS=1 with certificates, or keep Ray on "
            "a network of its own",
        )
