"""Scales of channels that an integer checkpoint of version 3 has moved between what makes a channel and its readers.

The columns of a site's weights are multiplied by them, and what makes the site's inputs is divided by them: the gains
of the norm before `qkv`, `gate_up` and `lm_head`, the rows of v before `o`, the rows of up before `down`. In real
numbers nothing changes (SmoothQuant, Xiao et al. 2023, arXiv:2211.10438; AWQ, Lin et al. 2024, arXiv:2306.00978); in
integers the largest column of a row leaves the others more steps. A row's own factor moves into its scale and changes
no integer. Where no scale can move, they are 1.
"""

from __future__ import annotations

from collections.abc import Mapping
from dataclasses import replace
from typing import cast, get_args

import numpy as np
from numpy.typing import NDArray

from cutset.errors import CheckpointError
from cutset.models.files.adapter import LoraAdapter, LowRank, Told, rounded
from cutset.models.files.checkpoint import Tensor
from cutset.models.spec import DecoderSpec, Site

__all__ = ["ChannelScales", "Key", "fitted", "movable", "shared_channels"]

Key = tuple[Site, int, int]  # site, layer, expert
Floats = NDArray[np.float32]
NORMS: dict[Site, str] = {"qkv": "attention_norm", "gate_up": "mlp_norm", "lm_head": "final_norm"}


def movable(spec: DecoderSpec, key: Key) -> bool:
    """Scales of the channels that this site multiplies can move into what makes them, and change nothing else."""
    site, layer, expert = key
    if site == "lm_head":
        return True
    if site == "qkv":
        return spec.input_norms
    if site == "gate_up":  # in a mixture the router and all experts read the same norm
        return spec.input_norms and layer not in spec.sparse_layers
    if site == "down":
        return spec.activation != "clamped" and not (expert >= 0 and spec.expert_bias)
    shared = spec.kv_layer(layer) != layer or any(
        spec.kv_layer(other) == layer for other in range(spec.layers) if other != layer
    )
    return spec.mixer(layer) is None and not (spec.v_norm or shared or layer in spec.equal_kv_layers)


def shared_channels(spec: DecoderSpec, key: Key) -> NDArray[np.int64]:
    """(depth,): of each channel that a site multiplies, the number of the one that makes it. Queries share values."""
    site, layer, _ = key
    depth = spec.depth(*key)
    if site != "o" or spec.mixer(layer) is not None:
        return np.arange(depth)
    sizes = spec.heads_of(layer)
    heads = np.arange(sizes.kv_heads).repeat(spec.heads // sizes.kv_heads)
    return (heads[:, None] * sizes.head_dim + np.arange(sizes.head_dim)).reshape(-1)


class ChannelScales:
    """The scales of each site's channels, (depth,), all of them finite and above 0."""

    def __init__(self, spec: DecoderSpec, columns: Mapping[Key, Floats]) -> None:
        self._spec, self._columns = spec, columns

    @classmethod
    def stored(cls, spec: DecoderSpec, tensors: Mapping[str, Tensor], names: Mapping[Key, str]) -> ChannelScales:
        """Those of a checkpoint, where `names` says which tensors they are. Raises CheckpointError for bad ones."""
        columns = {}
        for key, name in names.items():
            columns[key] = values = tensors[name].float32()
            if not (np.isfinite(values).all() and (values > 0).all()):
                raise CheckpointError(f"{tensors[name].file}: {name} must be finite and above 0")
        return cls(spec, columns)

    def columns(self, key: Key) -> Floats:
        """What the columns of a site's weights were multiplied by."""
        return self._columns[key]

    def rows(self, key: Key) -> Floats:
        """(outputs,): what the rows of a site's weights were divided by."""
        site, layer, expert = key
        if site == "qkv" and self._spec.mixer(layer) is None:
            reader: Key = ("o", layer, expert)
            outputs = sum(self._spec.qkv_parts(layer))
        elif site == "gate_up":
            reader = ("down", layer, expert)
            outputs = 2 * self._spec.mlp_width(expert, layer)
        else:
            return np.ones(1, np.float32)
        found = np.ones(outputs, np.float32)
        if reader in self._columns and movable(self._spec, reader):  # v and up come last
            made = shared_channels(self._spec, reader)
            found[outputs - made.max() - 1 :][made] = self._columns[reader]
        return found

    def glue(self, role: str, layer: int, value: Floats) -> Floats:
        """A parameter beside the products, all its tensors one after another, as it is with these scales."""
        for site, norm in NORMS.items():
            key: Key = (site, layer, -1)
            if role == norm and key in self._columns and movable(self._spec, key):
                offset = np.float32(self._spec.norm_offset)
                return (value + offset) / self._columns[key] - offset
        if role in ("qkv_bias", "gate_up_bias"):
            return value / self.rows(("qkv" if role == "qkv_bias" else "gate_up", layer, -1))
        return value

    def adapter(self, adapter: LoraAdapter) -> LoraAdapter:
        """An adapter of the float model, as it is with these scales."""
        return replace(adapter, parts=tuple(map(self._part, adapter.parts)))

    def _part(self, part: LowRank) -> LowRank:
        if part.site in get_args(Told):  # what they read has no scales
            return part
        key = cast(Site, part.site), part.layer, part.expert
        rows = self.rows(key)
        if len(rows) > 1:
            rows = rows[part.first : part.first + len(part.up)]
        return replace(part, down=part.down * self._columns[key], up=part.whole_up / rows[:, None], scales=None)


def fitted(adapter: LoraAdapter, scales: ChannelScales | None, *, in_bytes: bool) -> LoraAdapter:
    """An adapter as a decoder with these scales runs it; `in_bytes`: in 8 bits, like its weights."""
    if scales is not None:
        adapter = scales.adapter(adapter)
    return rounded(adapter) if in_bytes else adapter
