"""A call with a span around it, which the receiver gets as its parent. Not on the way when tracing is off."""

from datetime import datetime

from yarl import URL

from libs.common.contracts import Call, Task
from libs.common.tracing import Attributes, Span, Tracer
from services.dispatcher.caller import Caller, Request
from services.dispatcher.outcome import Answer, judge


async def traced_call(tracer: Tracer, caller: Caller, request: Request, task: Task, due_at: datetime) -> Answer:
    """One span per attempt, by the semantic conventions for HTTP clients."""
    call = request.call
    attributes = {"carillon.task.id": str(task.id), "carillon.attempt": task.attempt, **_target(call)}
    with tracer.calling(call.method, attributes, call.traceparent) as span:
        answer = await caller.call(_carrying(request, span.traceparent))
        span.note({"carillon.lateness_s": (answer.started_at - due_at).total_seconds()})
        _tell(span, call, answer)
    return answer


def _carrying(request: Request, traceparent: str) -> Request:
    """The one that the client wrote into the task's own headers stands."""
    if any(name.lower() == "traceparent" for name, _value in request.call.headers):
        return request
    others = (header for header in request.headers if header[0] != "traceparent")
    return request._replace(headers=(*others, ("traceparent", traceparent)))


def _target(call: Call) -> Attributes:
    """Without the query, where receivers keep their tokens; only the method when it is no URL."""
    method = {"http.request.method": call.method}
    try:
        url = URL(call.url, encoded=True).with_query(None).with_fragment(None)
        return {**method, "url.full": str(url), "server.address": url.host or "", "server.port": url.port or 0}
    except ValueError:
        return method


def _tell(span: Span, call: Call, answer: Answer) -> None:
    status = answer.status_code
    if status is not None:
        span.note({"http.response.status_code": status})
    outcome = judge(call, answer)
    if outcome.error is not None:
        is_in_status = status is not None and status >= 400
        span.fail(str(status) if is_in_status else outcome.error, None if is_in_status else outcome.detail)
