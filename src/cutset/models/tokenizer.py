"""Text to token ids and back, from the files of a model directory.

The ids are those of transformers 5.23 (`AutoTokenizer.from_pretrained`), without importing it. What that does:

- It picks a class by `tokenizer_class` and `model_type`. `LlamaTokenizer` and `Qwen2Tokenizer` take vocabulary, merges,
  added tokens and post-processor from tokenizer.json, and bring their own normaliser, splitting and decoder; under any
  other name tokenizer.json is used as it stands. (transformers has more such classes, for families that Cutset
  doesn't run; and `GPT2Tokenizer`, which loses the digit splitting of models such as SmolLM. Those stay as stored.)
- `add_bos_token` and `add_eos_token` count only where there is no tokenizer.json; otherwise its post-processor alone
  says what is added.
- special_tokens_map.json counts only where tokenizer_config.json lists no `added_tokens_decoder`.
- Special tokens that the files name but the vocabulary lacks get new ids at its end.

What differs: a saved BPE dropout is switched off (equal texts get equal ids); `auto_map` is ignored (no code of a model
directory is ever run), `fix_mistral_regex` too; and `decode` leaves out special tokens that transformers prints because
a normaliser changes their text. The rules were read from its source; the tests compare.
"""

from __future__ import annotations

import json
import operator
import re
from collections.abc import Iterator, Mapping, Sequence
from contextlib import contextmanager
from pathlib import Path
from typing import TYPE_CHECKING, Any

import numpy as np
from numpy.typing import NDArray

from cutset.errors import CutsetError, RequestError, TokenizerError

if TYPE_CHECKING:
    import tokenizers
    from tokenizers import AddedToken

__all__ = ["MAX_JSON_BYTES", "MAX_TEMPLATE_BYTES", "Tokenizer"]

MAX_JSON_BYTES = 64 << 20  # of each JSON file; the largest tokenizer.json in use have about 35 MB
MAX_TEMPLATE_BYTES = 1 << 20

_AS_STORED, _LLAMA, _QWEN2 = "TokenizersBackend", "LlamaTokenizer", "Qwen2Tokenizer"
# The class that transformers registers for a model_type; llama has none.
_REGISTERED = {
    "mistral": _AS_STORED,
    "mixtral": _AS_STORED,
    "qwen2": _QWEN2,
    "qwen2_moe": _QWEN2,
    "qwen3": _QWEN2,
    "qwen3_moe": _QWEN2,
}
_NAMES = ("bos_token", "eos_token", "unk_token", "sep_token", "pad_token", "cls_token", "mask_token")
_TOKEN_FLAGS = ("single_word", "lstrip", "rstrip", "normalized", "special")
_DEFAULT_TOKENS = {
    _AS_STORED: {},
    _LLAMA: {"unk_token": "<unk>", "bos_token": "<s>", "eos_token": "</s>"},
    _QWEN2: {"unk_token": "<|endoftext|>", "eos_token": "<|endoftext|>", "pad_token": "<|endoftext|>"},
}
_QWEN2_WORDS = (
    r"(?i:'s|'t|'re|'ve|'m|'ll|'d)|[^\r\n\p{L}\p{N}]?\p{L}+|\p{N}| ?[^\s\p{L}\p{N}]+[\r\n]*|\s*[\r\n]+|\s+(?!\S)|\s+"
)
_SENTENCEPIECE_FILES = ("tokenizer.model", "spiece.model", "sentencepiece.bpe.model")


