"""`cutset bench stages`: what stages of a decoder reach on this machine, each pinned to a core.

Everything that is compared runs in turns within one run. An engine is pinned, too, where it has its layers itself; one
that has stages may use the cores of both, as it would anywhere.
"""

from __future__ import annotations

import contextlib
import time
from collections.abc import Iterator, Mapping

import numpy as np

from cutset.bench.link import named, run_sizes
from cutset.bench.stage_models import MODELS, StageBench
from cutset.bench.stage_workers import BenchStages, cores, engine_process
from cutset.bench.turns import Process, medians, take_turns
from cutset.bench.wires import LINKS
from cutset.compare.results import Row

__all__ = ["run_groups", "run_hop", "run_idle", "run_latency", "run_prefill"]

TWO, ONE, BOTH = "cutset two stages, a core each", "cutset engine on one core", "cutset engine on both cores"
PROMPT = 16  # tokens before those that are timed
HOPS = 3  # to the first stage, between the two, and back
SCHEMES = {"tcp": "tcp with keys", "shm": "shared memory"}
LONG_PROMPT = 2048
GROUP = 8  # sequences


def run_groups(bench: StageBench) -> list[Row]:
    """16 streams in two groups of 8 on two stages in shared memory, beside the engine on one core with 8 and on both
    with 16.

    Two stages read all weights for each group, an engine on both cores once for both groups. What memory allows is said
    beside: tokens a second if reading weights were all that takes time.
    """
    a, b = cores(2)
    model, steps = bench.model("w246"), bench.some(96, 12)
    workload = f"{bench.named('w246')} int8, decode"
    spec = MODELS[bench.named("w246")].spec()
    read = spec.parameter_count() - spec.vocab_size * spec.hidden  # bytes of a step
    options = {"max_model_len": 512, "cache_mib": 512}
    with contextlib.ExitStack() as parts:
        stages = parts.enter_context(BenchStages([a, b], model, scheme="shm"))
        systems = {
            TWO: (engine_process(model, [a, b], options | stages.settings(), name=TWO), 2 * GROUP),
            ONE: (engine_process(model, [a], options, name=ONE), GROUP),
            BOTH: (engine_process(model, [a, b], options, name=BOTH), 2 * GROUP),
        }
        for process, _ in systems.values():
            parts.enter_context(process)

        def turn(number: int) -> Iterator[Row]:
            rates, limits = {}, {}
            for name in sorted(systems, reverse=number % 2 == 0):
                process, streams = systems[name]
                found = process.call(do="decode", sequences=streams, prompt=PROMPT, steps=steps)
                rates[name] = found["tokens"] / found["seconds"]
                yield Row(workload, name, "decode", rates[name], "tok/s")
            one, both = (
                systems[name][0].call(do="bandwidth", size=max(read, 1 << 26), threads=threads)["rate"]
                for name, threads in ((ONE, 1), (BOTH, 2))
            )
            for name, streams, rate in ((TWO, GROUP, both), (ONE, GROUP, one), (BOTH, 2 * GROUP, both)):
                limits[name] = streams * rate / read
                yield Row(workload, name, "decode, if reading weights were all", limits[name], "tok/s")
            for other, what in ((ONE, "one core with 8 streams"), (BOTH, "both cores with 16 streams")):
                yield Row(workload, TWO, f"against {what}", rates[TWO] / rates[other], "x")
                yield Row(workload, TWO, f"against {what}, by memory alone", limits[TWO] / limits[other], "x")

        return medians(take_turns(workload, [turn], bench.rounds, bench.log))


