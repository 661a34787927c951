"""Where a task is, why it is not called yet, and what would move it: one sentence, and codes for programs. Pure.

From here only what the services have told can be seen: events of calls that have ended, breakers that have opened, the
rules of targets. Whether a call is under way, or who is behind, nobody tells; then the sentence says so.
"""

from collections.abc import Sequence
from datetime import datetime, timedelta

from libs.common.clock import format_utc
from services.ingest.explanation import Cause, CauseCode, Code, Explanation, Facts, Move
from services.ingest.stored import LastAttempt
from services.ingest.view import status

# A call that takes a second or two, and its event, are nothing to explain.
GRACE = timedelta(seconds=3)
# A breaker that is open says so again each time it stays so, at the latest when the call that tries it has failed.
BREAKER_GRACE = timedelta(seconds=5)


def explain(facts: Facts, now: datetime) -> Explanation:
    match facts.task.state:
        case "scheduled":
            return _scheduled(facts, now)
        case "retrying":
            return _retrying(facts, now)
        case "succeeded":
            return _succeeded(facts, now)
        case "failed":
            return _failed(facts, now)
        case "cancelled":
            return _cancelled(facts, now)
        case "expired":
            return _expired(facts, now)
        case "parked":
            return _parked(facts, now)


def _scheduled(facts: Facts, now: datetime) -> Explanation:
    task = facts.task
    if task.due_at > now:
        because = _obstacles_at(facts, task.due_at)
        sentence = f"Waits for its time: due in {span(task.due_at - now)}, at {format_utc(task.due_at)}"
        moves = [Move("wait", "It is called at its time."), Move("run", "POST .../run calls it now.")]
        return _explained(
            facts, now, "waiting_for_time", _and(sentence, because), because, moves + _moves(because), task.due_at
        )
    return _to_be_called(facts, now, task.due_at, f"Due since {span(now - task.due_at)}", "no call of it has ended yet")


def _retrying(facts: Facts, now: datetime) -> Explanation:
    next_at = facts.task.state_at or now
    told = f"{_attempt(facts)} {_met(facts)}"
    if next_at <= now:
        begun = f"{told}; the next was due {span(now - next_at)} ago"
        return _to_be_called(facts, now, next_at, begun, "that has not ended yet")
    because = [
        Cause(code="last_answer", detail=_answer(facts)),
        *_early(facts, next_at),
        *_obstacles_at(facts, next_at),
    ]
    sentence = f"{told}; it waits{_on_rung(facts)} until {format_utc(next_at)}, {span(next_at - now)} from now"
    moves = [Move("wait", "The next attempt comes by itself."), Move("fix_receiver", _FIX)]
    others = [cause for cause in because if cause.code != "last_answer"]
    return _explained(
        facts, now, "waiting_for_retry", _and(sentence, others), because, moves + _moves(because), next_at
    )


def _to_be_called(facts: Facts, now: datetime, since: datetime, begun: str, still: str) -> Explanation:
    """Its moment has come: it is called just now, put off for a known reason, or late for one that nobody tells."""
    because = _obstacles_at(facts, now)
    if not because and now - since <= GRACE:
        because = [Cause(code="not_visible", detail="A call is heard of when it has ended.")]
        sentence = f"{begun}: it is on its way, or being called at this moment"
        return _explained(facts, now, "being_called", sentence, because, [Move("wait", _MOMENTS)], None)
    because += _limit(facts)
    if because:
        return _explained(facts, now, "put_off", _and(begun, because), because, _moves(because), _until(because, facts))
    limit = timedelta(seconds=facts.call.timeout_s) + GRACE
    what = "a call may be under way" if now - since <= limit else "longer than a call of it may take"
    because = [
        Cause(code="not_visible", detail="Whether the scheduler or the dispatchers are behind is not told to ingest.")
    ]
    sentence = (
        f"{begun}, and {still}: {what}, or the services are behind with their work, which cannot be seen from here"
    )
    return _explained(facts, now, "overdue", sentence, because, [Move("wait", _BEHIND)], None)


