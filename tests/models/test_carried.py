"""What belongs to a model beside its weights goes where they go; and what a clone has in place of large files."""

from __future__ import annotations

import json
import subprocess
import sys
from collections.abc import Callable
from pathlib import Path
from typing import Any

import pytest

from cutset.cli import main
from cutset.errors import CheckpointError, ModelError, TokenizerError
from cutset.models.families import load_spec
from cutset.models.files.checkpoint import weight_files
from cutset.models.random import RandomModel
from cutset.models.registry import HUB_FILES, HUB_SKIPPED, catalogue
from cutset.models.text.tokenizer import Tokenizer
from cutset.models.text.tokenizer_files import tokenizer_files
from cutset.offload.enclave.client_files import model_files
from models.tokenizers_to_test import TEXTS, byte_level, qwen_like, sentencepiece_like, unigram, write

POINTER = "version https://git-lfs.github.com/spec/v1\noid sha256:4d7a214614ab2935\nsize 5000000000\n"
CHATML = {"eos_token": "<|im_end|>", "pad_token": "<|endoftext|>", "unk_token": None}


def vocab_and_merges(folder: Path) -> None:
    (folder / "tokenizer.json").unlink()
    byte_level().model.save(str(folder))
    write(folder, None, tokenizer_config={**CHATML, "tokenizer_class": "Qwen2Tokenizer"})
    write(folder, None, added_tokens={"<tool_call>": 300, "</tool_call>": 301, "<|im_end|>": 2})
    write(folder, None, special_tokens_map={"eos_token": "<|im_end|>", "additional_special_tokens": ["<tool_call>"]})


def templates(folder: Path) -> None:
    write(folder, sentencepiece_like(), tokenizer_config={"tokenizer_class": "LlamaTokenizer"})
    (folder / "chat_template.jinja").write_text("default {{ messages }}")
    (folder / "additional_chat_templates").mkdir()
    (folder / "additional_chat_templates/tool_use.jinja").write_text("tools {{ messages }}")
    (folder / "additional_chat_templates/rag.jinja").write_text("rag {{ messages }}")


def added_tokens(folder: Path) -> None:
    write(folder, sentencepiece_like(), tokenizer_config={"tokenizer_class": "PreTrainedTokenizerFast"})
    write(folder, None, added_tokens={"<tool_call>": 600, "</tool_call>": 601})


def named_template(folder: Path) -> None:
    write(folder, unigram(), tokenizer_config={"eos_token": "</s>"})
    write(folder, None, chat_template={"chat_template": "old {{ messages }}"})


TOKENIZERS: dict[str, Callable[[Path], Any]] = {
    "byte-level": lambda folder: write(folder, byte_level(), tokenizer_config=CHATML),
    "byte-level-as-llama": lambda folder: write(
        folder, byte_level(), tokenizer_config={**CHATML, "tokenizer_class": "LlamaTokenizer"}
    ),
    "sentencepiece": lambda folder: write(folder, sentencepiece_like(), tokenizer_config={"add_eos_token": True}),
    "sentencepiece-plain": lambda folder: write(folder, sentencepiece_like(post_processor=False)),
    "qwen": lambda folder: write(folder, qwen_like(), tokenizer_config={**CHATML, "tokenizer_class": "Qwen2Tokenizer"}),
    "unigram": lambda folder: write(folder, unigram(), special_tokens_map={"bos_token": "<s>", "eos_token": "</s>"}),
    "vocab-and-merges": vocab_and_merges,
    "added-tokens": added_tokens,
    "templates": templates,
    "named-template": named_template,
}


@pytest.fixture(params=TOKENIZERS)
def folder(request: pytest.FixtureRequest, tmp_path: Path) -> Path:
    """A model with such a tokenizer."""
    RandomModel(vocab=640).write_checkpoint(tmp_path / "float")
    (tmp_path / "float/tokenizer_config.json").unlink()
    TOKENIZERS[request.param](tmp_path / "float")
    write(tmp_path / "float", None, generation_config={"eos_token_id": [3, 7], "temperature": 0.5})
    return tmp_path / "float"


