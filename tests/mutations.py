"""Damaged and hostile versions of a file: bytes changed anywhere, and JSON values replaced by unexpected ones."""

from __future__ import annotations

import json
import random
from collections.abc import Iterator
from typing import Any

__all__ = ["NASTY", "damaged", "mutations", "replaced"]

# As they stand in JSON, so that there may be some that Python's writer refuses to write.
NASTY = [
    "null", "true", "{}", "[]", "[[]]", '""', '"x"', '"\\ud800"', '"\\u0000"', '"\\u202e\\u001b[2J"', "-1", "0", "1",
    "0.5", "1e400", "-1e400", "NaN", "Infinity", "1e308", "5e-324", "9223372036854775808", "18446744073709551616",
    "4294967296", "9" * 400, "9" * 5000, "-" + "9" * 5000, "1" + "0" * 308 + ".5", '"' + "y" * 70_000 + '"', '{"a": 1}',
    "[0]", "[null]", "[{}]", '["x"]', "[-1, 1]", "[true]", "[1.5]", '{"": {"": []}}', "[" * 100 + "]" * 100,
    "[" * 2000 + "]" * 2000, '{"a":' * 2000 + "1" + "}" * 2000, "[" * 200_000, '"\x01"', '"|S0"', '"inf"',
    '"../x"', '"/"',
]  # fmt: skip
BYTES = [
    b"\x80",
    b"\xa6",
    b"\xff",
    b"\x00",
    b"\xed\xa0\x80",
    b"\xf5",
    b"\x1b",
    b"{",
    b"[",
    b'"',
    b"\\",
    b"9" * 5000,
    b"-",
]
MARK = "\u2603"


def damaged(data: bytes, rng: random.Random) -> bytes:
    """One to four changes anywhere."""
    found = bytearray(data)
    for _ in range(rng.randint(1, 4)):
        at = rng.randrange(len(found) + 1)
        kind = rng.randrange(7)
        if kind == 0 and at < len(found):
            found[at] ^= 1 << rng.randrange(8)
        elif kind == 1:
            found[at:at] = rng.choice(BYTES)
        elif kind == 2:
            del found[at : at + rng.choice((1, 2, 8, 100, 10_000))]
        elif kind == 3:
            found[at:] = b""
        elif kind == 4:
            end = at + rng.randint(1, 64)
            found[at:at] = found[at:end]
        elif kind == 5:
            found[at : at + 8] = rng.choice((rng.randbytes(8), bytes(8), b"\xff" * 8))
        else:
            found[at : at + 1] = rng.choice(BYTES)
    return bytes(found)


def places(value: Any, path: tuple[Any, ...] = ()) -> Iterator[tuple[Any, ...]]:
    """Where values stand in a JSON document; long lists by their first elements."""
    yield path
    items = (
        list(value.items()) if isinstance(value, dict) else list(enumerate(value)) if isinstance(value, list) else []
    )
    for key, inner in items[:60]:
        yield from places(inner, (*path, key))


def replaced(document: Any, rng: random.Random) -> bytes:
    """One value, or the name of one, replaced by a nasty one; or one that is there twice, or missing."""
    path = rng.choice(list(places(document)))
    copy = json.loads(json.dumps(document))
    nasty = rng.choice(NASTY)
    if not path:
        return nasty.encode("utf-8", "surrogatepass")
    parent = copy
    for step in path[:-1]:
        parent = parent[step]
    kind = rng.randrange(6)
    if kind == 0:
        del parent[path[-1]]
    elif kind == 1 and isinstance(parent, dict):
        parent[rng.choice(["", "x", "__metadata__", "\u202e", "a" * 5000])] = parent.pop(path[-1])
    elif kind == 2 and isinstance(parent, list):
        parent.insert(0, parent[path[-1]])
    else:
        parent[path[-1]] = MARK
    return json.dumps(copy, ensure_ascii=False).replace(f'"{MARK}"', nasty).encode("utf-8", "surrogatepass")


def mutations(data: bytes, seed: int, count: int, document: Any = None) -> Iterator[bytes]:
    """`count` of them, the same for a seed; where `document` is what `data` says in JSON, half of another kind."""
    rng = random.Random(seed)
    for turn in range(count):
        yield replaced(document, rng) if document is not None and turn % 2 else damaged(data, rng)
