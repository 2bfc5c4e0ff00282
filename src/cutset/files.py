"""Output files that are whole or not there at all."""

from __future__ import annotations

import contextlib
import errno
import json
import os
import secrets
import stat
from collections.abc import Iterator
from dataclasses import asdict
from typing import IO, Any

from cutset.errors import ConfigError

__all__ = ["appearing", "check_writable", "name_full_disk", "write_atomically", "write_json"]

FULL = (errno.ENOSPC, errno.EDQUOT, errno.EFBIG)


@contextlib.contextmanager
def appearing(path: str | os.PathLike[str], mode: int = 0o666) -> Iterator[IO[bytes]]:
    """A new file to write to, which stands at `path` once the block ends well; else nothing is left. Raises OSError."""
    temporary = _beside(path)

    def opener(name: str, flags: int) -> int:
        return os.open(name, flags, mode)

    try:
        with open(temporary, "xb", opener=opener) as file:
            yield file
        os.replace(temporary, path)
    except BaseException as error:  # Ctrl-C too
        name_full_disk(error, path)
        with contextlib.suppress(OSError):
            os.unlink(temporary)
        raise


def name_full_disk(error: BaseException, path: str | os.PathLike[str]) -> None:
    """Has the error of a write that found no room say where: the system's doesn't."""
    if isinstance(error, OSError) and error.errno in FULL and error.filename is None:
        error.filename = os.fspath(path)


def _beside(path: str | os.PathLike[str]) -> str:
    folder, name = os.path.split(os.fspath(path))
    return os.path.join(folder, f".{name[:100]}.{secrets.token_hex(6)}.tmp")


def check_writable(path: str | os.PathLike[str]) -> None:
    """Raises `ConfigError` now for what `write_atomically` couldn't write later. Nothing is left, or changed."""
    try:
        target = os.path.realpath(path)
        with contextlib.suppress(FileNotFoundError):
            if stat.S_ISDIR(os.stat(target).st_mode):
                raise IsADirectoryError(errno.EISDIR, os.strerror(errno.EISDIR))
        if os.path.exists(path) and not os.path.isfile(path):
            if not os.access(path, os.W_OK):
                raise PermissionError(errno.EACCES, os.strerror(errno.EACCES))
            return
        temporary = _beside(target)
        with open(temporary, "xb"):
            os.unlink(temporary)
    except (OSError, ValueError) as error:
        raise ConfigError(f"{os.fspath(path)!r} can't be written: {getattr(error, 'strerror', error)}") from error


def write_atomically(path: str | os.PathLike[str], content: str | bytes | memoryview, *, private: bool = False) -> None:
    """Puts `content` at `path` in one step: whoever reads it sees what was there before, or all of it. Text is UTF-8.

    A link is followed, permissions of a file that is replaced are kept, and what is no regular file (/dev/stdout, a
    pipe) is written to directly. `private`: only its owner may read the file (0600), whatever stood there before.
    Raises `ConfigError` where it can't be written.
    """
    try:
        data = content.encode() if isinstance(content, str) else content
        if os.path.exists(path) and not os.path.isfile(path):
            with open(path, "wb") as stream:
                stream.write(data)
        else:
            _replace(os.path.realpath(path), data, private)
    except BrokenPipeError:
        raise  # the reader went away: nothing is wrong with the path
    except (OSError, ValueError) as error:  # a ValueError: a zero byte in the path, a lone surrogate in the text
        raise ConfigError(f"{os.fspath(path)!r} can't be written: {getattr(error, 'strerror', error)}") from error


def _replace(target: str, data: bytes | memoryview, private: bool) -> None:
    with appearing(target, 0o600 if private else 0o666) as file:
        file.write(data)
        if os.path.exists(target) and not private:
            os.fchmod(file.fileno(), stat.S_IMODE(os.stat(target).st_mode))
        file.flush()
        os.fsync(file.fileno())


def write_json(path: str | os.PathLike[str], value: Any, *, private: bool = False) -> None:
    """`write_atomically` of a JSON document, in which dataclasses are objects. `private`: it holds somebody's text.

    Raises `ConfigError`, also for numbers that JSON doesn't have (NaN).
    """
    try:
        text = json.dumps(value, indent=1, ensure_ascii=False, allow_nan=False, default=asdict)
    except ValueError as error:
        raise ConfigError(f"{os.fspath(path)!r} can't be written: {error}") from error
    write_atomically(path, text + "\n", private=private)
