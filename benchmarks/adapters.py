"""`python -m benchmarks adapters`: LoRA adapters beside each other in one batch, against the same batch without.

A batch of 8 sequences on the models w246 and w1b of `cutset bench decode`, each with an adapter of its own: random ones
of rank 16 for every linear layer but the head, as PEFT saves them, in bfloat16 and in float32. It takes turns with the
same prompts without adapters, and with one adapter for all. Before anything counts, each sequence must get the tokens
that it gets alone, and not those that it gets without its adapter.

Where decoding is bound by memory, a batch can't have more than 1 / (1 + share) of the rate without adapters, `share`
being the bytes of the matrices of its adapters over those of the weights that every step reads; both are stated beside
the rates. A rate above the bound says that the step without adapters isn't bound by memory alone.
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
from cutset.bench.decode import FLOAT, INTEGER, WIDTHS, WORKLOADS
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
from cutset.models.run.backend import ROUNDED
from cutset.models.spec import DecoderSpec, WantedTensor

__all__ = ["DTYPES", "SHARE", "TARGETS", "configure", "run", "run_adapters", "write_adapter"]

DTYPES = ("float32", "int8", "exact")
KINDS = {"BF16": 2, "F32": 4}  # in which adapters are stored, and their bytes
SEQUENCES, RANK, PROMPT, STEPS = 8, 16, 128, 64
SHARE = "of the rate without adapters"
MODELS = ("w246", "w1b")


def targets(model: str) -> tuple[Target, ...]:
    """What the rows of a model are to reach."""
    batch = f"{model}{SEQUENCES} sequences, {SEQUENCES} adapters"
    first = f"tokens/s of a batch with {SEQUENCES} adapters over those without"
    return (
        Target(f"{model}{first}", f"decode, {SHARE}", 0.9, least=True, workload=f"{batch}, BF16"),
        Target(
            f"{model}the same of adapters in float32", f"decode, {SHARE}", 0.9, least=True, workload=f"{batch}, F32"
        ),
        Target(f"{model}the same of their prompts", f"prefill, {SHARE}", 0.9, least=True, workload=batch),
    )


TARGETS = tuple(target for model in MODELS for target in targets(f"{model}: "))


def adapted(spec: DecoderSpec) -> Iterator[WantedTensor]:
    """The matrices that adapters are for: all but the head."""
    return (tensor for tensor in spec.tensors() if tensor.product and tensor.role != "lm_head")


def bytes_share(spec: DecoderSpec, dtype: str, kind: str) -> float:
    """Bytes of a batch's adapters, which are rounded where weights are, over those of the weights that a step reads."""
    numbers = sum(RANK * sum(tensor.shape) for tensor in adapted(spec))
    weights = spec.parameter_count() - (0 if spec.tied else spec.vocab_size * spec.hidden)
    each = 1 if dtype in ROUNDED else KINDS[kind]
    return SEQUENCES * numbers * each / (weights * WIDTHS.get(f"native {dtype}", 4.0))  # the models are float32


def write_adapter(folder: Path, spec: DecoderSpec, rank: int, seed: int, dtype: str = "BF16") -> None:
    """A random LoRA adapter for every product but the head, as PEFT saves it, in `BF16` or `F32`."""
    rng = np.random.default_rng(seed)
    layout: dict[str, tuple[str, tuple[int, ...]]] = {}
    modules = []
    for tensor in adapted(spec):
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


def run_adapters(
    folder: Path, adapters: Mapping[str, Path], dtype: str, rounds: int, threads: int, model: str = ""
) -> list[Row]:
    """Rates of the batches, their shares of that without adapters, and what memory bounds these by; `model` stands
    before the workloads. Raises EngineError where a sequence gets other tokens in the batch than alone."""
    workload = f"{model}{SEQUENCES} sequences"
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
                    yield Row(f"{workload}, {name}", f"cutset native {dtype}", metric, rate, "tok/s")

            return turn

        turns = [turn_of(name, chosen) for name, chosen in batches.items()]
        rows = medians(take_turns(f"{workload}, {dtype}", turns, rounds, log))
        rows += list(_shares(rows))
        for name in batches:
            for kind in (kind for kind in KINDS if name.endswith(kind)):
                share = bytes_share(own.llm.spec, dtype, kind)
                place = f"{workload}, {name}", f"cutset native {dtype}"
                rows.append(Row(*place, "adapters' bytes for each of the weights", share, "B"))
                rows.append(Row(*place, "bound of decode by these", 1 / (1 + share), "x"))
    finally:
        own.close()
    return rows


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
    parser.add_argument("--model", action="append", choices=MODELS, help="only this one; repeatable (default: both)")
    parser.add_argument("--quick", action="store_true", help="a small model, to see that all of it runs")
    add_rounds(parser)
    add_json(parser, "the figures")
    add_settings(parser, "threads")


def run(args: argparse.Namespace) -> int:
    threads = settings_from(args).thread_count
    rows: list[Row] = []
    for name in ("",) if args.quick else args.model or MODELS:
        model = RandomModel(max_pos=512) if args.quick else WORKLOADS[name].model
        weights = () if args.quick else WORKLOADS[name].weights
        with tempfile.TemporaryDirectory() as scratch:
            folder = Path(scratch) / "model"
            model.write_checkpoint(folder)
            adapters: dict[str, Path] = {}
            for kind in KINDS:
                for seed in range(SEQUENCES):
                    adapters[f"{kind}-{seed}"] = where = Path(scratch) / f"{kind}-{seed}"
                    write_adapter(where, model.spec(), RANK, seed, kind)
            for dtype in args.dtype or DTYPES:
                if not weights or (FLOAT if dtype == "float32" else INTEGER) in weights:
                    rows += run_adapters(folder, adapters, dtype, args.rounds, threads, name and f"{name}: ")
    print(rows_table(rows), end="\n\n")
    print(targets_table(rows, targets("") if args.quick else TARGETS))
    save_rows(args, rows, threads=threads)
    return 0