class Tokenizer:
    """A model's tokenizer. Safe to use from several threads.

    `vocab_size` counts the vocabulary and the added tokens (`len(tokenizer)` in transformers); where the ids have
    gaps, the largest lies beyond it. `special_ids` are those that `decode` leaves out. `special_tokens` maps
    `"bos_token"`, `"eos_token"` and whatever else the model names to their text, as chat templates want it.
    `chat_templates` maps names to sources, `chat_template` is the one called `"default"`.
    """

    def __init__(
        self,
        backend: tokenizers.Tokenizer,
        *,
        special_tokens: Mapping[str, str] | None = None,
        chat_templates: Mapping[str, str] | None = None,
        clean_up_spaces: bool = False,
    ) -> None:
        """Takes over `backend` (and switches off its truncation and padding); `load` is the usual way in."""
        self.special_tokens = dict(special_tokens or {})
        self.chat_templates = dict(chat_templates or {})
        self._backend = backend
        self._clean_up_spaces = clean_up_spaces
        with _from_rust("the tokenizer can't be used"):
            backend.no_truncation()
            backend.no_padding()
            self.vocab_size = backend.get_vocab_size(with_added_tokens=True)
            added = backend.get_added_tokens_decoder()
            # A post-processor names its ids itself, so they may be anything.
            for token_id in backend.encode("").ids:
                if token_id >= 2**31 or backend.id_to_token(token_id) is None:
                    raise TokenizerError(f"the tokenizer's post-processor adds token {token_id}, which doesn't exist")
        self._added = {token_id: token.content for token_id, token in added.items()}
        self.special_ids = frozenset(token_id for token_id, token in added.items() if token.special)
        self.bos_token_id = self._id_of("bos_token")
        self.eos_token_id = self._id_of("eos_token")
        self.pad_token_id = self._id_of("pad_token")

    @classmethod
    def load(cls, directory: Path) -> Tokenizer:
        """Reads the tokenizer of a model directory in Hugging Face layout.

        Raises:
            TokenizerError: a file is missing, malformed, too large or of a kind that needs converting first. The
                message names the file.
        """
        directory = Path(directory)
        if not directory.is_dir():
            raise TokenizerError(f"{directory}: no such directory")
        config = _read_object(directory / "tokenizer_config.json")
        model_config = _read_object(directory / "config.json")
        stored_path = directory / "tokenizer.json"
        if stored_path.exists():
            data = _read_bytes(stored_path, MAX_JSON_BYTES)
            kind = _class_of(config, model_config, byte_level=b'"ByteLevel"' in data)
            with _from_rust(f"{stored_path}: not a usable tokenizer"):
                import tokenizers

                stored = tokenizers.Tokenizer.from_buffer(data)
                if type(stored.model).__name__ != "BPE":
                    kind = _AS_STORED
                backend = _assemble(kind, stored, config)
            listed, padding = stored.get_added_tokens_decoder(), stored.padding
        else:
            listed, padding = {}, None
            kind = _class_of(config, model_config, byte_level=False)
            backend = _from_vocab_and_merges(directory, kind, config)

        with _from_rust(f"{directory}: its special tokens can't be used"):
            defaults = {**({"pad_token": padding["pad_token"]} if padding else {}), **_DEFAULT_TOKENS[kind]}
            named = _add_tokens(backend, kind, directory, config, listed, defaults)
            if not stored_path.exists():
                _surround(backend, named, config)
            backend.encode_special_tokens = config.get("split_special_tokens", False) is True
        # Cleaning up takes spaces that belong to the text away from BPE tokenizers, so transformers skips it there.
        clean_up = config.get("clean_up_tokenization_spaces") is True and (
            type(backend.model).__name__ != "BPE"
            or config.get("clean_up_tokenization_spaces_for_bpe_even_though_it_will_corrupt_output") is True
        )
        try:
            return cls(
                backend,
                special_tokens=named,
                chat_templates=_chat_templates(directory, config),
                clean_up_spaces=clean_up,
            )
        except TokenizerError as error:
            raise TokenizerError(f"{directory}: {error}") from error

    @property
    def chat_template(self) -> str | None:
        """Source of the model's chat template; None if it has none, or several without a default."""
        return self.chat_templates.get("default")

    def encode(self, text: str, *, add_special_tokens: bool = True) -> NDArray[np.int32]:
        """Token ids (tokens,) of a text.

        `add_special_tokens` adds what the model expects around a text, often a beginning-of-sequence token. Special
        tokens written out in the text become their ids either way. A rendered chat template has its own, so encode
        that with False.

        Raises:
            RequestError: `text` is not a str, or no valid Unicode.
        """
        if not isinstance(text, str):
            raise RequestError(f"a text to encode must be a str, not {type(text).__name__}")
        try:
            with _from_rust("the tokenizer failed on a text"):
                return np.array(self._backend.encode(text, add_special_tokens=add_special_tokens).ids, dtype=np.int32)
        except TokenizerError as error:
            # Rust has no strings with surrogates; looked for only here because looking costs a pass over the text.
            if surrogate := re.search("[\ud800-\udfff]", text):
                raise RequestError(
                    f"the text has half of a surrogate pair (U+{ord(surrogate[0]):04X}) at character "
                    f"{surrogate.start()}: it isn't valid Unicode"
                ) from error
            raise

    def decode(self, ids: Sequence[int] | NDArray[Any], *, skip_special_tokens: bool = True) -> str:
        """Text of token ids (tokens,).

        Bytes that are no complete character become U+FFFD, at the end too: text that is still being generated needs
        its last characters held back.

        Raises:
            RequestError: an id that isn't in the vocabulary, or something that is no list of ids.
        """
        known = [self._known(token_id) for token_id in _as_ints(ids)]
        if skip_special_tokens:
            # Rust knows them by their normalised text, and so misses some: `▁<s>` isn't `<s>`.
            known = [token_id for token_id in known if token_id not in self.special_ids]
        with _from_rust("the tokenizer failed to decode"):
            text = self._backend.decode(known, skip_special_tokens=skip_special_tokens)
        return _without_spaces(text) if self._clean_up_spaces else text

    def token(self, token_id: int) -> str:
        """The token of an id as it is in the vocabulary, e.g. `▁the` or `<0x0A>`; RequestError if there is none."""
        text = self._backend.id_to_token(token_id) if 0 <= token_id < 2**32 else None
        text = self._added.get(token_id, text)  # Rust gives the normalised text of an added token
        if text is None:
            raise RequestError(f"token id {token_id} isn't in the vocabulary of {self.vocab_size} tokens")
        return text

    def _known(self, token_id: int) -> int:
        self.token(token_id)
        return token_id

    def _id_of(self, name: str) -> int | None:
        text = self.special_tokens.get(name)
        return None if text is None else self._backend.token_to_id(text)


