"""The native extension, running on the best instruction set of this machine or on the one that CUTSET_ISA names."""

from __future__ import annotations

import os
from importlib.util import find_spec
from typing import Any

from cutset.errors import DeviceError

__all__ = ["available", "extension"]


def available() -> bool:
    """The extension is built."""
    return find_spec("cutset.kernels._native") is not None


def extension() -> Any:
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
