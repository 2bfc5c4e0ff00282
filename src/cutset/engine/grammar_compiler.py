"""Grammars compiled for a model's vocabulary, by llguidance: which tokens may follow those that are there.

The bytes of a token are what the engine's own detokenizer writes for it, so a grammar sees the text that is given out.
"""

from __future__ import annotations

import importlib
import json
import re
import threading
from collections import OrderedDict
from collections.abc import Callable, Iterable, Sequence
from dataclasses import dataclass, field
from functools import lru_cache
from typing import TYPE_CHECKING, Any

from cutset.engine.grammar import Grammar
from cutset.engine.schema_numbers import with_short_numbers
from cutset.errors import RequestError, printable

if TYPE_CHECKING:
    from cutset.models.text.tokenizer import Tokenizer

__all__ = ["CompiledGrammar", "GrammarCompiler", "Vocabulary"]

MISSING = "needs the library llguidance, which isn't installed here: pip install 'cutset[structured]'"
KEPT = 128  # compiled grammars
KEPT_BYTES = 4 << 20  # of their texts
# Work, counted by the library: some 4 ms each of building and of a step, so that nobody waits long for one grammar.
LIMITS = {
    "initial_lexer_fuel": 400_000,
    "step_lexer_fuel": 100_000,
    "step_max_items": 40_000,
    "max_lexer_states": 50_000,
    "max_grammar_size": 200_000,
}
# What the library says of a schema, and what we do, by the keyword that is at fault.
TOLD = (
    (r"NoExtension", "can't be kept: no text is like that; where `$ref` leads back, there must be a way out"),
    (r"Unsatisfiable schema: (.*)", "can't be kept: no text is like that ({0})"),
    (r"oneOf constraints are not", "the schema's keyword `oneOf` isn't supported where two of its parts may both hold"),
    (r"Unknown format: (.*)", "the schema's keyword `format` isn't supported with {0!r}"),
    (r"Resource '(.*?)' is not present", "the schema's keyword `$ref` isn't supported to {0!r}, outside of it"),
    (r"Pointer '(.*)' does not exist", "the schema's keyword `$ref` can't be {0!r}: there is no such part"),
    (
        r"patternProperty regexes (.*) are not",
        "the schema's keyword `patternProperties` isn't supported with {0}, which overlap",
    ),
    (r"(?s)regex parse error:.*\berror: (.*)", "the schema's keyword `pattern` or `patternProperties`: {0}"),
    (r"Invalid type: (.*)", "the schema's keyword `type` can't be {0!r}"),
    (r"invalid multiple of", "the schema's keyword `multipleOf` must be more than 0"),
    (r"schema too large", "the schema is too large once its `allOf`, `anyOf` and `$ref` are written out: simplify it"),
    (r"Expected (.*) for '(.+?)'(?: item)?, got (.*)", "the schema's keyword `{1}` can't be {2}: give {0}"),
)
NO_TEXT = ((r"NoExtension", "can't be kept: no text is like that"),)  # of other grammars
KINDS = {"positive integer": "a whole number", "f64": "a number", "string": "a text", "array": "a list"}
GBNF = re.compile(r"^\s*[\w-]+\s*::=", re.MULTILINE)  # a rule of llama.cpp's grammars
UNSUPPORTED = re.compile(r"Unimplemented keys: (\[.*?\])")


@dataclass(frozen=True, slots=True)
class Vocabulary:
    """What a grammar must know of a tokenizer. `written` gives what each id adds to a text, b"" for none; or None where
    that depends on its neighbours. It is asked once, when the first grammar comes."""

    size: int  # of the model's logits
    written: Callable[[], Sequence[bytes] | None]
    special_ids: Iterable[int]  # those that show nothing
    eos_ids: Iterable[int]
    encode: Callable[[str], Sequence[int]]  # without special tokens around

    @classmethod
    def of(cls, tokenizer: Tokenizer, size: int, eos_ids: Iterable[int]) -> Vocabulary:
        """That of a model's tokenizer; `size` of its logits."""
        return cls(
            size,
            lambda: tokenizer.written(size),
            tuple(one for one in tokenizer.special_ids if one < size),
            tuple(one for one in eos_ids if 0 <= one < size),
            lambda text: tokenizer.encode(text, add_special_tokens=False).tolist(),
        )


