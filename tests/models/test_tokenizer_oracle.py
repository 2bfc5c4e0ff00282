"""Ids and texts are those of transformers."""

from __future__ import annotations

import random
from pathlib import Path
from typing import Any

import numpy as np
import pytest
from tokenizers import AddedToken
from tokenizers import Tokenizer as Backend

from cutset.models.text.tokenizer import Tokenizer
from models.tokenizers_to_test import TEXTS, byte_level, gemma_like, qwen_like, sentencepiece_like, unigram, write


@pytest.fixture(scope="module")
def auto() -> Any:
    """transformers' AutoTokenizer: the oracle, of the generation whose rules we follow."""
    transformers = pytest.importorskip("transformers")
    if int(transformers.__version__.split(".")[0]) < 5:
        pytest.skip("older transformers load some tokenizers by other rules")
    transformers.logging.set_verbosity_error()
    return transformers.AutoTokenizer


def assert_equal(ours: Tokenizer, oracle: Any, texts: list[str] = TEXTS) -> None:
    assert ours.special_tokens == oracle.special_tokens_map
    assert ours.vocab_size == len(oracle)
    for name in ("bos_token_id", "eos_token_id", "pad_token_id"):
        assert getattr(ours, name) == getattr(oracle, name), name
    assert ours.special_ids >= set(oracle.all_special_ids) - {None}
    for text in texts:
        for special in (True, False):
            ids = ours.encode(text, add_special_tokens=special)
            assert (ids.dtype, ids.ndim) == (np.int32, 1)
            assert ids.tolist() == oracle(text, add_special_tokens=special)["input_ids"], (text, special)
            for skip in (True, False):
                expected = oracle.decode(ids.tolist(), skip_special_tokens=skip)
                assert ours.decode(ids, skip_special_tokens=skip) == expected, (text, special, skip)


CHATML = {"bos_token": None, "eos_token": "<|im_end|>", "pad_token": "<|endoftext|>", "unk_token": None}
LLAMA = {"bos_token": "<s>", "eos_token": "</s>", "unk_token": "<unk>"}


@pytest.mark.parametrize("model_type", ["llama", "mistral", "qwen2", "qwen3", "minimind", None])
@pytest.mark.parametrize(
    ("build", "config"),
    [
        (byte_level, {**CHATML, "tokenizer_class": "PreTrainedTokenizerFast", "add_bos_token": True}),
        (byte_level, {**CHATML, "tokenizer_class": "LlamaTokenizer", "bos_token": "<|im_start|>"}),
        (qwen_like, {**CHATML, "tokenizer_class": "Qwen2Tokenizer", "additional_special_tokens": ["<|im_start|>"]}),
        (qwen_like, {**CHATML, "eos_token": {"__type": "AddedToken", "content": "<|im_end|>", "lstrip": False}}),
        (sentencepiece_like, {**LLAMA, "tokenizer_class": "LlamaTokenizer", "legacy": False}),
        (sentencepiece_like, {**LLAMA, "tokenizer_class": "LlamaTokenizerFast", "add_eos_token": True}),
        (sentencepiece_like, {"tokenizer_class": "LlamaTokenizer", "legacy": True, "pad_token": "<new>"}),
        (sentencepiece_like, {**LLAMA, "tokenizer_class": "LlamaTokenizer", "add_prefix_space": False}),
        (sentencepiece_like, {**LLAMA, "tokenizer_class": "PreTrainedTokenizerFast", "split_special_tokens": True}),
        (sentencepiece_like, {}),
        (unigram, {**LLAMA, "tokenizer_class": "PreTrainedTokenizerFast", "clean_up_tokenization_spaces": True}),
    ],
)
def test_ids_and_texts_are_those_of_transformers(
    tmp_path: Path, auto: Any, build: Any, config: dict[str, Any], model_type: str | None
) -> None:
    if build is unigram and model_type == "qwen2":
        pytest.skip("transformers makes a BPE of it, which we don't")
    write(tmp_path, build(), tokenizer_config=config)
    if model_type is not None:
        write(tmp_path, None, config={"model_type": model_type})
    assert_equal(Tokenizer.load(tmp_path), auto.from_pretrained(tmp_path))


