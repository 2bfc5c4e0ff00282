"""Torch's attention layers while they are exported: they call the kernels there that they call in inference.

In inference they call one kernel for a whole layer, which has other bits than the operators that they are otherwise
made of. Under an exporter they don't, by asking whether torch's functions are intercepted and whether there is tracing.
"""

from __future__ import annotations

from collections.abc import Callable, Iterator
from contextlib import ExitStack, contextmanager
from functools import wraps
from typing import Any
from unittest.mock import patch

import torch
from torch import nn
from torch.nn.modules import activation

__all__ = ["fused_attention"]

LAYERS = (nn.MultiheadAttention, nn.TransformerEncoderLayer)


@contextmanager
def fused_attention() -> Iterator[None]:
    """Exported layers of attention have the kernels that they have in inference."""
    with ExitStack() as stack:
        stack.enter_context(patch.object(activation, "_is_make_fx_tracing", lambda: False))
        for layer in LAYERS:
            stack.enter_context(patch.object(layer, "forward", _not_intercepted(layer.forward)))
        yield


def _not_intercepted(forward: Callable[..., Any]) -> Callable[..., Any]:
    @wraps(forward)
    def call(*args: Any, **kwargs: Any) -> Any:
        with torch._C.DisableTorchFunction():
            return forward(*args, **kwargs)

    return call
