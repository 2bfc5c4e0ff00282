"""How large the client's enclave must be: every part from the model's sizes, then a power of two above the sum."""

from __future__ import annotations

from dataclasses import dataclass
from math import prod

from cutset.models.spec import DecoderSpec

__all__ = ["Use", "enclave_bytes", "parts", "size_text"]

MIB = 1 << 20
INTERPRETER = 256 * MIB  # Python, numpy, tokenizers, their heaps, and Gramine's own
STACK = 8 * MIB  # a thread's, with the arena that malloc gives it
HEADROOM = 1.25  # fragments of the heap, and what isn't counted
SMALLEST = 512 * MIB
REPETITIONS = 2  # of the Freivalds check


@dataclass(frozen=True, slots=True)
class Use:
    """How the client will be used. `context` is the longest sequence in tokens."""

    context: int
    sequences: int = 1
    batch_tokens: int = 512
    threads: int = 1
    pads_here: bool = True  # pads are computed in the enclave, so the weights are needed there
    pad_rows: int = 128  # rows for which pads lie ready, at every matrix


def parts(spec: DecoderSpec, use: Use, checkpoint_bytes: int) -> dict[str, int]:
    """Bytes of each part. `checkpoint_bytes` is the size of the weights' files."""
    shapes = spec.tensor_shapes()
    matrices = []
    for site in spec.sites():
        stacked = [shapes[name] for name in spec.site_tensors(*site)]
        matrices.append((sum(shape[0] for shape in stacked), stacked[0][1]))
    products = {name for site in spec.sites() for name in spec.site_tensors(*site)} - {"model.embed_tokens.weight"}
    kept = sum(prod(shape) for name, shape in shapes.items() if name not in products)
    found = {
        "interpreter and libraries": INTERPRETER,
        "checkpoint, while it is mapped": checkpoint_bytes,
        "embedding, norms, biases": 4 * kept,
        "scales, bounds, check vectors": 4
        * sum(outputs * (2 + REPETITIONS) + depth * REPETITIONS for outputs, depth in matrices),
        "weights, to make pads": sum(outputs * depth for outputs, depth in matrices) if use.pads_here else 0,
        "pads": 4 * use.pad_rows * sum(outputs + depth for outputs, depth in matrices),
        "KV cache": 4 * 2 * use.context * use.sequences * spec.kv_floats,
        "states of sequences": 4 * use.sequences * spec.state_floats,
        "rows on their way": 4 * 4 * use.batch_tokens * max(outputs + depth for outputs, depth in matrices[:-1])
        + 4 * use.sequences * spec.vocab_size,
        "threads": STACK * use.threads,
    }
    return {name: size for name, size in found.items() if size}


def enclave_bytes(found: dict[str, int]) -> int:
    """The enclave's size: SGX takes powers of two only."""
    wanted = max(SMALLEST, int(sum(found.values()) * HEADROOM))
    return 1 << (wanted - 1).bit_length()


def size_text(size: int) -> str:
    """A size as Gramine writes it: 512M, 4G."""
    return f"{size >> 30}G" if size >> 30 and not size % (1 << 30) else f"{size >> 20}M"
