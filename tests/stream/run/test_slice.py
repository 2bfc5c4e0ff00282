"""One stream over real processes gives what the module gives, in order, bit for bit."""

from __future__ import annotations

import numpy as np
import pytest

torch = pytest.importorskip("torch")

from cutset.stream.api import Stream  # noqa: E402
from stream.run.pictures import moving, small_network  # noqa: E402


@pytest.mark.parametrize("mode", ["full", "delta"])
def test_every_picture_has_the_modules_result_in_order(mode: str) -> None:
    module, pictures = small_network(), moving(12)
    with torch.no_grad():
        expected = [module(torch.from_numpy(p)).numpy() for p in pictures]
    with Stream(module, pictures, workers=3, mode=mode) as stream:  # type: ignore[arg-type]
        results = list(stream)
    assert [r.picture for r in results] == list(range(12))
    for result, wanted in zip(results, expected, strict=True):
        assert np.array_equal(result.output, wanted)
    assert len({r.output.tobytes() for r in results}) == 12, "pictures that all look alike would prove nothing"
