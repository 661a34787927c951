"""What the overview makes of counts: series for its charts, and what a person should look at. Pure."""

from collections.abc import Callable, Iterator, Mapping, Sequence
from datetime import datetime, timedelta
from typing import Literal, NamedTuple
from urllib.parse import quote

from libs.common.clock import EPOCH
from services.ingest.calls import Calls, merged, percentile_ms
from services.ingest.console.render import duration
from services.ingest.store_overview import COUNT_MAX, Host, Waiting
from services.ingest.store_replicas import Replica

SERVICES = ("ingest", "scheduler", "dispatcher", "mailer")
SILENT_S = 30.0
"""Three heartbeats."""
MISSED_S = 600.0
"""A process that died while others do its work is missed for so long."""
OVERDUE_S = 30.0
NAMED_MAX = 5
"""Hosts of one kind that are named; the rest is counted."""

Weight = Literal["bad", "note"]
Span = Literal["1h", "24h", "7d"]


class Scale(NamedTuple):
    """How a chart divides time."""

    span: timedelta
    step: timedelta
    title: str


SCALES: Mapping[Span, Scale] = {
    "1h": Scale(timedelta(hours=1), timedelta(minutes=1), "the last hour, by the minute"),
    "24h": Scale(timedelta(hours=24), timedelta(minutes=15), "the last 24 hours, by the quarter of an hour"),
    "7d": Scale(timedelta(days=7), timedelta(hours=1), "the last 7 days, by the hour"),
}


class Concern(NamedTuple):
    """`to`: below /console, where it can be put right; `act` is the text of that link. `since`: when that began."""

    weight: Weight
    text: str
    to: str
    act: str
    since: datetime | None = None


class Standing(NamedTuple):
    """Of one service: its processes, those that are silent last."""

    service: str
    replicas: Sequence[Replica]
    live: int


def begin_of(scale: Scale, now: datetime) -> datetime:
    """Of the first step of a chart that ends now."""
    return EPOCH + (now - scale.span - EPOCH) // scale.step * scale.step + scale.step


