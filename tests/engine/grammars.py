"""A vocabulary of 61 tokens that can write JSON, for models with random weights."""

from __future__ import annotations

from typing import Any

from cutset.engine import Engine
from cutset.engine.grammar_compiler import GrammarCompiler, Vocabulary

from .fake import ByteTokenizer

EOS = 60
PIECES = [*'{}[]":, \n-.', *"0123456789", *"abcdefghijklmnopqrstuvwxyz", '{"', '":', '", "', "true", "null", "false"]
PIECES += ["\\", "\\n", " a", "ab", "é", "12"]  # two of them are written by other tokens too
assert len(PIECES) <= EOS


class JsonTokenizer(ByteTokenizer):
    """Its last token ends a text; one has no bytes at all."""

    def bytes_of(self, token_id: int) -> bytes:
        return PIECES[token_id].encode() if token_id < len(PIECES) else b""

    def encode(self, text: str) -> list[int]:
        """One character after another."""
        return [PIECES.index(one) for one in text]


TOKENIZER = JsonTokenizer()
VOCABULARY = Vocabulary(61, lambda: [TOKENIZER.bytes_of(one) for one in range(61)], (), (EOS,), TOKENIZER.encode)
COMPILER = GrammarCompiler(VOCABULARY)


def json_engine(model: Any, **options: Any) -> Engine:
    options = {"blocks": 96, "block_size": 16, "max_batch_tokens": 64, "max_num_seqs": 8} | options
    options = {"eos_token_ids": (EOS,), "grammars": COMPILER} | options
    return Engine(model, TOKENIZER, **options)
