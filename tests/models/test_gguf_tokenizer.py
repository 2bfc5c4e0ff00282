"""Tokenizers in GGUF files: ids are those of the tokenizer.json that the file was made from."""

from __future__ import annotations

import json
from pathlib import Path
from typing import Any

import numpy as np
import pytest

gguf = pytest.importorskip("gguf")
import tokenizers
from tokenizers import AddedToken, Regex, decoders, models, normalizers, pre_tokenizers, trainers

from cutset.cli import main
from cutset.errors import TokenizerError
from cutset.models.files.source import convert, open_source
from cutset.models.text.gguf_splits import SPLITS
from cutset.models.text.tokenizer import Tokenizer
from models.gguf_files import Written, write_gguf

TEXTS = [
    "Hello world, isn't it? It's 12345 o'clock; I'LL don't. We've HelloWorld fooBar",
    "def f(x):\n    return x + 1  # a comment\n\n\n\tprint('x')\r\n",
    "Grüße, naïve, cafe\u0301; 日本語の文章。한국어 Русский العربية हिन्दी 🐕",
    "  many   spaces \t\n \n and ½ ٣٤ 1,000.50 $5 <=> a_b-c [x] {y} ~^|`",
    "<s>special</s> <tool>x</tool> in a text",
    "",
    " ",
]
CORPUS = [text * 3 for text in TEXTS] + ["the theory of the thing", "hello hello world world 12 123 1234"] * 5
SPECIAL = ["<unk>", "<s>", "</s>"]


def trained(pre: str) -> tokenizers.Tokenizer:
    """A byte-level tokenizer as a tokenizer.json has it."""
    words = SPLITS[pre]
    backend = tokenizers.Tokenizer(models.BPE(ignore_merges=words.whole))
    if words.composed:
        backend.normalizer = normalizers.NFC()
    if pre in ("gpt-2", "smollm"):  # as they stand in those files
        digits = [pre_tokenizers.Digits(individual_digits=True)] if pre == "smollm" else []
        backend.pre_tokenizer = pre_tokenizers.Sequence([*digits, pre_tokenizers.ByteLevel(add_prefix_space=False)])
    else:
        steps = [pre_tokenizers.Split(Regex(split), "isolated") for split in words.splits]
        letters = pre_tokenizers.ByteLevel(add_prefix_space=False, use_regex=False)
        backend.pre_tokenizer = pre_tokenizers.Sequence([*steps, letters])
    backend.decoder = decoders.ByteLevel()
    alphabet = pre_tokenizers.ByteLevel.alphabet()
    backend.train_from_iterator(
        CORPUS,
        trainers.BpeTrainer(vocab_size=400, special_tokens=SPECIAL, initial_alphabet=alphabet, show_progress=False),
    )
    return backend


def keys_of(backend: tokenizers.Tokenizer, pre: str, **more: Any) -> dict[str, Any]:
    stored = json.loads(backend.to_str())
    vocabulary: dict[str, int] = stored["model"]["vocab"]
    tokens = sorted(vocabulary, key=vocabulary.__getitem__)
    merges = [merge if isinstance(merge, str) else " ".join(merge) for merge in stored["model"]["merges"]]
    added = {token["content"]: 3 if token["special"] else 4 for token in stored["added_tokens"]}
    return {
        "tokenizer.ggml.model": "gpt2",
        "tokenizer.ggml.pre": pre,
        "tokenizer.ggml.tokens": tokens,
        "tokenizer.ggml.token_type": [added.get(token, 1) for token in tokens],
        "tokenizer.ggml.merges": merges,
        "tokenizer.ggml.bos_token_id": 1,
        "tokenizer.ggml.eos_token_id": 2,
    } | {f"tokenizer.ggml.{name}": value for name, value in more.items()}


def write(path: Path, keys: dict[str, Any], architecture: str = "llama") -> Path:
    model = Written("llama")
    model.architecture = architecture
    model.tensors = {"model.embed_tokens.weight": np.zeros((8, 64), np.float32)}
    write_gguf(model, path, more=keys)
    return path


@pytest.mark.parametrize("pre", SPLITS)
def test_byte_level(pre: str, tmp_path: Path) -> None:
    expected = trained(pre)
    found = Tokenizer.load(write(tmp_path / "m.gguf", keys_of(expected, pre, add_bos_token=False)))
    for text in TEXTS:
        ids = expected.encode(text).ids
        assert found.encode(text).tolist() == ids, text
        assert found.decode(ids, skip_special_tokens=False) == expected.decode(ids, skip_special_tokens=False)
    assert found.special_ids == {0, 1, 2}
    assert (found.bos_token_id, found.eos_token_id) == (1, 2)


def test_llamas_own_splits_differ(tmp_path: Path) -> None:
    """The names make a difference: the texts would show it if they were mixed up."""
    pieces = set()
    for pre in (
        "gpt-2",
        "smollm",
        "llama-bpe",
        "qwen2",
        "tekken",
        "gpt-4o",
        "deepseek-v3",
        "default",
        "deepseek-coder",
    ):
        found = Tokenizer.load(write(tmp_path / "m.gguf", keys_of(trained("gpt-2"), pre)))
        (tmp_path / "m.gguf").unlink()
        words = [found._backend.pre_tokenizer.pre_tokenize_str(text) for text in TEXTS]
        pieces.add(json.dumps(words))
    assert len(pieces) == 9


