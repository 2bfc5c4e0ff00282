"""A client of `cutset bench offload` in a process of its own: loads a model in one mode and runs commands.

PYTHON -m cutset.bench.offload_client MODEL --mode MODE [--offload ADDRESS] --threads N
Reads commands as JSON lines from stdin, answers each with one line on stdout:
  {"do": "fill", "prompt": P, "decode": D}     pads for one such run, where the mode has them; CPU seconds
  {"do": "run", "prompt": P, "decode": D, "whole": false}      seconds, CPU seconds, parts, bytes and tokens of one run
  {"do": "run counting cpu", …}                the same with the CPU seconds of each part, and somewhat slower
"""

from __future__ import annotations

import argparse
import resource
import time
import warnings
from pathlib import Path
from typing import Any

import numpy as np
from numpy.typing import NDArray

from cutset.bench.child import answer_commands, prompt_ids
from cutset.engine.params import SamplingParams
from cutset.llm import LLM
from cutset.models.run.executor import Batch
from cutset.offload.client.call_times import CallTimes

__all__ = ["OffloadClient", "TimedLinears"]

LOCAL = ("float32", "int8", "exact")  # dtypes that run here; a mode otherwise


class TimedLinears:
    """The products of a local run, one call each, with the time they take: what an offload's sites are held against."""

    def __init__(self, llm: LLM, folder: Path, dtype: str) -> None:
        from cutset.kernels.native import extension
        from cutset.models.files.integer import activation_bits, quantized
        from cutset.models.files.source import open_source

        native, source = extension(), open_source(folder)
        self.pool, self.times = llm.executor.pool, CallTimes(count_cpu=True)  # type: ignore[attr-defined]
        self.linears: dict[tuple[str, int, int], tuple[Any, dict[str, int]]] = {}
        for site, layer, expert in llm.spec.sites():
            if dtype == "float32":
                names = llm.spec.site_tensors(site, layer, expert)
                weight = np.concatenate([source.tensors[name].float32() for name in names])
                self.linears[site, layer, expert] = native.LinearF32(weight, self.pool), {}
            else:
                packed = native.LinearI8(*quantized(llm.spec, source.tensors, site, layer, expert), self.pool)
                bits = min(activation_bits(dtype, site), packed.most_bits)
                self.linears[site, layer, expert] = packed, {"bits": bits}

    def __call__(self, site: str, layer: int, expert: int, rows: NDArray[Any], out: NDArray[Any]) -> None:
        self.times.lap("other")
        linear, bits = self.linears[site, layer, expert]
        linear(rows, out, pool=self.pool, **bits)
        self.times.lap("accelerator")


