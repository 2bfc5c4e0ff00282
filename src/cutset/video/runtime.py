"""What workers ask of torch beside stages: whether a device is there, and files of weights."""

from __future__ import annotations

from pathlib import Path

import torch

from cutset.cluster.stage import WeightFile
from cutset.cluster.values import Array
from cutset.errors import DeviceError, first_line
from cutset.partition.node import Value
from cutset.video.torch_stage import to_array
from cutset.video.zoo.weights import open_weights

__all__ = ["check_device", "open_torch_weights"]


def check_device(device: str) -> None:
    """Raises DeviceError unless torch can compute there."""
    try:
        torch.empty(1, device=device)
    except (RuntimeError, AssertionError) as error:
        raise DeviceError(f"--device {device}: {first_line(error)}") from None


def open_torch_weights(path: Path) -> WeightFile:
    """A file of weights by name, each as the dtype that is asked for. Raises CheckpointError."""
    named = open_weights(path)

    def find(name: str, value: Value) -> Array | None:
        tensor = named.get(name)
        if tensor is None or tuple(tensor.shape) != value.shape:
            return None
        return to_array(tensor.to(getattr(torch, value.dtype)))

    return find
