"""Embeddings: vectors against transformers', alone and in company, in pieces, and what a model's files say of them."""

from __future__ import annotations

import json
import shutil
from collections.abc import Iterator
from pathlib import Path
from typing import Any

import numpy as np
import pytest

torch = pytest.importorskip("torch")
transformers = pytest.importorskip("transformers")

from cutset import LLM
from cutset.errors import CheckpointError, ContextLengthError, EngineError, RequestError
from cutset.models.pooling import stated_pooling
from models.family_cases import CASES
from models.family_checkpoints import write_checkpoint
from models.test_adapter import write_adapter

SIZES = {"max_position_embeddings": 256}
RNG = np.random.default_rng(5)
TEXTS = [RNG.integers(0, 131, size).tolist() for size in (7, 1, 33, 16, 120, 4)]


def theirs(model: Any, ids: list[int], pooling: str) -> np.ndarray:
    """The same vector by transformers and torch."""
    with torch.no_grad():
        hidden = model.model(torch.tensor([ids])).last_hidden_state[0].float()
    vector = {"last": hidden[-1], "mean": hidden.mean(0), "cls": hidden[0]}[pooling]
    return torch.nn.functional.normalize(vector, dim=0).numpy()


@pytest.fixture(scope="module")
def folder(tmp_path_factory: pytest.TempPathFactory) -> Path:
    return tmp_path_factory.mktemp("embedding") / "model"


@pytest.fixture(scope="module")
def oracle(folder: Path) -> Any:
    return write_checkpoint(folder, "Qwen3", tokenizer=True, head_dim=16, tie_word_embeddings=True, **SIZES)


@pytest.fixture(scope="module")
def llm(folder: Path, oracle: Any) -> Iterator[LLM]:
    with LLM(folder, threads=2, max_batch_tokens=64) as found:
        yield found


@pytest.mark.parametrize("pooling", ["last", "mean", "cls"])
def test_vectors_equal_those_of_transformers(llm: LLM, oracle: Any, pooling: Any) -> None:
    """Of texts shorter and longer than a step, which is 64 rows."""
    found = llm.embed(TEXTS, pooling=pooling)
    assert (found.shape, found.dtype) == ((len(TEXTS), 48), np.float32)
    for ids, vector in zip(TEXTS, found, strict=True):
        np.testing.assert_allclose(vector, theirs(oracle, ids, pooling), atol=2e-5)
    np.testing.assert_allclose(np.linalg.norm(found, axis=1), 1, rtol=1e-6)
    assert np.abs(found[0] - found[2]).max() > 0.01


@pytest.mark.parametrize("case", ["llama", "gemma3-text", "lfm2"])
@pytest.mark.parametrize("backend", ["native", "reference"])
def test_other_families_and_backends(case: str, backend: str, tmp_path: Path) -> None:
    family, fields = CASES[case]
    model = write_checkpoint(tmp_path, family, tokenizer=True, **fields)
    texts = [ids[:50] for ids in TEXTS]
    with LLM(tmp_path, backend=backend, threads=1, max_batch_tokens=32, max_num_seqs=8) as llm:
        for pooling in ("last", "mean"):
            for ids, vector in zip(texts, llm.embed(texts, pooling=pooling), strict=True):
                np.testing.assert_allclose(vector, theirs(model, ids, pooling), atol=5e-5)


@pytest.mark.parametrize("pooling", ["last", "mean"])
def test_a_vector_depends_on_its_own_text_alone(llm: LLM, pooling: Any) -> None:
    """Bit for bit, in any company and order, beside generation too."""
    alone = np.concatenate([llm.embed([ids], pooling=pooling) for ids in TEXTS])
    together = llm.embed(TEXTS, pooling=pooling)
    assert together.tobytes() == alone.tobytes()
    stream = llm.stream(TEXTS[0])
    next(iter(stream))
    assert llm.embed(TEXTS[::-1] * 3, pooling=pooling)[: len(TEXTS)][::-1].tobytes() == alone.tobytes()
    assert len(set(map(bytes, alone))) == len(TEXTS)
    del stream


def test_a_step_s_size_changes_no_last_token(folder: Path, llm: LLM) -> None:
    with LLM(folder, threads=1, max_batch_tokens=512) as wide:
        assert wide.embed(TEXTS, pooling="last").tobytes() == llm.embed(TEXTS, pooling="last").tobytes()
        np.testing.assert_allclose(wide.embed(TEXTS, pooling="mean"), llm.embed(TEXTS, pooling="mean"), atol=1e-6)


def test_fewer_dimensions_are_the_first_ones(llm: LLM) -> None:
    raw = llm.embed(TEXTS, normalise=False)
    assert np.linalg.norm(raw, axis=1).max() > 1.5
    np.testing.assert_allclose(llm.embed(TEXTS), raw / np.linalg.norm(raw, axis=1, keepdims=True), atol=1e-6)
    few = llm.embed(TEXTS, dimensions=8)
    np.testing.assert_allclose(few, raw[:, :8] / np.linalg.norm(raw[:, :8], axis=1, keepdims=True), atol=1e-6)
    for wrong in (0, -1, 49):
        with pytest.raises(RequestError, match="dimensions"):
            llm.embed(TEXTS, dimensions=wrong)


def test_texts_are_tokenised_as_prompts_are(llm: LLM) -> None:
    assert llm.embed("t5 t9 t3").tobytes() == llm.embed([[5, 9, 3]]).tobytes()
    assert llm.embed(["t5 t9 t3", [5, 9]]).shape == (2, 48)
    assert llm.embed([]).shape == (0, 48)


