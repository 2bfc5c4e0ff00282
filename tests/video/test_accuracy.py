"""Thresholds that follow from the output's error."""

from __future__ import annotations

import math
import threading

import numpy as np
import pytest

torch = pytest.importorskip("torch")

from cluster.run.pictures import moving, small_model
from cutset.cluster.messages import Report
from cutset.codec import Budget
from cutset.errors import ConfigError
from cutset.partition.plan import Plan, StagePlan
from cutset.stream import Stream
from cutset.video.accuracy import Accuracy, first_scale
from cutset.video.check import ResultCheck, difference
from cutset.video.delta.calibrator import APART, PICTURES, Calibrator
from cutset.video.result import Result
from cutset.video.torch_model import TorchModel


def test_an_error_that_grows_with_the_threshold_ends_within_the_limit() -> None:
    kept = Accuracy(0.1, Budget(0.5), levels=40)
    error = 0.4
    for _ in range(20):
        error = 1.5 * kept.budget.threshold
        kept.observe(error)
    assert 0.02 < error <= 0.1 * 1.25
    assert 0 < kept.levels < 40
    assert kept.above >= 1
    assert "1 above" in kept.line() or f"{kept.above} above" in kept.line()


def test_what_was_asked_for_is_the_most() -> None:
    kept = Accuracy(0.1, Budget(0.5, half=True), levels=3)
    assert not kept.observe(0.0)
    assert kept.observe(1.0)
    for _ in range(100):
        kept.observe(0.001)
    assert (kept.budget, kept.levels) == (Budget(0.5, half=True), 3)


def test_without_a_threshold_one_is_looked_for() -> None:
    kept = Accuracy(0.01, Budget())
    for _ in range(50):
        assert not kept.observe(0.0), "nothing moves, so nothing is learnt"
        kept.observe(0.002 * kept.budget.threshold)
    assert 0.002 * kept.budget.threshold == pytest.approx(0.005, rel=0.3)


def test_float16_is_given_up_when_thresholds_are_not_to_blame() -> None:
    kept = Accuracy(1e-6, Budget(0.5, half=True))
    for _ in range(20):
        kept.observe(1e-3 if kept.budget.half else 0.0)
    assert not kept.budget.half
    assert kept.observe(math.nan)


def test_no_error_is_no_loss() -> None:
    kept = Accuracy(0.0, Budget(0.5, half=True), levels=9)
    assert kept.budget.exact
    assert kept.levels == 0
    for wrong in (-1.0, math.inf, math.nan):
        with pytest.raises(ConfigError, match="limit"):
            Accuracy(wrong, Budget())
    with pytest.raises(ConfigError, match="at least 1"):
        Accuracy(0.1, Budget(), every=0)


def test_which_pictures_are_checked() -> None:
    kept = Accuracy(0.1, Budget(), every=16)
    assert [i for i in range(50) if kept.wants(i)] == [0, 1, 2, 4, 8, 16, 32, 48]


def test_differences() -> None:
    right = {"a": np.array([1.0, -4.0]), "b": np.array([0.0])}
    assert difference(right, right) == (0.0, 0.0, True)
    assert difference({**right, "a": np.array([1.5, -4.0])}, right) == (0.5, 0.125, False)
    assert difference({**right, "a": np.array([1.0, -4.0, 0.0])}, right)[0] == math.inf
    assert difference({**right, "a": np.array([np.nan, -4.0])}, right)[1] == math.inf
    assert difference({**right, "b": np.array([0.25])}, right) == (0.25, math.inf, False)
    assert difference({**right, "b": np.array([-0.0])}, right) == (0.0, 0.0, False)


def test_a_check_that_compared_nothing_says_so() -> None:
    """Every picture was dropped, or a signal came before the first result."""
    check = ResultCheck(small_model(32, 48))
    assert check.line() == "check: no picture was compared"
    assert check.compare(Result(0, 0, 0.0, {}, "late", 1, 0.0, 0.0, 0.0, 1, moving(1, 32, 48)[0])) is None
    assert check.line() == "check: no picture was compared"


def test_delta_computes_thresholds_are_scaled_and_nothing_else() -> None:
    kept = Accuracy(0.01, Budget(0.25), levels=3, incremental=True)
    assert (kept.delta_scale, kept.budget, kept.levels) == (0.1, Budget(0.25), 3)
    for _ in range(40):
        kept.observe(0.15 * (kept.delta_scale or 0.0))
    tight = kept.delta_scale
    assert tight is not None
    assert 0.01 < tight <= 1 / 15
    assert (kept.budget, kept.levels) == (Budget(0.25), 3)
    kept = Accuracy(0.01, Budget(), incremental=True)
    for _ in range(40):
        kept.observe(0.0009 * (kept.delta_scale or 0.0))
    assert 2.0 < (kept.delta_scale or 0.0) <= 8.0
    assert Accuracy(0.01, Budget()).delta_scale is None
    assert Accuracy(0.0, Budget(), incremental=True).delta_scale == 0.0


