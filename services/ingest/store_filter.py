"""The SQL of lists: where candidates come from, newest first, and what is left to ask of each. Pure; run by
`store_lists.py`, which says why there are so many ways.
"""

# ruff: noqa: S608  made of the constants below; what comes from outside is a numbered parameter

from collections.abc import Iterator, Sequence
from dataclasses import dataclass, field
from datetime import datetime
from typing import NamedTuple
from uuid import UUID

import msgspec

from services.ingest.cursor import Place
from services.ingest.task_filter import TaskFilter

STATES = ("scheduled", "parked", "retrying", "expired", "failed", "cancelled", "succeeded")
_WAITING = {"scheduled", "due"}
_CANDIDATE = "id, created_at, state, due_at, finished_at, url, labels, schedule"
_OF_TASK = _CANDIDATE.removeprefix("id, created_at, ")
_ORDER = "ORDER BY created_at DESC, id DESC"
_LAST_CHARACTER = 0x10FFFF
_SURROGATES = range(0xD800, 0xE000)


class Sql(NamedTuple):
    text: str
    values: Sequence[object]


@dataclass
class _Values:
    """The parameters of one statement, numbered as they come."""

    held: list[object] = field(default_factory=list)

    def __call__(self, value: object, kind: str) -> str:
        self.held.append(value)
        return f"${len(self.held)}::{kind}"


class Asked(NamedTuple):
    """A filter within a project, at a moment (which tells `due` from `scheduled`)."""

    project: str
    filter: TaskFilter
    now: datetime

    @property
    def states(self) -> tuple[str, ...]:
        """As they are stored; all when none is asked for."""
        wanted = {"scheduled" if status in _WAITING else status for status in self.filter.status}
        return tuple(state for state in STATES if state in wanted) if self.filter.status else STATES

    @property
    def due_to(self) -> datetime | None:
        """All tasks wanted are due before it."""
        if set(self.filter.status) != {"due"}:
            return self.filter.due_to
        return self.now if self.filter.due_to is None else min(self.now, self.filter.due_to)


class Source(NamedTuple):
    """Where candidates stand in order of time: all `task`s, those of a `state`, `schedule` or `label`."""

    kind: str
    label: tuple[str, str] = ("", "")


def sources(asked: Asked) -> list[Source]:
    """Each holds every task that is wanted. The most promising first."""
    named = [Source("label", label) for label in sorted(asked.filter.labels.items())]
    named += [Source("schedule")] if asked.filter.schedule else []
    named += [Source("state")] if asked.filter.status else []
    return named or [Source("task")]


def page(asked: Asked, source: Source, before: Place, window: int, limit: int) -> Sql:
    """The first `limit` of what is wanted, among the first `window` of `source` that are older than `before`."""
    values = _Values()
    candidates = _window(asked, source, before, window, values)
    rest = list(_rest(asked, values, source.kind, source.label))
    if source.kind != "label" or not rest:
        found = f"({candidates}) AS task"
    else:  # OFFSET 0: task after task, in this order, and no further than the limit
        task = f"LATERAL (SELECT {_OF_TASK} FROM task WHERE task.id = label.id OFFSET 0) AS task"
        found = f"({candidates}) AS label, {task}"
    text = f"SELECT id, created_at FROM {found} WHERE {_all_of(rest)} {_ORDER} LIMIT {values(limit, 'bigint')}"
    return Sql(text, values.held)


def window_end(asked: Asked, source: Source, before: Place, window: int) -> Sql:
    """The last candidate that `page` looked at; nothing when there are no more than it has seen."""
    values = _Values()
    candidates = _window(asked, source, before, window, values, columns="id, created_at")
    return Sql(f"SELECT created_at, id FROM ({candidates}) AS task {_ORDER} OFFSET {window - 1} LIMIT 1", values.held)


def ranges(asked: Asked) -> list[str]:
    """The conditions that have an index of their own, in which the tasks do not stand in order of time."""
    wanted, is_due = asked.filter, asked.filter.due_from is not None or asked.due_to is not None
    given = {"id": wanted.ids, "url": wanted.url_prefix, "host": wanted.host, "due_at": is_due}
    return [kind for kind, is_given in given.items() if is_given]


