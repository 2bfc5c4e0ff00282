"""What libraries' errors say becomes a part of ours."""

from __future__ import annotations

import pytest

from cutset.errors import first_line


@pytest.mark.parametrize(
    ("error", "said"),
    [
        (ValueError(), "ValueError"),
        (ValueError("\n  \n"), "ValueError"),
        (RuntimeError("\n  first \nsecond"), "first"),
        (RuntimeError("a\x1b[31mb"), "a\ufffd[31mb"),
        (RuntimeError("x" * 300), "x" * 200),
        (KeyError("name"), "'name'"),
    ],
)
def test_the_first_line_that_says_something(error: Exception, said: str) -> None:
    assert first_line(error) == said
