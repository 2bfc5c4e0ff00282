"""Checks a receipt of Cutset, and what is shown of it, without Cutset: needs Python 3.11 and `cryptography` alone.

    python verify_receipt.py RECEIPT --key PUBLIC

Exit codes: 0 it verifies; 1 it doesn't; 2 it can't be read, or wrong flags; 3 it verifies and says that the run failed.
docs/receipts.md in Cutset's repository is the specification of what is read here.
"""

from __future__ import annotations

import argparse
import base64
import binascii
import hashlib
import math
import re
import struct
import sys
from bisect import bisect_left
from collections.abc import Callable, Iterator, Mapping
from dataclasses import dataclass
from datetime import UTC, datetime
from typing import Any

__all__ = ["InvalidReceipt", "VerifiedReceipt", "decode", "main", "parse_receipt", "public_key", "trees_of", "verify"]

MOST_BYTES = 64 << 20  # of a receipt
MOST_LEAVES, MOST_DEPTH = 1 << 22, 6  # of a tree; of what is nested
LAST = 253402300799000  # milliseconds: the year 9999
TYPE, DOMAIN = "cutset receipt 1", b"cutset receipt 1\0"  # which stands before the statement, in what is signed
EVIDENCE_DOMAIN = b"cutset receipt key 1\0"  # before the key, in what a quote carries the SHA-512 of
# The kind of a quote, how it begins, and where the 64 bytes lie that it carries: docs/trust.md says where from.
QUOTES = [
    ("sgx", rb"[\x03\x04]\x00..\x00{4}", 368),
    ("sgx", rb"\x05\x00..\x00{4}", 374),
    ("tdx", rb"\x04\x00..\x81\x00{3}", 568),
    ("tdx", rb"\x05\x00..\x81\x00{3}", 574),
    ("snp", rb"", 80),
    ("simulator", rb"CUTSET SIMULATOR: NOT CONFIDENTIAL\n", 112),
]
HEX, BASE64 = re.compile(r"[0-9a-fA-F]{64}"), re.compile(rb"[A-Za-z0-9+/]+={0,2}")


class InvalidReceipt(Exception):
    """What was read is no receipt, was changed, or was signed by somebody else."""


def decode(data: bytes) -> Any:
    """The one value in these bytes. Raises InvalidReceipt for every encoding but the canonical one: RFC 8949, 4.2.1,
    without tags, indefinite lengths, other keys than texts, NaN and infinities."""
    reader = _Reader(data)
    value = reader.item(MOST_DEPTH)
    if reader.at != len(data):
        raise InvalidReceipt(f"{len(data) - reader.at} bytes follow behind its end")
    return value


class _Reader:
    def __init__(self, data: bytes) -> None:
        self.data, self.at = data, 0

    def take(self, count: int) -> bytes:
        if count > len(self.data) - self.at:
            raise InvalidReceipt("it ends in the middle")
        self.at += count
        return self.data[self.at - count : self.at]

    def item(self, depth: int) -> Any:
        head = self.take(1)[0]
        major, info = head >> 5, head & 31
        if major == 7:
            return self.simple(info)
        count = self.count(info)
        if major < 2:
            return -1 - count if major else count
        if major == 2:
            return self.take(count)
        if major == 3:
            try:
                return self.take(count).decode()
            except UnicodeDecodeError:
                raise InvalidReceipt("a text isn't UTF-8") from None
        if major == 6:
            raise InvalidReceipt("it has a tag")
        if not depth:
            raise InvalidReceipt("it is nested too deeply")
        if count > len(self.data) - self.at:
            raise InvalidReceipt("it ends in the middle")
        return self.map(count, depth - 1) if major == 5 else [self.item(depth - 1) for _ in range(count)]

    def count(self, info: int) -> int:
        if info < 24:
            return info
        if info > 27:
            raise InvalidReceipt("a length is indefinite, or none")
        size = 1 << (info - 24)
        found = int.from_bytes(self.take(size))
        if found < (24 if size == 1 else 1 << (4 * size)):
            raise InvalidReceipt("a number isn't in its shortest form")
        return found

    def map(self, count: int, depth: int) -> dict[str, Any]:
        found: dict[str, Any] = {}
        last = b""
        for _ in range(count):
            begin = self.at
            name = self.item(0)
            key = self.data[begin : self.at]
            if not isinstance(name, str) or key <= last:
                raise InvalidReceipt("the keys of a map aren't texts in their order, each once")
            last, found[name] = key, self.item(depth)
        return found

    def simple(self, info: int) -> bool | float | None:
        if info in (20, 21, 22):
            return (False, True, None)[info - 20]
        if info not in (25, 26, 27):
            raise InvalidReceipt("it has a value that is none of those allowed")
        form = ">efd"[info - 24]
        value: float = struct.unpack(">" + form, self.take(2 << (info - 25)))[0]
        if not math.isfinite(value) or (form != "e" and _fits(value, ">e" if form == "f" else ">f")):
            raise InvalidReceipt("a number isn't in its shortest form, or is none")
        return value


