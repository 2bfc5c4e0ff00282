"""SmolLM2-135M-Instruct from its GGUF file: the same numbers, tokens and chats as transformers gets out of it."""

from __future__ import annotations

import json
from collections.abc import Iterator
from pathlib import Path
from typing import Any

import numpy as np
import pytest

from cutset import LLM, SamplingParams
from cutset.cli import main
from cutset.models.files.grouped import GroupedTensor
from cutset.models.files.source import open_source
from cutset.models.run.executor import Batch
from cutset.models.text.chat import ChatTemplate
from cutset.models.text.tokenizer import Tokenizer

TEXTS = [
    "The quick brown fox jumps over the lazy dog, isn't it?",
    "In 1984 there were 1,234,567 of them; 3.5e-10 is less.",
    "def f(x: int) -> int:\n    return x ** 2 + 1  # a comment\n\n\nclass A:\n\tpass\r\n",
    "#include <vector>\nint main() { std::vector<int> v{1, 2}; return v[0] != 0 ? 0 : 1; }",
    "Grüße aus Köln — naïve café, façade, Ærøskøbing, İstanbul",
    "日本語の文章です。中文也可以。한국어도 됩니다. Русский текст, ελληνικά, العربية, हिन्दी",
    "🐕🦺 👩‍👩‍👧 emoji\u200b, zero\u00a0width, cafe\u0301",
    "  leading, trailing \t and \n\n\n  many   spaces  ",
    "<|im_start|>user\nspecial <|im_end|> and <|endoftext|> in a text<|im_end|>\n",
    "",
]
CHAT = [
    {"role": "user", "content": "What is the capital of France?"},
    {"role": "assistant", "content": "Paris."},
    {"role": "user", "content": "And of Italy?"},
]
PROMPTS = ["The history of Paris begins with", "def fibonacci(n):\n", "1, 2, 3, 4,"]


@pytest.fixture(scope="module")
def theirs(smollm2: Path) -> Any:
    """transformers' own reading of the file."""
    torch, transformers = pytest.importorskip("torch"), pytest.importorskip("transformers")
    pytest.importorskip("gguf")
    from transformers.modeling_gguf_pytorch_utils import load_gguf_checkpoint

    torch.set_num_threads(1)
    config = dict(open_source(smollm2).config)
    model = transformers.AutoModelForCausalLM.from_config(transformers.AutoConfig.for_model(**config)).eval()
    found = load_gguf_checkpoint(str(smollm2), return_tensors=True, model_to_load=model)
    for name, value in found["config"].items():
        if name in config and name != "eos_token_id":
            assert config[name] == (pytest.approx(value, rel=1e-6) if isinstance(value, float) else value), name
    assert model.load_state_dict(found["tensors"], strict=False).unexpected_keys == []
    model.tie_weights()
    return model


@pytest.fixture(scope="module")
def llm(smollm2: Path) -> Iterator[LLM]:
    with LLM(smollm2, threads=1, backend="native", dtype="float32") as llm:
        yield llm


def test_logits_and_tokens_are_those_of_transformers(theirs: Any, llm: LLM) -> None:
    import torch

    params = SamplingParams(temperature=0, max_tokens=12, ignore_eos=True)
    outputs = llm.generate(PROMPTS, params)
    for prompt, output in zip(PROMPTS, outputs, strict=True):
        ids = llm.tokenizer.encode(prompt).reshape(1, -1)
        cache = llm.executor.new_cache(4, 16)
        ours = llm.executor.forward(Batch.whole(ids, 16), cache)
        with torch.no_grad():
            logits = theirs(torch.tensor(ids.astype(np.int64))).logits[0].numpy()
            expected = theirs.generate(
                torch.tensor(ids.astype(np.int64)), max_new_tokens=12, do_sample=False, eos_token_id=-1, pad_token_id=0
            )
        assert np.abs(logits).max() > 10
        np.testing.assert_allclose(ours, logits, rtol=1e-4, atol=1e-3)
        assert list(output.outputs[0].token_ids) == expected[0, ids.shape[1] :].tolist()


