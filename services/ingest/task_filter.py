"""Which tasks a list, a bulk command or a purge is about: the names and texts of a query, read into one value.

status=failed,parked  label.order=42  url_prefix=https://api.example.com/  host=api.example.com  schedule=nightly
due_from= due_to= created_from= created_to= ended_from= ended_to=      from: at or after it; to: before it
"""

import re
from collections.abc import Iterator, Mapping
from datetime import UTC, datetime
from typing import Annotated, Literal, NamedTuple, get_args
from uuid import UUID

import msgspec

from services.ingest.limits import LABEL_NAME_CHARS_MAX, LABEL_VALUE_CHARS_MAX, LABELS_MAX, NO_CONTROL
from services.ingest.problems import FieldError, escaped
from services.ingest.rows import URL_BYTES_MAX, URL_CHARS_KEPT
from services.ingest.times import FURTHEST, LENGTH_MAX, BadTime, parse_moment

Status = Literal["scheduled", "due", "delivering", "retrying", "succeeded", "failed", "cancelled", "expired", "parked"]
"""`due` and `delivering` are in no event: the first is what a scheduled task is once its time has passed."""
STATUSES: tuple[str, ...] = get_args(Status)
LABEL = "label."
SCHEDULE_CHARS_MAX = 256
HOST_CHARS_MAX = 260
"""A name of 253, a colon, and a port."""
# What is far ahead is no mistake here: no task is due then, and "until 9999" is a way to say "from now on".
ANY_TIME = datetime.max.replace(tzinfo=UTC) - FURTHEST
_HOST = re.compile(r"[^\x00-\x20\x7f/?#@\\]+")
_UNIX = re.compile(r"-?\d{1,15}(\.\d{1,9})?")


class TaskFilter(msgspec.Struct, frozen=True, kw_only=True, omit_defaults=True):
    """All that are given must hold; of `status` one. `host` is in lower case. `ids` has no name in a query."""

    status: tuple[Status, ...] = ()
    labels: dict[str, str] = {}
    url_prefix: str | None = None
    host: str | None = None
    due_from: datetime | None = None
    due_to: datetime | None = None
    created_from: datetime | None = None
    created_to: datetime | None = None
    ended_from: datetime | None = None
    ended_to: datetime | None = None
    schedule: str | None = None
    ids: tuple[UUID, ...] = ()

    @property
    def is_empty(self) -> bool:
        return self == TaskFilter()

    def canonical(self) -> bytes:
        """The same for the same filter, in every process."""
        return msgspec.json.encode(self, order="deterministic")


def _text(about: str, **keywords: object) -> msgspec.Meta:
    return msgspec.Meta(description=about, extra_json_schema=keywords)


_ANY_STATUS = "|".join(STATUSES)
_Moment = Annotated[str, _text("RFC 3339 with an offset, or unix seconds", format="date-time", maxLength=LENGTH_MAX)]


class FilterFields(msgspec.Struct, frozen=True, kw_only=True, forbid_unknown_fields=True):
    """The names of a filter, as texts. `label.NAME`, any number of them, is split off before."""

    status: (
        Annotated[str, _text("One status, or several with commas", pattern=f"^({_ANY_STATUS})(,({_ANY_STATUS}))*$")]
        | None
    ) = None
    label: (
        Annotated[
            str,
            _text(
                "The value of the label NAME",
                pattern=f"^{NO_CONTROL.pattern}$",
                maxLength=LABEL_VALUE_CHARS_MAX,
            ),
        ]
        | None
    ) = msgspec.field(default=None, name=f"{LABEL}NAME")
    url_prefix: (
        Annotated[
            str,
            _text("How the URL begins", pattern=r"^https?://[^\x00-\x1f\x7f]*$", maxLength=URL_CHARS_KEPT),
        ]
        | None
    ) = None
    host: (
        Annotated[
            str,
            _text(
                "The host that the URL names, in lower case; any port unless one is given",
                pattern=f"^{_HOST.pattern}$",
                maxLength=HOST_CHARS_MAX,
            ),
        ]
        | None
    ) = None
    due_from: _Moment | None = None
    due_to: _Moment | None = None
    created_from: _Moment | None = None
    created_to: _Moment | None = None
    ended_from: _Moment | None = None
    ended_to: _Moment | None = None
    schedule: (
        Annotated[
            str,
            _text("The name of the schedule it is of", pattern=r"^[^\x00-\x1f\x7f]+$", maxLength=SCHEDULE_CHARS_MAX),
        ]
        | None
    ) = None


