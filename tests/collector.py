"""A collector of traces: takes OTLP over HTTP as protobuf, keeps the spans. In a thread, as it is somebody else's."""

import threading
from collections.abc import Iterable, Iterator
from contextlib import contextmanager
from http.server import BaseHTTPRequestHandler, ThreadingHTTPServer
from typing import NamedTuple

from opentelemetry import trace
from opentelemetry.proto.collector.trace.v1.trace_service_pb2 import ExportTraceServiceRequest
from opentelemetry.proto.common.v1.common_pb2 import KeyValue
from opentelemetry.proto.trace.v1.trace_pb2 import Span
from opentelemetry.sdk.trace import ReadableSpan, TracerProvider
from opentelemetry.sdk.trace.export import SimpleSpanProcessor
from opentelemetry.sdk.trace.export.in_memory_span_exporter import InMemorySpanExporter
from opentelemetry.sdk.trace.sampling import Sampler

from libs.common.tracing import Tracer


class Sent(NamedTuple):
    """One span; ids in hex, as in a traceparent."""

    service: str
    replica: str
    name: str
    kind: str
    trace_id: str
    span_id: str
    parent_id: str
    links: list[tuple[str, str]]
    is_error: bool
    attributes: dict[str, object]

    def is_named_by(self, traceparent: str | None) -> bool:
        return traceparent is not None and traceparent[:53] == f"00-{self.trace_id}-{self.span_id}-"


class Collector:
    def __init__(self) -> None:
        self.sent: list[Sent] = []
        self.url = ""
        self.answers = threading.Event()
        """A closed one keeps every request waiting."""
        self.answers.set()

    def of(self, kind: str) -> list[Sent]:
        return [span for span in self.sent if span.kind == kind]

    def take(self, body: bytes) -> None:
        for batch in ExportTraceServiceRequest.FromString(body).resource_spans:
            resource = _values(batch.resource.attributes)
            for scope in batch.scope_spans:
                self.sent += [_sent(resource, span) for span in scope.spans]


@contextmanager
def collector() -> Iterator[Collector]:
    made = Collector()

    class Handler(BaseHTTPRequestHandler):
        def do_POST(self) -> None:
            body = self.rfile.read(int(self.headers["Content-Length"]))
            made.answers.wait(30)
            assert (self.path, self.headers["Content-Type"]) == ("/v1/traces", "application/x-protobuf")
            made.take(body)
            self.send_response(200)
            self.end_headers()

        def log_message(self, *_words: object) -> None:
            pass

    server = ThreadingHTTPServer(("127.0.0.1", 0), Handler)
    server.daemon_threads = True
    made.url = f"http://127.0.0.1:{server.server_port}"
    thread = threading.Thread(target=server.serve_forever, args=(0.05,))
    thread.start()
    try:
        yield made
    finally:
        made.answers.set()
        server.shutdown()
        server.server_close()
        thread.join()


class Recorder:
    """A tracer without a wire, and what it recorded."""

    def __init__(self) -> None:
        self._exporter = InMemorySpanExporter()

        def tracer_of(sampler: Sampler | None) -> trace.Tracer:
            provider = TracerProvider(sampler, shutdown_on_exit=False)
            provider.add_span_processor(SimpleSpanProcessor(self._exporter))
            return provider.get_tracer("test")

        self.tracer = Tracer(tracer_of)

    @property
    def only(self) -> ReadableSpan:
        [span] = self._exporter.get_finished_spans()
        return span


def _sent(resource: dict[str, object], span: Span) -> Sent:
    return Sent(
        service=str(resource["service.name"]),
        replica=str(resource["service.instance.id"]),
        name=span.name,
        kind=Span.SpanKind.Name(span.kind).removeprefix("SPAN_KIND_"),
        trace_id=span.trace_id.hex(),
        span_id=span.span_id.hex(),
        parent_id=span.parent_span_id.hex(),
        links=[(link.trace_id.hex(), link.span_id.hex()) for link in span.links],
        is_error=span.status.code == span.status.STATUS_CODE_ERROR,
        attributes=_values(span.attributes),
    )


def _values(attributes: Iterable[KeyValue]) -> dict[str, object]:
    return {pair.key: getattr(pair.value, pair.value.WhichOneof("value") or "") for pair in attributes}
