"""Who may ask: API keys, and only requests that were meant for this server."""

from __future__ import annotations

import hashlib
import hmac
import ipaddress
from collections.abc import Callable, Sequence

from starlette.types import ASGIApp, Receive, Scope, Send

from cutset.errors import ConfigError
from cutset.serve.api_errors import ApiError

__all__ = ["Auth", "Guard", "keys_from", "refuse"]

MOST_KEYS = 1000
OPEN = ("/", "/health", "/evidence")  # and the dashboard's files, which hold no secrets
OPEN_FOLDER = "/dashboard/"


def keys_from(given: Sequence[str], file: str = "", variable: str = "") -> list[str]:
    """API keys from flags, a file with one a line, and a variable. Raises ConfigError, which names none of them."""
    keys = [key.strip() for key in (*given, *file.splitlines(), variable)]
    keys = [key for key in dict.fromkeys(keys) if key]
    if given and not all(key.strip() for key in given):
        raise ConfigError("--api-key is empty: give a key")
    if len(keys) > MOST_KEYS:
        raise ConfigError(f"there are {len(keys)} API keys; at most {MOST_KEYS} are taken")
    for key in keys:
        if not 8 <= len(key) <= 512 or not key.isascii() or not key.isprintable() or " " in key:
            raise ConfigError("an API key must have 8 to 512 printable ASCII characters and no space")
    return keys


class Auth:
    """The keys, as digests. Raises ConfigError where a server that others can reach would have none."""

    def __init__(
        self,
        keys: Sequence[str],
        host: str,
        *,
        hosts: Sequence[str] = (),  # further names of this server, in lower case; *.NAME is all within one, * all
        changing: bool = False,  # keys may be replaced while the server runs
    ) -> None:
        self._digests = [_digest(key.encode()) for key in keys]
        self._hosts, self._changing = tuple(hosts), changing
        self.loopback = is_loopback(host)
        if not keys and not self.loopback:
            raise ConfigError(
                f"listening on {host} lets others in: set CUTSET_API_KEY (`cutset serve` takes --api-key-file too), or "
                "listen on 127.0.0.1"
            )

    @property
    def needed(self) -> bool:
        """Clients must send a key."""
        return bool(self._digests)

    def replace(self, keys: Sequence[str]) -> None:
        """From the next request on these are the keys. Raises ConfigError for none where some were asked for."""
        if not keys and self._digests:
            raise ConfigError("there would be no API key left, so anybody could ask")
        self._digests = [_digest(key.encode()) for key in keys]

    def answers_to(self, header: bytes) -> bool:
        """Whether a Host header names this server."""
        host = header.decode("latin-1")
        name = (host.rpartition(":")[0] if not host.endswith("]") and ":" in host else host).strip("[]").lower()
        if self._hosts:
            return (self.loopback and is_loopback(name)) or any(_matches(name, one) for one in self._hosts)
        # Without keys whoever reaches the server may use it. A page in a browser on this machine does, if its own name
        # leads here (DNS rebinding); but it can't choose what the browser says the host is.
        return self.needed or is_loopback(name)

    def client(self, header: bytes) -> str | None:
        """Who sent this Authorization header: a name from which the key can't be found. None: nobody we know."""
        scheme, _, key = header.partition(b" ")
        if scheme.lower() != b"bearer":
            return None
        sent, found = _digest(key.strip()), None
        for known in self._digests:  # all of them, so that the time doesn't reveal which
            if hmac.compare_digest(sent, known):
                found = known
        return None if found is None else hashlib.sha256(b"cutset-client" + found).hexdigest()

    @property
    def several(self) -> bool:
        """Clients may have different keys, now or later."""
        return len(self._digests) > 1 or (self._changing and self.needed)


class Guard:
    """Middleware that lets through what `Auth` allows; `scope["cutset.client"]` says who it is where there are several,
    `scope["cutset.owner"]` wherever a key is needed."""

    def __init__(self, app: ASGIApp, auth: Auth, refused: Callable[[int], object] = lambda status: None) -> None:
        self.app, self.auth, self.refused = app, auth, refused

    async def __call__(self, scope: Scope, receive: Receive, send: Send) -> None:
        if scope["type"] != "http":
            await self.app(scope, receive, send)
            return
        headers = dict(scope["headers"])
        error = self._refusal(scope["path"], headers)
        if error is None:
            if self.auth.needed:
                client = self.auth.client(headers.get(b"authorization", b""))
                scope["cutset.owner"] = client  # of what outlives this server, where keys may become several
                if self.auth.several:
                    scope["cutset.client"] = client
            await self.app(scope, receive, send)
            return
        await refuse(error, send, self.refused, scope["path"])

    def _refusal(self, path: str, headers: dict[bytes, bytes]) -> ApiError | None:
        host = headers.get(b"host", b"")
        if not self.auth.answers_to(host):
            shown = host.decode("latin-1")[:100]
            more = "name it with --allowed-host" if self.auth.needed else "give it an API key to be reached"
            return ApiError(403, f"this server answers to other names, as localhost, not to {shown!r}: {more}")
        if not self.auth.needed or path in OPEN or path.startswith(OPEN_FOLDER):
            return None
        if self.auth.client(headers.get(b"authorization", b"")):
            return None
        missing = b"authorization" not in headers
        text = "send an API key: `Authorization: Bearer KEY`" if missing else "that API key isn't known here"
        return ApiError(
            401, text, code="invalid_api_key", headers={"www-authenticate": "Bearer", "connection": "close"}
        )


async def refuse(error: ApiError, send: Send, refused: Callable[[int], object], path: str = "") -> None:
    """Answers with an error before any application is asked."""
    refused(error.status)
    body = error.body(path)
    shown = error.headers | {"content-type": "application/json", "content-length": str(len(body))}
    encoded = [(name.encode(), value.encode()) for name, value in shown.items()]
    await send({"type": "http.response.start", "status": error.status, "headers": encoded})
    await send({"type": "http.response.body", "body": body})


def is_loopback(host: str) -> bool:
    """`localhost`, or an address that only this machine reaches."""
    try:
        return host.lower() == "localhost" or ipaddress.ip_address(host.partition("%")[0]).is_loopback
    except ValueError:
        return False


def _matches(name: str, pattern: str) -> bool:
    return pattern in ("*", name) or (pattern.startswith("*.") and name.endswith(pattern[1:]))


def _digest(key: bytes) -> bytes:
    return hashlib.sha256(key).digest()
