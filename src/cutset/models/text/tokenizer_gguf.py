"""The tokenizer in a GGUF file's metadata: its vocabulary, merges or scores, special tokens and chat templates.

The file names how texts are cut into words before merges (`tokenizer.ggml.pre`); what the names mean is in llama.cpp
alone (src/llama-vocab.cpp), and in splits.py here. What files leave out is what llama.cpp takes it for.
"""

from __future__ import annotations

import difflib
import json
import logging
import re
from functools import cached_property
from pathlib import Path
from typing import TYPE_CHECKING, Any

import numpy as np
from numpy.typing import NDArray

from cutset.errors import TokenizerError
from cutset.models.files.gguf import Strings, read_gguf
from cutset.models.text.gguf_splits import SPLITS, Words
from cutset.models.text.tokenizer_added import surround
from cutset.models.text.tokenizer_files import MAX_TEMPLATE_BYTES, from_rust
from cutset.models.text.tokenizer_kinds import DRESSES, GEMMA, LLAMA

if TYPE_CHECKING:
    import tokenizers

__all__ = ["StoredTokenizer"]

log = logging.getLogger(__name__)

PREFIX = "tokenizer.ggml."
UNKNOWN, CONTROL, USER_DEFINED, UNUSED = 2, 3, 4, 5
GEMMAS = ("gemma", "gemma2", "gemma3")
PHI3 = "phi3"
NAMED = {"bos": "bos", "eos": "eos", "unk": "unknown", "sep": "seperator", "pad": "padding", "mask": "mask"}
USUAL = {"llama": {"bos": 1, "eos": 2, "unk": 0}}  # ids of tokens that a file doesn't name
PLACEHOLDER = re.compile(r"\[PAD\d+\]")
KINDS = ("gpt2", "llama")
Vocabulary = dict[str, int]
Pair = tuple[str, str]
Merges = list[Pair]


