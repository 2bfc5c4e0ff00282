"""The command line: `cutset COMMAND …`.

A command is a module with `configure(parser)`, which declares its flags, and `run(args)`, which returns the exit
code. Only the module of the command that was asked for is imported, so that `cutset --help` answers at once.

Exit codes: 0 done, 1 the command's own "no" (a regression, a difference), 2 a `CutsetError`, wrong flags, or what the
system refuses (a full disk, a name that is too long, memory), 130 interrupted, 143 terminated, 141 nobody reads the
output. Any other exception is a bug and keeps its traceback.
"""

from __future__ import annotations

import argparse
import contextlib
import importlib
import io
import os
import sys
import warnings
from collections.abc import Mapping, Sequence
from typing import NamedTuple

from cutset.errors import ConfigError, CutsetError, printable

__all__ = ["COMMANDS", "Command", "main"]


class Command(NamedTuple):
    """Where a command is, and its line in `cutset --help`."""

    module: str
    help: str


COMMANDS = {
    "demo": Command("cutset.cli.demo", "show what Cutset does, with the bundled model"),
    "generate": Command("cutset.cli.generate", "continue a prompt"),
    "chat": Command("cutset.cli.chat", "talk with a model"),
    "serve": Command("cutset.cli.serve", "answer OpenAI's clients over HTTP, with a dashboard"),
    "batch": Command("cutset.cli.batch", "answer a file of requests, each once, whatever interrupts it"),
    "tokenize": Command("cutset.cli.tokenize", "show how a text becomes tokens"),
    "models": Command("cutset.cli.models", "list the bundled and the registered models"),
    "config": Command("cutset.cli.config", "show the settings in force, and where each comes from"),
    "accelerator": Command("cutset.cli.accelerator", "multiply for clients that needn't trust this machine"),
    "ping": Command("cutset.cli.ping", "ask whether an accelerator is there and multiplies exactly"),
    "quantize": Command("cutset.cli.quantize", "write an integer checkpoint of a model"),
    "random": Command("cutset.cli.random", "write a random model of any size"),
    "convert": Command("cutset.cli.convert", "turn a checkpoint into an exchange file, or back"),
    "forward": Command("cutset.cli.forward", "run whole sequences through one backend and time it"),
    "compare": Command("cutset.cli.compare", "say whether two outputs or traces agree"),
    "plan": Command("cutset.cli.plan", "say which machine would run which layers of a language model"),
    "simulate": Command("cutset.cli.simulate", "the same for machines that aren't there, described in a file"),
    "replica": Command("cutset.cli.replica", "run a model for the front of `cutset serve --replicas`"),
    "stage": Command("cutset.cli.stage", "run layers of a language model for an engine elsewhere"),
    "stream": Command("cutset.cli.stream", "a video network over several machines: run it, plan it, look at it"),
    "trust": Command("cutset.cli.trust", "why a server or an answer may be believed: evidence and receipts"),
    "keys": Command("cutset.cli.keys", "make the key pairs that tcp links need"),
    "manifest": Command("cutset.cli.manifest", "write or check a Gramine manifest for the client"),
    "doctor": Command("cutset.cli.doctor", "say what this machine has, and what to change"),
    "completion": Command("cutset.cli.completion", "print what makes bash, zsh or fish complete this command line"),
    "bench": Command("cutset.cli.bench", "measure this machine, compare result files"),
}


