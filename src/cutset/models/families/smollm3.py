"""SmolLM3: Llama with layers that rotate nothing, every fourth unless the file lists them."""

from __future__ import annotations

from cutset.models.families.common import Defaults, Family, keys, read_decoder, read_windows
from cutset.models.files.fields import Fields
from cutset.models.spec import DecoderSpec


def read(c: Fields) -> DecoderSpec:
    """Raises ArchitectureError."""
    bias, rotated = c.flag("attention_bias"), _rotated(c)
    defaults = Defaults(positions=32768, kv_heads=4, theta=2e6, tied=True, bos=128000, eos=128001)
    return read_decoder(
        c,
        "smollm3",
        defaults,
        qkv_bias=bias,
        o_bias=bias,
        mlp_bias=c.flag("mlp_bias"),
        rope_tables=() if all(rotated) else tuple(0 if turns else -1 for turns in rotated),
        windows=_windows(c, rotated),
    )


def _rotated(c: Fields) -> tuple[bool, ...]:
    """Whether each layer rotates; `no_rope_layers` has a 1 where it does, and may go on after the last layer."""
    layers, listed = c.integer("num_hidden_layers"), c.value("no_rope_layers")
    interval = c.integer("no_rope_layer_interval", 4)
    if listed is None:
        return tuple((i + 1) % interval != 0 for i in range(layers))
    if not isinstance(listed, list) or len(listed) < layers or any(value not in (0, 1) for value in listed):
        raise c.wrong("no_rope_layers", f"a list of at least {layers} times 0 or 1")
    return tuple(bool(value) for value in listed[:layers])


def _windows(c: Fields, rotated: tuple[bool, ...]) -> tuple[int, ...]:
    """Those that `layer_types` names slide, or where it is absent those that don't rotate, if that is switched on."""
    slides, window = c.flag("use_sliding_window"), c.integer("sliding_window", 0)
    if c.has("layer_types"):
        return read_windows(c, window, 0)
    return tuple(window if slides and not turns else 0 for turns in rotated)


FAMILY = Family(
    model_type="smollm3",
    architectures=("SmolLM3ForCausalLM",),
    read=read,
    reads=keys(
        """
        attention_bias mlp_bias no_rope_layers no_rope_layer_interval sliding_window use_sliding_window layer_types
        """
    ),
    harmless=keys("max_window_layers"),
)
