"""Stages on this machine: processes of `cutset stage` that end with the one that started them."""

from __future__ import annotations

from collections.abc import Sequence
from pathlib import Path

from cutset.cluster.launch.local import LocalWorkers
from cutset.cluster.launch.party_evidence import PartyEvidence

__all__ = ["LocalStages"]


class LocalStages(LocalWorkers):
    """Starts `count` stages, which read the weights of `model`, a directory or a file, from this machine's disk."""

    def __init__(
        self,
        count: int,
        model: Path,
        *,
        threads: int = 1,
        speeds: Sequence[float] = (),
        prefixes: tuple[Path, str] | None = None,
        quiet: bool = True,
        evidence: PartyEvidence | None = None,
    ) -> None:
        """`prefixes`: a directory in which each keeps blocks of its cache, and how large that may get."""
        self._model, self._prefixes = model, prefixes
        super().__init__(count, threads=threads, speeds=speeds, quiet=quiet, evidence=evidence)

    def command(self, name: str) -> list[str]:
        """See LocalWorkers."""
        command = ["cutset.cli", "stage", str(self._model), *self.listening(name), "--threads", str(self._threads)]
        if self._prefixes is not None:
            command += ["--prefix-cache", str(self._prefixes[0]), "--prefix-cache-size", self._prefixes[1]]
        return [*command, "--speed", str(self._speeds[self.names.index(name)])] if self._speeds else command
