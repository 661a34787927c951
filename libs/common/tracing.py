"""OpenTelemetry: a span where a task is accepted and one for each of its calls, sent to a collector by OTLP over HTTP.

Off unless a standard variable of OpenTelemetry asks for it, and then not even imported. On, spans leave in batches by
a thread of their own: a collector that is away costs spans and one log line a minute, never a call. A task may wait for
days, so a call is no child of the span that accepted it: it begins a trace, with a link to that span, and is recorded
exactly when that one was.
"""

import logging
import os
import threading
from collections.abc import Callable, Iterator, Mapping
from contextlib import contextmanager
from types import TracebackType
from typing import TYPE_CHECKING, Self

import structlog

from libs.common.clock import SystemClock
from libs.common.version import VERSION

if TYPE_CHECKING:
    from opentelemetry import trace
    from opentelemetry.context import Context
    from opentelemetry.sdk.trace.sampling import Sampler

FLUSH_MAX_S = 3.0
"""Longest wait for the collector when the process ends: with the drain still below a container's grace period."""

COMPLAINT_EVERY_S = 60.0

_EXPORTER = "OTEL_TRACES_EXPORTER"
_ENDPOINTS = ("OTEL_EXPORTER_OTLP_TRACES_ENDPOINT", "OTEL_EXPORTER_OTLP_ENDPOINT")
_PROTOCOLS = ("OTEL_EXPORTER_OTLP_TRACES_PROTOCOL", "OTEL_EXPORTER_OTLP_PROTOCOL")

Attributes = Mapping[str, str | int | float]

log = structlog.get_logger(__name__)


class Span:
    """A piece of work under way; leaving the block ends it, as failed when by an exception."""

    def __init__(self, span: "trace.Span") -> None:
        self._span = span

    @property
    def traceparent(self) -> str:
        """Its name to others. Source: W3C Trace Context, section 3.2."""
        context = self._span.get_span_context()
        return f"00-{context.trace_id:032x}-{context.span_id:016x}-{context.trace_flags:02x}"

    def note(self, attributes: Attributes) -> None:
        self._span.set_attributes(attributes)

    def fail(self, error_type: str, detail: str | None = None) -> None:
        """`error_type` is one of few: a class of errors, or an HTTP status."""
        from opentelemetry.trace import StatusCode

        self._span.set_attribute("error.type", error_type)
        self._span.set_status(StatusCode.ERROR, detail)

    def __enter__(self) -> Self:
        return self

    def __exit__(
        self, kind: type[BaseException] | None, _error: BaseException | None, _trace: TracebackType | None
    ) -> None:
        if kind is not None:
            self.fail(kind.__name__)
        self._span.end()


class Tracer:
    """Begins spans. `tracer_of` gives OpenTelemetry's own; None stands for the sampler that the environment names."""

    def __init__(self, tracer_of: "Callable[[Sampler | None], trace.Tracer]") -> None:
        from opentelemetry.sdk.trace.sampling import ALWAYS_OFF, ALWAYS_ON

        self._own = tracer_of(None)
        self._as_accepted = {True: tracer_of(ALWAYS_ON), False: tracer_of(ALWAYS_OFF)}

    def answering(self, name: str, attributes: Attributes, parent: str | None) -> Span:
        """Of a request that we answer; `parent` is the traceparent that came with it."""
        from opentelemetry.trace import SpanKind

        context = _context(parent)
        return Span(self._own.start_span(name, context, SpanKind.SERVER, attributes))

    def calling(self, name: str, attributes: Attributes, origin: str | None) -> Span:
        """Of a request that we make; `origin` is the traceparent of the span that accepted the task."""
        from opentelemetry.trace import Link, SpanKind, get_current_span

        accepted = get_current_span(_context(origin)).get_span_context()
        tracer = self._as_accepted[accepted.trace_flags.sampled] if accepted.is_valid else self._own
        links = [Link(accepted)] if accepted.is_valid else []
        return Span(tracer.start_span(name, _context(None), SpanKind.CLIENT, attributes, links))


