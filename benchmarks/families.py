"""`python -m benchmarks families`: every family beside transformers and llama.cpp, on random models of about 200 M
parameters in its shape.

Checkpoints are bfloat16, as most are published; `--weights float32` writes the same numbers wider. Like races like:
ours in float32 beside transformers in float32 (eager, with its fused attention; `--system torch.compile` puts the
compiled form beside it, which takes minutes for each family) and llama.cpp in F32, BF16 and F16; and ours in `exact`,
8-bit weights, beside llama.cpp in Q8_0, whose loss of quality on real weights is the same (`benchmarks quality`).
transformers in bfloat16 rounds all activations, so ours in float32 beside it isn't like beside like: the distances of
logits say what that costs. `exact` beside the best of all of them is the last comparison.

Before anything counts, all are asked what follows one prompt. Who gives other logits in float32 has another model: it
is named and left out. llama.cpp reads files that `family_gguf.py` writes; a family that it lacks is said, too.
"""

from __future__ import annotations

import argparse
import hashlib
import json
import subprocess
import sys
import tempfile
from collections.abc import Callable, Iterator, Sequence
from dataclasses import dataclass, field
from pathlib import Path

import numpy as np
from numpy.typing import NDArray

from benchmarks import family_models
from benchmarks.decode import opponent_systems
from benchmarks.family_models import FAMILIES
from benchmarks.targets import Target, targets_table
from cutset.bench.decode import FLOAT, HALF, INTEGER, System, Task, own_systems, run_workload
from cutset.bench.turns import Process
from cutset.cli.bench_rows import add_rounds, rows_table, save_rows
from cutset.cli.options import add_json, add_settings, settings_from
from cutset.cli.output import log
from cutset.compare.results import Row
from cutset.errors import EngineError, RequestError
from cutset.models.random import write_word_tokenizer

__all__ = ["SYSTEMS", "TARGETS", "Agreement", "configure", "ratios", "run"]

SYSTEMS = (
    "native float32",
    "native exact",
    "transformers",
    "transformers bfloat16",
    "llama.cpp f32",
    "llama.cpp bf16",
    "llama.cpp f16",
    "llama.cpp q8_0",
)
WEIGHTS = ("bfloat16", "float32")
MORE = ("native int8", "torch.compile")
PROMPT, STEPS = 128, 32
CHECKED = 24  # tokens of the prompt that all are asked about
# Relative to ours in float32. llama.cpp keeps keys and values in float16, and some of its products too.
MOST_APART = 1e-2
MOST_APART_HALF = 5e-2  # of whoever rounds activations to bfloat16
MOST_APART_INTEGER = 0.5  # of 8-bit weights, which may choose another expert
OVER = "{}, ours over the best, {}"
ALL = "8-bit weights or better"
LEAST = {"decode": 1.5, "prefill": 1.2}
TARGETS = tuple(
    Target(OVER.format(what, group), OVER.format(what, group), least, least=True)
    for what, least in LEAST.items()
    for group in (FLOAT, INTEGER, ALL)
)


@dataclass(frozen=True, slots=True)
class FamilyWork:
    """What is timed of a family."""

    name: str
    tasks: tuple[Task, ...]
    weights: tuple[str, ...] = ()
    float_bytes: float = 2.0
    spec: None = None  # mixtures read a part of their weights, so that a share of the bandwidth would say nothing


@dataclass(slots=True)
class Agreement:
    """What follows a prompt, as ours in float32 says it, and how far the others are from that."""

    log: Callable[[str], None]
    ours: NDArray[np.float64] | None = None
    distances: dict[str, float] = field(default_factory=dict)

    def checked(self, system: System) -> System:
        """The same system, that doesn't start where its logits are another model's. Ours in float32 comes first."""

        def start(folder: Path) -> Process:
            process = system.start(folder)
            try:
                self._compare(system, process)
            except BaseException:
                process.close()
                raise
            return process

        return System(system.label, system.weights, start, system.takes)

    def _compare(self, system: System, process: Process) -> None:
        found = np.array(process.call(do="logits", tokens=CHECKED)["logits"])
        if self.ours is None:
            self.ours = found
            return
        if found.shape != self.ours.shape:
            raise EngineError(f"{system.label}: it has {found.size} words, and ours {self.ours.size}")
        distance = float(np.linalg.norm(found - self.ours) / np.linalg.norm(self.ours))
        self.distances[system.label] = distance
        self.log(f"{system.label}: logits {distance:.1e} from ours in float32")
        most = MOST_APART_HALF if system.label.endswith("bf16") else MOST_APART
        if system.weights != FLOAT:
            most = MOST_APART_HALF if system.weights == HALF else MOST_APART_INTEGER
        if not distance <= most:
            raise EngineError(f"{system.label}: its logits are {distance:.2g} from ours: that is another model")


