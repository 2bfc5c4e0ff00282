"""What computes stages beside torch: within the tolerance of the reference, the same bits every time, no silent CPU."""

from __future__ import annotations

import sys
from collections.abc import Mapping
from dataclasses import replace
from pathlib import Path
from typing import Any

import numpy as np
import pytest

pytest.importorskip("onnxruntime")
pytest.importorskip("openvino")
torch = pytest.importorskip("torch")

from cluster.run.pictures import moving, small_model
from cutset.cli import main
from cutset.errors import ConfigError, DeviceError, GraphError
from cutset.partition.plan import Plan, StagePlan, read_plan, write_plan
from cutset.video import runtimes
from cutset.video.check import ResultCheck, range_error
from cutset.video.network_model import NetworkModel
from cutset.video.onnx_model import OnnxModel
from cutset.video.plan_pieces import Pieces
from cutset.video.profile.setup import measure_profile, network_run
from cutset.video.runtimes import FUSED, open_stage
from cutset.video.runtimes.choose import choose_runtime, stamped
from cutset.video.worker_runtime import VideoRuntime
from video.onnx_networks import detector, picture, quantised, save

TOLERANCE = 1e-4


@pytest.fixture(scope="module")
def model(tmp_path_factory: pytest.TempPathFactory) -> OnnxModel:
    return OnnxModel.of(save(detector(), tmp_path_factory.mktemp("onnx") / "net.onnx"))


