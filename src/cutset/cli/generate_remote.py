"""`cutset generate --remote`: the same answer from a server, which shows evidence before it gets the prompt."""

from __future__ import annotations

import argparse
import json
import os
from collections.abc import Iterator
from pathlib import Path
from typing import TYPE_CHECKING, Any

from cutset.cli.answer import CONTROL
from cutset.cli.output import log
from cutset.errors import ConfigError, EngineError, LinkClosed, LinkTimeout, RequestError, printable

if TYPE_CHECKING:
    import httpx

    from cutset.engine.params import SamplingParams

__all__ = ["add_remote", "remote_answer"]

MOST_LINE = 1 << 20  # bytes of an event
LOCAL_FLAGS = ("trace", "adapter", "json", "model_key")


def add_remote(parser: argparse.ArgumentParser) -> None:
    """Adds the flags."""
    group = parser.add_argument_group("a server in place of this machine")
    group.add_argument(
        "--remote",
        metavar="URL",
        help="let the server at https://HOST:PORT answer, once its evidence fits --policy; MODEL is its name there",
    )
    group.add_argument(
        "--policy", type=Path, metavar="FILE", help="which evidence is enough; see `cutset trust policy`"
    )
    group.add_argument(
        "--ca", type=Path, metavar="FILE", help="authorities of certificates, PEM (default the system's)"
    )
    group.add_argument(
        "--audit-log",
        type=Path,
        metavar="FILE",
        help="add a line to FILE for each refusal of evidence, lie of an accelerator and use of a model's key",
    )


def remote_answer(args: argparse.Namespace, prompt: str, params: SamplingParams, *, watched: bool) -> Iterator[str]:
    """Pieces of the answer, as they come. Nothing is sent before the evidence has been checked. Raises ConfigError for
    flags that mean nothing there, EvidenceError, and what the server says."""
    if args.policy is None:
        raise ConfigError("--remote sends the prompt away: say with --policy FILE which evidence is enough for that")
    local = [f"--{name}" for name in LOCAL_FLAGS if getattr(args, name)]
    local += [f"--{name.partition('.')[2]}" for name, value in vars(args).items() if name[:9] == "settings." and value]
    if local:
        raise ConfigError(f"{local[0].replace('_', '-')} is for a model on this machine, not with --remote")
    from cutset.trust.evidence.fetched import server_address

    server_address(args.remote)
    try:
        import httpx

        from cutset.trust.evidence.transport import AttestedTransport
    except ModuleNotFoundError:
        raise ConfigError("--remote needs a few packages more: pip install 'cutset[trust]'") from None
    from cutset.trust.audit import AuditLog
    from cutset.trust.evidence.policy import load_policy
    from cutset.trust.evidence.verifier import Verifier

    audit = AuditLog(args.audit_log) if args.audit_log else None
    transport = AttestedTransport(Verifier(load_policy(args.policy), audit=audit), ca=args.ca)
    key = os.environ.get("CUTSET_API_KEY", "")
    headers = {"authorization": f"Bearer {key}"} if key else {}
    base = args.remote if "://" in args.remote else f"https://{args.remote}"
    url = base.rstrip("/").removesuffix("/v1") + "/v1/completions"
    body = {"model": args.model, "prompt": prompt, "stream": True, **_fields(params)}
    timeout = httpx.Timeout(60.0, read=600.0)
    try:
        with (
            httpx.Client(transport=transport, timeout=timeout, headers=headers) as client,
            client.stream("POST", url, json=body) as response,
        ):
            for checked in transport.checked.values():
                kind = checked.quote.kind
                log(
                    f"[evidence of {kind} fits the policy]" if checked.confidential else "[NOT CONFIDENTIAL: simulator]"
                )
            for piece in _pieces(response):
                yield CONTROL.sub("\ufffd", piece) if watched else piece
    except httpx.TimeoutException:
        raise LinkTimeout(f"{args.remote} doesn't answer in time") from None
    except httpx.HTTPError as error:
        raise LinkClosed(f"{args.remote} can't be asked: {printable(str(error))}") from None


def _fields(params: SamplingParams) -> dict[str, Any]:
    """Those that aren't what the server takes without them."""
    from cutset.engine.params import SamplingParams

    standard = SamplingParams()
    names = [*("max_tokens", "min_tokens", "temperature", "top_p", "top_k", "min_p", "seed", "repetition_penalty")]
    names += ["presence_penalty", "frequency_penalty", "ignore_eos"]
    found = {name: getattr(params, name) for name in names}
    changed = {name: value for name, value in found.items() if value != getattr(standard, name)}
    stop = list(params.stop or ())
    return {"max_tokens": params.max_tokens, "temperature": params.temperature, **changed} | (
        {"stop": stop} if stop else {}
    )


def _pieces(response: httpx.Response) -> Iterator[str]:
    if response.status_code != 200:
        text = next(_lines(response), b"").decode("utf-8", "replace")
        raise RequestError(f"the server answers {response.status_code}: {_message(text)}")
    ended = False
    for line in _lines(response):
        if not line.startswith(b"data:"):
            continue
        data = line[5:].strip().decode("utf-8", "replace")
        if data == "[DONE]":
            ended = True
            continue
        try:
            event = json.loads(data)
            if "error" in event:
                raise EngineError(f"the server ended the answer: {_message(data)}")
            yield from (str(choice["text"]) for choice in event["choices"])
        except (ValueError, KeyError, TypeError, RecursionError):
            raise EngineError("the server sent an event that makes no sense") from None
    if not ended:
        raise EngineError("the connection ended before the answer did")


def _lines(response: httpx.Response) -> Iterator[bytes]:
    """The lines of a body, without their ends, of at most MOST_LINE bytes each."""
    rest = b""
    for part in response.iter_bytes():
        *lines, rest = (rest + part).split(b"\n")
        yield from lines
        if len(rest) > MOST_LINE:
            raise EngineError("the server sent an event that is too long")
    if rest:
        yield rest


def _message(text: str) -> str:
    try:
        return printable(str(json.loads(text)["error"]["message"]), lines=False)[:500]
    except (ValueError, KeyError, TypeError, RecursionError):
        return printable(text, lines=False)[:200]
