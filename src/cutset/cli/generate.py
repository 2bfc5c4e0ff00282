"""`cutset generate`: continues a prompt. The text goes to stdout as it comes, one line of statistics to stderr."""

from __future__ import annotations

import argparse
import contextlib
import shlex
import sys
from collections.abc import Iterator
from pathlib import Path

from cutset.cli.answer import figures, print_answer, statistics, tell, warn_of
from cutset.cli.options import add_json, add_settings, settings_from
from cutset.cli.progress import Progress
from cutset.cli.sampling import add_sampling, sampling_from
from cutset.config import read_bounded
from cutset.errors import ConfigError, RequestError

__all__ = ["configure", "run"]


def configure(parser: argparse.ArgumentParser) -> None:
    parser.add_argument("model", metavar="MODEL", help="a directory, a name of models.yaml, or story (the bundled one)")
    prompt = parser.add_mutually_exclusive_group(required=True)
    prompt.add_argument("--prompt", metavar="TEXT", help="what to continue; - reads it from stdin")
    prompt.add_argument("--prompt-file", type=Path, metavar="FILE", help="a file with what to continue")
    parser.add_argument("--output", type=Path, metavar="FILE", help="write the text to FILE instead of stdout")
    add_sampling(parser, max_tokens=128, temperature=0)
    add_json(parser, "text, tokens and figures")
    add_settings(parser)


def run(args: argparse.Namespace) -> int:
    params, settings = sampling_from(args), settings_from(args)
    prompt = read_bounded(args.prompt_file) if args.prompt_file else _stdin() if args.prompt == "-" else args.prompt
    from cutset.llm import LLM

    with LLM(args.model, settings=settings, progress=Progress()) as llm, _text_to(args.output):
        warn_of(llm)
        answer = print_answer(llm.stream(prompt, params))
        tell(statistics(answer))
        if llm.offload is not None:
            tell(llm.offload.summary())
    if args.json:
        from cutset.files import write_json

        write_json(args.json, figures(shlex.join(["cutset", *sys.argv[1:]]), llm, answer))
    return 0


@contextlib.contextmanager
def _text_to(path: Path | None) -> Iterator[None]:
    """Sends what is printed to a file. In an enclave stdout is the host's."""
    if path is None:
        yield
        return
    try:
        file = path.open("w", encoding="utf-8")
    except OSError as error:
        raise ConfigError(f"{path} can't be written: {error.strerror}") from None
    with file, contextlib.redirect_stdout(file):
        yield


def _stdin() -> str:
    try:
        return sys.stdin.buffer.read().decode("utf-8")
    except UnicodeDecodeError as error:
        raise RequestError(f"the prompt on stdin is not valid UTF-8: byte {error.start} is wrong") from None
