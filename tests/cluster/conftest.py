"""As the tests of networks: one thread of torch."""

from __future__ import annotations

from video.conftest import _one_thread

__all__ = ["_one_thread"]
