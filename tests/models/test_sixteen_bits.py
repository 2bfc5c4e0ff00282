"""Weights keep the precision they came in: 16 bits in memory, and the results of the same floats in 32, bit for bit but
for bfloat16 on AMX, whose sums have another order and are no less exact."""

from __future__ import annotations

from collections.abc import Mapping
from dataclasses import replace
from pathlib import Path
from typing import Any

import numpy as np
import pytest
from numpy.typing import NDArray

from cutset import LLM, SamplingParams
from cutset.kernels import native
from cutset.models.files.checkpoint import Checkpoint
from cutset.models.files.contents import contents_of
from cutset.models.files.source import open_source
from cutset.models.files.tensor import Tensor
from cutset.models.files.writer import write_safetensors
from cutset.models.random import RandomModel
from cutset.models.run.executor import Batch
from cutset.models.run.native import NativeDecoder
from cutset.models.spec import MoESpec
from models.test_grouped_models import SPECS as CODED
from models.test_grouped_models import codes_of
from models.test_native import BLOCKS, LENS, MIXTURE, SPECS, batch_of, tensors_of

MANY = replace(MIXTURE, moe=MoESpec(experts=80, top_k=3, intermediate=24, normalise=True))
KINDS = {
    "BF16": lambda name: "BF16",
    "F16": lambda name: "F16",
    # What stands in one product differs: q, k and v, and gate and up.
    "mixed": lambda name: "F32" if "v_proj" in name or "up_proj" in name else "F16" if "k_proj" in name else "BF16",
}


def narrowed(values: NDArray[np.float32], dtype: str) -> NDArray[Any]:
    """The values rounded to a type of safetensors (bfloat16 towards zero), as `Tensor.raw` has them."""
    if dtype == "BF16":
        return (np.ascontiguousarray(values).view(np.uint32) >> 16).astype(np.uint16)
    return values.astype({"F16": np.float16, "F32": np.float32}[dtype])


def narrow(tensors: Mapping[str, Tensor], kind: str) -> dict[str, Tensor]:
    found = {}
    for name, tensor in tensors.items():
        dtype = KINDS[kind](name)
        found[name] = Tensor(name, tensor.file, dtype, narrowed(tensor.float32(), dtype))
    return found


def wide(tensors: Mapping[str, Tensor]) -> dict[str, Tensor]:
    """The same numbers in float32."""
    return {
        name: Tensor(name, tensor.file, "F32", np.ascontiguousarray(tensor.float32()))
        for name, tensor in tensors.items()
    }


def logits(decoder: NativeDecoder) -> NDArray[np.float32]:
    """Of prefills, and of single tokens after them."""
    cache = decoder.new_cache(BLOCKS, 16)
    ends = [n - 1 if n > 1 else n for n in LENS]
    prefill = decoder.forward(batch_of([(s, 0, end) for s, end in enumerate(ends)]), cache)
    decode = decoder.forward(batch_of([(s, n - 1, n) for s, n in enumerate(LENS) if n > 1]), cache)
    return np.concatenate([prefill, decode])


def same(ours: NDArray[np.float32], theirs: NDArray[np.float32]) -> None:
    assert np.isfinite(ours).all()
    assert np.abs(ours).max() > 0.1
    np.testing.assert_array_equal(ours.view(np.uint32), theirs.view(np.uint32))


def alike(ours: NDArray[np.float32], theirs: NDArray[np.float32], kind: str, most: float = 1e-5) -> None:
    """The logits of weights in 16 bits, and of the same numbers in float32; `most` apart in another order of sums."""
    if native.isa() == "amx" and kind != "F16":
        assert np.abs(ours - theirs).max() <= most * np.abs(theirs).max()
    else:
        same(ours, theirs)


@pytest.mark.parametrize("kind", KINDS)
@pytest.mark.parametrize("name", [*SPECS, "many-experts"])
def test_logits_are_those_of_the_same_floats(name: str, kind: str) -> None:
    spec = MANY if name == "many-experts" else SPECS[name]
    tensors = narrow(tensors_of(spec), kind)
    pool = native.Pool(2)
    alike(logits(NativeDecoder(spec, tensors, pool)), logits(NativeDecoder(spec, wide(tensors), pool)), kind)


@pytest.mark.parametrize("isa", native.available_isas())
def test_on_every_instruction_set(isa: str) -> None:
    before = native.isa()
    native.select_isa(isa)
    try:
        for kind in KINDS:
            tensors = narrow(tensors_of(SPECS["tied"]), kind)
            ours, theirs = (NativeDecoder(SPECS["tied"], each, native.Pool(1)) for each in (tensors, wide(tensors)))
            alike(logits(ours), logits(theirs), kind)
    finally:
        native.select_isa(before)


@pytest.mark.parametrize("kind", ["BF16", "F16"])
@pytest.mark.parametrize("name", ["dense", "tied", "mixture", "layers-told-of-tokens"])
def test_packed_weights_take_half(name: str, kind: str) -> None:
    spec, pool = SPECS[name], native.Pool(1)
    tensors = narrow(tensors_of(spec), kind)
    ours, theirs = (NativeDecoder(spec, each, pool).linears for each in (tensors, wide(tensors)))
    assert isinstance(ours, native.LocalLinears)
    assert isinstance(theirs, native.LocalLinears)
    if kind == "F16":
        assert 0 < 2 * ours.nbytes == theirs.nbytes
    else:  # whose columns are padded to a multiple of 32
        assert theirs.nbytes <= 2 * ours.nbytes < 1.8 * theirs.nbytes


