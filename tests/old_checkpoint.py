"""Writes integer checkpoints of version 1, which Cutset reads but no longer writes."""

from __future__ import annotations

import json
from pathlib import Path
from typing import Any

import numpy as np

from cutset.models.files.digests import digest
from cutset.models.files.integer import quantized, scale_name, stored_shapes
from cutset.models.files.source import open_source
from cutset.models.files.writer import write_safetensors


def write_version_1(current: Path, target: Path) -> None:
    """The checkpoint in `current` as version 1 would have it."""
    source = open_source(current)
    spec, tensors = source.spec, dict[str, Any]()
    for site in spec.sites():
        names = spec.site_tensors(*site)
        weight, scales = quantized(spec, source.tensors, *site)
        ends = np.cumsum([spec.tensor_shapes()[name][0] for name in names])[:-1]
        for name, rows, factors in zip(names, np.split(weight, ends), np.split(scales, ends), strict=True):
            stored = "lm_head.weight" if name == "model.embed_tokens.weight" else name
            tensors[stored], tensors[scale_name(stored)] = np.ascontiguousarray(rows), factors
    layout = stored_shapes(spec, 1)
    tensors |= {name: source.tensors[name].raw for name in layout if name not in tensors}
    target.mkdir()
    write_safetensors(target / "model.safetensors", layout, ((name, tensors[name]) for name in layout))
    config = dict(source.config) | {"quantization_config": {"quant_method": "cutset", "version": 1}}
    (target / "config.json").write_text(json.dumps(config))
    (target / "digests.json").write_text(json.dumps({name: digest(tensors[name]) for name in layout}))