class OffloadClient:
    """One model in one mode."""

    def __init__(
        self, folder: Path, mode: str, address: str, threads: int, context: int, pads_mib: int, keys: dict[str, Path]
    ) -> None:
        chosen: dict[str, Any] = {"dtype": mode} if mode in LOCAL else {"offload": address, "mode": mode}
        chosen["generation_config"] = False
        if mode not in LOCAL:
            chosen |= {"pads_mib": pads_mib, **keys}
        with warnings.catch_warnings():
            warnings.simplefilter("ignore")  # that plain is no secret is known here
            self.llm = LLM(
                folder, threads=threads, max_model_len=context, max_num_seqs=1, prefix_caching=False, **chosen
            )
        self.linears: Any = None
        self._cache = self.llm.executor.new_cache(16, 16)  # for whole passes of up to 256 tokens
        while getattr(self.llm.executor, "mapped", False):  # weights move to where they stay, step by step
            self._generate([1], 8, 0.0)
        if self.llm.offload is not None:
            self.linears = self.llm.offload.linears
        self.timed = TimedLinears(self.llm, folder, mode) if mode in LOCAL else None

    def fill(self, prompt: int, decode: int) -> dict[str, Any]:
        """Makes the pads of one run ahead; CPU seconds that so many take. None where they don't fit: then they are made
        in the run."""
        offload = self.llm.offload
        pads = None if offload is None else offload.linears.pads
        rows = prompt + decode - 1  # the last token isn't fed back
        if offload is None or pads is None or rows * pads.row_bytes > pads.memory:
            return {"cpu_s": None}
        pads.fill(rows, 600.0)
        counted = pads.counters()
        return {"cpu_s": counted.cpu_seconds / counted.made * rows * len(pads.matrices)}

    def _generate(self, ids: list[int], decode: int, started: float) -> tuple[list[int], float]:
        """Tokens, and seconds from `started` to the first one."""
        tokens, first = list[int](), 0.0
        for delta in self.llm.stream(ids, SamplingParams(max_tokens=decode, temperature=0, ignore_eos=True)):
            if delta.error is not None:
                raise delta.error
            tokens += delta.token_ids
            first = first or time.perf_counter() - started
        return tokens, first

    def _pass(self, ids: list[int]) -> tuple[list[int], float]:
        """The likeliest next token after each one, from one pass; seconds of the pass."""
        batch = Batch.whole(np.array([ids], dtype=np.int32), 16)
        started = time.perf_counter()
        logits = self.llm.executor.forward(batch, self._cache)
        seconds = time.perf_counter() - started
        return logits.argmax(axis=1).tolist(), seconds

    def run(self, prompt: int, decode: int, whole: bool, count_cpu: bool = False) -> dict[str, Any]:
        """Prefill of `prompt` tokens and `decode` greedy ones. Counting CPU by part slows decoding by a few percent."""
        ids = prompt_ids(prompt, self.llm.spec.vocab_size, 300)
        own = None
        if self.timed is not None and count_cpu:  # otherwise a local run is what it always is: one call a step
            executor: Any = self.llm.executor
            own, executor.linears = executor.linears, self.timed
            self.linears = self.timed
        if self.linears is not None:
            self.linears.times = CallTimes(count_cpu=count_cpu)
        wall, cpu = time.perf_counter(), _cpu()
        tokens, first = self._pass(ids) if whole else self._generate(ids, decode, wall)
        result: dict[str, Any] = {"tokens": tokens, "prefill_s": first}
        if self.linears is not None:
            parts = self.linears.times
            parts.lap("other")
            result |= {"parts": parts.wall, "part_cpu": parts.cpu, "calls": parts.calls}
            result |= {"up": parts.bytes_up, "down": parts.bytes_down}
        if own is not None:
            executor.linears, self.linears = own, None
        result |= {"s": time.perf_counter() - wall, "cpu_s": _cpu() - cpu}
        return result

    def close(self) -> None:
        """Ends the model, and its link if it has one."""
        self.llm.close()


def _cpu() -> float:
    used = resource.getrusage(resource.RUSAGE_SELF)
    return used.ru_utime + used.ru_stime


def _perform(client: OffloadClient, do: str, command: dict[str, Any]) -> dict[str, Any]:
    size = command["prompt"], command["decode"]
    return client.fill(*size) if do == "fill" else client.run(*size, command["whole"], do == "run counting cpu")


if __name__ == "__main__":
    parser = argparse.ArgumentParser()
    parser.add_argument("folder", type=Path)
    parser.add_argument("--mode", required=True)
    parser.add_argument("--offload", default="")
    parser.add_argument("--threads", type=int, default=1)
    parser.add_argument("--context", type=int, default=1024)
    parser.add_argument("--pads-mib", type=int, default=1024)
    parser.add_argument("--key", type=Path)
    parser.add_argument("--accelerator-key", type=Path)
    args = parser.parse_args()
    keys = {name: getattr(args, name) for name in ("key", "accelerator_key") if getattr(args, name) is not None}
    setup = (args.folder, args.mode, args.offload, args.threads, args.context, args.pads_mib, keys)
    answer_commands(lambda: OffloadClient(*setup), _perform)
