"""A skip that nobody allowed fails a strict run; the same run is fine otherwise."""

from __future__ import annotations

import os
import shutil
import subprocess
import sys
from pathlib import Path

import pytest

import skips

TESTS = Path(__file__).parent


@pytest.mark.parametrize(
    ("reason", "strict", "code"),
    [
        ("no CUDA device", "1", 0),
        ("it was raining", "1", 1),
        ("it was raining", "", 0),
    ],
)
@pytest.mark.parametrize("processes", ["0", "2"])
def test_skips_that_nobody_allowed_fail_a_strict_run(
    tmp_path: Path, reason: str, strict: str, code: int, processes: str
) -> None:
    for name in ("conftest.py", "skips.py", "smollm2.py"):
        shutil.copy(TESTS / name, tmp_path)
    body = f"import pytest\n\ndef test_a():\n    pytest.skip({reason!r})\n\ndef test_b():\n    pass\n"
    (tmp_path / "test_it.py").write_text(body, encoding="utf-8")
    command = [
        sys.executable,
        "-m",
        "pytest",
        "-q",
        "-n",
        processes,
        "-p",
        "no:cacheprovider",
        str(tmp_path / "test_it.py"),
    ]
    done = subprocess.run(
        command, capture_output=True, text=True, timeout=120, cwd=tmp_path, env={**os.environ, skips.STRICT: strict}
    )
    assert done.returncode == code, done.stdout + done.stderr
    assert ("not an allowed skip" in done.stdout) == bool(code)
