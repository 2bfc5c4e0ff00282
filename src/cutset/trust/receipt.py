"""Receipts: signed statements of what was promised and done, of which parts can be shown. docs/receipts.md says how
they are written; `verify_receipt` reads them."""

from __future__ import annotations

import hashlib
import re
from collections.abc import Mapping, Sequence
from pathlib import Path
from typing import Any, NamedTuple

from cutset.errors import ConfigError
from cutset.reading import read_bytes
from cutset.trust.canonical import encode
from cutset.trust.merkle import SaltedTree
from cutset.trust.signing_key import Signer
from cutset.trust.verify_receipt import (
    DOMAIN,
    MOST_BYTES,
    TYPE,
    InvalidReceipt,
    VerifiedReceipt,
    parse_receipt,
    trees_of,
    verify,
)

__all__ = ["AnswerTree", "Receipt", "parse_part", "read_receipt", "sign_receipt"]

LEAST_DETAILS = 8  # leaves: how many details there are isn't shown
PART = re.compile(r"(?:(prompt|answer):(?:([0-9]{1,9}):)?)?([0-9]{1,9})(?:-([0-9]{1,9}))?")


class AnswerTree(NamedTuple):
    """The tokens of a sample of a prompt, and how it ended."""

    prompt: int
    sample: int
    end: str
    tokens: SaltedTree


def sign_receipt(
    signer: Signer,
    statement: Mapping[str, Any],  # all but what follows from the other arguments
    prompts: Sequence[SaltedTree],
    answers: Sequence[AnswerTree],
    details: Mapping[str, Any],
) -> bytes:
    """The whole receipt, with every leaf of its trees. `details`: what is said under a salt of its own each."""
    hidden = SaltedTree([encode([name, value]) for name, value in details.items()], least=LEAST_DETAILS)
    evidence = signer.evidence
    said = {
        **statement,
        "type": TYPE,
        "key": signer.key.public,
        "prompts": [[len(tree), tree.root] for tree in prompts],
        "answers": [[one.prompt, one.sample, one.end, len(one.tokens), one.tokens.root] for one in answers],
        "details": [len(hidden), hidden.root],
        "evidence": None if evidence is None else [evidence.kind, hashlib.sha256(evidence.blob).digest()],
    }
    data = encode(said)
    trees = dict(zip(trees_of(said), [*prompts, *(one.tokens for one in answers), hidden], strict=True))
    envelope = {
        "statement": data,
        "signature": signer.key.sign(DOMAIN + data),
        "evidence": None if evidence is None else evidence.blob,
        "shown": [[name, *tree.show(range(len(tree)))] for name, tree in trees.items()],
    }
    return encode(envelope)


class Receipt:
    """One that verifies by itself: whose it is has been checked only if a key was named."""

    def __init__(self, data: bytes, key: bytes | None = None) -> None:
        """Raises InvalidReceipt."""
        self.found: VerifiedReceipt = verify(data, key)
        self._envelope, self.statement = parse_receipt(data)

    @property
    def bare(self) -> bytes:
        """The statement and its signature, without any leaf."""
        return encode(self._envelope | {"shown": []})

    @property
    def digest(self) -> bytes:
        """What stands for it in a log: SHA-256 of statement and signature, the same whatever is shown."""
        return hashlib.sha256(encode([self._envelope["statement"], self._envelope["signature"]])).digest()

    def whole(self, tree: str) -> dict[int, Any]:
        """All leaves of a tree. Raises ConfigError where some aren't shown, or there is no such tree."""
        trees = trees_of(self.statement)
        if tree not in trees:
            raise ConfigError(f"this receipt has no {tree[:60]!r}; it has {', '.join(trees)}"[:300])
        leaves = self.found.shown.get(tree, {})
        if len(leaves) != trees[tree][0]:
            raise ConfigError(f"this receipt doesn't show all of {tree}: take the one that was written at first")
        return leaves

    def show(self, parts: Sequence[str]) -> bytes:
        """The receipt with these parts of it alone: 3-5 or answer:3-5 (tokens of the first answer), answer:1:3-5,
        prompt:0-2, details:NAME. Raises ConfigError for what isn't there."""
        wanted: dict[str, set[int]] = {}
        for part in parts:
            tree, places = self._places(part)
            wanted.setdefault(tree, set()).update(places)
        given = {row[0]: row[1] for row in self._envelope["shown"]}
        shown = []
        for tree in trees_of(self.statement):
            if tree in wanted:
                leaves = given[tree]
                salted = SaltedTree([one[2] for one in leaves], b"".join(one[1] for one in leaves))
                shown.append([tree, *salted.show(sorted(wanted[tree]))])
        return encode(self._envelope | {"shown": shown})

    def _places(self, part: str) -> tuple[str, Sequence[int]]:
        if part.startswith("details:"):
            name = part.removeprefix("details:")
            leaves = self.whole("details")
            found = [index for index, leaf in leaves.items() if leaf is not None and leaf[0] == name]
            if not found:
                known = ", ".join(leaf[0] for leaf in leaves.values() if leaf is not None)
                raise ConfigError(f"this receipt has no detail {name[:60]!r}; it has {known}"[:300])
            return "details", found
        tree, places = parse_part(part)
        if places.stop > (size := len(self.whole(tree))):
            raise ConfigError(f"--part {part[:60]!r}: {tree} has {size} leaves, from 0 on")
        return tree, places


def parse_part(text: str) -> tuple[str, range]:
    """A tree and the leaves that a part names. Raises ConfigError."""
    found = PART.fullmatch(text)
    if found is None or (found[4] is not None and int(found[4]) < int(found[3])):
        raise ConfigError(f"--part {text[:60]!r}: write 3-5, answer:1:3-5, prompt:0-2 or details:NAME")
    tree = f"{found[1] or 'answer'}:{int(found[2] or 0)}"
    return tree, range(int(found[3]), int(found[4] or found[3]) + 1)


def read_receipt(path: Path, key: bytes | None = None) -> Receipt:
    """The receipt in a file. Raises ConfigError for what doesn't verify."""
    try:
        return Receipt(read_bytes(path, MOST_BYTES, "receipt"), key)
    except InvalidReceipt as error:
        raise ConfigError(f"{path} is no receipt that verifies: {error}") from None
