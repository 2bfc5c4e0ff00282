"""The drafter that the settings name: none, n-grams, or a second model."""

from __future__ import annotations

import warnings
from dataclasses import replace

from cutset.config import Settings
from cutset.engine.drafting import Drafter, ModelDrafter, NgramDrafter
from cutset.errors import ConfigError
from cutset.models.files.source import open_source
from cutset.models.registry import resolve, settings_for
from cutset.models.run.backend import BackendChoice, build_executor
from cutset.models.spec import DecoderSpec
from cutset.models.text.tokenizer import Tokenizer

__all__ = ["check_speculation", "open_drafter"]


def check_speculation(settings: Settings, spec: DecoderSpec, mode: str, *, masked: bool) -> None:
    """Raises ConfigError where speculation is asked for and can't be. `mode`: of an offload."""
    if settings.speculate == "off":
        return
    if spec.recurrent_layers:
        raise ConfigError(
            f"speculate={settings.speculate}: a model of family {spec.family} has layers with states, in which drafts "
            "that are wrong would stay; leave it off"
        )
    if masked and not (settings.by_hand("speculate") and settings.by_hand("speculate_tokens")):
        raise ConfigError(
            f"speculate={settings.speculate} ({settings.sources['speculate']}) in mode {mode}: numbers of rows would "
            "tell which text repeats itself. Give --speculate and --speculate-tokens as flags for one that never "
            "changes, at the cost of pads for wrong guesses"
        )


def open_drafter(
    settings: Settings,
    choice: BackendChoice,  # of the model that is drafted for
    spec: DecoderSpec,
    tokenizer: Tokenizer,
    *,
    blocks: int,  # of the engine's cache
) -> Drafter | None:
    """The drafter that `speculate` names, None if it is off. Loads a model, whose cache takes memory beside the
    engine's.

    Raises ConfigError for a model that has other tokens, and what loading it raises.
    """
    name = settings.speculate
    if name == "off":
        return None
    if choice.backend != "native":
        warnings.warn(
            f"speculation on the {choice.backend} backend can change tokens: what it computes for a row depends on the "
            "rows beside it; the native one keeps every token",
            stacklevel=4,
        )
    if name == "ngram":
        return NgramDrafter()
    found = resolve(name, settings)
    # What was chosen for the large model isn't meant for this one.
    own = settings_for(found, replace(settings, dtype="auto", backend="auto", device="cpu", max_model_len=0))
    other = Tokenizer.load(found.directory)
    source = open_source(found.directory, settings.verify)
    _check_tokens(name, tokenizer, other)
    if source.spec.recurrent_layers:
        raise ConfigError(f"speculate={name}: a model of family {source.spec.family} can't draft, since it has states")
    executor, _ = build_executor(source, own)
    masked = tokenizer.ids_without_token(spec.vocab_size)
    return ModelDrafter(
        executor, blocks=blocks, block_size=settings.block_size, vocab_size=spec.vocab_size, masked=masked
    )


def _check_tokens(name: str, tokenizer: Tokenizer, other: Tokenizer) -> None:
    mine, theirs = tokenizer.vocabulary(), other.vocabulary()
    if mine == theirs:
        return
    differ = min(one for one in mine.keys() | theirs.keys() if mine.get(one) != theirs.get(one))
    raise ConfigError(
        f"speculate={name}: its tokens aren't those of the model, the first that differs is {differ} "
        f"({mine.get(differ)!r:.60} and {theirs.get(differ)!r:.60}); name a model of the same vocabulary, or ngram"
    )
