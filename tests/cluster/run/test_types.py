"""Results keep their meaning, whatever dtype a module returns, and whatever it returns: its own picture too."""

from __future__ import annotations

import os
from collections.abc import Callable
from dataclasses import replace
from typing import Any

import numpy as np
import pytest

torch = pytest.importorskip("torch")
from torch import Tensor, nn

from cluster.run.pictures import moving
from cutset.cli import main
from cutset.cluster.launch.local import LocalWorkers
from cutset.errors import RequestError
from cutset.partition.plan import Plan, StagePlan
from cutset.stream import Stream
from cutset.video.check import ResultCheck, difference
from cutset.video.result import Result
from cutset.video.torch_model import TorchModel
from video.networks import filled

LOGITS = [0.25, -1.5, 0.5, 1.0, 0.125]


class Returns(nn.Module):
    def __init__(self, does: Callable[[Any, Tensor], Any]) -> None:
        super().__init__()
        self.does = does
        self.conv = nn.Conv2d(3, 5, 3, padding=1)
        self.logits: Tensor
        self.register_buffer("logits", torch.tensor([LOGITS]))

    def forward(self, x: Tensor) -> Any:
        return self.does(self, self.conv(x.float() / 255) if x.dtype == torch.uint8 else x, x)


def classes(dtype: torch.dtype) -> Callable[[Any, Tensor, Tensor], Tensor]:
    """The same classes for every picture, which add nothing to them."""

    def does(m: Any, y: Tensor, x: Tensor) -> Tensor:
        logits: Tensor = (m.logits + 0 * y.mean((2, 3))).to(dtype)
        return logits

    return does


def played(
    does: Any, workers: LocalWorkers, pictures: list[Any], **how: Any
) -> tuple[list[Result], ResultCheck, Returns]:
    """Results over all workers, each checked against the module."""
    module = filled(Returns(does))
    assert isinstance(module, Returns)
    module.logits.copy_(torch.tensor([LOGITS]))
    with Stream(module, pictures, workers=workers.addresses, **how) as stream:
        results = list(stream)
        check = ResultCheck(stream.model)
    assert [result.picture for result in results] == list(range(len(pictures)))
    for result in results:
        check.compare(result)
    return results, check, module


@pytest.mark.parametrize("dtype", ["bfloat16", "float16", "float32", "float64"])
def test_classes_of_every_dtype(workers: LocalWorkers, dtype: str) -> None:
    results, check, _ = played(classes(getattr(torch, dtype)), workers, moving(3))
    for result in results:
        assert result.output.dtype.name == ("float32" if dtype == "bfloat16" else dtype)
        assert result.output.tolist() == [LOGITS]
        (best, share), *_ = result.top(1)
        assert (best, round(share, 3)) == (3, 0.388)
    assert check.exact


def kinds(m: Any, y: Tensor, x: Tensor) -> Any:
    whole = [(100 * y).to(getattr(torch, name))[:, ::2] for name in ("int8", "int16", "int32", "int64", "uint8")]
    return [y > y.mean(), *whole, y.to(torch.bfloat16).transpose(1, 2), y.half(), y.double()]


NAMES = ["bool", "int8", "int16", "int32", "int64", "uint8", "float32", "float16", "float64"]


@pytest.mark.parametrize("mode", ["delta", "full"])
def test_every_dtype_keeps_its_meaning(workers: LocalWorkers, mode: str) -> None:
    pictures = moving(4)
    results, check, module = played(kinds, workers, pictures, mode=mode)
    for result, pixels in zip(results, pictures, strict=True):
        with torch.no_grad():
            right = module(torch.from_numpy(pixels))
        found = list(result.outputs.values())
        assert [array.dtype.name for array in found] == NAMES
        for array, tensor in zip(found, right, strict=True):
            assert np.array_equal(array, (tensor.float() if tensor.dtype == torch.bfloat16 else tensor).numpy())
        assert 0 < found[0].mean() < 1, "a mask of one value would prove nothing"
    assert check.exact
    assert "all 4 pictures have the bits" in check.line()


