"""`cutset quantize --bits`: what is written, how well it is rounded, and what is refused."""

from __future__ import annotations

import itertools
import json
from pathlib import Path
from typing import Any

import numpy as np
import pytest

from cutset.cli import main
from cutset.config import Settings
from cutset.models.files import compressed_writer
from cutset.models.files.checkpoint import SafetensorsFile
from cutset.models.files.error_spreading import compensation, descend, spread_errors
from cutset.models.files.group_rounding import GroupGrid, Scheme, compensated, fit_scales, nearest
from cutset.models.files.grouped import GroupedTensor
from cutset.models.files.source import open_source
from cutset.models.random import RandomModel
from cutset.models.run.backend import build_executor
from cutset.models.run.calibration import Calibration
from cutset.models.run.executor import Batch

MODELS = {
    "tied": RandomModel(hidden=64, heads=4, kv_heads=2, vocab=61, layers=2, intermediate=128),
    "mixture": RandomModel(hidden=64, heads=4, kv_heads=2, vocab=61, layers=2, experts=3, qk_norm=True, tied=False,
                           intermediate=64),
}  # fmt: skip
RNG = np.random.default_rng(5)
WEIGHT = RNG.standard_normal((48, 128), np.float32) * RNG.uniform(0.1, 2, 128).astype(np.float32)


def quantize(folder: Path | str, target: Path, *words: object) -> int:
    return main(["quantize", str(folder), "-o", str(target), *map(str, words)])


@pytest.mark.parametrize("words", [(4,), (8,), (4, "--symmetric"), (8, "--asymmetric", "--group", -1),
                                   (4, "--group", 32, "--keep-8bit", "v_proj,o_proj")])  # fmt: skip
@pytest.mark.parametrize("name", MODELS)
def test_what_is_written_is_what_rounding_gives(name: str, words: tuple[Any, ...], tmp_path: Path) -> None:
    MODELS[name].write_checkpoint(tmp_path / "float")
    assert quantize(tmp_path / "float", tmp_path / "few", "--bits", *words) == 0
    floats, few = open_source(tmp_path / "float"), open_source(tmp_path / "few")
    bits, symmetric = words[0], "--symmetric" in words or words == (8,)
    rounded = compressed_writer.matrices(floats.spec)
    assert len(rounded) > 10
    for tensor, ours in few.tensors.items():
        weight = floats.tensors[tensor].float32()
        if tensor not in rounded:
            np.testing.assert_array_equal(ours.float32(), weight)
            continue
        group = -1 if -1 in words else 32 if 32 in words else 64
        own = 8 if 32 in words and ("v_proj" in tensor or "o_proj" in tensor) else bits
        scheme = Scheme(own, weight.shape[1] if group < 0 else group, symmetric)
        assert isinstance(ours, GroupedTensor)
        assert ours.grouped().bits == own
        np.testing.assert_array_equal(ours.float32(), nearest(weight, scheme).float32())
    config = json.loads((tmp_path / "few" / "config.json").read_text())["quantization_config"]
    assert "lm_head" in config["ignore"]
    if name == "mixture":
        assert "model.layers.1.mlp.gate" in config["ignore"]
    assert len(config["config_groups"]) == (2 if 32 in words else 1)
    assert (tmp_path / "few" / "tokenizer.json").read_bytes() == (tmp_path / "float" / "tokenizer.json").read_bytes()
    executor, choice = build_executor(few, Settings(threads=1))
    assert choice.dtype == "stored"
    ids = np.arange(3, 15, dtype=np.int32).reshape(1, 12)
    assert np.isfinite(executor.forward(Batch.whole(ids, 16), executor.new_cache(1, 16))).all()


@pytest.mark.parametrize("symmetric", [False, True])
@pytest.mark.parametrize("bits", [4, 8])
def test_rounding_is_within_half_a_step(bits: int, symmetric: bool) -> None:
    found = nearest(WEIGHT, Scheme(bits, 64, symmetric), search=False)
    steps = np.repeat(found.scales.float32(), 64, axis=1)
    off = np.abs(found.float32() - WEIGHT) / steps
    assert off.max() < (1.02 if not symmetric else 0.51)  # both the ends and the zero point are rounded
    assert off.mean() < 0.26
    searched = nearest(WEIGHT, Scheme(bits, 64, symmetric))
    assert np.square(searched.float32() - WEIGHT).mean() <= np.square(found.float32() - WEIGHT).mean()


