"""Prints what the extras of pyproject.toml that are named need, and what Cutset itself needs, as pip's requirements.

So the Makefile installs libraries while the native code is compiled, which is linked afterwards.
"""

from __future__ import annotations

import sys
import tomllib
from pathlib import Path

ROOT = Path(__file__).resolve().parent.parent


def needed(extras: list[str]) -> list[str]:
    project = tomllib.loads((ROOT / "pyproject.toml").read_text(encoding="utf-8"))["project"]
    of_extras = [text for extra in extras for text in project["optional-dependencies"][extra]]
    return sorted({*project["dependencies"], *of_extras})


if __name__ == "__main__":
    print("\n".join(needed(sys.argv[1:])))