def run_latency(bench: StageBench) -> list[Row]:
    """Decoding with 20 ms between every two parties, beside min(rate without latency, streams ÷ (latencies + a pass)).

    A pass is one of as many streams as a stage gets at once.
    """
    a, b = cores(2)
    model, hop, steps = bench.model("w1b"), bench.some(20, 5) / 1e3, bench.some(24, 6)
    options = {"max_model_len": 256, "cache_mib": 1024}
    with contextlib.ExitStack() as parts:
        near, far = (parts.enter_context(BenchStages([a, b], model)) for _ in range(2))
        plain = parts.enter_context(engine_process(model, [a, b], options | near.settings()))
        slow = parts.enter_context(engine_process(model, [a, b], options | far.settings(), hop=hop))
        measured = list[Row]()
        for streams in (4, 16) if bench.quick else (4, 8, 16, 32, 64):
            workload = f"{bench.named('w1b')} int8, {streams} streams, {hop * 1e3:g} ms a hop"

            def turn(number: int, streams: int = streams, workload: str = workload) -> Iterator[Row]:
                work = {"sequences": streams, "prompt": PROMPT, "steps": steps}
                rates = {}
                for name, process in sorted({"without": plain, "with": slow}.items(), reverse=number % 2 == 0):
                    found = process.call(do="decode", **work)
                    rates[name] = found["tokens"] / found["seconds"]
                one = plain.call(do="passes", **(work | {"sequences": -(-streams // 2)}))["seconds"]
                limit = min(rates["without"], streams / (HOPS * hop + one))
                yield Row(workload, "cutset two stages", "decode", rates["with"], "tok/s")
                yield Row(workload, "cutset two stages", "decode without latency", rates["without"], "tok/s")
                yield Row(workload, "cutset two stages", "a pass of half the streams, without latency", one * 1e3, "ms")
                yield Row(workload, "cutset two stages", "of what latency allows", rates["with"] / limit, "x")

            measured += take_turns(workload, [turn], bench.rounds, bench.log)
    return medians(measured)


def run_hop(bench: StageBench) -> list[Row]:
    """From the end of one stage's kernels to the beginning of the next one's, for 8 rows, and the bare link beside."""
    a, b = cores(2)
    model, steps = bench.model("w246"), bench.some(200, 20)
    nbytes = GROUP * MODELS[bench.named("w246")].hidden * 4
    workload = f"{bench.named('w246')} int8, a hop of {named(nbytes)}"
    samples: dict[str, list[float]] = {scheme: [] for scheme in SCHEMES}
    with contextlib.ExitStack() as parts:
        found: dict[str, tuple[BenchStages, Process]] = {}
        for scheme in SCHEMES:
            stages = parts.enter_context(BenchStages([a, b], model, scheme=scheme, timed=True))
            options = {"max_model_len": 512, "cache_mib": 256, **stages.settings()}
            found[scheme] = stages, parts.enter_context(engine_process(model, [a, b], options))

        def turn(number: int) -> Iterator[Row]:
            for scheme, (stages, process) in found.items():
                before = len(stages.times("worker1"))
                process.call(do="passes", sequences=GROUP, prompt=PROMPT, steps=steps)
                first, second = (stages.times(name)[before + GROUP :] for name in stages.names)
                count = min(len(first), len(second))
                gaps = second[:count, 0] - first[:count, 1]
                if number > 0:
                    samples[scheme] += gaps.tolist()
                yield Row(workload, f"cutset {SCHEMES[scheme]}", "kernel to kernel, p50", np.median(gaps) * 1e6, "µs")

        rows = medians(take_turns(workload, [turn], bench.rounds, bench.log))
    for scheme, gaps in samples.items():
        late = float(np.quantile(gaps, 0.99)) * 1e6
        rows.append(Row(workload, f"cutset {SCHEMES[scheme]}", "kernel to kernel, p99", late, "µs"))
    links = {f"cutset {scheme}": LINKS[f"cutset {scheme}"] for scheme in SCHEMES}
    bare, _ = run_sizes([nbytes], links, bench.rounds, bench.log)
    for row in bare:
        if row.metric == "round trip":
            name = f"cutset {SCHEMES[row.system.removeprefix('cutset ')]}"
            rows.append(Row(workload, name, "half a round trip of the bare link", row.value / 2, "µs", row.spread))
    return rows


def run_prefill(bench: StageBench) -> list[Row]:
    """The time to the first token behind 2,048 tokens, on two stages and in one place."""
    a, b = cores(2)
    model = bench.model("w246")
    tokens = bench.some(LONG_PROMPT, 512)
    workload = f"{bench.named('w246')} int8, a prompt of {tokens} tokens"
    options = {"max_model_len": tokens + 64, "cache_mib": 512}
    with (
        BenchStages([a, b], model) as stages,
        engine_process(model, [a, b], options | stages.settings()) as two,
        engine_process(model, [a], options) as one,
    ):
        systems = {TWO: two, ONE: one}

        def turn(number: int) -> Iterator[Row]:
            took = {}
            for name in sorted(systems, reverse=number % 2 == 0):
                took[name] = systems[name].call(do="first", prompt=tokens)["seconds"]
                yield Row(workload, name, "time to first token", took[name] * 1e3, "ms")
            yield Row(workload, TWO, "time to first token, of one core's", took[TWO] / took[ONE], "rel")

        return medians(take_turns(workload, [turn], bench.rounds, bench.log))


def run_idle(bench: StageBench) -> list[Row]:
    """What stages and their engine use of a core while nothing is asked of them; and a stage that has no engine."""
    a, b = cores(2)
    model, seconds = bench.model("w246"), bench.some(10, 1)
    rows = list[Row]()
    for scheme, words in SCHEMES.items():
        workload = f"idle, {words}"
        with (
            BenchStages([a, b, b], model, scheme=scheme) as stages,
            engine_process(model, [a, b], {"cache_mib": 64} | stages.settings(stages.names[:2])) as engine,
        ):
            engine.call(do="decode", sequences=2, prompt=PROMPT, steps=4)

            def turn(number: int, workload: str = workload) -> Iterator[Row]:
                before, cpu = _used(stages), engine.call(do="cpu")["seconds"]
                started = time.monotonic()
                time.sleep(seconds)
                after, more = _used(stages), engine.call(do="cpu")["seconds"] - cpu
                took = time.monotonic() - started
                shares = [100 * (after[name] - before[name]) / took for name in stages.names]
                yield Row(workload, "cutset stage", "CPU of a core", max(shares[:2]), "%")
                yield Row(workload, "cutset stage without an engine", "CPU of a core", shares[2], "%")
                yield Row(workload, "cutset engine", "CPU of a core", 100 * more / took, "%")

            rows += take_turns(workload, [turn], bench.rounds, bench.log)
    return medians(rows)


def _used(stages: BenchStages) -> Mapping[str, float]:
    return {name: stages.cpu(name) for name in stages.names}
