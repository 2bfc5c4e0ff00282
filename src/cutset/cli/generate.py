"""`cutset generate`: continues a prompt. The text goes to stdout as it comes, one line of statistics to stderr."""

from __future__ import annotations

import argparse
import contextlib
import os
import shlex
import sys
from collections.abc import Iterator
from pathlib import Path

from cutset.cli.answer import figures, print_answer, speculated, statistics, warn_of
from cutset.cli.generate_remote import add_remote, remote_answer
from cutset.cli.model_key import add_model_key, opened
from cutset.cli.options import add_json, add_settings, different, output_path, settings_from
from cutset.cli.output import log, read_stdin
from cutset.cli.progress import Progress
from cutset.cli.receipt_flags import add_receipt_key, receipted, signer_for
from cutset.cli.sampling import add_sampling, sampling_from
from cutset.cli.serve_evidence import add_evidence, audit_from
from cutset.cli.tracing import add_trace, check_trace, traced
from cutset.config import read_bounded
from cutset.errors import ConfigError, IntegrityError

__all__ = ["configure", "run"]

PROMPT = "what to continue; - reads it from stdin. Others here can read a command line: better give --prompt-file, or -"


def configure(parser: argparse.ArgumentParser) -> None:
    parser.add_argument(
        "model", metavar="MODEL", help="a directory, a GGUF file, a name of models.yaml, or story (the bundled one)"
    )
    prompt = parser.add_mutually_exclusive_group(required=True)
    prompt.add_argument("--prompt", metavar="TEXT", help=PROMPT)
    prompt.add_argument("--prompt-file", type=Path, metavar="FILE", help="a file with what to continue; - is stdin")
    parser.add_argument(
        "--output", type=output_path, metavar="FILE", help="write the text to FILE (0600), not to stdout"
    )
    parser.add_argument("--adapter", type=Path, metavar="DIR", help="a LoRA adapter as PEFT saves it")
    parser.add_argument(
        "--receipt", type=output_path, metavar="FILE", help="write a signed receipt of the answer, for you alone (0600)"
    )
    add_receipt_key(parser)
    add_evidence(parser, what="in the receipt", needs="--receipt", devices=False)
    add_model_key(parser, released=False)
    add_remote(parser)
    add_trace(parser)
    add_sampling(parser, max_tokens=128, temperature=0)
    add_json(parser, "prompt, text, tokens and figures, for you alone (0600),")
    add_settings(parser)


def run(args: argparse.Namespace) -> int:
    different(args, "output", "json", "trace", "receipt")
    sampling_from(args)  # what can't be is said before a model is loaded
    settings = settings_from(args)
    check_trace(args, settings)
    signer = signer_for(args, args.receipt, "--receipt")
    if args.prompt == "-" or (args.prompt_file and str(args.prompt_file) == "-"):
        prompt = read_stdin()
    else:
        prompt = read_bounded(args.prompt_file) if args.prompt_file else args.prompt
    if args.remote is not None:
        if args.receipt is not None:
            raise ConfigError("--receipt is of answers made here: a remote server signs those that it makes")
        with _text_to(args.output):
            _print(remote_answer(args, prompt, sampling_from(args), watched=sys.stdout.isatty()))
        return 0
    if args.policy is not None or args.ca is not None:
        raise ConfigError("--policy and --ca are for --remote")
    if args.audit_log is not None and not (settings.offload or settings.stage_policy or args.model_key):
        raise ConfigError(
            "--audit-log has nothing to log: it is for --remote, --offload, --stage-policy and --model-key"
        )
    audit = audit_from(args)
    from cutset.llm import LLM

    adapters = {"adapter": args.adapter} if args.adapter else {}
    with (
        contextlib.ExitStack() as stack,
        LLM(
            opened(args.model, args.model_key, settings.thread_count, stack, audit=audit),
            settings=settings,
            adapters=adapters,
            progress=Progress(),
            audit=audit,
        ) as llm,
        _text_to(args.output),
    ):
        warn_of(llm)
        params = sampling_from(args, llm.generation.values)
        adapter = "adapter" if args.adapter else None
        if signer is None:
            deltas = llm.stream(prompt, params, adapter=adapter)
        else:
            from cutset.receipts.issuer import ReceiptIssuer

            deltas = receipted(llm, ReceiptIssuer(llm, signer), args.receipt, llm.encode(prompt), params, adapter)
        with traced(args.trace, llm, "generate"):
            try:
                answer = print_answer(deltas)
            except IntegrityError as error:
                if audit is not None:
                    audit.write("lied", reason=str(error))
                raise
        log(statistics(answer))
        if said := speculated(llm):
            log(said)
        if llm.offload is not None:
            log(llm.offload.summary())
        if llm.stages is not None:
            log(llm.stages.summary())
    if args.json:
        from cutset.files import write_json

        write_json(args.json, figures(shlex.join(["cutset", *sys.argv[1:]]), llm, answer), private=True)
    return 0


def _print(pieces: Iterator[str]) -> None:
    last = ""
    for piece in pieces:
        print(piece, end="", flush=True)
        last = piece or last
    if last and not last.endswith("\n"):
        print()


@contextlib.contextmanager
def _text_to(path: Path | None) -> Iterator[None]:
    """Sends what is printed to a file. In an enclave stdout is the host's."""
    if path is None:
        yield
        return
    try:
        file = os.fdopen(os.open(path, os.O_WRONLY | os.O_CREAT | os.O_TRUNC, 0o600), "w", encoding="utf-8")
    except OSError as error:
        raise ConfigError(f"{path} can't be written: {error.strerror}") from None
    with file, contextlib.redirect_stdout(file):
        yield
