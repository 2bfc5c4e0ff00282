"""The tokenizer against transformers', on tokenizers built here and on the one of the story model."""

from __future__ import annotations

import json
import random
import shutil
import subprocess
import sys
from pathlib import Path
from typing import Any

import numpy as np
import pytest
from tokenizers import AddedToken, Regex, decoders, models, normalizers, pre_tokenizers, processors, trainers
from tokenizers import Tokenizer as Backend

from cutset.errors import RequestError, TokenizerError
from cutset.models.tokenizer import Tokenizer
from cutset.models.tokenizer_kinds import QWEN2_WORDS

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


@pytest.fixture(scope="module")
def auto() -> Any:
    """transformers' AutoTokenizer: the oracle, of the generation whose rules we follow."""
    transformers = pytest.importorskip("transformers")
    if int(transformers.__version__.split(".")[0]) < 5:
        pytest.skip("older transformers load some tokenizers by other rules")
    transformers.logging.set_verbosity_error()
    return transformers.AutoTokenizer


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


def write(directory: Path, backend: Backend | None, **files: Any) -> Path:
    """A model directory; `files` are JSON files by their names without .json."""
    if backend is not None:
        backend.save(str(directory / "tokenizer.json"))
    for name, content in files.items():
        (directory / f"{name}.json").write_text(json.dumps(content))
    return directory


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


def test_round_trip_keeps_every_text(tmp_path: Path) -> None:
    tokenizer = Tokenizer.load(write(tmp_path, byte_level()))
    for text in TEXTS:
        assert tokenizer.decode(tokenizer.encode(text), skip_special_tokens=False) == text


def test_special_tokens_are_left_out_even_if_normalised(tmp_path: Path) -> None:
    """The Rust library calls such a token `▁<s>` and prints it."""
    state = json.loads(sentencepiece_like().to_str())
    for token in state["added_tokens"]:
        token["normalized"] = True
    tokenizer = Tokenizer.load(write(tmp_path, Backend.from_str(json.dumps(state))))
    assert tokenizer.special_ids == {0, 1, 2}
    assert tokenizer.decode(tokenizer.encode("Hello")) == "Hello"
    assert tokenizer.token(1) == "<s>"


def test_truncation_padding_and_dropout_are_off(tmp_path: Path) -> None:
    plain = byte_level()
    expected = plain.encode(CORPUS[0]).ids
    backend = byte_level()
    backend.enable_truncation(3)
    backend.enable_padding(length=500)
    backend.model.dropout = 0.9
    tokenizer = Tokenizer.load(write(tmp_path, backend))
    assert tokenizer.encode(CORPUS[0]).tolist() == expected


def test_decode_takes_lists_and_arrays(tmp_path: Path) -> None:
    tokenizer = Tokenizer.load(write(tmp_path, byte_level()))
    ids = tokenizer.encode("Hello world")
    for form in (ids, ids.astype(np.int64), ids.astype(np.uint16), ids.tolist(), tuple(ids), list(ids)):
        assert tokenizer.decode(form) == "Hello world"
    assert tokenizer.decode([]) == tokenizer.decode(np.array([])) == ""


@pytest.mark.parametrize("bad", [-1, 10_000, 2**31, 2**32, 2**70])
def test_unknown_ids_are_named(tmp_path: Path, bad: int) -> None:
    tokenizer = Tokenizer.load(write(tmp_path, byte_level()))
    with pytest.raises(RequestError, match=f"token id {bad} "):
        tokenizer.decode([5, bad])
    with pytest.raises(RequestError, match=f"token id {bad} "):
        tokenizer.token(bad)


@pytest.mark.parametrize("bad", ["ab", [1.5], [None], 7, np.zeros((1, 2), np.int32), np.array([1.0])])
def test_what_is_no_list_of_ids(tmp_path: Path, bad: Any) -> None:
    with pytest.raises(RequestError, match="token ids must be"):
        Tokenizer.load(write(tmp_path, byte_level())).decode(bad)


def test_texts_that_cannot_be_encoded(tmp_path: Path) -> None:
    tokenizer = Tokenizer.load(write(tmp_path, byte_level()))
    with pytest.raises(RequestError, match=r"surrogate pair \(U\+D83D\) at character 3"):
        tokenizer.encode("abc\ud83d")
    with pytest.raises(RequestError, match="must be a str, not bytes"):
        tokenizer.encode(b"abc")  # type: ignore[arg-type]


