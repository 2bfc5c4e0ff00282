"""`cutset plan`: which machine would run which layers of a language model, and what one of them alone would do."""

from __future__ import annotations

import argparse
from dataclasses import replace
from pathlib import Path
from typing import TYPE_CHECKING

from cutset.cli.options import add_json, add_settings, different, output_ending, settings_from
from cutset.cli.output import log, say, table
from cutset.cli.progress import Progress
from cutset.errors import RequestError
from cutset.files import write_atomically, write_json

if TYPE_CHECKING:
    from cutset.config import Settings
    from cutset.engine.stage_choices import StageChoices
    from cutset.engine.stage_planner import Division
    from cutset.models.spec import DecoderSpec

__all__ = ["add_plan_outputs", "check_steps", "configure", "run", "show_choices"]

SETTINGS = (
    "stages",
    "stage_keys",
    "stage_policy",
    "stage_evidence",
    "key",
    "objective",
    "backend",
    "dtype",
    "threads",
    "block_size",
    "kv_dtype",
    "max_batch_tokens",
    "verify",
    "models_file",
    "download",
    "offline",
)
HEAD = ("", "plan", "ms a token", "first token, ms", "tokens/s", "steps", "")
MOST_DRAWN = 500  # steps in a chart
MOST_MACHINES = 40  # in a table
MOST_STAGES, MOST_ALONE = 4, 8  # that a line names, and machines that have one


def configure(parser: argparse.ArgumentParser) -> None:
    parser.description = (
        "Measures this machine, the stages and what lies between them, and says how `cutset generate | chat | serve` "
        "with --stages divides the layers, by speed and by memory with the KV cache that the context and the sequences "
        "need. Machines that would only slow the others down are left out. Times are kept for the next time."
    )
    parser.add_argument("model", metavar="MODEL", help="a directory, a GGUF file, a name of models.yaml, or story")
    parser.add_argument("--context", type=int, metavar="N", help="tokens of a sequence (default: as long as it can be)")
    parser.add_argument(
        "--sequences",
        type=int,
        metavar="N",
        help="sequences at once (default: as many as there is memory for, up to 64)",
    )
    parser.add_argument("--fresh", action="store_true", help="measure again what is remembered of this machine")
    add_plan_outputs(parser)
    add_settings(parser, *SETTINGS)


def add_plan_outputs(parser: argparse.ArgumentParser) -> None:
    """Adds what `plan` and `simulate` write."""
    ending, shown = output_ending(".svg", ".html"), "FILE.svg|FILE.html"
    parser.add_argument("-o", "--output", type=ending, metavar=shown, help="draw the layers, and who runs them")
    parser.add_argument("--gantt", type=ending, metavar=shown, help="draw simulated steps")
    parser.add_argument("--simulate", type=int, default=12, metavar="N", help="steps to simulate (default 12)")
    add_json(parser, "the table")


def run(args: argparse.Namespace) -> int:
    different(args, "output", "gantt", "json")
    check_steps(args)
    settings = _settings(args)
    if not settings.stages:
        raise RequestError("a plan is for machines: name them with --stages ADDRESS,… or give a number of processes")

    from cutset.engine.stage_settings import check_stages
    from cutset.models.files.source import open_source
    from cutset.models.registry import resolve, settings_for

    ref = resolve(args.model, settings)
    settings = settings_for(ref, settings)
    check_stages(settings)
    source = open_source(ref.directory, settings.verify)
    if args.context and args.context > source.spec.longest:
        raise RequestError(f"--context must be at most {source.spec.longest:,} for this model, not {args.context:,}")
    with Progress() as progress:
        choices = _measured(args, settings, source, progress)
    show_choices(choices, args, ref.name, source.spec)
    return 0


def _settings(args: argparse.Namespace) -> Settings:
    for name in ("context", "sequences"):
        value = getattr(args, name)
        if value is not None and not 1 <= value <= 1 << 24:
            raise RequestError(f"--{name} must be from 1 to {1 << 24:,}, not {value:,}")
    settings = settings_from(args)
    sources = dict(settings.sources) | {"scheduler": "--scheduler"}
    context, sequences = args.context or settings.max_model_len, args.sequences or settings.max_num_seqs
    return replace(settings, scheduler="optimal", max_model_len=context, max_num_seqs=sequences, sources=sources)


