"""Says what is wrong with a Gramine manifest, or with a template of one: each hole in a line, none if it is sound.

The holes are those of published manifests, which run a model in an enclave that the host can take over: files that are
allowed without being measured, arguments and variables of the host, debug enclaves, keys in the manifest, whole
directories of the system. Syntax: https://gramine.readthedocs.io/en/stable/manifest-syntax.html
"""

from __future__ import annotations

import stat
from collections.abc import Callable, Iterator, Mapping
from pathlib import Path, PurePosixPath
from typing import Any

from cutset.config import parse_toml, read_bounded
from cutset.errors import printable
from cutset.offload.enclave.command import argument_holes, variable_holes

__all__ = ["lint", "lint_file"]

MOST_BYTES = 64 << 20
MOST_DIGITS = 20  # of the enclave's size
# A host's directories that hold far more than one program needs, or that others write to.
WIDE = (
    "/",
    "/usr",
    "/usr/lib",
    "/usr/lib64",
    "/usr/local",
    "/usr/local/lib",
    "/usr/bin",
    "/usr/share",
    "/lib",
    "/lib64",
)
WIDE_TOPS = (
    "bin",
    "boot",
    "data",
    "dev",
    "etc",
    "home",
    "media",
    "mnt",
    "opt",
    "proc",
    "root",
    "run",
    "srv",
    "sys",
    "var",
)
SHARED = ("/tmp", "/var/tmp", "/dev/shm", "/run", "/proc", "/sys")
DANGEROUS = ("LD_PRELOAD", "LD_AUDIT", "PYTHONSTARTUP", "PYTHONINSPECT", "GLIBC_TUNABLES")
Document = Mapping[str, Any]


def lint_file(path: Path) -> list[str]:
    """`lint` of a file. Raises ConfigError where it can't be read or isn't TOML."""
    return lint(parse_toml(read_bounded(path, MOST_BYTES), str(path)))


def lint(document: Document) -> list[str]:
    """The holes of a manifest, a line each, in the order of RULES."""
    return [printable(problem, lines=False) for rule in RULES for problem in rule(document)]


def insecure_keys(document: Document) -> Iterator[str]:
    """Keys whose own names say that they aren't safe."""
    for path, value in _leaves(document):
        if any(part.startswith("insecure__") for part in path) and value not in (False, 0):
            yield f"{'.'.join(path)}: the name says it; remove it"


def arguments(document: Document) -> Iterator[str]:
    """What the program is started with."""
    argv = _get(document, "loader.argv")
    if "argv_src_file" in _table(document, "loader"):
        yield "loader.argv_src_file: write the arguments into loader.argv, where they are measured and seen"
    elif not _strings(argv):
        yield "loader.argv: must list the arguments; without it the program has none, or the host's"
    else:
        for word in argv:
            if "trust_remote_code" in word.replace("-", "_"):
                yield "loader.argv: trust_remote_code runs code that comes with a model"
        yield from argument_holes(argv, document)


def environment(document: Document) -> Iterator[str]:
    """Variables of the program."""
    loader = _table(document, "loader")
    if "env_src_file" in loader:
        yield "loader.env_src_file: write the variables as loader.env.NAME, where they are measured and seen"
    for name, value in _table(loader, "env").items():
        if isinstance(value, dict) and "passthrough" in value:
            yield f"loader.env.{name}: comes from the host; give it a value"
        if name in DANGEROUS:
            yield f"loader.env.{name}: loads other code into the program; remove it"
    yield from variable_holes(_table(loader, "env"), document)


def debugging(document: Document) -> Iterator[str]:
    """What lets the host look in."""
    sgx = _table(document, "sgx")
    for name in ("debug", "enable_stats", "vtune_profile"):
        if sgx.get(name, False) is not False:
            yield f"sgx.{name}: opens the enclave to the host; set it to false"
    if _get(document, "sgx.profile.enable") not in (None, "none"):
        yield "sgx.profile.enable: opens the enclave to the host; remove it"
    if _get(document, "loader.log_level") not in (None, "error", "none"):
        yield "loader.log_level: writes what the program does where the host reads it; set it to error"


def allowed_files(document: Document) -> Iterator[str]:
    """Gramine wants a shared-memory mount named here too; that one, and nothing else."""
    ring = [str(mount.get("uri", "")).rstrip("/") for mount in _shared_memory(document)]
    for entry in _list(document, "sgx.allowed_files"):
        if _uri(entry).rstrip("/") not in ring:
            yield f"sgx.allowed_files: {_uri(entry)!r} is not measured: whoever writes it decides what the enclave does"
    if _get(document, "sgx.file_check_policy") not in (None, "strict"):
        yield "sgx.file_check_policy: lets the host supply any file; set it to strict"


def trusted_files(document: Document) -> Iterator[str]:
    """Files that are measured."""
    entries = _list(document, "sgx.trusted_files")
    if not entries:
        yield "sgx.trusted_files: nothing is measured, so nothing can be opened"
    for entry in entries:
        uri = _uri(entry)
        if not uri.startswith("file:"):
            yield f"sgx.trusted_files: {uri!r} is not a file: URI"
            continue
        path = uri.removeprefix("file:")
        if path.endswith("/") and _wide(path):
            yield f"sgx.trusted_files: {path!r} is far more than the program needs; name its files"
        elif _writable(path):
            yield f"sgx.trusted_files: {path!r} lies where anybody may write; move it"