def _succeeded(facts: Facts, now: datetime) -> Explanation:
    sentence = f"Succeeded at {_ended(facts)}: {_attempt(facts).lower()} was answered with {_answer(facts)}"
    because = [Cause(code="last_answer", detail=_answer(facts))]
    return _explained(facts, now, "succeeded", sentence, because, [Move("none", "There is nothing left to do.")], None)


def _failed(facts: Facts, now: datetime) -> Explanation:
    because = [_end(facts.task.reason), Cause(code="last_answer", detail=_answer(facts))]
    sentence = f"Failed at {_ended(facts)}: {_attempt(facts).lower()} {_met(facts)}, and {because[0].detail}"
    return _explained(facts, now, "failed", sentence, because, _again(facts, Move("fix_receiver", _FIX)), None)


def _cancelled(facts: Facts, now: datetime) -> Explanation:
    because = [Cause(code="cancelled", detail="Somebody asked for it.", since=_ended(facts))]
    sentence = f"Cancelled at {_ended(facts)}: no call of it follows"
    moves = [Move("create_again", "Create it again: a cancelled task stays cancelled.")]
    return _explained(facts, now, "cancelled", sentence, because, moves, None)


def _expired(facts: Facts, now: datetime) -> Explanation:
    at = facts.task.expires_at
    passed = "its expires_at" if at is None else f"its expires_at, {format_utc(at)},"
    because = [Cause(code="expires_at_passed", detail="It had not succeeded by its expires_at.", since=_time(at))]
    sentence = f"Expired at {_ended(facts)}: {passed} passed before it was called with success"
    return _explained(facts, now, "expired", sentence, because, _again(facts), None)


def _parked(facts: Facts, now: datetime) -> Explanation:
    cause = facts.task.reason or "unknown"
    because = [Cause(code="unprocessable", detail=cause, since=_time(facts.task.state_at))]
    sentence = f"Parked at {_ended(facts)}: a message about it could not be processed ({cause}), and waits for a person"
    return _explained(facts, now, "parked", sentence, because, _again(facts, _MESSAGE), None)


def _obstacles_at(facts: Facts, at: datetime) -> list[Cause]:
    """What will keep a call to the host from being made at that moment, as far as is known."""
    causes: list[Cause] = []
    rule = facts.rule
    if rule is not None and rule.is_paused:
        detail = (
            f"calls to {facts.host} are paused by a rule of {format_utc(rule.changed_at)}, until somebody resumes them"
        )
        causes.append(Cause(code="target_paused", detail=detail))
    for breaker in facts.breakers:
        if breaker.until > at - BREAKER_GRACE:
            until = format_utc(breaker.until)
            detail = f"the circuit breaker of {breaker.replica} for {facts.host} is open until {until}, or longer"
            causes.append(Cause(code="breaker_open", detail=detail, until=until))
    return causes


def _limit(facts: Facts) -> list[Cause]:
    rule = facts.rule
    if rule is None or rule.per_s is None:
        return []
    return [
        Cause(code="rate_limited", detail=f"calls to {facts.host} are limited to {rule.per_s:g} per second, in turn")
    ]


def _moves(because: Sequence[Cause]) -> list[Move]:
    details: dict[CauseCode, Move] = {
        "target_paused": Move("resume_target", "POST /v1/targets/{host}/resume lets calls through again."),
        "breaker_open": Move("wait", "The breaker lets one call through to try, and closes when it is answered."),
        "rate_limited": Move("raise_limit", "Its turn comes by itself; a higher limit makes it sooner."),
    }
    return list(dict.fromkeys(details[cause.code] for cause in because if cause.code in details))


def _until(because: Sequence[Cause], facts: Facts) -> datetime | None:
    """When it moves by itself: when the last known breaker may close, if nothing else holds it."""
    if any(cause.code != "breaker_open" for cause in because):
        return None
    return max(breaker.until for breaker in facts.breakers)


def _early(facts: Facts, next_at: datetime) -> list[Cause]:
    """What is to be said of the wait itself."""
    causes: list[Cause] = []
    step_s, waits_s = _step_s(facts), _waits_s(facts)
    if step_s is not None and waits_s is not None and waits_s > step_s * 1.1 + 1:
        causes.append(Cause(code="retry_after", detail=f"its receiver asked for more than its step of {step_s:g} s"))
    expires_at = facts.task.expires_at
    if expires_at is not None and expires_at <= next_at:
        detail = f"it expires before that, at {format_utc(expires_at)}, and is then not called again"
        causes.append(Cause(code="expires_first", detail=detail, until=format_utc(expires_at)))
    return causes


