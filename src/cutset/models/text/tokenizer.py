"""Text to token ids and back, from the files of a model directory.

The ids are those of transformers 5.23 (`AutoTokenizer.from_pretrained`), without importing it. What that does is said
where it is done: classes of tokenizers in tokenizer_kinds.py, added and named tokens in tokenizer_added.py.

What differs: a saved BPE dropout is switched off (equal texts get equal ids); `auto_map` is ignored (no code of a model
directory is ever run), `fix_mistral_regex` too; and `decode` leaves out special tokens that transformers prints because
a normaliser changes their text. The rules were read from its source; the tests compare.
"""

from __future__ import annotations

import operator
import re
from collections.abc import Iterable, Mapping, Sequence
from functools import cached_property
from pathlib import Path
from typing import TYPE_CHECKING, Any

import numpy as np
from numpy.typing import NDArray

from cutset.errors import RequestError, TokenizerError
from cutset.models.files.gguf_path import is_gguf
from cutset.models.text.incremental import DecodingSteps, IncrementalDecoder
from cutset.models.text.tokenizer_added import add_tokens, surround
from cutset.models.text.tokenizer_files import (
    MAX_JSON_BYTES,
    MAX_TEMPLATE_BYTES,
    chat_templates,
    from_rust,
    read_bytes,
    read_object,
)
from cutset.models.text.tokenizer_gguf import StoredTokenizer
from cutset.models.text.tokenizer_kinds import AS_STORED, DEFAULT_TOKENS, assemble, class_of, from_vocab_and_merges

if TYPE_CHECKING:
    import tokenizers

__all__ = ["MAX_JSON_BYTES", "MAX_TEMPLATE_BYTES", "Tokenizer"]

LONG_TEXT = 1024  # characters; what is shorter is done in a millisecond or two
# What `clean_up_tokenization_spaces` replaces, in this order.
CLEANUPS = [(f" {mark}", mark) for mark in ".?!,"]
CLEANUPS += [(" ' ", "'"), *((f" {end}", end) for end in ("n't", "'m", "'s", "'ve", "'re"))]