class Split(NamedTuple):
    fields: dict[str, str]
    labels: dict[str, str]


def split_labels(given: Mapping[str, str]) -> Split:
    """The parameters with names of their own, and those of labels."""
    labels = {name[len(LABEL) :]: value for name, value in given.items() if name.startswith(LABEL)}
    return Split({name: value for name, value in given.items() if not name.startswith(LABEL)}, labels)


def read_filter(fields: FilterFields, labels: Mapping[str, str]) -> tuple[TaskFilter, list[FieldError]]:
    """What is meant, and all that is wrong with it, by the name of the parameter."""
    errors: list[FieldError] = []
    errors += _label_errors(labels)
    errors += _prefix_errors(fields.url_prefix)
    errors += _host_errors(fields.host)
    errors += _schedule_errors(fields.schedule)
    return (
        TaskFilter(
            status=_statuses(fields.status, errors),
            labels=dict(labels),
            url_prefix=fields.url_prefix or None,
            host=None if fields.host is None else fields.host.lower(),
            due_from=_moment("due_from", fields.due_from, errors),
            due_to=_moment("due_to", fields.due_to, errors),
            created_from=_moment("created_from", fields.created_from, errors),
            created_to=_moment("created_to", fields.created_to, errors),
            ended_from=_moment("ended_from", fields.ended_from, errors),
            ended_to=_moment("ended_to", fields.ended_to, errors),
            schedule=fields.schedule,
        ),
        errors,
    )


def _statuses(text: str | None, errors: list[FieldError]) -> tuple[Status, ...]:
    if text is None:
        return ()
    named = [part.strip() for part in text.split(",")]
    errors += [
        FieldError("status", "unknown_status", f"{part[:64]!r} is no status; there are {', '.join(STATUSES)}")
        for part in named
        if part not in STATUSES
    ]
    return tuple(status for status in get_args(Status) if status in named)


def _moment(name: str, text: str | None, errors: list[FieldError]) -> datetime | None:
    if text is None:
        return None
    try:
        return parse_moment(float(text) if _UNIX.fullmatch(text) else text, ANY_TIME)
    except BadTime as error:
        errors.append(FieldError(name, error.code, str(error)))
        return None


def _label_errors(labels: Mapping[str, str]) -> Iterator[FieldError]:
    if len(labels) > LABELS_MAX:
        yield FieldError("label", "too_many", f"are {len(labels)} labels; give at most {LABELS_MAX}")
    for name, value in labels.items():
        is_name = _is_text(name, LABEL_NAME_CHARS_MAX)
        if not is_name or (value and not _is_text(value, LABEL_VALUE_CHARS_MAX)):
            detail = "is no label that a task can have; check its name and value"
            yield FieldError(LABEL + escaped(name) if is_name else "label", "bad_label", detail)


def _prefix_errors(prefix: str | None) -> Iterator[FieldError]:
    if prefix is None:
        return
    if not prefix.startswith(("http://", "https://")) or not _is_text(prefix, len(prefix)):
        yield FieldError(
            "url_prefix", "bad_prefix", "is the beginning of no URL; write it as https://example.com/orders"
        )
    elif len(prefix) > URL_CHARS_KEPT or len(prefix.encode()) > URL_BYTES_MAX:
        detail = f"has {len(prefix)} characters; use at most {URL_CHARS_KEPT}"
        yield FieldError("url_prefix", "too_long", detail)


def _host_errors(host: str | None) -> Iterator[FieldError]:
    if host is not None and not (_HOST.fullmatch(host) and _is_text(host, HOST_CHARS_MAX)):
        yield FieldError("host", "bad_host", "is no host; write it as api.example.com, or with its port after a colon")


def _schedule_errors(name: str | None) -> Iterator[FieldError]:
    if name is not None and not _is_text(name, SCHEDULE_CHARS_MAX):
        yield FieldError("schedule", "bad_name", "is no schedule's name")


def _is_text(text: str, chars_max: int) -> bool:
    """PostgreSQL takes neither NUL nor half of a surrogate pair."""
    is_whole = not any("\ud800" <= character <= "\udfff" for character in text)
    return 0 < len(text) <= chars_max and NO_CONTROL.fullmatch(text) is not None and is_whole
