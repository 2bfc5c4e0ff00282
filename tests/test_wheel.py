"""The wheel that `make wheel` built, in an empty environment on a machine without a compiler."""

from __future__ import annotations

import hashlib
import json
import os
import subprocess
import sys
import tarfile
import zipfile
from pathlib import Path

import pytest

from release.rebuild import rebuilt

ROOT = Path(__file__).resolve().parents[1]
DIST = ROOT / "dist"


def one(pattern: str) -> Path:
    found = list(DIST.glob(pattern))
    if not found:
        pytest.skip("the wheel is not built: make wheel")
    assert len(found) == 1, f"{DIST} holds several: {found}"
    return found[0]


@pytest.fixture(scope="module")
def installed(tmp_path_factory: pytest.TempPathFactory) -> Path:
    """The bin directory of an environment that holds the wheel and what it depends on."""
    wheel, home = one("*.whl"), tmp_path_factory.mktemp("wheel")
    subprocess.run([sys.executable, "-m", "venv", str(home / "env")], check=True, timeout=120)
    python = home / "env/bin/python"
    install = [
        python,
        "-m",
        "pip",
        "install",
        "--quiet",
        "--only-binary",
        ":all:",
        "-c",
        ROOT / "constraints.txt",
        wheel,
    ]
    subprocess.run(list(map(str, install)), check=True, timeout=300, env=bare(home / "env/bin"), cwd=home)
    return home / "env/bin"


def bare(path: Path) -> dict[str, str]:
    """Variables of a machine without compilers, and without this checkout on Python's path."""
    kept = {
        name: value for name, value in os.environ.items() if name.startswith(("PIP_", "HOME", "LANG", "XDG_", "http"))
    }
    return kept | {"PATH": str(path), "CC": "/bin/false", "CXX": "/bin/false", "PIP_DISABLE_PIP_VERSION_CHECK": "1"}


def call(installed: Path, *arguments: str) -> subprocess.CompletedProcess[str]:
    command = [str(installed / "cutset"), *arguments]
    return subprocess.run(command, capture_output=True, text=True, timeout=120, env=bare(installed), cwd=installed)


def test_a_wheel_runs_the_demo_without_a_compiler(installed: Path) -> None:
    done = call(installed, "demo")
    assert done.returncode == 0, done.stderr
    assert "Once upon a time" in done.stdout


def test_a_wheel_shows_its_commands(installed: Path) -> None:
    done = call(installed, "--help")
    assert done.returncode == 0, done.stderr
    assert "generate" in done.stdout
    assert "serve" in done.stdout


def test_a_wheel_measures_its_own_machine_and_no_opponents(installed: Path) -> None:
    done = call(installed, "bench", "decode", "--workload", "tiny", "--rounds", "1")
    assert done.returncode == 0, done.stderr
    assert "cutset native int8" in done.stdout
    for flags in (["delta"], ["report"], ["decode", "--python", "python3"]):
        done = call(installed, "bench", *flags)
        assert done.returncode == 2
        assert f"run in a checkout of Cutset: python -m benchmarks {flags[0]}" in done.stderr


def test_a_wheel_uses_its_own_native_extension(installed: Path) -> None:
    code = "import cutset.kernels._native as kernels, cutset.link._ring as ring; print(kernels.__file__, ring.__file__)"
    done = subprocess.run(
        [str(installed / "python"), "-c", code],
        capture_output=True,
        text=True,
        timeout=60,
        env=bare(installed),
        cwd=installed,
    )
    assert done.returncode == 0, done.stderr
    assert all(str(installed.parent) in path for path in done.stdout.split()), done.stdout


def test_the_wheel_holds_the_package_and_its_licence_alone() -> None:
    with zipfile.ZipFile(one("*.whl")) as wheel:
        names = wheel.namelist()
    tops = {name.split("/")[0] for name in names}
    assert all(top == "cutset" or top.endswith(".dist-info") for top in tops), tops
    assert any(name.endswith("licenses/LICENSE") for name in names)
    assert not [name for name in names if name.endswith((".cpp", ".h"))]
    assert not [name for name in names if "opponents" in name or "hostile" in name or "benchmarks" in name]
    assert "cutset/bundled/story/model.safetensors" in names
    assert {"cutset/py.typed", "cutset/kernels/_native.pyi", "cutset/link/_ring.pyi"} <= set(names)


def test_the_sdist_builds_from_what_it_holds() -> None:
    with tarfile.open(one("*.tar.gz")) as sdist:
        names = {name.partition("/")[2] for name in sdist.getnames()}
    for needed in (
        "pyproject.toml",
        "CMakeLists.txt",
        "LICENSE",
        "README.md",
        "native/core/step.cpp",
        "src/cutset/llm.py",
    ):
        assert needed in names, needed
    assert not [name for name in names if name.startswith(("build/", ".venv", "dist/"))]


def test_the_wheel_has_no_trace_of_where_and_when_it_was_built() -> None:
    with zipfile.ZipFile(one("*.whl")) as wheel:
        entries = wheel.infolist()
        assert len({entry.date_time for entry in entries}) == 1
        assert {entry.external_attr >> 16 & 0o777 for entry in entries} <= {0o644, 0o755}
        packed = [entry.filename for entry in entries if ".dist-info/" not in entry.filename]
        assert packed == sorted(packed, key=lambda name: Path(name).parts)
        for name in (name for name in packed if name.endswith(".so")):
            code = wheel.read(name)
            for trace in (str(ROOT), "site-packages"):
                assert trace.encode() not in code, f"{name} holds {trace}"


def test_what_lies_beside_the_wheel() -> None:
    wheel, bom = one("*.whl"), one("*.cdx.json")
    hashes = dict(line.split("  ")[::-1] for line in (DIST / "SHA256SUMS").read_text().splitlines())
    assert hashes == {
        path.name: hashlib.sha256(path.read_bytes()).hexdigest() for path in (wheel, bom, one("*.tar.gz"))
    }
    said = json.loads(bom.read_text())
    assert said["metadata"]["component"]["hashes"][0]["content"] == hashes[wheel.name]
    names = {entry["name"] for entry in said["components"]}
    assert {"numpy", "cryptography", "nanobind", "pyzmq", "cutset/bundled/story/model.safetensors"} <= names
    assert sum(name.endswith(".so") for name in names) == 2


@pytest.mark.slow
def test_the_same_bytes_come_out_again() -> None:
    """Compiles everything twice."""
    said = list[str]()
    assert rebuilt(one("*.whl").parent, said.append) == 0, "".join(said)
