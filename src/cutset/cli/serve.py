"""`cutset serve`: an OpenAI-compatible server with metrics and a dashboard."""

from __future__ import annotations

import argparse
import contextlib
import os
from functools import partial
from pathlib import Path
from typing import TYPE_CHECKING

from cutset.cli.answer import speculated, warn_of
from cutset.cli.model_key import add_model_key, opened
from cutset.cli.options import add_settings, settings_from
from cutset.cli.progress import Progress
from cutset.cli.serve_batches import add_batches, batches_from
from cutset.cli.serve_evidence import add_evidence, audit_from, mode_of, prover_of, provider_from
from cutset.cli.serve_front import add_front, memory_from, reached_from, template_from
from cutset.cli.serve_replicas import adapters_from, add_replicas, open_served
from cutset.cli.tracing import add_trace, check_trace, traced
from cutset.config import read_bounded
from cutset.errors import ConfigError

if TYPE_CHECKING:
    from socket import socket

    from cutset.cli.serve_front import Reached
    from cutset.config import Settings
    from cutset.errors import IntegrityError
    from cutset.llm import AsyncLLM
    from cutset.serve.request_limits import RequestLimits
    from cutset.trust.audit import AuditLog
    from cutset.trust.evidence.document import Prover
    from cutset.trust.evidence.providers import Provider

__all__ = ["configure", "run"]

# Flag, default, least, most, help.
LIMITS = (
    ("max-body", 4096, 1, 1 << 20, "KiB of a request's body"),
    ("max-queue", 256, 0, 1 << 16, "samples that may wait for others; more are refused with 429"),
    ("max-seconds", 600, 1, 1 << 20, "seconds that an answer may take"),
    ("max-connections", 1000, 1, 1 << 16, "connections at a time"),
    (
        "max-waiting",
        128,
        1,
        1 << 16,
        "connections of one address that have sent no whole request; the oldest is closed",
    ),
    ("max-unread", 4096, 64, 1 << 20, "KiB of memory for what a stream's client hasn't read; then the stream ends"),
    ("grace", 30, 0, 3600, "seconds that running answers get when the server is stopped"),
)


def configure(parser: argparse.ArgumentParser) -> None:
    parser.add_argument(
        "models",
        nargs="*",
        metavar="MODEL",
        help="a directory, a GGUF file, a name of models.yaml, or story (the bundled one). Several, or NAME=MODEL: "
        "each is loaded when it is asked for, the first at once, and clients choose by name",
    )
    parser.add_argument(
        "--model", action="append", default=[], metavar="MODEL", help="the same, as a flag; several times"
    )
    parser.add_argument(
        "--memory",
        metavar="SIZE",
        help="most memory that several models take together, as 16GiB (default: four fifths of what is free); what was "
        "used longest ago makes room",
    )
    parser.add_argument("--host", default="127.0.0.1", help="address to listen on (default 127.0.0.1, this machine)")
    parser.add_argument("--port", type=int, default=8000, metavar="N", help="default 8000; 0 takes a free one")
    parser.add_argument(
        "--api-key",
        action="append",
        default=[],
        metavar="KEY",
        help="clients must send it; needed where --host isn't this machine. Others here can read a command line: "
        "better give --api-key-file FILE or CUTSET_API_KEY. May be given several times",
    )
    parser.add_argument(
        "--api-key-file", type=Path, metavar="FILE", help="a file with a key a line; read again when it changes"
    )
    parser.add_argument(
        "--served-model-name",
        action="append",
        default=[],
        metavar="NAME",
        help="what clients call the model (default: its own name); may be given several times",
    )
    parser.add_argument(
        "--lora-modules",
        nargs="+",
        action="extend",
        default=[],
        metavar="NAME=DIR",
        help="LoRA adapters as PEFT saves them; clients choose one by giving its NAME as the model",
    )
    parser.add_argument(
        "--chat-template", type=Path, metavar="FILE", help="a chat template (Jinja) in place of the model's own"
    )
    parser.add_argument(
        "--forwarded-allow-ips",
        default="",
        metavar="ADDRESSES",
        help="proxies that are believed in X-Forwarded-Proto and X-Forwarded-For: addresses and networks, with commas "
        "between (default none)",
    )
    parser.add_argument(
        "--on-integrity-error",
        choices=("refuse", "reopen", "stop"),
        default="refuse",
        help="after a wrong product of an accelerator: refuse requests, open a new session with it (at most 5 "
        "times), or stop with exit code 1 (default refuse)",
    )
    parser.add_argument(
        "--tool-parser",
        default="auto",
        metavar="NAME",
        help="how the model writes tool calls (default auto: by its chat template); a wrong name lists those there are",
    )
    parser.add_argument(
        "--reasoning-parser",
        default="auto",
        metavar="NAME",
        help="how it marks its reasoning, or off, which leaves it in the content (default auto: by its chat template)",
    )
    add_trace(parser)
    add_replicas(parser)
    add_front(parser)
    add_batches(parser)
    add_evidence(parser, what="who asks /evidence", needs="--tls-cert")
    add_model_key(parser, released=True)
    parser.add_argument(
        "--audit-log",
        type=Path,
        metavar="FILE",
        help="add a line to FILE for each lie of an accelerator and use of a key",
    )
    group = parser.add_argument_group("limits")
    for name, default, _, _, text in LIMITS:
        group.add_argument(f"--{name}", type=int, default=default, metavar="N", help=f"{text} (default {default})")
    add_settings(parser)