def test_missing_tokenizers_say_how_to_get_one(tmp_path: Path) -> None:
    with pytest.raises(TokenizerError, match="no such directory"):
        Tokenizer.load(tmp_path / "absent")
    with pytest.raises(TokenizerError, match=r"no tokenizer\.json"):
        Tokenizer.load(tmp_path)
    byte_level().model.save(str(tmp_path))
    with pytest.raises(TokenizerError, match=r"is no Qwen tokenizer.*save_pretrained"):
        Tokenizer.load(tmp_path)
    (tmp_path / "merges.txt").unlink()
    (tmp_path / "tokenizer.model").touch()
    with pytest.raises(TokenizerError, match=r"sentencepiece and protobuf installed.*save_pretrained"):
        Tokenizer.load(tmp_path)


@pytest.mark.parametrize(
    ("name", "content", "message"),
    [
        ("tokenizer.json", b"", "EOF"),
        ("tokenizer.json", b"\xff\xfe", "tokenizer.json"),
        ("tokenizer.json", b"[" * 100_000, "tokenizer.json"),
        ("tokenizer_config.json", b"{", "malformed"),
        ("tokenizer_config.json", b"\xff", "UTF-8"),
        ("tokenizer_config.json", b"[" * 100_000, "malformed"),
        ("tokenizer_config.json", b"[]", "must be a JSON object, not list"),
        ("tokenizer_config.json", b'{"tokenizer_class": 3}', "tokenizer_class must be a string"),
        ("tokenizer_config.json", b'{"bos_token": 3}', "bos_token must be a JSON object"),
        ("tokenizer_config.json", b'{"bos_token": {"content": null}}', "bos_token is no description"),
        ("tokenizer_config.json", b'{"eos_token": "\\ud800"}', "special tokens"),
        ("tokenizer_config.json", b'{"added_tokens_decoder": {"x": {"content": "a"}}}', "special tokens"),
        ("tokenizer_config.json", b'{"added_tokens_decoder": []}', "special tokens"),
        ("tokenizer_config.json", b'{"extra_special_tokens": 3}', "extra_special_tokens"),
        ("tokenizer_config.json", b'{"chat_template": 3}', "chat_template is neither"),
        ("tokenizer_config.json", b'{"chat_template": [{"name": "default"}]}', "chat_template is neither"),
        ("special_tokens_map.json", b"3", "must be a JSON object"),
        ("added_tokens.json", b'{"a": "b"}', "special tokens"),
        ("config.json", b"nonsense", "malformed"),
        ("chat_template.jinja", b"\xff", "UTF-8"),
        ("chat_template.jinja", b"x" * (2 << 20), "larger than 1 MiB"),
    ],
)
def test_malformed_files_are_named(tmp_path: Path, name: str, content: bytes, message: str) -> None:
    write(tmp_path, byte_level())
    (tmp_path / name).write_bytes(content)
    with pytest.raises(TokenizerError, match=message) as caught:
        Tokenizer.load(tmp_path)
    assert name in str(caught.value) or str(tmp_path) in str(caught.value)
    assert "\n" not in str(caught.value)