@pytest.mark.parametrize(
    ("more", "around"),
    [
        ({"pre": "gpt-2"}, ([], [])),
        ({"pre": "llama-bpe"}, ([1], [])),
        ({"pre": "llama-bpe", "add_bos_token": False}, ([], [])),
        ({"pre": "gpt-2", "add_bos_token": True, "add_eos_token": True}, ([1], [2])),
    ],
)
def test_what_stands_around_a_text(more: dict[str, Any], around: tuple[list[int], list[int]], tmp_path: Path) -> None:
    found = Tokenizer.load(write(tmp_path / "m.gguf", keys_of(trained("gpt-2"), **more)))
    alone = found.encode("hello", add_special_tokens=False).tolist()
    assert found.encode("hello").tolist() == around[0] + alone + around[1]


def test_users_own_tokens_are_matched_whole_but_are_text(tmp_path: Path) -> None:
    keys = keys_of(trained("gpt-2"), "gpt-2")
    keys["tokenizer.ggml.tokens"] += ["<tool>", "[PAD9]", "[PAD10]"]
    keys["tokenizer.ggml.token_type"] += [4, 5, 5]
    found = Tokenizer.load(write(tmp_path / "m.gguf", keys))
    tool = len(keys["tokenizer.ggml.tokens"]) - 3
    ids = found.encode("a<tool>b").tolist()
    assert ids[1] == tool
    assert found.decode(ids) == "a<tool>b"
    assert found.ids_without_token(tool + 3).tolist() == [tool + 1, tool + 2]


def sentencepiece(gemma: bool = False) -> tuple[tokenizers.Tokenizer, dict[str, Any]]:
    """A tokenizer as the class of transformers runs it, and the file's keys: scores, and no merges."""
    backend = tokenizers.Tokenizer(models.BPE(unk_token="<unk>", fuse_unk=True, byte_fallback=True))
    if gemma:
        backend.normalizer = normalizers.Replace(" ", "▁")
        backend.pre_tokenizer = pre_tokenizers.Split(" ", "merged_with_previous")
    else:
        backend.pre_tokenizer = pre_tokenizers.Metaspace("▁", prepend_scheme="first", split=False)
    last = [] if gemma else [decoders.Strip(" ", 1, 0)]
    backend.decoder = decoders.Sequence([decoders.Replace("▁", " "), decoders.ByteFallback(), decoders.Fuse(), *last])
    letters = [f"<0x{byte:02X}>" for byte in range(256)]
    corpus = [text.replace("🐕", "").replace("ﬁ", "") for text in CORPUS]
    backend.train_from_iterator(
        corpus, trainers.BpeTrainer(vocab_size=500, special_tokens=[*SPECIAL, *letters], show_progress=False)
    )
    stored = json.loads(backend.to_str())
    stored["added_tokens"] = [token for token in stored["added_tokens"] if token["content"] in SPECIAL]
    backend = tokenizers.Tokenizer.from_str(json.dumps(stored))
    vocabulary = stored["model"]["vocab"]
    tokens = sorted(vocabulary, key=vocabulary.__getitem__)
    rank = {"".join(merge): number for number, merge in reversed([*enumerate(stored["model"]["merges"])])}
    kinds = [2, 3, 3] + [6] * 256 + [1] * (len(tokens) - 259)
    return backend, {
        "tokenizer.ggml.model": "llama",
        "tokenizer.ggml.tokens": tokens,
        "tokenizer.ggml.token_type": kinds,
        "tokenizer.ggml.scores": [float(-rank.get(token, 1e6)) for token in tokens],
        "tokenizer.ggml.pre": "default",
        "tokenizer.ggml.merges": None,
    }


@pytest.mark.parametrize("architecture", ["llama", "gemma"])
def test_sentencepiece(architecture: str, tmp_path: Path) -> None:
    gemma = architecture == "gemma"
    expected, keys = sentencepiece(gemma)
    keys["tokenizer.ggml.bos_token_id"], keys["tokenizer.ggml.eos_token_id"] = 1, 2
    if gemma:
        keys["tokenizer.ggml.add_space_prefix"] = False
        keys["tokenizer.ggml.unknown_token_id"] = 0
    keys = {name: value for name, value in keys.items() if value is not None}
    found = Tokenizer.load(write(tmp_path / "m.gguf", keys, architecture))
    for text in TEXTS:
        ids = expected.encode(text, add_special_tokens=False).ids
        assert found.encode(text).tolist() == [1, *ids], text
        assert found.decode(ids, skip_special_tokens=False) == expected.decode(ids, skip_special_tokens=False)


def test_the_space_before_a_text_can_be_left_out(tmp_path: Path) -> None:
    _, keys = sentencepiece()
    keys = {name: value for name, value in keys.items() if value is not None}
    found = Tokenizer.load(write(tmp_path / "m.gguf", keys | {"tokenizer.ggml.add_space_prefix": False}))
    assert found.token(found.encode("hello", add_special_tokens=False)[0])[0] != "▁"
    assert found.decode(found.encode(" hello")) == " hello"


