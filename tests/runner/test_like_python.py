"""The runner reads a model directory as the Python side does: the same keys, files and ties."""

from __future__ import annotations

import json
import re
from collections.abc import Callable
from pathlib import Path
from typing import Any

import numpy as np
import pytest

from cutset.errors import CutsetError
from cutset.models.files.checkpoint import Tensor
from cutset.models.files.exchange import write_exchange
from cutset.models.files.source import open_source, specify
from cutset.models.files.specification import SPECIFICATION
from cutset.models.files.writer import write_safetensors
from models.config_pairs import PAIRS, REFUSED, SIZES
from models.config_pairs import config_of as pair_of
from runner.files import (
    CONFIGS,
    RUNNER,
    assert_equal,
    config_of,
    drawn,
    inputs_of,
    logits_of,
    reference,
    refused,
    write_directory,
    write_file,
)

pytestmark = pytest.mark.skipif(not RUNNER.is_file(), reason="the runner is not built: make runner")

POINTER = "version https://git-lfs.github.com/spec/v1\noid sha256:4d7a214614ab2935\nsize 5000000000\n"
HEAD, EMBEDDING = "lm_head.weight", "model.embed_tokens.weight"


def both(folder: Path, inputs: Path, ids: Any = None) -> np.ndarray:
    """The logits of a directory, which both sides agree on."""
    given = ids or inputs_of()
    logits = logits_of(folder, "--inputs", inputs)
    assert_equal(logits, reference(open_source(folder), given), given[1])
    return logits


def both_refuse(folder: Path, inputs: Path, message: str) -> None:
    with pytest.raises(CutsetError) as caught:
        open_source(folder)
    assert message in str(caught.value)
    assert message in refused(folder, "--inputs", inputs)


@pytest.mark.parametrize("case", PAIRS)
def test_pairs_of_keys(case: str, tmp_path: Path) -> None:
    config = pair_of(PAIRS[case][0])
    write_directory(tmp_path / "dir", config, drawn(config))
    both(tmp_path / "dir", write_file(tmp_path / "inputs.json", SIZES))


@pytest.mark.parametrize(("changes", "message"), REFUSED)
def test_refused_configurations(changes: dict[str, Any], message: str, tmp_path: Path) -> None:
    """What a configuration means is said by a specification: of these there is none, and an older one isn't taken."""
    inputs, folder = write_file(tmp_path / "inputs.json", SIZES), tmp_path / "dir"
    write_directory(folder, SIZES, drawn(SIZES))
    (folder / "config.json").write_text(json.dumps(pair_of(changes)))
    before = (folder / SPECIFICATION).read_bytes()
    with pytest.raises(CutsetError, match=re.escape(message)):
        specify(folder)
    assert (folder / SPECIFICATION).read_bytes() == before
    assert "config.json has changed since specification.json was written" in refused(folder, "--inputs", inputs)
    (folder / SPECIFICATION).unlink()
    assert f"write it with `cutset convert {folder} -o" in refused(folder, "--inputs", inputs)


def with_head(tensors: dict[str, Tensor], values: np.ndarray, dtype: str = "F32") -> dict[str, Tensor]:
    return tensors | {HEAD: Tensor(HEAD, Path("(made)"), dtype, values)}


def test_a_head_of_its_own_is_kept(tmp_path: Path) -> None:
    config = config_of("llama-tied")
    tensors, inputs = drawn(config), write_file(tmp_path / "inputs.json", config)
    embedding = tensors[EMBEDDING].raw
    write_directory(tmp_path / "tied", config, with_head(tensors, embedding))
    tied = both(tmp_path / "tied", inputs)
    other = with_head(tensors, np.flip(embedding, 0).copy())
    write_directory(tmp_path / "own", config, other)
    own = both(tmp_path / "own", inputs)
    write_directory(tmp_path / "untied", config | {"tie_word_embeddings": False}, other)
    np.testing.assert_array_equal(own, both(tmp_path / "untied", inputs))
    assert np.abs(own - tied).max() > 0.1
    # The same in an exchange file, and its copy of a head that is tied stays one.
    source = open_source(tmp_path / "own")
    assert not source.spec.tied
    write_exchange(tmp_path / "own.json", config | {"tie_word_embeddings": False}, other.__getitem__, inputs_of(), {})
    text = (tmp_path / "own.json").read_text()
    (tmp_path / "own.json").write_text(text.replace('"tie_word_embeddings": false', '"tie_word_embeddings": true'))
    np.testing.assert_array_equal(logits_of(tmp_path / "own.json"), own)
    assert not open_source(tmp_path / "own.json").spec.tied
    assert open_source(inputs).spec.tied
    np.testing.assert_array_equal(logits_of(inputs), tied)
    # Another shape is a mistake, wherever it comes from.
    write_directory(tmp_path / "shape", config, tensors)
    write_directory(tmp_path / "shape", config, with_head(tensors, embedding[:-1].copy()))
    specification = json.loads((tmp_path / "shape" / SPECIFICATION).read_text())
    specification["specification"]["tensors"]["lm_head"] = [["lm_head.weight", "lm_head"]]
    (tmp_path / "shape" / SPECIFICATION).write_text(json.dumps(specification))
    both_refuse(tmp_path / "shape", inputs, "has shape (60, 48); the configuration asks for (61, 48)")


