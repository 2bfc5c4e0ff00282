"""Flags of `cutset serve` that say how it is reached, what it logs, and where its traces go."""

from __future__ import annotations

import argparse
import re
from collections.abc import Callable, Sequence
from contextlib import ExitStack
from dataclasses import dataclass, field
from pathlib import Path
from typing import TYPE_CHECKING

from cutset.cli.output import log
from cutset.cli.receipt_flags import add_receipt_key, issuers_from
from cutset.config import read_bounded
from cutset.errors import ConfigError

if TYPE_CHECKING:
    from cutset.cli.receipt_flags import Issuers
    from cutset.serve.auth import Auth
    from cutset.serve.front import Front
    from cutset.serve.records import Sink
    from cutset.serve.reload import FileWatch
    from cutset.serve.tls import Certificate
    from cutset.trust.evidence.providers import Provider

__all__ = ["Reached", "add_front", "memory_from", "reached_from", "template_from"]

SIZE = re.compile(r"([0-9]{1,9})([KMGT]i?B)?")


@dataclass(slots=True)
class Reached:
    """What the flags came to. `say` prints a line, or logs it."""

    auth: Auth
    front: Front
    watch: FileWatch
    tls: Certificate | None
    sinks: list[Sink] = field(default_factory=list)
    say: Callable[[str], None] = log
    receipts: Issuers | None = None  # what makes those of a model's answers


def add_front(parser: argparse.ArgumentParser) -> None:
    """Adds the flags."""
    group = parser.add_argument_group("how it is reached")
    group.add_argument(
        "--tls-cert",
        type=Path,
        metavar="FILE",
        help="serve by HTTPS with this chain of certificates (PEM); read again when it changes",
    )
    group.add_argument("--tls-key", type=Path, metavar="FILE", help="the chain's private key (PEM, no password)")
    group.add_argument(
        "--cors-origin",
        action="append",
        default=[],
        metavar="ORIGIN",
        help="let pages of this origin ask, as https://chat.example; '*' with an API key: all. Several times",
    )
    group.add_argument(
        "--allowed-host",
        action="append",
        default=[],
        metavar="NAME",
        help="answer to this name in the Host header, or with *.NAME to those in it, and to no others but, where it "
        "listens on this machine alone, localhost (default: without API keys localhost, with them all). Several times",
    )
    group.add_argument(
        "--root-path", default="", metavar="PATH", help="the path under which a proxy hands requests on, as /models"
    )
    group.add_argument(
        "--pad-stream",
        type=int,
        nargs="?",
        const=100,
        metavar="MS",
        help="send streams of answers in frames of 4 KiB, one each MS milliseconds (default 100), so that who sees the "
        "packets doesn't see the tokens",
    )
    group = parser.add_argument_group("what it says")
    add_receipt_key(group, "; with it requests may ask for one (`cutset_receipt`)")
    group.add_argument(
        "--log-format",
        choices=("text", "json"),
        default="text",
        help="json: each line on stderr an object, and a line for each request (default text)",
    )
    group.add_argument(
        "--otlp-traces-endpoint",
        metavar="URL",
        help="send OpenTelemetry traces there, as http://localhost:4318/v1/traces; needs the extra otel",
    )


def reached_from(
    args: argparse.Namespace,
    keys: Sequence[str],
    read_keys: Callable[[], list[str]],
    stack: ExitStack,
    provider: Provider | None = None,
    used: Callable[[str], None] = lambda key: None,
) -> Reached:
    """What the flags say; `read_keys` reads the API keys anew where they lie in a file, `provider` gives evidence for
    the key of receipts, which `used` is told. What has to be closed is left to the `stack`. Raises ConfigError."""
    from cutset.serve.auth import Auth
    from cutset.serve.front import Front, check_hosts, check_origins, check_root_path
    from cutset.serve.reload import FileWatch
    from cutset.serve.stream_frames import StreamPadding
    from cutset.serve.tls import Certificate

    if (args.tls_cert is None) != (args.tls_key is None):
        raise ConfigError("give --tls-cert and --tls-key together")
    padding = None if args.pad_stream is None else StreamPadding(period=args.pad_stream / 1000)
    if padding is not None and not 10 <= args.pad_stream <= 10_000:
        raise ConfigError(f"--pad-stream must be from 10 to 10000 milliseconds, not {args.pad_stream}")
    front = Front(check_origins(args.cors_origin, keys=bool(keys)), check_root_path(args.root_path), padding)
    hosts = check_hosts(args.allowed_host, keys=bool(keys))
    auth = Auth(keys, args.host, hosts=hosts, changing=args.api_key_file is not None)
    tls = None if args.tls_cert is None else Certificate(args.tls_cert, args.tls_key)
    say: Callable[[str], None] = log
    sinks: list[Sink] = []
    if args.log_format == "json":
        import logging

        from cutset.serve.logs import log_in_json, log_request

        log_in_json()
        say = logging.getLogger("cutset.serve").info
        sinks.append(log_request)
    if args.otlp_traces_endpoint is not None:
        from cutset.serve.traces import Traces, otlp_provider

        traces = Traces(otlp_provider(args.otlp_traces_endpoint))
        stack.callback(traces.close)
        sinks.append(traces)
    watch = FileWatch(say)
    if args.api_key_file is not None:

        def again() -> str:
            found = read_keys()
            auth.replace(found)
            return f"API keys were read again: {len(found)} are known"

        watch.add([args.api_key_file], again)
    if tls is not None:
        watch.add([tls.chain, tls.key], tls.read)
        for caution in tls.cautions():
            say(f"cutset: warning: {caution}")
    evidence_of = None
    if provider is not None:
        from cutset.trust.signing_key import evidence_by

        evidence_of = evidence_by(provider)
    receipts = issuers_from(args.receipt_key, say, evidence_of, watch, used)
    return Reached(auth, front, watch, tls, sinks, say, receipts)


def template_from(args: argparse.Namespace) -> str | None:
    """The chat template of `--chat-template`, which is compiled once to see that it can be. Raises ConfigError."""
    if args.chat_template is None:
        return None
    from cutset.errors import TokenizerError
    from cutset.models.text.chat import ChatTemplate

    source = read_bounded(args.chat_template)
    if not source.strip():
        raise ConfigError(f"{args.chat_template} is empty: a chat template writes the conversation")
    try:
        ChatTemplate(source).close()
    except TokenizerError as error:
        raise ConfigError(f"{args.chat_template} is no chat template: {error}") from None
    return source


def memory_from(text: str | None) -> int:
    """Bytes of `--memory`; without it most of what is free. Raises ConfigError."""
    if text is None:
        from cutset.models.run.backend import free_bytes

        return int(0.8 * free_bytes("cpu"))
    found = SIZE.fullmatch(text)
    if found is None or not int(found[1]):
        raise ConfigError(f"--memory {text[:60]!r} can't be used: write a size, as 800MiB or 16GiB")
    unit = found[2] or ""
    base = 1024 if "i" in unit else 1000
    return int(found[1]) * int(base ** "_KMGT".index(unit[:1] or "_"))
