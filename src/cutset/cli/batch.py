"""`cutset batch`: answers a file of requests in OpenAI's batch format, and goes on after whatever interrupts it."""

from __future__ import annotations

import argparse
import asyncio
import os
import shlex
from pathlib import Path
from typing import TYPE_CHECKING

from cutset.cli.answer import speculated, warn_of
from cutset.cli.batch_cluster import NOT_SETTINGS, add_cluster, cluster_from
from cutset.cli.batch_progress import BatchProgress
from cutset.cli.interruption import Interrupted, Interruption
from cutset.cli.options import add_settings, output_path, settings_from
from cutset.cli.output import log
from cutset.cli.progress import Progress
from cutset.cli.serve_front import template_from
from cutset.config import OPTIONS
from cutset.errors import ConfigError, CutsetError, EngineError

if TYPE_CHECKING:
    from cutset.batches.input_lines import Survey
    from cutset.batches.line_results import LineResults
    from cutset.batches.shard_folder import ShardFolder
    from cutset.cluster.launch.ray_pool import PoolOptions
    from cutset.config import Settings
    from cutset.serve.batches.model_order import ModelOrder
    from cutset.serve.service import Service

__all__ = ["configure", "run"]

ENDING = ".parts"


def configure(parser: argparse.ArgumentParser) -> None:
    parser.add_argument(
        "model", metavar="MODEL", help="a directory, a GGUF file, a name of models.yaml, or story (the bundled one)"
    )
    parser.add_argument(
        "input",
        type=Path,
        metavar="IN.jsonl",
        help="a request a line, as OpenAI's batches have it: custom_id, method, url, body",
    )
    parser.add_argument(
        "-o",
        "--output",
        type=output_path,
        required=True,
        metavar="OUT.jsonl",
        help="an answer a line, in the order of the requests; written when all are there (0600)",
    )
    parser.add_argument(
        "--resume",
        action="store_true",
        help=f"go on with what an earlier run left in OUT.jsonl{ENDING}; begin where there is nothing",
    )
    parser.add_argument(
        "--at-once",
        type=int,
        metavar="N",
        help="requests that are handed to the engine (default: twice --max-num-seqs)",
    )
    parser.add_argument(
        "--max-body", type=int, default=4096, metavar="N", help="KiB of a request's body (default 4096)"
    )
    parser.add_argument(
        "--served-model-name",
        action="append",
        default=[],
        metavar="NAME",
        help="what requests call the model (default: its own name); may be given several times",
    )
    parser.add_argument("--adapter", type=Path, metavar="DIR", help="a LoRA adapter as PEFT saves it, for all requests")
    parser.add_argument(
        "--lora-modules",
        nargs="+",
        action="extend",
        default=[],
        metavar="NAME=DIR",
        help="LoRA adapters; requests choose one by giving its NAME as the model",
    )
    parser.add_argument(
        "--chat-template", type=Path, metavar="FILE", help="a chat template (Jinja) in place of the model's own"
    )
    parser.add_argument("--tool-parser", default="auto", metavar="NAME", help="as `cutset serve` has it (default auto)")
    parser.add_argument("--reasoning-parser", default="auto", metavar="NAME", help="likewise (default auto)")
    add_cluster(parser, "each actor has an engine of its own")
    add_settings(parser, *(name for name in OPTIONS if name not in NOT_SETTINGS))


def run(args: argparse.Namespace) -> int:
    settings = settings_from(args)
    if not 1 <= args.max_body <= 1 << 20:
        raise ConfigError("--max-body must be from 1 to 1048576")
    if args.at_once is not None and not 1 <= args.at_once <= 1 << 16:
        raise ConfigError("--at-once must be from 1 to 65536")
    try:
        import starlette  # noqa: F401
    except ModuleNotFoundError:
        raise ConfigError("cutset batch needs a few packages more: pip install 'cutset[serve]'") from None
    from cutset.batches.input_lines import survey
    from cutset.models.calls.registered import check_names
    from cutset.serve.batches.batch_lines import custom_id

    cluster, settings = cluster_from(args, settings)
    os.environ.setdefault("TOKENIZERS_PARALLELISM", "false")
    check_names(args.tool_parser, args.reasoning_parser)
    if os.path.realpath(args.input) == os.path.realpath(args.output):
        raise ConfigError("-o names the input: give another file")
    if args.output.exists() and not args.output.is_file():
        raise ConfigError(f"{args.output} is no regular file: the answers are put together beside it and then renamed")
    order = _order(args, settings)
    found = survey(args.input, order.longest, custom_id)
    if not found.items:
        raise ConfigError(f"{args.input} has no requests in it: write one a line")
    if _complete(args, found, order.longest):
        _log(f"{args.output} is complete: nothing is left to do")
        return 0
    if found.repeated:
        _log(f"{found.repeated} lines have the custom_id of an earlier line: each gets an error, the first its answer")
    with _folder(args, found) as folder, Interruption() as signals:
        try:
            return _run(args, order, found, folder, signals, cluster)
        except (CutsetError, OSError, MemoryError, Interrupted) as error:
            if folder.empty:  # so there is nothing to go on with
                folder.remove()
            elif not isinstance(error, ConfigError):
                _log(f"what was answered is kept; go on with: {_again(args)}")
            raise


