"""`cutset bench offload`: one model in every mode, over one link, beside the same model run locally, in turns.

Every client and the accelerator are processes of their own with stated threads. Times are those of whole runs; the
parts are laps of one clock in the client, whose sum is compared with the wall clock measured outside of them.
"""

from __future__ import annotations

import contextlib
import os
import tempfile
import time
from collections.abc import Callable, Iterator, Sequence
from dataclasses import dataclass
from pathlib import Path
from typing import Any

from cutset.compare.results import Row, summarise
from cutset.errors import EngineError
from cutset.link.launch import PIPE, Child, environment
from cutset.models.random import RandomModel
from cutset.offload.modes import MODES

__all__ = ["SITE_PARTS", "SYSTEMS", "WORKLOADS", "Setting", "Workload", "accelerator", "run_clients", "run_workload"]

# What a client computes because its products are elsewhere; the rest is the decoder, waiting, and the other side.
SITE_PARTS = ("quantise", "mask", "serialise", "send", "check", "unmask")
LOCAL = ("float32", "int8", "exact")
SYSTEMS = (*LOCAL, "plain", "verified", "masked", "masked+verified")
MOST_PADS_MIB = 1024
ENVIRONMENT = environment(drop=("CUTSET_", "OMP_"), keep=("CUTSET_ISA",))
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


class Process:
    """A bench client that was started; asks are answered in order."""

    def __init__(self, arguments: Sequence[str], module: str = "cutset.bench.offload_client") -> None:
        self._child = Child(
            "a client of the benchmark", [module, *arguments], env=ENVIRONMENT, stdin=PIPE, stdout=PIPE, stderr=None
        )
        self.answer, self.process = self._child.answer, self._child.process

    def ask(self, **command: Any) -> None:
        """Sends a command; `answer` waits for what comes back. Both raise EngineError if the process has ended."""
        self._child.ask(command)

    def close(self) -> None:
        """Ends the process."""
        self._child.end(20)


@contextlib.contextmanager
def accelerator(folder: Path, setting: Setting, keys: Path | None = None) -> Iterator[str]:
    """An accelerator process for a model; gives its address. `keys`: with tcp, a directory with `server.key`, and the
    public keys of those who may connect."""
    name = f"cutset-bench-{os.getpid()}"
    places = {"shm": f"shm://{name}", "ipc": f"ipc://{folder.parent}/{name}", "tcp": "tcp://127.0.0.1:0"}
    address = places[setting.link]
    command = ["cutset.cli", "accelerator", str(folder), "--listen", address]
    command += ["--threads", str(setting.threads), "--device", setting.device]
    if keys is not None:
        command += ["--key", str(keys / "server.key"), "--allow", str(keys)]
    child = Child("the accelerator of the benchmark", command, env=ENVIRONMENT, stderr=PIPE)
    try:
        yield child.until(r"listening on (\S+):")[1]
    finally:
        child.end(20)


def run_workload(workload: Workload, folder: Path, setting: Setting) -> list[Row]:
    """Every system of a workload in turns. Raises EngineError where two of them did unequal work."""
    samples: dict[tuple[str, str, str], list[float]] = {}
    clients: dict[str, Process] = {}
    tokens: dict[str, list[int]] = {}
    with accelerator(folder, setting) as address:
        try:
            for system in workload.systems:
                setting.tell(f"{workload.name}: starting {system}")
                clients[system] = Process(_arguments(workload, folder, system, address, setting))
                clients[system].answer()
            for number in range(-1, setting.rounds):  # one round to warm up
                for system, client in clients.items():
                    filled = run_one(client, "fill", workload)
                    told = run_one(client, "run", workload)
                    run_one(client, "fill", workload)
                    counted = run_one(client, "run counting cpu", workload)
                    tokens.setdefault(system, told["tokens"])
                    cold = "cold " if number < 0 else ""
                    for (metric, unit), value in figures(workload, told, counted, filled).items():
                        if not cold or metric in ("prefill", "decode"):
                            samples.setdefault((label(system, setting), cold + metric, unit), []).append(value)
                setting.tell(f"{workload.name}: round {number + 1} of {setting.rounds}")
        finally:
            for client in clients.values():
                client.close()
    check_equal_work(workload, tokens)
    return [
        summarise(f"offload {workload.name}", system, metric, values, unit)
        for (system, metric, unit), values in samples.items()
    ]


def run_one(client: Process, do: str, workload: Workload) -> dict[str, Any]:
    """One command and its answer."""
    client.ask(do=do, prompt=workload.prompt, decode=workload.decode, whole=workload.whole)
    return client.answer()


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
    rows = []
    with accelerator(folder, setting) as address:
        for mode in modes:
            workload = Workload("clients", None, 8, decode, (mode,), context=512)
            clients: list[Process] = []
            try:
                for number in range(max(counts)):
                    setting.tell(f"{mode}: starting client {number + 1}")
                    clients.append(Process(_arguments(workload, folder, mode, address, setting)))
                    clients[-1].answer()
                rates: dict[int, list[float]] = {count: [] for count in counts}
                for _ in range(setting.rounds):
                    for count in counts:
                        rates[count].append(_together(clients[:count], workload))
                    setting.tell(f"{mode}: {', '.join(f'{n} clients {r[-1]:.1f} tok/s' for n, r in rates.items())}")
            finally:
                for client in clients:
                    client.close()
            for count, values in rates.items():
                name = f"offload clients: w246 decode, {count} at once"
                rows.append(summarise(name, label(mode, setting), "decode", values, "tok/s"))
    return rows


def _together(clients: Sequence[Process], workload: Workload) -> float:
    """Tokens a second while all decode, from the first command to the last answer, prompts of 8 tokens included."""
    for client in clients:  # one after another, so that filling is not measured
        run_one(client, "fill", workload)
    started = time.perf_counter()
    for client in clients:
        client.ask(do="run", prompt=workload.prompt, decode=workload.decode, whole=False)
    answers = [client.answer() for client in clients]
    seconds = time.perf_counter() - started
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
