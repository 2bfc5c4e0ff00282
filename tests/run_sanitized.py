"""Runs the native tests on an extension built with AddressSanitizer and UndefinedBehaviorSanitizer.

`make sanitize` builds it into build/sanitized and starts this with the sanitizers' libraries loaded. The package that
pip installed finds itself before any path, so its finder is taken out first: in each of the processes that run tests,
by this module, which is a plugin of pytest too.
"""

from __future__ import annotations

import importlib
import os
import shutil
import sys
from pathlib import Path

import pytest

ROOT = Path(__file__).parent.parent
BUILT = ROOT / "build" / "sanitized"
PACKAGE = BUILT / "package" / "cutset"
PROCESSES = 2


@pytest.hookimpl(tryfirst=True)
def pytest_load_initial_conftests() -> None:
    """Before anything imports the package."""
    sys.meta_path[:] = [finder for finder in sys.meta_path if "ScikitBuild" not in type(finder).__name__]
    sys.path.insert(0, str(PACKAGE.parent))
    for name in ("cutset.kernels._native", "cutset.link._ring"):
        found = importlib.import_module(name).__file__
        assert found is not None, name
        assert Path(found).is_relative_to(BUILT), f"the tests would run on {found}"


def main() -> int:
    shutil.rmtree(PACKAGE, ignore_errors=True)
    shutil.copytree(ROOT / "src" / "cutset", PACKAGE, ignore=shutil.ignore_patterns("*.so", "__pycache__"))
    for extension in BUILT.glob("_native*.so"):
        shutil.copy(extension, PACKAGE / "kernels")
    for extension in BUILT.glob("_ring*.so"):
        shutil.copy(extension, PACKAGE / "link")
    tests = ["tests/kernels", "tests/models/test_native.py", "tests/models/test_integer.py"]
    tests += ["tests/models/test_grouped_models.py"]
    tests += ["tests/link/test_ring.py", "tests/link/test_shm.py", "tests/link/test_shm_hostile.py"]
    tests += ["tests/codec"]
    offload = ("fronts", "batcher", "session", "ring_calls", "several_calls")
    tests += [f"tests/offload/test_{name}.py" for name in offload]
    os.environ |= {"PYTEST_PLUGINS": Path(__file__).stem, "PYTHONPATH": str(ROOT / "tests")}
    # Without -s pytest holds back the report of a sanitizer that ends the process.
    processes = ["-n", str(PROCESSES), "--dist", "loadfile"]
    return int(pytest.main(["-s", "-q", "-p", "no:cacheprovider", *processes, *tests, *sys.argv[1:]]))


if __name__ == "__main__":
    sys.exit(main())