def test_stray_files_beside_the_weights(tmp_path: Path) -> None:
    config = config_of("llama")
    tensors, inputs, folder = drawn(config), write_file(tmp_path / "inputs.json", config), tmp_path / "dir"
    write_directory(folder, config, tensors)
    plain, whole = both(folder, inputs), folder / "model.safetensors"
    strays = ("consolidated.safetensors", "adapter_model.safetensors", "consolidated.00.safetensors", "z.safetensors")
    for name in strays:
        write_safetensors(folder / name, {"x": ("F32", (1,))}, [("x", np.ones(1, np.float32))])
        np.testing.assert_array_equal(both(folder, inputs), plain)
    # An index of shards that aren't there any more doesn't matter either: the whole file comes first.
    index = folder / "model.safetensors.index.json"
    index.write_text(json.dumps({"weight_map": {"x": "model-00001-of-00002.safetensors"}}))
    np.testing.assert_array_equal(both(folder, inputs), plain)
    whole.rename(folder / "model-00001-of-00002.safetensors")
    np.testing.assert_array_equal(both(folder, inputs), plain)
    index.unlink()
    both_refuse(folder, inputs, "2 safetensors files but no model.safetensors.index.json")
    (folder / "z.safetensors").unlink()
    np.testing.assert_array_equal(both(folder, inputs), plain)  # the only one that isn't a stray
    (folder / "model-00001-of-00002.safetensors").unlink()
    both_refuse(folder, inputs, ", but no model.safetensors: that is no whole model")


@pytest.mark.parametrize("name", ["config.json", "model.safetensors", "model.safetensors.index.json"])
def test_pointers_are_named(name: str, tmp_path: Path) -> None:
    config = config_of("llama")
    write_directory(tmp_path / "dir", config, drawn(config))
    inputs = write_file(tmp_path / "inputs.json", config)
    (tmp_path / "dir" / name).write_text(POINTER)
    both_refuse(tmp_path / "dir", inputs, f"{name} is a Git LFS pointer, not the file itself: fetch it with `git lfs")
    inputs.write_text(POINTER)
    both_refuse(inputs, inputs, "inputs.json is a Git LFS pointer")


STRETCHED: dict[str, Callable[[], dict[str, Any]]] = {
    "dynamic": lambda: config_of("rope-dynamic"),  # 24 positions
    "linear": lambda: config_of("rope-linear") | {"max_position_embeddings": 24},
    "yarn": lambda: config_of("rope-yarn") | {"max_position_embeddings": 16},
}


@pytest.mark.parametrize("case", STRETCHED)
def test_inputs_beyond_the_plain_positions(case: str, tmp_path: Path) -> None:
    config = STRETCHED[case]()
    given = inputs_of(50, padded=False)
    file = write_file(tmp_path / "model.json", config, given)
    write_directory(tmp_path / "dir", config, drawn(config))
    np.testing.assert_array_equal(both(tmp_path / "dir", file, given), logits_of(file))
    table = json.loads(file.read_text())["rope"]["cos"]
    assert table["shape"] == [50, 8]  # for readers that don't compute it


def test_inputs_beyond_what_the_rotary_embedding_is_made_for(tmp_path: Path) -> None:
    assert "rope-yarn" in CONFIGS
    for case, longest in (("linear", 72), ("yarn", 64)):
        config = STRETCHED[case]()
        file = write_file(tmp_path / f"{case}.json", config, inputs_of(longest + 1, padded=False))
        assert f"the model has {longest} positions" in refused(file)
        with pytest.raises(CutsetError, match=f"the model has {longest} positions"):
            open_source(file)
