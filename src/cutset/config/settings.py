"""The settings of the two faces: `Settings` of language models, `StreamSettings` of video networks."""

# ruff: noqa: RUF009 (what a field is made with is no default)

from __future__ import annotations

import os
import re
from collections.abc import Mapping, Sequence
from dataclasses import dataclass, field, fields, replace
from pathlib import Path
from types import MappingProxyType
from typing import Any, Literal

from cutset.config.cores import usable_cores
from cutset.config.option import Option, did_you_mean, gather
from cutset.errors import ConfigError

__all__ = [
    "EVIDENCE_KINDS",
    "OPTIONS",
    "STREAM_OPTIONS",
    "Settings",
    "StreamSettings",
    "load_settings",
    "load_stream_settings",
    "parse_size",
]

# Variables that aren't settings.
RESERVED = ("CUTSET_API_KEY", "CUTSET_CONFIG", "CUTSET_DEBUG", "CUTSET_ISA", "CUTSET_MQTT_PASSWORD", "CUTSET_SHM_DIR")


def _setting(default: Any, help: str, *shared: Mapping[str, Any], **limits: Any) -> Any:
    """A field of settings; the rest is the `Option`'s."""
    limits |= {name: value for each in shared for name, value in each.items()}
    return field(default=default, metadata={"option": Option(help, **limits)})


EVIDENCE_KINDS = ("sgx", "tdx", "snp", "simulator")
BACKENDS = ("auto", "reference", "torch", "native")
DTYPES = ("auto", "float32", "float16", "bfloat16", "int8", "int4", "exact", "stored")
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
PAD_STEPS = "in masked modes: a step each N ms, of zeros where there is none to do; 0: off. Only accepted here"
DATA_OBLIVIOUS = (
    "read all of the embedding for each token, and draw tokens by passes over all logits: no address depends on them. "
    "It costs time, see docs/threat-model.md"
)
OFFLOAD_POLICY = "with tcp: which evidence the accelerator must show, see `cutset trust policy`"
PADS_KEY = "with tcp: the public key of the one that makes pads. Only accepted here"
KV_DTYPE = "what keys and values are kept in; int8: 8 bits with a scale for each token and head, a quarter of float32"
PREFIX_CACHE = (
    "keep the KV cache of beginnings in this directory of yours; it holds prompts in effect. Not in masked modes"
)
PREFIX_SIZE = "most that the prefix cache takes on disk; what was used longest ago goes first"
BYTES = {"pattern": r"[0-9]{1,9}([KMGT]i?B)?", "expected": "a size, as 512MiB or 4GiB", "metavar": "SIZE"}
DIGESTS = "compare an integer checkpoint with its digests: where its files have changed since the last time, or always"
SPECULATE = "guess tokens ahead and compute them together: from the text so far, by a smaller model, or not at all"
GENERATION = "take sampling parameters that a request doesn't name from the model's generation_config.json"
STAGES = (
    "layers on so many processes here, or at these addresses of `cutset stage`, in this order; none: all here. Only "
    "accepted here: they see hidden states and what is written"
)
STAGE_KEYS = "with tcp: the stages' public keys, in their order. Only accepted here"
STAGE_POLICY = "with tcp: which evidence every stage must show, see `cutset trust policy`. Only accepted here"
STAGE_EVIDENCE = (
    "with --stage-policy and --stages N: which evidence the stages show that are started here, or by Ray; simulator is "
    "NOT CONFIDENTIAL. They listen on tcp then. Only accepted here"
)
SHOWN: dict[str, Any] = {"choices": ("", *EVIDENCE_KINDS), "flag_only": True}
STAGES_LISTEN = (
    "listen at this address for stages that dial in (`cutset stage --join`): all of --stages N, or those that --stages "
    "and --spares name as join://NAME. Only accepted here"
)
SPARES = (
    "stages that stand in for those that are gone: addresses, or how many, where --stages is a number, too. Only "
    "accepted here"
)
SPARE_KEYS = "with tcp: the spares' public keys, in their order. Only accepted here"
STAGE_PATIENCE = "wait so long for lost stages, then end what runs"
DIVIDED = (
    "divide layers among stages by what was measured of machines and links, or as many bytes for each; auto: measured, "
    "but for a model of less than 64 MB without --objective. With --stages, so only accepted here"
)
OBJECTIVE = "what stages are to make good: tokens a second of all sequences, or a token of one. Only accepted here"
RAY = (
    "place them by Ray (cutset[ray]), as many as the number says: on a local cluster, the one that runs here (auto) or "
    "that of a head. Only accepted here: its nodes see what they compute"
)
PLACE = "with --ray, what one of them needs of its node, as stage0=gpu:1,node:edge; may be repeated"
INSECURE_RAY = "with --ray: accept a cluster without Ray's token authentication, whose users could vouch for any key"
RAY_FORM: dict[str, Any] = {
    "pattern": r"|local|auto|(ray://)?[A-Za-z0-9._:\[\]-]{1,200}:[0-9]{1,5}",
    "expected": "local, auto or HOST:PORT",
    "metavar": "local|auto|HOST:PORT",
    "flag_only": True,
}
PLACES: dict[str, Any] = {"type": str, "separator": ";", "metavar": "NAME=RESOURCE:N,…", "flag_only": True}
NAMES: dict[str, Any] = {"type": str, "separator": ",", "metavar": "A,B,C", "flag_only": True}
SECONDS: dict[str, Any] = {"type": float, "low": 1e-9, "high": 1e9, "metavar": "S", "unit": "seconds"}
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
        """Whether a value comes from a flag or a Python call, and from no file or variable left from before."""
        return self.sources[name].startswith(("--", "argument"))


