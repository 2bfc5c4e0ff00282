"""Thresholds by layer for a stream that runs: found from its own first pictures, beside it."""

from __future__ import annotations

import threading
from collections.abc import Callable, Mapping

from cutset.cluster.values import Array
from cutset.errors import CutsetError
from cutset.video.delta.calibrating import Moved, calibrate
from cutset.video.delta.program import Program
from cutset.video.network_model import NetworkModel
from cutset.video.result import Result

__all__ = ["APART", "Calibrator"]

PICTURES, APART = 16, 3  # of one source; results from one of them to the next


class _Stopped(Exception):
    """The stream is over."""


class Calibrator:
    """`took` is given results as they come; once there are enough, `found` has factors some seconds later.

    `dense` computes a picture's outputs, `runtime` what our layers can't; `budget` is the root of the mean square of
    what may move. `dense` is called by a thread of its own.
    """

    def __init__(
        self,
        model: NetworkModel,
        dense: Callable[[Array], Mapping[str, Array]],
        moved: Moved,
        budget: float,
        *,
        threads: int = 1,
        runtime: str = "",
        log: Callable[[str], None] = lambda line: None,
        pictures: int = PICTURES,
        apart: int = APART,
    ) -> None:
        """`pictures`: how many are taken, 4 at least, one of so many results that lie `apart`."""
        self._count, self._apart, self._seen = pictures, apart, 0
        self._model, self._dense, self._moved, self._budget = model, dense, moved, budget
        self._threads, self._runtime, self._log = threads, runtime, log
        self._pictures: list[Array] = []
        self._source: int | None = None  # the first one that gave a result
        self._thread: threading.Thread | None = None
        self._stop = threading.Event()
        self._found: Mapping[str, float] | None = None

    def took(self, result: Result, scale: float) -> None:
        """Keeps a picture, until there are enough; then looks for factors at this scale of thresholds."""
        if self._thread is not None or not scale or result.dropped:
            return
        self._source = result.source if self._source is None else self._source
        if result.source != self._source:
            return
        self._seen += 1
        if self._seen % self._apart:
            return
        self._pictures.append(result.pixels.copy())
        if len(self._pictures) == self._count:
            self._thread = threading.Thread(target=self._run, args=(scale,), name="calibration", daemon=True)
            self._thread.start()

    def found(self) -> Mapping[str, float] | None:
        """The factors, once; None before and after."""
        found, self._found = self._found, None
        return found

    def wait(self, seconds: float | None = None) -> None:
        """Until it is done, for so long at most."""
        if self._thread is not None:
            self._thread.join(seconds)

    def close(self) -> None:
        """Gives it up, where it isn't done. A second call does nothing."""
        self._stop.set()
        self.wait()

    def _run(self, scale: float) -> None:
        def go_on() -> None:
            if self._stop.is_set():
                raise _Stopped

        def moved(found: Mapping[str, Array], wanted: Mapping[str, Array]) -> float:
            go_on()
            return self._moved(found, wanted)

        def dense_of(picture: Array) -> Mapping[str, Array]:
            go_on()
            return self._dense(picture)

        try:
            graph = self._model.graph
            nodes, name = range(len(graph.nodes)), graph.inputs[0].name
            program = Program(graph, nodes, self._model.tensors, self._threads, self._runtime)
            pictures = [{name: picture.reshape(graph.inputs[0].shape)} for picture in self._pictures]
            dense = [dense_of(picture) for picture in self._pictures]
            made = calibrate(program, pictures, dense, moved, scale=scale, budget=self._budget)
        except _Stopped:
            return
        except CutsetError as error:
            self._log(f"thresholds by layer: {error}")
            return
        finally:
            self._pictures.clear()
        saved = 100 * (1 - made.after[0] / made.before[0]) if made.before[0] else 0.0
        self._log(
            f"thresholds by layer: {len(made.factors)} values; {saved:.0f} % less to compute in the first pictures"
        )
        self._found = made.factors
