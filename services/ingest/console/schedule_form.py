"""The form of a schedule: from what stands to texts, and from what was typed to the API's own JSON. Pure."""

from collections.abc import Iterable, Mapping, Sequence
from dataclasses import replace
from datetime import datetime
from typing import NamedTuple

import msgspec

from libs.common.clock import format_utc
from libs.common.contracts import Schedule, decode_call
from libs.common.cron import Every
from libs.common.egress import EgressRules
from services.ingest.console import template_form
from services.ingest.console.fires import Fire, fires
from services.ingest.console.template_form import Members, encoded, faults_of, json_object, number_or_text
from services.ingest.problems import FieldError, Problem, invalid
from services.ingest.requests import names_of, read_json
from services.ingest.schedules import PREVIEW_DEFAULT, SCHEDULE_FIELDS, NewPreview, NewSchedule, plan_of, schedule_of
from services.ingest.times import BadTime, parse_moment

TIMES = ("cron", "every", "timezone", "start_at", "end_at")
FIELDS = (*TIMES, "catch_up", "expires_after_s", *template_form.FIELDS)
DEFAULTS: Mapping[str, str] = {
    **dict.fromkeys(TIMES, ""),
    "timezone": "UTC",
    "catch_up": "latest",
    "expires_after_s": "",
    **template_form.DEFAULTS,
}
CATCH_UPS: Mapping[str, str] = {
    "latest": "the latest one that was missed",
    "all": "all that were missed (the newest 1,000)",
    "none": "none that was missed",
}
_NO_CALL = msgspec.Raw(b"null")
_NUMBERS = ("every", "start_at", "end_at", "expires_after_s")

_decode = msgspec.json.Decoder(NewSchedule).decode
_decode_preview = msgspec.json.Decoder(NewPreview).decode

Faults = Mapping[str, Sequence[str]]


class Preview(NamedTuple):
    """When it would come, or what is wrong with its times; neither before anything is typed."""

    words: str = ""
    timezone: str = ""
    fires: Sequence[Fire] = ()
    faults: Faults = {}


class Difference(NamedTuple):
    """A field that stands otherwise than it was typed."""

    field: str
    theirs: str
    yours: str


def schedule_fields(schedule: Schedule) -> dict[str, str]:
    return {
        "cron": schedule.cron or "",
        "every": schedule.every or "",
        "timezone": schedule.timezone,
        "start_at": _time(schedule.start_at),
        "end_at": _time(schedule.end_at),
        "catch_up": schedule.catch_up,
        "expires_after_s": template_form.plain(schedule.expires_after_s),
        **template_form.template_fields(decode_call(schedule.call), schedule.labels),
    }


def typed(posted: Mapping[str, object]) -> dict[str, str]:
    """Every field of the form, "" where none was sent."""
    return dict.fromkeys(FIELDS, "") | {
        name: text for name, text in template_form.fields_in(posted).items() if name in FIELDS
    }


def typed_schedule(
    values: Mapping[str, str], stored: Iterable[tuple[str, str]], now: datetime, egress: EgressRules
) -> Schedule:
    """`stored`: the headers that stand, for those whose values the form does not show. Raises: Problem."""
    task = template_form.template_json(values, stored)
    errors = [FieldError(f"/task{error.pointer}", error.code, error.detail) for error in task.errors]
    members = _times(values) | _given(values, ("catch_up", "expires_after_s")) | {"task": task.raw}
    try:
        schedule = schedule_of(read_json(json_object(members), _decode, SCHEDULE_FIELDS), now, egress)
    except Problem as problem:
        raise Problem(problem.status, problem.code, problem.detail, errors=[*errors, *problem.errors]) from problem
    if errors:
        raise invalid(errors)
    return schedule


def is_same(one: Schedule, other: Schedule) -> bool:
    """They say the same, whichever defaults are written out and wherever the content type stands."""
    calls = [decode_call(schedule.call) for schedule in (one, other)]
    calls = [msgspec.structs.replace(call, headers=tuple(sorted(call.headers))) for call in calls]
    times = [msgspec.structs.replace(schedule, call=_NO_CALL) for schedule in (one, other)]
    return times[0] == times[1] and calls[0] == calls[1]


def preview(values: Mapping[str, str], now: datetime, *, since: str = "") -> Preview:
    """`since`: from when an interval without a start is counted, of a schedule that there is."""
    if not values.get("cron", "").strip() and not values.get("every", "").strip():
        return Preview()
    try:
        new = read_json(json_object(_times(values)), _decode_preview, names_of(NewPreview))
        plan = plan_of(new, now)
    except Problem as problem:
        return Preview(faults=faults_of(problem.errors) or {"": [problem.detail]})
    begun = _moment(since, now)
    if isinstance(plan.recurrence, Every) and plan.start_at is None and begun is not None:
        plan = msgspec.structs.replace(plan, recurrence=replace(plan.recurrence, start=begun))
    return Preview(plan.recurrence.words, plan.zone.key, fires(plan, now, PREVIEW_DEFAULT))


def differences(theirs: Mapping[str, str], yours: Mapping[str, str]) -> list[Difference]:
    return [Difference(name, theirs[name], yours[name]) for name in FIELDS if theirs[name] != yours[name]]


def _times(values: Mapping[str, str]) -> Members:
    return _given(values, TIMES)


def _given(values: Mapping[str, str], names: Iterable[str]) -> Members:
    texts = {name: values.get(name, "").strip() for name in names}
    return {name: (number_or_text if name in _NUMBERS else encoded)(text) for name, text in texts.items() if text}


def _moment(text: str, now: datetime) -> datetime | None:
    try:
        return parse_moment(text, now)
    except BadTime:
        return None


def _time(moment: datetime | None) -> str:
    return "" if moment is None else format_utc(moment)
