"""A checkpoint whose head isn't the embedding, though its configuration says so: the head is kept, everywhere."""

from __future__ import annotations

import json
from pathlib import Path
from typing import Any

import numpy as np
import pytest

from cutset import LLM, SamplingParams
from cutset.cli import main
from cutset.errors import CheckpointError
from cutset.models.families import load_spec
from cutset.models.files.checkpoint import Checkpoint, Tensor, check_tensors
from cutset.models.files.source import open_source
from cutset.models.files.writer import write_safetensors
from cutset.models.random import RandomModel

HEAD, EMBEDDING = "lm_head.weight", "model.embed_tokens.weight"
PROMPT = [5, 9, 2, 77]


def write(folder: Path, *, tied: bool = True, head: np.ndarray | None = None, dtype: str = "F32") -> Path:
    """A model of two matrices, `head` beside the embedding, and a configuration that says whether they are one."""
    RandomModel(tied=False, qk_norm=True).write_checkpoint(folder)
    stored = {name: tensor.raw for name, tensor in Checkpoint(folder).items()}
    stored[HEAD] = np.array(stored[EMBEDDING] if head is None else head)
    cast = {"F32": np.float32, "F16": np.float16}
    kinds = {name: dtype if name == HEAD else "F32" for name in stored}
    layout = {name: (kinds[name], values.shape) for name, values in stored.items()}
    (folder / "model.safetensors").unlink()
    write_safetensors(folder / "model.safetensors", layout, ((n, x.astype(cast[kinds[n]])) for n, x in stored.items()))
    config = json.loads((folder / "config.json").read_text())
    (folder / "config.json").write_text(json.dumps(config | {"tie_word_embeddings": tied}))
    return folder


def other_head() -> np.ndarray:
    return RandomModel(tied=False, qk_norm=True, seed=3).tensor(HEAD).raw


def scores(folder: Path, **settings: Any) -> list[tuple[int, float]]:
    params = SamplingParams(temperature=0, max_tokens=1, logprobs=20)
    with LLM(folder, threads=1, **settings) as llm:
        found = llm.generate([PROMPT], params)[0].outputs[0].logprobs
    assert found
    return list(found[0].top)


@pytest.mark.parametrize("backend", ["native", "reference", "torch"])
def test_a_head_of_its_own_is_run(backend: str, tmp_path: Path) -> None:
    if backend == "torch":
        pytest.importorskip("torch")
    own = scores(write(tmp_path / "own", head=other_head()), backend=backend)
    assert own == scores(write(tmp_path / "untied", tied=False, head=other_head()), backend=backend)
    tied = scores(write(tmp_path / "tied"), backend=backend)
    assert tied[0][0] != own[0][0]


def test_equals_transformers(tmp_path: Path) -> None:
    torch = pytest.importorskip("torch")
    transformers = pytest.importorskip("transformers")
    folder = write(tmp_path / "own", head=other_head())
    model = transformers.AutoModelForCausalLM.from_pretrained(folder, dtype=torch.float32).eval()
    with torch.no_grad():
        theirs = torch.log_softmax(model(torch.tensor([PROMPT])).logits[0, -1], -1).numpy()
    ours = scores(folder)
    assert ours[0][0] == theirs.argmax()
    np.testing.assert_allclose([score for _, score in ours], [theirs[token] for token, _ in ours], atol=1e-4)


@pytest.mark.parametrize("dtype", ["F32", "F16"])
def test_a_copy_stays_tied(dtype: str, tmp_path: Path) -> None:
    embedding = RandomModel(tied=False, qk_norm=True).tensor(EMBEDDING).raw
    halves = embedding.astype(np.float16).astype(np.float32)
    assert open_source(write(tmp_path / "copy", head=embedding)).spec.tied
    assert open_source(write(tmp_path / "rounded", head=halves, dtype=dtype)).spec.tied is False
    # Equal values are a copy in whatever precision.
    head = Tensor(HEAD, tmp_path, dtype, halves.astype({"F32": np.float32, "F16": np.float16}[dtype]))
    assert head.equals(Tensor(EMBEDDING, tmp_path, "F32", halves))
    assert not head.equals(Tensor(EMBEDDING, tmp_path, "F32", embedding))
    changed = np.array(embedding)
    changed[-1, -1] += np.float32(1e-3)
    assert open_source(write(tmp_path / "one", head=changed)).spec.tied is False


def test_every_form_keeps_it(tmp_path: Path) -> None:
    own, untied = write(tmp_path / "own", head=other_head()), write(tmp_path / "untied", tied=False, head=other_head())
    for name, folder in (("a", own), ("b", untied)):
        assert main(["quantize", str(folder), "-o", str(tmp_path / f"{name}-int8")]) == 0
        assert main(["convert", str(folder), "-o", str(tmp_path / f"{name}.json")]) == 0
        assert main(["convert", str(tmp_path / f"{name}.json"), "-o", str(tmp_path / f"{name}-back")]) == 0
    for form in ("int8", "back"):
        a, b = tmp_path / f"a-{form}", tmp_path / f"b-{form}"
        assert json.loads((a / "config.json").read_text())["tie_word_embeddings"] is False
        assert (a / "model.safetensors").read_bytes() == (b / "model.safetensors").read_bytes()
    assert (tmp_path / "a.json").read_bytes() == (tmp_path / "b.json").read_bytes()
    assert scores(tmp_path / "a-int8", dtype="exact") == scores(own, dtype="exact")


def test_who_can_not_keep_it_refuses(tmp_path: Path) -> None:
    folder = write(tmp_path / "own", head=other_head())
    with pytest.raises(CheckpointError, match=r"lm_head\.weight differs from model\.embed_tokens\.weight"):
        check_tensors(load_spec(folder), Checkpoint(folder))
    folder = write(tmp_path / "short", head=other_head()[:-1])
    with pytest.raises(CheckpointError, match=r"lm_head\.weight has shape \(127, 64\); the configuration asks for"):
        open_source(folder)