@pytest.mark.parametrize("tokenizer_class", ["LlamaTokenizer", "PreTrainedTokenizerFast", "Qwen2Tokenizer"])
@pytest.mark.parametrize("flags", [{}, {"add_bos_token": True}, {"add_bos_token": False, "add_eos_token": True}])
@pytest.mark.parametrize("post_processor", [True, False])
def test_tokenizer_json_alone_says_what_surrounds_a_text(
    tmp_path: Path, auto: Any, tokenizer_class: str, flags: dict[str, bool], post_processor: bool
) -> None:
    config = {**LLAMA, **flags, "tokenizer_class": tokenizer_class}
    backend = sentencepiece_like(post_processor=post_processor)
    write(tmp_path, backend, tokenizer_config=config, config={"model_type": "llama"})
    ours = Tokenizer.load(tmp_path)
    assert ours.encode("").tolist() == ([1] if post_processor else [])
    assert_equal(ours, auto.from_pretrained(tmp_path))


@pytest.mark.parametrize("model_type", ["gemma", "gemma2", "gemma3", "gemma3_text", "olmo2", "olmo3", "smollm3"])
@pytest.mark.parametrize(
    "config",
    [
        {"tokenizer_class": "GemmaTokenizer", "bos_token": "<bos>", "eos_token": "<end_of_turn>"},
        {"tokenizer_class": "GemmaTokenizerFast", "unk_token": {"__type": "AddedToken", "content": "<unk>"}},
        {"tokenizer_class": "PreTrainedTokenizerFast", "eos_token": "<eos>"},
        {"tokenizer_class": "LlamaTokenizer", "mask_token": None},
        {"boi_token": "<start_of_image>", "add_bos_token": False, "pad_token": "<new>"},
    ],
)
@pytest.mark.parametrize("build", [gemma_like, sentencepiece_like])
def test_tokenizers_of_gemma_and_others(
    tmp_path: Path, auto: Any, build: Any, config: dict[str, Any], model_type: str
) -> None:
    write(tmp_path, build(), tokenizer_config=config, config={"model_type": model_type})
    assert_equal(Tokenizer.load(tmp_path), auto.from_pretrained(tmp_path))


@pytest.mark.parametrize("model_type", ["olmo2", "olmo3"])
def test_a_wrong_class_in_files_of_olmo(tmp_path: Path, auto: Any, model_type: str) -> None:
    config = {"tokenizer_class": "GPT2Tokenizer", "eos_token": "<|endoftext|>"}
    write(tmp_path, byte_level(), tokenizer_config=config, config={"model_type": model_type})
    assert_equal(Tokenizer.load(tmp_path), auto.from_pretrained(tmp_path))


