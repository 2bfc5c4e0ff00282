"""OpenTelemetry traces: a span for each request, and in it one each for prefill and decode. Needs `cutset[otel]`."""

from __future__ import annotations

from typing import TYPE_CHECKING, Any
from urllib.parse import urlsplit

from cutset.errors import ConfigError
from cutset.serve.records import RequestRecord
from cutset.version import software

if TYPE_CHECKING:
    from opentelemetry.sdk.trace import TracerProvider

__all__ = ["Traces", "otlp_provider"]

OPERATIONS = {"/v1/chat/completions": "chat", "/api/chat": "chat", "/v1/embeddings": "embeddings"}
SPOKEN_OF = ("/v1/", "/api/", "/tokenize", "/detokenize")  # paths whose requests are traced


def otlp_provider(endpoint: str) -> TracerProvider:
    """A provider that sends spans to an OTLP endpoint over HTTP, in the background.

    Raises ConfigError for what is no URL, or without the packages.
    """
    parts = urlsplit(endpoint)
    if parts.scheme not in ("http", "https") or not parts.hostname:
        raise ConfigError(
            f"--otlp-traces-endpoint {endpoint[:100]!r} can't be used: write a URL, as http://localhost:4318/v1/traces"
        )
    try:
        from opentelemetry.exporter.otlp.proto.http.trace_exporter import OTLPSpanExporter
        from opentelemetry.sdk.resources import Resource
        from opentelemetry.sdk.trace import TracerProvider
        from opentelemetry.sdk.trace.export import BatchSpanProcessor
    except ModuleNotFoundError:
        raise ConfigError("traces need a few packages more: pip install 'cutset[otel]'") from None
    name, _, version = software().partition(" ")
    provider = TracerProvider(resource=Resource.create({"service.name": name, "service.version": version}))
    provider.add_span_processor(BatchSpanProcessor(OTLPSpanExporter(endpoint=endpoint)))
    return provider


class Traces:
    """Makes spans of requests that have ended; a sink of `Recorded`. No prompt and no text is in them."""

    def __init__(self, provider: TracerProvider) -> None:
        from opentelemetry.trace.propagation.tracecontext import TraceContextTextMapPropagator

        self._provider = provider
        self._tracer = provider.get_tracer("cutset.serve")
        self._propagator = TraceContextTextMapPropagator()

    def __call__(self, record: RequestRecord) -> None:
        from opentelemetry import trace
        from opentelemetry.trace import SpanKind, Status, StatusCode

        if not record.path.startswith(SPOKEN_OF):
            return

        def at(moment: float) -> int:
            return int((record.began + moment - record.started) * 1e9)

        span = self._tracer.start_span(
            f"{record.method} {record.path[:200]}",
            self._propagator.extract(dict(record.trace_headers)),
            SpanKind.SERVER,
            _attributes(record),
            start_time=at(record.started),
        )
        if record.status >= 500 or not record.status:
            span.set_status(Status(StatusCode.ERROR, "" if record.status else "the client left"))
        if record.submitted is not None:
            inside = trace.set_span_in_context(span)
            first = record.first_token or record.ended
            counted = {"gen_ai.usage.input_tokens": record.prompt_tokens or 0}
            prefill = self._tracer.start_span("prefill", inside, attributes=counted, start_time=at(record.submitted))
            prefill.end(at(first))
            if record.first_token is not None:
                counted = {"gen_ai.usage.output_tokens": record.tokens or 0}
                decode = self._tracer.start_span("decode", inside, attributes=counted, start_time=at(first))
                decode.end(at(record.ended))
        span.end(at(record.ended))

    def close(self) -> None:
        """Sends what is left."""
        self._provider.shutdown()


def _attributes(record: RequestRecord) -> dict[str, Any]:
    """By OpenTelemetry's conventions for HTTP servers and generative models."""
    found = {
        "http.request.method": record.method,
        "url.path": record.path[:200],
        "http.response.status_code": record.status or None,
        "client.address": record.client or None,
        "gen_ai.operation.name": OPERATIONS.get(record.path, "text_completion" if record.tokens is not None else None),
        "gen_ai.request.model": record.model,
        "gen_ai.response.id": record.request_id,
        "gen_ai.usage.input_tokens": record.prompt_tokens,
        "gen_ai.usage.output_tokens": record.tokens,
        "cutset.cached_tokens": record.cached_tokens,
        "cutset.time_to_first_token": None if record.first_token is None else record.first_token - record.started,
    }
    return {name: value for name, value in found.items() if value is not None}
