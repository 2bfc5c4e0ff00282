"""What an offload promises, and what follows from it."""

from __future__ import annotations

from dataclasses import dataclass

from cutset.errors import ConfigError

__all__ = ["DEFAULT_MODE", "MODES", "Mode", "mode_named"]


@dataclass(frozen=True, slots=True)
class Mode:
    """`masked`: the accelerator sees uniform residues. `verified`: a wrong product is found before it is used.

    `remote` is false for `local`, which multiplies here.
    """

    name: str
    remote: bool
    masked: bool
    verified: bool

    @property
    def sees(self) -> str:
        """What the accelerator sees, in words."""
        if not self.remote:
            return "nothing: everything is multiplied here"
        return "uniform residues modulo 2^31 - 1" if self.masked else "all activations in clear"


MODES = {
    mode.name: mode
    for mode in (
        Mode("plain", remote=True, masked=False, verified=False),
        Mode("verified", remote=True, masked=False, verified=True),
        Mode("masked", remote=True, masked=True, verified=False),
        Mode("masked+verified", remote=True, masked=True, verified=True),
        Mode("local", remote=False, masked=False, verified=False),
    )
}
DEFAULT_MODE = "masked+verified"


def mode_named(name: str) -> Mode:
    """Raises ConfigError for a name that isn't one."""
    try:
        return MODES[name]
    except KeyError:
        raise ConfigError(f"{name!r} is not a mode of offload; choose one of {', '.join(MODES)}") from None
