"""When a picture is computed by what changed, and when dense: by what either was seen to cost.

Nothing is risked that wasn't put by: each picture adds SPARE of dense's seconds to a purse, and what delta compute
saves; whole pictures of our own layers, slow ones, and dense ones that were computed only to look are paid from it. So
whatever comes, all of it takes at most 1 + SPARE of what dense alone takes, and what one try costs.
"""

from __future__ import annotations

from collections import deque
from typing import Literal

__all__ = ["DenseSwitch"]

PATIENCE = 2  # pictures that were slower than dense, one after another, until it is given up
CALM = 0.7  # of the share at which it was slow: below this it is tried again
FIRST_WAIT, LAST_WAIT = 8, 512  # calm or not, pictures until then; doubled each time that it didn't last
LASTED = 16  # pictures; also those over whose mean it must be quicker than dense, with all that it costs
WEIGHT = 0.25  # of the newest observation of dense, and of a key
CLOSE = 0.6  # of the dense seconds: a picture above that makes it worth knowing them well
LOOK, LOOK_AGAIN = 8, 256  # such pictures, until dense is timed beside them, and until that is done again
SPARE = 0.015  # of dense's seconds that may be lost to trying
FIRST_KEY = 2.0  # times dense: a picture that is computed whole by our own layers, until one was seen
SLOW = 0.3  # times dense that the last slow picture of a try costs more than dense: it is abandoned
TRIES = 8  # that may be put by


class DenseSwitch:
    """Of one source. `choose` for each picture, by the changed share of the input; `took` what that cost; and `paid`
    once for each picture, with all the seconds that went into it.

    "key" computes everything by our own layers, so that what changes later can be left alone: dense stages of other
    runtimes don't show what is inside.
    """

    def __init__(self, dense_seconds: float, key_seconds: float | None = None) -> None:
        """What either takes, as far as it is known: the runtime's stage, and all of a picture by our own layers."""
        self.dense_seconds = dense_seconds
        self.on = True
        self.off_count = 0  # how often it was given up
        self._slow = self._lasted = self._waited = self._calm = 0
        self._wait = FIRST_WAIT
        self._close, self._look = 0, LOOK
        self._slow_share = 1.0  # of the input, from which on it was seen to be slow
        self._key = FIRST_KEY if key_seconds is None else key_seconds / max(dense_seconds, 1e-9)  # times dense
        self._purse = self._price  # in dense pictures
        # Of the last pictures: their cost, times dense, with all that belongs to each, and the share that changed.
        self._recent: deque[float] = deque(maxlen=LASTED)
        self._shares: deque[float] = deque(maxlen=LASTED)

    @property
    def _price(self) -> float:
        """Dense pictures' worth that a try loses where it fails."""
        return 2 * max(self._key - 1, 0.0) + SLOW  # the key, and a slow picture that is carried through

    @property
    def doubts(self) -> bool:
        """Whether one more slow picture is enough to give it up."""
        return self._slow >= PATIENCE - 1

    def choose(self, share: float, stale: bool) -> Literal["delta", "key", "dense"]:
        """What to do with a picture of which this share changed; `stale`: nothing is held to build on."""
        if self.on:
            return "key" if stale else "delta"
        self._waited += 1
        self._calm = self._calm + 1 if share < CALM * self._slow_share else 0
        if self._waited < self._wait or self._calm < PATIENCE or self._purse < self._price:
            return "dense"
        self.on, self._slow, self._lasted = True, 0, 0
        self._recent.clear()
        self._shares.clear()
        return "key"

    def wants_dense(self) -> bool:
        """Whether dense is to be timed now, beside this picture: what is known of it may be of a busier hour."""
        if self._close < self._look or self._purse < 1:
            return False
        self._close, self._look = 0, LOOK_AGAIN
        return True

    def took(self, kind: Literal["delta", "key", "dense"], seconds: float, share: float) -> None:
        """What it took. A picture that was abandoned counts with what all of it would have taken."""
        if kind == "dense":
            self.dense_seconds += WEIGHT * (seconds - self.dense_seconds)
            return
        if kind == "key":  # known beforehand to be no quicker
            self._key += WEIGHT * (seconds / max(self.dense_seconds, 1e-9) - self._key)
            return
        self._lasted += 1
        self._close += seconds > CLOSE * self.dense_seconds
        if seconds <= self.dense_seconds:
            self._slow = 0
            self._shares.append(share)
            self._slow_share = max(self._slow_share, min(share / CALM, 1.0))
            if self._lasted >= LASTED:
                self._wait = FIRST_WAIT
            return
        self._slow += 1
        self._shares.append(share)
        if self._slow >= PATIENCE:
            self._give_up(PATIENCE)

    def paid(self, seconds: float, *, dense: bool = False) -> None:
        """All that a picture took: looks and what was abandoned, too. `dense`: nothing but the runtime's stage.

        Gives delta compute up where the mean of the last pictures is above dense, though no two in a row were.
        """
        cost = 1.0 if dense else seconds / max(self.dense_seconds, 1e-9)
        self._purse = min(self._purse + 1 + SPARE - cost, TRIES * self._price)
        if dense or not self.on:
            return
        self._recent.append(cost)
        if len(self._recent) == LASTED and sum(self._recent) > LASTED:
            self._give_up(LASTED)

    def charged(self, seconds: float) -> None:
        """What the last picture cost beside the stage."""
        cost = seconds / max(self.dense_seconds, 1e-9)
        self._purse -= cost
        if self._recent:
            self._recent[-1] += cost

    def _give_up(self, pictures: int) -> None:
        """Because of the last so many pictures: where less changes than in that of them in which most did, it is tried
        again. In some of them something else may have cost much."""
        if self._lasted < LASTED:
            self._wait = min(2 * self._wait, LAST_WAIT)
        self._slow_share = max([*self._shares][-pictures:], default=1.0) or 1e-6
        self.on, self._waited, self._calm, self.off_count = False, 0, 0, self.off_count + 1