def test_pictures_that_were_dense_say_nothing() -> None:
    """Their error is that of another runtime's rounding: thresholds that it has nothing to do with don't rise by it."""
    kept = Accuracy(0.01, Budget(), incremental=True)
    for _ in range(40):
        kept.observe(3e-7)
    assert kept.delta_scale == 0.1


def test_a_scale_that_was_too_large_is_not_tried_again_at_once() -> None:
    """As where thresholds come to be above a camera's noise: there the error jumps."""
    kept = Accuracy(0.01, Budget(), incremental=True)
    for _ in range(200):
        kept.observe(0.015 if (kept.delta_scale or 0.0) > 0.15 else 0.002)
    assert kept.above <= 10


@pytest.mark.parametrize("much", [0.002, 0.02, 0.2])
def test_nearly_all_checked_pictures_are_within_the_limit(much: float) -> None:
    """Errors differ from picture to picture, and what is held is less far off just after a key picture."""
    kept, rng = Accuracy(0.01, Budget(), incremental=True), np.random.default_rng(0)
    since = 0
    for picture in range(2000):
        since += 1
        if kept.wants(picture):
            kept.looked(picture)
            before = kept.delta_scale or 0.0
            kept.observe(much * before * min(since / 10, 1.0) * float(rng.lognormal(0, 0.25)))
            since = 0 if (kept.delta_scale or 0.0) < before else since
    assert kept.checked > 20
    assert kept.above <= 0.1 * kept.checked
    assert 0.15 < much * (kept.delta_scale or 0.0) / kept.limit < 1


def test_checks_of_delta_compute_become_rarer_while_all_is_well() -> None:
    kept, checked = Accuracy(0.01, Budget(), incremental=True), []
    for picture in range(1200):
        if kept.wants(picture):
            checked.append(picture)
            kept.looked(picture)
            kept.observe(0.007)
    apart = np.diff(checked)
    assert checked[:4] == [1, 2, 4, 8]
    assert apart.max() == 128
    assert len(checked) < 25
    assert kept.delta_scale == 0.1, "it isn't below half of the limit"
    kept.observe(0.02)
    kept.looked(1200)
    assert kept.wants(1216)


def result_of(number: int, pixels: np.ndarray, outputs: dict[str, np.ndarray], dropped: str = "") -> Result:
    return Result(0, number, 0.0, outputs, dropped, 1, 0.0, 0.0, 0.0, 1, pixels)


def report_of(party: str, shares: list[float] | None, number: int = 0) -> Report:
    return Report(1, 1, 0, number, party, shares=shares)


def test_pictures_that_all_stages_computed_dense_are_not_checked() -> None:
    model, pixels = small_model(32, 48), moving(1, 32, 48)[0]
    kept = Accuracy(0.01, Budget(), incremental=True)
    asked: list[int] = []

    def dense(picture: np.ndarray) -> dict[str, np.ndarray]:
        asked.append(1)
        return dict(model.run(picture))

    kept.dense = dense
    result = result_of(1, pixels, dict(model.run(pixels)))
    kept.heard(report_of("b", None))
    kept.heard(report_of("a", [1.0, 1.0]))
    assert not kept.check(model, result)
    assert (kept.checked, kept.spared) == (0, 1)
    assert not kept.wants(4), "soon after nothing can be far off"
    assert kept.wants(5)
    kept.heard(report_of("c", [1.0, 0.5], 4))
    kept.check(model, result_of(5, pixels, dict(model.run(pixels))))
    assert (kept.checked, kept.largest, len(asked)) == (1, 0.0, 1), "by what computes dense, not the model itself"


def test_what_was_computed_dense_later_spares_no_picture_of_before() -> None:
    """Whoever takes results may be behind: by then stages have said more of what comes after."""
    model, pixels = small_model(32, 48), moving(1, 32, 48)[0]
    kept = Accuracy(0.01, Budget(), incremental=True)
    for number in range(2000):
        kept.heard(report_of("a", [1.0 if number < 1000 or number >= 1500 else 0.5], number))
    kept.check(model, result_of(1200, pixels, dict(model.run(pixels))))
    assert (kept.checked, kept.spared) == (1, 0)
    kept.check(model, result_of(1600, pixels, dict(model.run(pixels))))
    assert (kept.checked, kept.spared) == (1, 1)
    assert sum(map(len, kept._whole.values())) <= 4, "what is noted are changes alone"