def _fits(value: float, form: str) -> bool:
    try:
        return bool(struct.unpack(form, struct.pack(form, value))[0] == value)
    except OverflowError:
        return False


def hash_leaf(salt: bytes, content: bytes) -> bytes:
    """SHA-256 of a leaf: a zero byte, its salt (16 bytes), its content."""
    return hashlib.sha256(b"\0" + salt + content).digest()


def hash_node(left: bytes, right: bytes) -> bytes:
    """SHA-256 of a node: a byte of 1, and both hashes below it."""
    return hashlib.sha256(b"\1" + left + right).digest()


def _root(size: int, leaves: Mapping[int, bytes], proof: Iterator[bytes]) -> bytes:
    """The root of a tree of `size` leaves, a power of two, by the hashes of those that are shown and, from left to
    right, of the largest parts in which nothing is."""
    shown = sorted(leaves)

    def of(first: int, end: int) -> bytes:
        at = bisect_left(shown, first)
        if at == len(shown) or shown[at] >= end:
            return next(proof)
        if end - first == 1:
            return leaves[first]
        middle = (first + end) // 2
        return hash_node(of(first, middle), of(middle, end))

    return of(0, size)


Rule = Callable[[Any], bool]
SINGLE: tuple[Rule, Rule, Rule, Rule] = (
    lambda value: isinstance(value, str) and len(value) <= 4096,
    lambda value: type(value) is int and 0 <= value < 1 << 63,
    lambda value: type(value) is int and 1 <= value <= MOST_LEAVES and value & (value - 1) == 0,
    lambda value: isinstance(value, dict) and all(isinstance(one, int | float | None) for one in value.values()),
)
_is_text, _is_count, _is_size, _is_sampling = SINGLE


def _is_bytes(size: int | None = None) -> Rule:
    return lambda value: isinstance(value, bytes) and size in (None, len(value))


def _or_none(rule: Rule) -> Rule:
    return lambda value: value is None or rule(value)


def _is_map(rules: Mapping[str, Rule]) -> Rule:
    return lambda value: (
        isinstance(value, dict) and value.keys() == rules.keys() and all(rules[k](value[k]) for k in rules)
    )


def _is_row(*rules: Rule) -> Rule:
    return lambda value: (
        isinstance(value, list) and len(value) == len(rules) and all(rules[i](one) for i, one in enumerate(value))
    )


def _is_list(rule: Rule) -> Rule:
    return lambda value: isinstance(value, list) and all(map(rule, value))


def _all(rule: Rule, names: str) -> dict[str, Rule]:
    return dict.fromkeys(names.split(), rule)


