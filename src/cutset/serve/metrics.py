"""`GET /metrics` for Prometheus: vLLM's names where the meaning is the same, `cutset_…` for what only we have."""

from __future__ import annotations

from bisect import bisect_left
from collections.abc import Callable, Iterator
from itertools import accumulate

from prometheus_client import CollectorRegistry, Counter, Histogram
from prometheus_client.core import CounterMetricFamily, GaugeMetricFamily, HistogramMetricFamily, Metric
from prometheus_client.exposition import generate_latest
from prometheus_client.process_collector import ProcessCollector
from prometheus_client.registry import Collector

from cutset.engine.outputs import FinishReason
from cutset.serve.events import StageState
from cutset.serve.readings import engine_event, offload_event, stages_event
from cutset.serve.replicas.replica_metrics import replica_metrics
from cutset.serve.replicas.replicated_llm import ReplicatedLLM
from cutset.serve.service import Service
from cutset.serve.watch import Watch

__all__ = ["Metrics"]

SECONDS = (0.005, 0.01, 0.025, 0.05, 0.1, 0.25, 0.5, 1, 2.5, 5, 10, 30, 60, 120)
BETWEEN = (0.001, 0.0025, 0.005, 0.01, 0.025, 0.05, 0.075, 0.1, 0.15, 0.2, 0.3, 0.5, 1, 2.5)
TOKENS = (1, 2, 5, 10, 20, 50, 100, 200, 500, 1000, 2000, 5000, 10_000, 50_000, 100_000)


class Metrics(Watch):
    """Counters of a service, which is a `Watch`: the service calls it for what happens."""

    def __init__(self, service: Service) -> None:
        self.registry = CollectorRegistry()
        name = service.names[0]

        def histogram(metric: str, text: str, buckets: tuple[float, ...]) -> Histogram:
            found = Histogram(f"vllm:{metric}", text, ["model_name"], buckets=buckets, registry=self.registry)
            return found.labels(name)

        self._first = histogram("time_to_first_token_seconds", "From the request to its first token", SECONDS)
        self._between = _Between("vllm:inter_token_latency_seconds", "Between two tokens of a sample", name)
        self.registry.register(self._between)
        self._whole = histogram("e2e_request_latency_seconds", "From the request to its last token", SECONDS)
        self._prompts = histogram("request_prompt_tokens", "Tokens of a request's prompts", TOKENS)
        self._generated = histogram("request_generation_tokens", "Tokens generated for a request", TOKENS)
        self._success = Counter(
            "vllm:request_success", "Samples that ended", ["model_name", "finished_reason"], registry=self.registry
        )
        self._refused = Counter(
            "cutset_requests_refused", "Requests answered with an error", ["status"], registry=self.registry
        )
        self._left = Counter("cutset_clients_left", "Requests whose client left before the end", registry=self.registry)
        self._name = name
        ProcessCollector(registry=self.registry)
        self.registry.register(_Readings(service))
        service.watches.append(self)

    def text(self) -> bytes:
        """What Prometheus reads."""
        return generate_latest(self.registry)

    def token(self, seconds: float, first: bool, count: int = 1) -> None:
        """See Watch."""
        if first:
            self._first.observe(seconds)
        else:
            self._between.observe(seconds, count)

    def sample_ended(self, reason: FinishReason) -> None:
        """See Watch."""
        self._success.labels(self._name, reason).inc()

    def request_ended(self, seconds: float, prompt_tokens: int, tokens: int) -> None:
        """See Watch."""
        self._whole.observe(seconds)
        self._prompts.observe(prompt_tokens)
        self._generated.observe(tokens)

    def refused(self, status: int) -> None:
        """See Watch."""
        self._refused.labels(str(status)).inc()

    def client_left(self) -> None:
        """See Watch."""
        self._left.inc()


