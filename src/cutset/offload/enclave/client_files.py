"""Which files the client needs, found by asking one: the interpreter, its library, packages, shared libraries.

A child process imports the client and says what that loaded. Directories of packages are then taken whole, without
tests and caches, so that what is imported later is measured too.
"""

from __future__ import annotations

import hashlib
import json
import os
from collections.abc import Iterator
from dataclasses import dataclass
from pathlib import Path

from cutset.errors import DeviceError, ModelError
from cutset.link.launch import probe
from cutset.models.files.formats import weight_files
from cutset.models.text.tokenizer_files import tokenizer_files

__all__ = ["MeasuredFiles", "Mount", "client_files", "digest", "model_files"]

CLIENT = (
    "cutset.cli",
    "cutset.cli.generate",
    "cutset.llm",
    "cutset.models.run.native",
    "cutset.models.text.chat",
    "cutset.offload.client",
    "cutset.link",
    "cutset.kernels._native",
    "cutset.link.shm",
    "cutset.link.zeromq",
    "cryptography.hazmat.primitives.ciphers.algorithms",
    "jinja2.sandbox",
    "msgspec",
    "tokenizers",
    "threadpoolctl",
    "zmq",
)
# What asking a key server takes too.
ASKING = ("cutset.cli.trust", "cutset.trust.sealing.mount_key", "cutset.trust.evidence.providers", "httpx", "ssl")
PROBE = """
import importlib, json, os, sys, sysconfig
for name in json.loads(sys.argv[1]):
    try:
        importlib.import_module(name)
    except ModuleNotFoundError:
        pass
modules = {name: getattr(module, "__file__", None) for name, module in list(sys.modules.items())}
with open("/proc/self/maps") as maps:
    libraries = sorted({line.split()[-1] for line in maps if ".so" in line.split()[-1]})
print(json.dumps({
    "executable": os.path.realpath(sys._base_executable), "stdlib": os.path.realpath(sysconfig.get_path("stdlib")),
    "modules": {name: os.path.realpath(file) for name, file in modules.items() if file}, "libraries": libraries,
}))
"""
SKIPPED_DIRECTORIES = {
    *("__pycache__", "tests", "test", "site-packages", "dist-packages", "bundled", "include", "ensurepip", "idlelib"),
    *("lib2to3", "tkinter", "turtledemo", "pydoc_data", "distutils"),
}
SKIPPED_SUFFIXES = (".pyc", ".pyi", ".pxd", ".pyx", ".h", ".c", ".a", ".exe", ".md", ".rst")
# How an editable installation is found; nothing of these is needed where the packages themselves are mounted.
SKIPPED_PACKAGES = ("_editable", "__editable", "_distutils_hack", "_virtualenv", "distutils-precedence")
# Gramine brings its own of these.
RUNTIME = ("ld-linux", "libc.so", "libm.so", "libdl.so", "libpthread.so", "librt.so", "libutil.so", "libresolv.so")
MODEL_SUFFIXES = (".json", ".jinja", ".txt", ".model")  # beside the weights


@dataclass(frozen=True, slots=True)
class Mount:
    """A file or directory of the host, and its place in the enclave."""

    path: str
    source: Path


@dataclass(frozen=True, slots=True)
class MeasuredFiles:
    """What the enclave sees: mounts, and under them the only files that may be opened."""

    mounts: tuple[Mount, ...]
    files: tuple[Path, ...]


def digest(path: Path) -> str:
    """SHA-256 of a file, in hexadecimal."""
    with path.open("rb") as file:
        return hashlib.file_digest(file, "sha256").hexdigest()


def model_files(directory: Path) -> tuple[Path, ...]:
    """The files of a model that the client reads: data only, never code. Raises ModelError."""
    found = {file for file in directory.iterdir() if file.is_file() and file.suffix in MODEL_SUFFIXES}
    if not any(file.name == "config.json" for file in found):
        raise ModelError(f"{directory} has no config.json; name the directory of a model")
    found |= {file for file in tokenizer_files(directory) if file.suffix in MODEL_SUFFIXES}  # templates in a folder
    found |= set(weight_files(directory))
    return tuple(sorted(found))


def client_files(*, asking: bool = False) -> MeasuredFiles:
    """What the client in this Python installation needs: `/python`, `/app` and `/libs` in the enclave. `asking`: it
    asks a key server first.

    Raises DeviceError where the client can't be imported, or this isn't Linux.
    """
    try:
        found = probe(PROBE, json.dumps(CLIENT + (ASKING if asking else ())), timeout=120)
    except DeviceError as error:
        raise DeviceError(f"the client can't be imported to see what it needs: {error}") from None
    stdlib, executable = Path(found["stdlib"]), Path(found["executable"])
    mounts = [Mount("/python/bin/python3", executable), Mount(f"/python/lib/{stdlib.name}", stdlib)]
    mounts += _packages(found["modules"], stdlib)
    mounts += _libraries([Path(name) for name in found["libraries"]], [mount.source for mount in mounts])
    files = {file for mount in mounts for file in _walk(mount.source)}
    return MeasuredFiles(tuple(mounts), tuple(sorted(files)))


def _packages(modules: dict[str, str], stdlib: Path) -> Iterator[Mount]:
    """The packages that were loaded, each under /app, and modules that lie elsewhere than their package."""
    roots: dict[str, Path] = {}
    for name, text in modules.items():
        file = Path(text)
        if "." in name or not file.suffix or name.startswith(SKIPPED_PACKAGES) or name == "__main__":
            continue
        if file.is_relative_to(stdlib) and not {"site-packages", "dist-packages"} & set(file.relative_to(stdlib).parts):
            continue
        root = roots[name] = file.parent if file.name == "__init__.py" else file
        yield Mount(f"/app/{root.name}", root)
        libraries = root.parent / f"{ {'zmq': 'pyzmq'}.get(name, name) }.libs"
        if libraries.is_dir():
            yield Mount(f"/app/{libraries.name}", libraries)
    for name, text in modules.items():
        top, *inner = name.split(".")
        file = Path(text)
        if inner and top in roots and roots[top].is_dir() and not file.is_relative_to(roots[top]):
            yield Mount("/".join(["/app", top, *inner[:-1], file.name]), file)


def _libraries(loaded: list[Path], known: list[Path]) -> Iterator[Mount]:
    """Shared libraries from outside of the packages, under every name that a link beside them has."""
    for file in loaded:
        real = file.resolve()
        if file.name.startswith(RUNTIME) or any(real == source or real.is_relative_to(source) for source in known):
            continue
        names = {real.name} | {link.name for link in real.parent.iterdir() if _points_at(link, real)}
        for name in sorted(names):
            yield Mount(f"/libs/{name}", real)


def _points_at(link: Path, file: Path) -> bool:
    named = link.name.startswith(
        file.name.partition(".so")[0] + ".so."
    )  # without a number, a compiler asks, no program
    return named and link.is_symlink() and link.resolve() == file


def _walk(source: Path) -> Iterator[Path]:
    if source.is_file():
        yield source
        return
    for folder, folders, names in os.walk(source):
        folders[:] = sorted(
            name for name in folders if name not in SKIPPED_DIRECTORIES and not name.startswith("config-")
        )
        for name in sorted(names):
            if not name.endswith(SKIPPED_SUFFIXES):
                yield Path(folder, name)
