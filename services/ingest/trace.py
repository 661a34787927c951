"""The trace that a task carries: its client's, or with tracing on that of the span around the client's request."""

import re
from uuid import UUID

from aiohttp import web
from aiohttp.typedefs import Handler, Middleware

from libs.common.tracing import Span, Tracer

# Version ff and ids of zeros are invalid. Source: W3C Trace Context, section 3.2.2.
_TRACEPARENT = re.compile(r"(?!ff)[0-9a-f]{2}-(?!0{32})[0-9a-f]{32}-(?!0{16})[0-9a-f]{16}-[0-9a-f]{2}")
_METHODS = frozenset("GET HEAD POST PUT PATCH DELETE OPTIONS CONNECT TRACE QUERY".split())

TASK_ID = web.RequestKey("task_id", UUID)
"""The task that a request made, for its span."""

_SPAN = web.RequestKey("span", Span)


def traceparent(request: web.Request) -> str | None:
    """What the task carries to its receiver; a malformed one counts as none, as its specification asks."""
    span: Span | None = request.get(_SPAN)
    return _given(request) if span is None else span.traceparent


def tracing_middleware(tracer: Tracer) -> Middleware:
    """Around `explain`, so that it sees every answer."""

    @web.middleware
    async def traced(request: web.Request, handler: Handler) -> web.StreamResponse:
        with _begun(tracer, request) as span:
            request[_SPAN] = span
            response = await handler(request)
            span.note({"http.response.status_code": response.status})
            if (task_id := request.get(TASK_ID)) is not None:
                span.note({"carillon.task.id": str(task_id)})
            if response.status >= 500:
                span.fail(str(response.status))
        return response

    return traced


def _given(request: web.Request) -> str | None:
    values = request.headers.getall("traceparent", ())
    return values[0] if len(values) == 1 and _TRACEPARENT.fullmatch(values[0]) else None


def _begun(tracer: Tracer, request: web.Request) -> Span:
    """By the semantic conventions for HTTP servers; no query, which may hold what is nobody's business."""
    method = request.method if request.method in _METHODS else "_OTHER"
    attributes = {"http.request.method": method, "url.scheme": request.scheme, "url.path": request.rel_url.path}
    name, resource = method.replace("_OTHER", "HTTP"), request.match_info.route.resource
    if resource is not None:
        attributes["http.route"] = resource.canonical
        if "{token}" in resource.canonical:  # whoever reads the trace could use it
            attributes["url.path"] = resource.canonical
        name = f"{name} {resource.canonical}"
    return tracer.answering(name, attributes, _given(request))
