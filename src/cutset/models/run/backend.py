"""Chooses and builds the executor of a model: which backend, in which dtype, on which device, with how many threads.

All of these are decided above and handed in; nothing that loads a checkpoint looks for a device of its own.
"""

from __future__ import annotations

import os
from contextlib import suppress
from dataclasses import dataclass
from importlib.util import find_spec
from pathlib import Path

from cutset.config import Settings
from cutset.errors import DeviceError, EngineError
from cutset.kernels import native
from cutset.models.files.grouped import holds_codes
from cutset.models.files.integer import IntegerLinears, Progress
from cutset.models.files.source import ModelSource
from cutset.models.run.decoder import FloatLinears, Linears, ReferenceDecoder
from cutset.models.run.executor import Executor
from cutset.models.run.grouped_linears import GROUPED, GroupedLinears, runs_grouped
from cutset.models.spec import DecoderSpec

__all__ = [
    "HALF",
    "LOCAL",
    "ROUNDED",
    "BackendChoice",
    "block_bytes",
    "build_executor",
    "cache_blocks",
    "choose",
    "draft_states",
    "free_bytes",
    "kept_states",
    "stored_dtype",
]

# Of the memory that is free, at most, unless the user names a size. A GPU is taken to be ours alone.
CACHE_SHARE = {"cpu": 0.25, "cuda": 0.85}
MOST_STATES = 64  # checkpoints
MOST_DRAFTING = 8  # sequences with states of which all drafts find room
HALF = ("float16", "bfloat16")
INTEGER = ("int8", "exact")
ROUNDED = (*INTEGER, "int4")  # in which floats are rounded to 8 bits or fewer when they are loaded
LOCAL = ("float32", *dict.fromkeys((*INTEGER, *GROUPED)))  # what the processor computes in


@dataclass(frozen=True, slots=True)
class BackendChoice:
    """What will run a model."""

    backend: str  # native, reference or torch
    dtype: str
    device: str
    threads: int


def choose(settings: Settings, stored: str) -> BackendChoice:
    """Settles what the settings leave open; `stored` is the dtype of the checkpoint's weights, or "stored" for codes
    of few bits.

    Raises DeviceError for what doesn't go together or isn't there.
    """
    backend, dtype, device = settings.backend, settings.dtype, settings.device
    stored = "float32" if stored == "grouped" else stored  # the floats that its codes stand for
    if dtype == "auto":
        dtype = stored if device != "cpu" or stored in ("int8", "stored") else "float32"
        if dtype == "stored" and device != "cpu":
            dtype = "bfloat16"
    if stored == "int8" and dtype not in INTEGER:
        raise DeviceError(f"an integer checkpoint runs in int8 or exact, not in {dtype}")
    if dtype == "stored" and stored != "stored":
        raise DeviceError("dtype stored is for files of weights of few bits; round a model to such with int8 or int4")
    if backend == "auto":
        if device != "cpu" or dtype in HALF:
            backend = "torch"
        else:
            backend = "native" if native.available() else "reference"
    runs = {"native": LOCAL, "reference": LOCAL, "torch": ("float32", *HALF)}[backend]
    if dtype not in runs or (backend != "torch" and device != "cpu"):
        where = "the CPU" if backend != "torch" else "CPU and CUDA"
        raise DeviceError(f"backend {backend} computes in {', '.join(runs)} on {where}, not in {dtype} on {device}")
    if backend == "torch" and find_spec("torch") is None:
        raise DeviceError("backend torch needs torch: pip install 'cutset[torch]'")
    if backend == "native" and settings.block_size % 16:
        raise DeviceError(f"backend native needs a block_size that is a multiple of 16, not {settings.block_size}")
    return BackendChoice(backend, dtype, device, settings.thread_count)


def stored_dtype(source: ModelSource) -> str:
    """What a model's weights are stored in, as `choose` asks for it."""
    return "stored" if holds_codes(source.tensors) else source.dtype


def build_executor(
    source: ModelSource, settings: Settings, progress: Progress | None = None, layers: range | None = None
) -> tuple[Executor, BackendChoice]:
    """The executor of a model, or with `layers` that of a stage of it, a StageExecutor; ConfigError where it can't be
    cut there. Sets the thread budget of the libraries that compute, for the whole process.

    `progress` is told what is being done, and how many of how many are done.
    """
    spec, tensors = source.spec, source.tensors
    choice = choose(settings, stored_dtype(source))
    if settings.data_oblivious and choice.backend != "native":
        raise DeviceError(f"data_oblivious is for the native backend; {choice.backend} looks tokens up where they are")
    if choice.backend == "native":
        from cutset.models.run.native import NativeDecoder, thread_pool

        pool = thread_pool(choice.threads)
        decoder = NativeDecoder(spec, tensors, pool, dtype=choice.dtype, progress=progress, layers=layers)
        if settings.data_oblivious:
            decoder.be_data_oblivious()
        if not decoder.mapped:
            source.forget()
        return decoder, choice
    if choice.backend == "torch":
        import torch

        from cutset.models.run.torch_ops import TorchOps

        torch.set_num_threads(choice.threads)
        torch_ops = TorchOps(choice.device, choice.dtype)
        floats = FloatLinears(spec, tensors, torch_ops, layers)
        return ReferenceDecoder(spec, tensors, torch_ops, floats, layers), choice

    from threadpoolctl import threadpool_limits

    from cutset.models.run.numpy_ops import NumpyOps

    threadpool_limits(choice.threads)
    ops = NumpyOps()
    linears: Linears
    if runs_grouped(choice.dtype, tensors):
        linears = GroupedLinears(spec, tensors, choice.dtype, layers)
    elif choice.dtype in INTEGER:
        linears = IntegerLinears(spec, tensors, choice.dtype, layers)
    else:
        linears = FloatLinears(spec, tensors, ops, layers)
    return ReferenceDecoder(spec, tensors, ops, linears, layers), choice


