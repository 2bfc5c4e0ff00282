"""Tests of sources that decode need PyAV."""

from __future__ import annotations

import pytest

pytest.importorskip("av")
