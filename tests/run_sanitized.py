"""Runs the native tests on an extension built with AddressSanitizer and UndefinedBehaviorSanitizer.

`make sanitize` builds it into build/sanitized and starts this with the sanitizers' libraries loaded. The package that
pip installed finds itself before any path, so its finder is taken out first.
"""

from __future__ import annotations

import shutil
import sys
from pathlib import Path

ROOT = Path(__file__).parent.parent
BUILT = ROOT / "build" / "sanitized"


def main() -> int:
    package = BUILT / "package" / "cutset"
    shutil.rmtree(package, ignore_errors=True)
    shutil.copytree(ROOT / "src" / "cutset", package, ignore=shutil.ignore_patterns("*.so", "__pycache__"))
    for extension in BUILT.glob("_native*.so"):
        shutil.copy(extension, package / "kernels")
    for extension in BUILT.glob("_ring*.so"):
        shutil.copy(extension, package / "link")
    sys.meta_path[:] = [finder for finder in sys.meta_path if "ScikitBuild" not in type(finder).__name__]
    sys.path.insert(0, str(package.parent))
    import pytest

    import cutset.kernels._native as native
    import cutset.link._ring as ring

    for module in (native, ring):
        assert Path(module.__file__).is_relative_to(BUILT), f"the tests would run on {module.__file__}"
    # Without -s pytest holds back the report of a sanitizer that ends the process.
    tests = ["tests/kernels", "tests/models/test_native.py", "tests/models/test_integer.py"]
    tests += ["tests/models/test_grouped_models.py"]
    tests += ["tests/link/test_ring.py", "tests/link/test_shm.py"]
    tests += ["tests/codec"]
    offload = ("fronts", "batcher", "session", "ring_calls", "several_calls")
    tests += [f"tests/offload/test_{name}.py" for name in offload]
    return pytest.main(["-s", "-q", "-p", "no:cacheprovider", *tests, *sys.argv[1:]])


if __name__ == "__main__":
    sys.exit(main())