HASH, SALT = _is_bytes(32), _is_bytes(16)
RANGE = _is_row(_is_count, _is_count)
PADS = _is_map({"ledger": SALT, "blocks": RANGE, "rows": RANGE})
MODEL = _is_map(
    {"name": _is_text, "adapter": _or_none(SALT), "template": _or_none(HASH)} | _all(HASH, "files tokenizer")
)
RUN = _is_map(
    {"code": HASH, "libraries": _is_list(_is_text)}
    | _all(_is_text, "software backend dtype kv_dtype device machine")
    | _all(_is_count, "arithmetic context stages")
)
STATEMENT: dict[str, Rule] = {
    **_all(_is_count, "began ended") | _all(_is_text, "mode outcome"),
    **_all(HASH, "key") | _all(SALT, "id") | _all(MODEL, "model") | _all(RUN, "run") | _all(_is_sampling, "sampling"),
    "type": lambda value: bool(value == TYPE),
    "seed": lambda value: type(value) is int and -(1 << 63) <= value < 1 << 64,
    "offload": _or_none(_is_map({"pads": _or_none(PADS)} | _all(_is_count, "products checks failures"))),
    "prompts": _is_list(_is_row(_is_size, HASH)),
    "answers": _is_list(_is_row(_is_count, _is_count, _is_text, _is_size, HASH)),
    "details": _is_row(_is_size, HASH),
    "evidence": _or_none(_is_row(_is_text, HASH)),
}
ENVELOPE: dict[str, Rule] = {"statement": _is_bytes(), "signature": _is_bytes(64), "evidence": _or_none(_is_bytes())}
ENVELOPE["shown"] = _is_list(lambda row: True)
SHOWN = _is_row(_is_text, _is_list(_is_row(_is_count, SALT, _is_bytes())), _is_list(HASH))
TOKEN, DETAIL = _or_none(_is_row(_is_count, _is_bytes())), _or_none(_is_row(_is_text, lambda value: True))


@dataclass(frozen=True, slots=True)
class VerifiedReceipt:
    """What a receipt says, and the leaves of its trees that are shown, by tree and place: a token and its bytes
    `[id, bytes]`, a detail `[name, value]`, or None for one that fills a tree up. `evidence`: a quote that binds the
    key, which isn't checked here."""

    statement: dict[str, Any]
    shown: dict[str, dict[int, Any]]
    evidence: bytes | None

    @property
    def complete(self) -> bool:
        """The run ended as it should."""
        return bool(self.statement["outcome"] == "complete")

    @property
    def signer(self) -> bytes:
        """The public key that signed it, 32 bytes."""
        return bytes(self.statement["key"])


def parse_receipt(data: bytes) -> tuple[dict[str, Any], dict[str, Any]]:
    """The envelope and the statement of a receipt, in CBOR or in base64. Nothing is proven yet."""
    if len(data) > MOST_BYTES:
        raise InvalidReceipt(f"it has more than {MOST_BYTES >> 20} MiB")
    envelope = _map_of(decode(_binary(data)), ENVELOPE, "a receipt")
    return envelope, _map_of(decode(envelope["statement"]), STATEMENT, "the statement of a receipt")


def _binary(data: bytes) -> bytes:
    """CBOR begins with the byte of a map, which base64 doesn't have."""
    if data[:1] == b"\xa4":
        return data
    text = data[:-1] if data.endswith(b"\n") else data
    try:
        found = base64.b64decode(text, validate=True) if BASE64.fullmatch(text) else b""
    except binascii.Error:
        found = b""
    if base64.b64encode(found) != text:
        raise InvalidReceipt("it is neither CBOR nor base64")
    return found


def _map_of(value: Any, rules: Mapping[str, Rule], what: str) -> dict[str, Any]:
    if not isinstance(value, dict):
        raise InvalidReceipt(f"it isn't {what}")
    for name in value.keys() - rules.keys():
        raise InvalidReceipt(f"{what} has no field {name[:40]!r}")
    for name, rule in rules.items():
        if name not in value or not rule(value[name]):
            raise InvalidReceipt(f"{what} needs another {name!r}")
    return value


def trees_of(statement: Mapping[str, Any]) -> dict[str, tuple[int, bytes]]:
    """The trees of a receipt in their order: size and root by name."""
    found = {f"prompt:{i}": (size, root) for i, (size, root) in enumerate(statement["prompts"])}
    found |= {f"answer:{i}": (row[3], row[4]) for i, row in enumerate(statement["answers"])}
    return found | {"details": tuple(statement["details"])}


def signed_by(key: bytes, signature: bytes, message: bytes) -> bool:
    """Whether this is the Ed25519 signature of a message under a public key."""
    from cryptography.exceptions import InvalidSignature
    from cryptography.hazmat.primitives.asymmetric.ed25519 import Ed25519PublicKey

    try:
        Ed25519PublicKey.from_public_bytes(key).verify(signature, message)
    except (InvalidSignature, ValueError):
        return False
    return True