@dataclass(frozen=True)
class Settings(Sourced):
    """What is in force for a language model; a value that can't be is a `ConfigError`. `load_settings` builds it."""

    backend: str = _setting("auto", "which executor runs the model", choices=BACKENDS)
    dtype: str = _setting(
        "auto", "what the model computes in; stored: weights of few bits as the file has them", choices=DTYPES
    )
    device: str = _setting("cpu", "where the torch backend runs", DEVICES)
    threads: int = _setting(0, "threads; 0: one for each core this process may use", high=1024)
    block_size: int = _setting(16, "tokens in a block of the KV cache", low=1, high=1024)
    kv_dtype: str = _setting("auto", KV_DTYPE, choices=("auto", "int8"))
    cache_mib: int = _setting(0, "size of the KV cache in MiB; 0: chosen")
    max_model_len: int = _setting(0, "longest context in tokens; 0: all that the model is made for")
    max_num_seqs: int = _setting(64, "most sequences in a step", low=1, high=65536)
    max_batch_tokens: int = _setting(512, "most tokens in a step", low=1)
    prefix_caching: bool = _setting(True, REUSE)
    prefix_cache: Path | None = _setting(None, PREFIX_CACHE, metavar="DIR")
    prefix_cache_size: str = _setting("4GiB", PREFIX_SIZE, BYTES)
    speculate: str = _setting(
        "off", SPECULATE, pattern=r"[^\0]{1,4096}", expected="ngram, off or a model", metavar="ngram|MODEL|off"
    )
    speculate_tokens: int = _setting(8, "most tokens that are guessed ahead in a step", low=1, high=64)
    generation_config: bool = _setting(True, GENERATION)
    offload: str = _setting("", "the accelerator that multiplies; none: this machine", ADDRESSES)
    mode: str = _setting("", MODE, choices=MODE_NAMES, flag_only=True)
    offload_timeout: int = _setting(30, "seconds that a call to an accelerator may take", low=1)
    pads_from: str = _setting("", PADS_FROM, ADDRESSES, flag_only=True)
    pads_same_host: bool = _setting(False, SAME_HOST, flag_only=True)
    pads: str = _setting("idle", "pads are made ahead in idle time, or inline", choices=("idle", "inline"))
    pads_policy: str = _setting("auto", PADS, choices=("auto", "wait", "inline", "fail"))
    pads_mib: int = _setting(256, "most memory for pads in MiB", low=1)
    pad_rows: bool = _setting(False, PAD_ROWS, strict=True)
    pad_steps: int = _setting(0, PAD_STEPS, low=0, high=60_000, flag_only=True)
    data_oblivious: bool = _setting(False, DATA_OBLIVIOUS, strict=True)
    key: Path | None = _setting(None, "with tcp: this side's secret key, see `cutset keys`")
    accelerator_key: Path | None = _setting(None, "with tcp: the accelerator's public key")
    offload_policy: Path | None = _setting(None, OFFLOAD_POLICY, flag_only=True)
    pads_key: Path | None = _setting(None, PADS_KEY, flag_only=True)
    stages: int | Sequence[str] = _setting((), STAGES, NAMES | {"metavar": "N|A,B,C"}, counts=64)
    stage_keys: Sequence[Path] = _setting((), STAGE_KEYS, NAMES | {"type": Path})
    stage_policy: Path | None = _setting(None, STAGE_POLICY, flag_only=True)
    stage_evidence: str = _setting("", STAGE_EVIDENCE, SHOWN)
    stages_listen: str = _setting(
        "", STAGES_LISTEN, pattern=r"|tcp://[^\0]{1,200}", choices=("tcp://HOST:PORT",), flag_only=True
    )
    spares: int | Sequence[str] = _setting((), SPARES, NAMES | {"metavar": "N|A,B,C"}, counts=64)
    spare_keys: Sequence[Path] = _setting((), SPARE_KEYS, NAMES | {"type": Path})
    patience: float = _setting(20.0, STAGE_PATIENCE, SECONDS)
    ray: str = _setting("", RAY, RAY_FORM)
    place: Sequence[str] = _setting((), PLACE, PLACES)
    insecure_ray: bool = _setting(False, INSECURE_RAY, flag_only=True)
    scheduler: str = _setting("auto", DIVIDED, choices=("auto", "optimal", "even"), flag_only=True)
    objective: Literal["latency", "throughput"] = _setting(
        "throughput", OBJECTIVE, choices=("throughput", "latency"), flag_only=True
    )
    verify: str = _setting("changed", DIGESTS, choices=("changed", "always"), strict="always")
    download: bool = _setting(False, "download models named by a hub id")
    offline: bool = _setting(False, "never touch the network, whatever else is said", strict=True)
    models_file: Path | None = _setting(None, BESIDE)

    def __post_init__(self) -> None:
        self._check(OPTIONS)

    @property
    def thread_count(self) -> int:
        """Threads to compute with: `threads`, or the usable cores where that is 0."""
        return self.threads or usable_cores()

    @property
    def prefix_cache_bytes(self) -> int:
        """`prefix_cache_size` as a number."""
        digits = self.prefix_cache_size.rstrip("KMGTiB")
        unit = self.prefix_cache_size[len(digits) :]
        base: int = 1024 if "i" in unit else 1000
        power: int = base ** "_KMGT".index(unit[:1] or "_")
        return int(digits) * power

    @property
    def downloads_allowed(self) -> bool:
        """Whether a hub id may be fetched: `download` without `offline`."""
        return self.download and not self.offline


