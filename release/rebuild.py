"""Builds a wheel from the released sdist twice, where as much as can differ does, and compares the bytes."""

from __future__ import annotations

import os
import subprocess
import sys
import tarfile
import tempfile
import zipfile
from collections.abc import Callable
from pathlib import Path

from release.sums import ReleaseError, one_file, sha256_of

__all__ = ["differences", "rebuilt"]

# Two places, and what their builders have in their surroundings.
PLACES: tuple[tuple[str, int, dict[str, str]], ...] = (
    ("a", 0o022, {"TZ": "UTC", "LC_ALL": "C"}),
    ("another place, with a longer name", 0o077, {"TZ": "Pacific/Auckland", "LC_ALL": "C.UTF-8", "USER": "somebody"}),
)


def rebuilt(dist: Path, say: Callable[[str], object]) -> int:
    """0 where both builds have the bytes of the wheel in `dist`, 1 where one hasn't. Takes as long as compiling twice.
    Raises ReleaseError."""
    sdist, wheel = one_file(dist, "*.tar.gz"), one_file(dist, "*.whl")
    say(f"{sha256_of(wheel)}  {wheel.name}\n")
    wrong = 0
    with tempfile.TemporaryDirectory(prefix="cutset-rebuilt-") as home:
        for name, umask, surroundings in PLACES:
            place = Path(home, name)
            place.mkdir()
            found = _built(sdist, place, umask, surroundings)
            say(f"{sha256_of(found)}  built again in a directory {name!r}\n")
            for line in differences(wheel, found):
                wrong = 1
                say(f"  {line}\n")
    say("the builds differ\n" if wrong else "the same bytes, three times\n")
    return wrong


def _built(sdist: Path, place: Path, umask: int, surroundings: dict[str, str]) -> Path:
    with tarfile.open(sdist) as archive:
        archive.extractall(place, filter="data")
    (source,) = place.iterdir()
    command = [sys.executable, "-m", "build", "--no-isolation", "--wheel", "--outdir", str(place / "dist"), str(source)]
    done = subprocess.run(
        command, env=os.environ | surroundings, umask=umask, capture_output=True, text=True, check=False
    )
    if done.returncode:
        raise ReleaseError(f"building in {place} failed:\n{done.stdout[-2000:]}{done.stderr[-2000:]}")
    return one_file(place / "dist", "*.whl")


def differences(first: Path, second: Path) -> list[str]:
    """What tells two wheels apart, a line each; none where every byte is the same."""
    if first.name != second.name:
        return [f"{first.name} and {second.name} have different names"]
    if first.read_bytes() == second.read_bytes():
        return []
    with zipfile.ZipFile(first) as one, zipfile.ZipFile(second) as other:
        ours, theirs = one.infolist(), other.infolist()
        names = [entry.filename for entry in ours], [entry.filename for entry in theirs]
        found = [f"{name} is in one of them" for name in sorted({*names[0]} ^ {*names[1]})]
        if not found and names[0] != names[1]:
            found.append("their files are in another order")
        for entry in ours:
            if entry.filename not in names[1]:
                continue
            twin = other.getinfo(entry.filename)
            if one.read(entry) != other.read(twin):
                found.append(f"{entry.filename} has other content")
            elif (entry.date_time, entry.external_attr) != (twin.date_time, twin.external_attr):
                found.append(f"{entry.filename} has another time or other permissions")
    return found or ["the archives are packed in another way"]
