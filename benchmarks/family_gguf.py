"""GGUF files for llama.cpp from checkpoints as transformers saves them, one row of a table for each family.

It runs with whatever Python has `gguf`, so it imports nothing of Cutset. `gguf` knows the names that llama.cpp has for
tensors; the table says what else differs. There is no tokenizer: a vocabulary of placeholders stands for it.
"""

from __future__ import annotations

import functools
import json
import pathlib
from collections.abc import Callable, Iterator
from typing import Any, NamedTuple

__all__ = ["ARCHITECTURES", "changed", "write_gguf"]

Config = dict[str, Any]
Tensors = Iterator[tuple[str, Any]]
# What llama.cpp's own tool leaves in float32 whatever the rest becomes, besides vectors.
KEPT = ("ffn_gate_inp", "ssm_conv1d", "shortconv.conv")


class Architecture(NamedTuple):
    """How llama.cpp has a family."""

    name: str  # gguf's
    neighbours: bool = False  # pairs of the rotary embedding are neighbours there, halves of a head here
    add_one: bool = False  # gains of norms are stored less one
    change: Callable[[str, Any, Config], Tensors] | None = None  # of a tensor: others, under names that gguf knows
    write: Callable[[Any, Config], None] | None = None  # further fields


def _experts_of_one(name: str, array: Any, config: Config) -> Tensors:
    """Gate and up of all experts in one tensor, (experts, 2 * width, hidden)."""
    if name.endswith("experts.gate_up_proj"):
        gate, up = array.reshape(len(array), 2, -1, array.shape[2]).swapaxes(0, 1)
        yield name.replace("gate_up_proj", "gate_proj.weight"), gate
        yield name.replace("gate_up_proj", "up_proj.weight"), up
    elif name.endswith("experts.down_proj"):
        yield f"{name}.weight", array
    else:
        yield name, array


def _gpt_oss(name: str, array: Any, config: Config) -> Tensors:
    """Rows of gate and up take turns; weights are (experts, inputs, outputs)."""
    stem, bias = name.removesuffix("_bias"), name.endswith("_bias")
    end = "bias" if bias else "weight"
    if not bias and ".experts." in name:
        array = array.swapaxes(1, 2)
    if stem.endswith("experts.gate_up_proj"):
        yield stem.replace("gate_up_proj", f"gate_proj.{end}"), array[:, ::2]
        yield stem.replace("gate_up_proj", f"up_proj.{end}"), array[:, 1::2]
    elif stem.endswith("experts.down_proj"):
        yield f"{stem}.{end}", array
    else:
        yield f"{name}.weight" if name.endswith("sinks") else name, array


def _granite_hybrid(name: str, array: Any, config: Config) -> Tensors:
    """The dense form is Granite there."""
    if name.endswith("shared_mlp.input_linear.weight"):
        gate, up = array.reshape(2, -1, array.shape[1])
        yield name.replace("shared_mlp.input_linear", "mlp.gate_proj"), gate
        yield name.replace("shared_mlp.input_linear", "mlp.up_proj"), up
    else:
        yield name.replace("shared_mlp.output_linear", "mlp.down_proj"), array


def _qwen35(name: str, array: Any, config: Config) -> Tensors:
    import numpy as np

    if config["linear_num_key_heads"] != config["linear_num_value_heads"]:
        raise NotImplementedError("heads of the delta rule lie in another order where they share keys")
    if name.endswith(".A_log"):
        yield name, -np.exp(array)
    elif name.endswith(".dt_bias"):
        yield name.replace(".dt_bias", ".dt_proj.bias"), array
    else:
        yield from _experts_of_one(name, array[:, 0] if "conv1d" in name else array, config)


def _squeezed(name: str, array: Any, config: Config) -> Tensors:
    yield name, array[:, 0] if "conv.conv" in name else array


def _write_window(writer: Any, config: Config) -> None:
    if config.get("sliding_window"):
        writer.add_sliding_window(config["sliding_window"])


def _write_gemma2(writer: Any, config: Config) -> None:
    _write_window(writer, config)
    writer.add_attn_logit_softcapping(config["attn_logit_softcapping"])
    writer.add_final_logit_softcapping(config["final_logit_softcapping"])


def _write_olmo3(writer: Any, config: Config) -> None:
    _write_window(writer, config)
    writer.add_sliding_window_pattern([kind == "sliding_attention" for kind in config["layer_types"]])


def _write_granite(writer: Any, config: Config) -> None:
    writer.add_attention_scale(config["attention_multiplier"])
    writer.add_embedding_scale(config["embedding_multiplier"])
    writer.add_residual_scale(config["residual_multiplier"])
    writer.add_logit_scale(config["logits_scaling"])


def _write_phi3(writer: Any, config: Config) -> None:
    writer.add_rope_scaling_orig_ctx_len(config["max_position_embeddings"])
    writer.add_sliding_window(config.get("sliding_window") or 0)