def _end(reason: str) -> Cause:
    """Why nothing calls a failed task again."""
    match reason:
        case "gone":
            return Cause(code="gone", detail="410 means that there is no use in another attempt")
        case "refused_retry":
            return Cause(code="refused_retry", detail="the receiver asked for no other attempt")
        case "blocked_address":
            return Cause(code="blocked_address", detail="its address is one that may not be called")
        case _:
            return Cause(code="ladder_used_up", detail="that was the last attempt of its ladder")


def _again(facts: Facts, *before: Move) -> list[Move]:
    if not facts.task.has_payload:
        return [Move("create_again", "Create it again: what it sends has been purged.")]
    return [*before, Move("redrive", "POST .../redrive starts it again, with a fresh ladder.")]


def _attempt(facts: Facts) -> str:
    """The last one. How many there may be is known only of a task with a ladder of its own."""
    number = _last(facts).number
    steps = facts.call.schedule_s
    return f"Attempt {number}" if steps is None else f"Attempt {number} of {len(steps) + 1}"


def _met(facts: Facts) -> str:
    return f"failed with {_answer(facts)}"


def _answer(facts: Facts) -> str:
    last = _last(facts)
    detail = facts.last.error_detail if facts.last is not None else None
    if last.status_code is not None:
        return detail or f"HTTP {last.status_code}"
    return f"{last.error or 'no answer'}{f' ({detail})' if detail else ''}"


def _last(facts: Facts) -> LastAttempt:
    return facts.task.last_attempt or LastAttempt(1, None, None, 0)


def _on_rung(facts: Facts) -> str:
    waits_s = _waits_s(facts)
    return "" if waits_s is None else f" {waits_s:g} s for attempt {_last(facts).number + 1},"


def _waits_s(facts: Facts) -> float | None:
    last = facts.last
    if last is None or last.next_attempt_at is None:
        return None
    ended_at = last.started_at + timedelta(milliseconds=last.duration_ms)
    return round((last.next_attempt_at - ended_at).total_seconds(), 1)


def _step_s(facts: Facts) -> float | None:
    steps, number = facts.call.schedule_s, _last(facts).number
    return None if steps is None or number > len(steps) else steps[number - 1]


def _ended(facts: Facts) -> str:
    return format_utc(facts.task.state_at or facts.task.due_at)


def _time(moment: datetime | None) -> str | None:
    return None if moment is None else format_utc(moment)


def _and(sentence: str, because: Sequence[Cause]) -> str:
    return "; ".join([sentence, *(cause.detail for cause in because)])


def _explained(
    facts: Facts, now: datetime, code: Code, sentence: str, because: list[Cause], moves: list[Move],
    next_at: datetime | None,
) -> Explanation:  # fmt: skip
    return Explanation(
        status=status(facts.task, now),
        code=code,
        sentence=f"{sentence}.",
        because=because,
        next_at=_time(next_at),
        what_would_move_it=moves,
    )


def span(length: timedelta) -> str:
    """`3 s`, `2 min 5 s`, `3 h 20 min`, `2 d 4 h`: two units at most."""
    seconds = max(0, round(length.total_seconds()))
    parts = []
    for unit, size in (("d", 86_400), ("h", 3600), ("min", 60), ("s", 1)):
        count, seconds = divmod(seconds, size)
        parts.append((count, unit))
    first = next((place for place, (count, _unit) in enumerate(parts) if count), len(parts) - 1)
    return " ".join(
        f"{count} {unit}" for place, (count, unit) in enumerate(parts[first : first + 2]) if count or not place
    )


_MOMENTS = "Ask again in a moment."
_BEHIND = "It is called as soon as its turn comes; dashboards of the scheduler and the dispatchers show a backlog."
_FIX = "Let the receiver answer as `expect` says; GET .../attempts shows what it answered."
_MESSAGE = Move("redrive_message", "POST /v1/parked/{id}/redrive sends the message itself once more.")
