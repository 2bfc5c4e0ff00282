"""`cutset chat`: a conversation in the terminal. Earlier turns come from the cache, not from a new prefill."""

from __future__ import annotations

import argparse
import io
import sys
from itertools import count
from pathlib import Path

from cutset.cli.answer import print_answer, speculated, statistics, warn_of
from cutset.cli.options import add_settings, output_folder, settings_from
from cutset.cli.output import log
from cutset.cli.progress import Progress
from cutset.cli.receipt_flags import add_receipt_key, receipted, signer_for
from cutset.cli.sampling import add_sampling, sampling_from
from cutset.cli.serve_evidence import add_evidence
from cutset.cli.tracing import add_trace, check_trace, traced
from cutset.config import read_bounded
from cutset.errors import RequestError

__all__ = ["configure", "run"]

HELP = "/reset forgets the conversation, /exit or Ctrl-D ends; Ctrl-C stops an answer"


def configure(parser: argparse.ArgumentParser) -> None:
    parser.add_argument("model", metavar="MODEL", help="a directory or a name of models.yaml, with a chat template")
    system = parser.add_mutually_exclusive_group()
    system.add_argument("--system", metavar="TEXT", help="the system message, before the conversation")
    system.add_argument(
        "--system-file", type=Path, metavar="FILE", help="a file with that, which others here can't read"
    )
    parser.add_argument("--adapter", type=Path, metavar="DIR", help="a LoRA adapter as PEFT saves it")
    parser.add_argument(
        "--receipts", type=output_folder, metavar="DIR", help="write a signed receipt of each answer: DIR/1.receipt …"
    )
    add_receipt_key(parser)
    add_evidence(parser, what="in each receipt", needs="--receipts", devices=False)
    add_trace(parser)
    add_sampling(parser, max_tokens=1024, temperature=0.7, top_p=0.95)
    add_settings(parser)


def run(args: argparse.Namespace) -> int:
    sampling_from(args)  # what can't be is said before a model is loaded
    settings = settings_from(args)
    check_trace(args, settings)
    signer = signer_for(args, args.receipts, "--receipts")
    from cutset.llm import LLM

    system = read_bounded(args.system_file) if args.system_file else args.system
    start = [{"role": "system", "content": system}] if system else []
    adapters = {"adapter": args.adapter} if args.adapter else {}
    with (
        LLM(args.model, settings=settings, adapters=adapters, progress=Progress()) as llm,
        traced(args.trace, llm, "chat"),
    ):
        params = sampling_from(args, llm.generation.values)
        adapter = "adapter" if args.adapter else None
        llm.encode_chat([*start, {"role": "user", "content": "?"}])  # no template: say so before anyone types
        warn_of(llm)
        if isinstance(sys.stdin, io.TextIOWrapper):  # what isn't text is refused line by line, like a prompt
            sys.stdin.reconfigure(errors="surrogateescape")
        if sys.stdin.isatty():
            log(HELP)
        messages = list(start)
        issuer = None
        if signer is not None:
            from cutset.receipts.issuer import ReceiptIssuer

            args.receipts.mkdir(mode=0o700, parents=True, exist_ok=True)
            issuer = ReceiptIssuer(llm, signer)
        files = (args.receipts / f"{number}.receipt" for number in count(1))
        while (line := _line()) is not None:
            if line in ("/exit", "/quit"):
                break
            if line == "/reset":
                messages = list(start)
                continue
            if not line.strip():
                continue
            messages.append({"role": "user", "content": line})
            try:
                if issuer is None:
                    deltas = llm.stream_chat(messages, params, adapter=adapter)
                else:
                    file = next(one for one in files if not one.exists())
                    deltas = receipted(llm, issuer, file, llm.encode_chat(messages), params, adapter)
                answer = print_answer(deltas)
            except KeyboardInterrupt:  # the answer, not the conversation
                log("[stopped]")
                messages.pop()
                continue
            except RequestError as error:  # too long by now, say: the user can /reset
                log(f"cutset: error: {error}")
                messages.pop()
                continue
            log(statistics(answer))
            if said := speculated(llm):
                log(said)
            if llm.offload is not None:
                log(llm.offload.summary())
            if llm.stages is not None and llm.stages.pipeline.failovers:
                log(llm.stages.summary())
            messages.append({"role": "assistant", "content": answer.text})
    return 0


def _line() -> str | None:
    try:
        return input("> " if sys.stdin.isatty() else "")
    except EOFError:
        return None
