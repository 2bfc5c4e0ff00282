"""`GET /metrics` of a stream: what Prometheus reads of each camera."""

from __future__ import annotations

from collections.abc import Iterator, Sequence
from typing import TYPE_CHECKING

from prometheus_client import CollectorRegistry, Counter, Histogram
from prometheus_client.core import CounterMetricFamily, Metric
from prometheus_client.exposition import generate_latest
from prometheus_client.process_collector import ProcessCollector
from prometheus_client.registry import Collector

if TYPE_CHECKING:
    from cutset.video.detection import Detections
    from cutset.video.result import Result
    from cutset.video.sources import Source

__all__ = ["StreamMetrics"]

SECONDS = (0.01, 0.025, 0.05, 0.1, 0.2, 0.3, 0.5, 0.75, 1, 1.5, 2, 3, 5, 10, 30)


class StreamMetrics:
    """Counts the results of a stream, by camera. Names of cameras come with `begin`."""

    def __init__(self) -> None:
        self.registry = CollectorRegistry()
        self._cameras: Sequence[str] = ()
        self._sources: Sequence[Source] = ()
        self._index: dict[int, int] = {}  # of the last picture of each source

        def counter(name: str, text: str, *labels: str) -> Counter:
            return Counter(f"cutset_camera_{name}", text, ["camera", *labels], registry=self.registry)

        self._pictures = counter("pictures", "Pictures with a result")
        self._dropped = counter("dropped", "Pictures without: too late, left out by a live source, or lost", "why")
        self._detections = counter("detections", "Things that were detected", "label")
        self._latency = Histogram(
            "cutset_camera_latency_seconds",
            "From capture to the result",
            ["camera"],
            buckets=SECONDS,
            registry=self.registry,
        )
        self.registry.register(_Faults(self))
        ProcessCollector(registry=self.registry)

    def begin(self, cameras: Sequence[str], sources: Sequence[Source]) -> None:
        """The names of the cameras, and their sources, in order. All of them count from 0 on."""
        self._cameras, self._sources = cameras, sources
        for camera in cameras:
            self._pictures.labels(camera)
            self._latency.labels(camera)
            for why in ("late", "left out", "lost"):
                self._dropped.labels(camera, why)

    def result(self, result: Result, found: Detections | None) -> None:
        """Counts a picture, and what was found in it."""
        camera = self.camera(result.source)
        gap = result.index - self._index.get(result.source, result.index - 1) - 1
        self._index[result.source] = result.index
        if gap > 0:
            self._dropped.labels(camera, "left out").inc(gap)
        if result.dropped:
            self._dropped.labels(camera, "late" if result.late else "lost").inc()
            return
        self._pictures.labels(camera).inc()
        self._latency.labels(camera).observe(result.age)
        if found is not None:
            for i in range(len(found)):
                self._detections.labels(camera, found.label(i)).inc()

    def camera(self, source: int) -> str:
        """Its name, or number."""
        return self._cameras[source] if source < len(self._cameras) else str(source)

    def text(self) -> bytes:
        """What Prometheus reads."""
        return generate_latest(self.registry)

    @property
    def sources(self) -> Sequence[Source]:
        return self._sources


class _Faults(Collector):
    """What sources count themselves, read when Prometheus asks."""

    def __init__(self, metrics: StreamMetrics) -> None:
        self._metrics = metrics

    def describe(self) -> Iterator[Metric]:
        return iter(())

    def collect(self) -> Iterator[Metric]:
        for name, text in (
            ("lost", "How often the source was lost"),
            ("reconnects", "How often it came back"),
            ("bad_packets", "Packets that couldn't be decoded"),
        ):
            family = CounterMetricFamily(f"cutset_camera_{name}", text, labels=["camera"])
            for i, source in enumerate(self._metrics.sources):
                family.add_metric([self._metrics.camera(i)], float(getattr(source.faults, name)))
            yield family