def main(
    argv: Sequence[str] | None = None,
    commands: Mapping[str, Command] = COMMANDS,
    program: str = "cutset",
    description: str = "Runs one neural network in several places at once, and gives the answer of one.",
) -> int:
    """Runs one command line (default: the process's) and returns the exit code. Prints errors to stderr.

    `args.command_line` is the whole line that a command was given, from `program` on.
    """
    if "_ARGCOMPLETE" in os.environ and argv is None:  # a shell asks, at a Tab
        from cutset.cli.completion import complete

        complete(commands)
    # Read when torch is loaded: threads that spin while they wait make two processes on one machine crawl.
    os.environ.setdefault("OMP_WAIT_POLICY", "PASSIVE")
    warnings.showwarning = _show_warning
    for name, mode in (("stdin", "r"), ("stdout", "w"), ("stderr", "w")):
        if getattr(sys, name) is None:  # it was closed by whoever started this
            setattr(sys, name, open(os.devnull, mode))  # noqa: SIM115 (until the process ends)
    for stream in (sys.stdout, sys.stderr):
        if isinstance(stream, io.TextIOWrapper):  # a terminal that can't show a character still shows the rest
            stream.reconfigure(errors="replace")
    try:
        try:
            code = _dispatch(sys.argv[1:] if argv is None else argv, commands, program, description)
        except SystemExit as stop:  # how argparse ends, after help (0) or a wrong flag (2)
            code = stop.code if isinstance(stop.code, int) else 0 if stop.code is None else 1
        sys.stdout.flush()  # a reader that went away is noticed here, not when the interpreter exits
        return code
    except KeyboardInterrupt as stop:
        return getattr(stop, "code", 130)  # another one for SIGTERM
    except BrokenPipeError:
        _give_up_stdout()
        return 141
    except (CutsetError, OSError, MemoryError) as error:
        if os.environ.get("CUTSET_DEBUG", "0") not in ("", "0"):
            raise
        print(f"cutset: error: {printable(_message(error))}", file=sys.stderr)
        try:
            sys.stdout.flush()
        except OSError:  # what is left can't be written: not now, and not when the interpreter exits
            _give_up_stdout()
        return 2


def _message(error: Exception) -> str:
    if isinstance(error, MemoryError):
        return f"there is not enough memory: {error}".removesuffix(": ")
    if isinstance(error, OSError) and error.strerror:
        return f"{os.fspath(error.filename)}: {error.strerror}" if error.filename else error.strerror
    return str(error)


def _give_up_stdout() -> None:
    with contextlib.suppress(OSError):
        os.dup2(os.open(os.devnull, os.O_WRONLY), sys.stdout.fileno())


def _show_warning(message: Warning | str, *where: object, **more: object) -> None:
    """A warning is for the user, who has no use for the line of code that gave it."""
    print(f"cutset: warning: {printable(str(message))}", file=sys.stderr)


def _dispatch(argv: Sequence[str], commands: Mapping[str, Command], program: str, description: str) -> int:
    top = argparse.ArgumentParser(
        prog=program,
        usage=f"{program} [--help | --version] COMMAND …",
        description=description,
        epilog=_overview(commands, program),
        formatter_class=argparse.RawDescriptionHelpFormatter,
        allow_abbrev=False,
    )
    top.add_argument("--version", action="store_true", help="print the version and exit")
    top.add_argument("command", nargs="?", help=argparse.SUPPRESS)
    args = top.parse_args(argv[:1])  # what follows the command is the command's
    if args.version:
        print(f"cutset {_version()}")
        return 0
    if args.command is None:
        top.print_help(sys.stderr)
        return 2
    if args.command not in commands:
        from cutset.config import did_you_mean

        raise ConfigError(f"{args.command!r} is not a command{did_you_mean(args.command, commands)}")
    command = commands[args.command]
    module = importlib.import_module(command.module)
    parser = argparse.ArgumentParser(
        prog=f"{program} {args.command}",
        description=f"{command.help[0].upper()}{command.help[1:]}.",
        allow_abbrev=False,
    )
    module.configure(parser)
    parser.set_defaults(command_line=[*program.split(), *argv])
    code: int = module.run(parser.parse_args(argv[1:]))
    return code


def _overview(commands: Mapping[str, Command], program: str) -> str:
    width = max(11, *map(len, commands)) + 2
    lines = [f"  {name:<{width}}{command.help}" for name, command in commands.items()]
    return "\n".join(["commands:", *lines, "", f"`{program} COMMAND --help` says what a command takes."])


def _version() -> str:
    import importlib.metadata

    try:
        return importlib.metadata.version("cutset")
    except importlib.metadata.PackageNotFoundError:
        return "(not installed)"
