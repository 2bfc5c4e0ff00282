"""The lines of an input file, read one after another and never as a whole: a line that is too long is left out."""

from __future__ import annotations

import hashlib
import stat
from array import array
from collections.abc import Callable, Iterator
from dataclasses import dataclass
from pathlib import Path
from typing import NamedTuple

import numpy as np

from cutset.errors import ConfigError

__all__ = ["InputLine", "LineReader", "Survey", "survey"]

CHUNK = 1 << 20  # bytes
BOM = b"\xef\xbb\xbf"


class InputLine(NamedTuple):
    """A line of a file, counted from 0: `size` bytes from its byte `begin` on, without the line end. `text` is None for
    one of more bytes than are read."""

    number: int
    text: bytes | None
    size: int
    begin: int

    @property
    def blank(self) -> bool:
        """There is no item in it."""
        return self.text is not None and not self.text.strip()


class LineReader:
    """Iterates over the lines of a regular file once; `sha256` is then the digest of what was read.

    Raises ConfigError for a file that can't be read, and what is no regular file: it couldn't be read again.
    """

    def __init__(self, path: Path, longest: int) -> None:
        """`longest`: bytes of a line."""
        self.path, self.longest = path, longest
        self.sha256 = ""
        self.nbytes = 0

    def __iter__(self) -> Iterator[InputLine]:
        digest, number, start, begin = hashlib.sha256(), 0, True, 0
        held, size = bytearray(), 0  # of a line whose end hasn't come
        try:
            if not stat.S_ISREG(self.path.stat().st_mode):  # to open a pipe would wait for somebody who writes
                raise ConfigError(f"{self.path} is no regular file, and a batch reads its input twice: write it to one")
            with self.path.open("rb") as file:
                while chunk := file.read(CHUNK):
                    digest.update(chunk)
                    self.nbytes += len(chunk)
                    if start:
                        begin = len(BOM) if chunk.startswith(BOM) else 0
                        chunk, start = chunk[begin:], False
                    *ended, rest = chunk.split(b"\n")
                    for piece in ended:
                        size += len(piece)
                        whole = bytes(held) + piece if held else piece
                        yield InputLine(number, whole if size <= self.longest else None, size, begin)
                        begin += size + 1
                        held, size, number = bytearray(), 0, number + 1
                    size += len(rest)
                    if size <= self.longest:
                        held += rest
                    else:
                        held = bytearray()
                if size:
                    yield InputLine(number, bytes(held) if size <= self.longest else None, size, begin)
        except OSError as error:
            raise ConfigError(f"{self.path} can't be read: {error.strerror}") from None
        self.sha256 = digest.hexdigest()


@dataclass(frozen=True)
class Survey:
    """What a first reading of a file finds: its digest, lines, those that aren't blank, and names that come again."""

    sha256: str
    lines: int
    items: int
    nbytes: int
    _again: np.ndarray[tuple[int], np.dtype[np.int64]]  # lines whose name was there before, in order
    _first: np.ndarray[tuple[int], np.dtype[np.int64]]  # for each the line that had it first

    @property
    def repeated(self) -> int:
        """Lines whose name was there before."""
        return len(self._again)

    def first(self, line: int) -> int | None:
        """The line that had the name of this one first; None where this one is the first, or has none."""
        if not len(self._again):
            return None
        at = int(np.searchsorted(self._again, line))
        return int(self._first[at]) if at < len(self._again) and self._again[at] == line else None


def survey(path: Path, longest: int, name_of: Callable[[bytes], str | None]) -> Survey:
    """Reads a file once, 24 bytes of memory a line. `name_of` gives the name of the item in a line, or None.

    Raises ConfigError as LineReader does.
    """
    reader, items, lines = LineReader(path, longest), 0, 0
    names, numbers = array("Q"), array("q")
    for line in reader:
        lines = line.number + 1
        if line.blank:
            continue
        items += 1
        name = None if line.text is None else name_of(line.text)
        if name is not None:
            digest = hashlib.blake2b(name.encode("utf-8", "surrogatepass"), digest_size=16).digest()
            names.frombytes(digest)
            numbers.append(line.number)
    keys = np.frombuffer(names, np.uint64).reshape(-1, 2)
    at = np.frombuffer(numbers, np.int64)
    order = np.lexsort((at, keys[:, 1], keys[:, 0]))
    same = np.zeros(len(order), np.bool_)
    same[1:] = (keys[order[1:]] == keys[order[:-1]]).all(axis=1)
    begins = np.maximum.accumulate(np.where(same, 0, np.arange(len(order))))  # of each group of equal names
    again, first = at[order[same]], at[order[begins[same]]]
    sort = np.argsort(again)
    return Survey(reader.sha256, lines, items, reader.nbytes, again[sort], first[sort])
