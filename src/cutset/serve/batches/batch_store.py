"""What batches are and how they stand: a record of each on disk, found again after a restart."""

from __future__ import annotations

import re
import secrets
import shutil
import time
from pathlib import Path
from typing import Any, Literal, get_args

import msgspec

from cutset.serve.api_errors import ApiError
from cutset.serve.batches.file_store import StoreLimits, read_record, save_record

__all__ = ["ENDED", "BatchStatus", "BatchStore", "StoredBatch"]

BatchStatus = Literal[
    "validating", "failed", "in_progress", "finalizing", "completed", "expired", "cancelling", "cancelled"
]
ENDED = ("failed", "completed", "expired", "cancelled")
OWN = re.compile(r"batch_[0-9a-f]{24}")
WINDOW_S = 24 * 3600  # after which what isn't answered expires


class StoredBatch(msgspec.Struct):
    """A batch; `owner` as StoredFile has it. `times`: seconds since 1970 at which it got a status."""

    id: str
    owner: str | None
    endpoint: str
    input_file_id: str
    created: float
    metadata: dict[str, str] | None = None
    status: BatchStatus = "validating"
    times: dict[str, float] = {}
    errors: list[dict[str, Any]] = []
    output_file_id: str | None = None
    error_file_id: str | None = None
    total: int = 0
    done: int = 0  # lines with an answer or an error
    failed: int = 0  # those of them that have an error
    nbytes: int = 0  # of answers that are no files yet

    @property
    def expires(self) -> float:
        """When what isn't answered by then gets an error instead."""
        return self.created + WINDOW_S

    def shown(self) -> dict[str, Any]:
        """OpenAI's object."""
        at = {f"{name}_at": int(self.times[name]) if name in self.times else None for name in get_args(BatchStatus)}
        del at["validating_at"]
        return {
            "id": self.id,
            "object": "batch",
            "endpoint": self.endpoint,
            "errors": {"object": "list", "data": self.errors} if self.errors else None,
            "input_file_id": self.input_file_id,
            "completion_window": "24h",
            "status": self.status,
            "output_file_id": self.output_file_id,
            "error_file_id": self.error_file_id,
            "created_at": int(self.created),
            "expires_at": int(self.expires),
            **at,
            "request_counts": {"total": self.total, "completed": self.done - self.failed, "failed": self.failed},
            "metadata": self.metadata,
        }


class BatchStore:
    """Keeps batches as records ID.json, and the answers of those that run in directories ID."""

    def __init__(self, folder: Path, limits: StoreLimits) -> None:
        """Finds what is there. Raises OSError."""
        self.folder, self.limits = folder, limits
        folder.mkdir(mode=0o700, parents=True, exist_ok=True)
        found = [one for path in folder.glob("batch_*.json") if (one := read_record(path, StoredBatch)) is not None]
        self._batches: dict[str, StoredBatch] = {one.id: one for one in sorted(found, key=lambda batch: batch.created)}
        running = {one.id for one in self.unfinished()}
        for path in folder.iterdir():
            if (
                path.is_dir() and OWN.fullmatch(path.name) and path.name not in running
            ):  # a server ended between the last two steps of a batch
                shutil.rmtree(path, ignore_errors=True)

    def of(self, owner: str | None) -> list[StoredBatch]:
        """A client's batches, the oldest first."""
        return [one for one in self._batches.values() if one.owner == owner]

    def unfinished(self) -> list[StoredBatch]:
        """Those of all clients that haven't ended, the oldest first."""
        return [one for one in self._batches.values() if one.status not in ENDED]

    def get(self, owner: str | None, name: str) -> StoredBatch:
        """Raises ApiError 404 for a batch that this client has none of."""
        found = self._batches.get(name)
        if found is None or found.owner != owner:
            raise ApiError(404, f"there is no batch {name[:80]!r}", code="batch_not_found")
        return found

    def parts(self, batch: StoredBatch) -> Path:
        """Where its answers are until it has ended."""
        return self.folder / batch.id

    def used(self, owner: str | None) -> int:
        """Bytes of a client's answers that are no files yet."""
        return sum(one.nbytes for one in self.of(owner) if one.status not in ENDED)

    def create(
        self, owner: str | None, endpoint: str, input_file_id: str, metadata: dict[str, str] | None
    ) -> StoredBatch:
        """A new one. Where a client has too many, its oldest that has ended is forgotten. Raises ApiError, OSError."""
        own = self.of(owner)
        if len(own) >= self.limits.batches:
            ended = next((one for one in own if one.status in ENDED), None)
            if ended is None:
                raise ApiError(429, f"{self.limits.batches} batches wait or run already", kind="rate_limit_error")
            del self._batches[ended.id]
            (self.folder / f"{ended.id}.json").unlink(missing_ok=True)
        batch = StoredBatch(
            f"batch_{secrets.token_hex(12)}", owner, endpoint, input_file_id, time.time(), metadata, times={}, errors=[]
        )
        self.save(batch)
        self._batches[batch.id] = batch
        return batch

    def move(self, batch: StoredBatch, status: BatchStatus) -> None:
        """Gives a batch another status. Raises OSError."""
        batch.status = status
        batch.times = {**batch.times, status: time.time()}
        self.save(batch)

    def save(self, batch: StoredBatch) -> None:
        """Raises OSError."""
        save_record(self.folder / f"{batch.id}.json", batch)