class _Between(Collector):
    """A histogram for what happens at every token: for one thread, without the library's locks."""

    def __init__(self, name: str, text: str, model: str) -> None:
        self._name, self._text, self._model = name, text, model
        self._counts, self._sum = [0] * (len(BETWEEN) + 1), 0.0

    def observe(self, seconds: float, count: int) -> None:
        self._counts[bisect_left(BETWEEN, seconds)] += count
        self._sum += count * seconds

    def describe(self) -> Iterator[Metric]:
        return iter(())

    def collect(self) -> Iterator[Metric]:
        found = HistogramMetricFamily(self._name, self._text, labels=["model_name"])
        ends = [*(str(float(end)) for end in BETWEEN), "+Inf"]
        found.add_metric([self._model], list(zip(ends, accumulate(self._counts), strict=True)), self._sum)
        yield found


class _Readings(Collector):
    """What the engine and the offload count themselves, read when Prometheus asks."""

    def __init__(self, service: Service) -> None:
        self.service = service

    def describe(self) -> Iterator[Metric]:
        return iter(())

    def collect(self) -> Iterator[Metric]:
        labels = {"model_name": self.service.names[0]}
        engine = engine_event(self.service)
        yield _gauge("vllm:num_requests_running", "Sequences that run", engine.running, labels)
        yield _gauge("vllm:num_requests_waiting", "Sequences that wait", engine.waiting, labels)
        used = engine.blocks_used / max(1, engine.blocks)
        yield _gauge("vllm:kv_cache_usage_perc", "Used blocks of the KV cache, 1 is all", used, labels)
        for name, text, value in (
            ("prefix_cache_queries", "Prompt tokens looked up in the prefix cache", engine.prefix_queries_total),
            ("prefix_cache_hits", "Prompt tokens found in the prefix cache", engine.prefix_hits_total),
            (
                "num_preemptions",
                "Sequences that gave their blocks back and are computed again",
                engine.preemptions_total,
            ),
            ("prompt_tokens", "Prompt tokens computed", engine.prompt_tokens_total),
            ("generation_tokens", "Tokens generated", engine.generated_tokens_total),
            ("spec_decode_num_draft_tokens", "Tokens guessed ahead", engine.drafted_tokens_total),
            ("spec_decode_num_accepted_tokens", "Of these, right", engine.accepted_tokens_total),
        ):
            yield _counter(f"vllm:{name}", text, value, labels)
        yield _counter("cutset_steps", "Forward passes", engine.steps_total, {})
        yield _counter("cutset_prefix_disk_hits", "Prompt tokens found on disk", engine.stored_hits_total, {})
        yield _gauge("cutset_kv_blocks", "Blocks of the KV cache", engine.blocks, {})
        yield _gauge("cutset_kv_blocks_used", "Of these, held by sequences", engine.blocks_used, {})
        kv_dtype = {"kv_dtype": self.service.llm.settings.kv_dtype}
        yield _gauge("cutset_kv_dtype", "1 for what keys and values are kept in", 1, kv_dtype)
        readiness = self.service.readiness
        yield _gauge("cutset_ready", "1 while requests are taken", self.service.ready, {})
        yield _counter(
            "cutset_integrity_failures", "Sessions that a wrong product of an accelerator ended", readiness.failures, {}
        )
        mode = {"mode": self.service.mode}
        yield _gauge("cutset_mode", "1 for the mode of offload that is kept", 1, mode)
        yield from self._offload()
        yield from self._stages()
        if isinstance(self.service.llm, ReplicatedLLM):
            yield from replica_metrics(self.service.llm.replicas)

    def _stages(self) -> Iterator[Metric]:
        found = stages_event(self.service)
        if found is None:
            return
        used = sum(one.layers is not None for one in found.stages)
        yield _gauge("cutset_stages", "Stages of the plan in use, 0 without one", used, {})
        yield _gauge("cutset_batches_in_flight", "Steps on their way through the stages", found.in_flight, {})
        yield _gauge("cutset_batches_in_flight_most", "Steps that may be", found.most_in_flight, {})
        yield _counter("cutset_stage_failovers", "How often stages were lost", found.failovers_total, {})
        gauges: list[tuple[str, str, Callable[[StageState], float]]] = [
            ("up", "1 while a machine for stages is there", lambda one: one.live),
            ("layers", "Layers that it runs", lambda one: one.layers[1] - one.layers[0] + 1 if one.layers else 0),
            ("weight_bytes", "Weights of these layers", lambda one: one.weight_bytes),
            ("kv_bytes", "Its part of the KV cache", lambda one: one.kv_bytes),
        ]
        for name, text, value in gauges:
            gauge = GaugeMetricFamily(f"cutset_stage_{name}", text, labels=["stage"])
            for one in found.stages:
                gauge.add_metric([one.worker], value(one))
            yield gauge
        counters: list[tuple[str, str, Callable[[StageState], float]]] = [
            ("steps", "Steps that it ran", lambda one: one.steps_total),
            ("busy_seconds", "Seconds that it computed", lambda one: one.busy_s_total),
        ]
        for name, text, total in counters:
            counter = CounterMetricFamily(f"cutset_stage_{name}", text, labels=["stage"])
            for one in found.stages:
                counter.add_metric([one.worker], total(one))
            yield counter
        nbytes = CounterMetricFamily("cutset_hop_bytes", "Bytes between stages", labels=["source", "target"])
        seconds = GaugeMetricFamily(
            "cutset_hop_seconds", "Seconds of a step's bytes, lately", labels=["source", "target"]
        )
        for hop in found.hops:
            nbytes.add_metric([hop.source, hop.target], hop.bytes_total)
            seconds.add_metric([hop.source, hop.target], hop.seconds)
        yield nbytes
        yield seconds

    def _offload(self) -> Iterator[Metric]:
        offload = offload_event(self.service)
        if offload is None:
            return
        yield _counter("cutset_offload_calls", "Products asked of the accelerator", offload.calls_total, {})
        yield _counter("cutset_offload_rows", "Rows sent to the accelerator", offload.rows_total, {})
        found = CounterMetricFamily("cutset_offload_bytes", "Bytes of operands and products", labels=["direction"])
        found.add_metric(["up"], offload.bytes_up_total)
        found.add_metric(["down"], offload.bytes_down_total)
        yield found
        parts = CounterMetricFamily("cutset_offload_seconds", "Where the time of a split run goes", labels=["part"])
        for part, seconds in offload.parts.items():
            parts.add_metric([part], seconds)
        yield parts
        checks = CounterMetricFamily(
            "cutset_checks", "Products of the accelerator that were checked", labels=["result"]
        )
        checks.add_metric(["passed"], offload.checks_passed_total)
        checks.add_metric(["failed"], offload.checks_failed_total)
        yield checks
        for name in ("resent", "redialled"):
            value = sum(getattr(one, f"{name}_total") for one in offload.accelerators)
            yield _counter(f"cutset_offload_{name}", f"Calls {name} after something was lost", value, {})
        if offload.pads is not None:
            pads = offload.pads
            yield _gauge(
                "cutset_pads_ready", "Rows of pads that are ready, of the matrix that has fewest", pads.ready, {}
            )
            yield _counter("cutset_pads_made", "Rows of pads made ahead", pads.made_total, {})
            yield _counter("cutset_pads_used", "Rows of pads used", pads.used_total, {})
            yield _counter("cutset_pads_inline", "Rows of pads made while a request waited", pads.inline_total, {})
            yield _counter(
                "cutset_pads_waited_seconds", "Seconds that requests waited for pads", pads.waited_s_total, {}
            )


def _gauge(name: str, text: str, value: float, labels: dict[str, str]) -> Metric:
    found = GaugeMetricFamily(name, text, labels=list(labels))
    found.add_metric(list(labels.values()), value)
    return found


def _counter(name: str, text: str, value: float, labels: dict[str, str]) -> Metric:
    found = CounterMetricFamily(name, text, labels=list(labels))
    found.add_metric(list(labels.values()), value)
    return found