def _class_of(config: Mapping[str, Any], model_config: Mapping[str, Any], *, byte_level: bool) -> str:
    """Which class transformers 5.23 gives the tokenizer: `_LLAMA`, `_QWEN2`, or `_AS_STORED` for every other."""
    declared = config.get("tokenizer_class") or model_config.get("tokenizer_class")
    if declared is not None and not isinstance(declared, str):
        raise TokenizerError(f"tokenizer_config.json: tokenizer_class must be a string, not {declared!r:.40}")
    declared = declared and declared.removesuffix("Fast")
    model_type = str(model_config.get("model_type"))
    registered = _REGISTERED.get(model_type)
    if declared == _LLAMA and byte_level and model_type != "qwen2":
        return _AS_STORED  # Llama 3 under Llama 2's name
    if declared and registered and declared != registered:
        # For qwen2 the directory's word is known to be often wrong, so the registered class wins.
        declared = registered if registered == _AS_STORED or model_type == "qwen2" else declared
    kind = declared or registered
    return kind if kind in (_LLAMA, _QWEN2) else _AS_STORED


def _assemble(kind: str, stored: tokenizers.Tokenizer, config: Mapping[str, Any]) -> tokenizers.Tokenizer:
    """The tokenizer of tokenizer.json the way class `kind` runs it."""
    import tokenizers

    model: Any = stored.model
    if type(model).__name__ == "BPE":
        model.dropout = None
    if kind == _AS_STORED:
        return stored
    model.unk_token = model.continuing_subword_prefix = model.end_of_word_suffix = None
    model.fuse_unk = model.byte_fallback = kind == _LLAMA
    model.ignore_merges = False
    backend = tokenizers.Tokenizer(model)
    (_dress_llama if kind == _LLAMA else _dress_qwen2)(backend, config)
    if stored.post_processor is not None:
        backend.post_processor = stored.post_processor
    return backend


