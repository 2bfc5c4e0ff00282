"""The settings of the two faces: `Settings` of language models, `StreamSettings` of video networks."""

from __future__ import annotations

import os
from collections.abc import Mapping, Sequence
from dataclasses import dataclass, field, fields, replace
from pathlib import Path
from types import MappingProxyType
from typing import Any, Literal

from cutset.config.cores import usable_cores
from cutset.config.option import Option, did_you_mean, gather
from cutset.errors import ConfigError

__all__ = ["OPTIONS", "STREAM_OPTIONS", "Settings", "StreamSettings", "load_settings", "load_stream_settings"]

# Variables that aren't settings.
RESERVED = ("CUTSET_API_KEY", "CUTSET_CONFIG", "CUTSET_DEBUG", "CUTSET_ISA", "CUTSET_SHM_DIR")


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
PADS = "when no pad is ready: wait, compute it here (inline), fail; auto: inline in idle time's place, else wait"
PADS_FROM = "a second accelerator that makes pads; none: idle time. Only accepted here: who it is decides much"
REUSE = "reuse the KV cache of equal beginnings; in masked modes only where this flag asks for it"
SAME_HOST = "let the one that makes pads be on the accelerator's host: for tests alone, it breaks every promise"
PAD_ROWS = "hide the number of rows in masked modes, up to a power of two"
PADS_KEY = "with tcp: the public key of the one that makes pads. Only accepted here"
DIGESTS = "compare an integer checkpoint with its digests: where its files have changed since the last time, or always"
GENERATION = "take sampling parameters that a request doesn't name from the model's generation_config.json"
BESIDE = "models.yaml, the registered models; looked for beside cutset.toml, then in the current directory"


def options_of(kind: Any, table: str = "") -> Mapping[str, Option]:
    """What the fields of a dataclass of settings say of themselves, by name."""
    declared = {f.name: (f.metadata["option"], f.default) for f in fields(kind) if f.metadata}
    return MappingProxyType(
        {name: replace(option, name=name, default=default, table=table) for name, (option, default) in declared.items()}
    )


@dataclass(frozen=True, kw_only=True)
class Sourced:
    """Settings that know where each value came from: "--threads", "CUTSET_THREADS", "cutset.toml (its path)",
    "default", or "argument" for one that was given to the constructor. `file` is the cutset.toml that was read.
    """

    sources: Mapping[str, str] = field(default_factory=dict, compare=False)
    file: Path | None = None

    def _check(self, options: Mapping[str, Option]) -> None:
        sources = {}
        for name, option in options.items():
            value = option.check(getattr(self, name), f"{type(self).__name__}.{name}")
            object.__setattr__(self, name, value)
            sources[name] = self.sources.get(name) or ("default" if value == option.default else "argument")
        object.__setattr__(self, "sources", MappingProxyType(sources))

    def by_hand(self, name: str) -> bool:
        """Whether a value comes from a flag or a Python call, and from no file or variable that lies around."""
        return self.sources[name].startswith(("--", "argument"))


@dataclass(frozen=True)
class Settings(Sourced):
    """What is in force for a language model; a value that can't be is a `ConfigError`. `load_settings` builds it."""

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

    def __post_init__(self) -> None:
        self._check(OPTIONS)

    @property
    def thread_count(self) -> int:
        """Threads to compute with: `threads`, or the usable cores where that is 0."""
        return self.threads or usable_cores()

    @property
    def downloads_allowed(self) -> bool:
        """Whether a hub id may be fetched: `download` without `offline`."""
        return self.download and not self.offline


OPTIONS = options_of(Settings)

