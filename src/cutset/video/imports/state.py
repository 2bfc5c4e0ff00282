"""What a module keeps from one call to the next: its attributes, before and after."""

from __future__ import annotations

import hashlib
import types
from collections import OrderedDict, deque
from collections.abc import Iterator, Mapping, Sequence, Set
from typing import Any

import numpy as np
import torch
from torch import Tensor, nn
from torch._subclasses import FakeTensor
from torch.nn.parameter import is_lazy

__all__ = ["Attributes", "same_bits"]

MOST = 20_000  # values of a module's attributes that are looked at
DEEP = 6  # attributes of attributes
OWN = frozenset(vars(nn.Module()))  # torch's own attributes: `training`, hooks, tables of parameters and modules
TABLES = ("_parameters", "_buffers")
CONTAINERS = (list, dict, OrderedDict, set, deque)
PLAIN = (bool, int, float, complex, str, bytes, type(None))


def same_bits(one: Sequence[Tensor], other: Sequence[Tensor]) -> bool:
    """Whether these are the same tensors, to the bit: NaNs and the sign of zero count."""
    return len(one) == len(other) and all(
        a.shape == b.shape and a.dtype == b.dtype and torch.equal(_bytes(a), _bytes(b))
        for a, b in zip(one, other, strict=True)
    )


def _bytes(tensor: Tensor) -> Tensor:
    return tensor.detach().contiguous().reshape(-1).view(torch.uint8)


class Attributes:
    """The attributes of a module and of all inside it, those of their classes too, as they are now."""

    def __init__(self, module: nn.Module) -> None:
        self._module = module
        self._before = [(part, dict(vars(part)), _containers(part)) for part in module.modules()]
        held = [*(a.values() for _, a, _ in self._before), *(a["_buffers"].values() for _, a, _ in self._before)]
        plain = [t for values in held for t in values if type(t) is Tensor and not (t.is_inference() or t.is_meta)]
        self._tensors = [(t, t.clone()) for t in plain]
        self._seen = dict(_all(module))

    def changed(self, loose: bool = False) -> list[str]:
        """The names of those that are others now, as `layers.0.count`.

        A tensor with the bits of the one before is the same: old kinds of weight normalisation make it anew. `loose`
        leaves out tensors in lists and dictionaries, where hooks put them for use in the same call.
        """
        now, seen = dict(_all(self._module)), self._seen
        return sorted(name for name in {*now, *seen} if _differs(seen.get(name, _GONE), now.get(name, _GONE), loose))

    def restore(self) -> None:
        """Puts back what was there: attributes and buffers, and what lists, dictionaries and sets among them held."""
        for tensor, values in self._tensors:
            if not same_bits([tensor], [values]):  # a norm's statistics change without another version
                tensor.copy_(values)
        for part, attributes, containers in self._before:
            vars(part).clear()
            vars(part).update(attributes)
            for container, content in containers:
                container.clear()
                if isinstance(container, dict | set):  # pairs, or elements
                    container.update(content)
                else:
                    container.extend(content)


_GONE = object()


def _containers(part: nn.Module) -> list[tuple[Any, Any]]:
    held = [value for value in vars(part).values() if type(value) in CONTAINERS]
    return [(value, list(value.items()) if isinstance(value, dict) else list(value)) for value in held]


def _all(module: nn.Module) -> Iterator[tuple[str, Any]]:
    left = [MOST]
    for path, part in module.named_modules():
        start = f"{path}." if path else ""
        for name, value in vars(part).items():
            if name not in OWN:
                yield start + name, _shown(value, left, 0)
        for table in TABLES:
            for name, value in vars(part)[table].items():
                yield start + name, _shown(value, left, 0)
        for kind in type(part).__mro__:
            if kind is nn.Module:
                break
            for name, value in vars(kind).items():
                if not name.startswith("__") and not callable(value) and not isinstance(value, property | staticmethod):
                    yield f"{start}{kind.__name__}.{name}", _shown(value, left, 0)


def _shown(value: Any, left: list[int], depth: int) -> Any:
    """Something to compare a value with what it is later; what is compared by identity stays alive in it."""
    left[0] -= 1
    if isinstance(value, PLAIN):
        return type(value).__name__, repr(value)
    if isinstance(value, Tensor) and not is_lazy(value):
        return _Held(value)
    if isinstance(value, np.ndarray) and not value.dtype.hasobject:
        return value.dtype.str, value.shape, hashlib.sha256(value.tobytes()).digest()
    if left[0] < 0 or depth >= DEEP or isinstance(value, nn.Module | type | types.ModuleType):
        return _Same(value)
    if isinstance(value, Mapping):
        return "mapping", [(repr(key), _shown(one, left, depth + 1)) for key, one in list(value.items())[: left[0]]]
    if isinstance(value, Sequence | deque):
        return type(value).__name__, len(value), [_shown(one, left, depth + 1) for one in list(value)[: left[0]]]
    if isinstance(value, Set):
        return "set", sorted(map(repr, value))
    if isinstance(value, torch.Generator):
        return "generator", value.get_state().numpy().tobytes()
    if hasattr(value, "__dict__") and not callable(value):
        return _Same(value), _shown(vars(value), left, depth + 1)
    return _Same(value), repr(value) if isinstance(value, Iterator) else None


def _differs(before: Any, now: Any, loose: bool, inside: bool = False) -> bool:
    if isinstance(before, _Held) and isinstance(now, _Held):
        return not (loose and inside) and not now.equals(before)
    if isinstance(before, tuple | list) and type(before) is type(now) and len(before) == len(now):
        return any(_differs(one, other, loose, True) for one, other in zip(before, now, strict=True))
    return bool(before != now)


class _Same:
    """Equal to the same object alone."""

    def __init__(self, what: object) -> None:
        self.what = what

    def __eq__(self, other: object) -> bool:
        return isinstance(other, _Same) and other.what is self.what

    __hash__ = None  # type: ignore[assignment]


class _Held:
    """A tensor, and how often it had been written to."""

    def __init__(self, tensor: Tensor) -> None:
        self.tensor, self.version = tensor, _version(tensor)

    def equals(self, before: _Held) -> bool:
        one, other = self.tensor, before.tensor
        if one is other:
            return self.version == before.version
        if _version(other) != before.version or (one.shape, one.dtype, one.device) != (
            other.shape,
            other.dtype,
            other.device,
        ):
            return False
        return type(one) is type(other) and not isinstance(one, FakeTensor) and bool(torch.equal(one, other))


def _version(tensor: Tensor) -> int:
    return 0 if tensor.is_inference() else tensor._version