def _log(line: str) -> None:
    log(f"batch: {line}")


def _again(args: argparse.Namespace) -> str:
    """The command that goes on."""
    line = [one for one in args.command_line if one != "--resume"]
    return shlex.join([*line, "--resume"])


def _parts(args: argparse.Namespace) -> Path:
    target = Path(os.path.realpath(args.output))
    return target.with_name(target.name + ENDING)


def _folder(args: argparse.Namespace, found: Survey) -> ShardFolder:
    """Where answers are kept until all are there. Raises ConfigError where a run is there that nobody asked for."""
    from cutset.batches.shard_folder import ShardFolder

    parts = _parts(args)
    if parts.exists() and not args.resume and (parts / "manifest.json").exists():
        raise ConfigError(
            f"{parts} holds the answers of a run that wasn't finished: go on with --resume, or remove it to begin anew"
        )
    return ShardFolder(parts, {"of": "requests", "input": found.sha256, "lines": found.lines})


def _complete(args: argparse.Namespace, found: Survey, longest: int) -> bool:
    """Whether --resume finds that an earlier run has come to its end: every request has its line."""
    from cutset.serve.batches.batch_lines import answers_all

    if not args.resume or _parts(args).exists() or not args.output.is_file():
        return False
    return answers_all(args.input, args.output, found, longest)


def _order(args: argparse.Namespace, settings: Settings) -> ModelOrder:
    from cutset.cli.serve_replicas import adapters_from
    from cutset.serve.batches.model_order import ModelOrder

    own = {"adapter": str(args.adapter)} if args.adapter else {}
    return ModelOrder(
        model=args.model,
        settings=settings,
        adapters=adapters_from(args.lora_modules) | own,
        names=tuple(args.served_model_name),
        adapter="adapter" if args.adapter else None,
        chat_template=template_from(args),
        parsers=(args.tool_parser, args.reasoning_parser),
        body_bytes=args.max_body << 10,
    )


def _run(
    args: argparse.Namespace,
    order: ModelOrder,
    found: Survey,
    folder: ShardFolder,
    signals: Interruption,
    cluster: PoolOptions | None,
) -> int:
    from cutset.batches.line_results import LineResults

    results = LineResults(folder, found.lines)
    if results.done:
        _log(f"{results.done} of {found.items} answers are there")
    progress = BatchProgress(found.items, results, _log)
    if cluster is not None:  # a signal ends it by Interrupted
        from cutset.serve.batches.ray_lines import RayLines

        RayLines(args.input, found, results, order).run(cluster, progress.begin, progress.changed)
    whole = cluster is not None or _here(args, order, found, results, progress, signals)
    progress.clear()
    if not whole:
        _log(f"{signals.name}: {results.done} of {found.items} answers are kept; go on with: {_again(args)}")
        return 128 + signals.number
    results.assemble(args.output, mode=0o600)
    folder.remove()
    _log(f"{progress.summary('requests')}; {args.output}")
    return 0


def _here(
    args: argparse.Namespace,
    order: ModelOrder,
    found: Survey,
    results: LineResults,
    progress: BatchProgress,
    signals: Interruption,
) -> bool:
    """Answers what has no answer by a model in this process; False where a signal stopped it."""
    from cutset.serve.batches.answer_facts import answer_facts

    service = order.open(Progress())
    llm = service.llm
    try:
        warn_of(llm, _log)
        results.folder.require(answer_facts(service))
        progress.begin()
        whole = asyncio.run(_answer(args, order, service, found, results, progress, signals))
        progress.clear()
        for line in (speculated(llm), llm.offload.summary() if llm.offload is not None else ""):
            if line:
                log(line)
        if llm.stages is not None:
            log(llm.stages.summary())
        return whole
    finally:
        llm.close()


async def _answer(
    args: argparse.Namespace,
    order: ModelOrder,
    service: Service,
    found: Survey,
    results: LineResults,
    progress: BatchProgress,
    signals: Interruption,
) -> bool:
    from cutset.serve.batches.batch_run import BatchRun, NotAnswering

    loop, stopped = asyncio.get_running_loop(), asyncio.Event()
    signals.on_signal(lambda: loop.call_soon_threadsafe(stopped.set))
    at_once = args.at_once or 2 * service.llm.settings.max_num_seqs
    run = BatchRun(
        args.input,
        found,
        results,
        order.answerer(service, found.sha256).answer,
        longest=order.longest,
        at_once=lambda: at_once,
        check_open=service.check_open,
        changed=progress.changed,
    )
    try:
        return await run.run(stopped)
    except NotAnswering as error:
        raise EngineError(str(error)) from None
    finally:
        signals.on_signal(lambda: None)  # what is left to do is short
        service.close()
