"""The tokens that a directory's files add to a vocabulary, and those that have a name.

As transformers 5.23 has it:

- `add_bos_token` and `add_eos_token` count only where there is no tokenizer.json; otherwise its post-processor alone
  says what is added.
- special_tokens_map.json counts only where tokenizer_config.json lists no `added_tokens_decoder`.
- Special tokens that the files name but the vocabulary lacks get new ids at its end.
"""

from __future__ import annotations

from collections.abc import Mapping
from pathlib import Path
from typing import TYPE_CHECKING, Any

from cutset.models.text.tokenizer_files import json_object, read_object
from cutset.models.text.tokenizer_kinds import QWEN2

if TYPE_CHECKING:
    import tokenizers
    from tokenizers import AddedToken

__all__ = ["add_tokens", "surround"]

_NAMES = ("bos_token", "eos_token", "unk_token", "sep_token", "pad_token", "cls_token", "mask_token")
_TOKEN_FLAGS = ("single_word", "lstrip", "rstrip", "normalized", "special")


def surround(backend: tokenizers.Tokenizer, named: Mapping[str, str], config: Mapping[str, Any]) -> None:
    """Adds beginning- and end-of-sequence tokens where tokenizer_config.json asks for them."""
    from tokenizers.processors import TemplateProcessing

    bos = named.get("bos_token") if config.get("add_bos_token") else None
    eos = named.get("eos_token") if config.get("add_eos_token") else None
    added = [(token, backend.token_to_id(token)) for token in (bos, eos) if token is not None]
    if added:
        single = [*([bos] if bos is not None else []), "$A", *([eos] if eos is not None else [])]
        backend.post_processor = TemplateProcessing(single=single, pair=None, special_tokens=added)


def add_tokens(
    backend: tokenizers.Tokenizer,
    kind: str,
    directory: Path,
    config: Mapping[str, Any],
    stored: Mapping[int, AddedToken],
    defaults: Mapping[str, str],
) -> dict[str, str]:
    """Adds the tokens that the directory's files list, in transformers' order; gives the named ones by name.

    `stored` are the added tokens of tokenizer.json, `defaults` the named tokens where the files name none. The order
    decides the ids of tokens that the vocabulary lacks.
    """
    from tokenizers import AddedToken

    listed: dict[int, AddedToken] = {}
    config = dict(config)
    if not config.get("extra_special_tokens") and "additional_special_tokens" in config:
        config["extra_special_tokens"] = config.pop("additional_special_tokens")
    extra_named = _pop_extra_names(config)
    if "added_tokens_decoder" in config:
        for key, value in json_object(config["added_tokens_decoder"], "added_tokens_decoder").items():
            listed[int(key)] = _added_token(value, f"added_tokens_decoder[{key}]")
    else:
        for key, value in read_object(directory / "special_tokens_map.json").items():
            if key == "extra_special_tokens" and isinstance(value, list):
                value = [*(config.get(key) or []), *value]
            config[key] = {**value, "special": True} if isinstance(value, dict) and "content" in value else value
        special = {_text_of(config[name], name) for name in _NAMES if config.get(name)}
        for text, token_id in read_object(directory / "added_tokens.json").items():
            listed[int(token_id)] = AddedToken(text, normalized=text not in special, special=text in special)
        listed.update(stored)
        extra_named |= _pop_extra_names(config)

    by_text = {token.content: token for token in listed.values()}
    named: dict[str, AddedToken | str] = {}
    for name in _NAMES:
        value = config.get(name, defaults.get(name))
        if value is not None:
            named[name] = by_text.get(_text_of(value, name)) or _token(value, name)
    for name, value in config.items():
        if name.endswith("_token") and name not in _NAMES and isinstance(value, (str, dict)):
            named[name] = _token(value, name)
    named |= extra_named
    extra = config.get("extra_special_tokens", config.get("additional_special_tokens")) or []
    if not isinstance(extra, list):
        raise ValueError("extra_special_tokens is neither a list nor an object")
    all_special = [*named.values(), *(_token(value, "extra_special_tokens") for value in extra)]

    present = backend.get_added_tokens_decoder().values()
    shown = {repr(token) for token in present}
    new: list[AddedToken | str] = [token for _, token in sorted(listed.items()) if repr(token) not in shown]
    texts = {token.content for token in present} | {str(_text_of(token, "")) for token in new}
    new += [token for token in all_special if _text_of(token, "") not in texts]
    named_texts = {name: _text_of(token, name) for name, token in named.items()}
    for index, token in enumerate(new):
        if isinstance(token, str):
            new[index] = AddedToken(token, special=True)
        elif token.content in named_texts.values():
            token.special = True
    backend.add_tokens(new)
    if kind == QWEN2:
        backend.add_tokens([AddedToken(_text_of(token, ""), special=True) for token in all_special])
    return named_texts


def _pop_extra_names(config: dict[str, Any]) -> dict[str, AddedToken | str]:
    """Takes extra special tokens that have names out of the configuration."""
    if not isinstance(config.get("extra_special_tokens"), dict):
        return {}
    return {name: _token(value, name) for name, value in config.pop("extra_special_tokens").items()}


def _token(value: object, where: str) -> AddedToken | str:
    return value if isinstance(value, str) else _added_token(value, where)


def _text_of(value: object, where: str) -> str:
    """The text of a token in any of its forms."""
    return value if isinstance(value, str) else _added_token(value, where).content


def _added_token(value: object, where: str) -> AddedToken:
    """A token from the form that JSON gives it: {"content": "<s>", "lstrip": false, …}."""
    from tokenizers import AddedToken

    if isinstance(value, AddedToken):
        return value
    token = json_object(value, where)
    flags = {name: token[name] for name in _TOKEN_FLAGS if name in token}
    if not isinstance(token.get("content"), str) or not all(isinstance(flag, bool) for flag in flags.values()):
        raise ValueError(f"{where} is no description of a token")
    return AddedToken(token["content"], **flags)