def _binds(kind: str, quote: bytes, key: bytes) -> bool | None:
    """Whether a quote, genuine or not, carries this public key's hash; None for what is none of a known kind."""
    for known, front, at in QUOTES:
        if known == kind and len(quote) >= at + 64 and re.match(front, quote, re.DOTALL):
            return quote[at : at + 64] == hashlib.sha512(EVIDENCE_DOMAIN + key).digest()
    return None


def verify(data: bytes, key: bytes | None) -> VerifiedReceipt:
    """A receipt that was signed with this public key (32 bytes), or with None by anybody, and whose shown parts are
    the signed ones. Raises InvalidReceipt."""
    envelope, statement = parse_receipt(data)
    if key is not None and statement["key"] != key:
        raise InvalidReceipt(f"it was signed by another key, {statement['key'].hex()}")
    if not signed_by(statement["key"], envelope["signature"], DOMAIN + envelope["statement"]):
        raise InvalidReceipt("its signature is wrong")
    said, given = statement["evidence"], envelope["evidence"]
    if given is not None and (said is None or hashlib.sha256(given).digest() != said[1]):
        raise InvalidReceipt("its evidence is another one than was signed")
    if given is not None and _binds(said[0], given, statement["key"]) is False:
        raise InvalidReceipt(f"its evidence of kind {said[0]} is bound to another key than the one that signed it")
    _check_statement(statement)
    trees, shown = trees_of(statement), dict[str, dict[int, Any]]()
    order, last = {tree: place for place, tree in enumerate(trees)}, -1
    for row in envelope["shown"]:
        if not SHOWN(row) or order.get(row[0], -1) <= last:
            raise InvalidReceipt("what is shown isn't of its trees, each once and in their order")
        last = order[row[0]]
        shown[row[0]] = _shown(row, *trees[row[0]])
    return VerifiedReceipt(statement, shown, given)


def _check_statement(statement: Mapping[str, Any]) -> None:
    if statement["began"] > statement["ended"]:
        raise InvalidReceipt("it ended before it began")
    pads = (statement["offload"] or {}).get("pads")
    if pads is not None and (pads["blocks"][0] > pads["blocks"][1] or pads["rows"][0] > pads["rows"][1]):
        raise InvalidReceipt("a range of pads ends before it begins")
    seen = set()
    for prompt, sample, *_ in statement["answers"]:
        if prompt >= len(statement["prompts"]) or (prompt, sample) in seen:
            raise InvalidReceipt("an answer is of no prompt, or there twice")
        seen.add((prompt, sample))


def _shown(row: list[Any], size: int, root: bytes) -> dict[int, Any]:
    """The leaves of a tree that are shown, once they are proven to be its own."""
    tree, leaves, proof = row
    places = [index for index, _, _ in leaves]
    if not places or places != sorted(set(places)) or places[-1] >= size:
        raise InvalidReceipt(f"the shown parts of {tree} aren't in their order, each once")
    rest = iter(proof)
    try:
        found = _root(size, {index: hash_leaf(salt, content) for index, salt, content in leaves}, rest)
    except StopIteration:
        raise InvalidReceipt(f"the proof of {tree} is too short") from None
    if found != root or next(rest, None) is not None:
        raise InvalidReceipt(f"what is shown of {tree} isn't what was signed")
    contents = {index: decode(content) for index, _, content in leaves}
    if not all(map(DETAIL if tree == "details" else TOKEN, contents.values())):
        raise InvalidReceipt(f"a part of {tree} is none")
    return contents


def public_key(text: str) -> bytes:
    """32 bytes of 64 hexadecimal digits, or of a file that begins with them. Raises OSError or ValueError."""
    if HEX.fullmatch(text):
        return bytes.fromhex(text)
    with open(text, encoding="utf-8") as file:
        words = file.read(4096).split()
    if not words or not HEX.fullmatch(words[0]):
        raise ValueError(f"{text!r} holds no public key, which is 64 hexadecimal digits")
    return bytes.fromhex(words[0])