def test_random_configurations_equal_transformers(tmp_path: Path, auto: Any) -> None:
    """Everything that the loading rules look at, in combinations that nobody thought of."""
    random_ = random.Random(7)
    builders = [byte_level(), sentencepiece_like(), sentencepiece_like(post_processor=False)]
    for case in range(40):
        directory = tmp_path / str(case)
        directory.mkdir()
        backend = Backend.from_str(random_.choice(builders).to_str())
        if random_.random() < 0.3:
            backend.add_tokens([AddedToken("<tool>", lstrip=True, normalized=False)])
        config: dict[str, Any] = {}
        for name in ("bos_token", "eos_token", "pad_token", "unk_token"):
            text = random_.choice(["<s>", "</s>", "<|endoftext|>", "<|im_end|>", "<new>", "<unk>"])
            described = {"__type": "AddedToken", "content": text, "lstrip": random_.random() < 0.5}
            config |= random_.choice([{}, {name: text}, {name: None}, {name: described}])
        for name in ("add_bos_token", "add_eos_token", "legacy", "add_prefix_space", "split_special_tokens"):
            config |= random_.choice([{}, {}, {name: True}, {name: False}])
        classes = ["LlamaTokenizer", "LlamaTokenizerFast", "PreTrainedTokenizerFast", "Qwen2Tokenizer", "Unheard", None]
        config |= random_.choice([{"tokenizer_class": name} if name else {} for name in classes])
        config |= random_.choice([{}, {"additional_special_tokens": ["<extra>", "<|im_start|>"]}, {"boi_token": "<b>"}])
        config |= random_.choice([{}, {"extra_special_tokens": {"image_token": "<img>"}}])
        if random_.random() < 0.4:
            added = {
                str(token_id): {"content": token.content, "normalized": False, "special": random_.random() < 0.8}
                for token_id, token in backend.get_added_tokens_decoder().items()
            }
            config["added_tokens_decoder"] = {**added, "700": {"content": "<listed>", "special": True}}
        write(directory, backend, tokenizer_config=config)
        if random_.random() < 0.4:
            write(directory, None, special_tokens_map={"eos_token": "</s>", "additional_special_tokens": ["<mapped>"]})
        if random_.random() < 0.3:
            write(directory, None, added_tokens={"<older>": backend.get_vocab_size()})
        model_type = random_.choice(["llama", "mistral", "mixtral", "qwen2", "qwen3", "qwen3_moe", "minimind"])
        write(directory, None, config={"model_type": model_type})
        oracle = auto.from_pretrained(directory)
        ours = Tokenizer.load(directory)
        assert ours.special_tokens == oracle.special_tokens_map, case
        assert ours.vocab_size == len(oracle), case
        for text in [*TEXTS, "<listed><mapped> <older><new>"]:
            ids = oracle(text)["input_ids"]
            assert ours.encode(text).tolist() == ids, (case, text)
            assert ours.decode(ids, skip_special_tokens=False) == oracle.decode(ids), (case, text)


@pytest.mark.parametrize("flags", [{}, {"add_bos_token": True, "add_eos_token": True}, {"add_bos_token": False}])
@pytest.mark.parametrize("bos", [None, "<|im_start|>"])
def test_vocab_and_merges_of_qwen2(tmp_path: Path, auto: Any, flags: dict[str, bool], bos: str | None) -> None:
    byte_level().model.save(str(tmp_path))
    config = {**CHATML, **flags, "bos_token": bos, "tokenizer_class": "Qwen2Tokenizer"}
    write(tmp_path, None, tokenizer_config=config, config={"model_type": "qwen2"}, added_tokens={"<|im_end|>": 2})
    ours = Tokenizer.load(tmp_path)
    assert (ours.encode("").size == 2) == (bos is not None and flags.get("add_eos_token", False))
    assert_equal(ours, auto.from_pretrained(tmp_path))


def test_special_tokens_map_is_the_fallback(tmp_path: Path, auto: Any) -> None:
    names = {"bos_token": "<s>", "eos_token": {"content": "</s>", "lstrip": False, "normalized": True}}
    write(tmp_path, sentencepiece_like(), special_tokens_map=names)
    ours = Tokenizer.load(tmp_path)
    assert (ours.bos_token_id, ours.eos_token_id, ours.pad_token_id) == (1, 2, None)
    assert_equal(ours, auto.from_pretrained(tmp_path))


def test_story_equals_transformers(auto: Any, story_dir: Path) -> None:
    text = "Once upon a time, there was a little girl named Lily. She loved to play outside in the sunshine.\n"
    ours = Tokenizer.load(story_dir)
    assert_equal(
        ours, auto.from_pretrained(story_dir), [*TEXTS, text, text * 50, "Hi<|end_story|>there<|start_story|>"]
    )
    assert ours.decode(ours.encode(text)) == text
    assert ours.token(1) == "<|start_story|>"
    assert ours.chat_template is None