OPTIONS = options_of(Settings)

SOURCES, NETWORK, WORKERS = ({"group": name} for name in ("sources", "network", "workers"))
TRAVEL, PLANS = {"group": "how pictures travel"}, {"group": "plans"}
RATE: dict[str, Any] = {"type": float, "low": 1e-9, "high": 1e9, "metavar": "R"}
SCHEDULERS = ("auto", "even", "optimal", "balance", "neighbourhood", "edge", "cloud", "forward", "exhaustive")
SIDES = "[0-9]{1,5}[x×][0-9]{1,5}"
LARGEST = 16384  # rows or columns of a picture
FORM = f"rows x columns of at most {LARGEST:,}, as 480x720"
SIZE = "scale pictures to so many rows and columns; none: the first source's own"
FIT = "how pictures get --size: stretch, or letterbox, which keeps their proportions and fills up with grey"
BAD_PACKETS = "give a source up after more than N packets, one after another, that can't be decoded"
TIMEOUT = "a camera or stream is lost when nothing comes for S seconds"
PATIENCE = "open a lost camera or stream again for S seconds, then end with exit code 1; 0: at once"
WHO = "processes here, or addresses, nearest to the camera first. Only accepted here: they see the pictures"
WHOSE_DOOR = (
    "listen at this address for workers that dial in (`cutset stream worker --join`), which --workers names as "
    "join://NAME. Only accepted here"
)
WHOSE = "with tcp: the workers' public keys, in their order. Only accepted here"
WORKER_POLICY = STAGE_POLICY.replace("stage", "worker")
WORKER_EVIDENCE = STAGE_EVIDENCE.replace("stage", "worker")
SPEEDS = "emulate slower local workers, as shares of this machine; one for all, or each"
LINKS = "emulate the link to the next worker, as 8MB/s,20ms; once for all, or each"
MAX_ERROR = (
    "choose the threshold so that the output is off by this share of its largest element; every 16th picture is "
    "computed here too. Threshold, levels and float16 are then the most that is tried"
)
PIXELS = (
    "what an ONNX file's network takes: 0 to 1 (unit), -1 to 1 (signed), normalised as ImageNet's pictures, or 0 to "
    "255 (bytes)"
)
RUNTIME = "what computes stages; auto: the quickest that is installed and keeps the promise"
TOLERANCE = (
    "results may be off by this share of the output's range, as where a runtime fuses layers; 0: the bits of the "
    "network in one piece"
)
MIN_AGREEMENT = (
    "with --delta-compute and a detector: keep the F1 of detections against dense ones (same class, overlap 0.5, score "
    "within 0.05) at this, in place of --max-error"
)
DELTA_COMPUTE = (
    "compute again only what changed, where that is quicker; the output may then be off by --max-error, 0.01 if that "
    "isn't given"
)
SCHEDULER = (
    "who makes plans from measurements; even: as many operations for each, without measuring; auto: optimal, or even "
    "where a plan is given"
)


