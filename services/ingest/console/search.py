"""The search box of /console/tasks: words to a filter of the API and back. Pure.

status:failed,parked  host:api.example.com  url:https://api.example.com/orders  schedule:nightly  label.order:42
id:<uuid>  after:1h before:2026-11-21  due-after: due-before:  ended-after: ended-before:

A value with spaces stands in quotes. A UUID alone is a task, a URL is how its own begins. More in docs/console.md.
"""

import re
from collections.abc import Callable
from datetime import datetime, timedelta
from difflib import get_close_matches
from typing import NamedTuple
from uuid import UUID

import msgspec

from libs.common import duration
from libs.common.clock import ceil_to_ms, format_utc
from services.ingest.problems import escaped
from services.ingest.task_filter import ANY_TIME, LABEL, STATUSES, FilterFields, TaskFilter, read_filter
from services.ingest.times import BadTime, parse_moment

CHARS_MAX = 2_000
IDS_MAX = 250
_TIMES = {
    "after": "created_from",
    "before": "created_to",
    "due-after": "due_from",
    "due-before": "due_to",
    "ended-after": "ended_from",
    "ended-before": "ended_to",
}
"""From: at or after it; to: before it."""
_TEXTS = {"status": "status", "host": "host", "url": "url_prefix", "schedule": "schedule"}
NAMES = (*_TEXTS, "label.NAME", "id", *_TIMES)
_OTHER_NAMES = {"state": "status", "created-after": "after", "created-before": "before", "since": "after"}
_DAY = re.compile(r"\d{4}-\d\d-\d\d")
_TO_THE_MINUTE = re.compile(rf"({_DAY.pattern}[Tt ]\d\d:\d\d)([Zz]|[+-]\d\d:\d\d)")
HOW_TO_SAY_WHEN = "write 1h or 30m for so long ago, +1h for so far ahead, 2026-11-21, or 2026-11-21T10:00Z"
_SCHEMES = ("http://", "https://")


class Word(NamedTuple):
    """One word of a search: as it was typed, and what it says. `value` is None of one without a colon."""

    typed: str
    name: str
    value: str | None
    is_quoted: bool


class Fault(NamedTuple):
    """`word` cannot be meant; `detail` says what to write."""

    word: str
    detail: str


class Search(NamedTuple):
    """What is wanted, unless there are faults. `task`: the id of the one task that was typed, and nothing else."""

    filter: TaskFilter
    faults: tuple[Fault, ...] = ()
    task: UUID | None = None


class _Reading:
    """What the words have said so far."""

    def __init__(self, now: datetime) -> None:
        self.now = now
        self.fields: dict[str, str] = {}
        self.labels: dict[str, str] = {}
        self.times: dict[str, datetime] = {}
        self.ids: tuple[UUID, ...] = ()
        self.typed: dict[str, str] = {}
        self.faults: list[Fault] = []


def read_search(text: str, now: datetime, chars_max: int = CHARS_MAX) -> Search:
    if len(text) > chars_max:
        detail = f"The search has {len(text)} characters; use at most {chars_max}."
        return Search(TaskFilter(), (Fault(f"{text[:40]}...", detail),))
    words, fault = split_words(text)
    if fault is not None:
        return Search(TaskFilter(), (fault,))
    if len(words) == 1 and words[0].value is None and (task := _uuid(words[0].name)) is not None:
        return Search(TaskFilter(ids=(task,)), task=task)
    reading = _Reading(now)
    for word in words:
        _read_word(word, reading)
    wanted, errors = read_filter(FilterFields(**reading.fields), reading.labels)
    reading.faults += (Fault(reading.typed.get(each.pointer, each.pointer), f"It {each.detail}.") for each in errors)
    wanted = msgspec.structs.replace(wanted, ids=reading.ids, **reading.times)
    return Search(wanted, tuple(reading.faults))


def write_search(wanted: TaskFilter) -> str:
    """The words that say it, whenever they are read."""
    said = [("status", ",".join(wanted.status) or None)]
    said += [(name, getattr(wanted, field)) for name, field in _TEXTS.items() if name != "status"]
    said += [(LABEL + name, value) for name, value in sorted(wanted.labels.items())]
    said += [("id", ",".join(map(str, wanted.ids)) or None)]
    said += [(name, _written(getattr(wanted, field))) for name, field in _TIMES.items()]
    return " ".join(f"{_quoted(name, ':')}:{_quoted(value)}" for name, value in said if value is not None)


def with_word(text: str, name: str, value: str | None) -> str:
    """The same search with this word in place of the one that it has by this name; with None, without any."""
    words, fault = split_words(text)
    kept = [] if fault is not None else [word.typed for word in words if word.value is None or word.name != name]
    return " ".join(kept if value is None else [*kept, f"{name}:{_quoted(value)}"])


def split_words(text: str) -> tuple[list[Word], Fault | None]:
    """By spaces outside of quotes, and each at its first colon outside of quotes."""
    words: list[Word] = []
    place = 0
    while place < len(text):
        if text[place].isspace():
            place += 1
            continue
        word, end = _word(text, place)
        if word is None:
            return words, Fault(text[place : place + 80], 'A quote has no end; close it with ".')
        words.append(word)
        place = end
    return words, None