def test_quantize_keeps_the_tokenizer(folder: Path) -> None:
    target = folder.with_name("int8")
    assert main(["quantize", str(folder), "-o", str(target)]) == 0
    before, after = Tokenizer.load(folder), Tokenizer.load(target)
    for text in [*TEXTS, "<tool_call>{}</tool_call><|im_end|>"]:
        ids = before.encode(text)
        assert ids.tolist() == after.encode(text).tolist(), text
        assert before.decode(ids) == after.decode(ids)
        assert before.decode(ids, skip_special_tokens=False) == after.decode(ids, skip_special_tokens=False)
    for name in ("vocab_size", "special_tokens", "special_ids", "chat_templates", "eos_token_id", "pad_token_id"):
        assert getattr(before, name) == getattr(after, name), name
    assert load_spec(target).eos_token_ids == load_spec(folder).eos_token_ids == (2, 3, 7)
    assert json.loads((target / "generation_config.json").read_text())["temperature"] == 0.5


def test_the_issue_in_numbers(tmp_path: Path) -> None:
    """`<tool_call>` is one token before and after."""
    RandomModel(vocab=640).write_checkpoint(tmp_path / "float")
    added_tokens(tmp_path / "float")
    assert main(["quantize", str(tmp_path / "float"), "-o", str(tmp_path / "int8")]) == 0
    before, after = (
        Tokenizer.load(tmp_path / name).encode("<tool_call>", add_special_tokens=False).tolist()
        for name in ("float", "int8")
    )
    assert before == after
    assert len(before) == 1
    (tmp_path / "int8/added_tokens.json").unlink()
    assert Tokenizer.load(tmp_path / "int8").encode("<tool_call>", add_special_tokens=False).size > 1


OPENED = """
import sys
from pathlib import Path
from cutset.models.text.tokenizer import Tokenizer

import tokenizers, tokenizers.processors

folder, seen = Path(sys.argv[1]), set()
sys.addaudithook(lambda event, args: seen.add(str(args[0])) if event == "open" else None)
Tokenizer.load(folder)
print(*(Path(name).relative_to(folder) for name in sorted(seen) if name.startswith(str(folder))), sep="\\n")
"""


def test_nothing_that_loading_opens_is_left_behind(folder: Path) -> None:
    done = subprocess.run([sys.executable, "-c", OPENED, str(folder)], capture_output=True, text=True, check=True)
    opened = set(done.stdout.split())
    assert opened & {"tokenizer.json", "vocab.json"}
    carried = {str(path.relative_to(folder)) for path in tokenizer_files(folder)}
    assert opened - {"config.json"} <= carried


def test_the_hub_is_asked_for_all_of_it(folder: Path) -> None:
    """By the library's own rules, what loading reads passes; what else lies in a repository doesn't."""
    utils = pytest.importorskip("huggingface_hub.utils")
    read = [path.relative_to(folder).as_posix() for path in (*tokenizer_files(folder), *weight_files(folder))]
    more = [
        "config.json",
        "generation_config.json",
        "model-00001-of-00002.safetensors",
        "tokenizer.model",
        "spiece.model",
    ]
    refused = [
        *(
            "consolidated.safetensors",
            "adapter_model.safetensors",
            "onnx/model.json",
            "a/x.json",
            "add/x.json",
            "x.bin",
        ),
        *("additional/t.jinja", "additional_chat_templates2/t.jinja", "additional_chat_templates/a/t.jinja"),
        *("evil.py", "additional_chat_templates/evil.py", "original/consolidated.00.pth", "x/y/z.safetensors"),
    ]
    names = [*read, *more, "additional_chat_templates/tool_use.jinja"]
    rules = {"allow_patterns": list(HUB_FILES), "ignore_patterns": list(HUB_SKIPPED)}
    assert list(utils.filter_repo_objects([*names, *refused], **rules)) == names


