"""The flags of `cutset serve` that say who runs the model: this process, or replicas."""

from __future__ import annotations

import argparse
from collections.abc import Callable
from dataclasses import replace
from pathlib import Path
from typing import TYPE_CHECKING

from cutset.cli.progress import Progress
from cutset.config import EVIDENCE_KINDS
from cutset.errors import ConfigError

if TYPE_CHECKING:
    from cutset.cluster.launch.party_evidence import PartyEvidence
    from cutset.config import Settings
    from cutset.link.peer import Binding
    from cutset.llm import AsyncLLM
    from cutset.trust.audit import AuditLog

__all__ = ["adapters_from", "add_replicas", "open_served"]

SCHEMES = ("tcp://", "ipc://")
REACHED = 60.0  # seconds for which the server waits for replicas that somebody else starts


def add_replicas(parser: argparse.ArgumentParser) -> None:
    """Adds the flags."""
    group = parser.add_argument_group("replicas")
    group.add_argument(
        "--replicas",
        metavar="N|MIN-MAX|A,B",
        help="several engines, each in a process of its own that gets its share of --threads: a number, a range within "
        "which it follows the queue, or addresses of `cutset replica`. When one is lost, its answers go on at others. "
        "With --ray they are placed on the nodes of a cluster, or, with --stages N, the stages of each",
    )
    group.add_argument(
        "--replica-keys",
        metavar="A,B",
        help="with tcp: the replicas' public keys, in their order; --key is this side's own pair",
    )
    group.add_argument(
        "--replica-policy",
        type=Path,
        metavar="FILE",
        help="which evidence every replica must show before it gets a prompt, see `cutset trust policy`",
    )
    group.add_argument(
        "--replica-evidence",
        default="",
        choices=EVIDENCE_KINDS,
        help="with --replica-policy and --replicas N: which evidence the replicas show that are started here, or by "
        "Ray; simulator is NOT CONFIDENTIAL. They listen on tcp then",
    )


def adapters_from(texts: list[str]) -> dict[str, str]:
    """Directories of LoRA adapters by name, from NAME=DIR. Raises ConfigError."""
    found: dict[str, str] = {}
    for text in texts:
        name, equals, where = text.partition("=")
        if not (name and equals and where):
            raise ConfigError(f"--lora-modules {text[:100]!r}: write NAME=DIR")
        if name in found:
            raise ConfigError(f"--lora-modules: {name[:100]!r} stands there twice")
        found[name] = where
    return found


