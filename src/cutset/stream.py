"""Stream: pictures in, results out, from Python."""

from __future__ import annotations

import contextlib
import itertools
from collections.abc import Callable, Iterable, Iterator, Mapping, Sequence
from dataclasses import replace
from pathlib import Path
from types import TracebackType
from typing import TYPE_CHECKING, Any, Literal

import numpy as np
import torch
from torch import nn

from cutset.cluster.coordinator.advisor import Advisor
from cutset.cluster.coordinator.coordinator import Coordinator, Planner
from cutset.cluster.coordinator.even import even_plan
from cutset.cluster.coordinator.fitting import check_fits, lacking
from cutset.cluster.coordinator.switching import Options
from cutset.cluster.launch.local import LocalWorkers
from cutset.cluster.messages import Report
from cutset.codec import Budget
from cutset.errors import ConfigError, CutsetError, RequestError
from cutset.partition.hop import Hop
from cutset.partition.node import ITEM_BYTES
from cutset.partition.plan import Plan
from cutset.video.accuracy import Accuracy
from cutset.video.forms import PictureInputs
from cutset.video.result import Result
from cutset.video.torch_model import TorchModel

if TYPE_CHECKING:
    from cutset.link.keys import Keys

__all__ = ["Stream"]


STARTING = 30.0  # seconds that workers on a busy machine may take to start


class Stream:
    """Results for the pictures of one or several sources, computed by several workers.

        with Stream("alexnet", pictures, workers=3) as stream:
            for result in stream:
                print(result.picture, result.top(1))

    `model` is a name of the zoo, a torch module, or a `TorchModel`. A source is any iterable of pictures: arrays
    (3, height, width) or (1, 3, height, width) of uint8, or of the dtype that a module of your own takes.
    `workers` is a number, for processes on this machine, or names and addresses, nearest to the camera first.
    Results come in order for each source; leaving the `with` block early stops everything.
    """

    def __init__(
        self,
        model: str | nn.Module | TorchModel,
        *sources: Iterable[Any],
        workers: int | Sequence[str] | Mapping[str, tuple[str, bytes | None]] = 2,
        plan: Plan | None = None,
        planner: Advisor | Callable[[TorchModel, Sequence[str], str], Plan] | None = None,
        mode: Literal["delta", "full"] = "delta",
        in_flight: int = 4,
        rate: float | None = None,
        deadline: float | None = None,
        threshold: float = 0.0,
        half: bool = False,
        levels: int = 0,
        max_error: float | None = None,
        head: bool = True,
        weights: Path | None = None,
        seed: int = 0,
        threads: int = 1,
        speeds: Sequence[float] = (),
        keys: Keys | None = None,
        paces: Mapping[tuple[str, str], Hop] | None = None,
        options: Options | None = None,
        observe: Callable[[Report, Plan, float], None] | None = None,
        tell: Callable[[str], None] = lambda line: None,
    ) -> None:
        """`planner(model, workers that are there, why)` makes the plans, or an `Advisor` does, which also makes better
        ones while pictures flow; without, all workers get as many operations. `plan` is the first plan.

        `rate`: pictures a second of each source. `deadline`: seconds after capture, when a picture is dropped.
        `threads` and `speeds` (emulated, up to 1) are the local workers'; `keys` this side's pair, for tcp.
        Activations that are off by `threshold` and pixels that are off by `levels` aren't sent again; `half` sends
        activations as float16. `max_error`, a share of the output's largest element, scales these down, or looks for a
        threshold if none is given: every 16th picture is computed here too.
        `paces` emulate slow connections, by the names of sender and receiver.
        `options` overrides mode, in_flight, rate, deadline, threshold, half and levels.
        `observe` hears each party's report of each picture, times on this side's clock, with the plan and the seconds
        that the picture's bytes took to that party; `tell` hears what happens. Both are called from another thread.
        Raises CutsetError: ConfigError, GraphError, ModelError, RequestError.
        """
        if not sources:
            raise RequestError("a stream needs a source of pictures")
        if mode not in ("delta", "full"):
            raise ConfigError(f"the mode is delta or full, not {mode!r}")
        if not 1 <= in_flight <= 1024:
            raise ConfigError(f"the number of pictures in flight must be from 1 to 1024, not {in_flight}")
        for name, value in (("rate", rate), ("deadline", deadline)):
            if value is not None and not value > 0:
                raise ConfigError(f"{name} must be above 0, not {value}")
        self._over = False
        self._local: LocalWorkers | None = None
        self._coordinator: Coordinator | None = None
        self._advisor: Advisor | None = None
        settings = options or Options(
            deltas=mode == "delta",
            in_flight=in_flight,
            budget=Budget(threshold, half),
            levels=levels,
            rate=rate,
            deadline=deadline,
        )
        if not 0 <= settings.levels <= 255:
            raise ConfigError(f"levels must be from 0 to 255, not {settings.levels}")
        self.accuracy: Accuracy | None = None
        if max_error is not None:
            self.accuracy = Accuracy(max_error, settings.budget, settings.levels)
            settings = replace(settings, budget=self.accuracy.budget, levels=self.accuracy.levels)
        read = list(sources)
        if not isinstance(model, TorchModel):
            first, read[0] = _peek(iter(sources[0]))
            model = _model(model, first, head, weights, seed)
        self.model = model
        if isinstance(workers, int):  # they are on their way
            settings = replace(settings, gather=max(settings.gather, STARTING))
        inputs = PictureInputs([getattr(source, "codec", None) for source in sources])
        if plan is not None:
            names = [f"worker{i + 1}" for i in range(workers)] if isinstance(workers, int) else list(workers)
            check_fits(plan, model, names, inputs)
            if idle := set(names) - {stage.worker for stage in plan.stages}:
                tell(f"the plan gives nothing to do to {', '.join(name for name in names if name in idle)}")
        try:
            named = self._workers(workers, threads, speeds)
            if isinstance(planner, Advisor):
                self._advisor = planner
            self._coordinator = Coordinator(
                model,
                named,
                _planner(model, plan, planner, tell),
                read,
                settings,
                inputs=inputs,
                keys=keys,
                paces=paces,
                observe=observe,
                advisor=self._advisor,
                tell=tell,
            )
            if self._advisor is not None:
                self._advisor.propose = self._coordinator.propose
        except BaseException:
            self.close()
            raise

    def _workers(
        self,
        workers: int | Sequence[str] | Mapping[str, tuple[str, bytes | None]],
        threads: int,
        speeds: Sequence[float],
    ) -> Mapping[str, tuple[str, bytes | None]]:
        if isinstance(workers, int):
            self._local = LocalWorkers(workers, threads=threads, speeds=speeds)
            self._local.stock(self.model)
            return self._local.addresses
        if isinstance(workers, Mapping):
            return workers
        if len(set(workers)) != len(workers):
            raise ConfigError("a worker is named twice")
        return {address: (address, None) for address in workers}

    @property
    def coordinator(self) -> Coordinator:
        """What runs: plans, clock offsets, `propose` for another plan. Raises RequestError once closed."""
        if self._coordinator is None:
            raise RequestError("this stream is closed")
        return self._coordinator

    @property
    def advisor(self) -> Advisor | None:
        """What plans and looks for better plans, if it was given as `planner`."""
        return self._advisor

    @property
    def local(self) -> LocalWorkers | None:
        """The workers on this machine, if the stream started them."""
        return self._local

    def __iter__(self) -> Iterator[Result]:
        return self

    def __next__(self) -> Result:
        """Waits for the next result. Raises CutsetError if the stream can't go on."""
        if self._over or self._coordinator is None:
            raise StopIteration
        item = self._coordinator.results.get()
        if isinstance(item, Result):
            if self.accuracy is not None and self.accuracy.check(self.model, item):
                self._coordinator.allow(self.accuracy.budget, self.accuracy.levels)
            self._coordinator.took()
            return item
        self._over = True
        if isinstance(item, CutsetError):
            raise item
        raise StopIteration

    def stop(self) -> None:
        """No further result: iterating ends, also where it waits. From any thread, and from a signal handler."""
        self._over = True
        coordinator = self._coordinator
        if coordinator is not None:
            coordinator.results.put(None)

    def close(self) -> None:
        """Stops whatever is on its way, and the workers that were started. A second call does nothing."""
        coordinator, self._coordinator = self._coordinator, None
        with contextlib.ExitStack() as parts:  # from last to first; a signal meanwhile leaves none of them open
            if self._local is not None:
                parts.callback(self._local.close)
            if self._advisor is not None:
                parts.callback(self._advisor.close)
            if coordinator is not None:
                parts.callback(coordinator.close)

    def __enter__(self) -> Stream:
        return self

    def __exit__(
        self, kind: type[BaseException] | None, error: BaseException | None, trace: TracebackType | None
    ) -> None:
        self.close()