def cache_blocks(spec: DecoderSpec, choice: BackendChoice, settings: Settings, context: int, beside: int = 0) -> int:
    """How many blocks the KV cache gets: `cache_mib` if given, else what all sequences could need, within a share of
    the memory that is free. `context` is the longest sequence in tokens. States of sequences come out of the same room,
    and so do `beside` bytes for each block, of another model's cache.

    Raises EngineError when a size was given that holds not even one block.
    """
    one = block_bytes(spec, choice, settings) + beside
    wanted = settings.max_num_seqs * -(-context // settings.block_size)
    room = _cache_bytes(choice, settings)
    kept = kept_states(spec, choice, settings) + draft_states(spec, choice, settings)
    states = 4 * spec.state_floats * (settings.max_num_seqs + kept)
    if settings.cache_mib:
        blocks = (room - states) // one if one else wanted if room >= states else 0
        if blocks < 1:
            raise EngineError(
                f"cache_mib {settings.cache_mib} holds no block; one takes {one / (1 << 20):.1f} MiB"
                + (f", and the states of {settings.max_num_seqs} sequences {states / (1 << 20):.1f}" if states else "")
            )
        return blocks
    return max(1, min(wanted, (room - states) // one if one else wanted))


def shared_cache_mib(spec: DecoderSpec, choice: BackendChoice, settings: Settings, context: int, engines: int) -> int:
    """What `cache_mib` must be where so many engines of one model are started on a machine: as it is if it is given, 0
    where each gets all that it could need, or else their share of the memory that is free."""
    if settings.cache_mib:
        return settings.cache_mib
    wanted = settings.max_num_seqs * -(-context // settings.block_size) * block_bytes(spec, choice, settings)
    room = _cache_bytes(choice, settings) // engines
    return 0 if wanted + 4 * spec.state_floats * settings.max_num_seqs <= room else max(1, room >> 20)


def block_bytes(spec: DecoderSpec, choice: BackendChoice, settings: Settings) -> int:
    """Bytes of keys and values in a block of the cache; in 8 bits each head of a token has a scale, too."""
    if settings.kv_dtype == "int8":
        heads = sum(spec.heads_of(layer).kv_heads for layer in spec.attention_layers)
        return settings.block_size * 2 * (spec.kv_floats + 4 * heads)
    return settings.block_size * 2 * spec.kv_floats * (2 if choice.dtype in HALF else 4)


def kept_states(spec: DecoderSpec, choice: BackendChoice, settings: Settings) -> int:
    """How many checkpoints of states are kept for prefixes that come again: few, in an eighth of the cache at most."""
    if not spec.state_floats or not settings.prefix_caching:
        return 0
    return min(MOST_STATES, _cache_bytes(choice, settings) // 8 // (4 * spec.state_floats))


def draft_states(spec: DecoderSpec, choice: BackendChoice, settings: Settings) -> int:
    """How many states are kept before drafts of speculation: those of a few sequences, in an eighth of the cache."""
    if not spec.state_floats or settings.speculate == "off":
        return 0
    most = settings.speculate_tokens * min(settings.max_num_seqs, MOST_DRAFTING)
    return max(1, min(most, _cache_bytes(choice, settings) // 8 // (4 * spec.state_floats)))


def _cache_bytes(choice: BackendChoice, settings: Settings) -> int:
    if settings.cache_mib:
        return settings.cache_mib << 20
    return int(CACHE_SHARE[choice.device.partition(":")[0]] * free_bytes(choice.device))


def free_bytes(device: str) -> int:
    """Memory that can still be had on a device; on the CPU also within the control group's limit."""
    if device != "cpu":
        import torch

        return int(torch.cuda.mem_get_info(torch.device(device))[0])
    free = os.sysconf("SC_PHYS_PAGES") * os.sysconf("SC_PAGE_SIZE")
    with suppress(OSError, ValueError, StopIteration):
        lines = Path("/proc/meminfo").read_text().splitlines()
        free = 1024 * int(next(line for line in lines if line.startswith("MemAvailable")).split()[1])
    with suppress(OSError, ValueError):  # "max": no limit
        group = Path("/sys/fs/cgroup")
        free = min(free, int((group / "memory.max").read_text()) - int((group / "memory.current").read_text()))
    return max(free, 0)
