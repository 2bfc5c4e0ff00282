"""What the command of an enclave gives away: the manifest with its arguments is no secret, stdin and stdout are the
host's, and so is every file that isn't in an encrypted mount."""

from __future__ import annotations

import posixpath
import re
from collections.abc import Iterator, Mapping, Sequence
from itertools import pairwise
from typing import Any

__all__ = ["argument_holes", "variable_holes"]

PROGRAMS = ("cutset", "cutset.cli", "cutset.__main__")
MODES = ("masked+verified", "local")
SECRET_TEXTS = ("--prompt", "--system", "--api-key")  # as arguments anybody reads them
SECRET_FILES = ("--prompt-file", "--api-key-file", "--key", "--tls-key", "--model-key")
ROOTS = ("--evidence-root", "--attestation-root")
SHOWN = ("--evidence", "--stage-evidence", "--replica-evidence", "--worker-evidence")
OUTPUTS = ("--output", "-o", "--json", "--trace")
HOST_PLACES = ("/dev", "/proc", "/sys")  # made up by Gramine, of what the host has: stdin, stdout, descriptors
SECRET_NAMES = ("KEY", "TOKEN", "SECRET", "PASSWORD", "PASSWD", "CREDENTIALS", "PROMPT")
SECRET_WORDS = {*SECRET_NAMES, "KEYS", "SECRETS", "PASSWORDS", "PASS", "CREDENTIAL", "PROMPTS", "APIKEY"}  # anywhere
RUNS_TEXT = re.compile("-[A-Za-z]*c")  # of shells, and of Python
MODULE = re.compile("-[A-Za-z]*m(?=.)")  # python -mcutset
KEY_FILES = ("CUTSET_KEY",)  # the name of a file with a secret
NOT_SECRET = ("CUTSET_ACCELERATOR_KEY", "CUTSET_PADS_KEY")  # files with public keys
ENCRYPTED = "name a file in an encrypted mount"
Document = Mapping[str, Any]


def argument_holes(argv: Sequence[str], document: Document) -> Iterator[str]:
    """The holes in a list of arguments, a line each."""
    whole = argv
    argv, wrong = _without_provision(argv)
    yield from wrong
    command, words = _command(argv), list(_flags(whole))
    for word in argv[:-1]:
        if posixpath.basename(word) in PROGRAMS:
            break
        if RUNS_TEXT.fullmatch(word):
            yield f"loader.argv: {word} runs a text that isn't checked here; list the program and its arguments"
    for flag, value in words:
        if flag == "--mode" and value not in MODES:
            why = "believes whatever the accelerator answers" if value == "masked" else "shows what the enclave hides"
            yield f"loader.argv: --mode {value[:40]} {why}; use masked+verified"
        elif flag in SECRET_TEXTS:
            source = "reads what the host types" if value == "-" else "stands in the manifest, which is no secret"
            yield f"loader.argv: {flag} {source}; {ENCRYPTED} with {_instead(flag)}"
        elif flag in SECRET_FILES and value == "-":
            yield f"loader.argv: {flag} - reads what the host types; {ENCRYPTED}"
        elif flag in ROOTS:
            yield f"loader.argv: {flag} takes quotes from another place than Gramine; remove it"
        elif flag in SHOWN and value == "simulator":
            yield f"loader.argv: {flag} simulator proves nothing; use sgx"
        elif flag == "--model-key" and value.startswith("https://"):
            continue  # a server that releases it to evidence
        elif flag in SECRET_FILES and not _hidden(value, document):
            yield f"loader.argv: {flag} {value[:200]!r} is a file that the host reads; {ENCRYPTED}"
        elif flag in OUTPUTS and not _hidden(value, document):
            yield f"loader.argv: {flag} {value[:200]!r} is where the host reads; {ENCRYPTED}"
        elif flag == "--pads-same-host":
            yield f"loader.argv: {flag} lets one party have masks and masked rows; remove it"
        elif flag == "--pads-from" and not value.startswith("tcp://"):
            yield f"loader.argv: {flag} {value[:200]!r} is on the accelerator's machine; name another one, with tcp://"
        elif flag == "--prefix-caching":
            yield f"loader.argv: {flag} reveals which beginnings were asked before; remove it"
    given = {flag for flag, _ in words}
    if command == "serve" and "--tls-key" not in given:  # where that key is has been looked at above
        host = next((value for flag, value in reversed(words) if flag == "--host"), "127.0.0.1")
        yield f"loader.argv: serve (on {host[:60]}) speaks HTTP in clear: the host reads every prompt and answer"
    elif command in ("chat", "tokenize"):
        yield f"loader.argv: {command} reads and writes what the host sees: use generate, --prompt-file and --output"
    elif command == "generate" and given & {"--prompt", "--prompt-file"} and "--output" not in given:
        yield f"loader.argv: generate writes the answer to stdout, which is the host's; {ENCRYPTED} with --output"