def _word(text: str, start: int) -> tuple[Word | None, int]:
    """The one that begins at `start`, and where it ends; None when a quote in it does not end."""
    name, said, colons, quotes = "", [], 0, 0
    place, in_quotes = start, False
    while place < len(text) and (in_quotes or not text[place].isspace()):
        character = text[place]
        if in_quotes and character == "\\" and text[place + 1 : place + 2] in {'"', "\\"}:
            place += 1
            said.append(text[place])
        elif character == '"':
            in_quotes, quotes = not in_quotes, quotes + 1
        elif character == ":" and not in_quotes and not colons:
            name, said, colons, quotes = "".join(said), [], 1, 0
        else:
            said.append(character)
        place += 1
    if in_quotes:
        return None, place
    typed, rest = text[start:place], "".join(said)
    if not colons or typed.lower().startswith(_SCHEMES):
        return Word(typed, typed if colons else rest, None, quotes > 0), place
    return Word(typed, name if name.startswith(LABEL) else name.lower(), rest, quotes > 0), place


def _read_word(word: Word, reading: _Reading) -> None:
    if word.value is None:
        fault = _read_bare(word, reading)
    elif word.value == "" and not (word.is_quoted and word.name.startswith(LABEL)):
        empty = f' For an empty label write {word.name}:"".' if word.name.startswith(LABEL) else ""
        fault = f"It says nothing after the colon.{empty}"
    else:
        fault = _read_pair(word.name, word.value, word.typed, reading)
    if fault:
        reading.faults.append(Fault(word.typed, fault))


def _read_bare(word: Word, reading: _Reading) -> str | None:
    if word.name.lower().startswith(_SCHEMES):
        return _read_pair("url", word.name, word.typed, reading)
    if _uuid(word.name) is not None:
        return _read_pair("id", word.name, word.typed, reading)
    if word.name.lower() in STATUSES:
        return f"It needs a name before it: write status:{word.name.lower()}."
    if word.name.lower() in NAMES:
        return f"It says nothing yet: write {word.name.lower()}: and what is wanted."
    if "." in word.name.strip("."):
        return f"It needs a name before it: write host:{_quoted(word.name)}, or url: and how the URL begins."
    said = _quoted(word.name)
    return f"It needs a name before it: write host:{said}, label.NAME:{said}, or schedule:{said}."


def _read_pair(name: str, value: str, typed: str, reading: _Reading) -> str | None:
    """What is wrong with it; what the API says about a value comes later."""
    reader = _reader(name)
    if reader is None:
        close = _OTHER_NAMES.get(name) or next(iter(get_close_matches(name, NAMES, n=1)), None)
        hint = f"did you mean {close}:?" if close else f"there are {', '.join(f'{each}:' for each in NAMES)}."
        return f"There is no word {name[:40]}:; {hint}"
    field = LABEL + escaped(name.removeprefix(LABEL)) if name.startswith(LABEL) else _TEXTS.get(name, name)
    if field in reading.typed:
        example = " Several stand in one, with commas." if name in {"status", "id"} else ""
        return f"{name[:80]}: stands twice; write it once.{example}"
    reading.typed[field] = typed
    return reader(name, value, reading)


def _reader(name: str) -> Callable[[str, str, _Reading], str | None] | None:
    if name in _TIMES:
        return _read_time
    if name in _TEXTS:
        return _read_text
    if name.startswith(LABEL):
        return _read_label
    return _read_ids if name == "id" else None


def _read_text(name: str, value: str, reading: _Reading) -> str | None:
    if name == "host" and value.lower().startswith(_SCHEMES):
        return f"That is a URL: write url:{_quoted(value)}."
    reading.fields[_TEXTS[name]] = value.lower() if name == "status" else value
    return None


def _read_label(name: str, value: str, reading: _Reading) -> str | None:
    if name == LABEL:
        return "It names no label: write label.order:42."
    reading.labels[name.removeprefix(LABEL)] = value
    return None


def _read_ids(_name: str, value: str, reading: _Reading) -> str | None:
    ids = [_uuid(part.strip()) for part in value.split(",")]
    if len(ids) > IDS_MAX:
        return f"It names {len(ids)} tasks; name at most {IDS_MAX}."
    if None in ids:
        return "That is no id: write the UUID of a task, or several with commas."
    reading.ids = tuple(sorted({id_ for id_ in ids if id_ is not None}))
    return None


def _read_time(name: str, value: str, reading: _Reading) -> str | None:
    try:
        reading.times[_TIMES[name]] = moment_of(value, reading.now)
    except BadTime:
        return f"That is no time: {HOW_TO_SAY_WHEN}."
    return None


def moment_of(value: str, now: datetime) -> datetime:
    """Raises: BadTime."""
    ahead, length = value.startswith("+"), duration.seconds(value.removeprefix("+"))
    if length is None:
        value = f"{value}T00:00:00Z" if _DAY.fullmatch(value) else _TO_THE_MINUTE.sub(r"\1:00\2", value)
        return parse_moment(value, ANY_TIME)
    try:
        off = timedelta(seconds=float(length))
        return ceil_to_ms(now + off if ahead else now - off)
    except OverflowError as error:
        raise BadTime("too_far", "is no time that can be kept") from error


def _written(moment: datetime | None) -> str | None:
    return None if moment is None else format_utc(moment)


def _uuid(text: str) -> UUID | None:
    try:
        return UUID(text) if len(text) == 36 else None
    except ValueError:
        return None


def _quoted(text: str, special: str = "") -> str:
    """In quotes where it would be read otherwise without."""
    is_plain = text and not any(each.isspace() or each in {'"', *special} for each in text)
    return text if is_plain else '"' + text.replace("\\", "\\\\").replace('"', '\\"') + '"'