class Tokenizer:
    """A model's tokenizer. Safe to use from several threads.

    `vocab_size` counts the vocabulary and the added tokens (`len(tokenizer)` in transformers). It bounds no id: the ids
    may have gaps (`ids_without_token`), and then the largest lies beyond it. `special_ids` are those that `decode`
    leaves out, `special_texts` what they say. `special_tokens` maps `"bos_token"`, `"eos_token"` and whatever else the
    model names to their text, as chat templates want it. `chat_templates` maps names to sources, `chat_template` is the
    one called `"default"`.
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
        self._cleanups = CLEANUPS if clean_up_spaces else []
        with from_rust("the tokenizer can't be used"):
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
        self.special_texts = {token_id: self._added[token_id] for token_id in self.special_ids}
        self._special_texts = frozenset(self.special_texts.values())
        self._written: dict[int, str] = {}
        self.bos_token_id = self._id_of("bos_token")
        self.eos_token_id = self._id_of("eos_token")
        self.pad_token_id = self._id_of("pad_token")

    @classmethod
    def load(cls, directory: Path) -> Tokenizer:
        """Reads the tokenizer of a model directory in Hugging Face layout, or of a GGUF file.

        Raises:
            TokenizerError: a file is missing, malformed, too large or of a kind that needs converting first. The
                message names the file.
        """
        directory = Path(directory)
        if is_gguf(directory):
            return cls._of_gguf(directory)
        if not directory.is_dir():
            raise TokenizerError(f"{directory}: no such directory")
        config = read_object(directory / "tokenizer_config.json")
        model_config = read_object(directory / "config.json")
        stored_path = directory / "tokenizer.json"
        if stored_path.exists():
            data = read_bytes(stored_path, MAX_JSON_BYTES)
            kind = class_of(config, model_config, byte_level=b'"ByteLevel"' in data)
            with from_rust(f"{stored_path}: not a usable tokenizer"):
                import tokenizers

                stored = tokenizers.Tokenizer.from_buffer(data)
                if type(stored.model).__name__ != "BPE":
                    kind = AS_STORED
                backend = assemble(kind, stored, config)
            listed, padding = stored.get_added_tokens_decoder(), stored.padding
        else:
            listed, padding = {}, None
            kind = class_of(config, model_config, byte_level=False)
            backend = from_vocab_and_merges(directory, kind, config)

        with from_rust(f"{directory}: its special tokens can't be used"):
            defaults = {**({"pad_token": padding["pad_token"]} if padding else {}), **DEFAULT_TOKENS[kind]}
            named = add_tokens(backend, kind, directory, config, listed, defaults)
            if not stored_path.exists():
                surround(backend, named, config)
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
                chat_templates=chat_templates(directory, config),
                clean_up_spaces=clean_up,
            )
        except TokenizerError as error:
            raise TokenizerError(f"{directory}: {error}") from error

    @classmethod
    def _of_gguf(cls, path: Path) -> Tokenizer:
        stored = StoredTokenizer(path)
        backend = stored.build()
        try:
            return cls(backend, special_tokens=stored.special_tokens, chat_templates=stored.chat_templates)
        except TokenizerError as error:
            raise TokenizerError(f"{path}: {error}") from error

    @cached_property
    def longest_token(self) -> int:
        """Characters of the longest token, or more: a text has at least that share of its length in tokens."""
        return max(map(len, self._backend.get_vocab(with_added_tokens=True)), default=1)

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
            with from_rust("the tokenizer failed on a text"):
                if len(text) <= LONG_TEXT:
                    found = self._backend.encode(text, add_special_tokens=add_special_tokens)
                else:  # of the two only this one lets other threads run meanwhile
                    found = self._backend.encode_batch([text], add_special_tokens=add_special_tokens)[0]
                return np.array(found.ids, dtype=np.int32)
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
        with from_rust("the tokenizer failed to decode"):
            text = self._backend.decode(known, skip_special_tokens=skip_special_tokens)
        for old, new in self._cleanups:
            text = text.replace(old, new)
        return text

    def incremental(self, *, skip_special_tokens: bool = True) -> IncrementalDecoder:
        """Decodes one text while its tokens come; the pieces are what `decode` says of all of them."""
        written, read = self._written.get, self._read
        hidden = self.special_ids if skip_special_tokens else frozenset[int]()
        alike = self._special_texts if skip_special_tokens else frozenset[str]()  # Rust knows them by their text

        def texts(ids: Iterable[int]) -> list[str]:
            found = [written(token_id) or read(token_id) for token_id in ids if token_id not in hidden]
            return [text for text in found if text not in alike]

        return IncrementalDecoder(self._steps, texts)

    def token_bytes(self, token_id: int) -> bytes | None:
        """The bytes that a token stands for; None where it stands for a text. They may be part of a character."""
        return self._steps.bytes_of(self._read(token_id))

    def written(self, count: int) -> list[bytes] | None:
        """What each of the first `count` ids adds to a text behind another token, b"" for ids that no token has; None
        where that depends on its neighbours. Special tokens are what they look like."""
        if not self._steps.additive:
            return None
        named, write = self._backend.id_to_token, self._steps.written
        texts = (named(token_id) for token_id in range(count))
        found = [b"" if text is None else write(text) for text in texts]
        for token_id in self.special_ids:
            if token_id < count:
                found[token_id] = self._added[token_id].encode()
        return found

    def piece(self, token_id: int) -> bytes:
        """What a token adds to a text behind another one; the token itself where that depends on its neighbours, and of
        special tokens. Raises RequestError for an id that no token has."""
        if token_id in self.special_ids or not self._steps.additive:
            return self.token(token_id).encode()
        return self._steps.written(self._read(token_id))

    def ids_without_token(self, count: int) -> NDArray[np.int32]:
        """The ids (ids,) below `count` that no token has, ascending: the gaps of a vocabulary, and what pads it."""
        named, added = self._backend.id_to_token, self._added
        return np.array([one for one in range(count) if named(one) is None and one not in added], dtype=np.int32)

    def vocabulary(self) -> dict[int, str]:
        """The token of each id."""
        return {token_id: token for token, token_id in self._backend.get_vocab(with_added_tokens=True).items()}

    def token(self, token_id: int) -> str:
        """The token of an id as it is in the vocabulary, e.g. `▁the` or `<0x0A>`; RequestError if there is none."""
        text = self._backend.id_to_token(token_id) if 0 <= token_id < 2**32 else None
        text = self._added.get(token_id, text)  # Rust gives the normalised text of an added token
        if text is None:
            raise RequestError(f"token id {token_id} isn't in the vocabulary of {self.vocab_size} tokens")
        return text

    @cached_property
    def _steps(self) -> DecodingSteps:
        return DecodingSteps(self._backend.decoder, self._cleanups)

    def _read(self, token_id: int) -> str:
        """A token as the library's decoders get it."""
        self.token(token_id)
        text = self._written[token_id] = str(self._backend.id_to_token(token_id))
        return text

    def _known(self, token_id: int) -> int:
        self.token(token_id)
        return token_id

    def _id_of(self, name: str) -> int | None:
        text = self.special_tokens.get(name)
        return None if text is None else self._backend.token_to_id(text)


def _as_ints(ids: Sequence[int] | NDArray[Any]) -> list[int]:
    if isinstance(ids, np.ndarray):
        if ids.ndim != 1 or (ids.dtype.kind not in "iu" and ids.size):
            raise RequestError(f"token ids must be one-dimensional and integer, not {ids.dtype} of shape {ids.shape}")
        return [int(token_id) for token_id in ids.tolist()]
    try:
        return [operator.index(token_id) for token_id in ids]
    except TypeError as error:
        raise RequestError(f"token ids must be a sequence of integers: {error}") from error
