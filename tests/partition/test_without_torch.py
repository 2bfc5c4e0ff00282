"""Planning needs no torch: a coordinator's side, or a laptop, plans without it. Nor does it know what items are."""

from __future__ import annotations

import subprocess
import sys

LOADS_NO_TORCH = """
import importlib, pkgutil, sys
import cutset.codec, cutset.partition
for package in (cutset.partition, cutset.codec):
    for module in pkgutil.walk_packages(package.__path__, package.__name__ + "."):
        importlib.import_module(module.name)
above = [name for name in sys.modules if name.startswith(("torch", "cutset.video", "cutset.cluster", "cutset.engine"))]
assert not above, above
assert "cutset.partition.schedulers.optimal" in sys.modules
import cutset.video.profile.scenario
assert "torch" not in sys.modules
"""


def test_planning_loads_no_torch() -> None:
    subprocess.run([sys.executable, "-c", LOADS_NO_TORCH], check=True, timeout=60)
