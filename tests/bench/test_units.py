"""Every figure of a benchmark has a unit of which the report knows whether more is better, and targets agree."""

from __future__ import annotations

import ast
import importlib
from collections.abc import Iterator
from pathlib import Path

import pytest

from benchmarks.offload import TARGETS as OFFLOAD
from benchmarks.offload import ratios
from benchmarks.targets import Target
from cutset.compare.metric_units import higher_is_better
from cutset.compare.results import Row

ROOT = Path(__file__).resolve().parents[2]
PLACES = [*sorted((ROOT / "benchmarks").glob("*.py")), *sorted((ROOT / "src/cutset/bench").glob("*.py"))]


def written(path: Path) -> Iterator[tuple[int, ast.expr, str]]:
    """The rows that a module makes whose unit it writes out: line, metric, unit."""
    for node in ast.walk(ast.parse(path.read_text(encoding="utf-8"))):
        if isinstance(node, ast.Call) and isinstance(node.func, ast.Name) and node.func.id in ("Row", "summarise"):
            given = dict(zip(("workload", "system", "metric", "value", "unit"), node.args, strict=False))
            unit = given.get("unit")
            if isinstance(unit, ast.Constant):
                yield node.lineno, given["metric"], str(unit.value)


def test_rows_are_found() -> None:
    assert sum(len(list(written(path))) for path in PLACES) > 100


@pytest.mark.parametrize("path", PLACES, ids=lambda path: path.stem)
def test_the_report_knows_every_unit(path: Path) -> None:
    for line, metric, unit in written(path):
        name = metric.value if isinstance(metric, ast.Constant) else ""
        try:
            higher_is_better(unit, str(name))
        except Exception as error:
            raise AssertionError(f"{path.name}, line {line}: {error}") from error


def agrees(target: Target, unit: str, metric: str) -> bool:
    return higher_is_better(unit, metric) == target.least


@pytest.mark.parametrize("path", PLACES, ids=lambda path: path.stem)
def test_more_is_better_where_a_target_says_at_least(path: Path) -> None:
    """As far as a module writes out what its rows are called."""
    if path.parent.name != "benchmarks" or "TARGETS" not in path.read_text(encoding="utf-8"):
        return
    module = importlib.import_module(f"benchmarks.{path.stem}")
    for line, metric, unit in written(path):
        name = getattr(module, metric.id, None) if isinstance(metric, ast.Name) else None
        name = metric.value if isinstance(metric, ast.Constant) else name
        for target in module.TARGETS:
            if isinstance(name, str) and name.endswith(target.metric):
                assert agrees(target, unit, name), f"{path.name}, line {line}: {name!r} in {unit!r}"


def test_ratios_of_an_offload_are_judged_as_they_are_shown() -> None:
    rows = [
        Row("offload w246", f"cutset {name}", metric, 1.0, unit)
        for name in ("local exact", "local int8", "masked over shm", "masked+verified over shm")
        for metric, unit in (("decode", "tok/s"), ("client CPU at the sites", "ms"))
    ]
    found = {row.metric: row.unit for row in ratios(rows)}
    assert len(found) == len(OFFLOAD)
    for target in OFFLOAD:
        assert agrees(target, found[target.metric], target.metric)
