"""Whether more of a unit is better, and how figures are shown.

A unit that isn't listed is an error: a guess would turn losses into wins.
"""

from __future__ import annotations

import math

from cutset.errors import ConfigError

__all__ = ["format_value", "higher_is_better"]

RATES = (
    "tok/s",
    "tok",
    "GB/s",
    "MB/s",
    "MiB/s",
    "GFLOP/s",
    "GOP/s",
    "TOP/s",
    "pictures/s",
    "requests/s",
    "rows/s",
    "x",
    "boxes",
)
COSTS = (
    "s",
    "ms",
    "us",
    "µs",
    "ns",
    "B",
    "kB",
    "KiB",
    "MB",
    "MiB",
    "GB",
    "GiB",
    "B/picture",
    "%",
    "rel",
    "rel error",
    "calls",
    "nats",
    "bits",
    "answers",
    "requests",
    "pictures",
    "rows",
)
UNITS = dict.fromkeys(RATES, True) | dict.fromkeys(COSTS, False)
# Metrics whose unit says the opposite, or nothing. `roof` is per cent of what the machine can do.
METRICS = {"accuracy": True, "agreement": True, "hit rate": True, "roof": True, "speedup": True, "rel error": False}
METRICS |= {"answers that are equal": True, "top-1 agreement": True, "explained": True, "share of read bandwidth": True}
METRICS |= {"prompt tokens found in a cache": True}
METRICS |= {"client CPU at products, over local's": False, "CPU time with receipts over without": False}
METRICS |= {"CPU time of a receipt over that of its answer": False}
METRICS |= {"client CPU at the sites, over that of local int8": False}


def higher_is_better(unit: str, metric: str) -> bool:
    """True where a larger value is better. Raises `ConfigError` for a unit that isn't known."""
    better = METRICS.get(metric, UNITS.get(unit))
    if better is None:
        raise ConfigError(
            f"unit {unit!r} of metric {metric!r}: whether more is better isn't known; known: {', '.join(UNITS)}\n"
            "Add it to RATES or COSTS in cutset/compare/metric_units.py."
        )
    return better


def format_value(value: float) -> str:
    """Three digits or more, without an exponent where that is short."""
    size = abs(value)
    if not math.isfinite(value):
        return "∞" if value > 0 else "-∞" if value < 0 else "not a number"
    if size >= 1e7 or 0 < size < 1e-3:
        return f"{value:.2e}"
    return f"{value:.0f}" if size >= 100 else f"{value:.1f}" if size >= 10 else f"{value:.{2 if size >= 1 else 3}f}"
