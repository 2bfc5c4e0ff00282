"""Tokenizer files that are missing, malformed or hostile."""

from __future__ import annotations

import json
import random
from pathlib import Path
from typing import Any

import pytest

from cutset.errors import TokenizerError
from cutset.models.text.tokenizer import Tokenizer
from models.tokenizers_to_test import byte_level, sentencepiece_like, write


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
    monkeypatch.setattr("cutset.models.text.tokenizer.MAX_JSON_BYTES", 1 << 10)
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


def test_code_of_a_model_directory_is_never_run(tmp_path: Path) -> None:
    (tmp_path / "evil.py").write_text("raise SystemExit('ran')")
    config = {"auto_map": {"AutoTokenizer": ["evil.T", "evil.T"]}, "tokenizer_class": "T"}
    write(tmp_path, byte_level(), tokenizer_config=config)
    assert Tokenizer.load(tmp_path).decode(Tokenizer.load(tmp_path).encode("Hello")) == "Hello"
