"""`python -m benchmarks adapters`: LoRA adapters beside each other in one batch, against the same batch without.

A batch of 8 sequences on the model w246, each with an adapter of its own: random ones of rank 16 for every linear
layer but the head, as PEFT saves them, in bfloat16 and in float32. It takes turns with the same prompts without
adapters, and with one adapter for all. Before anything counts, each sequence must get the tokens that it gets alone,
and not those that it gets without its adapter.
"""

from __future__ import annotations

import argparse
import json
import tempfile
from collections.abc import Iterator, Mapping, Sequence
from pathlib import Path
from typing import Any

import numpy as np
from numpy.typing import NDArray

from benchmarks.targets import Target, targets_table
from cutset.bench.decode import WORKLOADS
from cutset.bench.own import Own
from cutset.bench.turns import Turn, medians, take_turns
from cutset.cli.bench_rows import add_rounds, rows_table, save_rows
from cutset.cli.options import add_json, add_settings, settings_from
from cutset.cli.output import log
from cutset.compare.results import Row
from cutset.engine.params import SamplingParams
from cutset.errors import EngineError
from cutset.models.files.writer import write_safetensors
from cutset.models.random import RandomModel
from cutset.models.spec import DecoderSpec

__all__ = ["DTYPES", "SHARE", "TARGETS", "configure", "run", "run_adapters", "write_adapter"]

DTYPES = ("float32", "int8", "exact")
KINDS = ("BF16", "F32")  # in which adapters are stored
SEQUENCES, RANK, PROMPT, STEPS = 8, 16, 128, 64
SHARE = "of the rate without adapters"
TARGETS = (
    Target(
        "tokens/s of a batch with 8 adapters over those without", f"decode, {SHARE}", 0.9, least=True, workload="BF16"
    ),
    Target("the same of adapters in float32", f"decode, {SHARE}", 0.9, least=True, workload="F32"),
    Target("the same of their prompts", f"prefill, {SHARE}", 0.9, least=True, workload="adapters"),
)


def write_adapter(folder: Path, spec: DecoderSpec, rank: int, seed: int, dtype: str = "BF16") -> None:
    """A random LoRA adapter for every product but the head, as PEFT saves it, in `BF16` or `F32`."""
    rng = np.random.default_rng(seed)
    layout: dict[str, tuple[str, tuple[int, ...]]] = {}
    modules = []
    for tensor in spec.tensors():
        if tensor.product and tensor.role != "lm_head":
            name = tensor.name.removesuffix(".weight")
            layout[f"base_model.model.{name}.lora_A.weight"] = (dtype, (rank, tensor.shape[1]))
            layout[f"base_model.model.{name}.lora_B.weight"] = (dtype, (tensor.shape[0], rank))
            modules.append(name.rpartition(".")[2])
    folder.mkdir(parents=True, exist_ok=True)

    def tensors() -> Iterator[tuple[str, NDArray[Any]]]:
        for name, (_, shape) in layout.items():
            values = rng.standard_normal(shape, np.float32) * np.float32(shape[1] ** -0.5)
            yield name, (values.view(np.uint32) >> 16).astype(np.uint16) if dtype == "BF16" else values

    write_safetensors(folder / "adapter_model.safetensors", layout, tensors(), {"format": "pt"})
    config = {"peft_type": "LORA", "r": rank, "lora_alpha": rank, "target_modules": sorted({*modules})}
    (folder / "adapter_config.json").write_text(json.dumps(config))


def run_adapters(folder: Path, adapters: Mapping[str, Path], dtype: str, rounds: int, threads: int) -> list[Row]:
    """Rates of the three batches, and their shares of that without adapters. Raises EngineError where a sequence gets
    other tokens in the batch than alone."""
    own = Own(f"native {dtype}", folder, threads, adapters)
    try:
        batches: dict[str, list[str] | None] = {"none": None, "one for all": [next(iter(adapters))] * SEQUENCES}
        for kind in KINDS:
            each = [name for name in adapters if name.startswith(kind)]
            check_tokens(own, each)
            batches[f"{len(each)} adapters, {kind}"] = each

        def turn_of(name: str, chosen: Sequence[str] | None) -> Turn:
            def turn(number: int) -> Iterator[Row]:
                prefill, decode = own.generate(SEQUENCES, PROMPT, STEPS, chosen)
                for metric, tokens, seconds in (("prefill", PROMPT, prefill), ("decode", STEPS, decode)):
                    rate = SEQUENCES * tokens / seconds
                    yield Row(f"{SEQUENCES} sequences, {name}", f"cutset native {dtype}", metric, rate, "tok/s")

            return turn

        turns = [turn_of(name, chosen) for name, chosen in batches.items()]
        rows = medians(take_turns(f"adapters, {dtype}", turns, rounds, log))
    finally:
        own.close()
    return [*rows, *_shares(rows)]


def _shares(rows: Sequence[Row]) -> Iterator[Row]:
    plain = {row.metric: row.value for row in rows if row.workload.endswith("none")}
    for row in rows:
        if not row.workload.endswith("none"):
            yield Row(row.workload, row.system, f"{row.metric}, {SHARE}", row.value / plain[row.metric], "x")


def check_tokens(own: Own, names: Sequence[str]) -> None:
    """Each in the batch as it is alone, and each other than without its adapter."""
    params = SamplingParams(max_tokens=12, temperature=0, ignore_eos=True)
    prompts = own.prompts(len(names), 20)

    def tokens(chosen: Sequence[int], adapters: Sequence[str] | None) -> list[list[int]]:
        found = own.llm.generate([prompts[i] for i in chosen], params, adapter=adapters)
        return [list(one.outputs[0].token_ids) for one in found]

    everyone = range(len(names))
    together, plain = tokens(everyone, names), tokens(everyone, None)
    for i, name in enumerate(names):
        if tokens([i], [name]) != together[i : i + 1]:
            raise EngineError(f"{name} gives other tokens in a batch than alone: its rate means nothing")
        if together[i] == plain[i]:
            raise EngineError(f"{name} changes no token: its rate means nothing")


def configure(parser: argparse.ArgumentParser) -> None:
    parser.add_argument("--dtype", action="append", choices=DTYPES, help="only this one; repeatable (default: all)")
    parser.add_argument("--quick", action="store_true", help="a small model, to see that all of it runs")
    add_rounds(parser)
    add_json(parser, "the figures")
    add_settings(parser, "threads")


def run(args: argparse.Namespace) -> int:
    threads = settings_from(args).thread_count
    model = RandomModel(max_pos=512) if args.quick else WORKLOADS["w246"].model
    rows: list[Row] = []
    with tempfile.TemporaryDirectory() as scratch:
        folder = Path(scratch) / "model"
        model.write_checkpoint(folder)
        adapters: dict[str, Path] = {}
        for kind in KINDS:
            for seed in range(SEQUENCES):
                adapters[f"{kind}-{seed}"] = where = Path(scratch) / f"{kind}-{seed}"
                write_adapter(where, model.spec(), RANK, seed, kind)
        for dtype in args.dtype or DTYPES:
            rows += run_adapters(folder, adapters, dtype, args.rounds, threads)
    print(rows_table(rows), end="\n\n")
    print(targets_table(rows, TARGETS))
    save_rows(args, rows, threads=threads)
    return 0