class CompiledGrammar:
    """A grammar for one vocabulary. Thread-safe."""

    def __init__(self, matcher: Any) -> None:
        self._matcher = matcher
        self._lock = threading.Lock()

    def begin(self) -> Any:
        """An llguidance.LLMatcher at the beginning of a text."""
        with self._lock:
            return self._matcher.deep_copy()


class _Tokens:
    """A tokenizer as llguidance.TokenizerWrapper wants it."""

    bos_token_id = None

    def __init__(self, vocabulary: Vocabulary, tokens: list[bytes], eos_ids: Sequence[int]) -> None:
        self.tokens, self.eos_token_id = tokens, eos_ids[0]
        self.special_token_ids = sorted({*vocabulary.special_ids, *eos_ids})
        self._special = frozenset(self.special_token_ids)
        self._encode = vocabulary.encode
        self._spelt = lru_cache(4096)(self._spell)  # what a grammar forces comes again and again
        self.greedy: Callable[[str], list[int]] | None = None

    def __call__(self, text: str | bytes) -> list[int]:
        """Token ids that write exactly this text: the model's own if they do, else the longest first."""
        if isinstance(text, bytes):
            text = text.decode("utf-8", "replace")
        return self._spelt(text) if len(text) < 200 else self._spell(text)

    def _spell(self, text: str) -> list[int]:
        try:
            found = [int(one) for one in self._encode(text)]
            if not self._special.intersection(found) and b"".join(self.tokens[one] for one in found) == text.encode():
                return found
            return [] if self.greedy is None else self.greedy(text)
        except Exception:  # it is called from Rust, which would panic
            return []


@dataclass(slots=True)
class _Kept:
    grammars: OrderedDict[Grammar, CompiledGrammar] = field(default_factory=OrderedDict)
    nbytes: int = 0

    def add(self, grammar: Grammar, compiled: CompiledGrammar) -> None:
        if grammar not in self.grammars:
            self.nbytes += len(grammar.text)
        self.grammars[grammar] = compiled
        while len(self.grammars) > KEPT or self.nbytes > KEPT_BYTES:
            self.nbytes -= len(self.grammars.popitem(last=False)[0].text)


