"""Settings: flags over CUTSET_ variables over cutset.toml over defaults, each value with where it came from.

`cutset.toml` is looked for in the current directory, then in the user's configuration directory; the first one found
is the only one read, but for settings that promise something (`Option.strict`). CUTSET_CONFIG names another. An empty
variable counts as not set. What is unknown is an error.

Every setting is declared once, as a field of `Settings`; `OPTIONS` is that table. Only the standard library is loaded.
"""

from __future__ import annotations

import os
import re
from collections.abc import Iterable, Iterator, Mapping
from contextlib import suppress
from dataclasses import dataclass, field, fields, replace
from pathlib import Path
from types import MappingProxyType
from typing import Any

from cutset.errors import ConfigError

__all__ = [
    "OPTIONS",
    "Option",
    "Settings",
    "did_you_mean",
    "gather",
    "load_settings",
    "parse_toml",
    "read_bounded",
    "usable_cores",
]

# Variables that aren't settings.
RESERVED = ("CUTSET_API_KEY", "CUTSET_CONFIG", "CUTSET_DEBUG", "CUTSET_ISA", "CUTSET_SHM_DIR")
# A name of so many parts takes tomllib a time that grows with their square, and more: 64 KB are 11 seconds.
DOTTED = re.compile(r"""(?<![\w-])(?:(?:[\w-]++|"(?:[^"\\\n]|\\.)*+"|'[^'\n]*+')[ \t]*+\.[ \t]*+){51}""")
WORDS = {"1": True, "true": True, "yes": True, "on": True, "0": False, "false": False, "no": False, "off": False}


@dataclass(frozen=True, slots=True)
class Option:
    """What a setting may be: `low` and `high` bound whole numbers, `choices` or a regex `pattern` texts.

    A `flag_only` setting decides what is promised to the user: a file or variable that lies around can't change it.
    Where a setting has a `strict` value, which promises more, a variable can't take back what a file says, nor a
    cutset.toml of the current directory what the user's own one says; a flag can.
    """

    help: str
    name: str = ""
    default: Any = None  # its type is the setting's; without one the setting is a path
    choices: tuple[str, ...] = ()
    pattern: str = ""  # where the choices can't all be listed
    low: int = 0
    high: int = 1 << 24
    flag_only: bool = False
    strict: Any = None

    @property
    def kind(self) -> type:
        """`str`, `int`, `bool` or `Path`."""
        return Path if self.default is None else type(self.default)

    @property
    def flag(self) -> str:
        return "--" + self.name.replace("_", "-")

    @property
    def variable(self) -> str:
        return "CUTSET_" + self.name.upper()

    @property
    def expects(self) -> str:
        """What a value must be, in words."""
        numbers = f"a whole number from {self.low} to {self.high}"
        words = "one of " + ", ".join(choice for choice in self.choices if choice)
        return {int: numbers, bool: "true or false", Path: "a path"}.get(self.kind, words)

    def from_text(self, text: str, where: str, base: Path) -> Any:
        """The value that `text` spells; a path is relative to `base`. Raises `ConfigError`."""
        if self.kind is int and re.fullmatch(r"\s*[+-]?[0-9]{1,18}\s*", text):
            return self.check(int(text), where)
        if self.kind is bool:
            return self.check(WORDS.get(text.strip().lower(), text), where)
        if self.kind is Path and text and "\0" not in text:
            return base / os.path.expanduser(text)
        return self.check(text, where)

    def check(self, value: Any, where: str) -> Any:
        """`value`, or `ConfigError` that names `where` it was given."""
        good = isinstance(value, Path | None) if self.kind is Path else type(value) is self.kind  # True is no number
        if good and self.kind is int:
            good = self.low <= value <= self.high
        if good and self.kind is str:
            good = bool(re.fullmatch(self.pattern, value)) if self.pattern else value in self.choices
        if good:
            return value
        short = isinstance(value, str | float) or (isinstance(value, int) and abs(value) < 1 << 63)
        shown = repr(value)[:60] if short else f"a value of type {type(value).__name__}"
        raise ConfigError(f"{where} must be {self.expects}, not {shown}")


