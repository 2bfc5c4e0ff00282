"""What is written beside a wheel: its SBOM and its hashes; and what tells two builds apart."""

from __future__ import annotations

import json
import subprocess
import zipfile
from pathlib import Path
from typing import Any

import pytest
from cyclonedx.schema import SchemaVersion
from cyclonedx.validation.json import JsonStrictValidator

from release.__main__ import main
from release.rebuild import differences
from release.sbom import write_sbom
from release.sums import ReleaseError, sha256_of, write_sums

METADATA = """Metadata-Version: 2.4
Name: cutset
Version: 9.9
License-Expression: Apache-2.0
Provides-Extra: trust
Provides-Extra: dev
Provides-Extra: lost
Requires-Dist: jinja2>=3
Requires-Dist: no-such-thing>=1; sys_platform == "atari"
Requires-Dist: httpx>=0.27; extra == "trust"
Requires-Dist: cutset-was-never-there; extra == "lost"
Requires-Dist: hypothesis>=6; extra == "dev"
"""


def wheel(folder: Path, *, code: bytes = b"\x7fELF", order: int = 1, minute: int = 0, mode: int = 0o644) -> Path:
    folder.mkdir(parents=True, exist_ok=True)
    path = folder / "cutset-9.9-cp311-cp311-linux_x86_64.whl"
    files = {"cutset/_native.so": code, "cutset/story/model.safetensors": b"w", "cutset-9.9.dist-info/METADATA": b""}
    files["cutset-9.9.dist-info/METADATA"] = METADATA.encode()
    with zipfile.ZipFile(path, "w") as archive:
        for name in list(files)[::order]:
            entry = zipfile.ZipInfo(name, (2020, 1, 1, 0, minute, 0))
            entry.external_attr = mode << 16
            archive.writestr(entry, files[name])
    return path


def components(bom: Path) -> dict[str, Any]:
    return {one["name"]: one for one in json.loads(bom.read_text())["components"]}


def test_an_sbom_says_what_is_in_it(tmp_path: Path) -> None:
    made = wheel(tmp_path)
    bom = write_sbom(made, 1_700_000_000)
    assert bom.name == "cutset-9.9.cdx.json"
    assert JsonStrictValidator(SchemaVersion.V1_6).validate_str(bom.read_text()) is None
    said = json.loads(bom.read_text())
    root = said["metadata"]["component"]
    assert (root["name"], root["version"], root["purl"]) == ("cutset", "9.9", "pkg:pypi/cutset@9.9")
    assert root["hashes"] == [{"alg": "SHA-256", "content": sha256_of(made)}]
    [licence] = root["licenses"]
    assert licence["license"]["id"] == "Apache-2.0"
    assert said["metadata"]["timestamp"].startswith("2023-11-14T22:13:20")
    found = components(bom)
    # What is needed, and what that needs; what is linked in; extras for users, those for developers not.
    assert found["jinja2"]["scope"] == found["markupsafe"]["scope"] == found["nanobind"]["scope"] == "required"
    assert found["httpx"]["scope"] == found["httpcore"]["scope"] == "optional"
    assert found["jinja2"]["purl"].startswith("pkg:pypi/jinja2@3.")
    assert "version" not in found["cutset-was-never-there"]
    assert not {"hypothesis", "no-such-thing", "cutset"} & set(found)
    assert found["cutset/story/model.safetensors"]["type"] == "machine-learning-model"
    assert found["cutset/_native.so"]["hashes"][0]["content"] == sha256_of_bytes(b"\x7fELF")
    needs = {one["ref"]: one.get("dependsOn", []) for one in said["dependencies"]}
    assert found["jinja2"]["bom-ref"] in needs[root["bom-ref"]]
    assert found["markupsafe"]["bom-ref"] in needs[found["jinja2"]["bom-ref"]]


def sha256_of_bytes(data: bytes) -> str:
    import hashlib

    return hashlib.sha256(data).hexdigest()


def test_the_same_wheel_has_the_same_sbom(tmp_path: Path) -> None:
    first, again, other = (
        write_sbom(wheel(tmp_path / name, code=code), 7).read_bytes()
        for name, code in (("a", b"1"), ("b", b"1"), ("c", b"2"))
    )
    assert first == again
    assert json.loads(first)["serialNumber"] != json.loads(other)["serialNumber"]


def test_hashes_are_those_that_sha256sum_checks(tmp_path: Path, capsys: pytest.CaptureFixture[str]) -> None:
    wheel(tmp_path)
    (tmp_path / "cutset-9.9.tar.gz").write_bytes(b"source")
    assert main([str(tmp_path)]) == 0
    names = [line.split("  ")[1] for line in (tmp_path / "SHA256SUMS").read_text().splitlines()]
    assert names == ["cutset-9.9-cp311-cp311-linux_x86_64.whl", "cutset-9.9.cdx.json", "cutset-9.9.tar.gz"]
    check = ["sha256sum", "--check", "--strict", "--quiet", "SHA256SUMS"]
    assert subprocess.run(check, cwd=tmp_path, timeout=30, check=False).returncode == 0
    (tmp_path / "cutset-9.9.tar.gz").write_bytes(b"other")
    assert subprocess.run(check, cwd=tmp_path, timeout=30, check=False, capture_output=True).returncode == 1


def test_what_cannot_be_released(tmp_path: Path, capsys: pytest.CaptureFixture[str]) -> None:
    assert main([str(tmp_path)]) == 2
    assert "holds 0 of *.whl" in capsys.readouterr().err
    with pytest.raises(ReleaseError, match="holds 0"):
        write_sums(tmp_path)
    (tmp_path / "x.whl").write_bytes(b"no archive")
    with pytest.raises(ReleaseError, match="is no wheel"):
        write_sbom(tmp_path / "x.whl", 0)


@pytest.mark.parametrize(
    ("how", "said"),
    [
        ({}, []),
        ({"code": b"other"}, ["cutset/_native.so has other content"]),
        ({"order": -1}, ["their files are in another order"]),
        ({"mode": 0o600}, ["has another time or other permissions"] * 3),
        ({"minute": 2}, ["has another time or other permissions"] * 3),
    ],
)
def test_what_tells_two_builds_apart(tmp_path: Path, how: dict[str, Any], said: list[str]) -> None:
    found = differences(wheel(tmp_path / "a"), wheel(tmp_path / "b", **how))
    assert len(found) == len(said)
    for line, words in zip(found, said, strict=True):
        assert words in line
