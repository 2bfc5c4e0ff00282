"""The bytes of GGUF files, also of such as no program writes."""

from __future__ import annotations

import struct

__all__ = ["array", "file", "key", "tensor", "text", "tiny_model"]


def text(value: str | bytes) -> bytes:
    data = value.encode() if isinstance(value, str) else value
    return struct.pack("<Q", len(data)) + data


def key(name: str, kind: int, value: bytes) -> bytes:
    return text(name) + struct.pack("<I", kind) + value


def array(kind: int, count: int, value: bytes = b"") -> bytes:
    return struct.pack("<IQ", kind, count) + value


def tensor(name: str, shape: tuple[int, ...], kind: int, offset: int) -> bytes:
    """The shape as in numpy."""
    dims = shape[::-1]
    return text(name) + struct.pack(f"<I{len(dims)}QIQ", len(dims), *dims, kind, offset)


def file(
    keys: list[bytes],
    tensors: list[bytes],
    data: bytes = b"",
    *,
    magic: bytes = b"GGUF",
    version: int = 3,
    counts: tuple[int, int] | None = None,
    align: int = 32,
) -> bytes:
    counted = counts or (len(tensors), len(keys))
    header = magic + struct.pack("<IQQ", version, *counted) + b"".join(keys) + b"".join(tensors)
    return header + bytes(-len(header) % align) + data


def number(name: str, value: int) -> bytes:
    return key(name, 4, struct.pack("<I", value))


def texts(name: str, values: list[str]) -> bytes:
    return key(name, 9, array(8, len(values), b"".join(map(text, values))))


def tiny_model() -> bytes:
    """A llama of one layer with every kind of block of 32, and its tokenizer."""
    tokens = ["<s>", "</s>", "<0x41>", "Ġ", *"abcdefghijklmnoprstuvwy", "Ġa", "re", "ĠO"]
    sizes = {"block_count": 1, "context_length": 64, "embedding_length": 32, "feed_forward_length": 64}
    sizes |= {"attention.head_count": 2, "attention.head_count_kv": 1, "vocab_size": len(tokens)}
    keys = [
        key("general.architecture", 8, text("llama")),
        *(number(f"llama.{name}", value) for name, value in sizes.items()),
        key("llama.attention.layer_norm_rms_epsilon", 6, struct.pack("<f", 1e-5)),
        key("llama.rope.freq_base", 6, struct.pack("<f", 1e4)),
        key("tokenizer.ggml.model", 8, text("gpt2")),
        key("tokenizer.ggml.pre", 8, text("llama-bpe")),
        texts("tokenizer.ggml.tokens", tokens),
        texts("tokenizer.ggml.merges", ["Ġ a", "r e"]),
        key(
            "tokenizer.ggml.token_type",
            9,
            array(5, len(tokens), struct.pack(f"<{len(tokens)}i", 3, 3, *[1] * (len(tokens) - 2))),
        ),
        number("tokenizer.ggml.bos_token_id", 0),
        number("tokenizer.ggml.eos_token_id", 1),
        key("tokenizer.ggml.add_bos_token", 7, b"\1"),
        key("tokenizer.chat_template", 8, text("{% for m in messages %}{{ m['content'] }}{% endfor %}")),
        key("general.sampling.temp", 6, struct.pack("<f", 0.5)),
    ]
    layer = {
        "attn_q": ((32, 32), 2), "attn_k": ((16, 32), 3), "attn_v": ((16, 32), 6), "attn_output": ((32, 32), 7),
        "ffn_gate": ((64, 32), 8), "ffn_up": ((64, 32), 20), "ffn_down": ((32, 64), 39),
        "attn_norm": ((32,), 0), "ffn_norm": ((32,), 0),
    }  # fmt: skip
    shapes = {f"blk.0.{name}.weight": found for name, found in layer.items()}
    shapes |= {"token_embd.weight": ((len(tokens), 32), 1), "output.weight": ((len(tokens), 32), 30)}
    shapes |= {"output_norm.weight": ((32,), 0)}
    sizes_of = {0: (1, 4), 1: (1, 2), 30: (1, 2), 2: (32, 18), 3: (32, 20), 6: (32, 22), 7: (32, 24), 8: (32, 34)}
    sizes_of |= {20: (32, 18), 39: (32, 17)}
    entries, data = [], b""
    for name, (shape, kind) in shapes.items():
        weights, nbytes = sizes_of[kind]
        count = 1
        for one in shape:
            count *= one
        data += bytes(-len(data) % 32)
        entries.append(tensor(name, shape, kind, len(data)))
        data += bytes(range(1, 1 + nbytes)) * (count // weights)
    return file(keys, entries, data)