def test_numbers_of_classes_are_not_pixels(workers: LocalWorkers) -> None:
    """--levels leaves out changes of pixels; a map of classes in uint8 crosses a hop too, and must be right."""
    pictures, module = moving(6), filled(Returns(lambda m, y, x: (y.argmax(1).to(torch.uint8), x * 2)))
    model = TorchModel.of(module, (1, 3, 12, 14))
    last = len(model.graph.nodes) - 1
    plan = Plan(model.digest, (StagePlan("worker1", tuple(range(last))), StagePlan("worker2", (last,))))
    assert any(model.graph.values[name].dtype == "uint8" for name in plan.edges(model.graph)[1][1:])
    with Stream(model, pictures, workers=workers.addresses, plan=plan, levels=60) as stream:
        results = list(stream)
    shown = [(result.outputs[model.graph.outputs[1]] // 2).astype(np.uint8) for result in results]
    assert any(not np.array_equal(found, p % 128) for found, p in zip(shown, pictures, strict=True)), "none left out"
    assert {int(value) for result in results for value in np.unique(result.output)} <= set(range(5))


@pytest.mark.parametrize(
    ("does", "names"),
    [
        (lambda m, y, x: x, ["x.clone"]),
        (lambda m, y, x: (x, y), ["x", "conv"]),
        (lambda m, y, x: (y, x), ["conv", "x"]),
        (lambda m, y, x: (y, y), ["conv"]),
        (lambda m, y, x: {"a": y, "b": [y.mean(), (torch.arange(4), x)]}, ["conv", "mean", "arange.clone", "x"]),
        (lambda m, y, x: torch.linspace(0, 1, 5), ["linspace.clone"]),
        (
            lambda m, y, x: (y.sum(), y[:, :0], y + torch.cat([torch.zeros(0), torch.eye(1)[0]])),
            ["sum", "slice", "add"],
        ),
    ],
)
def test_any_outputs_come_back(workers: LocalWorkers, does: Any, names: list[str]) -> None:
    pictures = moving(4)
    results, check, module = played(does, workers, pictures)
    assert check.exact
    for result, pixels in zip(results, pictures, strict=True):
        assert list(result.outputs) == names
        with torch.no_grad():
            right = torch.utils._pytree.tree_leaves(module(torch.from_numpy(pixels)))
        for array, tensor in zip(result.outputs.values(), dict.fromkeys(right), strict=True):
            assert np.array_equal(array, tensor.numpy())


def test_a_picture_alone_on_one_worker(workers: LocalWorkers) -> None:
    pictures = moving(3)
    model = TorchModel.of(Returns(lambda m, y, x: x), (1, 3, 12, 14))
    with Stream(model, pictures, workers=[workers.addresses["worker2"][0]]) as stream:
        assert all(np.array_equal(r.output, p) for r, p in zip(stream, pictures, strict=True))


@pytest.mark.parametrize("dtype", ["bool", "int8", "int64", "float16", "float64", ">f4", "bfloat16"])
def test_pictures_of_other_dtypes(workers: LocalWorkers, dtype: str) -> None:
    if dtype == "bfloat16":
        dtype = pytest.importorskip("ml_dtypes").bfloat16
    pictures = [(picture[0] > 99).astype(dtype) for picture in moving(3)]
    results, check, _ = played(lambda m, y, x: (x.float().sum(), x), workers, pictures)
    assert check.exact
    assert all(np.array_equal(r.outputs["x"][0], p.astype(np.float32)) for r, p in zip(results, pictures, strict=True))


@pytest.mark.parametrize("dtype", ["complex64", "uint16", "object", "S3"])
def test_pictures_that_can_not_be_sent_are_refused(dtype: str) -> None:
    with pytest.raises(RequestError, match=r"pictures of dtype .* can't be sent"):
        Stream(Returns(lambda m, y, x: x), [np.zeros((3, 4, 4), dtype)])


def test_a_check_compares_with_the_module_and_every_bit() -> None:
    module = filled(Returns(lambda m, y, x: y.mean((2, 3))))
    model = TorchModel.of(module, (1, 3, 12, 14))
    pixels = moving(1)[0]
    with torch.no_grad():
        right = module(torch.from_numpy(pixels)).numpy()
    result = Result(0, 0, 0.0, {model.graph.outputs[0]: right}, "", 1, 0.0, 0.0, 0.0, 1, pixels)
    check = ResultCheck(model)
    assert check.compare(result) == 0
    assert check.exact
    near = replace(result, outputs={model.graph.outputs[0]: np.nextafter(right, np.float32(9))})
    error = check.compare(near)
    assert error is not None
    assert 0 < error < 1e-6
    assert not check.exact
    assert "1 of 2 pictures have the bits" in check.line()
    # The graph and its weights are not what is compared with.
    for tensor in model.tensors.values():
        tensor.data = tensor.data.clone().zero_()
    assert ResultCheck(model).compare(result) == 0


def test_a_run_with_another_bit_ends_with_1(
    workers: LocalWorkers, monkeypatch: pytest.MonkeyPatch, capsys: pytest.CaptureFixture[str]
) -> None:
    for name in ("OMP_NUM_THREADS", "MKL_NUM_THREADS"):
        monkeypatch.setenv(name, os.environ.get(name, "1"))
    addresses = ",".join(address for address, _ in workers.addresses.values())
    command = ["stream", "run", "alexnet", "--source", "generated:64x64,pictures=3", "--scheduler", "even", "--quiet"]
    command += ["--workers", addresses, "--check"]
    assert main(command) == 0
    run = TorchModel.run

    def off(self: TorchModel, picture: Any) -> Any:
        found = run(self, picture)
        return {name: np.nextafter(array, np.float32(9)) for name, array in found.items()}

    monkeypatch.setattr(TorchModel, "run", off)
    assert main(command) == 1
    assert "0 of 3 pictures have the bits" in capsys.readouterr().err
    assert main([*command, "--threshold", "0.001"]) == 0, "what may be off isn't held to the bit"


def test_differences_of_every_dtype() -> None:
    def apart(one: Any, other: Any) -> tuple[float, float, bool]:
        return difference({"a": np.asarray(one)}, {"a": np.asarray(other)})

    assert apart([True, False], [True, False]) == (0, 0, True)
    assert apart([True, True], [True, False]) == (1, 1, False)
    big = np.array([2**62, 5], np.int64)
    assert apart(big + np.array([1, 0]), big) == (1, 1 / 2**62, False), "float64 takes them for equal"
    ends = np.array([-(2**63), 2**63 - 1], np.int64)
    assert apart(ends, ends[::-1])[0] == float(2**64 - 1)
    assert apart(np.array([3, 250], np.uint8), np.array([250, 3], np.uint8)) == (247, 247 / 250, False)
    half = np.array([1.0, 65504.0], np.float16)
    assert apart(half, np.array([0.5, 65504.0], np.float16)) == (0.5, 0.5 / 65504, False)
    inf = np.array([-np.inf, 1.0, np.nan], np.float32)
    assert apart(inf + np.float32([0, 0.5, 0]), inf) == (0.5, 0.5, False), "infinities on both sides are no error"
    assert apart(np.float32([-np.inf, 1, 2]), inf)[0] == np.inf
    assert apart(np.float32([5, 1, np.nan]), inf)[1] == np.inf
    assert apart(np.zeros(2, np.float32), np.zeros(2, np.int32)) == (np.inf, np.inf, False)
    assert apart(np.zeros((0, 3)), np.zeros((0, 3))) == (0, 0, True)


def test_the_best_of_nothing_is_nothing() -> None:
    result = Result(0, 0, 0.0, {"a": np.zeros((1, 0))}, "", 1, 0.0, 0.0, 0.0, 1, np.zeros(1))
    assert result.top() == []
