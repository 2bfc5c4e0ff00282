"""The normalised specification: a DecoderSpec as a JSON object, complete and without a family.

docs/exchange-format.md describes it. It is what other programs than this one read, the stand-alone runner among them:
every number is there, no key has a default, and none is ignored.
"""

from __future__ import annotations

import hashlib
import json
import re
from collections.abc import Collection, Sequence
from dataclasses import fields
from pathlib import Path
from typing import Any

from cutset.errors import ArchitectureError
from cutset.files import appearing
from cutset.models.files.fields import MOST, MOST_NUMBER, Fields
from cutset.models.spec import (
    MOST_MLPS,
    MOST_POSITIONS,
    SITES,
    DecoderSpec,
    DynamicRope,
    MoESpec,
    RopeSpec,
    TensorName,
    TensorNames,
    activation_bits,
)

__all__ = ["FORMAT", "SPECIFICATION", "VERSION", "from_json", "to_json", "write_specification"]

FORMAT, VERSION = "cutset-exchange", 2  # of exchange files
SPECIFICATION = "specification.json"  # beside the weights of a checkpoint
SPEC_VERSION = 1  # of the object in either
WEIGHTS = ("float", "int8", "int8-packed")
MOST_TEMPLATE = 200  # characters
MOST_STEPS = 7  # of a place
LEAST_FREQUENCY = 1e-30
GLOBAL = ("embedding", "final_norm", "lm_head")
OF_EXPERTS = ("expert_gate_up", "expert_down", "shared_gate_up", "shared_down")
ROLES = tuple(field.name for field in fields(TensorNames))
# How many tensors the rows of a parameter may lie in, besides one.
PARTS = {"qkv": 3, "qkv_bias": 3, "gate_up": 2, "gate_up_bias": 2, "expert_gate_up": 2, "shared_gate_up": 2}
WORD = re.compile(r"[A-Za-z0-9_-]+")
STEP = re.compile(r"[A-Za-z_][A-Za-z0-9_-]*")  # of a place: a number counts in a list, and comes from a placeholder
NUMBERED = ("{layer}", "{expert}")


def to_json(spec: DecoderSpec, weights: str = "float") -> dict[str, Any]:
    """The specification as an object of JSON; `weights` says how they are stored, one of WEIGHTS."""
    moe, dynamic = spec.moe, spec.rope.dynamic
    roles = dict.fromkeys(tensor.role for tensor in spec.tensors())
    return {
        "version": SPEC_VERSION,
        "vocab_size": spec.vocab_size,
        "hidden": spec.hidden,
        "layers": spec.layers,
        "heads": spec.heads,
        "kv_heads": spec.kv_heads,
        "head_dim": spec.head_dim,
        "intermediate": spec.intermediate,
        "norm": "rms",
        "norm_eps": spec.norm_eps,
        "activation": "silu",
        "max_positions": spec.max_positions,
        "rope": {
            "frequencies": list(spec.rope.frequencies),
            "scale": spec.rope.scale,
            "reach": spec.rope.reach,
            "dynamic": dynamic
            and {
                "theta": dynamic.theta,
                "factor": dynamic.factor,
                "original_positions": dynamic.original_positions,
            },
        },
        "windows": [spec.window(layer) for layer in range(spec.layers)],
        "experts": moe
        and {
            "count": moe.experts,
            "top_k": moe.top_k,
            "intermediate": moe.intermediate,
            "normalise": moe.normalise,
            "shared": moe.shared,
            "shared_intermediate": moe.shared_intermediate,
            "layers": [layer in spec.sparse_layers for layer in range(spec.layers)],
        },
        "bos_token_id": spec.bos_token_id,
        "eos_token_ids": list(spec.eos_token_ids),
        "eos_assumed": spec.eos_assumed,
        "weights": weights,
        "activation_bits": _bits(),
        "tensors": {role: [list(name) for name in getattr(spec.names, role)] for role in roles},
    }


def _bits() -> dict[str, dict[str, int]]:
    return {dtype: {site: activation_bits(dtype, site) for site in SITES} for dtype in ("int8", "exact")}