def in_range(asked: Asked, kind: str, before: Place, most: int, limit: int) -> Sql:
    """(how many there are in the range, at most `most`; the ids and times of the first `limit` that are wanted)."""
    values = _Values()
    project = f"project = {values(asked.project, 'text')}"
    found = " UNION ALL ".join(
        f"SELECT {_CANDIDATE} FROM task WHERE {_all_of([project, *part])}" for part in _parts(asked, kind, values)
    )
    rest = [*_rest(asked, values, kind), _older(before, values)]
    first = f"{_ORDER} LIMIT {values(limit, 'bigint')}"
    return Sql(
        f"""WITH found AS MATERIALIZED (SELECT {_needed(rest)} FROM ({found}) AS task LIMIT {most}),
                 wanted AS (SELECT id, created_at FROM found AS task WHERE {_all_of(rest)} {first})
            SELECT (SELECT count(*) FROM found) AS found, array(SELECT id FROM wanted {_ORDER}) AS ids,
                   array(SELECT created_at FROM wanted {_ORDER}) AS times""",
        values.held,
    )


def _window(
    asked: Asked, source: Source, before: Place, window: int, values: _Values, columns: str = _CANDIDATE
) -> str:
    parts = [f"project = {values(asked.project, 'text')}"]
    if asked.filter.created_from is not None:
        parts.append(f"created_at >= {values(asked.filter.created_from, 'timestamptz')}")
    match source.kind:
        case "label":
            name, value = (values(part, "text") for part in source.label)
            parts += [f"name = {name}", f"value = {value}", _older(before, values)]
            return f"SELECT id, created_at FROM task_label WHERE {_all_of(parts)} {_ORDER} LIMIT {window}"
        case "schedule":
            parts += [f"schedule = {values(asked.filter.schedule, 'text')}", _older(before, values)]
            return f"SELECT {columns} FROM task WHERE {_all_of(parts)} {_ORDER} LIMIT {window}"
    # Each in order, or Postgres would sort them all; it merges them and takes no more of each than it needs.
    branches = [
        f"(SELECT {columns} FROM task WHERE {_all_of([*parts, *conditions])} {_ORDER} LIMIT {window})"
        for conditions in _branches(asked, source, before, values)
    ]
    return f"SELECT {columns} FROM ({' UNION ALL '.join(branches)}) AS task {_ORDER} LIMIT {window}"


def _branches(asked: Asked, source: Source, before: Place, values: _Values) -> Iterator[list[str]]:
    """A task is due no earlier than it was made, so a bound on the one is a bound on the other, but for the few of
    `task_made_late`.
    """
    due_to = asked.due_to
    if due_to is not None and due_to < before.created_at:  # of any state, or another index would look better
        yield ["due_at < created_at", f"created_at >= {values(due_to, 'timestamptz')}", _older(before, values)]
        before = Place(due_to, UUID(int=0))  # one bound: Postgres would begin at the greater of two
    older = _older(before, values)
    if source.kind != "state":
        yield [older]
    else:
        yield from ([older, f"state = '{state}'"] for state in asked.states)


def _parts(asked: Asked, kind: str, values: _Values) -> list[list[str]]:
    """The stretches of its index that a range is made of, none of them beside another."""
    match kind:
        case "id":
            return [list(_ids(asked, values))]
        case "url":
            return [list(_url_range(asked, values))]
        case "host":
            return [list(_between("url", *ends, values)) for ends in host_ranges(asked.filter.host or "")]
    due = list(_due_range(asked, values))  # of an index that begins with the state
    return [[*due, f"state = '{state}'"] for state in asked.states]