def _write_experts(writer: Any, config: Config) -> None:
    writer.add_expert_count(config.get("num_local_experts") or config["num_experts"])
    writer.add_expert_used_count(config["num_experts_per_tok"])
    writer.add_expert_feed_forward_length(config.get("moe_intermediate_size") or config["intermediate_size"])
    _write_window(writer, config)


def _write_delta(writer: Any, config: Config) -> None:
    writer.add_ssm_conv_kernel(config["linear_conv_kernel_dim"])
    writer.add_ssm_state_size(config["linear_key_head_dim"])
    writer.add_ssm_group_count(config["linear_num_key_heads"])
    writer.add_ssm_time_step_rank(config["linear_num_value_heads"])
    writer.add_ssm_inner_size(config["linear_value_head_dim"] * config["linear_num_value_heads"])
    writer.add_full_attention_interval(config["layer_types"].index("full_attention") + 1)
    pairs = _rotated(config) // 2
    third = pairs // 3
    writer.add_rope_dimension_sections([pairs - 2 * third, third, third, 0])  # of text all count the same positions
    if "num_experts" in config:
        _write_experts(writer, config)
        writer.add_expert_shared_feed_forward_length(config["shared_expert_intermediate_size"])


def _write_yarn(writer: Any, config: Config) -> None:
    rope = config["rope_parameters"]
    if rope["rope_type"] == "yarn":
        writer.add_rope_scaling_type(_gguf().RopeScalingType.YARN)
        writer.add_rope_scaling_factor(rope["factor"])
        writer.add_rope_scaling_orig_ctx_len(rope["original_max_position_embeddings"])
        writer.add_rope_scaling_yarn_beta_fast(rope["beta_fast"])
        writer.add_rope_scaling_yarn_beta_slow(rope["beta_slow"])
        writer.add_rope_scaling_yarn_log_mul(rope["mscale_all_dim"])


ARCHITECTURES: dict[str, Architecture] = {
    "llama": Architecture("llama", neighbours=True),
    "mistral": Architecture("llama", neighbours=True),
    "ministral": Architecture("llama", neighbours=True),
    "ministral3": Architecture("mistral3", neighbours=True, write=_write_yarn),
    "qwen2": Architecture("qwen2"),
    "qwen3": Architecture("qwen3"),
    "qwen3_moe": Architecture("qwen3moe", change=_experts_of_one, write=_write_experts),
    "qwen3_5_text": Architecture("qwen35", add_one=True, change=_qwen35, write=_write_delta),
    "qwen3_5_moe_text": Architecture("qwen35moe", add_one=True, change=_qwen35, write=_write_delta),
    "gemma": Architecture("gemma", add_one=True),
    "gemma2": Architecture("gemma2", add_one=True, write=_write_gemma2),
    "gemma3_text": Architecture("gemma3", add_one=True, write=_write_window),
    "smollm3": Architecture("smollm3", neighbours=True),
    "olmo2": Architecture("olmo2"),
    "olmo3": Architecture("olmo2", write=_write_olmo3),
    "granite": Architecture("granite", neighbours=True, write=_write_granite),
    "granitemoehybrid": Architecture("granite", neighbours=True, change=_granite_hybrid, write=_write_granite),
    "phi3": Architecture("phi3", write=_write_phi3),
    "glm": Architecture("chatglm"),
    "glm4": Architecture("glm4"),
    "gpt_oss": Architecture("gpt-oss", change=_gpt_oss, write=_write_experts),
    "lfm2": Architecture(
        "lfm2", change=_squeezed, write=lambda writer, config: writer.add_shortconv_l_cache(config["conv_L_cache"])
    ),
}


def write_gguf(folder: pathlib.Path, config: Config, kind: str, scratch: pathlib.Path) -> pathlib.Path:
    """A GGUF file in F32, F16, BF16 or Q8_0 of a checkpoint. NotImplementedError for a family that llama.cpp lacks."""
    import numpy as np

    gguf = _gguf()
    if config["model_type"] not in ARCHITECTURES:
        raise NotImplementedError(f"llama.cpp has no {config['model_type']}, or no row of the table here")
    architecture = ARCHITECTURES[config["model_type"]]
    path, quantization = scratch / f"{kind}.gguf", gguf.GGMLQuantizationType[kind]
    writer = gguf.GGUFWriter(str(path), architecture.name, use_temp_file=False)
    _write_sizes(writer, config)
    if architecture.write:
        architecture.write(writer, config)
    _write_words(writer, config["vocab_size"])
    number = next(key for key, name in gguf.MODEL_ARCH_NAMES.items() if name == architecture.name)
    names = gguf.get_tensor_name_map(number, config["num_hidden_layers"])
    for name, given in _tensors(folder, architecture, config):
        out = names.get_name(name, try_suffixes=(".weight", ".bias"))
        if out is None:
            raise NotImplementedError(f"gguf knows no place for {name}")
        array = np.ascontiguousarray(changed(name, given, architecture, config), np.float32)
        if array.ndim == 1 or kind == "F32" or out.endswith(".bias") or any(part in out for part in KEPT):
            writer.add_tensor(out, array)
        else:
            writer.add_tensor(out, gguf.quants.quantize(array, quantization), raw_dtype=quantization)
    writer.write_header_to_file()
    writer.write_kv_data_to_file()
    writer.write_tensors_to_file()
    writer.close()
    return path