def _measured(args: argparse.Namespace, settings: Settings, source: object, progress: Progress) -> StageChoices:
    from typing import Literal

    from cutset.engine.linked_stages import LinkedStages
    from cutset.engine.stage_choices import stage_choices
    from cutset.engine.stage_item import StageSetup
    from cutset.loaded_model import stage_evidence
    from cutset.models.files.source import ModelSource
    from cutset.models.run.backend import cache_blocks, choose, kept_states, stored_dtype

    assert isinstance(source, ModelSource)
    choice = choose(settings, stored_dtype(source))
    context = settings.max_model_len or source.spec.context
    verify = None
    if settings.stage_policy is not None:
        from cutset.trust.evidence.link_evidence import verify_by

        verify = verify_by(settings.stage_policy, warn=log)
    stages = LinkedStages(
        source,
        settings,
        choice,
        context,
        progress=progress,
        log=log,
        fresh=args.fresh,
        verify=verify,
        evidence=stage_evidence(settings),
    )
    try:
        states = settings.max_num_seqs + kept_states(source.spec, choice, settings) if source.spec.state_floats else 0
        kv_dtype: Literal["auto", "int8"] = "int8" if settings.kv_dtype == "int8" else "auto"
        if args.context or args.sequences:  # all of that must fit
            blocks = settings.max_num_seqs * -(-context // settings.block_size)
        else:
            blocks = stages.blocks(cache_blocks(source.spec, choice, settings, context))
        setup = StageSetup(blocks, settings.block_size, states, kv_dtype)
        divider = stages.planned(setup)
        names = list(divider.workers.stages)
        assert divider.planner is not None
        return stage_choices(
            divider.planner, divider.machines(names), divider.mesh(names), all_of_them=divider.all_of_them
        )
    finally:
        stages.close()


def check_steps(args: argparse.Namespace) -> None:
    """Raises RequestError for a number of steps that can't be simulated, or drawn."""
    if not 1 <= args.simulate <= MOST_DRAWN:
        raise RequestError(f"--simulate must be from 1 to {MOST_DRAWN}")


def show_choices(choices: StageChoices, args: argparse.Namespace, name: str, spec: DecoderSpec) -> None:
    """Prints the machines, the plans and why the chosen one wins; writes and draws what was asked for."""
    from cutset.engine.stage_choices import model_of
    from cutset.partition.simulate import simulate

    load, graph = choices.planner.load, choices.planner.graph
    weights = graph.weight_bytes(range(len(graph.nodes)))
    say(
        f"{name}, {spec.layers} layers, {weights / 1e6:,.0f} MB of weights; {load.sequences:,} sequences of "
        f"{load.context:,} tokens; best {load.objective}\n"
    )
    print(f"{table(_machines(choices), right=range(2, 8))}\n")
    rows = [HEAD, _row(choices, "→ optimal", choices.chosen)]
    if choices.even is not None:
        rows.append(_row(choices, "  even", choices.even))
    rows += [_row(choices, f"  {one.plan.stages[0].worker} alone", one) for one in choices.alone[:MOST_ALONE]]
    print(f"{table(rows, right=range(2, 6))}\n")
    say(choices.why())
    model = model_of(choices)
    ran = simulate(model, choices.chosen.plan, args.simulate)
    say(
        f"simulated, {len(ran.delivered)} steps: {ran.latency * 1e3:,.2f} ms from sending to result (median), "
        f"one every {ran.period * 1e3:,.2f} ms"
    )
    title = f"{' '.join(args.command_line[:2])} {name}"
    if args.output:
        _draw(choices, args.output, title)
    if args.gantt:
        from cutset.cli.stream_plan import timeline
        from cutset.cli.stream_trace import write_chart

        note = choices.plan_text(choices.chosen)
        write_chart(args.gantt, timeline(ran), f"{title}, simulated", note, "simulate fewer steps, as --simulate 20")
    if args.json:
        simulated = {"steps": len(ran.delivered), "latency": ran.latency, "period": ran.period}
        write_json(args.json, {"command": title} | choices.document() | {"simulated": simulated})


def _machines(choices: StageChoices) -> list[tuple[str, ...]]:
    head = ("machine", "layers", "speed", "ms a step", "of all", "needs, MiB", "may use, MiB", "from the one before")
    stages = {stage.worker: stage for stage in choices.chosen.plan.stages}
    rows: list[tuple[str, ...]] = [head]
    before = 0
    shown = [one for one in choices.machines if one.name in stages]
    shown += [one for one in choices.machines if one.name not in stages][: max(MOST_MACHINES - len(shown), 0)]
    for number, one in enumerate(choices.machines):
        if one not in shown:
            continue
        stage = stages.get(one.name)
        alone, loaded = choices.seconds(stage) if stage else (0.0, 0.0)
        way = choices.mesh.way(before, number + 1)
        rows.append(
            (
                one.name,
                choices.layers(stage) if stage else "–",
                f"{one.speed:.2f}" if one.times is None else "",
                f"{alone * 1e3:,.2f}" if stage else "",
                f"{loaded * 1e3:,.2f}" if stage else "",
                f"{choices.needs(stage) / 2**20:,.0f}" if stage else "",
                "no limit" if one.room == float("inf") else f"{one.room / 2**20:,.0f}",
                str(way) if stage else "",
            )
        )
        before = number + 1 if stage else before
    return rows


def _row(choices: StageChoices, name: str, one: Division) -> tuple[str, ...]:
    figures = (f"{one.token * 1e3:,.2f}", f"{one.first * 1e3:,.0f}", f"{one.rate:,.1f}", str(one.depth))
    stages = one.plan.stages
    plan = "all" if len(stages) == 1 else choices.plan_text(one)
    return (name, plan if len(stages) <= MOST_STAGES else f"{len(stages)} stages", *figures, one.refused)


def _draw(choices: StageChoices, path: Path, title: str) -> None:
    from cutset.partition.drawing import html, svg

    graph, workers = choices.planner.graph, [""] * len(choices.planner.graph.nodes)
    for stage in choices.chosen.plan.stages:
        for node in stage.nodes:
            workers[node] = stage.worker
    write_atomically(path, (html if path.suffix == ".html" else svg)(graph, title, workers))
