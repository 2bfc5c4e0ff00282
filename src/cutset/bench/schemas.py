"""Schemas to answer by: random ones, and those of the JSON Schema Test Suite."""

from __future__ import annotations

import json
import os
import subprocess
import sys
import tarfile
import tempfile
from collections.abc import Iterator
from pathlib import Path
from random import Random
from typing import Any

from cutset.errors import ConfigError

__all__ = ["fetch_suite", "random_schema", "suite_schemas"]

SOURCE = "jsonschema==4.26.0"  # its source distribution carries the suite
DRAFT = "json/tests/draft2020-12/"
MOST_BYTES = 16 << 20


def random_schema(random: Random, depth: int = 2) -> dict[str, Any]:
    """One whose texts are short."""
    kinds = ["boolean", "integer", "enum", "string", "null", "const"] + ["object", "array", "anyOf"] * bool(depth)
    kind = random.choice(kinds)
    if kind == "integer":
        low = random.randrange(-50, 50)
        return {"type": "integer", "minimum": low, "maximum": low + random.randrange(100)}
    if kind == "enum":
        return {"enum": random.sample([1, "ab", None, True, -3, "a b", [1, 2], {"a": 1}], 3)}
    if kind == "string":
        pattern = random.choice(["^[a-c]{1,4}$", "^(ab|cd)+x$", None])
        return {"type": "string", "maxLength": 9} if pattern is None else {"type": "string", "pattern": pattern}
    if kind == "const":
        return {"const": random.choice(["x", 7, False])}
    if kind == "array":
        most = random.randrange(1, 4)
        items = random_schema(random, depth - 1)
        return {"type": "array", "items": items, "minItems": random.randrange(most), "maxItems": most}
    if kind == "anyOf":
        return {"anyOf": [random_schema(random, depth - 1) for _ in range(2)]}
    if kind == "object":
        names = random.sample(["a", "b", "cd", "e f", "é"], random.randrange(1, 4))
        required = [name for name in names if random.random() < 0.6]
        properties = {name: random_schema(random, depth - 1) for name in names}
        return {"type": "object", "properties": properties, "required": required, "additionalProperties": False}
    return {"type": kind}


def fetch_suite() -> Path:
    """A directory with the suite's cases of draft 2020-12, fetched once by pip into the user's cache.

    Raises ConfigError where pip can't have it.
    """
    home = os.environ.get("XDG_CACHE_HOME") or os.path.expanduser("~/.cache")
    folder = Path(home, "cutset", "json-schema-suite", SOURCE.replace("==", "-"))
    if folder.is_dir():
        return folder
    folder.parent.mkdir(parents=True, exist_ok=True)
    with tempfile.TemporaryDirectory(dir=folder.parent) as scratch:
        command = [sys.executable, "-m", "pip", "download", "--quiet", "--no-deps", "--no-binary", "jsonschema"]
        done = subprocess.run([*command, "--dest", scratch, SOURCE], capture_output=True, text=True)
        [packed, *_] = [*Path(scratch).glob("*.tar.gz"), None]
        if done.returncode or packed is None:
            raise ConfigError(f"pip can't fetch {SOURCE}, which carries the suite: give --suite DIR instead")
        made = Path(scratch, "cases")
        made.mkdir()
        with tarfile.open(packed) as archive:
            for member in archive:
                _, _, inside = member.name.partition("/")
                name = inside.removeprefix(DRAFT)
                file = archive.extractfile(member) if member.isfile() else None
                if file is not None and inside.startswith(DRAFT) and "/" not in name and member.size < MOST_BYTES:
                    (made / Path(name).name).write_bytes(file.read())
        made.rename(folder)
    return folder


def suite_schemas(folder: Path) -> Iterator[tuple[str, Any]]:
    """The name and the schema of each group of cases. Raises ConfigError for a directory without such."""
    files = sorted(folder.glob("*.json"))
    if not files:
        raise ConfigError(f"{folder} has no cases of the JSON Schema Test Suite: name its tests/draft2020-12")
    for file in files:
        try:
            if file.stat().st_size > MOST_BYTES:
                raise ValueError("it is too large")
            groups = json.loads(file.read_text(encoding="utf-8"))
            found = [(f"{file.stem}: {group['description']}", group["schema"]) for group in groups]
        except (OSError, ValueError, KeyError, TypeError, RecursionError) as error:
            raise ConfigError(f"{file} isn't a file of the JSON Schema Test Suite: {error}") from None
        yield from found
