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
from typing import Any, get_args

from cutset.errors import ArchitectureError
from cutset.files import appearing
from cutset.models.files.fields import MOST, MOST_NUMBER, Fields
from cutset.models.spec import (
    MOST_MLPS,
    MOST_POSITIONS,
    SITES,
    Activation,
    DecoderSpec,
    DynamicRope,
    LongRope,
    MoESpec,
    RopeSpec,
    TensorName,
    TensorNames,
    activation_bits,
)

__all__ = [
    "FORMAT",
    "INTEGER_WEIGHTS",
    "SPECIFICATION",
    "VERSION",
    "describable",
    "from_json",
    "to_json",
    "write_specification",
]

FORMAT, VERSION = "cutset-exchange", 2  # of exchange files
SPECIFICATION = "specification.json"  # beside the weights of a checkpoint
SPEC_VERSION = 1  # of the object in either
INTEGER_WEIGHTS = {1: "int8", 2: "int8-packed", 3: "int8-scaled"}  # by version of the integer checkpoint
WEIGHTS = ("float", *INTEGER_WEIGHTS.values())
MOST_TEMPLATE = 200  # characters
MOST_STEPS = 7  # of a place
LEAST_NUMBER = 1e-30  # of those that aren't zero: it is none in float32 either
MOST_ROPES = 64
# Numbers of a decoder that are above zero; and those that may be zero, which is none of it.
FACTORS = ("embedding_scale", "residual_scale", "logit_scale")
OR_ZERO = (
    "norm_offset",
    "activation_limit",
    "activation_alpha",
    "attention_scale",
    "query_growth",
    "attention_softcap",
    "logit_softcap",
)
GLOBAL = ("embedding", "final_norm", "lm_head")
OF_EXPERTS = ("expert_gate_up", "expert_down", "shared_gate_up", "shared_down")
ROLES = tuple(field.name for field in fields(TensorNames))
# How many tensors the rows of a parameter may lie in, besides one.
PARTS = {"qkv": 3, "qkv_bias": 3, "gate_up": 2, "gate_up_bias": 2, "expert_gate_up": 2, "shared_gate_up": 2}
WORD = re.compile(r"[A-Za-z0-9_-]+")
STEP = re.compile(r"[A-Za-z_][A-Za-z0-9_-]*")  # of a place: a number counts in a list, and comes from a placeholder
NUMBERED = ("{layer}", "{expert}")


def describable(spec: DecoderSpec) -> bool:
    """The specification has a form in JSON. Layers with states of sequences, gates of attention, gates and norms of
    experts, and layers that differ in their sizes, share keys or are told of tokens, have none yet."""
    if spec.head_sizes or spec.intermediates or spec.kv_layers or spec.equal_kv_layers or spec.layer_inputs:
        return False
    if spec.v_norm or spec.layer_scales or len(set(spec.rotary_dims)) > 1:
        return False
    gates = spec.gated_attention or (spec.moe is not None and (spec.moe.shared_gate or spec.moe.own_norms))
    return spec.recurrent is None and not gates


def to_json(spec: DecoderSpec, weights: str = "float") -> dict[str, Any]:
    """The specification as an object of JSON; `weights` says how they are stored, one of WEIGHTS.

    Raises ArchitectureError for one that isn't `describable`.
    """
    if not describable(spec):
        raise ArchitectureError(
            f"a decoder of {spec.family} can't be written in this form yet: the specification doesn't know its "
            "layers with a state, its gates, or layers that differ or share keys; use its checkpoint directory"
        )
    moe = spec.moe
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
        "norm_offset": spec.norm_offset,
        "whole_norms": spec.whole_norms,
        "activation": spec.activation,
        "activation_limit": spec.activation_limit,
        "activation_alpha": spec.activation_alpha,
        "max_positions": spec.max_positions,
        "ropes": [_rope_json(rope) for rope in spec.ropes],
        "rope_interleaved": spec.rope_interleaved,
        "rope_tables": [spec.rope_table(layer) for layer in range(spec.layers)],
        "embedding_scale": spec.embedding_scale,
        "attention_scale": spec.attention_scale,
        "query_growth": spec.query_growth,
        "query_positions": spec.query_positions,
        "residual_scale": spec.residual_scale,
        "logit_scale": spec.logit_scale,
        "attention_softcap": spec.attention_softcap,
        "logit_softcap": spec.logit_softcap,
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


