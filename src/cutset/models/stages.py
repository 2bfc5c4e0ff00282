"""Where a decoder may be cut by layer, and what a stage of consecutive layers needs.

A stage is a half-open range of layers, `range(first, last)`. The first one has the embedding, the last one the final
norm and the head; between two stages goes the residual stream, (rows, hidden) in float32.
"""

from __future__ import annotations

from collections.abc import Iterator
from typing import Any

from cutset.errors import ConfigError
from cutset.models.spec import DecoderSpec, Site, WantedTensor

__all__ = [
    "check_stage",
    "cuts",
    "split",
    "stage_glue",
    "stage_kv_floats",
    "stage_part",
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
    last = layers.stop == spec.layers
    return [one for one in spec.sites() if one[1] in layers or (last and one[0] == "lm_head")]


def stage_glue(spec: DecoderSpec, layers: range) -> dict[tuple[str, int], tuple[str, ...]]:
    """The parameters of a stage beside its products, as `DecoderSpec.glue` has them."""
    first, last = layers.start == 0, layers.stop == spec.layers
    found = {}
    for (role, layer), names in spec.glue().items():
        own = layer in layers if layer >= 0 else {"embedding": first, "final_norm": last}.get(role, False)
        if own or (layer < 0 and role != "final_norm" and spec.layer_inputs is not None):
            found[role, layer] = names
    return found


def stage_part(spec: DecoderSpec, layers: range, role: str, value: Any) -> Any:
    """What a stage needs of a parameter: of those that have all layers side by side, the part of its own."""
    if spec.layer_inputs is None or role not in ("layer_embedding", "layer_product"):
        return value
    width = spec.layer_inputs.width
    part = slice(layers.start * width, layers.stop * width)
    return value[:, part] if role == "layer_embedding" else value[part]


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
