"""Thresholds that follow from the error that the final output may have.

What a threshold guarantees is each hop's own bound: no value at the receiver is farther than that from the sender's.
What it does to the output depends on the network and on the pictures, and is known only where it is measured. So every
few pictures are computed in one place as well, and all thresholds are scaled by what is found: down at once, up slowly.
"""

from __future__ import annotations

import math
from collections import deque
from collections.abc import Callable, Mapping
from dataclasses import replace

from cutset.cluster.messages import Report
from cutset.cluster.values import Array
from cutset.codec import Budget
from cutset.errors import ConfigError
from cutset.partition.plan import Plan
from cutset.video.check import difference
from cutset.video.delta.box_agreement import Disagreement
from cutset.video.delta.calibrator import Calibrator
from cutset.video.network_model import NetworkModel
from cutset.video.result import Result

__all__ = ["AIM", "CALIBRATED", "DELTA_ERROR", "MOST_SCALE", "Accuracy", "first_scale"]

DELTA_ERROR = 0.01  # of the output's largest element, where delta compute is asked for without a limit
DOWN = 0.8  # at least this step when the error is too large
UP = 1.25
STEADY = 4  # checks within the limit, after which they become rarer
RAREST = 128  # one picture of so many is checked, at the least
# The scale of delta compute's thresholds.
FIRST_SCALE, MOST_SCALE = 0.1, 8.0
FIRST_OF_BOXES = 0.5  # where it is kept by detections
AIM = 0.4  # of the limit: where the largest of a few errors is to lie
SEEN = 3  # errors by one scale, after which it may rise: what is held takes some pictures to be as far off as it can be
LOWER, RISE = 0.7, 2.0  # a step down at least, a step up at most
NOTHING = 0.001  # of the limit: with errors below that nothing was left out, or pictures were dense
BELOW, AGAIN = 0.6, 24  # of a scale that was too large, no more than that until so many checks were within the limit
CALIBRATED = (
    0.3  # of what is allowed: what calibrated thresholds may move the output by at first, as the root of a mean
)
SETTLED = 4  # pictures after a dense one, until one is checked
CHANGES = 256  # between dense pictures and others, of which it is known where they were
TINY = 2.0**-10  # of the thresholds: if that is too much, it isn't they


def first_scale(limit: float, *, boxes: bool) -> float:
    """What delta compute's thresholds are multiplied with at first, of a limit of the output's error or of `boxes`."""
    return (FIRST_OF_BOXES if boxes else FIRST_SCALE) if limit else 0.0