def from_json(content: object, source: str, family: str) -> DecoderSpec:
    """The decoder that such an object describes, of float weights; `family` is its name for people.

    Raises ArchitectureError for one that isn't complete, contradicts itself, or has what isn't known.
    """
    if not isinstance(content, dict):
        raise ArchitectureError(f"{source} is missing, or no object")
    c = Fields(content, source)
    version = c.value("version")
    if version != SPEC_VERSION or version is True:
        raise ArchitectureError(f"{source}: version {version!r:.40} is not known; this program reads {SPEC_VERSION}")
    _only(c, TOP)
    for name, known in (("norm", "rms"), ("activation", "silu"), ("weights", "float")):
        if c.value(name) != known:
            raise c.wrong(name, known)
    if c.value("activation_bits") != _bits():
        raise ArchitectureError(f"{source}: activation_bits are not those that this program computes with")
    layers, head_dim = c.integer("layers", most=MOST["num_hidden_layers"]), c.integer("head_dim")
    heads = c.integer("heads", most=MOST["num_attention_heads"])
    kv_heads = c.integer("kv_heads", most=MOST["num_attention_heads"])
    if heads % kv_heads or head_dim % 2:
        raise ArchitectureError(f"{source}: {heads} heads can't share {kv_heads} evenly, or head_dim {head_dim} is odd")
    moe, sparse = _experts(c, layers)
    windows = _list(c, "windows", layers)
    if not all(type(n) is int and 0 <= n <= 1 << 31 for n in windows):
        raise c.wrong("windows", "tokens of each layer, 0 for all")
    names = _names(c)
    vocab = c.integer("vocab_size")
    spec = DecoderSpec(
        family=family,
        vocab_size=vocab,
        hidden=c.integer("hidden", most=MOST["hidden_size"]),
        layers=layers,
        heads=heads,
        kv_heads=kv_heads,
        head_dim=head_dim,
        intermediate=c.integer("intermediate", most=MOST["intermediate_size"]),
        norm_eps=c.number("norm_eps"),
        max_positions=c.integer("max_positions", most=MOST_POSITIONS),
        rope=_rope(c, head_dim),
        tied="lm_head" not in names,
        qkv_bias="qkv_bias" in names,
        o_bias="o_bias" in names,
        mlp_bias="gate_up_bias" in names,
        qk_norm="q_norm" in names,
        windows=tuple(windows) if any(windows) else (),
        moe=moe,
        sparse_layers=sparse,
        names=TensorNames(**names),
        bos_token_id=_token(c, c.value("bos_token_id"), "bos_token_id", vocab) if c.has("bos_token_id") else None,
        eos_token_ids=tuple(_token(c, token, "eos_token_ids", vocab) for token in _list(c, "eos_token_ids")),
        eos_assumed=_flag(c, "eos_assumed"),
    )
    wanted = {tensor.role for tensor in spec.tensors()}
    for role in sorted(wanted ^ set(names)):
        what = "doesn't name" if role in wanted else "names what the model doesn't have:"
        raise ArchitectureError(f"{source}: tensors {what} {role}")
    return spec


def write_specification(
    directory: Path, spec: DecoderSpec, weights: str = "float", ignored: Sequence[str] = ()
) -> None:
    """Writes specification.json beside a checkpoint: an exchange file that has no weights.

    It holds for the config.json of these very bytes; `ignored` are tensors that are no part of the model.
    """
    digest = hashlib.sha256((directory / "config.json").read_bytes()).hexdigest()
    document = {"format": FORMAT, "version": VERSION, "config_sha256": digest, "ignored": list(ignored)}
    with appearing(directory / SPECIFICATION) as file:
        file.write(json.dumps(document | {"specification": to_json(spec, weights)}).encode() + b"\n")


def _only(c: Fields, known: Collection[str]) -> None:
    """Raises ArchitectureError unless exactly these keys are there."""
    for name in known:
        if not c.names(name):
            raise ArchitectureError(f"{c.source}: {name} is missing")
    for name in c.values:
        if name not in known:
            raise ArchitectureError(f"{c.source}: {name[:60]} is not known; another version of this program wrote it")


def _table(c: Fields, name: str, known: Collection[str]) -> Fields:
    table = c.table(name)
    if table is None:
        raise ArchitectureError(f"{c.source}: {name} is missing")
    _only(table, known)
    return table


def _list(c: Fields, name: str, size: int | None = None) -> list[Any]:
    value = c.value(name)
    if not isinstance(value, list) or (len(value) != size if size is not None else len(value) > 1024):
        raise c.wrong(name, f"a list of {'at most 1024' if size is None else size}")
    return value


def _flag(c: Fields, name: str) -> bool:
    if not isinstance(c.value(name), bool):
        raise c.wrong(name, "true or false")
    return c.flag(name)


def _token(c: Fields, token: object, name: str, vocab: int) -> int:
    if type(token) is not int or not 0 <= token < vocab:
        raise c.wrong(name, f"token ids below {vocab}")
    return token