def _is(help: str, **limits: Any) -> dict[str, Option]:
    return {"option": Option(help, **limits)}


BACKENDS = ("auto", "reference", "torch", "native")
DTYPES = ("auto", "float32", "float16", "bfloat16", "int8", "exact")
DEVICES = {"pattern": "cpu|cuda(:[0-9]{1,3})?", "choices": ("cpu", "cuda", "cuda:N")}
ADDRESSES = {
    "pattern": r"|(shm|ipc|tcp|inproc)://[^\0]{1,200}",
    "choices": ("shm://NAME", "ipc://PATH", "tcp://HOST:PORT"),
}
MODE_NAMES = ("", "plain", "verified", "masked", "masked+verified", "local")
MODE = "what an offload promises; none: masked+verified. Only accepted here, where it is seen"
WHEN = "when pads are made here: ahead, in idle time, or inline"
PADS = "when no pad is ready: wait, compute it here (inline), fail; auto: inline in idle time's place, else wait"
PADS_FROM = "a second accelerator that makes pads; none: idle time. Only accepted here: who it is decides much"
REUSE = "reuse the KV cache of equal beginnings; in masked modes only where this flag asks for it"
SAME_HOST = "let the one that makes pads be on the accelerator's host: for tests alone, it breaks every promise"
PAD_ROWS = "hide the number of rows in masked modes, up to a power of two"
PADS_KEY = "with tcp: the public key of the one that makes pads. Only accepted here"
DIGESTS = "compare an integer checkpoint with its digests: where its files have changed since the last time, or always"
GENERATION = "take sampling parameters that a request doesn't name from the model's generation_config.json"
BESIDE = "models.yaml, the registered models; looked for beside cutset.toml, then in the current directory"


@dataclass(frozen=True)
class Settings:
    """What is in force; a value that can't be is a `ConfigError`. `load_settings` builds it.

    `sources` says where each value came from: "--threads", "CUTSET_THREADS", "cutset.toml (its path)", "default", or
    "argument" for one that was given to the constructor. `file` is the cutset.toml that was read."""

    backend: str = field(default="auto", metadata=_is("which executor runs the model", choices=BACKENDS))
    dtype: str = field(default="auto", metadata=_is("what the model computes in", choices=DTYPES))
    device: str = field(default="cpu", metadata=_is("where the torch backend runs", **DEVICES))
    threads: int = field(default=0, metadata=_is("threads; 0: one for each core this process may use", high=1024))
    block_size: int = field(default=16, metadata=_is("tokens in a block of the KV cache", low=1, high=1024))
    cache_mib: int = field(default=0, metadata=_is("size of the KV cache in MiB; 0: chosen"))
    max_model_len: int = field(default=0, metadata=_is("longest context in tokens; 0: all that the model is made for"))
    max_num_seqs: int = field(default=64, metadata=_is("most sequences in a step", low=1, high=65536))
    max_batch_tokens: int = field(default=512, metadata=_is("most tokens in a step", low=1))
    prefix_caching: bool = field(default=True, metadata=_is(REUSE))
    generation_config: bool = field(default=True, metadata=_is(GENERATION))
    offload: str = field(default="", metadata=_is("the accelerator that multiplies; none: this machine", **ADDRESSES))
    mode: str = field(default="", metadata=_is(MODE, choices=MODE_NAMES, flag_only=True))
    offload_timeout: int = field(default=30, metadata=_is("seconds that a call to an accelerator may take", low=1))
    pads_from: str = field(default="", metadata=_is(PADS_FROM, flag_only=True, **ADDRESSES))
    pads_same_host: bool = field(default=False, metadata=_is(SAME_HOST, flag_only=True))
    pads: str = field(
        default="idle", metadata=_is("pads are made ahead in idle time, or inline", choices=("idle", "inline"))
    )
    pads_policy: str = field(default="auto", metadata=_is(PADS, choices=("auto", "wait", "inline", "fail")))
    pads_mib: int = field(default=256, metadata=_is("most memory for pads in MiB", low=1))
    pad_rows: bool = field(default=False, metadata=_is(PAD_ROWS, strict=True))
    key: Path | None = field(default=None, metadata=_is("with tcp: this side's secret key, see `cutset keys`"))
    accelerator_key: Path | None = field(default=None, metadata=_is("with tcp: the accelerator's public key"))
    pads_key: Path | None = field(default=None, metadata=_is(PADS_KEY, flag_only=True))
    verify: str = field(default="changed", metadata=_is(DIGESTS, choices=("changed", "always"), strict="always"))
    download: bool = field(default=False, metadata=_is("download models named by a hub id"))
    offline: bool = field(default=False, metadata=_is("never touch the network, whatever else is said", strict=True))
    models_file: Path | None = field(default=None, metadata=_is(BESIDE))
    sources: Mapping[str, str] = field(default_factory=dict, compare=False)
    file: Path | None = None

    def __post_init__(self) -> None:
        sources = {}
        for name, option in OPTIONS.items():
            value = option.check(getattr(self, name), f"Settings.{name}")
            sources[name] = self.sources.get(name) or ("default" if value == option.default else "argument")
        object.__setattr__(self, "sources", MappingProxyType(sources))

    @property
    def thread_count(self) -> int:
        """Threads to compute with: `threads`, or the usable cores where that is 0."""
        return self.threads or usable_cores()

    def by_hand(self, name: str) -> bool:
        """Whether a value comes from a flag or a Python call, and from no file or variable that lies around."""
        return self.sources[name].startswith(("--", "argument"))

    @property
    def downloads_allowed(self) -> bool:
        """Whether a hub id may be fetched: `download` without `offline`."""
        return self.download and not self.offline


