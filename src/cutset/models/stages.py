"""Where a decoder may be cut by layer, and what a stage of consecutive layers needs.

A stage is a half-open range of layers, `range(first, last)`. The first one has the embedding, the last one the final
norm and the head; between two stages goes the residual stream, (rows, hidden) in float32.
"""

from __future__ import annotations

from collections.abc import Iterable, Iterator
from dataclasses import replace
from typing import Any

import numpy as np

from cutset.errors import AdapterError, ConfigError
from cutset.models.files.adapter import ROWS, LowRank
from cutset.models.spec import DecoderSpec, Site, WantedTensor

__all__ = [
    "check_stage",
    "cuts",
    "split",
    "stage_glue",
    "stage_kv_floats",
    "stage_part",
    "stage_parts",
    "stage_sites",
    "stage_state_floats",
    "stage_tensors",
]


def cuts(spec: DecoderSpec) -> list[int]:
    """The layers before which the decoder may be cut, ascending; 0 and `spec.layers` aren't among them.

    A layer that uses the keys and values of one below it must be in the same stage.
    """
    return [layer for layer in range(1, spec.layers) if _crossing(spec, layer) is None]


def split(spec: DecoderSpec, stages: int) -> list[range]:
    """That many stages with about as many layers each. Raises ConfigError where the decoder can't be cut so often."""
    allowed = cuts(spec)
    if not 1 <= stages <= len(allowed) + 1:
        raise ConfigError(
            f"{stages} stages can't be made: this model of {spec.layers} layers makes 1 to {len(allowed) + 1}."
        )
    edges = [0]
    for number in range(1, stages):
        left = allowed[: len(allowed) - (stages - 1 - number)]  # those behind are for the other stages
        wanted = number * spec.layers / stages
        edges.append(min((cut for cut in left if cut > edges[-1]), key=lambda cut: abs(cut - wanted)))
    return [range(first, last) for first, last in zip(edges, [*edges[1:], spec.layers], strict=True)]


def check_stage(spec: DecoderSpec, layers: range) -> None:
    """Raises ConfigError, which names the layers, unless this range can be a stage."""
    if layers.step != 1 or not 0 <= layers.start < layers.stop <= spec.layers:
        raise ConfigError(f"Layers {layers.start} to {layers.stop} are no stage of a model of {spec.layers} layers.")
    for cut in (layers.start, layers.stop):
        if cut < spec.layers and (layer := _crossing(spec, cut)) is not None:
            raise ConfigError(
                f"The model can't be cut before layer {cut}: layer {layer} uses the keys and values of layer "
                f"{spec.kv_layer(layer)}. Cut before one of {_listed(cuts(spec))}."
            )


def stage_tensors(spec: DecoderSpec, layers: range) -> Iterator[WantedTensor]:
    """The tensors of which a stage needs all, or a part, in the order of `DecoderSpec.tensors`. A tied head needs the
    embedding, and so does what layers are told of tokens."""
    names = {name for names in stage_glue(spec, layers).values() for name in names}
    names.update(name for site in stage_sites(spec, layers) for name in spec.site_tensors(*site))
    yield from (tensor for tensor in spec.tensors() if tensor.name in names)


def stage_sites(spec: DecoderSpec, layers: range | None) -> list[tuple[Site, int, int]]:
    """The products of a stage (None: of the whole decoder), as `DecoderSpec.sites` has them."""
    if layers is None:
        return spec.sites()
    return [one for one in spec.sites() if _in_stage(spec, layers, one[0], one[1])]


def stage_glue(spec: DecoderSpec, layers: range) -> dict[tuple[str, int], tuple[str, ...]]:
    """The parameters of a stage beside its products, as `DecoderSpec.glue` has them."""
    return {key: names for key, names in spec.glue().items() if _in_stage(spec, layers, *key)}


def _in_stage(spec: DecoderSpec, layers: range, role: str, layer: int) -> bool:
    """A stage has this parameter, or a part of it; `role` may be a site, `layer` is -1 for those of no layer."""
    if layer >= 0:
        return layer in layers
    if role in ("final_norm", "lm_head"):
        return layers.stop == spec.layers
    return spec.layer_inputs is not None or (role == "embedding" and layers.start == 0)


def stage_part(spec: DecoderSpec, layers: range, role: str, value: Any) -> Any:
    """What a stage needs of a parameter: of those that have all layers side by side, the part of its own."""
    if spec.layer_inputs is None or role not in ("layer_embedding", "layer_product"):
        return value
    width = spec.layer_inputs.width
    part = slice(layers.start * width, layers.stop * width)
    return value[:, part] if role == "layer_embedding" else value[part]


def stage_parts(spec: DecoderSpec, layers: range, parts: Iterable[LowRank]) -> Iterator[LowRank]:
    """What of an adapter a stage needs. Raises AdapterError where rows that share a scale would be cut."""
    for part in parts:
        if part.site == "layer_product":
            yield from _own_rows(spec, layers, part)
        elif _in_stage(spec, layers, part.site, part.layer):
            yield part


def _own_rows(spec: DecoderSpec, layers: range, part: LowRank) -> Iterator[LowRank]:
    """The rows of a product with all layers side by side that are of these."""
    assert spec.layer_inputs is not None
    start, stop = layers.start * spec.layer_inputs.width, layers.stop * spec.layer_inputs.width
    begin, end = max(start - part.first, 0), min(stop - part.first, len(part.up))
    if begin >= end:
        return
    scales = part.scales
    if scales is not None:
        if begin % ROWS or (end % ROWS and end < len(part.up)):
            raise AdapterError(
                f"An adapter of layer_product in 8 bits can't be cut at row {begin} or {end}: run it whole."
            )
        scales = scales[begin // ROWS : -(-end // ROWS)]
    first = part.first + begin - start
    yield replace(part, first=first, up=np.ascontiguousarray(part.up[begin:end]), scales=scales)


def stage_kv_floats(spec: DecoderSpec, layers: range) -> int:
    """Floats of one token's keys in a stage; its values are as many."""
    return sum(spec.heads_of(layer).kv_size for layer in spec.attention_layers if layer in layers)


def stage_state_floats(spec: DecoderSpec, layers: range) -> int:
    """Floats of a sequence's state in a stage, beside keys and values."""
    return spec.recurrent.state * sum(one in layers for one in spec.recurrent_layers) if spec.recurrent else 0


def _crossing(spec: DecoderSpec, cut: int) -> int | None:
    """A layer at or above the cut that uses keys and values of one below it."""
    return next((layer for layer in range(cut, spec.layers) if spec.kv_layer(layer) < cut), None)


def _listed(numbers: list[int]) -> str:
    return ", ".join(map(str, numbers)) or "none: it runs in one stage"
