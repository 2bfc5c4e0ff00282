"""The models of `cutset bench stages`, and how much is done with them: all of it, or little, to see that it runs."""

from __future__ import annotations

import contextlib
import tempfile
from collections.abc import Callable, Iterator
from dataclasses import dataclass, field, replace
from pathlib import Path

from cutset.bench.decode import WORKLOADS
from cutset.models.files.integer import write_integer_checkpoint
from cutset.models.files.source import open_source
from cutset.models.random import RandomModel

__all__ = ["MODELS", "StageBench", "stage_bench"]

LONGEST = 4096  # positions
DONE = ".done"  # a file in the directory of a model that is whole
MODELS = {name: replace(WORKLOADS[name].model, max_pos=LONGEST) for name in ("w246", "w1b")} | {
    "small": RandomModel(
        hidden=256, layers=6, heads=8, kv_heads=4, intermediate=704, vocab=2000, max_pos=LONGEST, tied=False
    ),
    # About 600 MB of weights: 8 bits, but for the embedding in 32.
    "w600": RandomModel(
        hidden=1536, layers=14, heads=24, kv_heads=4, intermediate=4352, vocab=32000, max_pos=LONGEST, tied=False
    ),
}


@dataclass
class StageBench:
    """Models as integer checkpoints, made when they are first asked for; `rounds` that count; `log` gets lines."""

    folder: Path
    rounds: int
    quick: bool
    log: Callable[[str], None]
    _made: dict[str, Path] = field(default_factory=dict)

    def named(self, name: str) -> str:
        """The model that stands for this one."""
        return "small" if self.quick else name

    def model(self, name: str) -> Path:
        """Its directory."""
        name = self.named(name)
        if (self.folder / name / DONE).is_file():
            self._made[name] = self.folder / name
        if name not in self._made:
            self.log(f"{name}: writing it")
            floats, integers = self.folder / f"{name}-floats", self.folder / name
            self.write_floats(name, floats)
            source = open_source(floats)
            write_integer_checkpoint(source.spec, source.config, source.tensors, floats, integers)
            for file in floats.glob("*.safetensors"):  # the larger part, read no more
                file.unlink()
            (integers / DONE).touch()
            self._made[name] = integers
        return self._made[name]

    def write_floats(self, name: str, folder: Path) -> None:
        """The checkpoint that it is made of."""
        replace(MODELS[self.named(name)], bfloat16=True).write_checkpoint(folder)

    def some(self, many: int, few: int) -> int:
        """`few` where it is to be quick."""
        return few if self.quick else many


@contextlib.contextmanager
def stage_bench(
    rounds: int, *, quick: bool, log: Callable[[str], None], kept: Path | None = None
) -> Iterator[StageBench]:
    """Its models go when it does, unless they are to be `kept` in a directory for the next time."""
    with tempfile.TemporaryDirectory(prefix="cutset-bench-") as folder:
        if kept is not None:
            kept.mkdir(parents=True, exist_ok=True)
        yield StageBench(kept or Path(folder), rounds, quick, log)