def series(calls: Sequence[Calls], scale: Scale, now: datetime) -> list[Calls]:
    """One per step up to now, also for those in which nothing was called."""
    begin = begin_of(scale, now)
    parts: list[list[Calls]] = [[] for _ in range((now - begin) // scale.step + 1)]
    for each in calls:
        step = (each.at - begin) // scale.step
        if 0 <= step < len(parts):
            parts[step].append(each)
    return [merged(some, begin + number * scale.step) for number, some in enumerate(parts)]


def columns(steps: Sequence[Calls]) -> dict[str, list[float | None]]:
    """As charts.js draws them: seconds since 1970, counts, and milliseconds."""
    return {
        "at": [step.at.timestamp() for step in steps],
        "succeeded": [step.succeeded for step in steps],
        "retried": [step.retried for step in steps],
        "failed": [step.failed for step in steps],
        "p50": [percentile_ms(step.lateness, 0.50) for step in steps],
        "p99": [percentile_ms(step.lateness, 0.99) for step in steps],
    }


def count(number: int) -> str:
    """With thin spaces; "10 000+" where counting was given up."""
    text = f"{min(number, COUNT_MAX):,}".replace(",", "\N{NARROW NO-BREAK SPACE}")
    return f"{text}+" if number > COUNT_MAX else text


def standings(replicas: Sequence[Replica]) -> list[Standing]:
    found = []
    for service in SERVICES:
        ours = sorted((each for each in replicas if each.service == service), key=lambda each: each.age_s > SILENT_S)
        found.append(Standing(service, ours, sum(each.age_s <= SILENT_S for each in ours)))
    return found


def in_flight(replicas: Sequence[Replica]) -> int:
    """Calls under way, of all projects, as the dispatchers last said."""
    return int(sum(each.vitals.get("in_flight", 0) for each in replicas if each.age_s <= SILENT_S))


def says(replica: Replica) -> str:
    """Its vitals in words; what is zero goes without saying."""
    told = [words(value) for name, words in _VITALS.items() if (value := replica.vitals.get(name))]
    return ", ".join(told)


_VITALS: Mapping[str, Callable[[float], str]] = {
    "waiting": lambda value: f"{count(int(value))} waiting",
    "in_flight": lambda value: f"{count(int(value))} in flight",
    "overdue": lambda value: f"{count(int(value))} overdue",
    "overdue_oldest_s": lambda value: f"the oldest by {duration(value * 1000)}",
    "open_breakers": lambda value: f"{count(int(value))} open breakers",
    "paused_targets": lambda value: f"{count(int(value))} paused targets",
    "login_refused": lambda _value: "its log-in is refused",
}


def concerns(
    waiting: Waiting, breakers: Sequence[Host], paused: Sequence[Host], replicas: Sequence[Replica], now: datetime
) -> list[Concern]:
    """The worst first."""
    found = [
        *_of_services(replicas),
        *_of_overdue(waiting, now),
        *_of_hosts(breakers, "bad", "is not called: its circuit breaker is open, since"),
        *_of_parked(waiting),
        *_of_mail(replicas),
        *_of_hosts(paused, "note", "is paused and its tasks wait, since"),
    ]
    return sorted(found, key=lambda concern: concern.weight == "note")


_WITHOUT = {
    "ingest": "nothing is shown or accepted",
    "scheduler": "no task comes due",
    "dispatcher": "nothing is called",
    "mailer": "nobody is told of failures",
}


def _of_services(replicas: Sequence[Replica]) -> Iterator[Concern]:
    for standing in standings(replicas):
        last = max((each.seen_at for each in standing.replicas), default=None)
        if not standing.live:
            text = f"No {standing.service} has been heard of for {SILENT_S:.0f} s: {_WITHOUT[standing.service]}."
            text += " The last one" if last else ""
            yield Concern("bad", text, "#services", "Services", last)
            continue
        for each in standing.replicas:
            if SILENT_S < each.age_s <= MISSED_S:
                text = f"{each.service} {each.name} is silent; others do its work. Last heard of"
                yield Concern("bad", text, "#services", "Services", each.seen_at)


def _of_overdue(waiting: Waiting, now: datetime) -> Iterator[Concern]:
    oldest = waiting.oldest_due_at
    if oldest is not None and (now - oldest).total_seconds() > OVERDUE_S:
        text = f"Due and not called yet: {count(waiting.overdue)}, the oldest since"
        yield Concern("bad", text, "/tasks?q=status:due", "Tasks that are due", oldest)


def _of_hosts(hosts: Sequence[Host], weight: Weight, state: str) -> Iterator[Concern]:
    for host in hosts[:NAMED_MAX]:
        yield Concern(weight, f"{host.name} {state}", f"/targets/{quote(host.name, safe='')}", "Target", host.since)
    if len(hosts) > NAMED_MAX:
        more = f"{len(hosts) - NAMED_MAX} more, each {state.removesuffix(', since')}"
        yield Concern(weight, more, "/targets", "Targets")


def _of_parked(waiting: Waiting) -> Iterator[Concern]:
    if waiting.parked:
        text = f"Messages that no service could process: {count(waiting.parked)}"
        yield Concern("bad", text, "/dead-letters", "Dead letters")


def _of_mail(replicas: Sequence[Replica]) -> Iterator[Concern]:
    mailers = [each.vitals for each in replicas if each.service == "mailer" and each.age_s <= SILENT_S]
    if any(vitals.get("login_refused") for vitals in mailers):
        yield Concern("bad", "The mail server refuses the mailer's user or password", "/digest", "Digest")
    messages = int(max((vitals.get("waiting", 0) for vitals in mailers), default=0))
    if messages:
        since_s = min((at for vitals in mailers if (at := vitals.get("waiting_since"))), default=None)
        since = None if since_s is None else EPOCH + timedelta(seconds=round(since_s))
        text = f"Messages of failures that wait for the next digest: {count(messages)}, since"
        yield Concern("note", text, "/digest", "Digest", since)
