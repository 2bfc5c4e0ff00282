"""What a user names as a network becomes a model: a name of the zoo, an ONNX file, or a torch module."""

from __future__ import annotations

import importlib.util
import sys
from collections.abc import Callable
from pathlib import Path
from typing import TYPE_CHECKING, Any

from cutset.cluster.values import Array
from cutset.config import StreamSettings
from cutset.errors import ConfigError, RequestError, first_line
from cutset.video.network_model import NetworkModel

if TYPE_CHECKING:
    from torch import nn

__all__ = ["is_onnx", "load_module", "open_file", "open_network", "own_size", "profile_name"]


def is_onnx(model: Any) -> bool:
    """Whether this names an ONNX file."""
    return isinstance(model, str | Path) and str(model).lower().endswith(".onnx")


def open_file(model: Any) -> Any:
    """The `OnnxFile` that is named, read; anything else as it is. Raises GraphError."""
    if not is_onnx(model):
        return model
    from cutset.video.imports.onnx_file import read_onnx

    return read_onnx(Path(model))


def own_size(model: Any) -> tuple[int, int] | None:
    """Rows and columns of the only pictures that a network takes; None where it takes any."""
    size: tuple[int, int] | None = model.size if _is_file(model) else None
    return size


def _is_file(model: Any) -> bool:
    return type(model).__name__ == "OnnxFile"  # its module needs the onnx library, which may be missing


def profile_name(model: Any, features: bool = False) -> str:
    """What a profile calls a network: its name in the zoo, its file's name, or its class."""
    if isinstance(model, str):
        return f"{model} --features" if features else model
    return str(model.path.name) if _is_file(model) else type(model).__name__


def open_network(
    model: Any,
    shape: tuple[int, ...],
    dtype: str,
    settings: StreamSettings,
    *,
    picture: Array | None = None,
    log: Callable[[str], None] | None = None,
) -> NetworkModel:
    """A network for pictures of this shape (1, channels, rows, columns) and dtype, as `picture` is one.

    `model` is a name of the zoo, a torch module, or what `open_file` gave. Raises CutsetError.
    """
    if _is_file(model):
        from cutset.video.onnx_model import OnnxModel

        _plain_only(settings, ("features", "weights", "seed"), "an ONNX file is run as it is, with the weights in it")
        if not model.dtype.startswith("float"):
            _plain_only(settings, ("pixels",), "the network takes pixels as they are")
        if shape[:2] != (1, 3):
            raise RequestError(f"pictures of an ONNX file's network have three channels, not {list(shape)}")
        rows, columns = shape[2:]
        return OnnxModel.of(
            model, (rows, columns), dtype, pixels=settings.pixels, bgr=settings.bgr, threads=settings.threads
        )
    _plain_only(settings, ("pixels", "bgr"), "they are for ONNX files; a torch module scales pictures itself")
    from cutset.video.zoo import build

    if isinstance(model, str):
        if shape[1] != 3 or dtype != "uint8":
            raise RequestError(f"pictures are uint8 (3, height, width), not {dtype} {list(shape)}")
        model = build(model, head=not settings.features, weights=settings.weights, seed=settings.seed, log=log)
    import torch

    from cutset.video.torch_model import TorchModel

    return TorchModel.of(model, shape, getattr(torch, dtype), picture)


def _plain_only(settings: StreamSettings, names: tuple[str, ...], why: str) -> None:
    """Raises ConfigError for a flag that would be ignored."""
    if given := [f"--{name}" for name in names if settings.by_hand(name)]:
        raise ConfigError(f"{' and '.join(given)}: {why}")


def load_module(spec: str, log: Callable[[str], None]) -> nn.Module:
    """`FILE.py:NAME`: runs the file, and calls what it has of this name for a torch module. Says so first.

    The file is code of whoever wrote it and may do anything that this user may. Raises ConfigError.
    """
    place, _, name = spec.rpartition(":")
    path = Path(place)
    if not place.endswith(".py") or not name.isidentifier():
        raise ConfigError(f"--module takes FILE.py:NAME, where NAME() gives a torch module, not {spec[:100]!r}")
    if not path.is_file():
        raise ConfigError(f"--module: {path} is not a file")
    log(f"runs the code of {path}: {name}()")
    found = importlib.util.spec_from_file_location("cutset_user_module", path.resolve())
    if found is None or found.loader is None:
        raise ConfigError(f"--module: {path} can't be loaded as Python")
    code = importlib.util.module_from_spec(found)
    sys.modules[found.name] = code  # classes look themselves up there
    try:
        found.loader.exec_module(code)
        module = getattr(code, name, None)
        made = module() if callable(module) else module
    except Exception as error:  # whatever the user's code raises
        raise ConfigError(f"--module: {spec} fails with {type(error).__name__}: {first_line(error)}") from error
    from torch import nn

    if not isinstance(made, nn.Module):
        raise ConfigError(f"--module: {path} has no {name}() that gives a torch module")
    return made