def ratios(rows: Sequence[Row]) -> Iterator[Row]:
    """Ours over the best opponent: in float32, over bfloat16 activations, with 8-bit weights, and `exact` over all."""
    for workload in dict.fromkeys(row.workload for row in rows):
        for what in LEAST:
            found = [row for row in rows if row.workload == workload and row.metric.startswith(what)]
            for group in (FLOAT, HALF, INTEGER, ALL):
                floats = group in (FLOAT, HALF)
                ours = [row for row in found if row.ours and row.metric.endswith(FLOAT if floats else INTEGER)]
                exact = [row for row in ours if floats or row.system.endswith("exact")]
                others = [row for row in found if not row.ours and (group == ALL or row.metric.endswith(group))]
                if exact and others:
                    best = max(row.value for row in others)
                    yield Row(workload, exact[0].system, OVER.format(what, group), exact[0].value / best, "x")


def model_folder(name: str, cache: Path, python: str, weights: str, quick: bool) -> Path:
    """The checkpoint of a family's random model, written if it isn't there. Raises EngineError."""
    values = json.dumps(FAMILIES[name].values(quick), sort_keys=True)
    folder = cache / f"{name}-{hashlib.blake2b(values.encode(), digest_size=6).hexdigest()}-{weights}"
    if (folder / "tokenizer.json").is_file():
        return folder
    log(f"{name}: writing {folder}")
    folder.mkdir(parents=True, exist_ok=True)
    command = [python, family_models.__file__, name, str(folder), "--weights", weights]
    command += ["--quick"] if quick else []
    done = subprocess.run(command, capture_output=True, text=True, check=False)
    if done.returncode:
        raise EngineError(f"{name}: transformers made no model: {done.stderr.strip().splitlines()[-1:]}")
    write_word_tokenizer(folder, FAMILIES[name].values(quick)["vocab_size"])
    return folder


def configure(parser: argparse.ArgumentParser) -> None:
    parser.add_argument("--family", action="append", metavar="NAME", help="only this one; repeatable (default: all)")
    parser.add_argument(
        "--system", action="append", metavar="NAME", help=f"only these, of {', '.join((*SYSTEMS, *MORE))}"
    )
    parser.add_argument("--python", metavar="FILE", help="the Python that has the opponents (default: this one)")
    parser.add_argument("--cache", metavar="DIR", type=Path, help="where checkpoints stay (default: in the system's)")
    parser.add_argument(
        "--weights", choices=WEIGHTS, default=WEIGHTS[0], help="of the checkpoints (default: %(default)s)"
    )
    parser.add_argument("--quick", action="store_true", help="small models, to see that all of it runs")
    add_rounds(parser)
    parser.set_defaults(rounds=3)
    add_json(parser, "the figures")
    add_settings(parser, "threads")


def run(args: argparse.Namespace) -> int:
    for name in args.family or ():
        if name not in FAMILIES:
            raise RequestError(f"--family {name}: known are {', '.join(FAMILIES)}")
    for name in args.system or ():
        if name not in SYSTEMS + MORE:
            raise RequestError(f"--system {name!r} isn't one of: {', '.join((*SYSTEMS, *MORE))}")
    threads, python = settings_from(args).thread_count, args.python or sys.executable
    cache = args.cache or Path(tempfile.gettempdir()) / "cutset-families"
    chosen = args.system or SYSTEMS
    systems = own_systems(chosen, threads)  # float32 comes first
    systems += [system for system in opponent_systems(lambda _: python, threads) if system.label in chosen]
    rows, versions = list[Row](), dict[str, str]()
    for name in args.family or FAMILIES:
        folder = model_folder(name, cache, python, args.weights, args.quick)
        found, seen = run_family(name, folder, systems, args.rounds)
        print(rows_table(found), end="\n\n", flush=True)
        rows += found
        versions |= seen
    print(targets_table(rows, TARGETS))
    hidden = {args.python: "PYTHON", str(args.cache): "DIR"}
    save_rows(args, rows, threads=threads, versions=versions, hidden=hidden)
    return 0


def run_family(name: str, folder: Path, systems: Sequence[System], rounds: int) -> tuple[list[Row], dict[str, str]]:
    """Rows of one family, those of `ratios` at their end, and versions of other programs."""
    agreement = Agreement(lambda line: log(f"{name}: {line}"))
    command = {"do": "generate", "sequences": 1, "prompt": PROMPT, "steps": STEPS}
    work = FamilyWork(name, (Task(f"prefill {PROMPT}, decode {STEPS}", command),))
    rows, versions = run_workload(work, folder, [*map(agreement.checked, systems)], rounds=rounds, log=log)
    rows = [Row(name, row.system, row.metric, row.value, row.unit, row.spread) for row in rows]
    rows += [
        Row(name, system.label, f"distance of logits, {system.weights}", agreement.distances[system.label] * 100, "%")
        for system in systems
        if system.label in agreement.distances and any(row.system == system.label for row in rows)
    ]
    return [*rows, *ratios(rows)], versions