def run(args: argparse.Namespace) -> int:
    settings = settings_from(args)
    for name, _, least, most, _ in LIMITS:
        if not least <= getattr(args, name.replace("-", "_")) <= most:
            raise ConfigError(f"--{name} must be from {least} to {most}")
    check_trace(args, settings)
    if not 0 <= args.port <= 65535:
        raise ConfigError("--port must be from 0 to 65535")
    models = [*args.models, *args.model]
    if not models:
        raise ConfigError("name a model to serve, as `cutset serve story`")
    try:
        import starlette  # noqa: F401
        import uvicorn  # noqa: F401
    except ModuleNotFoundError:
        raise ConfigError("cutset serve needs a few packages more: pip install 'cutset[serve]'") from None
    from cutset.models.calls.registered import check_names
    from cutset.serve.pending import networks
    from cutset.serve.request_limits import RequestLimits
    from cutset.serve.server import bind

    # A text is tokenised in one thread, which gives way to the engine; threads of the tokenizer's own wouldn't.
    os.environ.setdefault("TOKENIZERS_PARALLELISM", "false")
    networks(_proxies(args))
    check_names(args.tool_parser, args.reasoning_parser)
    adapters = adapters_from(args.lora_modules)
    pooled = len(models) > 1 or args.memory is not None
    if not pooled:
        models = _named_alone(args, models[0])
    if pooled:
        _check_alone(args)
    if args.replicas is not None and args.model_key:
        raise ConfigError("--replicas are other processes than the one that --model-key is of: leave one of them out")
    if args.replicas is not None and args.evidence and args.replica_policy is None:
        raise ConfigError(
            "--replicas are other processes than the one that --evidence is of: say with --replica-policy which "
            "evidence they must show"
        )
    memory = memory_from(args.memory) if pooled else 0
    with contextlib.ExitStack() as stack:
        certified = args.tls_cert is not None
        provider = provider_from(args, over=certified, needs="a certificate: give --tls-cert and --tls-key too")
        audit = audit_from(args)
        reached = reached_from(args, _keys(args), lambda: _keys(args), stack, provider, partial(_used, audit))
        template = template_from(args)
        listening = stack.enter_context(bind(args.host, args.port))
        limits = RequestLimits(
            body_bytes=args.max_body << 10,
            queue=args.max_queue,
            request_s=args.max_seconds,
            connections=args.max_connections,
            waiting=args.max_waiting,
            unread_bytes=args.max_unread << 10,
            grace_s=args.grace,
        )
        if pooled:
            return _serve_pool(args, models, settings, memory, limits, reached, listening, provider)
        model = opened(models[0], args.model_key, settings.thread_count, stack, provider, args.model_key_ca, audit)
        llm = open_served(args, model, settings, adapters, template, reached.say, audit)
        try:
            with traced(args.trace, llm, "serve"):
                evidence = (
                    None
                    if provider is None
                    else prover_of(
                        provider,
                        {llm.name: llm.directory} | {name: Path(where) for name, where in adapters.items()},
                        mode_of(llm),
                        {} if template is None else {llm.name: template},
                        settings.thread_count,
                        reached.say,
                    )
                )
                return _serve(args, llm, limits, reached, listening, evidence, audit)
        finally:
            llm.close()


def _named_alone(args: argparse.Namespace, text: str) -> list[str]:
    """The one model; NAME=MODEL is served by that name, as among several."""
    name, equals, where = text.partition("=")
    if not (name and equals and where) or "/" in name or Path(text).exists():
        return [text]
    args.served_model_name = [name, *args.served_model_name]
    return [where]


def _keys(args: argparse.Namespace) -> list[str]:
    from cutset.serve.auth import keys_from

    text = read_bounded(args.api_key_file) if args.api_key_file else ""
    if args.api_key_file and not text.strip():
        raise ConfigError(f"{args.api_key_file} has no key in it, so anybody could ask: put one there, a key a line")
    return keys_from(args.api_key, text, os.environ.get("CUTSET_API_KEY", ""))