def test_floats_among_codes_keep_their_bits_too() -> None:
    spec = CODED["tied"]
    coded = codes_of(spec)
    for kind in ("BF16", "F16"):
        floats = {name: tensor for name, tensor in coded.items() if type(tensor) is Tensor}
        ours = coded | narrow(floats, kind)
        pool = native.Pool(2)
        found = [NativeDecoder(spec, each, pool, dtype="stored") for each in (ours, ours | wide(narrow(floats, kind)))]
        alike(logits(found[0]), logits(found[1]), kind, most=1e-3)  # beside codes, rows are rounded to 12 bits
        sizes = [one.linears.nbytes for one in found if isinstance(one.linears, native.LocalLinears)]
        assert sizes[0] < sizes[1]


def test_the_glue_of_products_elsewhere_stays_float32() -> None:
    """The client of an offload looks rows up in memory of its own, not in the file."""
    spec = SPECS["dense"]
    tensors = narrow(tensors_of(spec), "BF16")
    local = NativeDecoder(spec, tensors, native.Pool(1))

    def multiply(site: Any, layer: int, expert: int, rows: Any, out: Any) -> None:
        weights = [tensors[name].raw for name in spec.site_tensors(site, layer, expert)]
        native.LinearF32(weights)(np.ascontiguousarray(rows), out)

    split = NativeDecoder(spec, tensors, native.Pool(1), multiply)
    wanted = logits(local)
    for name, tensor in tensors.items():
        if "embed" in name:
            tensor.raw[...] = 0
    same(logits(split), wanted)
    assert not np.array_equal(logits(local), wanted)  # which looks them up where they lie


def write(folder: Path, model: RandomModel, kind: str, pad: int = 0) -> Path:
    """A random model in 16 bits; `pad` more bytes in the file's header move the tensors."""
    model.write_checkpoint(folder)
    stored = narrow(Checkpoint(folder), kind)
    layout = {name: (tensor.dtype, tensor.shape) for name, tensor in stored.items()}
    path = folder / "model.safetensors"
    path.unlink()
    write_safetensors(path, layout, ((name, tensor.raw) for name, tensor in stored.items()), {"format": "pt"})
    if pad:
        content = path.read_bytes()
        length = int.from_bytes(content[:8], "little")
        head = content[8 : 8 + length] + b" " * pad
        path.write_bytes(len(head).to_bytes(8, "little") + head + content[8 + length :])
    return folder


@pytest.mark.parametrize("kind", ["F32", "BF16", "F16"])
def test_tensors_at_odd_places_of_a_file(kind: str, tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setitem(KINDS, "F32", lambda name: "F32")
    ids = np.random.default_rng(0).integers(0, 128, (2, 19)).astype(np.int32)
    model = RandomModel(vocab=128, hidden=32, layers=1, tied=True)
    found = []
    for pad in (0, 1, 2, 3):
        source = open_source(write(tmp_path / str(pad), model, kind, pad))
        decoder = NativeDecoder(source.spec, source.tensors, native.Pool(1))
        source.forget()
        found.append(decoder.forward(Batch.whole(ids, 16), decoder.new_cache(8, 16)))
    for other in found[1:]:
        same(found[0], other)


@pytest.mark.parametrize("tied", [True, False])
@pytest.mark.parametrize("kind", ["BF16", "F16"])
def test_greedy_tokens_are_those_of_transformers_in_float32(kind: str, tied: bool, tmp_path: Path) -> None:
    torch = pytest.importorskip("torch")
    transformers = pytest.importorskip("transformers")
    model = RandomModel(
        vocab=301, hidden=72, layers=2, heads=6, kv_heads=3, intermediate=100, qk_norm=True, tied=tied, max_pos=256
    )
    folder = write(tmp_path / "model", model, kind)
    prompt = [5, 9, 2, 77, 300, 41]
    theirs = transformers.AutoModelForCausalLM.from_pretrained(folder, dtype=torch.float32)
    with torch.inference_mode():
        wanted = theirs.generate(
            torch.tensor([prompt]), max_new_tokens=64, min_new_tokens=64, do_sample=False, eos_token_id=None
        )[0, len(prompt) :].tolist()
    with LLM(folder, threads=1) as llm:
        assert llm.executor.spec.tied == tied
        params = SamplingParams(temperature=0, max_tokens=64, ignore_eos=True)
        found = llm.generate([prompt], params)[0].outputs[0].token_ids
    assert list(found) == wanted


def test_what_a_directory_holds_is_said(tmp_path: Path) -> None:
    folder = write(tmp_path / "model", RandomModel(vocab=128, hidden=32, layers=1), "BF16")
    found = contents_of(folder)
    assert found.bits == 16
    assert [kind.name for kind in found.kinds] == ["BF16"]
    assert found.kinds[0].nbytes == 2 * found.spec.parameter_count()


def test_wrong_floats_are_refused() -> None:
    with pytest.raises(ValueError, match="of one type"):
        native.LinearF32([np.ones((2, 3), np.float32), np.ones((2, 3), np.float16)])
    with pytest.raises(ValueError, match=r"weight must have shape \(2, 3\)"):
        native.LinearF32([np.ones((2, 3), np.float16), np.ones((2, 4), np.float16)])
    with pytest.raises(ValueError, match="there must be a weight"):
        native.LinearF32([])
    with pytest.raises(ValueError, match="float32, float16 or uint16"):
        native.LinearF32(np.ones((2, 3), np.int16))
