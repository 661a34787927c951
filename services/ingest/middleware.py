"""Around every request: its id, its log context, and one shape for everything that goes wrong."""

import re
from functools import lru_cache

import structlog
from aiohttp import web
from aiohttp.typedefs import Handler
from prometheus_client import Counter

from libs.common.ids import new_id
from libs.common.metrics import REGISTRY
from services.ingest.problems import Problem, bug, problem_of

_REQUEST_ID = re.compile(r"[\x21-\x7e]{1,128}")

REQUESTS = Counter(
    "carillon_ingest_http_requests_total", "Answered HTTP requests", ["route", "status"], registry=REGISTRY
)

log = structlog.get_logger(__name__)


@lru_cache(maxsize=1024)
def _answers(route: str, status: int) -> Counter:
    return REQUESTS.labels(route, str(status))


@web.middleware
async def explain(request: web.Request, handler: Handler) -> web.StreamResponse:
    """Answer with X-Request-Id, and with a problem document when the handler raises."""
    request_id = _request_id(request)
    structlog.contextvars.bind_contextvars(request_id=request_id)  # in the context of this request's own task
    response = await _answered(request, handler, request_id)
    response.headers["X-Request-Id"] = request_id
    resource = request.match_info.route.resource
    _answers(resource.canonical if resource else "none", response.status).inc()
    return response


async def _answered(request: web.Request, handler: Handler, request_id: str) -> web.StreamResponse:
    try:
        return await handler(request)
    except Exception as error:  # noqa: BLE001 - the last resort: a client gets an answer, never a traceback
        problem = problem_of(error) or _bug(error)
    return problem.response(instance=request.path, request_id=request_id)


def _bug(error: Exception) -> Problem:
    log.error("request.crashed", exc_info=error)
    return bug()


def _request_id(request: web.Request) -> str:
    given = request.headers.get("X-Request-Id", "")
    return given if _REQUEST_ID.fullmatch(given) else str(new_id())
