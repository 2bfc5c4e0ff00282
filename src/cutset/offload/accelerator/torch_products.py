"""Products on a device of torch, exact in one of two ways.

`int8`: the rows are cut into signed limbs of 8 bits, one row a limb, which 8-bit hardware multiplies and sums in int32:
two limbs for activations of up to 12 bits, four for residues lifted to the centre. A sum of a limb is at most
128 * 127 * depth.
`float64`: residues at the centre times weights sum to at most 2^30 * 127 * depth, which float64 holds exactly while
depth <= 66052; beyond that the rows are cut into two limbs of 16 bits.

A device does the first if it can and gets it right, tried when it is opened, or else the second.
"""

from __future__ import annotations

from collections.abc import Hashable
from dataclasses import dataclass
from typing import Any, Literal

import numpy as np
import torch
from numpy.typing import NDArray

from cutset.errors import CheckpointError, DeviceError
from cutset.kernels.reference_field import HALF, P, Residues
from cutset.kernels.reference_linear import top_of
from cutset.models.files.integer import most_bits
from cutset.offload.accelerator.products import Products, self_test

__all__ = ["TorchProducts"]

Way = Literal["int8", "float64"]
STEP = 16  # what 8-bit hardware wants dimensions to be multiples of
LEAST_ROWS = 32  # torch._int_mm takes no fewer than 17
MOST_INT8_DEPTH = (2**31 - 1) // (128 * 127)
MOST_FLOAT_DEPTH = 2**53 // (2**30 * 127)
WEIGHTS_AT_ONCE = 1 << 24  # that are float64 at the same time


@dataclass
class _Matrix:
    weight: Any  # int8 (outputs, depth) on the device, padded with zeros to multiples of STEP for `int8`
    outputs: int
    depth: int
    top: int  # the largest activation whose sums stay below P / 2


