"""`cutset tokenize`: how a text becomes tokens, one a line, or only their ids."""

from __future__ import annotations

import argparse

from cutset.cli.options import add_json, add_settings, settings_from
from cutset.cli.output import read_stdin, say

__all__ = ["configure", "run"]


def configure(parser: argparse.ArgumentParser) -> None:
    parser.add_argument(
        "model", metavar="MODEL", help="a directory, a GGUF file, a name of models.yaml, or story (the bundled one)"
    )
    parser.add_argument("text", metavar="TEXT", help="- reads it from stdin: others here can read a command line")
    parser.add_argument("--ids", action="store_true", help="only the ids, in one line")
    parser.add_argument("--no-special", action="store_true", help="without the special tokens around the text")
    add_json(parser, "ids and tokens")
    add_settings(parser, "models_file", "download", "offline")


def run(args: argparse.Namespace) -> int:
    from cutset.models.registry import resolve
    from cutset.models.text.tokenizer import Tokenizer

    tokenizer = Tokenizer.load(resolve(args.model, settings_from(args)).directory)
    text = read_stdin() if args.text == "-" else args.text
    ids = tokenizer.encode(text, add_special_tokens=not args.no_special).tolist()
    if args.ids:
        print(*ids)
    else:
        width = len(str(max(ids, default=0)))
        for token_id in ids:
            say(f"{token_id:>{width}}  {tokenizer.token(token_id)}")
    if args.json:
        from cutset.files import write_json

        write_json(
            args.json, {"text": text, "token_ids": ids, "tokens": [tokenizer.token(i) for i in ids]}, private=True
        )
    return 0