def test_an_enclave_may_open_all_of_it(folder: Path) -> None:
    measured = set(model_files(folder))
    assert {*tokenizer_files(folder), *weight_files(folder), folder / "config.json"} <= measured


LARGE = [
    "tokenizer.json",
    "tokenizer_config.json",
    "chat_template.jinja",
    "special_tokens_map.json",
    "added_tokens.json",
]


@pytest.mark.parametrize("name", [*LARGE, "additional_chat_templates/tool_use.jinja"])
def test_a_pointer_for_a_file_of_the_tokenizer(name: str, tmp_path: Path) -> None:
    write(tmp_path, byte_level())
    (tmp_path / name).parent.mkdir(exist_ok=True)
    (tmp_path / name).write_text(POINTER)
    with pytest.raises(TokenizerError, match=r"is a Git LFS pointer.*git lfs pull") as caught:
        Tokenizer.load(tmp_path)
    assert name in str(caught.value)


@pytest.mark.parametrize("name", ["vocab.json", "merges.txt", "tokenizer.model"])
def test_a_pointer_for_a_vocabulary(name: str, tmp_path: Path) -> None:
    if name != "tokenizer.model":
        byte_level().model.save(str(tmp_path))
        write(tmp_path, None, tokenizer_config={"tokenizer_class": "Qwen2Tokenizer"})
    (tmp_path / name).write_text(POINTER)
    with pytest.raises(TokenizerError, match=f"{name} is a Git LFS pointer"):
        Tokenizer.load(tmp_path)


def test_pointers_for_the_rest(tmp_path: Path, capsys: pytest.CaptureFixture[str]) -> None:
    from cutset.config import Settings

    folder = tmp_path / "model"
    RandomModel().write_checkpoint(folder)
    (tmp_path / "models.yaml").write_text("m: model\n")
    settings = Settings(models_file=tmp_path / "models.yaml")

    def problem() -> str:
        return next(info.problem for info in catalogue(settings) if info.ref.name == "m")

    assert problem() == ""
    good = {name: (folder / name).read_bytes() for name in ("config.json", "model.safetensors", "tokenizer.json")}
    for name, content in good.items():
        (folder / name).write_text(POINTER)
        assert "is a Git LFS pointer" in problem()
        for command in (
            ["generate", str(folder), "--prompt", "t3"],
            ["quantize", str(folder), "-o", str(tmp_path / "x")],
        ):
            assert main(command) == 2
            error = capsys.readouterr().err
            assert f"{name} is a Git LFS pointer, not the file itself" in error
            assert "Traceback" not in error
            assert not (tmp_path / "x").exists()
        (folder / name).write_bytes(content)
    for name in ("added_tokens.json", "chat_template.jinja", "additional_chat_templates/tool_use.jinja"):
        (folder / name).parent.mkdir(exist_ok=True)
        (folder / name).write_text(POINTER)
        assert main(["quantize", str(folder), "-o", str(tmp_path / "x")]) == 2
        assert f"{name} is a Git LFS pointer" in capsys.readouterr().err
        (folder / name).unlink()
    (folder / "tokenizer.model").write_text(POINTER)  # nothing reads it where there is a tokenizer.json
    assert main(["quantize", str(folder), "-o", str(tmp_path / "x")]) == 0
    assert main(["generate", str(tmp_path / "x"), "--prompt", "t3", "--max-tokens", "1"]) == 0
    (folder / "generation_config.json").write_text(POINTER)
    with pytest.raises(ModelError, match=r"generation_config\.json is a Git LFS pointer"):
        load_spec(folder)


def test_weights_of_networks_too(tmp_path: Path) -> None:
    pytest.importorskip("torch")
    from cutset.video.zoo.weights import open_weights

    for name in ("w.pth", "w.safetensors"):
        (tmp_path / name).write_text(POINTER)
        with pytest.raises(CheckpointError, match="is a Git LFS pointer"):
            open_weights(tmp_path / name)