class TorchProducts(Products):
    """See cutset.offload.accelerator.products.Products."""

    def __init__(self, device: str, threads: int | None = None, way: Way | None = None) -> None:
        """device: `cpu`, `cuda`, `cuda:1`. threads: of torch, on the CPU. way: forced, for tests and measurements.

        DeviceError for a device that isn't there or that multiplies wrong.
        """
        try:
            self._device = torch.device(device)
            torch.zeros(1, device=self._device)
        except (RuntimeError, AssertionError) as error:
            reason = str(error).splitlines()[0]
            raise DeviceError(f"device {device} can't be used: {reason}") from None
        if threads is not None and self._device.type == "cpu":
            torch.set_num_threads(threads)
        name = torch.cuda.get_device_name(self._device) if self._device.type == "cuda" else "torch on the processor"
        self._matrices: dict[Hashable, _Matrix] = {}
        self._room: dict[str, Any] = {}
        ways: tuple[Way, ...] = (way,) if way else ("int8", "float64")
        reason = ""
        for each in ways:
            self._way, self.device = each, f"{name}, {each}"
            try:
                self_test(self)
                return
            except (RuntimeError, DeviceError) as error:
                reason = str(error).splitlines()[0]
        raise DeviceError(f"device {device} can't multiply exactly: {reason}")

    def put(self, matrix: Hashable, weight: NDArray[np.int8]) -> None:
        outputs, depth = weight.shape
        if int(weight.min()) < -127:
            raise CheckpointError(f"matrix {matrix}: 8-bit weights must lie between -127 and 127")
        bits = most_bits(weight)
        if bits < 8 or (self._way == "int8" and depth > MOST_INT8_DEPTH):
            raise CheckpointError(f"matrix {matrix}: sums of {depth} products overflow")
        step = STEP if self._way == "int8" else 1
        shape = (-(-outputs // step) * step, -(-depth // step) * step)
        kept = torch.zeros(shape, dtype=torch.int8, device=self._device)
        kept[:outputs, :depth] = torch.from_numpy(np.array(weight)).to(self._device)
        self._matrices[matrix] = _Matrix(kept, outputs, depth, top_of(bits))

    def drop(self, matrix: Hashable) -> None:
        del self._matrices[matrix]

    def integers(
        self, matrix: Hashable, q: NDArray[np.int16], out: NDArray[np.int32] | None = None
    ) -> NDArray[np.int32]:
        m = self._matrices[matrix]
        _check(q, np.int16, m.depth, "q")
        if q.size and max(int(q.max()), -int(q.min())) > m.top:
            raise ValueError(f"integers for these weights must lie between {-m.top} and {m.top}")
        return self._give(self.sums(matrix, self.staged(q)).to(torch.int32), out, np.int32)

    def warm(self, matrix: Hashable, offset: int, nbytes: int) -> int:
        return offset  # a device has memory of its own

    def residues(self, matrix: Hashable, x: Residues, out: Residues | None = None) -> Residues:
        m = self._matrices[matrix]
        _check(x, np.uint32, m.depth, "x")
        if x.size and int(x.max()) >= P:
            raise ValueError("x must hold residues, which are below 2147483647")
        return self._give(self.remainders(matrix, self.lifted(x)), out, np.uint32)

    def sums(self, matrix: Hashable, rows: Any) -> Any:
        """The products (n, outputs), int64, of integers (n, depth) within the matrix's bounds; both on the device."""
        m = self._matrices[matrix]
        return self._int8(m, rows, 2) if self._way == "int8" else self._float64(m, [rows])

    def remainders(self, matrix: Hashable, rows: Any) -> Any:
        """The products mod P, int32 (n, outputs), of what `lifted` gave (n, depth); both on the device."""
        m = self._matrices[matrix]
        if self._way == "int8":
            z = self._int8(m, rows, 4)
        else:
            z = self._float64(m, [rows] if m.depth <= MOST_FLOAT_DEPTH else [rows & 0xFFFF, rows >> 16])
        return torch.remainder(z, P).to(torch.int32)

    def lifted(self, x: Residues) -> Any:
        """Residues on the device, int32 around zero."""
        rows = self._stage(x.view(np.int32), torch.int32)
        return torch.where(rows > HALF, rows - P, rows)

    def staged(self, q: NDArray[np.int16]) -> Any:
        """Integers on the device, int32."""
        return self._stage(q, torch.int16).to(torch.int32)

    def top(self, matrix: Hashable) -> int:
        """The largest activation that a matrix takes."""
        return self._matrices[matrix].top

    def give(self, z: Any, out: NDArray[Any] | None, dtype: Any) -> NDArray[Any]:
        """An int32 tensor of the device as an array of this dtype, in `out` if it is there."""
        return self._give(z, out, dtype)

    def _int8(self, m: _Matrix, rows: Any, limbs: int) -> Any:
        """int64 (n, outputs), the sums themselves for activations, congruent to them for residues."""
        n = rows.shape[0]
        padded = torch.zeros(
            (max(LEAST_ROWS, -(-limbs * n // STEP) * STEP), m.weight.shape[1]), dtype=torch.int8, device=self._device
        )
        for i in range(limbs):
            low = ((rows + 128) & 255) - 128 if i < limbs - 1 else rows
            padded[i * n : (i + 1) * n, : m.depth] = low
            rows = (rows - low) >> 8
        sums = torch._int_mm(padded, m.weight.t())[: limbs * n, : m.outputs].view(limbs, n, m.outputs)
        total = sums[limbs - 1].to(torch.int64)
        for i in reversed(range(limbs - 1)):
            total = total * 256 + sums[i]
        return total

    def _float64(self, m: _Matrix, limbs: list[Any]) -> Any:
        """The same of one limb, or of two of 16 bits, some outputs at a time."""
        parts = []
        step = max(1, WEIGHTS_AT_ONCE // m.depth)
        for start in range(0, m.outputs, step):
            weight = m.weight[start : start + step].to(torch.float64).t()
            sums = [(limb.to(torch.float64) @ weight).to(torch.int64) for limb in limbs]
            parts.append(sums[0] if len(sums) == 1 else torch.remainder(sums[1], P) * 65536 + sums[0])
        return torch.cat(parts, dim=1)

    def _stage(self, x: NDArray[Any], dtype: Any) -> Any:
        """A copy of x on the device; to a GPU by way of memory that it can read directly."""
        host = self._memory("in", x.shape, dtype)
        np.copyto(host.numpy(), x)
        return host.to(self._device, non_blocking=True)

    def _give(self, z: Any, out: NDArray[Any] | None, dtype: Any) -> NDArray[Any]:
        host = z
        if self._device.type != "cpu":
            host = self._memory("out", z.shape, z.dtype)
            host.copy_(z)
        result = host.numpy().view(dtype)
        if out is None:
            return np.array(result)
        if out.shape != result.shape or out.dtype != dtype:
            raise ValueError(f"out must be {np.dtype(dtype)} {result.shape}, not {out.dtype} {out.shape}")
        np.copyto(out, result)
        return out

    def _memory(self, use: str, shape: Any, dtype: Any) -> Any:
        """Memory of the host, kept from call to call."""
        count = int(np.prod(shape))
        size = count * dtype.itemsize
        if use not in self._room or self._room[use].numel() < size:
            self._room[use] = torch.empty(max(size, 1), dtype=torch.uint8, pin_memory=self._device.type == "cuda")
        return self._room[use][:size].view(dtype).view(tuple(shape))


def _check(x: NDArray[Any], dtype: Any, depth: int, name: str) -> None:
    if x.ndim != 2 or x.shape[1] != depth or x.dtype != dtype:
        raise ValueError(f"{name} must be {np.dtype(dtype)} of {depth} columns, not {x.dtype} {x.shape}")