def test_a_group_of_zeros_and_small_weights() -> None:
    weight = WEIGHT.copy()
    weight[0, :64], weight[1, :64], weight[2, :64] = 0, 1e-9, 1
    for symmetric in (False, True):
        values = nearest(weight, Scheme(4, 64, symmetric)).float32()
        assert not values[0, :64].any()
        np.testing.assert_allclose(values[1, :64], 0, atol=1e-4)
        np.testing.assert_allclose(values[2, :64], 1, rtol=0.01)


@pytest.mark.parametrize("symmetric", [False, True])
def test_errors_are_compensated(symmetric: bool) -> None:
    x = RNG.standard_normal((600, 20)).astype(np.float32) @ RNG.standard_normal((20, 128)).astype(np.float32)
    x += 0.3 * RNG.standard_normal(x.shape, np.float32)
    how = compensation(x.T @ x)
    assert how is not None
    scheme = Scheme(4, 32, symmetric)
    errors = [
        np.square(x @ (weight.float32() - WEIGHT).T).mean()
        for weight in (compensated(WEIGHT, scheme, how), nearest(WEIGHT, scheme))
    ]
    assert errors[0] < 0.5 * errors[1]


@pytest.mark.parametrize("symmetric", [False, True])
def test_every_pass_lowers_the_error(symmetric: bool) -> None:
    x = RNG.standard_normal((300, 20)).astype(np.float32) @ RNG.standard_normal((20, 128)).astype(np.float32)
    x += 0.3 * RNG.standard_normal(x.shape, np.float32)
    how = compensation(x.T @ x)
    assert how is not None
    start = nearest(WEIGHT, Scheme(4, 32, symmetric))
    zeros = np.broadcast_to(np.asarray(start.zeros, np.float32), start.scales.values.shape)
    grid = GroupGrid(Scheme(4, 32, symmetric), start.scales.float32().copy(), zeros)
    codes, errors = start.codes.copy(), []

    def measure() -> None:
        off = grid.values(codes) - WEIGHT
        errors.append(float((off @ how.moments * off).sum()))

    measure()
    spread_errors(WEIGHT, how, grid, codes)
    measure()
    for _ in range(2):
        fit_scales(WEIGHT, how, grid, codes)
        measure()
        descend(WEIGHT, how, grid, codes, grid.values(codes))
        measure()
    assert all(after < before for before, after in itertools.pairwise(errors))
    assert errors[-1] < 0.8 * errors[1] < 0.5 * errors[0]
    assert codes.max() <= 15
    ours = compensated(WEIGHT, Scheme(4, 32, symmetric), how).float32() - WEIGHT
    assert (ours @ how.moments * ours).sum() < 0.9 * errors[1]


def test_few_rows_say_less() -> None:
    """What is learnt of fewer rows than columns must not make the products of others worse."""
    x = RNG.standard_normal((2000, 128)).astype(np.float32)
    few, scheme = x[:60], Scheme(4, 32, False)
    trusted, shrunk = compensation(few.T @ few), compensation(few.T @ few, len(few))
    assert trusted is not None
    assert shrunk is not None
    errors = [
        np.square(x @ (weight.float32() - WEIGHT).T).mean()
        for weight in (
            nearest(WEIGHT, scheme),
            compensated(WEIGHT, scheme, trusted),
            compensated(WEIGHT, scheme, shrunk),
        )
    ]
    assert errors[1] > 1.3 * errors[0]
    assert errors[2] < 1.15 * errors[0]
    for name in ("order", "factor", "moments"):
        all_rows, none_said = compensation(x.T @ x, len(x)), compensation(x.T @ x)
        np.testing.assert_array_equal(getattr(all_rows, name), getattr(none_said, name))


def test_no_moments_no_compensation() -> None:
    assert compensation(np.zeros((8, 8), np.float32)) is None


