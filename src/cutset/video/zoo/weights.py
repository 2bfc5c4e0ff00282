"""Weights of a network: random ones by seed, or those of a file."""

from __future__ import annotations

import hashlib
import math
from collections.abc import Iterator, Mapping
from pathlib import Path

import numpy as np
import torch
from torch import Tensor, nn

from cutset.errors import CheckpointError, first_line
from cutset.models.files.checkpoint import FLOATS, SafetensorsFile
from cutset.models.files.lfs import check_no_pointer_at
from cutset.video.zoo.network import Network

__all__ = ["fill_random", "load_weights", "open_weights", "random_tensor"]

COUNTER = "num_batches_tracked"  # written while training, read by nobody here; files of old programs lack it


def fill_random(network: Network, seed: int) -> None:
    """Fills a network's parameters in place; the same seed gives the same bits on every machine."""
    for name, tensor in network.state_dict().items():
        tensor.copy_(random_tensor(name, tuple(tensor.shape), seed, network.gain(name)))


def random_tensor(name: str, shape: tuple[int, ...], seed: int, gain: float = 1.0) -> Tensor:
    """One parameter of a random network, by its name and shape alone: a worker can make just those of its stage.

    Uniform, because only scaled integers are the same everywhere. Weights have He's variance 2 / fan-in, so that ReLU
    keeps the scale; batch norms are near the identity.
    """
    if name.endswith(COUNTER):
        return torch.zeros(shape, dtype=torch.int64)
    low, high = -0.05, 0.05  # biases and running means
    if len(shape) > 1:
        high = math.sqrt(6 / math.prod(shape[1:]))
        low = -high
    elif name.endswith((".weight", ".running_var")):
        low, high = 0.8, 1.2
    key = hashlib.sha256(f"{seed}/{name}".encode()).digest()
    values = np.random.Generator(np.random.PCG64(int.from_bytes(key, "little"))).random(shape, dtype=np.float32)
    values *= np.float32((high - low) * gain)
    values += np.float32(low * gain)
    return torch.from_numpy(values)


def load_weights(network: Network, path: Path) -> list[str]:
    """Copies the weights of a file into a network and returns the names in the file that it has no use for.

    Those are the tensors of a head that was left out and of auxiliary heads; anything else that is missing, misshapen
    or unexpected is a CheckpointError. A `.safetensors` file is mapped; another one must be a state dictionary that
    torch reads without unpickling objects.
    """
    found = _own_names(network, open_weights(path))
    wanted = dict(network.state_dict())
    for name, target in wanted.items():
        tensor = found.get(name)
        if tensor is None:
            if name.endswith(COUNTER):
                target.zero_()
                continue
            raise CheckpointError(f"{path}: tensor {name} is missing; is it a file of another network?")
        if tensor.shape != target.shape:
            raise CheckpointError(
                f"{path}: tensor {name} has shape {tuple(tensor.shape)}; the network has {tuple(target.shape)}"
            )
        if tensor.is_floating_point() != target.is_floating_point():
            raise CheckpointError(f"{path}: tensor {name} has dtype {_dtype(tensor)}; the network has {_dtype(target)}")
        target.copy_(tensor)
    rest = [name for name in found if name not in wanted]
    for name in rest:
        if not name.startswith(network.HEAD + network.UNUSED):
            raise CheckpointError(f"{path}: tensor {name} is unexpected; is it a file of another network?")
    return rest


def _own_names(network: Network, found: Mapping[str, Tensor]) -> Mapping[str, Tensor]:
    """The tensors by this network's names, where a file has timm's."""
    table = dict(network.timm_names())
    named = [name for name in found if name in table]
    own = [name for name in network.state_dict() if name in found]
    if len(named) <= len(own):
        return found
    network.become_timm()
    shapes = {name: tensor.shape for name, tensor in network.state_dict().items()}
    renamed = {table.get(name, name): found[name] for name in found}
    return {
        name: tensor.reshape(shapes[name]) if name in shapes and tensor.numel() == shapes[name].numel() else tensor
        for name, tensor in renamed.items()
    }


def _dtype(tensor: Tensor) -> str:
    return str(tensor.dtype).removeprefix("torch.")


def open_weights(path: Path) -> Mapping[str, Tensor]:
    """The tensors of a weight file by name. Raises CheckpointError."""
    if path.suffix == ".safetensors":
        return _Mapped(SafetensorsFile(path))
    if not path.is_file():
        raise CheckpointError(f"{path} is not a file")
    check_no_pointer_at(path, CheckpointError)
    try:
        table = torch.load(path, map_location="cpu", weights_only=True)
    except Exception as error:  # pickle, zip and torch each raise their own; none of them is a bug of ours
        raise CheckpointError(
            f"{path} can't be read as torch weights ({first_line(error, 120)}); save a state dictionary or safetensors"
        ) from None
    if not isinstance(table, dict) or not all(isinstance(n, str) and isinstance(t, Tensor) for n, t in table.items()):
        raise CheckpointError(f"{path} holds something else than a state dictionary; save `module.state_dict()`")
    # A file may hold parameters, and tensors on the meta device, which have no values.
    for name, tensor in table.items():
        if tensor.layout != torch.strided or tensor.is_meta or tensor.is_quantized or tensor.is_complex():
            raise CheckpointError(f"{path}: tensor {name} is not a plain array of numbers")
    return {name: tensor.detach() if isinstance(tensor, nn.Parameter) else tensor for name, tensor in table.items()}


class _Mapped(Mapping[str, Tensor]):
    """A safetensors file as torch tensors, each made when it is asked for."""

    def __init__(self, file: SafetensorsFile) -> None:
        self.file = file

    def __getitem__(self, name: str) -> Tensor:
        tensor = self.file[name]
        raw = tensor.float32() if tensor.dtype in FLOATS else tensor.raw
        return torch.from_numpy(np.array(raw))

    def __iter__(self) -> Iterator[str]:
        return iter(self.file)

    def __len__(self) -> int:
        return len(self.file)