@contextmanager
def tracing(service: str, replica: str) -> Iterator[Tracer | None]:
    """The tracer of this process, or None; leaving the block sends what is left."""
    opened = _opened(service, replica) if is_wanted(os.environ) else None
    if opened is None:
        yield None
        return
    tracer, close = opened
    try:
        yield tracer
    finally:
        _within(FLUSH_MAX_S, close)


def is_wanted(environ: Mapping[str, str]) -> bool:
    """Whether OpenTelemetry's variables ask for traces by OTLP; says in the log when they ask for something else."""
    exporter = environ.get(_EXPORTER, "").strip().lower()
    if environ.get("OTEL_SDK_DISABLED", "").strip().lower() == "true" or exporter == "none":
        return False
    if not exporter and not any(environ.get(name) for name in _ENDPOINTS):
        return False
    protocol = next(filter(None, map(environ.get, _PROTOCOLS)), "http/protobuf")
    if exporter in {"", "otlp"} and protocol == "http/protobuf":
        return True
    reason = f"only otlp by http/protobuf is possible, not {exporter or 'otlp'} by {protocol}: see docs/tracing.md"
    log.warning("tracing.off", reason=reason)
    return False


def _opened(service: str, replica: str) -> tuple[Tracer, Callable[[], None]] | None:
    """The tracer and what closes it. None when it cannot be: a service works without."""
    _hear_complaints()
    try:
        return _built(service, replica)
    except ImportError:
        log.warning("tracing.off", reason="OpenTelemetry is not installed: see docs/tracing.md")
    except ValueError as error:  # numbers among OTEL_* that do not fit together
        log.warning("tracing.off", reason=str(error))
    return None


def _built(service: str, replica: str) -> tuple[Tracer, Callable[[], None]]:
    """The SDK and its exporter read OTEL_* themselves."""
    from opentelemetry.exporter.otlp.proto.http.trace_exporter import OTLPSpanExporter
    from opentelemetry.sdk.resources import Resource
    from opentelemetry.sdk.trace import TracerProvider
    from opentelemetry.sdk.trace.export import BatchSpanProcessor

    names = {"service.name": f"carillon-{service}", "service.version": VERSION, "service.instance.id": replica}
    resource, processor = Resource.create(names), BatchSpanProcessor(OTLPSpanExporter())

    def tracer_of(sampler: "Sampler | None") -> "trace.Tracer":
        provider = TracerProvider(sampler, resource, shutdown_on_exit=False)
        provider.add_span_processor(processor)
        return provider.get_tracer("carillon", VERSION)

    return Tracer(tracer_of), processor.shutdown


def _context(traceparent: str | None) -> "Context":
    """What a span begins in: `traceparent` when it is a valid one, else nothing."""
    from opentelemetry.context import Context
    from opentelemetry.trace.propagation.tracecontext import TraceContextTextMapPropagator

    return TraceContextTextMapPropagator().extract({"traceparent": traceparent or ""}, Context())


def _within(limit_s: float, close: Callable[[], None]) -> None:
    """A daemon thread, because a collector that accepts and does not answer holds it as long as it likes."""
    closing = threading.Thread(target=close, name="tracing closes", daemon=True)
    closing.start()
    closing.join(limit_s)
    if closing.is_alive():
        log.warning("tracing.cut-off", limit_s=limit_s)


def _hear_complaints() -> None:
    logger = logging.getLogger("opentelemetry")
    logger.handlers, logger.propagate = [_Complaints()], False


class _Complaints(logging.Handler):
    """OpenTelemetry complains of every batch that it cannot send: we pass on one complaint a minute."""

    def __init__(self) -> None:
        super().__init__(logging.WARNING)
        self._clock = SystemClock()
        self._silent_until = float("-inf")

    def emit(self, record: logging.LogRecord) -> None:
        now = self._clock.monotonic()
        if now < self._silent_until:
            return
        self._silent_until = now + COMPLAINT_EVERY_S
        error = record.exc_info[1] if record.exc_info else None
        log.warning("tracing.failing", reason=record.getMessage() if error is None else repr(error))