def _dress_llama(backend: tokenizers.Tokenizer, config: Mapping[str, Any]) -> None:
    from tokenizers import decoders, pre_tokenizers

    prefixed = config.get("add_prefix_space")
    prefixed = True if prefixed is None else bool(prefixed)
    scheme = "never" if not prefixed else "always" if config.get("legacy") else "first"
    backend.pre_tokenizer = pre_tokenizers.Metaspace(replacement="▁", prepend_scheme=scheme, split=False)
    steps = [decoders.Replace("▁", " "), decoders.ByteFallback(), decoders.Fuse()]
    backend.decoder = decoders.Sequence(steps + ([decoders.Strip(content=" ", left=1)] if prefixed else []))


def _dress_qwen2(backend: tokenizers.Tokenizer, config: Mapping[str, Any]) -> None:
    from tokenizers import Regex, decoders, normalizers, pre_tokenizers

    words = pre_tokenizers.Split(Regex(_QWEN2_WORDS), behavior="isolated", invert=False)
    letters = pre_tokenizers.ByteLevel(add_prefix_space=bool(config.get("add_prefix_space")), use_regex=False)
    backend.normalizer = normalizers.NFC()
    backend.pre_tokenizer = pre_tokenizers.Sequence([words, letters])
    backend.decoder = decoders.ByteLevel()


def _from_vocab_and_merges(directory: Path, kind: str, config: Mapping[str, Any]) -> tokenizers.Tokenizer:
    """A tokenizer for a directory without tokenizer.json; or the error that says how to get one."""
    vocab, merges = directory / "vocab.json", directory / "merges.txt"
    has_both = vocab.exists() and merges.exists()
    if not has_both or kind != _QWEN2:
        convert = (
            f'python -c "from transformers import AutoTokenizer as T; '
            f"T.from_pretrained('{directory}').save_pretrained('{directory}')\""
        )
        for name in _SENTENCEPIECE_FILES:
            if (directory / name).exists():
                raise TokenizerError(
                    f"{directory}: has {name} but no tokenizer.json. Convert it once, with transformers, "
                    f"sentencepiece and protobuf installed: {convert}"
                )
        if has_both:
            raise TokenizerError(
                f"{directory}: has vocab.json and merges.txt but no tokenizer.json, and is no Qwen tokenizer. "
                f"Convert it once, with transformers installed: {convert}"
            )
        raise TokenizerError(f"{directory}: no tokenizer.json")
    for path in (vocab, merges):
        _check_file(path, MAX_JSON_BYTES)
    with _from_rust(f"{vocab} and {merges.name}: not a usable vocabulary"):
        import tokenizers
        from tokenizers.models import BPE

        backend = tokenizers.Tokenizer(BPE.from_file(str(vocab), str(merges)))
        _dress_qwen2(backend, config)
    return backend


def _surround(backend: tokenizers.Tokenizer, named: Mapping[str, str], config: Mapping[str, Any]) -> None:
    """Adds beginning- and end-of-sequence tokens where tokenizer_config.json asks for them."""
    from tokenizers.processors import TemplateProcessing

    bos = named.get("bos_token") if config.get("add_bos_token") else None
    eos = named.get("eos_token") if config.get("add_eos_token") else None
    added = [(token, backend.token_to_id(token)) for token in (bos, eos) if token is not None]
    if added:
        single = [*([bos] if bos is not None else []), "$A", *([eos] if eos is not None else [])]
        backend.post_processor = TemplateProcessing(single=single, pair=None, special_tokens=added)