SOURCES, NETWORK, WORKERS = ({"group": name} for name in ("sources", "network", "workers"))
TRAVEL, PLANS = {"group": "how pictures travel"}, {"group": "plans"}
SECONDS: dict[str, Any] = {"type": float, "low": 1e-9, "high": 1e9, "metavar": "S", "unit": "seconds"}
RATE: dict[str, Any] = {"type": float, "low": 1e-9, "high": 1e9, "metavar": "R"}
SCHEDULERS = ("auto", "even", "optimal", "balance", "neighbourhood", "edge", "cloud", "forward", "exhaustive")
SIZE = "scale pictures to so many rows and columns; none: the first source's own"
BAD_PACKETS = "give a source up after more than N packets, one after another, that can't be decoded"
TIMEOUT = "a camera or stream is lost when nothing comes for S seconds"
PATIENCE = "open a lost camera or stream again for S seconds, then end with exit code 1; 0: at once"
WHO = "processes here, or addresses, nearest to the camera first. Only accepted here: they see the pictures"
WHOSE = "with tcp: the workers' public keys, in their order. Only accepted here"
SPEEDS = "emulate slower local workers, as shares of this machine; one for all, or each"
LINKS = "emulate the link to the next worker, as 8MB/s,20ms; once for all, or each"
MAX_ERROR = (
    "choose the threshold so that the output is off by this share of its largest element; every 16th picture is "
    "computed here too. Threshold, levels and float16 are then the most that is tried"
)
SCHEDULER = (
    "who makes plans from measurements; even: as many operations for each, without measuring; auto: optimal, or even "
    "where a plan is given"
)


@dataclass(frozen=True)
class StreamSettings(Sourced):
    """What is in force for a stream; a value that can't be is a `ConfigError`. `load_stream_settings` builds it.

    Everything that `cutset stream run` and `Stream` may be told about how a network runs, with the same defaults.
    """

    size: str = field(default="", metadata=_is(SIZE, pattern="|[0-9]{1,5}[x×][0-9]{1,5}", metavar="HxW", **SOURCES))
    limit: int | None = field(
        default=None, metadata=_is("at most so many pictures of each source", type=int, low=1, high=1e9, **SOURCES)
    )
    rate: float | None = field(default=None, metadata=_is("pictures a second of each source", **RATE, **SOURCES))
    deadline: float | None = field(
        default=None, metadata=_is("drop what isn't done S seconds after capture", **SECONDS, **SOURCES)
    )
    bad_packets: int = field(default=25, metadata=_is(BAD_PACKETS, high=1_000_000, **SOURCES))
    source_timeout: float = field(default=10.0, metadata=_is(TIMEOUT, **SECONDS, **SOURCES))
    source_patience: float = field(default=60.0, metadata=_is(PATIENCE, **SECONDS | {"low": 0}, **SOURCES))

    features: bool = field(default=False, metadata=_is("stop before the head", **NETWORK))
    weights: Path | None = field(
        default=None, metadata=_is("safetensors, or weights that torch saved; none: random ones", **NETWORK)
    )
    seed: int = field(default=0, metadata=_is("of random weights", high=(1 << 64) - 1, **NETWORK))

    workers: int | Sequence[str] = field(
        default=2,
        metadata=_is(WHO, type=str, separator=",", counts=64, metavar="N|A,B,C", flag_only=True, **WORKERS),
    )
    key: Path | None = field(default=None, metadata=_is("with tcp: this side's secret key", **WORKERS))
    worker_keys: Sequence[Path] = field(
        default=(),
        metadata=_is(WHOSE, type=Path, separator=",", metavar="A,B,C", flag_only=True, **WORKERS),
    )
    threads: int = field(default=1, metadata=_is("of each local worker", low=1, high=1024, **WORKERS))
    link: Sequence[str] = field(
        default=(), metadata=_is(LINKS, type=str, separator=";", metavar="8MB/s,20ms", **WORKERS)
    )
    speed: Sequence[float] = field(
        default=(), metadata=_is(SPEEDS, type=float, separator=",", low=1e-3, high=1, metavar="S,S,S", **WORKERS)
    )

    mode: Literal["delta", "full"] = field(
        default="delta", metadata=_is("send what changed, or all", choices=("delta", "full"), **TRAVEL)
    )
    in_flight: int = field(
        default=4, metadata=_is("pictures in flight, at most", unit="pictures in flight", low=1, high=1024, **TRAVEL)
    )
    threshold: float = field(
        default=0.0, metadata=_is("activations that are off by T stay", high=1e30, metavar="T", **TRAVEL)
    )
    levels: int = field(default=0, metadata=_is("pixels that are off by N of 255 stay", high=255, **TRAVEL))
    max_error: float | None = field(
        default=None, metadata=_is(MAX_ERROR, type=float, low=1e-30, high=1e30, metavar="E", **TRAVEL)
    )
    float16: bool = field(default=False, metadata=_is("send activations as float16", **TRAVEL))
    patience: float = field(default=20.0, metadata=_is("wait so long for lost workers", **SECONDS, **TRAVEL))
    silence: float = field(default=3.0, metadata=_is("take a worker for dead after S", **SECONDS, **TRAVEL))

    plan: Path | None = field(
        default=None, metadata=_is("the first plan, as `cutset stream plan` writes it; none: one is made", **PLANS)
    )
    scheduler: str = field(default="auto", metadata=_is(SCHEDULER, choices=SCHEDULERS, metavar="NAME", **PLANS))
    objective: Literal["latency", "throughput"] = field(
        default="latency", metadata=_is("what a plan is to make good", choices=("latency", "throughput"), **PLANS)
    )
    pictures_stay: bool = field(default=False, metadata=_is("no picture leaves the first worker", strict=True, **PLANS))
    profile: Sequence[Path] = field(
        default=(),
        metadata=_is(
            "of each worker, as `cutset stream profile` writes it; none: this machine's",
            type=Path,
            separator=",",
            metavar="A,B,C",
            **PLANS,
        ),
    )
    sparsity: Path | None = field(
        default=None, metadata=_is("foresee what changes by a model of `cutset stream train`", **PLANS)
    )
    look: float = field(default=2.0, metadata=_is("seconds between looks for a better plan", **SECONDS, **PLANS))

    def __post_init__(self) -> None:
        self._check(STREAM_OPTIONS)


