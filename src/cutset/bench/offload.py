"""`cutset bench offload`: one model in every mode, over one link, beside the same model run locally, in turns.

Every client and the accelerator are processes of their own with stated threads. Times are those of whole runs; the
parts are laps of one clock in the client, whose sum is compared with the wall clock measured outside of them.
"""

from __future__ import annotations

import contextlib
import os
import sys
import tempfile
import time
from collections.abc import Callable, Iterator, Sequence
from dataclasses import dataclass, replace
from pathlib import Path
from typing import Any

from cutset.bench.turns import Process, Turn, medians, started, take_turns
from cutset.compare.results import Row
from cutset.errors import EngineError
from cutset.models.random import RandomModel
from cutset.offload.modes import MODES

__all__ = [
    "SITE_PARTS",
    "SYSTEMS",
    "WORKLOADS",
    "Setting",
    "Workload",
    "accelerator",
    "client_process",
    "integer_checkpoint",
    "label",
    "run_clients",
    "run_one",
    "run_workload",
]

# What a client computes because its products are elsewhere; the rest is the decoder, waiting, and the other side.
SITE_PARTS = ("quantise", "mask", "serialise", "send", "check", "unmask")
LOCAL = ("float32", "int8", "exact")
SYSTEMS = (*LOCAL, "plain", "verified", "masked", "masked+verified")
MOST_PADS_MIB = 1024
BLOCK = 32  # rows of pads that are made together


@dataclass(frozen=True, slots=True)
class Workload:
    """A random model (or, without one, the model that was named), prompt and continuation in tokens."""

    name: str
    model: RandomModel | None
    prompt: int
    decode: int
    systems: tuple[str, ...] = SYSTEMS
    context: int = 1024
    whole: bool = False  # one pass with the logits of all rows: so that all of them reach every site of one layer


W246 = RandomModel(
    hidden=1024, layers=16, heads=16, kv_heads=4, intermediate=2816, vocab=32000, max_pos=8192, tied=False
)
LAYER7B = RandomModel(hidden=4096, layers=1, heads=32, kv_heads=32, intermediate=11008, vocab=256, max_pos=1024)
WORKLOADS = {
    "w246": Workload("w246", W246, 128, 32),
    "layer7b": Workload("layer7b", LAYER7B, 128, 1, whole=True),
    "w246-4k": Workload("w246-4k", W246, 4096, 1, ("exact", "plain", "masked+verified"), context=4160),
}


@dataclass(frozen=True, slots=True)
class Setting:
    """What all runs of a benchmark share."""

    threads: int  # of each party
    rounds: int
    link: str  # shm, ipc or tcp
    device: str
    tell: Callable[[str], None]


@contextlib.contextmanager
def accelerator(folder: Path, setting: Setting, keys: Path | None = None) -> Iterator[str]:
    """An accelerator process for a model; gives its address. `keys`: with tcp, a directory with `server.key`, and the
    public keys of those who may connect."""
    name = f"cutset-bench-{os.getpid()}"
    places = {"shm": f"shm://{name}", "ipc": f"ipc://{folder.parent}/{name}", "tcp": "tcp://127.0.0.1:0"}
    command = [sys.executable, "-m", "cutset", "accelerator", str(folder), "--listen", places[setting.link]]
    command += ["--threads", str(setting.threads), "--device", setting.device]
    if keys is not None:
        command += ["--key", str(keys / "server.key"), "--allow", str(keys)]
    with started(command, r"listening on (\S+):", name="the accelerator of the benchmark") as address:
        yield address


def client_process(arguments: Sequence[str]) -> Process:
    """A client of the accelerator: the arguments are those of `cutset.bench.offload_client`. Raises EngineError."""
    command = [sys.executable, "-m", "cutset.bench.offload_client", *arguments]
    return Process(command, name="a client of the benchmark")


def run_workload(workload: Workload, folder: Path, setting: Setting) -> list[Row]:
    """Every system of a workload in turns. Raises EngineError where two of them did unequal work."""
    tokens: dict[str, list[int]] = {}
    cold: list[Row] = []

    def turn_of(system: str, client: Process) -> Turn:
        def turn(number: int) -> Iterator[Row]:
            filled = run_one(client, "fill", workload)
            told = run_one(client, "run", workload)
            run_one(client, "fill", workload)
            counted = run_one(client, "run counting cpu", workload)
            tokens.setdefault(system, told["tokens"])
            for (metric, unit), value in figures(workload, told, counted, filled).items():
                row = Row(f"offload {workload.name}", label(system, setting), metric, value, unit)
                if number == 0 and metric in ("prefill", "decode"):
                    cold.append(replace(row, metric=f"cold {metric}"))
                yield row

        return turn

    with accelerator(folder, setting) as address, contextlib.ExitStack() as stack:
        turns = []
        for system in workload.systems:
            setting.tell(f"{workload.name}: starting {system}")
            client = client_process(_arguments(workload, folder, system, address, setting))
            turns.append(turn_of(system, stack.enter_context(client)))
        measured = take_turns(workload.name, turns, setting.rounds, setting.tell)
    check_equal_work(workload, tokens)
    return medians([*cold, *measured])


def run_one(client: Process, do: str, workload: Workload) -> dict[str, Any]:
    """One command and its answer."""
    return client.call(do=do, prompt=workload.prompt, decode=workload.decode, whole=workload.whole)


def label(system: str, setting: Setting) -> str:
    """As in the report: `cutset local exact`, `cutset plain over shm`."""
    return f"cutset local {system}" if system in LOCAL else f"cutset {system} over {setting.link}"