class GrammarCompiler:
    """Compiles grammars, and keeps the latest. Thread-safe, and slow: a large grammar takes tens of milliseconds, the
    first one of a large vocabulary some hundreds more."""

    def __init__(self, vocabulary: Vocabulary) -> None:
        self.vocabulary = vocabulary
        self._building, self._lock = threading.Lock(), threading.Lock()
        self._tokenizer: Any = None
        self._refused = ""
        self._kept = _Kept()
        # The tokens of words, as they come at the beginning of a text and behind a space.
        self.spellings = lru_cache(256)(self._spellings)

    def warm(self) -> None:
        """Does what the first grammar would wait for. Raises nothing: what is wrong, `compile` says."""
        try:
            self._open("")
        except RequestError:
            return

    def kept(self, grammar: Grammar) -> CompiledGrammar | None:
        """The grammar compiled, if it has been before. Never slow."""
        with self._lock:
            found = self._kept.grammars.get(grammar)
            if found is not None:
                self._kept.grammars.move_to_end(grammar)
            return found

    def _spellings(self, words: tuple[str, ...]) -> list[list[int]]:
        found = dict[tuple[int, ...], None]()
        for word in words:
            for text in (word, f" {word.lstrip()}"):
                if ids := tuple(int(one) for one in self.vocabulary.encode(text)):
                    found[ids] = None
        return [list(ids) for ids in found]

    def compile(self, grammar: Grammar) -> CompiledGrammar:
        """The grammar compiled. Raises RequestError for one that can't be kept, and where llguidance is missing."""
        found = self.kept(grammar)
        if found is not None:
            return found
        library, tokenizer = self._open(grammar.asked)
        matcher, wrong = self._matcher(library, tokenizer, grammar, short=True)
        # Parts that meet elsewhere may need longer numbers; what is too large is no smaller then.
        if wrong and grammar.kind == "json" and "too large" not in wrong:
            matcher, longer = self._matcher(library, tokenizer, grammar, short=False)
            wrong = longer and wrong
        if wrong:
            raise RequestError(
                f"{grammar.asked}: {_told(wrong, of_schema=grammar.kind == 'json' or '%json' in grammar.text)}"
            )
        compiled = CompiledGrammar(matcher)
        with self._lock:
            self._kept.add(grammar, compiled)
        return compiled

    def _matcher(self, library: Any, tokenizer: Any, grammar: Grammar, *, short: bool) -> tuple[Any, str]:
        """A matcher at the beginning of a text, or what is wrong."""
        try:
            limits = library.LLParserLimits(**LIMITS, verbose_errors=False)
            source = _source(library, grammar, short=short)
            matcher = library.LLMatcher(tokenizer, source, log_level=0, limits=limits)
            if not matcher.is_error():
                matcher.compute_bitmask()  # a step's worth of work here, rather than in the engine's first
            return matcher, str(matcher.get_error() or "")
        except (ValueError, RecursionError) as error:  # what is no grammar at all
            return None, str(error) or type(error).__name__

    def _open(self, asked: str) -> tuple[Any, Any]:
        """The library, and the vocabulary as it wants it."""
        with self._building:
            if self._refused:
                raise RequestError(f"{asked} {self._refused}")
            try:
                library = importlib.import_module("llguidance")
            except ImportError:
                raise RequestError(f"{asked} {MISSING}") from None
            if self._tokenizer is None:
                self._tokenizer = self._built(library, asked)
            return library, self._tokenizer

    def _built(self, library: Any, asked: str) -> Any:
        vocabulary = self.vocabulary
        written = vocabulary.written()
        if written is None:
            self._refused = (
                "can't be kept by this model: its tokenizer writes a token differently beside others, so nobody can "
                "tell what the text will be"
            )
            raise RequestError(f"{asked} {self._refused}")
        tokens = list(written)
        tokens += [b""] * (vocabulary.size - len(tokens))
        eos_ids = sorted(vocabulary.eos_ids)
        if not eos_ids:  # the end of a text has an id that isn't the model's
            eos_ids = [len(tokens)]
            tokens.append(b"<eos>")
        wrapped = _Tokens(vocabulary, tokens, eos_ids)
        made = library.LLTokenizer(library.TokenizerWrapper(wrapped), n_vocab=len(tokens), eos_token=eos_ids)
        wrapped.greedy = made.greedy_tokenize
        return made


def _source(library: Any, grammar: Grammar, *, short: bool) -> str:
    """A grammar in the library's own form. `short`: numbers of a schema come to an end."""
    if grammar.kind == "regex":
        return str(library.LLMatcher.grammar_from_regex(grammar.text))
    if grammar.kind == "lark":
        form = "gbnf" if GBNF.search(grammar.text) else "lark"
        return str(library.grammar_from(form, grammar.text))
    options: dict[str, Any] = {"lenient": False, "whitespace_flexible": grammar.gaps is not None}
    if grammar.gaps is not None:
        options["whitespace_pattern"] = grammar.gaps
    text = json.dumps(with_short_numbers(json.loads(grammar.text))) if short else grammar.text
    return str(library.LLMatcher.grammar_from_json_schema(text, overrides=options))


def _told(wrong: str, *, of_schema: bool) -> str:
    """An error of the library in a line."""
    found = UNSUPPORTED.search(wrong)
    if found is not None:
        keys = ", ".join(f"`{printable(str(one), lines=False)[:60]}`" for one in json.loads(found[1]))
        return f"the schema's keyword {keys} isn't supported: leave it out"
    for pattern, told in TOLD if of_schema else NO_TEXT:
        if found := re.match(pattern, wrong):
            return told.format(*(printable(KINDS.get(one, one), lines=False)[:100] for one in found.groups()))
    lines = [line.strip() for line in printable(wrong).split("\n") if line.strip()]
    shown = "; ".join(lines[:6])
    return f"can't be kept: {shown if len(shown) <= 300 else shown[:297] + '...'}"