def variable_holes(variables: Mapping[str, Any], document: Document) -> Iterator[str]:
    """The secrets among variables that the manifest itself sets."""
    for name, setting in variables.items():
        value = setting.get("value") if isinstance(setting, dict) else setting
        if not isinstance(value, str) or not value or name in NOT_SECRET:
            continue
        if name in KEY_FILES:
            if not _hidden(value, document):
                yield f"loader.env.{name}: {value[:200]!r} is a file that the host reads; {ENCRYPTED}"
        elif name.upper().endswith(SECRET_NAMES) or SECRET_WORDS & set(name.upper().split("_")):
            yield f"loader.env.{name}: a secret in the manifest, which is none; {ENCRYPTED} instead"


def _without_provision(argv: Sequence[str]) -> tuple[Sequence[str], list[str]]:
    """The command that `cutset trust provision` runs once the key of the encrypted mount is there, and what is wrong
    with how it asks for it."""
    words = list(argv)
    at = next((i for i in range(len(words) - 1) if words[i : i + 2] == ["trust", "provision"]), 0)
    if not at or posixpath.basename(words[at - 1]) not in PROGRAMS or "--" not in words[at:]:
        return argv, []
    end = words.index("--", at)
    asking, holes = dict(_flags(words[at + 2 : end])), []
    if not asking.get("--from", "").startswith("https://"):
        holes.append("loader.argv: trust provision asks a key server that proves nothing; name it with https://")
    return [*words[:at], *words[end + 1 :]], holes


def _instead(flag: str) -> str:
    return {"--prompt": "--prompt-file", "--api-key": "--api-key-file"}.get(flag, "--prompt-file")


def _command(argv: Sequence[str]) -> str:
    """The word after the program's name."""
    for word, after in pairwise(argv):
        if posixpath.basename(word) in PROGRAMS or MODULE.sub("", word, count=1) in PROGRAMS:
            return after
    return ""


def _flags(argv: Sequence[str]) -> Iterator[tuple[str, str]]:
    """Flags with their values, however these are written; what follows a flag may be its value or not."""
    for word, after in zip(argv, [*argv[1:], ""], strict=True):
        if word.startswith("-") and len(word) > 1:
            flag, equals, value = word.partition("=")
            if not word.startswith("--") and len(word) > 2:  # -oFILE
                flag, equals, value = word[:2], "=", word[2:]
            yield flag, value if equals else after


def _hidden(path: str, document: Document) -> bool:
    """Whether the host can't read what is there: an encrypted mount, or the enclave's own memory."""
    fs = document.get("fs")
    fs = fs if isinstance(fs, dict) else {}
    start = fs.get("start_dir", "/")
    whole = posixpath.normpath(posixpath.join("/", start if isinstance(start, str) else "/", path))
    root = fs.get("root")
    kind, length = (root if isinstance(root, dict) else {}).get("type", "chroot"), 0
    if any(_below(whole, place) for place in HOST_PLACES):
        kind = "host"
    mounts = fs.get("mounts")
    for mount in mounts if isinstance(mounts, list) else ():
        place = mount.get("path") if isinstance(mount, dict) else None
        if isinstance(place, str) and place and _below(whole, posixpath.normpath(place)) and len(place) >= length:
            kind, length = mount.get("type", "chroot"), len(place)
    return kind in ("encrypted", "tmpfs")


def _below(path: str, place: str) -> bool:
    return path == place or path.startswith(place.rstrip("/") + "/")