def _peek(source: Iterator[Any]) -> tuple[Any, Iterable[Any]]:
    first = next(source, None)
    if first is None:
        raise RequestError("the source has no picture")
    return first, itertools.chain([first], source)


def _model(model: str | nn.Module, first: Any, head: bool, weights: Path | None, seed: int) -> TorchModel:
    """The network for pictures like this one."""
    try:
        picture = np.asarray(getattr(first, "pixels", first))
    except (TypeError, ValueError, RuntimeError) as error:
        raise RequestError(f"a picture must be an array: {str(error).splitlines()[0][:200]}") from None
    if picture.dtype.name not in ITEM_BYTES:
        raise RequestError(f"pictures of dtype {picture.dtype} can't be sent; known: {', '.join(ITEM_BYTES)}")
    shape = picture.shape if picture.ndim == 4 else (1, *picture.shape)
    if len(shape) != 4 or shape[0] != 1:
        raise RequestError(f"a picture has shape (channels, height, width), not {list(picture.shape)}")
    if isinstance(model, str):
        from cutset.video.zoo import build

        if shape[1] != 3 or picture.dtype != np.uint8:
            raise RequestError(f"pictures are uint8 (3, height, width), not {picture.dtype} {list(picture.shape)}")
        model = build(model, head=head, weights=weights, seed=seed)
    return TorchModel.of(model, shape, getattr(torch, picture.dtype.name), picture)


def _planner(
    model: TorchModel,
    first: Plan | None,
    planner: Advisor | Callable[[TorchModel, Sequence[str], str], Plan] | None,
    tell: Callable[[str], None],
) -> Planner:
    def plan(alive: Sequence[str], why: str) -> Plan:
        if first is not None:
            missing = lacking(first, alive)
            if not missing:
                return first
            tell(f"the plan that was given needs {', '.join(missing)}, not there now: another one is made")
        if isinstance(planner, Advisor):
            return planner.plan(alive, why)
        return planner(model, alive, why) if planner is not None else even_plan(model, alive)

    return plan
