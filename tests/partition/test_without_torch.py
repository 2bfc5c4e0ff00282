"""Planning needs no torch: a coordinator's side, or a laptop, plans without it."""

from __future__ import annotations

import subprocess
import sys

LOADS_NO_TORCH = """
import sys
import cutset.partition.choices, cutset.partition.live, cutset.partition.simulate
import cutset.video.profile.scenario, cutset.partition.profile
assert "torch" not in sys.modules
"""


def test_planning_loads_no_torch() -> None:
    subprocess.run([sys.executable, "-c", LOADS_NO_TORCH], check=True, timeout=60)
