"""The drafter that the settings name: none, n-grams, or a second model."""

from __future__ import annotations

import warnings
from collections.abc import Callable
from dataclasses import dataclass, replace

from cutset.config import Settings
from cutset.engine.drafting import Drafter, ModelDrafter, NgramDrafter
from cutset.errors import ConfigError
from cutset.models.files.source import open_source
from cutset.models.registry import resolve, settings_for
from cutset.models.run.backend import BackendChoice, block_bytes, build_executor
from cutset.models.spec import DecoderSpec
from cutset.models.text.tokenizer import Tokenizer

__all__ = ["Drafting", "check_speculation", "open_drafting"]


@dataclass(frozen=True)
class Drafting:
    """Who drafts. `open` makes it for a cache of so many blocks, of which each takes `block_bytes` here besides."""

    open: Callable[[int], Drafter | None]
    block_bytes: int = 0


def check_speculation(settings: Settings, spec: DecoderSpec, mode: str, *, masked: bool) -> None:
    """Raises ConfigError where speculation is asked for and can't be. `mode`: of an offload."""
    if settings.speculate == "off":
        return
    if spec.recurrent_layers and masked:
        raise ConfigError(
            f"speculate={settings.speculate} in mode {mode}: a model of family {spec.family} has states, of which "
            "there may be too few to go back to, and numbers of rows would tell it; leave it off"
        )
    if masked and not (settings.by_hand("speculate") and settings.by_hand("speculate_tokens")):
        raise ConfigError(
            f"speculate={settings.speculate} ({settings.sources['speculate']}) in mode {mode}: numbers of rows would "
            "tell which text repeats itself. Give --speculate and --speculate-tokens as flags for one that never "
            "changes, at the cost of pads for wrong guesses"
        )


def open_drafting(
    settings: Settings,
    choice: BackendChoice,  # of the model that is drafted for
    spec: DecoderSpec,
    tokenizer: Tokenizer,
) -> Drafting:
    """The drafter that `speculate` names, or none if it is off. Loads a model, whose cache has as many blocks as the
    engine's.

    Raises ConfigError for a model that has other tokens, and what loading it raises.
    """
    name = settings.speculate
    if name == "off":
        return Drafting(lambda blocks: None)
    if choice.backend != "native":
        warnings.warn(
            f"speculation on the {choice.backend} backend can change tokens: what it computes for a row depends on the "
            "rows beside it; the native one keeps every token",
            stacklevel=4,
        )
    if name == "ngram":
        return Drafting(lambda blocks: NgramDrafter())
    found = resolve(name, settings)
    # What was chosen for the large model isn't meant for this one.
    plain = replace(settings, dtype="auto", backend="auto", device="cpu", kv_dtype="auto", max_model_len=0)
    own = settings_for(found, plain)
    other = Tokenizer.load(found.directory)
    source = open_source(found.directory, settings.verify)
    _check_tokens(name, tokenizer, other)
    if source.spec.recurrent_layers:
        raise ConfigError(f"speculate={name}: a model of family {source.spec.family} can't draft, since it has states")
    executor, chosen = build_executor(source, own)
    masked = tokenizer.ids_without_token(spec.vocab_size)

    def drafter(blocks: int) -> Drafter:
        return ModelDrafter(
            executor, blocks=blocks, block_size=settings.block_size, vocab_size=spec.vocab_size, masked=masked
        )

    return Drafting(drafter, block_bytes(source.spec, chosen, own))


def _check_tokens(name: str, tokenizer: Tokenizer, other: Tokenizer) -> None:
    mine, theirs = tokenizer.vocabulary(), other.vocabulary()
    if mine == theirs:
        return
    differ = min(one for one in mine.keys() | theirs.keys() if mine.get(one) != theirs.get(one))
    raise ConfigError(
        f"speculate={name}: its tokens aren't those of the model, the first that differs is {differ} "
        f"({mine.get(differ)!r:.60} and {theirs.get(differ)!r:.60}); name a model of the same vocabulary, or ngram"
    )
