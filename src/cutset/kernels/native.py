"""The native extension, running on the best instruction set of this machine or on the one that CUTSET_ISA names.

`from cutset.kernels import native` and `native.LinearI8(…)`: the first use loads the extension. kernels/_native.pyi
says what it has.
"""

from __future__ import annotations

import os
from importlib.util import find_spec
from types import ModuleType
from typing import TYPE_CHECKING

from cutset.errors import DeviceError

if TYPE_CHECKING:
    from cutset.kernels._native import *  # noqa: F403  # its names, for type checkers


def available() -> bool:
    """The extension is built."""
    return find_spec("cutset.kernels._native") is not None


def extension() -> ModuleType:
    """The extension's module. Raises DeviceError where it isn't built, or the machine lacks the instruction set."""
    try:
        import cutset.kernels._native as native
    except ImportError as error:
        raise DeviceError(
            f"the native extension can't be loaded ({error}); reinstall Cutset with a C++ compiler"
        ) from None
    wanted = os.environ.get("CUTSET_ISA")
    if wanted and wanted != native.isa() and not native.select_isa(wanted):
        raise DeviceError(f"CUTSET_ISA={wanted}: this machine or build has {', '.join(native.available_isas())}")
    return native


if not TYPE_CHECKING:

    def __getattr__(name: str) -> object:
        if name.startswith("__"):
            raise AttributeError(name)
        found = globals()[name] = getattr(extension(), name)
        return found