def add_flags(parser: argparse.ArgumentParser) -> None:
    """Adds the flags of the command."""
    parser.add_argument("receipt", metavar="RECEIPT", help="a receipt, whole or a part; - is stdin")
    signer = parser.add_mutually_exclusive_group(required=True)
    signer.add_argument("--key", metavar="PUBLIC", help="whose receipt it must be: 64 hexadecimal digits, or a file")
    signer.add_argument("--any-key", action="store_true", help="say which key signed it, and trust nobody for it")


def run(args: argparse.Namespace) -> int:
    """Checks what the flags name, and says what it found."""
    try:
        key = None if args.any_key else public_key(args.key)
        with open(0 if args.receipt == "-" else args.receipt, "rb", closefd=args.receipt != "-") as file:
            data = file.read(MOST_BYTES + 1)
    except (OSError, ValueError) as error:
        sys.stderr.write(f"cutset-verify: error: {_plain(str(error))}\n")
        return 2
    try:
        found = verify(data, key)
    except InvalidReceipt as error:
        sys.stderr.write(f"{_plain(args.receipt)} does NOT verify: {_plain(str(error))}\n")
        return 1
    sys.stdout.write("\n".join(_lines(found, anybody=key is None)) + "\n")
    return 0 if found.complete else 3


def _plain(text: str, kept: str = "") -> str:
    """Without what a terminal would obey."""
    return "".join(one if one.isprintable() or one in kept else "\ufffd" for one in text)


def _lines(found: VerifiedReceipt, *, anybody: bool) -> Iterator[str]:
    yield "the receipt verifies" + ("" if found.complete else ", and says that the run FAILED")
    yield f"signed by  {found.signer.hex()}" + (", whoever that is" if anybody else "")
    for name, value in (found.statement | {"evidence": _evidence(found)}).items():
        if name in ("began", "ended"):
            value = f"{datetime.fromtimestamp(min(value, LAST) / 1000, UTC):%Y-%m-%d %H:%M:%S.%f}"[:-3] + " UTC"
        if name not in ("key", "type"):
            yield f"{name:<11}{_plain(_readable(value))}"
    for tree, leaves in found.shown.items():
        if tree == "details":
            yield from (_plain(f"{one[0]} = {one[1]!r}") for one in leaves.values() if one is not None)
            continue
        tokens = {index: one[1] for index, one in leaves.items() if one is not None}
        text = b"".join(piece if index - 1 in tokens else b"..." + piece for index, piece in tokens.items())
        places = f"{min(tokens, default=0)} to {max(tokens, default=0)}, {len(tokens)} of {len(leaves)} shown leaves"
        yield f"{tree}, tokens {places}: {_plain(text.decode(errors='replace'), chr(10))!r}"


def _evidence(found: VerifiedReceipt) -> str:
    """What there is of evidence, and what that says without the quote's own verification."""
    said, quote = found.statement["evidence"], found.evidence
    if said is None:
        return "none: nothing says where the key lives"
    kind = said[0] + (" (NOT CONFIDENTIAL: a simulator's proves nothing)" if said[0] == "simulator" else "")
    if quote is None:
        return f"of kind {kind} was signed, and isn't shown (SHA-256 {said[1].hex()})"
    if _binds(said[0], quote, found.signer) is None:
        return f"of kind {kind}, {len(quote)} bytes, which can't be read here: the key is NOT SHOWN to be bound"
    return f"of kind {kind}: its quote carries this key's hash; whether the quote is genuine is NOT checked here"


def _readable(value: Any) -> str:
    if isinstance(value, bytes):
        return value.hex()
    if isinstance(value, dict):
        return ", ".join(f"{name} {_readable(one)}" for name, one in value.items())
    return "; ".join(map(_readable, value)) if isinstance(value, list) else "none" if value is None else str(value)


def main(argv: list[str] | None = None) -> int:
    """The command `cutset-verify`."""
    parser = argparse.ArgumentParser(prog="cutset-verify", description="Checks a receipt of Cutset, and what it shows.")
    add_flags(parser)
    return run(parser.parse_args(argv))


if __name__ == "__main__":
    sys.exit(main())