def test_files_that_are_too_large_or_no_files(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    write(tmp_path, byte_level())
    monkeypatch.setattr("cutset.models.tokenizer.MAX_JSON_BYTES", 1 << 10)
    with pytest.raises(TokenizerError, match=r"tokenizer\.json: larger than"):
        Tokenizer.load(tmp_path)
    (tmp_path / "tokenizer.json").unlink()
    (tmp_path / "tokenizer.json").mkdir()
    with pytest.raises(TokenizerError, match=r"tokenizer\.json: not a file"):
        Tokenizer.load(tmp_path)


def test_a_post_processor_cannot_add_what_does_not_exist(tmp_path: Path) -> None:
    state = json.loads(sentencepiece_like().to_str())
    for bad in (5000, 2**32 - 1):
        state["post_processor"]["special_tokens"]["<s>"]["ids"] = [bad]
        write(tmp_path, None, tokenizer=state)
        with pytest.raises(TokenizerError, match=f"post-processor adds token {bad}"):
            Tokenizer.load(tmp_path)


def test_panics_of_the_library_become_errors(tmp_path: Path) -> None:
    state = json.loads(sentencepiece_like().to_str())
    state["post_processor"]["special_tokens"] = {}
    write(tmp_path, None, tokenizer=state)
    with pytest.raises(TokenizerError):
        Tokenizer.load(tmp_path).encode("Hello")


def test_mutated_files_give_nothing_but_tokenizer_errors(tmp_path: Path) -> None:
    random_ = random.Random(3)
    junk: list[Any] = [
        None,
        -1,
        0,
        2**31,
        2**64,
        1e308,
        "",
        "\ud800",
        "x" * 99,
        [],
        {},
        [[]],
        {"a": 1},
        True,
        "(?:a+)+$",
    ]
    data = sentencepiece_like().to_str().encode()
    worked = 0
    for case in range(150):
        if case % 3 == 0:
            cut = bytearray(data)
            for _ in range(4):
                cut[random_.randrange(len(cut))] = random_.randrange(256)
            mutated = bytes(cut)
        elif case % 3 == 1:
            mutated = data[: random_.randrange(len(data))]
        else:
            state = json.loads(data)
            for _ in range(2):
                parent: Any = state
                while True:
                    key = random_.choice(list(parent) if isinstance(parent, dict) else range(len(parent)))
                    if not isinstance(parent[key], (dict, list)) or not parent[key] or random_.random() < 0.3:
                        break
                    parent = parent[key]
                parent[key] = random_.choice(junk)
            mutated = json.dumps(state).encode()
        (tmp_path / "tokenizer.json").write_bytes(mutated)
        try:
            tokenizer = Tokenizer.load(tmp_path)
            tokenizer.decode(tokenizer.encode("Hello <s>日本 x"))
            worked += 1
        except TokenizerError:
            pass
    assert 0 < worked < 100


def test_chat_templates_come_from_files_first(tmp_path: Path) -> None:
    write(tmp_path, byte_level(), chat_template={"chat_template": "older"})
    assert Tokenizer.load(tmp_path).chat_template == "older"
    write(tmp_path, None, tokenizer_config={"chat_template": "plain"})
    assert Tokenizer.load(tmp_path).chat_template == "plain"
    listed = [{"name": "default", "template": "d"}, {"name": "tool_use", "template": "t"}]
    write(tmp_path, None, tokenizer_config={"chat_template": listed})
    tokenizer = Tokenizer.load(tmp_path)
    assert tokenizer.chat_template == "d"
    assert tokenizer.chat_templates == {"default": "d", "tool_use": "t"}
    write(tmp_path, None, tokenizer_config={"chat_template": listed[1:]})
    assert Tokenizer.load(tmp_path).chat_template is None
    (tmp_path / "chat_template.jinja").write_text("file é")
    (tmp_path / "additional_chat_templates").mkdir()
    (tmp_path / "additional_chat_templates" / "rag.jinja").write_text("r")
    assert Tokenizer.load(tmp_path).chat_templates == {"default": "file é", "rag": "r"}


def test_loading_is_light(tmp_path: Path) -> None:
    """The client's start must not pay for torch, transformers or Jinja."""
    write(tmp_path, byte_level())
    program = (
        "import sys; from pathlib import Path; from cutset.models.tokenizer import Tokenizer;"
        "early = 'tokenizers' in sys.modules;"
        f"Tokenizer.load(Path({str(tmp_path)!r})).encode('x');"
        "heavy = {'torch', 'transformers', 'jinja2', 'huggingface_hub'} & set(sys.modules);"
        "sys.exit(f'{early} {heavy}' if early or heavy else 0)"
    )
    subprocess.run([sys.executable, "-c", program], check=True, timeout=60)


def test_code_of_a_model_directory_is_never_run(tmp_path: Path) -> None:
    (tmp_path / "evil.py").write_text("raise SystemExit('ran')")
    config = {"auto_map": {"AutoTokenizer": ["evil.T", "evil.T"]}, "tokenizer_class": "T"}
    write(tmp_path, byte_level(), tokenizer_config=config)
    assert Tokenizer.load(tmp_path).decode(Tokenizer.load(tmp_path).encode("Hello")) == "Hello"


def test_a_tokenizer_json_is_enough(tmp_path: Path, story_dir: Path) -> None:
    shutil.copy(story_dir / "tokenizer.json", tmp_path)
    assert Tokenizer.load(tmp_path).encode("Hello").tolist() == [1, 80, 1288, 67]
