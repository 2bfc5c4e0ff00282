"""What a tokenizer does: texts to ids and back, special tokens, chat templates found."""

from __future__ import annotations

import json
import shutil
import subprocess
import sys
import threading
import time
from pathlib import Path
from typing import Any

import numpy as np
import pytest
from tokenizers import Tokenizer as Backend

from cutset.errors import RequestError
from cutset.models.text.tokenizer import LONG_TEXT, Tokenizer
from models.tokenizers_to_test import CORPUS, TEXTS, byte_level, sentencepiece_like, write


def test_round_trip_keeps_every_text(tmp_path: Path) -> None:
    tokenizer = Tokenizer.load(write(tmp_path, byte_level()))
    for text in TEXTS:
        assert tokenizer.decode(tokenizer.encode(text), skip_special_tokens=False) == text


def test_a_long_text_lets_other_threads_run(tmp_path: Path) -> None:
    """A server tokenises what strangers send; its engine and its other clients must not stand still meanwhile."""
    tokenizer = Tokenizer.load(write(tmp_path, byte_level()))
    text = " ".join(TEXTS) * (200_000 // len(" ".join(TEXTS)))
    assert len(text) > LONG_TEXT
    turns, done = 0, threading.Event()

    def count() -> None:
        nonlocal turns
        while not done.is_set():
            turns += 1
            time.sleep(0)

    other = threading.Thread(target=count)
    other.start()
    before = turns
    ids = tokenizer.encode(text)
    during = turns - before
    done.set()
    other.join()
    assert during > 100
    assert np.array_equal(ids, tokenizer._backend.encode(text).ids)  # its twin, which lets nobody run
    assert len(text) <= len(ids) * tokenizer.longest_token


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
        tokenizer.encode(b"abc")


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
        "import sys; from pathlib import Path; from cutset.models.text.tokenizer import LONG_TEXT, Tokenizer;"
        "early = 'tokenizers' in sys.modules;"
        f"Tokenizer.load(Path({str(tmp_path)!r})).encode('x');"
        "heavy = {'torch', 'transformers', 'jinja2', 'huggingface_hub'} & set(sys.modules);"
        "sys.exit(f'{early} {heavy}' if early or heavy else 0)"
    )
    subprocess.run([sys.executable, "-c", program], check=True, timeout=60)


def test_a_tokenizer_json_is_enough(tmp_path: Path, story_dir: Path) -> None:
    shutil.copy(story_dir / "tokenizer.json", tmp_path)
    assert Tokenizer.load(tmp_path).encode("Hello").tolist() == [1, 80, 1288, 67]