@pytest.mark.parametrize("room", [1 << 30, 1])
def test_moments_are_those_of_the_rows_of_each_site(room: int, monkeypatch: pytest.MonkeyPatch, tmp_path: Path) -> None:
    monkeypatch.setattr("cutset.models.run.calibration.MOST_BYTES", room)
    MODELS["tied"].write_checkpoint(tmp_path)
    source = open_source(tmp_path)
    ids = np.arange(3, 43, dtype=np.int32)
    seen: list[Any] = []
    calibration = Calibration(source.spec, source.tensors, [ids[:20], ids[20:]])
    inner = calibration._linears

    def noted(site: Any, layer: int, expert: int, rows: Any) -> Any:
        if (site, layer) == ("down", 1):
            seen.append(np.array(rows))
        return inner(site, layer, expert, rows)

    calibration._linears = noted
    for site in source.spec.sites():
        if site[0] != "lm_head":
            found = calibration.moments(site)
            assert found.shape == (source.spec.depth(*site),) * 2
            assert found.any()
    rows = np.concatenate(seen[-2:])
    np.testing.assert_allclose(found, rows.T @ rows, rtol=1e-4, atol=1e-4)


def test_a_text_calibrates(tmp_path: Path, capsys: pytest.CaptureFixture[str]) -> None:
    text = tmp_path / "text"
    text.write_text("One day a dog went to the park. He saw a big red ball. " * 60)
    assert quantize("story", tmp_path / "nearest", "--bits", 4) == 0
    assert quantize("story", tmp_path / "spread", "--bits", 4, "--calibrate", text, text) == 0
    first, second = (SafetensorsFile(tmp_path / name / "model.safetensors") for name in ("nearest", "spread"))
    assert list(first) == list(second)
    assert first.bytes.tobytes() != second.bytes.tobytes()
    text.write_text("too short")
    assert quantize("story", tmp_path / "short", "--bits", 4, "--calibrate", text) == 2
    assert "are too few to calibrate with" in capsys.readouterr().err
    assert not (tmp_path / "short").exists()


@pytest.mark.parametrize(
    ("words", "message"),
    [
        (("--group", 32), "--group needs --bits"),
        (("--symmetric",), "--symmetric needs --bits"),
        (("--keep-8bit", "v_proj"), "--keep-8bit needs --bits"),
        (("--bits", 4, "--group", 48), "groups of 48 don't divide the 64 columns"),
        (("--bits", 4, "--group", 0), "--group must be -1 or a number"),
        (("--bits", 4, "--group", -2), "--group must be -1 or a number"),
        (("--bits", 4, "--keep-8bit", "w_proj"), "no matrix is called w_proj; there are down_proj"),
    ],
)
def test_what_is_refused(
    words: tuple[Any, ...], message: str, tmp_path: Path, capsys: pytest.CaptureFixture[str]
) -> None:
    MODELS["tied"].write_checkpoint(tmp_path / "float")
    assert quantize(tmp_path / "float", tmp_path / "few", *words) == 2
    assert message in capsys.readouterr().err
    assert not (tmp_path / "few").exists()


def test_a_directory_that_holds_something_is_left_alone(tmp_path: Path, capsys: pytest.CaptureFixture[str]) -> None:
    MODELS["tied"].write_checkpoint(tmp_path / "float")
    before = sorted((tmp_path / "float").iterdir())
    assert quantize(tmp_path / "float", tmp_path / "float", "--bits", 4) == 2
    assert "is not an empty directory" in capsys.readouterr().err
    assert sorted((tmp_path / "float").iterdir()) == before


def test_nothing_stays_of_one_that_is_interrupted(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    MODELS["tied"].write_checkpoint(tmp_path / "float")
    done: list[int] = []

    def interrupted(codes: Any, bits: int) -> Any:
        done.append(bits)
        if len(done) == 5:
            raise KeyboardInterrupt
        return packed(codes, bits)

    packed = compressed_writer.packed_codes
    monkeypatch.setattr(compressed_writer, "packed_codes", interrupted)
    with pytest.raises((KeyboardInterrupt, SystemExit)):
        raise SystemExit(quantize(tmp_path / "float", tmp_path / "few", "--bits", 4))
    assert len(done) == 5
    assert not (tmp_path / "few").exists()