def _gguf() -> Any:
    import gguf

    return gguf


def _tensors(folder: pathlib.Path, architecture: Architecture, config: Config) -> Tensors:
    """The checkpoint's tensors as llama.cpp parts them; those of experts, which may lie apart, are stacked."""
    import numpy as np

    stacks: dict[str, dict[int, Any]] = {}
    for name, array in _stored(folder):
        head, experts, tail = name.partition(".experts.")
        number, _, rest = tail.partition(".")
        if experts and number.isdecimal():
            stacks.setdefault(f"{head}{experts}{rest}", {})[int(number)] = array
        elif architecture.change:
            yield from architecture.change(name, array, config)
        else:
            yield name, array
    for name, parts in stacks.items():
        yield name, np.stack([parts[i] for i in range(len(parts))])


def _stored(folder: pathlib.Path) -> Tensors:
    """Names and float32 arrays. numpy has no bfloat16, so the files are read by hand."""
    import numpy as np

    for path in sorted(folder.glob("*.safetensors")):
        with path.open("rb") as file:
            size = int.from_bytes(file.read(8), "little")
            header = json.loads(file.read(size))
        header.pop("__metadata__", None)
        data = np.memmap(path, np.uint8, "r", 8 + size)
        for name, entry in header.items():
            begin, end = entry["data_offsets"]
            raw = data[begin:end]
            if entry["dtype"] == "BF16":
                values = (raw.view(np.uint16).astype(np.uint32) << 16).view(np.float32)
            else:
                values = raw.view({"F32": np.float32, "F16": np.float16}[entry["dtype"]]).astype(np.float32)
            yield name, values.reshape(entry["shape"])


def changed(name: str, array: Any, architecture: Architecture, config: Config) -> Any:
    """A tensor as llama.cpp wants it: gains of norms, and the order of the rows of q and k."""
    part = name.rsplit(".", 2)[-2] if "." in name else name
    if architecture.add_one and array.ndim == 1 and name.endswith("norm.weight") and "linear_attn" not in name:
        return array + 1
    if architecture.neighbours and part in ("q_proj", "k_proj"):
        heads = config["num_attention_heads"] if part == "q_proj" else _kv_heads(config)
        rows = array.reshape(heads, 2, len(array) // heads // 2, -1)
        return rows.swapaxes(1, 2).reshape(array.shape)
    return array


def _kv_heads(config: Config) -> int:
    return int(config.get("num_key_value_heads") or config["num_attention_heads"])


def _head(config: Config) -> int:
    return int(config.get("head_dim") or config["hidden_size"] // config["num_attention_heads"])


def _rotated(config: Config) -> int:
    rope = config.get("rope_parameters") or {}
    factor = rope.get("partial_rotary_factor") or config.get("partial_rotary_factor") or 1.0
    return int(_head(config) * factor)


def _thetas(config: Config) -> tuple[float, float | None]:
    """The bases of the rotary embedding: of all layers, or of those without a window and of those with one."""
    rope = config.get("rope_parameters") or {}
    if "full_attention" in rope:
        return float(rope["full_attention"]["rope_theta"]), float(rope["sliding_attention"]["rope_theta"])
    return float(rope.get("rope_theta") or config["rope_theta"]), None


def _write_sizes(writer: Any, config: Config) -> None:
    kv_heads: Any = _kv_heads(config)
    if "conv_L_cache" in config:
        kv_heads = [kv_heads if kind == "full_attention" else 0 for kind in config["layer_types"]]
    theta, windowed = _thetas(config)
    width = config.get("shared_intermediate_size") or config.get("intermediate_size") or 1
    writer.add_context_length(config["max_position_embeddings"])
    writer.add_embedding_length(config["hidden_size"])
    writer.add_block_count(config["num_hidden_layers"])
    writer.add_feed_forward_length(width)
    writer.add_head_count(config["num_attention_heads"])
    writer.add_head_count_kv(kv_heads)
    writer.add_key_length(_head(config))
    writer.add_value_length(_head(config))
    writer.add_layer_norm_rms_eps(config.get("rms_norm_eps") or config["norm_eps"])
    writer.add_rope_dimension_count(_rotated(config))
    writer.add_rope_freq_base(theta)
    if windowed is not None and hasattr(writer, "add_rope_freq_base_swa"):
        writer.add_rope_freq_base_swa(windowed)
    writer.add_vocab_size(config["vocab_size"])


@functools.cache
def _words(count: int) -> list[bytes]:
    names = [b"<unk>", b"<s>", b"</s>"] + [f"<0x{i:02X}>".encode() for i in range(256)]
    return (names + [f"t{i}".encode() for i in range(count - len(names))])[:count]


def _write_words(writer: Any, count: int) -> None:
    writer.add_tokenizer_model("llama")
    writer.add_token_list(_words(count))
    writer.add_token_scores([0.0] * count)
    writer.add_token_types(([2, 3, 3] + [6] * 256 + [1] * count)[:count])
