"""How views are drawn: one style, light or dark, to PNG or SVG, without a display."""

from __future__ import annotations

import os
from collections.abc import Callable, Mapping, Sequence
from pathlib import Path
from typing import Any

from cutset.errors import ConfigError, DeviceError

__all__ = ["BLUE", "COLOURS", "GREEN", "ORANGE", "RED", "Draw", "layers_below", "save", "wide_enough"]

Draw = Callable[[Any, Mapping[str, Any]], None]  # takes a matplotlib figure and the view's data

BLUE, ORANGE, GREEN, RED = "#4477aa", "#ee7733", "#228833", "#cc3377"
COLOURS = (BLUE, ORANGE, GREEN, RED, "#ccbb44", "#8866bb", "#33aabb", "#aa6633")
MOST_NAMES = 48  # of layers below an axis
STYLE: dict[Any, Any] = {
    "font.size": 9,
    "axes.titlesize": 10,
    "axes.titlelocation": "left",
    "axes.grid": True,
    "grid.alpha": 0.25,
    "axes.axisbelow": True,
    "axes.spines.top": False,
    "axes.spines.right": False,
    "legend.frameon": False,
    "figure.titlesize": 12,
    "svg.hashsalt": "cutset",  # the same data, the same file
}
DARK: dict[Any, Any] = {
    "figure.facecolor": "#14171a",
    "savefig.facecolor": "#14171a",
    "axes.facecolor": "#14171a",
    "axes.edgecolor": "#9aa3ac",
    "axes.labelcolor": "#e3e6e9",
    "axes.titlecolor": "#e3e6e9",
    "text.color": "#e3e6e9",
    "xtick.color": "#9aa3ac",
    "ytick.color": "#9aa3ac",
    "grid.color": "#9aa3ac",
}


def save(draw: Draw, data: Mapping[str, Any], path: Path, *, dark: bool = False) -> None:
    """Draws `data` to a .png or .svg. `data` has `title`, and may have `size` in inches.

    Raises DeviceError without matplotlib, ConfigError where the file can't be written.
    """
    try:
        import matplotlib
        from matplotlib.figure import Figure
    except ImportError:
        raise DeviceError("drawing needs matplotlib: pip install 'cutset[stream]'") from None
    with matplotlib.rc_context(STYLE | (DARK if dark else {})):
        figure = Figure(figsize=data.get("size", (11, 5)), layout="constrained")
        draw(figure, data)
        figure.suptitle(data["title"], x=0.01, ha="left")
        kind = path.suffix.removeprefix(".")
        if kind not in figure.canvas.get_supported_filetypes():
            raise ConfigError(f"{os.fspath(path)!r} can't be written: a drawing's name ends with .png or .svg")
        try:
            with open(path, "wb") as file:
                figure.savefig(file, format=kind, dpi=120, metadata={"Date": None} if kind == "svg" else None)
        except OSError as error:
            raise ConfigError(f"{os.fspath(path)!r} can't be written: {error.strerror}") from None


def layers_below(axes: Any, names: Sequence[str]) -> None:
    """The names of layers below an axis whose places are 0, 1, …; some of them where there are many."""
    step = -(-len(names) // MOST_NAMES)
    places = range(0, len(names), step)
    axes.set_xticks(places, [names[k][-28:] for k in places], rotation=90, fontsize=7)
    axes.set_xlim(-0.5, len(names) - 0.5)


def wide_enough(layers: int) -> float:
    """Inches of a figure with so many layers below an axis."""
    return min(max(9.0, 2 + 0.24 * layers), 18.0)