def in_thirds(model: NetworkModel, pixels: Any, runtime: str, threads: int = 1) -> dict[str, Any]:
    graph, values = model.graph, {model.graph.inputs[0].name: pixels}
    count = len(graph.nodes)
    for first, last in ((0, count // 3), (count // 3, 2 * count // 3), (2 * count // 3, count)):
        values |= open_stage(graph, range(first, last), model.tensors, runtime, threads=threads).run(0, values)
    return {name: values[name] for name in graph.outputs}


@pytest.mark.parametrize("runtime", [FUSED, "openvino"])
@pytest.mark.parametrize("threads", [1, 2])
def test_fused_stages_are_near_and_the_same_every_time(model: OnnxModel, runtime: str, threads: int) -> None:
    pixels = picture()
    found = in_thirds(model, pixels, runtime, threads)
    assert range_error(found, model.run(pixels)) <= TOLERANCE
    assert all(np.ptp(array) > 0 for array in found.values())
    again = in_thirds(model, pixels, runtime, threads)
    assert {name: array.tobytes() for name, array in again.items()} == {n: a.tobytes() for n, a in found.items()}
    other = in_thirds(model, picture(seed=2), runtime, threads)
    assert range_error(other, found) > 0.01, "results that don't depend on the picture"


@pytest.mark.parametrize("runtime", [FUSED, "openvino"])
def test_quantised_weights_run_everywhere(runtime: str, tmp_path: Path) -> None:
    """Rounding to a step is exact or one step off: fused kernels may round the other way at a boundary."""
    quantum = OnnxModel.of(save(quantised(), tmp_path / "small.onnx"))
    wanted, found = quantum.run(picture())["out"], in_thirds(quantum, picture(), runtime)["out"]
    assert np.abs(found - wanted).max() <= 0.05
    assert (found != wanted).mean() < 0.5


def test_a_torch_network_by_openvino() -> None:
    network, pixels = small_model(), moving(1)[0]
    name = network.graph.inputs[0].name
    found = open_stage(network.graph, range(len(network.graph.nodes)), network.tensors, "openvino").run(
        0, {name: pixels}
    )
    assert range_error(found, network.run(pixels)) <= TOLERANCE


@pytest.mark.slow
def test_a_cut_torch_network_by_openvino() -> None:
    network, pixels = small_model(), moving(1)[0]
    assert range_error(in_thirds(network, pixels, "openvino"), network.run(pixels)) <= TOLERANCE


@pytest.mark.slow
def test_a_torch_network_by_onnxruntime() -> None:
    pytest.importorskip("onnxscript")
    network, pixels = small_model(), moving(1)[0]
    assert range_error(in_thirds(network, pixels, FUSED), network.run(pixels)) <= TOLERANCE


def test_nodes_one_by_one_have_the_same_bits(model: OnnxModel) -> None:
    graph, given = model.graph, {model.graph.inputs[0].name: picture()}
    seconds: list[float] = []
    stage = open_stage(graph, range(len(graph.nodes)), model.weights, by_node=True)
    found = stage.run(0, given, seconds.append)
    assert len(seconds) == len(graph.nodes)
    assert all(second >= 0 for second in seconds)
    assert {n: a.tobytes() for n, a in found.items()} == {n: a.tobytes() for n, a in model.run(picture()).items()}
    whole = open_stage(graph, range(len(graph.nodes)), model.weights)
    whole.run(0, given, seconds.append)
    assert len(seconds) == len(graph.nodes), "a session that runs all nodes observes none"


def test_layers_are_timed_by_the_reference(model: OnnxModel) -> None:
    graph = model.graph
    seen: list[float] = []
    for runtime in ("", FUSED, "openvino"):
        network_run(graph, model.tensors, runtime)(seen.append)
        assert len(seen) == len(graph.nodes)
        seen.clear()
    exact = measure_profile("net", graph, model.digest, model.tensors, threads=1)
    fused = measure_profile("net", graph, model.digest, model.tensors, threads=1, runtime=FUSED)
    assert set(exact.versions) == {"cutset", "onnxruntime"}
    assert fused.versions["runtime"] == FUSED
    assert len(fused.seconds) == len(graph.nodes)
    assert sum(fused.seconds) == pytest.approx(fused.whole)


def test_what_is_not_there_is_an_error(model: OnnxModel, monkeypatch: pytest.MonkeyPatch) -> None:
    nodes, graph = range(len(model.graph.nodes)), model.graph
    for device, words in (("cuda", "no CUDA"), ("cuda:x", "computes on"), ("tpu", "computes on")):
        with pytest.raises(DeviceError, match=words):
            open_stage(graph, nodes, model.weights, device=device)
    for device, words in (("gpu:9", "finds"), ("cuda", "computes on cpu, gpu"), ("gpu:x", "computes on")):
        with pytest.raises(DeviceError, match=words):
            open_stage(graph, nodes, model.weights, "openvino", device=device)
    with pytest.raises(DeviceError, match="finds"):
        VideoRuntime(1, "gpu:9")
    with pytest.raises(ConfigError, match="no runtime 'tensorrt'"):
        open_stage(graph, nodes, model.weights, "tensorrt")
    monkeypatch.setattr(runtimes, "installed", lambda name: False)
    with pytest.raises(DeviceError, match=r"openvino isn't installed here: pip install 'cutset\[openvino\]'"):
        open_stage(graph, nodes, model.weights, "openvino")
    with pytest.raises(DeviceError, match=r"onnxruntime isn't installed here: pip install 'cutset\[onnx\]'"):
        open_stage(graph, nodes, model.weights)


def test_the_quickest_that_keeps_the_promise(model: OnnxModel, monkeypatch: pytest.MonkeyPatch) -> None:
    told: list[str] = []
    assert choose_runtime(model, "auto", 0.0, 1, told.append) == ""
    assert choose_runtime(small_model(), "auto", 0.0, 1) == ""
    assert not told, "the bits of the network in one piece: nothing to choose"
    assert choose_runtime(model, "onnxruntime", 0.0, 1) == ""
    assert choose_runtime(model, "onnxruntime", 1e-4, 1) == FUSED
    assert choose_runtime(model, "openvino", 0.0, 1) == "openvino"
    assert choose_runtime(small_model(), "torch", 1e-4, 1) == ""
    chosen = choose_runtime(model, "auto", TOLERANCE, 1, told.append)
    assert chosen in ("", "torch", FUSED, "openvino")
    assert [line.split(":")[0] for line in told[:3]] == ["onnxruntime", "torch", "onnxruntime, layers fused"]
    assert told[-1] == f"stages are computed by {chosen.partition('+')[0] or 'onnxruntime'}"
    for times, best in (((2.0, 3, 1.5, 1.0), "openvino"), ((2, 3, 1.0, 1.5), FUSED), ((1.0, 3, 1.5, 2), "")):

        def taken(runs: Mapping[str, Any], times: Any = times) -> dict[str, float]:
            return dict(zip(runs, times, strict=True))

        monkeypatch.setattr("cutset.video.runtimes.choose.in_turns", taken)
        assert choose_runtime(model, "auto", TOLERANCE, 1) == best
    monkeypatch.setattr("cutset.video.runtimes.choose.in_turns", lambda runs: dict.fromkeys(runs, 1.0))
    monkeypatch.setattr("cutset.video.runtimes.choose._error", lambda model, stage: 1e-3)
    told.clear()
    assert choose_runtime(model, "auto", TOLERANCE, 1, told.append) == "", "the reference keeps every promise"
    assert sum("more than the tolerance" in line for line in told) == 3
    with pytest.raises(ConfigError, match=r"openvino is off by 1.0e-03 .* more than --tolerance 0\.0001"):
        choose_runtime(model, "openvino", TOLERANCE, 1)


def test_plans_name_what_computes_their_stages() -> None:
    plan = Plan("0" * 64, (StagePlan("a", (0, 1)), StagePlan("b", (2,), "openvino")))
    assert stamped(plan, "") == plan
    assert [stage.runtime for stage in stamped(plan, FUSED).stages] == [FUSED, "openvino"]
    assert read_plan(write_plan(stamped(plan, FUSED))) == stamped(plan, FUSED)
    assert b"runtime" not in write_plan(replace(plan, stages=plan.stages[:1])), "earlier versions read it"


class Of:
    """A result of a plan, as far as it is compared."""

    dropped, pixels, plan = "", picture(), 2
    outputs: dict[str, Any]


def test_a_plans_cuts_in_one_place(model: OnnxModel) -> None:
    count = len(model.graph.nodes)
    cut = Plan(
        "", (StagePlan("a", tuple(range(count // 2)), "openvino"), StagePlan("b", tuple(range(count // 2, count))))
    )
    whole = Plan("", (StagePlan("a", tuple(range(count)), "torch"),))
    pieces = Pieces(model, lambda: [(1, whole, ""), (2, cut, "")])
    values = {model.graph.inputs[0].name: picture()}
    for stage in cut.stages:
        values |= open_stage(model.graph, stage.nodes, model.weights, stage.runtime).run(0, values)
    right, wrong = Of(), Of()
    right.outputs = {name: values[name] for name in model.graph.outputs}
    wrong.outputs = {name: array.copy() for name, array in right.outputs.items()}
    wrong.outputs["boxes"].reshape(-1)[3] += np.float32(1e-3)
    check = ResultCheck(model, 0.0, pieces)
    check.compare(right)
    assert check.exact
    assert check.line() == "check: all 1 pictures have the bits of the network with the same cuts"
    check.compare(wrong)
    assert not check.exact
    lost = Of()
    lost.plan = 3
    with pytest.raises(GraphError, match="plan 3 isn't known"):
        check.compare(lost)


def test_a_check_within_a_tolerance(model: OnnxModel) -> None:
    wanted = model.run(picture())

    class Some:
        dropped, pixels = "", picture()
        outputs: dict[str, Any]

    near, far = Some(), Some()
    near.outputs = {name: array + np.float32(np.ptp(array) * 5e-5) for name, array in wanted.items()}
    far.outputs = {name: array + np.float32(np.ptp(array) * 5e-3) for name, array in wanted.items()}
    check = ResultCheck(model, 1e-4)
    check.compare(near)
    assert check.kept
    assert not check.exact
    check.compare(far)
    assert not check.kept
    assert "1 of 2 pictures are within 0.0001 of the output's range" in check.line()


def test_the_range_is_that_of_all_pictures() -> None:
    """A picture in which nothing is found has an output of almost nothing."""

    class Given:
        dropped, pixels = "", picture()
        outputs: dict[str, Any]

    outputs = iter([{"out": np.float32([0, 1e-4])}, {"out": np.float32([0, 1])}])
    quiet, busy = Given(), Given()
    quiet.outputs, busy.outputs = {"out": np.float32([0, 1.1e-4])}, {"out": np.float32([0, 1.00001])}
    check = ResultCheck(small_model(), 1e-4, lambda result: next(outputs))
    check.compare(quiet)
    assert not check.kept
    check.compare(busy)
    assert check.kept
    assert not check.exact


def test_a_workers_own_file_has_weights(tmp_path: Path, model: OnnxModel) -> None:
    find = VideoRuntime().open_weights(save(detector(), tmp_path / "net.onnx"))
    value = model.graph.weights["w1"]
    found = find("w1", value)
    assert found is not None
    assert np.array_equal(found, model.weights["w1"])
    assert find("w1", replace(value, shape=(1,))) is None
    assert find("nothing", value) is None


MODULE = """
import torch
from dataclasses import dataclass

@dataclass
class Size:
    width: int = 4

class Net(torch.nn.Module):
    def __init__(self):
        super().__init__()
        torch.manual_seed(0)
        self.conv = torch.nn.Conv2d(3, Size().width, 3)

    def forward(self, x):
        return self.conv(x.float() / 255)

def make():
    return Net()

def fails():
    raise RuntimeError("no such file")

number = 3
"""


def test_code_runs_only_where_it_is_asked_for(tmp_path: Path, capsys: pytest.CaptureFixture[str]) -> None:
    file = tmp_path / "net.py"
    file.write_text(MODULE)
    assert main(["stream", "graph", "--module", f"{file}:make", "--size", "12x14"]) == 0
    said = capsys.readouterr()
    assert "conv2d" in said.out
    assert f"runs the code of {file}: make()" in said.err
    for spec, words in (
        (f"{file}:fails", "fails with RuntimeError: no such file"),
        (f"{file}:number", "gives a torch module"),
        (f"{file}:none", "gives a torch module"),
        (f"{tmp_path}/gone.py:make", "is not a file"),
        (str(file), "FILE.py:NAME"),
    ):
        assert main(["stream", "graph", "--module", spec]) == 2
        assert words in capsys.readouterr().err
    assert main(["stream", "graph"]) == 2
    assert main(["stream", "graph", "alexnet", "--module", f"{file}:make"]) == 2
    assert main(["stream", "graph", f"{file}:make"]) == 2, "a name never runs code"
    assert "the zoo has no" in capsys.readouterr().err
    sys.modules.pop("cutset_user_module", None)
