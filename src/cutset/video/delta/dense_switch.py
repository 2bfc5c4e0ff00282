"""When a picture is computed by what changed, and when dense: by what either was seen to cost."""

from __future__ import annotations

from typing import Literal

__all__ = ["DenseSwitch"]

PATIENCE = 2  # pictures that were slower than dense, one after another, until it is given up
CALM = 0.7  # of the share at which it was slow: below this it is tried again
FIRST_WAIT, LAST_WAIT = 8, 512  # calm or not, pictures until then; doubled each time that it didn't last
LASTED = 16  # pictures
WEIGHT = 0.25  # of the newest observation of dense
CLOSE = 0.6  # of the dense seconds: a picture above that makes it worth knowing them well
LOOK, LOOK_AGAIN = 8, 256  # such pictures, until dense is timed beside them, and until that is done again


class DenseSwitch:
    """Of one source. `choose` for each picture, by the changed share of the input; then `took` what that cost.

    "key" computes everything by our own layers, so that what changes later can be left alone: dense stages of other
    runtimes don't show what is inside.
    """

    def __init__(self, dense_seconds: float) -> None:
        self.dense_seconds = dense_seconds
        self.on = True
        self.off_count = 0  # how often it was given up
        self._slow = self._lasted = self._waited = self._calm = 0
        self._wait = FIRST_WAIT
        self._close, self._look = 0, LOOK
        self._slow_share = 1.0  # of the input, from which on it was seen to be slow

    def choose(self, share: float, stale: bool) -> Literal["delta", "key", "dense"]:
        """What to do with a picture of which this share changed; `stale`: nothing is held to build on."""
        if self.on:
            return "key" if stale else "delta"
        self._waited += 1
        self._calm = self._calm + 1 if share < CALM * self._slow_share else 0
        if self._waited < self._wait or self._calm < PATIENCE:
            return "dense"
        self.on, self._slow, self._lasted = True, 0, 0
        return "key"

    def wants_dense(self) -> bool:
        """Whether dense is to be timed now, beside this picture: what is known of it may be of a busier hour."""
        if self._close < self._look:
            return False
        self._close, self._look = 0, LOOK_AGAIN
        return True

    def took(self, kind: Literal["delta", "key", "dense"], seconds: float, share: float) -> None:
        """What it took. A picture that was abandoned counts with what all of it would have taken."""
        if kind == "dense":
            self.dense_seconds += WEIGHT * (seconds - self.dense_seconds)
            return
        if kind == "key":  # known beforehand to be no quicker
            return
        self._lasted += 1
        self._close += seconds > CLOSE * self.dense_seconds
        if seconds <= self.dense_seconds:
            self._slow = 0
            self._slow_share = max(self._slow_share, min(share / CALM, 1.0))
            if self._lasted >= LASTED:
                self._wait = FIRST_WAIT
            return
        self._slow += 1
        if self._slow < PATIENCE:
            return
        if self._lasted < LASTED:
            self._wait = min(2 * self._wait, LAST_WAIT)
        self._slow_share = max(share, 1e-6)
        self.on, self._waited, self._calm, self.off_count = False, 0, 0, self.off_count + 1
