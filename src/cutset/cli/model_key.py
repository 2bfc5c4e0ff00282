"""`--model-key`: opens a sealed model with a key from a file, or from a server that releases it to evidence."""

from __future__ import annotations

import argparse
from contextlib import ExitStack
from pathlib import Path
from typing import TYPE_CHECKING

from cutset.cli.output import log
from cutset.errors import ConfigError

if TYPE_CHECKING:
    from cutset.trust.audit import AuditLog
    from cutset.trust.evidence.providers import Provider
    from cutset.trust.sealing.sealed_format import ModelKey

__all__ = ["add_model_key", "opened"]


def add_model_key(parser: argparse.ArgumentParser, *, released: bool) -> None:
    """Adds the flags. `released`: a server may have the key too."""
    also = ", or https://HOST:PORT of a server that releases it to --evidence" if released else ""
    parser.add_argument(
        "--model-key", metavar="FILE", help=f"the key of a sealed model (see `cutset trust seal`){also}"
    )
    if released:
        parser.add_argument(
            "--model-key-ca",
            metavar="FILE",
            help="authorities of the key server's certificate, PEM (default the system's)",
        )


def opened(
    model: str,
    given: str | None,
    threads: int,
    stack: ExitStack,
    provider: Provider | None = None,
    ca: str | None = None,
    audit: AuditLog | None = None,
) -> str:
    """The model that is to be loaded: a sealed one decrypted into memory, for as long as the stack is open; any other
    as it is. Raises ConfigError for a key without a sealed model, or the other way round."""
    from cutset.trust.sealing.sealed_format import is_sealed

    if not is_sealed(Path(model)):
        if given is not None:
            raise ConfigError(f"--model-key is for what `cutset trust seal` wrote, which {model!r} isn't")
        return model
    if given is None:
        raise ConfigError(f"{model!r} is sealed: open it with --model-key FILE")
    from cutset.offload.client.private_memory import keep_out
    from cutset.trust.sealing.opened_model import opened_model

    keep_out()  # what is decrypted is for this process alone
    key = _key(Path(model), given, provider, ca)
    if audit is not None:
        audit.write("key used", seal=key.seal, source=given)
    return str(stack.enter_context(opened_model(Path(model), key, threads)))


def _key(model: Path, given: str, provider: Provider | None, ca: str | None) -> ModelKey:
    from cutset.trust.sealing.sealed_format import load_model_key, read_manifest

    if "://" not in given:
        return load_model_key(Path(given))
    if provider is None:
        raise ConfigError("a key server releases keys to evidence alone: give --evidence too")
    from cutset.trust.evidence.document import Prover
    from cutset.trust.sealing.key_release import ask_for_key
    from cutset.version import software

    found = ask_for_key(given, read_manifest(model).seal, Prover(provider, [], "release", software()), ca)
    log(f"the model's key was released by {given}")
    return found