@dataclass(frozen=True)
class StreamSettings(Sourced):
    """What is in force for a stream; a value that can't be is a `ConfigError`. `load_stream_settings` builds it.

    Everything that `cutset stream run` and `Stream` may set of how a network runs, with the same defaults.
    """

    size: str = _setting("", SIZE, SOURCES, pattern=f"|{SIDES}", expected=FORM, metavar="HxW")
    fit: Literal["stretch", "letterbox"] = _setting("stretch", FIT, SOURCES, choices=("stretch", "letterbox"))
    limit: int | None = _setting(None, "at most so many pictures of each source", SOURCES, type=int, low=1, high=1e9)
    rate: float | None = _setting(None, "pictures a second of each source", RATE, SOURCES)
    deadline: float | None = _setting(None, "drop what isn't done S seconds after capture", SECONDS, SOURCES)
    bad_packets: int = _setting(25, BAD_PACKETS, SOURCES, high=1_000_000)
    source_timeout: float = _setting(10.0, TIMEOUT, SECONDS, SOURCES)
    source_patience: float = _setting(60.0, PATIENCE, SECONDS | {"low": 0}, SOURCES)

    features: bool = _setting(False, "stop before the head", NETWORK)
    weights: Path | None = _setting(None, "safetensors, or weights that torch saved; none: random ones", NETWORK)
    seed: int = _setting(0, "of random weights", NETWORK, high=(1 << 64) - 1)
    pixels: str = _setting("unit", PIXELS, NETWORK, choices=("unit", "signed", "imagenet", "bytes"))
    bgr: bool = _setting(False, "an ONNX file's network takes blue, green and red", NETWORK)
    runtime: str = _setting("auto", RUNTIME, NETWORK, choices=("auto", "torch", "onnxruntime", "openvino"))
    tolerance: float = _setting(0.0, TOLERANCE, NETWORK, high=1e30, metavar="T")

    workers: int | Sequence[str] = _setting(
        2, WHO, WORKERS, type=str, separator=",", counts=64, metavar="N|A,B,C", flag_only=True
    )
    key: Path | None = _setting(None, "with tcp: this side's secret key", WORKERS)
    worker_keys: Sequence[Path] = _setting(
        (), WHOSE, WORKERS, type=Path, separator=",", metavar="A,B,C", flag_only=True
    )
    worker_policy: Path | None = _setting(None, WORKER_POLICY, WORKERS, flag_only=True)
    worker_evidence: str = _setting("", WORKER_EVIDENCE, SHOWN, WORKERS)
    workers_listen: str = _setting(
        "", WHOSE_DOOR, WORKERS, pattern=r"|tcp://[^\0]{1,200}", choices=("tcp://HOST:PORT",), flag_only=True
    )
    ray: str = _setting("", RAY, RAY_FORM, WORKERS)
    place: Sequence[str] = _setting((), PLACE.replace("stage0", "worker1"), PLACES, WORKERS)
    insecure_ray: bool = _setting(False, INSECURE_RAY, WORKERS, flag_only=True)
    threads: int = _setting(1, "of each local worker", WORKERS, low=1, high=1024)
    link: Sequence[str] = _setting((), LINKS, WORKERS, type=str, separator=";", metavar="8MB/s,20ms")
    speed: Sequence[float] = _setting((), SPEEDS, WORKERS, type=float, separator=",", low=1e-3, high=1, metavar="S,S,S")

    mode: Literal["delta", "full"] = _setting("delta", "send what changed, or all", TRAVEL, choices=("delta", "full"))
    in_flight: int = _setting(4, "pictures in flight, at most", TRAVEL, unit="pictures in flight", low=1, high=1024)
    threshold: float = _setting(0.0, "activations that are off by T stay", TRAVEL, high=1e30, metavar="T")
    levels: int = _setting(0, "pixels that are off by N of 255 stay", TRAVEL, high=255)
    max_error: float | None = _setting(None, MAX_ERROR, TRAVEL, type=float, low=1e-30, high=1e30, metavar="E")
    min_agreement: float | None = _setting(None, MIN_AGREEMENT, TRAVEL, type=float, low=1e-30, high=1, metavar="F1")
    delta_compute: bool = _setting(False, DELTA_COMPUTE, TRAVEL)
    float16: bool = _setting(False, "send activations as float16", TRAVEL)
    patience: float = _setting(20.0, "wait so long for lost workers", SECONDS, TRAVEL)
    silence: float = _setting(3.0, "take a worker for dead after S", SECONDS, TRAVEL)

    plan: Path | None = _setting(None, "the first plan, as `cutset stream plan` writes it; none: one is made", PLANS)
    scheduler: str = _setting("auto", SCHEDULER, PLANS, choices=SCHEDULERS, metavar="NAME")
    objective: Literal["latency", "throughput"] = _setting(
        "latency", "what a plan is to make good", PLANS, choices=("latency", "throughput")
    )
    pictures_stay: bool = _setting(False, "no picture leaves the first worker", PLANS, strict=True)
    profile: Sequence[Path] = _setting(
        (),
        "of each worker, as `cutset stream profile` writes it; none: this machine's",
        PLANS,
        type=Path,
        separator=",",
        metavar="A,B,C",
    )
    sparsity: Path | None = _setting(None, "foresee what changes by a model of `cutset stream train`", PLANS)
    look: float = _setting(2.0, "seconds between looks for a better plan", SECONDS, PLANS)

    def __post_init__(self) -> None:
        self._check(STREAM_OPTIONS)
        parse_size(self.size)

    @property
    def picture_size(self) -> tuple[int, int] | None:
        """Rows and columns that pictures are scaled to; None: as they are."""
        return parse_size(self.size)


STREAM_OPTIONS = options_of(StreamSettings, "stream")


def parse_size(text: str) -> tuple[int, int] | None:
    """Rows and columns of `480x720`, None for an empty text. Raises ConfigError."""
    rows, columns = (int(side) for side in re.findall("[0-9]{1,5}", text)[:2]) if re.fullmatch(SIDES, text) else (0, 0)
    if text and not (0 < rows <= LARGEST and 0 < columns <= LARGEST):
        raise ConfigError(f"--size must be {FORM}, not {text[:60]!r}")
    return (rows, columns) if text else None


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