def test_ids_and_chats_are_those_of_transformers(smollm2: Path) -> None:
    transformers = pytest.importorskip("transformers")
    from transformers.integrations.gguf import convert_gguf_tokenizer, get_gguf_tokenizer

    architecture, stored, config = get_gguf_tokenizer(str(smollm2))
    backend, _ = convert_gguf_tokenizer(architecture, stored)
    expected = transformers.PreTrainedTokenizerFast(tokenizer_object=backend, **config)
    ours = Tokenizer.load(smollm2)
    for text in TEXTS:
        assert ours.encode(text).tolist() == expected(text)["input_ids"], text
        assert ours.decode(ours.encode(text)) == expected.decode(ours.encode(text), skip_special_tokens=True), text
    assert ours.special_tokens == {
        "bos_token": "<|im_start|>",
        "eos_token": "<|im_end|>",
        "unk_token": "<|endoftext|>",
        "pad_token": "<|im_end|>",
    }
    template = ChatTemplate.of(ours)
    try:
        for prompt in (True, False):
            rendered = template.render(CHAT, add_generation_prompt=prompt)
            assert rendered == expected.apply_chat_template(CHAT, tokenize=False, add_generation_prompt=prompt)
            assert ours.encode(rendered, add_special_tokens=False).tolist() == expected(rendered)["input_ids"]
    finally:
        template.close()


def test_digits_stand_alone_as_in_the_model_itself(smollm2: Path) -> None:
    """transformers loses that where a file's tokenizer is GPT-2's."""
    ours = Tokenizer.load(smollm2)
    assert [ours.token(i) for i in ours.encode("x ½٣")] == ["x", "Ġ", "Â½", "Ù", "£"]


def test_it_answers(llm: LLM) -> None:
    assert llm.name == "SmolLM2-135M-Instruct.Q4_1"
    assert (llm.spec.family, llm.spec.tied, llm.spec.eos_token_ids) == ("llama", True, (2,))
    output = llm.chat(CHAT[:1], SamplingParams(temperature=0, max_tokens=20))
    assert "Paris" in output.outputs[0].text
    assert output.outputs[0].finish_reason == "stop"


def test_its_codes_are_handed_out_untouched(smollm2: Path) -> None:
    source = open_source(smollm2)
    forms = [tensor.form for tensor in source.tensors.values() if isinstance(tensor, GroupedTensor)]
    assert (source.dtype, forms.count("Q4_1"), forms.count("Q8_0"), len(source.tensors)) == ("grouped", 210, 1, 272)
    weight = source.tensors["model.layers.3.mlp.down_proj.weight"]
    assert isinstance(weight, GroupedTensor)
    codes = weight.grouped()
    assert (codes.shape, codes.bits, codes.group, codes.scales.values.dtype) == ((576, 1536), 4, 32, np.float16)
    np.testing.assert_array_equal(codes.float32(), weight.float32())


def test_commands_take_the_file(smollm2: Path, tmp_path: Path, capsys: pytest.CaptureFixture[str]) -> None:
    assert main(["tokenize", str(smollm2), "Hello world", "--ids"]) == 0
    assert capsys.readouterr().out == "19556 905\n"
    assert main(["models", str(smollm2), "--json", str(tmp_path / "m.json")]) == 0
    out = capsys.readouterr().out
    for words in ("architecture  llama", "134.5 M", "8,192 tokens", "Q4_1      210", "5.74 bits each"):
        assert words in out
    found = json.loads((tmp_path / "m.json").read_text())["model"]
    assert [kind["name"] for kind in found["types"]] == ["Q4_1", "Q8_0", "F32"]
    assert [(kind["bits"], kind["group"]) for kind in found["types"]] == [(5.0, 32), (8.5, 32), (32.0, 0)]
    assert (found["parameters"], found["context"], found["tied"]) == (134515008, 8192, True)