STREAM_OPTIONS = options_of(StreamSettings, "stream")


def load_settings(
    flags: Mapping[str, Any] | None = None, *, environ: Mapping[str, str] | None = None, cwd: Path | None = None
) -> Settings:
    """The settings in force; raises `ConfigError`. `environ` and `cwd` replace the process's own.

    `flags` maps names of settings to text or values, None where one wasn't given."""
    values, cwd = _load(OPTIONS, flags, environ, cwd)
    if values["models_file"] is None:
        beside = [folder / "models.yaml" for folder in ([values["file"].parent] if values["file"] else []) + [cwd]]
        values["models_file"] = next((path for path in beside if path.is_file()), None)
    return Settings(**values)


def load_stream_settings(
    flags: Mapping[str, Any] | None = None, *, environ: Mapping[str, str] | None = None, cwd: Path | None = None
) -> StreamSettings:
    """The same of a stream."""
    return StreamSettings(**_load(STREAM_OPTIONS, flags, environ, cwd)[0])


def _load(
    options: Mapping[str, Option],
    flags: Mapping[str, Any] | None,
    environ: Mapping[str, str] | None,
    cwd: Path | None,
) -> tuple[dict[str, Any], Path]:
    """The values of these settings with their `sources` and `file`, and the directory that was looked in."""
    environ, cwd = os.environ if environ is None else environ, cwd or Path.cwd()
    named, home = environ.get("CUTSET_CONFIG"), environ.get("XDG_CONFIG_HOME") or "~/.config"
    places = [named] if named else ["cutset.toml", f"{home}/cutset/cutset.toml"]
    found = [path for path in (cwd / os.path.expanduser(place) for place in places) if path.is_file()]
    file = found[0] if found else None
    if named and not file:
        raise ConfigError(f"CUTSET_CONFIG names {named!r}, which is not a file")
    variables = [option.variable for table in (OPTIONS, STREAM_OPTIONS) for option in table.values()]
    for key in (key for key in environ if key.startswith("CUTSET_") and key not in (*variables, *RESERVED)):
        raise ConfigError(f"{key} in the environment is not a setting{did_you_mean(key, variables)}")
    values, sources = gather(options, flags or {}, environ, file, cwd, found[1:])
    return values | {"sources": sources, "file": file}, cwd