def test_a_file_that_names_no_split_is_read_with_a_warning(tmp_path: Path, caplog: pytest.LogCaptureFixture) -> None:
    keys = keys_of(trained("default"), "default")
    del keys["tokenizer.ggml.pre"]
    found = Tokenizer.load(write(tmp_path / "m.gguf", keys))
    assert "tokenizer.ggml.pre" in caplog.text
    assert found.encode(TEXTS[0]).tolist() == trained("default").encode(TEXTS[0]).ids


def test_templates_by_name(tmp_path: Path) -> None:
    keys = keys_of(trained("gpt-2"), "gpt-2")
    keys["tokenizer.chat_template"] = "{{ messages }}"
    keys["tokenizer.chat_template.tool_use"] = "{{ tools }}"
    path = write(tmp_path / "m.gguf", keys)
    assert Tokenizer.load(path).chat_templates == {"default": "{{ messages }}", "tool_use": "{{ tools }}"}


def test_a_directory_made_of_a_file_has_the_same_tokenizer(tmp_path: Path) -> None:
    model = Written("qwen2")
    more = keys_of(trained("qwen2"), "qwen2", add_bos_token=True)
    more["tokenizer.chat_template"] = "{{ bos_token }}"
    more |= {"general.sampling.temp": 0.5, "general.sampling.top_k": 7}
    for name in ("tokens", "token_type"):
        more[f"tokenizer.ggml.{name}"] = more[f"tokenizer.ggml.{name}"][:300]
    known = set(more["tokenizer.ggml.tokens"])
    merges = more["tokenizer.ggml.merges"]
    more["tokenizer.ggml.merges"] = [merge for merge in merges if merge.replace(" ", "", 1) in known]
    write_gguf(model, tmp_path / "m.gguf", more=more)
    convert(open_source(tmp_path / "m.gguf"), tmp_path / "out")
    ours, again = Tokenizer.load(tmp_path / "m.gguf"), Tokenizer.load(tmp_path / "out")
    for text in TEXTS:
        assert again.encode(text).tolist() == ours.encode(text).tolist()
    assert again.chat_templates == ours.chat_templates
    assert again.special_tokens["bos_token"] == "<s>"
    assert main(["quantize", str(tmp_path / "m.gguf"), "-o", str(tmp_path / "int")]) == 0
    assert Tokenizer.load(tmp_path / "int").encode("hello").tolist() == ours.encode("hello").tolist()
    said = json.loads((tmp_path / "int" / "generation_config.json").read_text())
    assert said == {"do_sample": True, "temperature": 0.5, "top_k": 7}


WRONG: dict[str, tuple[dict[str, Any], str]] = {
    "model": ({"model": "t5"}, "unknown tokenizer.ggml.model 't5'; known are gpt2, llama"),
    "pre": ({"pre": "llama-bpf"}, "unknown tokenizer.ggml.pre 'llama-bpf'; the nearest known are llama-bpe, "),
    "twice": ({"tokens": ["a", "b", "a"], "token_type": [1, 1, 1]}, "the token 'a' has two ids, 0 and 2"),
    "types": ({"token_type": [1, 1]}, "tokenizer.ggml.token_type must have a number for each of"),
    "merge": ({"merges": ["ab"]}, "the merge 'ab' has no two parts"),
    "merge of unknown": ({"merges": ["Q QQQQ"]}, "its tokenizer can't be used"),
    "bos": ({"bos_token_id": -3}, "must be the id of a token, not -3"),
    "flag": ({"add_bos_token": "yes"}, "add_bos_token must be true or false, not 'yes'"),
    "no scores": ({"model": "llama"}, "tokenizer.ggml.scores must have a number for each"),
    "no texts": ({"tokens": [1, 2]}, "tokenizer.ggml.tokens is missing or no list of texts"),
}


@pytest.mark.parametrize("name", WRONG)
def test_what_can_t_be_used_is_named(name: str, tmp_path: Path, capsys: pytest.CaptureFixture[str]) -> None:
    changed, message = WRONG[name]
    keys = keys_of(trained("gpt-2"), "gpt-2") | {f"tokenizer.ggml.{key}": value for key, value in changed.items()}
    if keys["tokenizer.ggml.model"] == "llama":
        del keys["tokenizer.ggml.merges"]
    path = tmp_path / "m.gguf"
    model = Written("llama")
    write_gguf(model, path, more=keys)
    with pytest.raises(TokenizerError, match=message):
        Tokenizer.load(path)
    assert main(["tokenize", str(path), "x"]) == 2
    assert capsys.readouterr().err.count("\n") == 1


def test_an_added_token_keeps_its_id() -> None:
    """What the readers above rely on."""
    backend = tokenizers.Tokenizer(models.BPE({"a": 0, "<x>": 1}, []))
    backend.add_special_tokens([AddedToken("<x>", normalized=False, special=True)])
    assert backend.encode("a<x>a").ids == [0, 1, 0]
