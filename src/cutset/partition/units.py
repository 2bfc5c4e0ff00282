"""How tables and drawings write sizes."""

from __future__ import annotations

from cutset.partition.node import Value

__all__ = ["count", "kilobytes", "shape_text"]


def count(number: float) -> str:
    """A large number with a prefix: `1.43 G`, `61.1 M`."""
    for power, prefix in ((1e12, "T"), (1e9, "G"), (1e6, "M"), (1e3, "k")):
        if number >= power:
            return f"{number / power:.3g} {prefix}"
    return f"{number:.0f} "


def kilobytes(nbytes: int) -> str:
    """Bytes in units of 1000: `1,036.8`."""
    return f"{nbytes / 1000:,.1f}"


def shape_text(value: Value) -> str:
    """`1×64×119×179`, with the dtype where it isn't float32."""
    sizes = "×".join(map(str, value.shape)) or "scalar"
    return sizes if value.dtype == "float32" else f"{sizes} {value.dtype}"