def _rope(c: Fields, head_dim: int) -> RopeSpec:
    rope = _table(c, "rope", ("frequencies", "scale", "reach", "dynamic"))
    frequencies = _list(rope, "frequencies", head_dim // 2)
    if not all(type(f) in (int, float) and 0 <= f <= MOST_NUMBER for f in frequencies):
        raise ArchitectureError(f"{rope.source}: frequencies must be numbers from 0 to {MOST_NUMBER:g}")
    reach = rope.integer("reach", least=0, most=MOST_POSITIONS)
    dynamic = None
    if rope.has("dynamic"):
        given = _table(rope, "dynamic", ("theta", "factor", "original_positions"))
        theta, factor = given.number("theta"), given.number("factor")
        if theta < LEAST_FREQUENCY or head_dim <= 2:
            raise ArchitectureError(f"{given.source} gives frequencies that aren't finite")
        dynamic = DynamicRope(theta, factor, given.integer("original_positions", most=MOST_POSITIONS))
    return RopeSpec(tuple(map(float, frequencies)), rope.number("scale"), reach, dynamic)


def _experts(c: Fields, layers: int) -> tuple[MoESpec | None, frozenset[int]]:
    if not c.has("experts"):
        return None, frozenset()
    e = _table(
        c,
        "experts",
        ("count", "top_k", "intermediate", "normalise", "shared", "shared_intermediate", "layers"),
    )
    count, shared = e.integer("count", most=MOST["num_experts"]), e.integer("shared", 0, 0, MOST["n_shared_experts"])
    sparse = _list(e, "layers", layers)
    width = MOST["moe_intermediate_size"]
    moe = MoESpec(
        count,
        e.integer("top_k", most=count),
        e.integer("intermediate", most=width),
        _flag(e, "normalise"),
        shared,
        e.integer("shared_intermediate", least=1 if shared else 0, most=width),
    )
    if not all(isinstance(flag, bool) for flag in sparse):
        raise e.wrong("layers", "true or false for each")
    if layers * (count + shared) > MOST_MLPS:
        raise ArchitectureError(f"{e.source}: {layers} layers of {count} experts are more than {MOST_MLPS} MLPs")
    return moe, frozenset(layer for layer, flag in enumerate(sparse) if flag)


def _names(c: Fields) -> dict[str, tuple[TensorName, ...]]:
    """Where parameters are stored. No two can be the same, whatever the layers and experts."""
    table = c.table("tensors") or Fields({}, c.source)
    found: dict[str, tuple[TensorName, ...]] = {}
    masked: set[tuple[int, str]] = set()
    for role, pairs in table.values.items():
        if role not in ROLES:
            raise ArchitectureError(
                f"{table.source}: {role[:60]} is not known; another version of this program wrote it"
            )
        if not isinstance(pairs, list) or len(pairs) not in (1, PARTS.get(role, 1)):
            raise table.wrong(role, f"a list of {PARTS.get(role, 1)} names, or of one that holds all rows")
        numbered = () if role in GLOBAL else NUMBERED if role in OF_EXPERTS else NUMBERED[:1]
        for pair in pairs:
            right = isinstance(pair, list) and len(pair) == 2
            if not right or not all(_is_template(pair[i], i, numbered) for i in (0, 1)):
                raise table.wrong(
                    role, f"pairs of a name and a place with {' and '.join(numbered) or 'no placeholder'}"
                )
            for i in (0, 1):
                mask = i, _masked(pair[i], "./"[i])
                if mask in masked:
                    raise ArchitectureError(f"{table.source}: {pair[i]} stands there twice")
                masked.add(mask)
        found[role] = tuple(TensorName(*pair) for pair in pairs)
    return found


def _is_template(text: object, place: int, numbered: tuple[str, ...]) -> bool:
    if not isinstance(text, str) or len(text) > MOST_TEMPLATE or not text.isascii():
        return False
    parts = text.split("./"[place])
    words = [part for part in parts if part not in NUMBERED]
    if place and len(parts) > MOST_STEPS:
        return False
    return sorted(part for part in parts if part in NUMBERED) == sorted(numbered) and all(
        (STEP if place else WORD).fullmatch(word) for word in words
    )


def _masked(text: str, between: str) -> str:
    """With # for every number, so that templates of which two numbers could make one name are equal."""
    return between.join("#" if part in NUMBERED or part.isdigit() else part for part in text.split(between))


TOP = (
    "version",
    "vocab_size",
    "hidden",
    "layers",
    "heads",
    "kv_heads",
    "head_dim",
    "intermediate",
    "norm",
    "norm_eps",
    "activation",
    "max_positions",
    "rope",
    "windows",
    "experts",
    "bos_token_id",
    "eos_token_ids",
    "eos_assumed",
    "weights",
    "activation_bits",
    "tensors",
)
