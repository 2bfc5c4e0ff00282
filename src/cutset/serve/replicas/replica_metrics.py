"""What Prometheus reads of replicas, beside what all of them together have done."""

from __future__ import annotations

from collections.abc import Callable, Iterator

from prometheus_client.core import CounterMetricFamily, GaugeMetricFamily, Metric

from cutset.engine.outputs import EngineStats
from cutset.serve.replicas.replica_set import ReplicaSet

__all__ = ["replica_metrics"]

GAUGES: list[tuple[str, str, Callable[[EngineStats], float]]] = [
    ("running", "Sequences that it runs", lambda one: one.running),
    ("waiting", "Sequences that wait there", lambda one: one.waiting),
    ("kv_blocks_used", "Blocks of its KV cache that sequences hold", lambda one: one.blocks_used),
]
COUNTERS: list[tuple[str, str, Callable[[EngineStats], float]]] = [
    ("prefix_queries", "Prompt tokens that it looked up in its prefix cache", lambda one: one.prefix_queries),
    ("prefix_hits", "Of these, found", lambda one: one.prefix_hits),
    ("generated_tokens", "Tokens that it generated", lambda one: one.generated_tokens),
]


def replica_metrics(replicas: ReplicaSet) -> Iterator[Metric]:
    """Of each replica that is there, and how often one was lost."""
    states = replicas.states()
    yield GaugeMetricFamily("cutset_replicas", "Replicas that are there", len(states))
    yield CounterMetricFamily("cutset_replicas_lost", "Replicas that were lost", replicas.lost)
    yield CounterMetricFamily("cutset_requests_resumed", "Requests that went on at another replica", replicas.resumed)
    up = GaugeMetricFamily("cutset_replica_up", "1 while it takes requests, 0 while it is drained", labels=["replica"])
    samples = GaugeMetricFamily("cutset_replica_samples", "Samples that the front has given it", labels=["replica"])
    for one in states:
        up.add_metric([one.name], float(not one.draining))
        samples.add_metric([one.name], one.samples)
    yield up
    yield samples
    for name, text, value in GAUGES:
        gauge = GaugeMetricFamily(f"cutset_replica_{name}", text, labels=["replica"])
        for one in states:
            if one.stats is not None:
                gauge.add_metric([one.name], value(one.stats))
        yield gauge
    for name, text, total in COUNTERS:
        counter = CounterMetricFamily(f"cutset_replica_{name}", text, labels=["replica"])
        for one in states:
            if one.stats is not None:
                counter.add_metric([one.name], total(one.stats))
        yield counter
