"""`--trace FILE` of commands that run a model in stages: what every party did when, for ui.perfetto.dev."""

from __future__ import annotations

import argparse
import contextlib
import time
from collections.abc import Iterator
from pathlib import Path
from typing import TYPE_CHECKING

from cutset.cli.options import output_path
from cutset.errors import ConfigError

if TYPE_CHECKING:
    from cutset.cluster.messages import Report
    from cutset.config import Settings
    from cutset.llm import LLM, AsyncLLM
    from cutset.partition.plan import Plan

__all__ = ["add_trace", "check_trace", "traced"]

QUIET, LONGEST = 0.3, 1.0  # seconds without a report, after which none is taken to come; and in which at most


def add_trace(parser: argparse.ArgumentParser) -> None:
    """Adds `--trace FILE`."""
    text = "with --stages: write what every stage did when, for ui.perfetto.dev and `cutset stream trace`"
    parser.add_argument("--trace", type=output_path, metavar="FILE", help=text)


def check_trace(args: argparse.Namespace, settings: Settings) -> None:
    """Raises ConfigError where there is nothing to trace."""
    if args.trace is not None and not settings.stages:
        raise ConfigError("--trace writes what stages do: give --stages, or leave it out")


@contextlib.contextmanager
def traced(path: Path | None, llm: LLM | AsyncLLM, command: str) -> Iterator[None]:
    """Records what stages do meanwhile, and writes it in the end, however that comes. None: does nothing."""
    if path is None or llm.stages is None:
        yield
        return
    from cutset.cluster.trace.chrome import write_trace
    from cutset.cluster.trace.record import Recorder
    from cutset.files import write_atomically
    from cutset.partition.plan import COORDINATOR

    pipeline = llm.stages.pipeline
    recorder = Recorder(f"cutset {command} {llm.name}", [COORDINATOR, *pipeline.workers.all])
    plans: dict[str, str] = {}

    def observe(report: Report, plan: Plan, seconds: float) -> None:
        recorder.add(report.party, report.spans)
        if (name := f"plan {report.plan}") not in plans:
            plans[name] = ", ".join(f"{stage.worker} {pipeline.layers_of(stage)}" for stage in plan.stages)

    pipeline.observers.append(observe)
    try:
        yield
    finally:
        answered = time.monotonic()
        # The last ones come after the answer.
        while time.monotonic() < min(answered + LONGEST, max(answered, pipeline.watch.heard) + QUIET):
            time.sleep(QUIET / 10)
        pipeline.observers.remove(observe)
        recorder.notes |= plans
        write_atomically(path, write_trace(recorder.trace()).decode())