def test_stages_that_the_plan_has_computed_dense_are_not_checked() -> None:
    model, pixels = small_model(32, 48), moving(1, 32, 48)[0]
    kept = Accuracy(0.01, Budget(), incremental=True)
    result = result_of(1, pixels, dict(model.run(pixels)))
    both = Plan("", (StagePlan("a", (0,), dense=True), StagePlan("b", (1,))))
    kept.heard(report_of("b", [0.5]), both)
    kept.heard(report_of("a", None), both)
    kept.check(model, result)
    assert (kept.checked, kept.spared) == (1, 0), "b may be off"
    one = Plan("", (StagePlan("a", (0, 1), dense=True),))
    kept.heard(report_of("a", None), one)
    assert not kept.check(model, result_of(99, pixels, dict(model.run(pixels))))
    assert (kept.checked, kept.spared) == (1, 1), "b is no part of it any more"


def test_thresholds_begin_where_a_price_was_measured() -> None:
    kept = Accuracy(0.01, Budget(), incremental=True)
    assert kept.delta_scale == first_scale(0.01, boxes=False) == 0.1
    kept.begin(0.8)
    assert kept.delta_scale == 0.8
    kept.begin(1e9)
    assert kept.delta_scale == 8.0
    exact = Accuracy(0.0, Budget(), incremental=True)
    exact.begin(0.8)
    assert exact.delta_scale == 0.0, "nothing may be off"


def test_thresholds_by_layer_are_found_from_the_first_results() -> None:
    model, pictures = small_model(32, 48), moving(10, 32, 48)
    kept, lines = Accuracy(0.05, Budget(), incremental=True), list[str]()
    kept.calibrator = Calibrator(model, model.run, kept.moved, 0.5, log=lines.append, pictures=4, apart=2)
    for number, pixels in enumerate(pictures[:9]):
        kept.check(model, result_of(number, pixels, dict(model.run(pixels)), "lost" if number == 4 else ""))
    assert kept.factors is None
    kept.calibrator.wait(60)
    assert kept.check(model, result_of(9, pictures[9], dict(model.run(pictures[9])))), "there is news"
    assert kept.factors
    assert set(kept.factors) <= set(model.graph.values)
    assert "thresholds by layer" in lines[-1]
    assert not kept.wants(10)
    assert kept.wants(25)
    kept.close()


@pytest.mark.parametrize("where", ["dense", "moved"])
def test_a_stream_that_ends_waits_for_no_more_than_what_is_being_computed(where: str) -> None:
    model, pictures = small_model(32, 48), moving(8, 32, 48)
    calls: list[str] = []
    there, go_on = threading.Event(), threading.Event()

    def called(name: str) -> None:
        calls.append(name)
        if name == where:
            there.set()
            assert go_on.wait(60)

    def dense(picture: np.ndarray) -> dict[str, np.ndarray]:
        called("dense")
        return dict(model.run(picture))

    def moved(found: object, wanted: object) -> float:
        called("moved")
        return 0.1

    calibrator = Calibrator(model, dense, moved, 0.5, pictures=8, apart=1)
    for number, pixels in enumerate(pictures):
        calibrator.took(result_of(number, pixels, dict(model.run(pixels))), 1.0)
    assert there.wait(60)
    closing = threading.Thread(target=calibrator.close)
    closing.start()
    assert calibrator._stop.wait(60)
    go_on.set()
    closing.join(60)
    assert not closing.is_alive()
    assert calibrator.found() is None
    assert calls.count(where) == 1, "nothing was begun any more"
    calibrator.close()
    Calibrator(model, dense, moved, 0.5).close()


def test_a_module_that_is_being_trained_is_not_run_by_two_threads(monkeypatch: pytest.MonkeyPatch) -> None:
    """It is put into inference mode and back around each picture that is compared: what calibrates has a stage."""
    module = torch.nn.Sequential(torch.nn.Conv2d(3, 4, 3, padding=1), torch.nn.BatchNorm2d(4), torch.nn.ReLU())
    ran, run = set[int](), TorchModel.run

    def noted(self: TorchModel, picture: np.ndarray) -> dict[str, np.ndarray]:
        ran.add(threading.get_ident())
        return run(self, picture)

    monkeypatch.setattr(TorchModel, "run", noted)
    pictures = [one.astype(np.float32) / 255 for one in moving(PICTURES * APART, 32, 48)]
    with Stream(module.train(), pictures, workers=1, scheduler="even", delta_compute=True, max_error=0.05) as stream:
        assert stream.accuracy is not None
        calibrator = stream.accuracy.calibrator
        assert calibrator is not None
        assert sum(not result.dropped for result in stream) == len(pictures)
        calibrator.wait(120)
        assert calibrator.found(), "it has computed pictures"
    assert ran <= {threading.get_ident()}
    assert module.training
