"""`cutset generate`: continues a prompt. The text goes to stdout as it comes, one line of statistics to stderr."""

from __future__ import annotations

import argparse
import shlex
import sys

from cutset.cli.answer import figures, print_answer, statistics, tell
from cutset.cli.options import add_json, add_settings, settings_from
from cutset.cli.progress import Progress
from cutset.cli.sampling import add_sampling, sampling_from
from cutset.errors import RequestError

__all__ = ["configure", "run"]


def configure(parser: argparse.ArgumentParser) -> None:
    parser.add_argument("model", metavar="MODEL", help="a directory, a name of models.yaml, or story (the bundled one)")
    parser.add_argument("--prompt", required=True, metavar="TEXT", help="what to continue; - reads it from stdin")
    add_sampling(parser, max_tokens=128, temperature=0)
    add_json(parser, "text, tokens and figures")
    add_settings(parser)


def run(args: argparse.Namespace) -> int:
    params, settings = sampling_from(args), settings_from(args)
    prompt = _stdin() if args.prompt == "-" else args.prompt
    from cutset.llm import LLM

    with LLM(args.model, settings=settings, progress=Progress()) as llm:
        answer = print_answer(llm.stream(prompt, params))
        tell(statistics(answer))
    if args.json:
        from cutset.bench.files import write_json

        write_json(args.json, figures(shlex.join(["cutset", *sys.argv[1:]]), llm, answer))
    return 0


def _stdin() -> str:
    try:
        return sys.stdin.buffer.read().decode("utf-8")
    except UnicodeDecodeError as error:
        raise RequestError(f"the prompt on stdin is not valid UTF-8: byte {error.start} is wrong") from None