def _rope_json(rope: RopeSpec) -> dict[str, Any]:
    dynamic, long = rope.dynamic, rope.long
    return {
        "frequencies": list(rope.frequencies),
        "scale": rope.scale,
        "reach": rope.reach,
        "dynamic": dynamic
        and {
            "theta": dynamic.theta,
            "factor": dynamic.factor,
            "original_positions": dynamic.original_positions,
        },
        "long": long and {"frequencies": list(long.frequencies), "original_positions": long.original_positions},
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
    for name, known in (("norm", ("rms",)), ("activation", get_args(Activation)), ("weights", ("float",))):
        if c.value(name) not in known:
            raise c.wrong(name, " or ".join(known))
    if c.value("activation_bits") != _bits():
        raise ArchitectureError(f"{source}: activation_bits are not those that this program computes with")
    layers, head_dim = c.integer("layers", most=MOST["num_hidden_layers"]), c.integer("head_dim")
    heads = c.integer("heads", most=MOST["num_attention_heads"])
    kv_heads = c.integer("kv_heads", most=MOST["num_attention_heads"])
    if heads % kv_heads or head_dim % 2:
        raise ArchitectureError(f"{source}: {heads} heads can't share {kv_heads} evenly, or head_dim {head_dim} is odd")
    numbers: dict[str, Any] = {name: _number(c, name, zero=name in OR_ZERO) for name in (*FACTORS, *OR_ZERO)}
    for name in ("activation_limit", "activation_alpha"):
        if (c.value("activation") == "clamped") != (numbers[name] > 0):
            raise c.wrong(name, "above 0 where the activation is clamped, and 0 elsewhere")
    rope, *others = _ropes(c, head_dim)
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
        rope=rope,
        other_ropes=tuple(others),
        rope_tables=_rope_tables(c, layers, 1 + len(others)),
        rope_interleaved=_flag(c, "rope_interleaved"),
        activation=c.value("activation"),
        **numbers,
        query_positions=c.integer("query_positions", most=MOST_POSITIONS),
        input_norms="attention_norm" in names,
        output_norms="attention_output_norm" in names,
        whole_norms=_flag(c, "whole_norms"),
        sinks="sinks" in names,
        tied="lm_head" not in names,
        qkv_bias="qkv_bias" in names,
        o_bias="o_bias" in names,
        mlp_bias="gate_up_bias" in names,
        router_bias="router_bias" in names,
        expert_bias="expert_gate_up_bias" in names,
        qk_norm="q_norm" in names,
        windows=tuple(windows) if any(windows) else (),
        moe=moe,
        sparse_layers=sparse,
        names=TensorNames(**names),
        bos_token_id=_token(c, c.value("bos_token_id"), "bos_token_id", vocab) if c.has("bos_token_id") else None,
        eos_token_ids=tuple(_token(c, token, "eos_token_ids", vocab) for token in _list(c, "eos_token_ids")),
        eos_assumed=_flag(c, "eos_assumed"),
    )
    if not spec.input_norms and not spec.output_norms:
        raise ArchitectureError(f"{source}: tensors must name attention_norm, attention_output_norm, or both")
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
    described = to_json(spec, weights)
    digest = hashlib.sha256((directory / "config.json").read_bytes()).hexdigest()
    document = {"format": FORMAT, "version": VERSION, "config_sha256": digest, "ignored": list(ignored)}
    with appearing(directory / SPECIFICATION) as file:
        file.write(json.dumps(document | {"specification": described}).encode() + b"\n")


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


def _number(c: Fields, name: str, *, zero: bool = False) -> float:
    """A number from LEAST_NUMBER to MOST_NUMBER, or 0 where that is allowed: not a zero or infinity in float32."""
    value = c.value(name)
    if zero and type(value) in (int, float) and value == 0:
        return 0.0
    if type(value) not in (int, float) or not LEAST_NUMBER <= value <= MOST_NUMBER:
        raise c.wrong(name, f"a number from {LEAST_NUMBER:g} to {MOST_NUMBER:g}{', or 0' if zero else ''}")
    return float(value)


def _frequencies(c: Fields, size: int) -> tuple[float, ...]:
    frequencies = _list(c, "frequencies", size)
    if not all(type(f) in (int, float) and 0 <= f <= MOST_NUMBER for f in frequencies):
        raise ArchitectureError(f"{c.source}: frequencies must be numbers from 0 to {MOST_NUMBER:g}")
    return tuple(map(float, frequencies))


def _ropes(c: Fields, head_dim: int) -> list[RopeSpec]:
    """The rotary tables, all of as many pairs as the first."""
    tables = c.value("ropes")
    if not isinstance(tables, list) or not 0 < len(tables) <= MOST_ROPES or not all(type(x) is dict for x in tables):
        raise c.wrong("ropes", f"a list of 1 to {MOST_ROPES} objects")
    first = tables[0].get("frequencies")
    if not isinstance(first, list) or not 0 < len(first) <= head_dim // 2:
        raise ArchitectureError(f"{c.source}: ropes: frequencies must be a list of 1 to {head_dim // 2}")
    return [_rope(Fields(table, f"{c.source}: ropes {i}"), len(first)) for i, table in enumerate(tables)]


def _rope(c: Fields, pairs: int) -> RopeSpec:
    _only(c, ("frequencies", "scale", "reach", "dynamic", "long"))
    frequencies, scale = _frequencies(c, pairs), c.number("scale")
    reach = c.integer("reach", least=0, most=MOST_POSITIONS)
    dynamic = long = None
    if c.has("dynamic"):
        given = _table(c, "dynamic", ("theta", "factor", "original_positions"))
        theta, factor = given.number("theta"), given.number("factor")
        if theta < LEAST_NUMBER or pairs < 2:
            raise ArchitectureError(f"{given.source} gives frequencies that aren't finite")
        dynamic = DynamicRope(theta, factor, given.integer("original_positions", most=MOST_POSITIONS))
    if c.has("long"):
        if dynamic is not None:
            raise ArchitectureError(f"{c.source}: it can't be both dynamic and long")
        given = _table(c, "long", ("frequencies", "original_positions"))
        long = LongRope(_frequencies(given, pairs), given.integer("original_positions", most=MOST_POSITIONS))
    return RopeSpec(frequencies, scale, reach, dynamic, long)


def _rope_tables(c: Fields, layers: int, tables: int) -> tuple[int, ...]:
    """The table of each layer; () is the first everywhere."""
    found = _list(c, "rope_tables", layers)
    if not all(type(table) is int and -1 <= table < tables for table in found):
        raise c.wrong("rope_tables", f"for each layer a number below {tables}, or -1 for none")
    return tuple(found) if any(found) else ()


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
    "whole_norms",
    "activation",
    "max_positions",
    "ropes",
    "rope_interleaved",
    "rope_tables",
    "query_positions",
    "windows",
    "experts",
    "bos_token_id",
    "eos_token_ids",
    "eos_assumed",
    "weights",
    "activation_bits",
    "tensors",
    *FACTORS,
    *OR_ZERO,
)