OPTIONS: Mapping[str, Option] = MappingProxyType(
    {f.name: replace(f.metadata["option"], name=f.name, default=f.default) for f in fields(Settings) if f.metadata}
)


def load_settings(
    flags: Mapping[str, Any] | None = None, *, environ: Mapping[str, str] | None = None, cwd: Path | None = None
) -> Settings:
    """The settings in force; raises `ConfigError`. `environ` and `cwd` replace the process's own.

    `flags` maps names of settings to text or values, None where one wasn't given."""
    environ, cwd = os.environ if environ is None else environ, cwd or Path.cwd()
    named, home = environ.get("CUTSET_CONFIG"), environ.get("XDG_CONFIG_HOME") or "~/.config"
    places = [named] if named else ["cutset.toml", f"{home}/cutset/cutset.toml"]
    found = [path for path in (cwd / os.path.expanduser(place) for place in places) if path.is_file()]
    file = found[0] if found else None
    if named and not file:
        raise ConfigError(f"CUTSET_CONFIG names {named!r}, which is not a file")
    values, sources = gather(OPTIONS, flags or {}, environ, file, cwd, found[1:])
    if values["models_file"] is None:
        beside = [folder / "models.yaml" for folder in ([file.parent] if file else []) + [cwd]]
        values["models_file"] = next((path for path in beside if path.is_file()), None)
    return Settings(**values, sources=sources, file=file)