def check_equal_work(workload: Workload, tokens: dict[str, list[int]]) -> None:
    """All made as many tokens, and all of exact the same ones."""
    exact = [system for system in tokens if system == "exact" or system in MODES]
    for system, found in tokens.items():
        if len(found) != (workload.prompt if workload.whole else workload.decode):
            raise EngineError(f"{workload.name}: {system} made {len(found)} tokens, not {workload.decode}")
        if system in exact and found != tokens[exact[0]]:
            raise EngineError(
                f"{workload.name}: {system} gave other tokens than {exact[0]}: the comparison means nothing"
            )


def figures(
    workload: Workload, told: dict[str, Any], counted: dict[str, Any], filled: dict[str, Any]
) -> dict[tuple[str, str], float]:
    """What one run says, and one that counted CPU seconds, by metric and unit."""
    found = {("prefill", "tok/s"): workload.prompt / told["prefill_s"], ("total", "ms"): told["s"] * 1e3}
    if workload.decode > 1:
        found["decode", "tok/s"] = (workload.decode - 1) / (told["s"] - told["prefill_s"])
    parts = told.get("parts")
    if parts is None:
        found["client CPU at the sites", "ms"] = counted["part_cpu"]["accelerator"] * 1e3
    else:
        for part, seconds in parts.items():
            found[f"time in {part}", "ms"] = seconds * 1e3
        found["explained", "%"] = 100 * sum(parts.values()) / told["s"]
        found["client CPU at the sites", "ms"] = sum(counted["part_cpu"][part] for part in SITE_PARTS) * 1e3
        if filled["cpu_s"] is not None:
            found["client CPU, pads made ahead", "ms"] = filled["cpu_s"] * 1e3
        found["bytes up", "MB"], found["bytes down", "MB"] = told["up"] / 1e6, told["down"] / 1e6
        found["calls", "calls"] = told["calls"]
    found["client CPU online", "ms"] = told["cpu_s"] * 1e3
    return found


def run_clients(folder: Path, setting: Setting, counts: Sequence[int], modes: Sequence[str], decode: int) -> list[Row]:
    """Tokens a second of several clients at once on one accelerator, decoding; pads are made ahead."""
    rows: list[Row] = []

    def turn_of(workload: Workload, mode: str, clients: Sequence[Process]) -> Turn:
        def turn(number: int) -> Iterator[Row]:
            name = f"offload clients: w246 decode, {len(clients)} at once"
            yield Row(name, label(mode, setting), "decode", _together(clients, workload), "tok/s")

        return turn

    with accelerator(folder, setting) as address:
        for mode in modes:
            workload = Workload("clients", None, 8, decode, (mode,), context=512)
            with contextlib.ExitStack() as stack:
                clients: list[Process] = []
                for number in range(max(counts)):
                    setting.tell(f"{mode}: starting client {number + 1}")
                    client = client_process(_arguments(workload, folder, mode, address, setting))
                    clients.append(stack.enter_context(client))
                turns = [turn_of(workload, mode, clients[:count]) for count in counts]
                name = f"{mode}, {' and '.join(map(str, counts))} clients"
                rows += take_turns(name, turns, setting.rounds, setting.tell, warmup=0)
    return medians(rows)


def _together(clients: Sequence[Process], workload: Workload) -> float:
    """Tokens a second while all decode, from the first command to the last answer, prompts of 8 tokens included."""
    for client in clients:  # one after another, so that filling is not measured
        run_one(client, "fill", workload)
    began = time.perf_counter()
    for client in clients:
        client.ask(do="run", prompt=workload.prompt, decode=workload.decode, whole=False)
    answers = [client.answer() for client in clients]
    seconds = time.perf_counter() - began
    if any(len(answer["tokens"]) != workload.decode for answer in answers):
        raise EngineError("a client made fewer tokens than the others: the comparison means nothing")
    return len(clients) * workload.decode / seconds


def _arguments(workload: Workload, folder: Path, system: str, address: str, setting: Setting) -> list[str]:
    chosen = ["--mode", system] + ([] if system in LOCAL else ["--offload", address])
    if system == "float32":
        folder = folder.with_name("floats")
    chosen += ["--threads", str(setting.threads), "--context", str(workload.context)]
    return [str(folder), *chosen, "--pads-mib", str(pads_mib(folder, workload))]


def pads_mib(folder: Path, workload: Workload) -> int:
    """Room for the pads of one run, and no more: what is made beyond would disturb the others. Room for a row if that
    is too much: then they are made inline."""
    from cutset.models.families import load_spec

    spec = load_spec(folder)
    shapes = spec.tensor_shapes()
    row = sum(4 * (shapes[spec.site_tensors(*site)[0]][1]) for site in spec.sites())
    row += sum(4 * shapes[name][0] for site in spec.sites() for name in spec.site_tensors(*site))
    mib = -(-(workload.prompt + workload.decode + BLOCK) * row // (1 << 20))
    return mib if mib <= MOST_PADS_MIB else -(-row // (1 << 20))


@contextlib.contextmanager
def integer_checkpoint(model: RandomModel) -> Iterator[Path]:
    """A random model as an integer checkpoint, while it is needed; `floats` beside it is what it was made of."""
    from cutset.models.files.integer import write_integer_checkpoint
    from cutset.models.files.source import open_source

    with tempfile.TemporaryDirectory() as name:
        floats, integers = Path(name) / "floats", Path(name) / "model"
        model.write_checkpoint(floats)
        source = open_source(floats)
        write_integer_checkpoint(source.spec, source.config, source.tensors, floats, integers)
        yield integers
