"""Digests of weights: whether two parties have the same."""

from __future__ import annotations

import hashlib

import torch
from torch import Tensor

__all__ = ["tensor_digest"]


def tensor_digest(tensor: Tensor) -> str:
    """SHA-256 of a tensor's dtype, shape and bytes in row-major order."""
    digest = hashlib.sha256(f"{tensor.dtype} {tuple(tensor.shape)}\n".encode())
    digest.update(tensor.detach().cpu().contiguous().flatten().view(torch.uint8).numpy().data)
    return digest.hexdigest()
