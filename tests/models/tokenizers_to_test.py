"""Small tokenizers of every kind, and the directories that hold them."""

from __future__ import annotations

import json
from collections.abc import Callable
from pathlib import Path
from typing import Any

from tokenizers import AddedToken, Regex, decoders, models, normalizers, pre_tokenizers, processors, trainers
from tokenizers import Tokenizer as Backend

from cutset.models.text.tokenizer_kinds import QWEN2_WORDS

CORPUS = [
    "Once upon a time there was a girl named Lily. She said 'I'm happy', and 123 + 456 = 579!\n\n  Tabs\tand   spaces.",
    "héllo wörld ñandú, 日本語 テスト 中文 🙂👍🏽 don't we'll they've it's <b>x</b> [INST] hi [/INST]",
] * 10

TEXTS = [
    "",
    "Hello world",
    " leading",
    "  two leading",
    "trailing ",
    " ",
    "   ",
    "\n",
    "\n\n a\r\n\tb",
    "a  b   c",
    "héllo e\u0301 ﬁ",
    "日本語 中文",
    "🙂👍🏽 x",
    "x\x00y\u200b",
    "12345 678",
    "I'm DON'T they've",
    "<s>Hello</s> there",
    " </s> x</s></s>",
    "a<|im_start|>user\nhi<|im_end|>\n",
    "<unk> <|endoftext|><extra> word<tool> B <tool>C",
    "def f(x):\n    return x",
]


def byte_level() -> Backend:
    """Like GPT-2, Llama 3 and MiniMind: byte-level BPE."""
    backend = Backend(models.BPE())
    backend.pre_tokenizer = pre_tokenizers.ByteLevel(add_prefix_space=False)
    backend.decoder = decoders.ByteLevel()
    trainer = trainers.BpeTrainer(
        vocab_size=420,
        special_tokens=["<|endoftext|>", "<|im_start|>", "<|im_end|>"],
        initial_alphabet=pre_tokenizers.ByteLevel.alphabet(),
        show_progress=False,
    )
    backend.train_from_iterator(CORPUS, trainer)
    return backend


def sentencepiece_like(*, post_processor: bool = True) -> Backend:
    """Like Llama 2: BPE over ▁ with a token for every byte."""
    backend = Backend(models.BPE(unk_token="<unk>", fuse_unk=True, byte_fallback=True))
    backend.normalizer = normalizers.Sequence([normalizers.Prepend("▁"), normalizers.Replace(" ", "▁")])
    special = ["<unk>", "<s>", "</s>"]
    trainer = trainers.BpeTrainer(
        vocab_size=600, special_tokens=special + [f"<0x{byte:02X}>" for byte in range(256)], show_progress=False
    )
    backend.train_from_iterator(CORPUS, trainer)
    state = json.loads(backend.to_str())
    state["added_tokens"] = [token for token in state["added_tokens"] if token["content"] in special]
    backend = Backend.from_str(json.dumps(state))
    backend.decoder = decoders.Sequence(
        [decoders.Replace("▁", " "), decoders.ByteFallback(), decoders.Fuse(), decoders.Strip(" ", 1, 0)]
    )
    if post_processor:
        backend.post_processor = processors.TemplateProcessing(single="<s> $A", pair=None, special_tokens=[("<s>", 1)])
    return backend


def gemma_like() -> Backend:
    """Like Gemma: the same without a space in front, and a beginning that the post-processor adds."""
    state = json.loads(sentencepiece_like(post_processor=False).to_str().replace('"<s>"', '"<bos>"'))
    state["normalizer"] = {"type": "Replace", "pattern": {"String": " "}, "content": "▁"}
    state["decoder"]["decoders"] = state["decoder"]["decoders"][:3]
    backend = Backend.from_str(json.dumps(state).replace('"</s>"', '"<eos>"'))
    backend.add_special_tokens(["<pad>", "<start_of_turn>", "<end_of_turn>"])
    backend.post_processor = processors.TemplateProcessing(single="<bos> $A", pair=None, special_tokens=[("<bos>", 1)])
    return backend


def qwen_like() -> Backend:
    backend = byte_level()
    backend.normalizer = normalizers.NFC()
    words = pre_tokenizers.Split(Regex(QWEN2_WORDS), behavior="isolated")
    backend.pre_tokenizer = pre_tokenizers.Sequence(
        [words, pre_tokenizers.ByteLevel(add_prefix_space=False, use_regex=False)]
    )
    backend.add_special_tokens(["<extra>"])
    backend.add_tokens([AddedToken("<tool>", lstrip=True)])
    return backend


def unigram() -> Backend:
    backend = Backend(models.Unigram())
    backend.pre_tokenizer = pre_tokenizers.Metaspace()
    backend.decoder = decoders.Metaspace()
    trainer = trainers.UnigramTrainer(
        vocab_size=300, special_tokens=["<unk>", "<s>", "</s>"], unk_token="<unk>", show_progress=False
    )
    backend.train_from_iterator(CORPUS, trainer)
    return backend


