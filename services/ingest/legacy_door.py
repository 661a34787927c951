"""`POST /api/task/save`: the form of the program that Carillon replaces, for clients that cannot change.

Always HTTP 200, with `{"code":"ok"}` or `{"code":"no"}` and a reason, because that is what those clients read.
Source: shenpeiliang/delay_queue@2f81c76; the id in the answer is ours.
"""

import hashlib
from collections.abc import Mapping
from typing import Literal
from urllib.parse import urlencode

import msgspec
import structlog
from aiohttp import web

from libs.common.clock import Clock, format_utc
from libs.common.contracts import CreateTask, encode
from libs.common.egress import EgressRules
from libs.common.ids import new_id
from libs.common.publisher import NotPublished
from libs.common.topology import CREATE
from services.ingest.auth import Keys
from services.ingest.bodies import in_time
from services.ingest.creation import Sender, create, this_millisecond
from services.ingest.creator import Publishes
from services.ingest.endpoint import Endpoint, json_response
from services.ingest.legacy import FORM, LegacyFields, LegacyRules, new_task
from services.ingest.problems import FieldError, Problem, invalid
from services.ingest.trace import TASK_ID, traceparent

ACCEPTED = "操作成功"
BAD_PARAMETER = "参数错误："  # noqa: RUF001  the ancestor's own words

log = structlog.get_logger(__name__)


class LegacyForm(msgspec.Struct, frozen=True, kw_only=True):
    """`plan_time` in unix seconds; `notify_param` is a query string."""

    notify_url: str
    plan_time: int = 0
    method_name: str = "get"
    notify_param: str = ""


class LegacyAnswer(msgspec.Struct, frozen=True, kw_only=True, omit_defaults=True):
    code: Literal["ok", "no"]
    data: str
    id: str | None = None


class LegacyDoor:
    def __init__(self, keys: Keys, publisher: Publishes, clock: Clock, rules: LegacyRules, egress: EgressRules) -> None:
        self._keys = keys
        self._publisher = publisher
        self._clock = clock
        self._rules = rules
        self._egress = egress

    def endpoints(self) -> list[Endpoint]:
        return [
            Endpoint(
                method="POST",
                path="/api/task/save",
                handler=self.save,
                scope=None,  # what is wrong with a key is told as everything else here, with 200
                summary="The form of the program that Carillon replaces",
                takes={FORM: LegacyForm},
                gives={200: LegacyAnswer},
            )
        ]

    async def save(self, request: web.Request) -> web.Response:
        try:
            id_ = await self._save(request)
        except Problem as problem:
            reasons = [f"{error.pointer.lstrip('/')} {error.detail}" for error in problem.errors]
            return _no("; ".join(reasons) or problem.detail)
        except NotPublished:
            return _no("not confirmed by the message broker; try again")
        except (web.HTTPException, ValueError) as error:
            return _no(f"{BAD_PARAMETER}{error}")
        return json_response(LegacyAnswer(code="ok", data=ACCEPTED, id=id_))

    async def _save(self, request: web.Request) -> str:
        project = self._rules.project or (await self._keys.admit(request, "tasks:write")).project
        form = {name: value for name, value in (await in_time(request.post())).items() if isinstance(value, str)}
        now = this_millisecond(self._clock.now())
        sender = Sender(
            id=new_id(),
            project=project,
            fingerprint=hashlib.sha256(urlencode(sorted(form.items())).encode()).hexdigest(),
            now=now,
            traceparent=traceparent(request),
            expect_json_success=self._rules.is_json_success,
        )
        task = create(new_task(_fields(form), now, self._rules), sender, self._egress)
        request[TASK_ID] = task.id
        await self._publisher.publish(CREATE, encode(CreateTask(task=task)))
        log.info("task.created", task_id=str(task.id), due_at=format_utc(task.due_at), door="legacy")
        return str(task.id)


def _fields(form: Mapping[str, str]) -> LegacyFields:
    """Raises: Problem (422)."""
    try:
        plan_time = max(int(form.get("plan_time") or 0), 0)
    except ValueError:
        raise invalid([FieldError("", "not_a_time", f"{BAD_PARAMETER}plan_time is no unix time")]) from None
    url, parameters = form.get("notify_url", "").strip(), form.get("notify_param", "")
    return LegacyFields(url, plan_time, form.get("method_name", ""), parameters)


def _no(reason: str) -> web.Response:
    return json_response(LegacyAnswer(code="no", data=reason))
