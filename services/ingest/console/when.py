"""When a task is to be called, as a person types it, in the API's words: in 10 m, a moment, a clock somewhere. Pure."""

import re

from libs.common import duration
from services.ingest.requests import LocalTime, NewTime

_IN = re.compile(r"in\b", re.IGNORECASE)
_NUMBER = re.compile(r"[0-9]{1,15}(\.[0-9]{1,9})?")
"""Longer ones are no times, and would become infinite."""
_WITHOUT_SECONDS = re.compile(r"[0-9]{4}-[0-9]{2}-[0-9]{2}T[0-9]{2}:[0-9]{2}")


def read_when(text: str, timezone: str = "") -> NewTime:
    """What it says, right or wrong: the API's own rules say which. Nothing, when there is nothing."""
    text = text.strip()
    short = "".join(_IN.sub("", text, count=1).split())
    if not text or text.lower() == "now":
        return NewTime()
    if _IN.match(text) or duration.seconds(short) is not None:
        return NewTime(delay=float(short) if _NUMBER.fullmatch(short) else short)
    if _NUMBER.fullmatch(text):
        return NewTime(due_at=float(text))
    moment = _spelled(text)
    if timezone.strip():
        return NewTime(local_time=LocalTime(at=moment, timezone=timezone.strip()))
    return NewTime(due_at=moment)


def read_moment(text: str) -> str | float | None:
    """A moment alone; None when there is none."""
    text = text.strip()
    if not text:
        return None
    return float(text) if _NUMBER.fullmatch(text) else _spelled(text)


def _spelled(text: str) -> str:
    """With T and seconds, which people leave out."""
    text = re.sub(r"(?<=[0-9]) +(?=[0-9])", "T", text, count=1)
    text = re.sub(r"(?<=[0-9]) +(?=[Zz+-])", "", text, count=1)
    return re.sub(rf"^{_WITHOUT_SECONDS.pattern}(?=$|[Zz+-])", lambda found: f"{found[0]}:00", text, count=1)