def test_what_cannot_be_embedded(llm: LLM) -> None:
    with pytest.raises(ContextLengthError, match="256"):
        llm.embed([[1] * 257])
    assert llm.embed([[1] * 256]).shape == (1, 48)  # no token more has to fit
    for wrong in ([[]], [""], [[131]], [[-1]], [[1.5]]):
        with pytest.raises(RequestError):
            llm.embed(wrong)
    with pytest.raises(RequestError, match="pooling"):
        llm.embed("t1", pooling="max")
    with pytest.raises(RequestError, match="adapter"):
        llm.embed("t1", adapter="nobody")


def test_an_adapter_changes_vectors(folder: Path, oracle: Any, tmp_path: Path) -> None:
    write_adapter(tmp_path / "one", oracle, seed=1)
    with LLM(folder, threads=1, adapters={"one": tmp_path / "one"}, max_batch_tokens=64) as llm:
        bare, with_it = llm.embed(TEXTS), llm.embed(TEXTS, adapter="one")
        assert np.abs(bare - with_it).max() > 1e-3
        assert llm.embed([TEXTS[4]], adapter="one").tobytes() == with_it[4].tobytes()


def test_a_long_text_that_nobody_waits_for_ends(llm: LLM) -> None:
    results: list[Any] = []
    embedder = llm.embeddings
    job = embedder.submit([embedder.encode([7] * 200)], results.append)
    job.cancel()
    assert llm.embed([TEXTS[0]]).shape == (1, 48)
    assert results == []


def test_an_error_ends_its_own_texts_and_not_the_rest(folder: Path, oracle: Any, monkeypatch: Any) -> None:
    with LLM(folder, threads=1) as llm:
        run = llm.executor.final_hidden

        def fails(batch: Any, cache: Any) -> Any:
            if 99 in batch.token_ids:
                raise RuntimeError("a bug")
            return run(batch, cache)

        monkeypatch.setattr(llm.executor, "final_hidden", fails)
        with pytest.raises(EngineError, match="a bug"):
            llm.embed([[99, 1]])
        assert llm.embed([[9, 1]]).shape == (1, 48)
    with pytest.raises(EngineError, match="closed"):
        llm.embed([[9, 1]])


def test_a_decoder_that_was_saved_alone(folder: Path, oracle: Any, tmp_path: Path) -> None:
    """As embedding models are: names without `model.`, no head, and the pooling beside it."""
    bare = tmp_path / "bare"
    oracle.model.save_pretrained(bare)
    names = json.loads((bare / "config.json").read_text())
    (bare / "config.json").write_text(json.dumps(names | {"architectures": ["Qwen3ForCausalLM"]}))
    for name in ("tokenizer.json", "tokenizer_config.json"):
        shutil.copy(folder / name, bare / name)
    (bare / "1_Pooling").mkdir()
    stated = {"word_embedding_dimension": 48, "pooling_mode_mean_tokens": True, "pooling_mode_cls_token": False}
    (bare / "1_Pooling" / "config.json").write_text(json.dumps(stated))
    with LLM(bare, threads=1, max_batch_tokens=64) as llm:
        found = llm.embed(TEXTS)
    for ids, vector in zip(TEXTS, found, strict=True):
        np.testing.assert_allclose(vector, theirs(oracle, ids, "mean"), atol=2e-5)


@pytest.mark.parametrize(
    ("content", "pooling"),
    [
        ({"pooling_mode_lasttoken": True, "pooling_mode_mean_tokens": False}, "last"),
        ({"pooling_mode_mean_tokens": True}, "mean"),
        ({"pooling_mode_cls_token": True, "include_prompt": True}, "cls"),
        ({"pooling_mode": "lasttoken"}, "last"),
        ({"pooling_mode": "mean"}, "mean"),
        ({"pooling_mode_max_tokens": True}, None),
        ({"pooling_mode_mean_tokens": True, "pooling_mode_cls_token": True}, None),
        ({}, None),
        ({"pooling_mode": ["mean"]}, None),
    ],
)
def test_what_files_say_of_pooling(content: Any, pooling: str | None, tmp_path: Path) -> None:
    assert stated_pooling(tmp_path) is None
    (tmp_path / "1_Pooling").mkdir()
    (tmp_path / "1_Pooling" / "config.json").write_text(json.dumps(content))
    if pooling is None:
        with pytest.raises(CheckpointError, match="1_Pooling"):
            stated_pooling(tmp_path)
    else:
        assert stated_pooling(tmp_path) == pooling


@pytest.mark.parametrize(
    ("kind", "pooling"), [(None, None), (0, None), (-1, None), (1, "mean"), (2, "cls"), (3, "last"), (4, ""), ([1], "")]
)
def test_what_gguf_files_say_of_pooling(kind: Any, pooling: str | None, tmp_path: Path) -> None:
    gguf = pytest.importorskip("gguf")
    path = tmp_path / "model.gguf"
    writer = gguf.GGUFWriter(path, "llama")
    if isinstance(kind, list):
        writer.add_array("llama.pooling_type", kind)
    elif kind is not None:
        writer.add_int32("llama.pooling_type", kind)
    writer.write_header_to_file()
    writer.write_kv_data_to_file()
    writer.write_tensors_to_file()
    writer.close()
    if pooling == "":
        with pytest.raises(CheckpointError, match="asks for the pooling"):
            stated_pooling(path)
    else:
        assert stated_pooling(path) == pooling