def _check_alone(args: argparse.Namespace) -> None:
    """Raises ConfigError for flags that are of one model."""
    alone = ("served_model_name", "lora_modules", "chat_template", "trace", "replicas", "replica_keys")
    for name in (*alone, "replica_policy", "replica_evidence", "model_key", "audit_log"):
        if getattr(args, name):
            raise ConfigError(f"--{name.replace('_', '-')} is for one model: serve it alone, without --memory")


def _proxies(args: argparse.Namespace) -> list[str]:
    return [text.strip() for text in args.forwarded_allow_ips.split(",") if text.strip()]


def _serve(
    args: argparse.Namespace,
    llm: AsyncLLM,
    limits: RequestLimits,
    reached: Reached,
    listening: socket,
    evidence: Prover | None,
    audit: AuditLog | None,
) -> int:
    from cutset.serve.app import build_app
    from cutset.serve.server import Server
    from cutset.serve.service import Service

    say = reached.say
    warn_of(llm, say)
    service = Service(
        llm,
        names=args.served_model_name,
        limits=limits,
        on_integrity_error=args.on_integrity_error,
        tool_parser=args.tool_parser,
        reasoning_parser=args.reasoning_parser,
        receipts=None if reached.receipts is None else reached.receipts(llm),
    )
    if audit is not None:
        service.readiness.lied = partial(_lied, audit)
    app = build_app(service, reached.auth, reached.front, reached.sinks, batches_from(args), evidence)
    own_logs = args.log_format == "text"
    server = Server(app, service, say, _proxies(args), tls=reached.tls, watch=reached.watch, own_logs=own_logs)
    how = f"mode {llm.mode}" if llm.mode else f"{llm.choice.backend} {llm.choice.dtype}"
    if llm.stages is not None:
        say(llm.stages.summary())
    _say_where(reached, ", ".join(service.names), how, listening)
    if llm.generation.values:
        own = ", ".join(f"{name} {value}" for name, value in llm.generation.values.items())
        say(f"where requests don't say: {own:.300} (generation_config.json; --no-generation-config turns it off)")
    server.run(sockets=[listening])
    stats = llm.stats()
    say(f"stopped: {stats.generated_tokens} tokens generated, {stats.prompt_tokens} prompt tokens computed")
    if said := speculated(llm):
        say(said)
    if llm.offload is not None:
        say(llm.offload.summary())
    return 1 if service.readiness.stopped else 0


def _used(audit: AuditLog | None, key: str) -> None:
    if audit is not None:
        audit.write("key used", key=key, source="receipts")


def _lied(audit: AuditLog, error: IntegrityError) -> None:
    audit.write("lied", reason=str(error))


def _serve_pool(
    args: argparse.Namespace,
    models: list[str],
    settings: Settings,
    memory: int,
    limits: RequestLimits,
    reached: Reached,
    listening: socket,
    provider: Provider | None,
) -> int:
    from cutset.serve.model_pool import ModelPool
    from cutset.serve.pool_app import PoolApplications, build_pool_app
    from cutset.serve.pooled import pooled_models
    from cutset.serve.server import Server

    found = pooled_models(models, settings, memory, Progress())
    made = PoolApplications()
    parsers = args.tool_parser, args.reasoning_parser
    pool = ModelPool(
        found, memory, limits=limits, applications=made, report=reached.say, parsers=parsers, receipts=reached.receipts
    )
    try:
        pool.preload(found[0])
        own_logs = args.log_format == "text"
        paths = {one.facts.name: one.facts.directory for one in found}
        evidence = None
        if provider is not None:
            evidence = prover_of(provider, paths, "none", {}, settings.thread_count, reached.say)
        app = build_pool_app(pool, made, reached.auth, reached.front, reached.sinks, batches_from(args), evidence)
        server = Server(app, pool, reached.say, _proxies(args), tls=reached.tls, watch=reached.watch, own_logs=own_logs)
        how = f"within {memory / (1 << 20):,.0f} MiB"
        _say_where(reached, ", ".join(pool.models), how, listening)
        server.run(sockets=[listening])
    finally:
        pool.close_models()
    reached.say("stopped")
    return 0


def _say_where(reached: Reached, names: str, how: str, listening: socket) -> None:
    from cutset.serve.server import url_of

    where = url_of(listening, tls=reached.tls is not None) + reached.front.root_path
    reached.say(f"serving {names} ({how}) at {where}/v1; dashboard at {where}/")