def word_piece(decoder: decoders.Decoder | None = None) -> Backend:
    """Like BERT: pieces of words begin with ##, and spaces before marks go."""
    words = [
        "[UNK]",
        "un",
        "##able",
        "##s",
        "dog",
        ".",
        "'",
        "do",
        "n't",
        "##.",
        "##n",
        "##t",
        "s",
        "##'",
        "'s",
        "!",
        ",",
        "?",
    ]
    backend = Backend(models.WordPiece({word: i for i, word in enumerate([*words, " ", " '", "a .", "x '"])}))
    backend.decoder = decoder or decoders.WordPiece()
    backend.add_special_tokens(["[SEP]", "[UNK]"])
    return backend


def of_tokens(decoder: decoders.Decoder | None, *tokens: str) -> Backend:
    """A decoder, and as much vocabulary as its rules need; all bytes of characters in several ways."""
    backend = Backend(models.BPE({token: i for i, token in enumerate(dict.fromkeys(tokens))}, []))
    if decoder is not None:
        backend.decoder = decoder
    backend.add_special_tokens(["<s>", "</s>"])
    return backend


BYTES = [f"<0x{byte:02X}>" for byte in "aé你\ufffd😀 ".encode() + b"\xff\x80"]
LLAMA_STEPS = [decoders.Replace("▁", " "), decoders.ByteFallback(), decoders.Fuse(), decoders.Strip(" ", 1, 0)]
# Every decoder of the library, alone and in sequences that checkpoints have or could have.
DECODERS: dict[str, Callable[[], Backend]] = {
    "byte level": byte_level,
    "llama": sentencepiece_like,
    "qwen": qwen_like,
    "unigram": unigram,
    "word piece": word_piece,
    "word piece as it is": lambda: word_piece(decoders.WordPiece(cleanup=False)),
    "none": lambda: of_tokens(None, "a", "b", ".", "", " "),
    "byte fallback": lambda: of_tokens(
        decoders.Sequence(LLAMA_STEPS), "▁", "▁▁a", "b", "\ufffd", "<0xe4>", "<0x+A>", "<0xZZ>", "", *BYTES
    ),
    "byte fallback, not joined": lambda: of_tokens(
        decoders.Sequence([decoders.ByteFallback(), decoders.Metaspace()]), "▁a", "▁", "b▁▁", *BYTES
    ),
    "metaspace": lambda: of_tokens(decoders.Metaspace(), "▁a", "▁", "▁▁", "b▁▁", "b", ""),
    "metaspace, never": lambda: of_tokens(decoders.Metaspace(prepend_scheme="never"), "▁a", "▁", "b▁▁"),
    "suffixes": lambda: of_tokens(decoders.BPEDecoder(), "a</w>", "b", "c</w>d", "</w>", ""),
    "strip left": lambda: of_tokens(decoders.Sequence([decoders.Fuse(), decoders.Strip("a", 3, 0)]), "aa", "b", "a"),
    "strip right": lambda: of_tokens(
        decoders.Sequence([decoders.Fuse(), decoders.Strip("b", 0, 2)]), "xx", "bx", "ab", "bbbx", "b"
    ),
    "replace in all": lambda: of_tokens(
        decoders.Sequence([decoders.Fuse(), decoders.Replace("aab", "X"), decoders.Replace("Xa", "aa")]),
        *("a", "b", "ab", "aa", "X", "ba"),
    ),
    "a pattern in all": lambda: of_tokens(
        decoders.Sequence([decoders.Fuse(), decoders.Replace(Regex("a+b"), "X"), decoders.Replace("Xa", "aa")]),
        *("a", "b", "ab", "aa", "X", "ba"),
    ),
    "a pattern in each": lambda: of_tokens(
        decoders.Sequence([decoders.Replace(Regex("a+"), "X"), decoders.Replace("X", "é"), decoders.ByteLevel()]),
        *("a", "ba", "aa", "é", "Ã", "©", "Ġ"),
    ),
    "bytes of bytes": lambda: of_tokens(
        decoders.Sequence([decoders.ByteLevel(), decoders.Replace("ab", "é"), decoders.ByteLevel()]),
        *("a", "b", "ä", "½", "ł", "Ġ"),
    ),
    "ctc": lambda: of_tokens(decoders.CTC(), "a", "b", "|", "<pad>", "n't"),
}


def write(directory: Path, backend: Backend | None, **files: Any) -> Path:
    """A model directory; `files` are JSON files by their names without .json."""
    if backend is not None:
        backend.save(str(directory / "tokenizer.json"))
    for name, content in files.items():
        (directory / f"{name}.json").write_text(json.dumps(content))
    return directory
