"""What is foreseen of deltas, against what they took."""

from __future__ import annotations

import numpy as np
import pytest

from cutset.partition.traffic import Coded, Traffic
from cutset.video.sparsity.changes import Changes
from cutset.video.sparsity.fit import fit
from cutset.video.sparsity.forecast import WINDOW, Forecast
from video.sparsity.conftest import moving

pytest.importorskip("sklearn")


def test_bytes_are_foreseen_for_values_that_nobody_sends(changes: Changes) -> None:
    forecast = Forecast(fit(changes))
    assert "trained" in forecast.why
    pictures = moving(61)
    assert forecast.nbytes("first") is None
    for picture in pictures[45:]:
        forecast.saw(picture)
    measured = changes.encoded[45:][-WINDOW:].mean(axis=0)
    for name in ("first", "left", "right"):
        assert forecast.nbytes(name) == pytest.approx(measured[changes.names.index(name)], rel=0.15)
    forecast.saw(np.zeros_like(pictures[0]))  # all changes
    rise = forecast.nbytes("first")
    assert rise is not None
    assert rise > measured[changes.names.index("first")]


def test_ways_keep_their_proportions(changes: Changes) -> None:
    forecast = Forecast(fit(changes))
    key = (Coded(9000.0), Coded(7000.0))
    known = {"first": Traffic(key, (Coded(1000.0, 0.1, 0.2), Coded(500.0, 0.3))), "elsewhere": Traffic(key, key)}
    assert forecast.traffic(known) == known
    for picture in moving(3):
        forecast.saw(picture)
    found = forecast.traffic(known)
    assert found["elsewhere"] == known["elsewhere"]
    assert found["first"].key == key
    one, two = found["first"].delta
    assert one.nbytes == pytest.approx(forecast.nbytes("first"))
    assert (one.encode, one.decode, two.encode) == (0.1, 0.2, 0.3)
    assert two.nbytes == pytest.approx(one.nbytes / 2)
