"""How the server is reached: under which names and paths, and by which web pages."""

from __future__ import annotations

import re
from collections.abc import Sequence
from dataclasses import dataclass

from starlette.middleware.cors import CORSMiddleware
from starlette.types import ASGIApp

from cutset.errors import ConfigError
from cutset.serve.stream_frames import StreamPadding

__all__ = ["Front", "check_hosts", "check_origins", "check_root_path"]

DEFAULT_PORTS = {"http": 80, "https": 443}
ORIGIN = re.compile(
    r"(?P<scheme>[a-z][a-z0-9+.-]{0,40})://(?P<host>[a-z0-9_]([a-z0-9_.-]{0,252}[a-z0-9_])?|\[[0-9a-f:.]{2,45}\])"
    r"(:(?P<port>[0-9]{1,5}))?"
)
HOST = re.compile(r"\*|(\*\.)?[A-Za-z0-9_]([A-Za-z0-9_.-]{0,252}[A-Za-z0-9_])?|\[[0-9A-Fa-f:.]{2,45}\]")
ROOT_PATH = re.compile(r"(/[A-Za-z0-9._~-]{1,100}){1,20}")
SHOWN = ("x-request-id", "x-cutset-mode", "retry-after")  # headers that pages may read


@dataclass(frozen=True, slots=True)
class Front:
    """`origins`: web pages that may ask, as `https://chat.example`, or `*` for all. `root_path`: under which a proxy
    hands the server's paths on, with or without it in front. `padding`: of streams of answers."""

    origins: tuple[str, ...] = ()
    root_path: str = ""
    padding: StreamPadding | None = None

    def shared(self, app: ASGIApp) -> ASGIApp:
        """`app` for pages of the origins too: browsers ask whether they may, and show what comes back."""
        if not self.origins:
            return app
        return CORSMiddleware(
            app,
            allow_origins=self.origins,
            allow_methods=("GET", "POST", "DELETE"),
            allow_headers=("*",),
            expose_headers=SHOWN,
        )


def check_origins(texts: Sequence[str], *, keys: bool) -> tuple[str, ...]:
    """Origins as browsers send them. Raises ConfigError for what is none, and for `*` where no key is asked for: any
    page that is open on this machine could use the server."""
    found = []
    for text in texts:
        if text == "*":
            if not keys:
                raise ConfigError("--cors-origin '*' lets every web page ask: give an API key, or name the origins")
            found.append(text)
            continue
        parts = ORIGIN.fullmatch(text.lower())
        port = int(parts["port"]) if parts is not None and parts["port"] else None
        if parts is None or (port is not None and not 0 < port < 65536):
            raise ConfigError(
                f"--cors-origin {text[:100]!r} is no origin: write SCHEME://HOST or SCHEME://HOST:PORT, as "
                "https://chat.example, or '*'"
            )
        shown = port is not None and port != DEFAULT_PORTS.get(parts["scheme"])
        found.append(f"{parts['scheme']}://{parts['host']}" + (f":{port}" if shown else ""))
    return tuple(found)


def check_hosts(texts: Sequence[str], *, keys: bool) -> tuple[str, ...]:
    """Names of this server in lower case. Raises ConfigError for what is none, and for `*` without a key to ask for."""
    for text in texts:
        if not HOST.fullmatch(text):
            raise ConfigError(
                f"--allowed-host {text[:100]!r} is no name of a host: write it without scheme and port, as "
                "gpu.example or *.example"
            )
        if text == "*" and not keys:
            raise ConfigError("--allowed-host '*' lets every web page ask by DNS rebinding: give an API key, or a name")
    return tuple(text.lower().strip("[]") for text in texts)


def check_root_path(text: str) -> str:
    """The path as it goes before others. Raises ConfigError."""
    if text in ("", "/"):
        return ""
    path = text.rstrip("/")
    if not ROOT_PATH.fullmatch(path) or any(part in (".", "..") for part in path.split("/")):
        raise ConfigError(f"--root-path {text[:100]!r} can't be used: write it as /models or /a/b")
    return path
