"""What the ancestor's doors, the form and the Redis list, mean by their four fields. Pure.

Source: shenpeiliang/delay_queue@2f81c76.
"""

from datetime import datetime, timedelta
from typing import NamedTuple

from libs.common.clock import ceil_to_ms, format_utc
from services.ingest.problems import FieldError, invalid
from services.ingest.requests import NewTask
from services.ingest.times import BadTime, parse_moment

URL_MISSING = "通知地址参数必须"
FORM = "application/x-www-form-urlencoded"


class LegacyRules(NamedTuple):
    """`project` None: the form needs a key. `past_delay_s`: when to call what should have been called before."""

    project: str | None
    past_delay_s: float
    is_json_success: bool


class LegacyFields(NamedTuple):
    """`plan_time` as RFC 3339 or in unix seconds; `parameters` is a query string."""

    url: str
    plan_time: str | float
    method: str
    parameters: str


def new_task(fields: LegacyFields, now: datetime, rules: LegacyRules) -> NewTask:
    """Raises: Problem (422)."""
    if not fields.url:
        raise invalid([FieldError("", "required", URL_MISSING)])
    due_at = _due_at(fields.plan_time, now, rules.past_delay_s)
    if fields.method.lower() == "post":  # any other method was a GET
        return NewTask(url=fields.url, method="POST", due_at=due_at, body_text=fields.parameters, content_type=FORM)
    return NewTask(url=_with_query(fields.url, fields.parameters), method="GET", due_at=due_at)


def _due_at(plan_time: str | float, now: datetime, past_delay_s: float) -> str:
    try:
        planned = parse_moment(plan_time, now) if plan_time else now
    except BadTime as error:
        raise invalid([FieldError("/plan_time", error.code, error.detail)]) from error
    return format_utc(planned if planned > now else ceil_to_ms(now + timedelta(seconds=past_delay_s)))


def _with_query(url: str, parameters: str) -> str:
    if not parameters:
        return url
    return f"{url}{'&' if '?' in url else '?'}{parameters}"