def _rest(asked: Asked, values: _Values, known: str, known_label: tuple[str, str] | None = None) -> Iterator[str]:
    """What must be asked of a candidate whose source is `known`."""
    wanted = asked.filter
    is_state_known = known == "due_at" or (known == "state" and asked.due_to is None)
    yield from _status(asked, values, is_state_known=is_state_known)
    labels = {name: value for name, value in wanted.labels.items() if (name, value) != known_label}
    if labels:
        yield f"labels @> {values(msgspec.json.encode(labels).decode(), 'jsonb')}"
    if wanted.ids and known != "id":
        yield from _ids(asked, values)
    if wanted.url_prefix and known != "url":
        yield from _url_range(asked, values)
    if wanted.host and known != "host":
        each = (_all_of(_between("url", *ends, values)) for ends in host_ranges(wanted.host))
        yield f"({' OR '.join(each)})"
    if (wanted.due_from or wanted.due_to) and known != "due_at":
        yield from _due_range(asked, values)
    if wanted.ended_from is not None:
        yield f"finished_at >= {values(wanted.ended_from, 'timestamptz')}"
    if wanted.ended_to is not None:
        yield f"finished_at < {values(wanted.ended_to, 'timestamptz')}"
    if wanted.schedule is not None and known != "schedule":
        yield f"schedule = {values(wanted.schedule, 'text')}"
    if wanted.created_from is not None and known in {"id", "url", "host", "due_at"}:
        yield f"created_at >= {values(wanted.created_from, 'timestamptz')}"


def _status(asked: Asked, values: _Values, *, is_state_known: bool) -> Iterator[str]:
    waiting = _WAITING.intersection(asked.filter.status)
    if asked.filter.status and not is_state_known:
        yield f"state IN ({_quoted(asked.states)})" if asked.states else "false"
    if len(waiting) == 1:
        now = values(asked.now, "timestamptz")
        yield f"(state <> 'scheduled' OR due_at {'<' if waiting == {'due'} else '>='} {now})"


def _ids(asked: Asked, values: _Values) -> Iterator[str]:
    yield f"id = ANY({values(asked.filter.ids, 'uuid[]')})"


def _url_range(asked: Asked, values: _Values) -> Iterator[str]:
    prefix = asked.filter.url_prefix
    assert prefix
    return _between("url", prefix, after_prefix(prefix), values)


def _between(column: str, first: str, end: str | None, values: _Values) -> Iterator[str]:
    yield f"{column} >= {values(first, 'text')}"
    if end is not None:
        yield f"{column} < {values(end, 'text')}"


def _due_range(asked: Asked, values: _Values) -> Iterator[str]:
    if asked.filter.due_from is not None:
        yield f"due_at >= {values(asked.filter.due_from, 'timestamptz')}"
    if asked.due_to is not None:
        yield f"due_at < {values(asked.due_to, 'timestamptz')}"


def host_ranges(host: str) -> Iterator[tuple[str, str]]:
    """From where, and to before where, the URLs of a host stand: it ends with the URL, at a path, a query or a port."""
    for scheme in ("http", "https"):
        url = f"{scheme}://{host}"
        yield url, url + "\x01"
        for end in "/:?":
            yield url + end, url + chr(ord(end) + 1)


def after_prefix(prefix: str) -> str | None:
    """The first text, by code points, that is greater than all that begin with `prefix`; None when there is none."""
    for end in range(len(prefix), 0, -1):
        code = ord(prefix[end - 1]) + 1
        if code in _SURROGATES:
            code = _SURROGATES.stop
        if code <= _LAST_CHARACTER:
            return prefix[: end - 1] + chr(code)
    return None


def _older(before: Place, values: _Values) -> str:
    return f"(created_at, id) < ({values(before.created_at, 'timestamptz')}, {values(before.id, 'uuid')})"


def _needed(conditions: Sequence[str]) -> str:
    """No more columns than are asked about: the others may not be in the index."""
    every = " ".join(conditions)
    return ", ".join(
        name for name in _CANDIDATE.split(", ") if name in {"id", "created_at"} or f"{name} " in every.replace("(", " ")
    )


def _all_of(conditions: Iterator[str] | Sequence[str]) -> str:
    return " AND ".join(conditions) or "true"


def _quoted(words: Sequence[str]) -> str:
    return ", ".join(f"'{word}'" for word in words)