def open_served(
    args: argparse.Namespace,
    model: str,
    settings: Settings,
    adapters: dict[str, str],
    template: str | None,
    report: Callable[[str], None],
    audit: AuditLog | None = None,
) -> AsyncLLM:
    """The model that the flags mean; refusals of evidence go to the `audit` log. Raises CutsetError."""
    from cutset.engine.stage_settings import has_stages
    from cutset.llm import AsyncLLM

    progress = Progress()
    if args.replicas is None:
        for name in ("replica_keys", "replica_policy", "replica_evidence"):
            if getattr(args, name):
                raise ConfigError(f"--{name.replace('_', '-')} is for replicas: say which there are, with --replicas")
        if settings.ray and not has_stages(settings):
            raise ConfigError(f"--ray {settings.ray}: say how many it places, with --replicas N or --stages N")
        return AsyncLLM(
            model, settings=settings, adapters=adapters, progress=progress, chat_template=template, audit=audit
        )
    if args.trace is not None:
        raise ConfigError("--trace is of one engine: leave --replicas out")
    from cutset.cluster.launch.party_evidence import check_evidence
    from cutset.cluster.launch.ray_launcher import check_ray
    from cutset.serve.replicas.ray_replicas import RayReplicas
    from cutset.serve.replicas.replica_launchers import GivenReplicas, LocalReplicas, ReplicaLauncher
    from cutset.serve.replicas.replica_scale import MOST_REPLICAS, ReplicaScale, read_bounds
    from cutset.serve.replicas.replica_set import ReplicaTimes
    from cutset.serve.replicas.replicated_llm import ReplicatedLLM, cache_of_each, check_replicated
    from cutset.serve.replicas.staged_replicas import StagedReplicas

    check_replicated(settings)
    launcher: ReplicaLauncher
    given = [text.strip() for text in args.replicas.split(",") if text.strip()]
    there = any(text.startswith(SCHEMES) for text in given)
    check_evidence("replica", args.replica_policy, args.replica_evidence, given if there else ())
    verify, evidence = _asked(args, audit, report)
    insecure, keys = settings.insecure_ray, None
    ray = check_ray(settings.ray, settings.place, insecure=insecure, counted=not there, flag="--replicas")
    if there:
        if adapters:
            raise ConfigError("--lora-modules are of who runs the model: give them to each `cutset replica`")
        if len(given) > MOST_REPLICAS:
            raise ConfigError(f"--replicas names {len(given)} addresses; at most {MOST_REPLICAS} are taken")
        launcher, scale = (
            GivenReplicas(_keyed(given, args.replica_keys, settings)),
            ReplicaScale(len(given), len(given)),
        )
    else:
        if args.replica_keys is not None:
            raise ConfigError(
                "--replica-keys are of replicas at addresses: name these with --replicas tcp://HOST:PORT,…"
            )
        least, most = read_bounds(args.replicas)
        scale = ReplicaScale(least, most)
        if ray is not None and settings.key is not None and settings.by_hand("key"):
            raise ConfigError("--key and --ray don't go together: leave one of them out")
        if ray is None:
            threads = max(1, settings.thread_count // most)
            cache = cache_of_each(model, settings, most, progress)
            launcher = local = LocalReplicas(
                model,
                settings,
                threads=threads,
                cache_mib=cache,
                adapters=adapters,
                report=report,
                evidence=evidence,
            )
            keys = local.keys
        elif has_stages(settings):
            launcher = staged = StagedReplicas(
                model, settings, ray, scale, adapters=adapters, report=report, evidence=evidence
            )
            keys = staged.keys
        else:
            launcher = placed = RayReplicas(
                model, settings, ray, scale, adapters=adapters, progress=progress, report=report, evidence=evidence
            )
            keys = placed.keys
            settings = replace(settings, ray="", place=(), insecure_ray=False)
    every = not there
    times = ReplicaTimes() if every else ReplicaTimes(starting=REACHED)
    try:
        return ReplicatedLLM(
            model,
            launcher,
            scale,
            settings=settings,
            progress=progress,
            chat_template=template,
            all_of_them=every,
            times=times,
            keys=keys,
            verify=verify,
            report=report,
        )
    except BaseException:
        launcher.close()
        raise


def _asked(
    args: argparse.Namespace, audit: AuditLog | None, report: Callable[[str], None]
) -> tuple[Callable[[bytes, Binding], bool] | None, PartyEvidence | None]:
    """What says whether a replica's evidence is enough, and what those show that are started here. Raises
    ConfigError."""
    if args.replica_policy is None:
        return None, None
    from cutset.trust.evidence.link_evidence import verify_by
    from cutset.trust.evidence.party_policy import party_evidence

    verify = verify_by(args.replica_policy, audit=audit, warn=lambda line: report(f"cutset: warning: {line}"))
    return verify, party_evidence(args.replica_evidence) if args.replica_evidence else None


def _keyed(given: list[str], keys: str | None, settings: Settings) -> list[tuple[str, bytes | None]]:
    from cutset.link import parse_address
    from cutset.link.keys import load_public

    files = [text.strip() for text in (keys or "").split(",") if text.strip()]
    dialled = [text for text in given if parse_address(text).scheme == "tcp"]
    if len(set(given)) != len(given):
        raise ConfigError("--replicas names an address twice: each replica is a process of its own")
    for text in given:
        if not text.startswith(SCHEMES):
            raise ConfigError(f"--replicas: {text[:100]!r} is no address of a replica: tcp://HOST:PORT or ipc://PATH")
    if dialled and settings.key is None:
        raise ConfigError(f"{dialled[0]} needs --key, this side's secret key; see `cutset keys`")
    if len(files) != len(dialled):
        raise ConfigError(f"--replica-keys names {len(files)} public keys, and {len(dialled)} replicas are at tcp://…")
    public = iter(load_public(file) for file in files)
    return [(text, next(public) if text in dialled else None) for text in given]