class StoredTokenizer:
    """What a file says of its tokenizer. Raises TokenizerError for what is missing, malformed or not known."""

    def __init__(self, path: Path) -> None:
        file = read_gguf(path)
        self.path, self._metadata = path, file.metadata
        self.architecture = str(file.metadata.get("general.architecture"))
        self.kind = self._text("model")
        if self.kind not in KINDS:
            raise self._wrong(f"unknown tokenizer.ggml.model {self.kind!r:.60}; known are {', '.join(KINDS)}")
        self.tokens = self._strings("tokens")
        kinds = self._metadata.get(PREFIX + "token_type")
        self._kinds = self._numbers(kinds, "token_type") if kinds is not None else np.ones(len(self.tokens), np.int32)
        self.special_tokens = self._named()

    def _wrong(self, what: str) -> TokenizerError:
        return TokenizerError(f"{self.path}: {what}")

    def _text(self, key: str, default: str | None = None) -> str:
        value = self._metadata.get(PREFIX + key, default)
        if not isinstance(value, str):
            raise self._wrong(f"{PREFIX}{key} is missing or no text: the file has no tokenizer that can be used")
        return value

    def _flag(self, key: str, default: bool) -> bool:
        value = self._metadata.get(PREFIX + key, default)
        if not isinstance(value, bool):
            raise self._wrong(f"{PREFIX}{key} must be true or false, not {value!r:.40}")
        return value

    def _strings(self, key: str) -> list[str]:
        value = self._metadata.get(PREFIX + key)
        if not isinstance(value, Strings) or not len(value):
            raise self._wrong(f"{PREFIX}{key} is missing or no list of texts")
        try:
            return [text.decode() for text in value]
        except UnicodeDecodeError:
            raise self._wrong(f"{PREFIX}{key} has a text that is not UTF-8") from None

    def _numbers(self, value: object, key: str) -> NDArray[Any]:
        if not isinstance(value, np.ndarray) or value.dtype.kind not in "iuf" or len(value) != len(self.tokens):
            raise self._wrong(f"{PREFIX}{key} must have a number for each of {len(self.tokens):,} tokens")
        return value

    def _named(self) -> dict[str, str]:
        found = {}
        for name, theirs in NAMED.items():
            key = f"{PREFIX}{theirs}_token_id"
            token_id = self._metadata.get(key, USUAL.get(self.kind, {}).get(name))
            if token_id is None:
                continue
            if isinstance(token_id, bool) or not isinstance(token_id, int) or not 0 <= token_id < 1 << 32:
                raise self._wrong(f"{key} must be the id of a token, not {token_id!r:.40}")
            if token_id < len(self.tokens):  # some files name one beyond, for none
                found[f"{name}_token"] = self.tokens[token_id]
        return found

    @property
    def chat_templates(self) -> dict[str, str]:
        """Sources by name; the usual one is called `default`."""
        keys = {"default": "tokenizer.chat_template"}
        prefix = keys["default"] + "."
        keys |= {key.removeprefix(prefix): key for key in self._metadata if key.startswith(prefix)}
        found = {name: self._metadata[key] for name, key in keys.items() if key in self._metadata}
        for name, source in found.items():
            if not isinstance(source, str) or len(source) > MAX_TEMPLATE_BYTES:
                raise self._wrong(f"{keys[name]} must be a text of at most {MAX_TEMPLATE_BYTES >> 20} MiB")
        return found

    @cached_property
    def words(self) -> Words:
        """How a byte-level tokenizer cuts texts into words."""
        if PREFIX + "pre" not in self._metadata:
            log.warning(
                "%s doesn't say how its tokenizer cuts texts into words (tokenizer.ggml.pre): answers may suffer",
                self.path,
            )
        name = self._text("pre", "default")
        if name not in SPLITS:
            nearest = ", ".join(difflib.get_close_matches(name[:80], SPLITS, 3, 0))
            raise self._wrong(f"unknown tokenizer.ggml.pre {name!r:.60}; the nearest known are {nearest}")
        return SPLITS[name]

    def build(self) -> tokenizers.Tokenizer:
        """The tokenizer, with its added tokens and what it puts around a text."""
        with from_rust(f"{self.path}: its tokenizer can't be used"):
            return self._built()

    def _built(self) -> tokenizers.Tokenizer:
        backend = self._byte_level() if self.kind == "gpt2" else self._sentencepiece()
        self._add_tokens(backend)
        begins = self.kind == "llama" or self.words.begins
        around = {
            "add_bos_token": self._flag("add_bos_token", begins),
            "add_eos_token": self._flag("add_eos_token", False),
        }
        surround(backend, self.special_tokens, around)
        return backend

    def _vocabulary(self, tokens: list[str]) -> Vocabulary:
        vocabulary: Vocabulary = {}
        for token_id, token in enumerate(tokens):
            if self._kinds[token_id] == UNUSED and PLACEHOLDER.fullmatch(token):
                continue  # ids that the model has and no text: the file must name them
            if token in vocabulary:
                raise self._wrong(f"the token {token!r:.60} has two ids, {vocabulary[token]} and {token_id}")
            vocabulary[token] = token_id
        return vocabulary

    def _stored_merges(self) -> Merges:
        merges: Merges = []
        for merge in self._strings("merges"):
            left, _, right = merge[1:].partition(" ")  # a piece may be a space, in files of long ago
            if not right:
                raise self._wrong(f"the merge {merge!r:.60} has no two parts")
            merges.append((merge[0] + left, right))
        return merges

    def _byte_level(self) -> tokenizers.Tokenizer:
        import tokenizers
        from tokenizers import Regex, decoders, normalizers, pre_tokenizers
        from tokenizers.models import BPE

        words = self.words
        model = BPE(self._vocabulary(self.tokens), self._stored_merges(), ignore_merges=words.whole)
        backend = tokenizers.Tokenizer(model)
        if words.composed:
            backend.normalizer = normalizers.NFC()
        steps = [pre_tokenizers.Split(Regex(split), "isolated") for split in words.splits]
        letters = pre_tokenizers.ByteLevel(add_prefix_space=self._flag("add_space_prefix", False), use_regex=False)
        backend.pre_tokenizer = pre_tokenizers.Sequence([*steps, letters])
        backend.decoder = decoders.ByteLevel()
        return backend

    def _sentencepiece(self) -> tokenizers.Tokenizer:
        import tokenizers
        from tokenizers import normalizers
        from tokenizers.models import BPE

        tokens, gemma = self.tokens, self.architecture in GEMMAS
        if gemma:  # runs of spaces are spelled as they are there, but as every space is in the model
            tokens = ["▁" * len(token) if token and not token.strip(" ") else token for token in tokens]
        vocabulary = self._vocabulary(tokens)
        if self._metadata.get(PREFIX + "merges") is not None:
            merges = self._stored_merges()
        else:
            merges = self._implied_merges(vocabulary, in_order=gemma)
        unknown = self.special_tokens.get("unk_token") if gemma else None
        model = BPE(vocabulary, merges, unk_token=unknown, fuse_unk=True, byte_fallback=True)
        backend = tokenizers.Tokenizer(model)
        DRESSES[GEMMA if gemma else LLAMA](backend, {"add_prefix_space": self._flag("add_space_prefix", True)})
        if self.architecture == PHI3:  # whose own tokenizer puts the space before a text in another way
            backend.normalizer = normalizers.Sequence([normalizers.Prepend("▁"), normalizers.Replace(" ", "▁")])
            backend.pre_tokenizer = None
        return backend

    def _implied_merges(self, vocabulary: Vocabulary, *, in_order: bool) -> Merges:
        """SentencePiece merges the two neighbours whose joint piece has the highest score. Of Gemma's vocabulary the
        order counts, not the scores."""
        found: list[tuple[float, int, int, Pair]] = []
        scores = None if in_order else self._numbers(self._metadata.get(PREFIX + "scores"), "scores").tolist()
        for token, token_id in vocabulary.items():
            size, score = len(token), 0.0 if scores is None else scores[token_id]
            for at in range(size - 1, 0, -1):  # of equal ones first those whose left piece is longer
                pair = token[:at], token[at:]
                if pair[0] in vocabulary and pair[1] in vocabulary:
                    found.append((-score, -at, at - size, pair))
        if not in_order:
            found.sort(key=lambda one: one[:3])
        return [pair for *_, pair in found]

    def _add_tokens(self, backend: tokenizers.Tokenizer) -> None:
        """Control tokens are special; users' own are matched whole, but are text."""
        from tokenizers import AddedToken

        named = set(self.special_tokens.values())
        for token_id in np.flatnonzero(np.isin(self._kinds, (UNKNOWN, CONTROL, USER_DEFINED))).tolist():
            token, kind = self.tokens[token_id], self._kinds[token_id]
            special = kind == CONTROL or token in named
            if token and backend.token_to_id(token) == token_id and (special or kind == USER_DEFINED):
                added = AddedToken(token, normalized=False, special=special)
                (backend.add_special_tokens if special else backend.add_tokens)([added])

    def write(self, directory: Path) -> None:
        """Writes what a directory in Hugging Face layout has of a tokenizer."""
        backend = self.build()
        templates = self.chat_templates
        config: dict[str, Any] = {"tokenizer_class": "PreTrainedTokenizerFast", **self.special_tokens}
        if list(templates) == ["default"]:
            config["chat_template"] = templates["default"]
        elif templates:
            config["chat_template"] = [{"name": name, "template": source} for name, source in templates.items()]
        (directory / "tokenizer.json").write_text(backend.to_str(), encoding="utf-8")
        text = json.dumps(config, indent=2, ensure_ascii=False) + "\n"
        (directory / "tokenizer_config.json").write_text(text, encoding="utf-8")
