"""The software bill of materials of a wheel, as CycloneDX: the wheel, what is linked into it, what it needs.

Versions are those that it was built and tested with, of this environment. The same wheel in the same environment has
the same file: its serial number is made of the wheel's hash, its time is SOURCE_DATE_EPOCH.
"""

from __future__ import annotations

import email
import hashlib
import uuid
import zipfile
from collections.abc import Iterator
from datetime import UTC, datetime
from importlib import metadata
from pathlib import Path

from cyclonedx.contrib.license.factories import LicenseFactory
from cyclonedx.model import HashAlgorithm, HashType
from cyclonedx.model.bom import Bom
from cyclonedx.model.component import Component, ComponentScope, ComponentType
from cyclonedx.output.json import JsonV1Dot6
from packageurl import PackageURL
from packaging.requirements import Requirement
from packaging.utils import canonicalize_name

from release.sums import ReleaseError, sha256_of

__all__ = ["write_sbom"]

LINKED = ("nanobind",)  # compiled into the extension
TOOLS = ("dev", "bench")  # extras that aren't for users
NATIVE, WEIGHTS = ".so", ".safetensors"


def write_sbom(wheel: Path, epoch: int) -> Path:
    """Writes NAME-VERSION.cdx.json beside the wheel. `epoch`: its time, in seconds since 1970. Raises ReleaseError."""
    try:
        with zipfile.ZipFile(wheel) as archive:
            names = archive.namelist()
            said = email.message_from_bytes(archive.read(next(name for name in names if name.endswith("/METADATA"))))
            parts = [_part(name, archive.read(name)) for name in sorted(names) if name.endswith((NATIVE, WEIGHTS))]
    except (OSError, zipfile.BadZipFile, StopIteration):
        raise ReleaseError(f"{wheel} is no wheel") from None
    digest = sha256_of(wheel)
    root = _component(said["Name"], said["Version"], said["License-Expression"], ComponentScope.REQUIRED)
    root.hashes.add(HashType(alg=HashAlgorithm.SHA_256, content=digest))
    bom = Bom(serial_number=uuid.uuid5(uuid.NAMESPACE_URL, f"sha256:{digest}"))
    bom.metadata.timestamp = datetime.fromtimestamp(epoch, UTC)
    bom.metadata.component = root
    packages = _Packages()
    asked = [Requirement(text) for text in said.get_all("Requires-Dist") or ()]
    extras = sorted({*(said.get_all("Provides-Extra") or ())} - {*TOOLS})
    # What everybody needs first, so that it isn't called optional.
    needed = packages.add(asked, [""], ComponentScope.REQUIRED)
    needed += packages.add([Requirement(name) for name in LINKED], [""], ComponentScope.REQUIRED)
    needed += packages.add(asked, extras, ComponentScope.OPTIONAL)
    for one in (*packages.found.values(), *parts):
        bom.components.add(one)
    bom.register_dependency(root, [packages.found[name] for name in dict.fromkeys(needed)] + parts)
    for name, more in packages.needs.items():
        bom.register_dependency(packages.found[name], [packages.found[each] for each in more])
    file = wheel.with_name(f"{wheel.name.split('-')[0]}-{said['Version']}.cdx.json")
    file.write_text(JsonV1Dot6(bom).output_as_string(indent=1) + "\n", encoding="utf-8")
    return file


class _Packages:
    """Distributions and all that they need, each once. `needs`: names by name."""

    def __init__(self) -> None:
        self.found: dict[str, Component] = {}
        self.needs: dict[str, list[str]] = {}

    def add(self, asked: list[Requirement], extras: list[str], scope: ComponentScope) -> list[str]:
        """The names of those that are asked for with one of these extras, here."""
        names = list(_wanted(asked, extras))
        for name, more in names:
            key = canonicalize_name(name)
            known = self.needs.get(key)
            try:
                there = metadata.distribution(name)
            except metadata.PackageNotFoundError:  # of an extra that this environment lacks
                self.found.setdefault(key, _component(name, None, None, scope))
                continue
            if known is None:
                self.found[key] = _component(name, there.version, there.metadata["License-Expression"], scope)
                self.needs[key] = []
            inner = [Requirement(text) for text in there.requires or ()]
            if known is None or more:
                self.needs[key] = sorted({*self.needs[key], *self.add(inner, ["", *more], scope)} - {key})
        return [canonicalize_name(name) for name, _ in names]


def _wanted(asked: list[Requirement], extras: list[str]) -> Iterator[tuple[str, list[str]]]:
    for one in asked:
        if one.marker is None:
            if "" in extras:
                yield one.name, sorted(one.extras)
        elif any(one.marker.evaluate({"extra": extra}) for extra in extras) and (
            "" in extras or not one.marker.evaluate({"extra": ""})
        ):
            yield one.name, sorted(one.extras)


def _component(name: str, version: str | None, licence: str | None, scope: ComponentScope) -> Component:
    plain = canonicalize_name(name)
    package = PackageURL("pypi", name=plain, version=version)
    return Component(
        name=plain,
        version=version,
        type=ComponentType.LIBRARY,
        scope=scope,
        bom_ref=str(package),
        purl=package,
        licenses=[LicenseFactory().make_from_string(licence)] if licence else None,
    )


def _part(name: str, data: bytes) -> Component:
    """A file of the wheel that somebody may want to find again: machine code, and trained weights."""
    kind = ComponentType.MACHINE_LEARNING_MODEL if name.endswith(WEIGHTS) else ComponentType.FILE
    return Component(
        name=name,
        type=kind,
        bom_ref=f"file:{name}",
        hashes=[HashType(alg=HashAlgorithm.SHA_256, content=hashlib.sha256(data).hexdigest())],
    )