class Accuracy:
    """Chooses thresholds so that the output's error stays within `limit`, a share of the output's largest element.

    `budget` and `levels` (of uint8 pictures) are the most that is tried; if neither leaves anything out, a threshold is
    looked for from `limit` on, upwards too. An error beyond the limit lasts until it is seen, `every` pictures at most;
    `line` says how often that was. Raises ConfigError.

    With `incremental` the thresholds are those of stages that compute what changed alone, times `delta_scale`, and
    `budget` and `levels` stay as they are given. Since a check costs more than what is saved then, they become rarer
    while the error stays within the limit, down to one of RAREST. With a `disagreement` that is the error, in place of
    the outputs' own.
    """

    def __init__(
        self,
        limit: float,
        budget: Budget,
        levels: int = 0,
        every: int = 16,
        *,
        incremental: bool = False,
        disagreement: Disagreement | None = None,
    ) -> None:
        if not 0 <= limit < math.inf:
            raise ConfigError(f"the limit on the output's error must be 0 or above, not {limit:g}")
        if every < 1:
            raise ConfigError(f"one picture of so many is checked: at least 1, not {every}")
        self.limit, self.every = limit, every
        self.disagreement = disagreement
        self._incremental, self._next, self._steady, self._apart = incremental, 1, 0, every
        self._searches = budget.exact and not levels and not incremental
        self._most = replace(budget, threshold=limit) if self._searches else budget
        self._levels = levels
        self._half = self._most.half and (limit > 0 or incremental)
        first = first_scale(limit, boxes=disagreement is not None)
        self._scale = first if incremental or not limit else 1.0
        # What computes pictures that are checked, in place of the model itself.
        self.dense: Callable[[Array], Mapping[str, Array]] | None = None
        self.calibrator: Calibrator | None = None  # that finds thresholds by layer, from the first pictures
        self.factors: Mapping[str, float] | None = None  # what it found, from now on
        # By source and party: from which picture on it computed them whole, and from which on not, the last of them.
        self._whole: dict[tuple[int, str], deque[tuple[int, bool]]] = {}
        self._dense_plan = False  # no stage of the plan leaves anything out
        self._errors: list[float] = []  # by this scale
        self._ceiling = MOST_SCALE
        self.checked = self.above = self.spared = 0
        self.largest = 0.0

    @property
    def budget(self) -> Budget:
        """What activations may be off by, from now on."""
        return self._most if self._incremental else Budget(self._most.threshold * self._scale, self._half)

    @property
    def levels(self) -> int:
        """What pixels may be off by, from now on."""
        return self._levels if self._incremental else int(self._levels * self._scale)

    @property
    def delta_scale(self) -> float | None:
        """What the thresholds of delta compute are multiplied with, from now on; None where that isn't used."""
        return self._scale if self._incremental else None

    def wants(self, picture: int) -> bool:
        """Whether this picture is to be computed here too: more of the first ones, when the threshold is a guess."""
        if self._incremental:
            return picture >= self._next
        return picture % self.every == 0 or (picture < self.every and picture.bit_count() == 1)

    def check(self, model: NetworkModel, result: Result) -> bool:
        """Computes a picture here if it is its turn; True if the thresholds changed.

        Where delta compute is off, as stages say, there is nothing to be checked.
        """
        news = self._calibrated(result)
        if result.dropped or not self.wants(result.picture):
            return news
        if self._is_dense(result.source, result.picture):
            self.spare(result.picture)
            return news
        self.looked(result.picture)
        wanted = (self.dense or model.run)(result.pixels)
        if self.disagreement is not None:
            return self.observe(self.disagreement(result.outputs, wanted)) or news
        return self.observe(difference(result.outputs, wanted)[1]) or news

    def _calibrated(self, result: Result) -> bool:
        """Shows the calibrator a result; True where it has found something."""
        if self.calibrator is None or self._dense_plan:
            return False
        self.calibrator.took(result, self._scale)
        if (found := self.calibrator.found()) is None:
            return False
        self.factors = found
        self.calibrated(result.picture)
        return True

    def calibrated(self, picture: int) -> None:
        """Thresholds by layer are others from this picture on, and what they do was seen on some pictures."""
        self._next = picture + self.every
        self._errors.clear()
        if self.disagreement is not None:
            self.disagreement.forget()

    def close(self) -> None:
        """Ends what still calibrates."""
        if self.calibrator is not None:
            self.calibrator.close()

    def spare(self, picture: int) -> None:
        """A picture that was computed dense needs no check, nor does the one after: nothing can be far off yet."""
        self._next = max(self._next, picture + SETTLED)
        self.spared += 1

    def begin(self, scale: float) -> None:
        """Delta compute's thresholds times this are within the limit for the first pictures, as far as they show."""
        if self._incremental and self.limit:
            self._scale = min(scale, MOST_SCALE)

    def heard(self, report: Report, plan: Plan | None = None) -> None:
        """Takes what a party says of a picture under that plan; any thread."""
        if report.shares is not None:
            self._note(report, report.party, min(report.shares, default=1.0) >= 1)
        if plan is None:
            return
        self._dense_plan = all(stage.dense for stage in plan.stages)
        for stage in plan.stages:
            if stage.dense:
                self._note(report, stage.worker, True)
        for source, party in list(self._whole):  # those of earlier plans leave nothing out from now on
            if source == report.source and party not in {stage.worker for stage in plan.stages}:
                self._note(report, party, True)

    def _note(self, report: Report, party: str, whole: bool) -> None:
        changes = self._whole.setdefault((report.source, party), deque(maxlen=CHANGES))
        if changes and changes[-1] == (report.number, not whole):
            changes.pop()
        if not changes or (changes[-1][1] != whole and changes[-1][0] < report.number):
            changes.append((report.number, whole))

    def _is_dense(self, source: int, picture: int) -> bool:
        """As far as is known of the pictures up to this one: reports may be of later ones, too."""
        found = []
        for (number, _), changes in list(self._whole.items()):
            known = [whole for first, whole in list(changes) if first <= picture]
            if number == source and known:
                found.append(known[-1])
        return self._incremental and bool(found) and all(found)

    def moved(self, found: Mapping[str, Array], wanted: Mapping[str, Array]) -> float:
        """How far outputs are from dense ones, as a share of what is allowed: for `calibrate`."""
        if self.disagreement is not None:
            return self.disagreement.moved(found, wanted)
        return difference(found, wanted)[1] / max(self.limit, 1e-9)

    def looked(self, picture: int) -> None:
        """A picture is checked: the next one of delta compute is so much later; more of the first ones."""
        self._next = picture + (self._apart if picture >= self.every else max(picture, 1))

    def observe(self, error: float) -> bool:
        """Takes the error of an output; True if the thresholds changed."""
        self.checked += 1
        self.largest = max(self.largest, error)
        if self._incremental:
            return self._observe_incremental(error)
        before = self.budget, self.levels
        if not error <= self.limit:
            self.above += 1
            if self._half and self._scale < TINY:
                self._half = False
            self._scale *= min(max(self.limit / error, 0.1), DOWN) if 0 < error < math.inf else 0.1
        elif error < self.limit / 2 and (error > 0 or not self._searches):  # nothing moves: no reason to search on
            self._scale = UP * self._scale if self._searches else min(UP * self._scale, 1.0)
        return (self.budget, self.levels) != before

    def _observe_incremental(self, error: float) -> bool:
        before = self._scale
        if not error <= self.limit:
            self.above += 1
            self._apart, self._steady = self.every, 0
            self._ceiling = min(BELOW * self._scale, self._ceiling)
            self._scale *= min(max(AIM * self.limit / error, 0.1), LOWER) if 0 < error < math.inf else 0.1
            self._errors.clear()
            if self.disagreement is not None:
                self.disagreement.forget()
            return True
        self._steady += 1
        if self._steady % STEADY == 0:
            self._apart = min(2 * self._apart, RAREST)
        if self._steady % AGAIN == 0:
            self._ceiling = min(self._ceiling / BELOW, MOST_SCALE)
        self._errors.append(error)
        worst = max(self._errors[-SEEN:])
        known = worst > NOTHING * self.limit if self.disagreement is None else self.disagreement.boxes * self.limit >= 1
        if known and len(self._errors) >= SEEN and worst < AIM * self.limit and self._scale < self._ceiling:
            step = min(AIM * self.limit / worst, RISE) if worst else RISE
            self._scale = min(max(step, UP) * self._scale, self._ceiling)
            self._errors.clear()
            self._apart = max(self._apart // 2, self.every)
        return self._scale != before

    def line(self) -> str:
        """What is said at the end."""
        now = f"threshold {self.budget.threshold:.3g}" + (f", {self.levels} levels" if self._levels else "")
        now += ", float16" if self._half else ""
        if self._incremental:
            now = f"delta compute's thresholds times {self._scale:.3g}"
        if self.disagreement is not None:
            return (
                f"agreement: {self.checked} pictures were computed here too; the least F1 {1 - self.largest:.3f}, "
                f"{self.above} times below the limit of {1 - self.limit:g}; at the end {now}"
            )
        return (
            f"accuracy: {self.checked} pictures were computed here too; largest error {self.largest:.2e} of the "
            f"largest element, {self.above} above the limit of {self.limit:g}; at the end {now}"
        )