def mounts(document: Document) -> Iterator[str]:
    """Places of the host that the program sees."""
    for mount in _mounts(document):
        kind, uri = mount.get("type", "chroot"), str(mount.get("uri", ""))
        path = uri.partition(":")[2]
        if kind == "chroot" and uri.startswith("dev:"):
            yield f"fs.mounts: {uri!r} is a device of the host"
        elif kind == "chroot" and _wide(path):
            yield f"fs.mounts: {path!r} is far more than the program needs; mount what it reads"
        elif kind == "chroot" and _writable(path):
            yield f"fs.mounts: {path!r} lies where anybody may write; use a tmpfs, or another place"
        elif kind not in ("chroot", "tmpfs", "encrypted", "untrusted_shm"):
            yield f"fs.mounts: {kind!r} is not a kind of mount that is known to be safe"
    root = _table(document, "fs").get("root", {})
    if not isinstance(root, dict) or root.get("type", "chroot") == "chroot":
        path = str(root.get("uri", "")).partition(":")[2] if isinstance(root, dict) else ""
        if not path or _wide(path) or _writable(path):
            yield 'fs.root: shows the current or a whole directory of the host; set fs.root.type = "tmpfs"'


def shared_memory(document: Document) -> Iterator[str]:
    """The one directory of the ring."""
    found = _shared_memory(document)
    if len(found) > 1:
        yield f"fs.mounts: {len(found)} untrusted_shm mounts; the ring needs one"
    for mount in found:
        path = str(mount.get("uri", "")).partition(":")[2].rstrip("/")
        if PurePosixPath(path).parent != PurePosixPath("/dev/shm") or path.endswith("/.."):
            yield f"fs.mounts: untrusted_shm of {path!r}: mount the one directory of the ring in /dev/shm"


def devices(document: Document) -> Iterator[str]:
    """Devices that are let in."""
    if _list(document, "sgx.allowed_ioctls"):
        yield "sgx.allowed_ioctls: hands the enclave's buffers to a device of the host; remove it"


def sizes(document: Document) -> Iterator[str]:
    """The enclave's own."""
    text = _get(document, "sgx.enclave_size")
    units = {"K": 10, "M": 20, "G": 30}
    number = str(text)[:-1] if str(text)[-1:] in units else str(text)
    if not number.isdecimal() or not number.isascii() or len(number) > MOST_DIGITS:
        yield "sgx.enclave_size: must be given, as 4G or 512M"
    elif (size := int(number) << units.get(str(text)[-1], 0)) < 1 or size & (size - 1):
        yield f"sgx.enclave_size: {text} is not a power of two"
    if _get(document, "sgx.remote_attestation") not in ("dcap", "epid", "none"):
        yield 'sgx.remote_attestation: say "dcap", or "none" and who else vouches for the enclave'


RULES: tuple[Callable[[Document], Iterator[str]], ...] = (
    insecure_keys,
    arguments,
    environment,
    debugging,
    allowed_files,
    trusted_files,
    mounts,
    shared_memory,
    devices,
    sizes,
)


def _wide(path: str) -> bool:
    """A directory of the system, somebody's home, or one right below the root."""
    if "{{" in path:  # where Gramine lies
        return False
    place = PurePosixPath(path)
    parts = place.parts[1:]
    if not place.is_absolute():
        return place == PurePosixPath(".") or ".." in place.parts
    return (
        str(place) in WIDE
        or not parts
        or (parts[0] in WIDE_TOPS and len(parts) == 1)
        or (parts[0] == "home" and len(parts) <= 2)
        or (parts[0] == "usr" and len(parts) == 3 and parts[1] == "lib" and parts[2].endswith("-linux-gnu"))
        or (parts[0] == "lib" and len(parts) == 2)
        or ".." in parts
    )


def _writable(path: str) -> bool:
    """In a directory that is everybody's by custom, or, where it is there to be looked at, by its permissions."""
    if "{{" in path:
        return False
    if any(PurePosixPath(path).is_relative_to(shared) for shared in SHARED):
        return True
    place = Path(path)
    for each in (place, *place.parents):
        try:
            if each.stat().st_mode & stat.S_IWOTH:
                return True
        except (OSError, ValueError):  # a ValueError: a zero byte in the path
            continue
    return False


def _leaves(value: Any, path: tuple[str, ...] = ()) -> Iterator[tuple[tuple[str, ...], Any]]:
    if isinstance(value, dict):
        for key, inner in value.items():
            yield from _leaves(inner, (*path, key))
    else:
        yield path, value


def _get(document: Document, name: str) -> Any:
    value: Any = document
    for part in name.split("."):
        value = value.get(part) if isinstance(value, dict) else None
    return value


def _table(document: Document, name: str) -> dict[str, Any]:
    value = _get(document, name)
    return value if isinstance(value, dict) else {}


def _list(document: Document, name: str) -> list[Any]:
    value = _get(document, name)
    return value if isinstance(value, list) else [] if value is None else [value]


def _strings(value: Any) -> bool:
    return isinstance(value, list) and bool(value) and all(isinstance(word, str) for word in value)


def _uri(entry: Any) -> str:
    return str(entry.get("uri", "")) if isinstance(entry, dict) else str(entry)


def _mounts(document: Document) -> list[dict[str, Any]]:
    return [mount for mount in _list(document, "fs.mounts") if isinstance(mount, dict)]


def _shared_memory(document: Document) -> list[dict[str, Any]]:
    return [mount for mount in _mounts(document) if mount.get("type") == "untrusted_shm"]
