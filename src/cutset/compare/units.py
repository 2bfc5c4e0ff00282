"""Whether more of a unit is better. What isn't listed is an error: a guess would turn losses into wins."""

from __future__ import annotations

from cutset.errors import ConfigError

__all__ = ["higher_is_better"]

RATES = ("tok/s", "GB/s", "MB/s", "MiB/s", "GFLOP/s", "GOP/s", "TOP/s", "pictures/s", "requests/s", "rows/s", "x")
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
)
UNITS = dict.fromkeys(RATES, True) | dict.fromkeys(COSTS, False)
# Metrics whose unit says the opposite, or nothing. `roof` is per cent of what the machine can do.
METRICS = {"accuracy": True, "agreement": True, "hit rate": True, "roof": True, "speedup": True, "rel error": False}
METRICS |= {"top-1 agreement": True, "explained": True, "share of read bandwidth": True}


def higher_is_better(unit: str, metric: str) -> bool:
    """True where a larger value is better. Raises `ConfigError` for a unit that isn't known."""
    better = METRICS.get(metric, UNITS.get(unit))
    if better is None:
        raise ConfigError(
            f"unit {unit!r} of metric {metric!r}: whether more is better isn't known; known: {', '.join(UNITS)}\n"
            "Add it to RATES or COSTS in cutset/compare/units.py."
        )
    return better