def gather(
    options: Mapping[str, Option],
    flags: Mapping[str, Any],
    environ: Mapping[str, str],
    file: Path | None,
    cwd: Path,
    hidden: Iterable[Path] = (),
) -> tuple[dict[str, Any], dict[str, str]]:
    """Values and sources of `options`. Raises `ConfigError` for wrong values and for unknown keys and variables.

    `hidden`: files of which only strict values count, since `file` stands before them."""
    content = {} if file is None else _read_toml(file)
    promises = {path: _read_toml(path) for path in hidden}
    origin = f"{file.name} ({file})" if file else ""
    variables = [option.variable for option in options.values()]
    for key in (key for key in environ if key.startswith("CUTSET_") and key not in (*variables, *RESERVED)):
        raise ConfigError(f"{key} in the environment is not a setting{did_you_mean(key, variables)}")
    for key in (key for key in (*flags, *content) if key not in options):
        place = "" if key in flags else f" in {origin}"
        raise ConfigError(f"{key!r}{place} is not a setting{did_you_mean(key, options)}")
    values, sources = {}, {}
    for name, option in options.items():
        text, inside = environ.get(option.variable), name in content
        if option.flag_only and (text or inside):
            place = option.variable if text else f"{name} in {origin}"
            raise ConfigError(f"{place} is not accepted: give {option.flag} on the command line, where it is seen")
        value, where, source, base = option.default, name, "default", cwd
        if (given := flags.get(name)) is not None:
            value = given
            where = source = option.flag if given is not False else "--no-" + option.flag[2:]
        elif text:
            value, where, source = text, option.variable, option.variable
        elif inside and file:
            value, where, source, base = content[name], f"{name} in {origin}", origin, file.parent
        # TOML has types of its own, but for paths; flags and variables are text that spells a value.
        spelled = isinstance(value, str) and (source != origin or option.kind is Path)
        values[name] = option.from_text(value, where, base) if spelled else option.check(value, where)
        sources[name] = source
        if option.strict is not None and flags.get(name) is None and value != option.strict:
            for path, said in ((file, content), *promises.items()):
                if path is not None and said.get(name) == option.strict:
                    values[name], sources[name] = option.strict, f"{path.name} ({path})"
                    break
    return values, sources


def did_you_mean(word: str, known: Iterable[str]) -> str:
    """The end of a message about an unknown word: the nearest known one, or else all of them."""
    import difflib

    names = sorted(known)
    near = difflib.get_close_matches(word, names, n=1)
    return f"; did you mean {near[0]!r}?" if near else f"; known: {', '.join(names)}" if names else ""


def read_bounded(path: Path, limit: int = 1 << 20) -> str:
    """The text of a small file. Raises `ConfigError` when it can't be read, isn't UTF-8 or has over `limit` bytes."""
    try:
        with path.open("rb") as file:
            data = file.read(limit + 1)
        if len(data) > limit:
            raise ConfigError(f"{path} is larger than {limit} bytes, the most that is read")
        return data.decode("utf-8")
    except (OSError, ValueError) as error:  # a ValueError: not UTF-8, or a zero byte in the path
        raise ConfigError(f"{path} can't be read: {getattr(error, 'strerror', error)}") from error


def parse_toml(text: str, where: str) -> dict[str, Any]:
    """The document in `text`. Raises `ConfigError`, which names `where` it was."""
    import tomllib

    try:
        if DOTTED.search(text):
            raise ValueError("a name has more than 50 parts")
        return tomllib.loads(text)
    except (ValueError, RecursionError) as error:  # a syntax error, or a number of thousands of digits
        raise ConfigError(f"{where} is not valid TOML: {error}") from None


def _read_toml(path: Path) -> dict[str, Any]:
    return parse_toml(read_bounded(path), str(path))


def usable_cores(root: Path = Path("/")) -> int:
    """Cores that this process may use: by affinity, and by the quota of every control group above it, at least 1.

    A fraction of a core is dropped: a thread too many waits for the quota, and the others wait for it.
    """
    cores = len(os.sched_getaffinity(0)) if hasattr(os, "sched_getaffinity") else os.cpu_count() or 1
    return max(1, min([cores, *_quotas(root)]))


def _quotas(root: Path) -> Iterator[int]:
    """Whole cores that each control group grants, in version 2 (no controllers named) or 1 of that file system."""
    listed = root / "proc/self/cgroup"
    for line in listed.read_text().splitlines() if listed.is_file() else ():
        controllers, _, group = line.partition(":")[2].partition(":")
        if controllers and "cpu" not in controllers.split(","):
            continue
        names = ("cpu.cfs_quota_us", "cpu.cfs_period_us") if controllers else ("cpu.max",)
        # Inside a container the group's name may be the host's, of which only the top is mounted.
        inner = root / "sys/fs/cgroup" / controllers / group.strip("/")
        for folder in (inner, *inner.parents):
            with suppress(OSError, ValueError):  # no such file, or "max": no quota here
                quota, period = " ".join((folder / name).read_text() for name in names).split()
                if int(quota) > 0:
                    yield int(quota) // int(period)
