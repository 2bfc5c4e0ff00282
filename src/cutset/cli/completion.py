"""`cutset completion`: what makes a shell complete the command line. Needs the extra `completion`.

The shell asks this program at each Tab, by argcomplete, so what it offers is what this version takes.
"""

from __future__ import annotations

import argparse
import contextlib
import importlib
import os
import shlex
from collections.abc import Iterable, Mapping
from typing import TYPE_CHECKING, Any

from cutset.errors import ConfigError, CutsetError

if TYPE_CHECKING:
    from cutset.cli import Command

__all__ = ["SHELLS", "complete", "configure", "run"]

SHELLS = ("bash", "zsh", "fish")
MODELS = ("MODEL", "ngram|MODEL|off")


def configure(parser: argparse.ArgumentParser) -> None:
    parser.add_argument(
        "shell",
        choices=SHELLS,
        help='put `eval "$(cutset completion bash)"` into ~/.bashrc, the same with zsh into ~/.zshrc, or '
        "`cutset completion fish | source` into ~/.config/fish/config.fish",
    )


def run(args: argparse.Namespace) -> int:
    try:
        from argcomplete.shell_integration import shellcode
    except ModuleNotFoundError:
        raise ConfigError("completion needs a package more: pip install 'cutset[completion]'") from None
    print(shellcode(["cutset"], shell=args.shell))
    return 0


def complete(commands: Mapping[str, Command]) -> None:
    """Answers the shell that asks, and ends the process; does nothing without argcomplete."""
    try:
        import argcomplete
    except ModuleNotFoundError:
        return
    argcomplete.autocomplete(_parser(commands, os.environ.get("COMP_LINE", "")))


def _parser(commands: Mapping[str, Command], line: str) -> argparse.ArgumentParser:
    """A parser of all commands, of which only the one that stands in the line has its flags."""
    try:
        words = shlex.split(line)
    except ValueError:  # a quote that isn't closed yet
        words = line.split()
    chosen = words[1] if len(words) > 1 else ""
    top = argparse.ArgumentParser(prog="cutset", allow_abbrev=False)
    top.add_argument("--version", action="store_true")
    actions = top.add_subparsers()
    for name, command in commands.items():
        parser = actions.add_parser(name, help=command.help, allow_abbrev=False)
        if name == chosen:
            importlib.import_module(command.module).configure(parser)
            _offer_models(parser)
    return top


def _offer_models(parser: argparse.ArgumentParser) -> None:
    for action in parser._actions:
        if isinstance(action, argparse._SubParsersAction):
            for inner in {id(one): one for one in action.choices.values()}.values():
                _offer_models(inner)
        elif action.metavar in MODELS:
            action.completer = _models  # type: ignore[attr-defined]


def _models(prefix: str, **_: Any) -> Iterable[str]:
    """Names of models, and files."""
    from argcomplete.completers import FilesCompleter

    from cutset.config import load_settings
    from cutset.models.registry import BUNDLED, registered

    names = dict.fromkeys(BUNDLED)
    with contextlib.suppress(CutsetError, OSError):  # said when a command is run
        names |= dict.fromkeys(registered(load_settings({})))
    found = [name for name in names if name.startswith(prefix)]
    return [*found, *FilesCompleter()(prefix)]
