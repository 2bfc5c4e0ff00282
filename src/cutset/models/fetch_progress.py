"""What the hub's library says of a download, told to a callback in place of bars of its own."""

from __future__ import annotations

from typing import TYPE_CHECKING, Any

if TYPE_CHECKING:
    from cutset.models.files.integer import Progress

__all__ = ["fetch_bars"]


def fetch_bars(name: str, progress: Progress) -> type[Any]:
    """A class for `snapshot_download(tqdm_class=…)`, which tells `progress` of MiB that have come."""
    from huggingface_hub.utils.tqdm import tqdm

    class _Told(tqdm):  # type: ignore[misc,unused-ignore]  # it may be absent
        def __init__(self, *args: Any, **more: Any) -> None:
            self._closed = False
            super().__init__(*args, **more)  # type: ignore[no-untyped-call,unused-ignore]

        def display(self, *_: Any, **__: Any) -> None:
            if self.unit == "B" and self.total and not self._closed:
                done, total = int(self.n) >> 20, int(self.total) >> 20
                progress(f"MiB of {name}", done, max(total, done + 1))  # it ends when the bar is closed

        def clear(self, *_: Any, **__: Any) -> None:
            pass

        def close(self) -> None:
            if not self._closed and self.unit == "B":
                progress(f"MiB of {name}", 1, 1)
            self._closed = True

    return _Told