def _add_tokens(
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
        for key, value in _object(config["added_tokens_decoder"], "added_tokens_decoder").items():
            listed[int(key)] = _added_token(value, f"added_tokens_decoder[{key}]")
    else:
        for key, value in _read_object(directory / "special_tokens_map.json").items():
            if key == "extra_special_tokens" and isinstance(value, list):
                value = [*(config.get(key) or []), *value]
            config[key] = {**value, "special": True} if isinstance(value, dict) and "content" in value else value
        special = {_text_of(config[name], name) for name in _NAMES if config.get(name)}
        for text, token_id in _read_object(directory / "added_tokens.json").items():
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
    if kind == _QWEN2:
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
    token = _object(value, where)
    flags = {name: token[name] for name in _TOKEN_FLAGS if name in token}
    if not isinstance(token.get("content"), str) or not all(isinstance(flag, bool) for flag in flags.values()):
        raise ValueError(f"{where} is no description of a token")
    return AddedToken(token["content"], **flags)


def _chat_templates(directory: Path, config: Mapping[str, Any]) -> dict[str, str]:
    """Sources by name: files before tokenizer_config.json, that before the older chat_template.json."""
    files = {"default": directory / "chat_template.jinja"} if (directory / "chat_template.jinja").exists() else {}
    files |= {path.stem: path for path in sorted((directory / "additional_chat_templates").glob("*.jinja"))}
    if files:
        return {name: _read_text(path, MAX_TEMPLATE_BYTES) for name, path in files.items()}
    where = "tokenizer_config.json"
    value = config.get("chat_template")
    if value is None:
        where = "chat_template.json"
        value = _read_object(directory / where).get("chat_template")
    if value is None:
        return {}
    if isinstance(value, list) and all(isinstance(entry, dict) for entry in value):
        value = {entry.get("name"): entry.get("template") for entry in value}
    templates = value if isinstance(value, dict) else {"default": value}
    if not all(isinstance(part, str) for entry in templates.items() for part in entry):
        raise TokenizerError(f"{where}: chat_template is neither a string nor a list of names and templates")
    if any(len(source) > MAX_TEMPLATE_BYTES for source in templates.values()):
        raise TokenizerError(f"{where}: chat_template is larger than {MAX_TEMPLATE_BYTES >> 20} MiB")
    return templates


def _as_ints(ids: Sequence[int] | NDArray[Any]) -> list[int]:
    if isinstance(ids, np.ndarray):
        if ids.ndim != 1 or (ids.dtype.kind not in "iu" and ids.size):
            raise RequestError(f"token ids must be one-dimensional and integer, not {ids.dtype} of shape {ids.shape}")
        return [int(token_id) for token_id in ids.tolist()]
    try:
        return [operator.index(token_id) for token_id in ids]
    except TypeError as error:
        raise RequestError(f"token ids must be a sequence of integers: {error}") from error


def _without_spaces(text: str) -> str:
    for after in (".", "?", "!", ","):
        text = text.replace(" " + after, after)
    text = text.replace(" ' ", "'")
    for after in ("n't", "'m", "'s", "'ve", "'re"):
        text = text.replace(" " + after, after)
    return text


def _object(value: object, where: str) -> dict[str, Any]:
    if not isinstance(value, dict):
        raise ValueError(f"{where} must be a JSON object, not {type(value).__name__}")
    return value


def _read_object(path: Path) -> dict[str, Any]:
    """The JSON object in a file; empty if there is no such file."""
    if not path.exists():
        return {}
    try:
        return _object(json.loads(_read_text(path, MAX_JSON_BYTES)), "the file")
    except (ValueError, RecursionError) as error:
        raise TokenizerError(f"{path}: malformed: {_one_line(error)}") from error


def _read_text(path: Path, limit: int) -> str:
    try:
        return _read_bytes(path, limit).decode("utf-8")
    except UnicodeDecodeError as error:
        raise TokenizerError(f"{path}: not UTF-8: {_one_line(error)}") from error


def _read_bytes(path: Path, limit: int) -> bytes:
    _check_file(path, limit)
    try:
        with path.open("rb") as file:
            return file.read(limit)
    except OSError as error:
        raise TokenizerError(f"{path}: {error.strerror}") from error


def _check_file(path: Path, limit: int) -> None:
    if not path.is_file():
        raise TokenizerError(f"{path}: not a file")
    if path.stat().st_size > limit:
        raise TokenizerError(f"{path}: larger than {limit >> 20} MiB")


@contextmanager
def _from_rust(what: str) -> Iterator[None]:
    """Turns what the tokenizers library raises into a TokenizerError."""
    try:
        yield
    except (CutsetError, MemoryError):
        raise
    except BaseException as error:
        # A panic in Rust arrives as a PanicException, which is no Exception.
        if not isinstance(error, Exception) and type(error).__name__ != "PanicException":
            raise
        raise TokenizerError(f"{what}: {_one_line(error)}") from error


def _one_line(error: BaseException) -> str:
    return " ".join(str(error).split())[:200]
