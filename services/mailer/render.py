"""A page as a mail. Pure: the same page gives the same bytes, so that a mail sent twice is folded into one.

No header holds a user's word: subject and ids are made of numbers, addresses come from the settings. A user's words
stand in the body only, escaped in the HTML part, without characters that could fake a line or hide one.
"""

import unicodedata
from collections import Counter
from collections.abc import Iterable, Sequence
from dataclasses import dataclass
from email.headerregistry import Address
from email.message import EmailMessage
from email.policy import SMTP
from pathlib import Path
from urllib.parse import urlsplit

from jinja2 import Environment, FileSystemLoader, StrictUndefined, select_autoescape

from libs.common.clock import format_utc
from libs.common.contracts import DigestPage, FailedTask, Notice
from libs.common.logs import redacted

TEXT_CHARACTERS_MAX = 10_000
"""Of one notice. A page is bounded, a single entry larger than that is not: servers refuse mails of 10 MB."""
LINE_CHARACTERS_MAX = 500
"""Of a URL or an error's detail in a sample."""

_REPLACEMENT = "\N{REPLACEMENT CHARACTER}"
# Control, format (directions, zero width), surrogates, line and paragraph separators.
_UNSHOWABLE = {"Cc", "Cf", "Cs", "Zl", "Zp"}

_templates = Environment(
    loader=FileSystemLoader(Path(__file__).parent / "templates"),
    autoescape=select_autoescape(["html"]),
    undefined=StrictUndefined,
    trim_blocks=True,
    lstrip_blocks=True,
    keep_trailing_newline=True,
)


@dataclass(frozen=True)
class Letterhead:
    """Who writes to whom: from the settings, validated there."""

    sender: str
    recipients: tuple[str, ...]

    @property
    def domain(self) -> str:
        return self.sender.rpartition("@")[2]


@dataclass(frozen=True)
class Sample:
    """One task of a group, each field a single line."""

    id: str
    project: str
    method: str
    url: str
    answer: str
    attempts: int
    due_at: str


@dataclass(frozen=True)
class Group:
    """The tasks that failed alike: same state, same host, same error."""

    state: str
    host: str
    error: str
    count: int
    sample: Sample


@dataclass(frozen=True)
class Text:
    """A client's own words."""

    project: str
    created_at: str
    subject: str
    message: str


def render(page: DigestPage, letterhead: Letterhead) -> EmailMessage:
    """The mail of `page`, with a text and an HTML part. `page.tries` is not in it."""
    message = EmailMessage(policy=SMTP)
    _address(message, page, letterhead)
    content = {
        "subject": str(message["Subject"]),
        "created_at": format_utc(page.created_at),
        "groups": grouped(page.failed),
        "notices": [_text(notice) for notice in page.notices],
    }
    text, html = (_templates.get_template(name).render(content) for name in ("digest.txt", "digest.html"))
    message.set_content(text, cte="quoted-printable")
    message.add_alternative(html, subtype="html", cte="quoted-printable")
    # Random by default. Quoted-printable never writes "=_", so no body can hold it.
    message.set_boundary(f"=_{page.id.hex}")
    return message


def subject(page: DigestPage) -> str:
    """`Carillon: 3 tasks failed, 1 notice`, in numbers only."""
    states = Counter(task.state for task in page.failed)
    counts = [
        *(f"{_counted(states[state], 'task')} {state}" for state in ("failed", "parked") if states[state]),
        *([_counted(len(page.notices), "notice")] if page.notices else []),
    ]
    return f"Carillon: {', '.join(counts)}" + (f" (page {page.number})" if page.number > 1 else "")


def grouped(tasks: Iterable[FailedTask]) -> list[Group]:
    """Largest group first; the sample is the one that failed last."""
    groups: dict[tuple[str, str, str], list[FailedTask]] = {}
    for task in tasks:
        groups.setdefault((task.state, _host(task.url), _error(task)), []).append(task)
    made = [Group(*key, len(members), _sample(members)) for key, members in groups.items()]
    return sorted(made, key=lambda group: (-group.count, group.state, group.host, group.error))


def one_line(text: str, characters_max: int = LINE_CHARACTERS_MAX) -> str:
    """`text` without passwords, and with what is no visible character made visible."""
    safe = "".join(_REPLACEMENT if unicodedata.category(char) in _UNSHOWABLE else char for char in redacted(text))
    return safe if len(safe) <= characters_max else f"{safe[:characters_max]}..."


def _address(message: EmailMessage, page: DigestPage, letterhead: Letterhead) -> None:
    message["From"] = Address("Carillon", addr_spec=letterhead.sender)
    message["To"] = tuple(Address(addr_spec=recipient) for recipient in letterhead.recipients)
    message["Subject"] = subject(page)
    message["Date"] = page.created_at
    message["Message-ID"] = f"<{page.id}@{letterhead.domain}>"
    message["Auto-Submitted"] = "auto-generated"
    message["List-Id"] = f"<carillon-digest.{letterhead.domain}>"


def _counted(count: int, noun: str) -> str:
    return f"{count} {noun}" if count == 1 else f"{count} {noun}s"


def _host(url: str) -> str:
    try:
        return one_line(urlsplit(url).netloc.rpartition("@")[2].lower()) or "no host"
    except ValueError:
        return "unreadable URL"


def _error(task: FailedTask) -> str:
    status = None if task.status_code is None else f"HTTP {task.status_code}"
    return one_line(", ".join(part for part in (task.error, status) if part)) or "no answer"


def _sample(members: Sequence[FailedTask]) -> Sample:
    task = max(members, key=lambda member: (member.failed_at, member.id))
    answer = _error(task) if task.error_detail is None else f"{_error(task)}: {one_line(task.error_detail)}"
    return Sample(
        id=str(task.id),
        project=one_line(task.project),
        method=one_line(task.method),
        url=one_line(task.url),
        answer=answer,
        attempts=task.attempts,
        due_at=format_utc(task.due_at),
    )


def _text(notice: Notice) -> Text:
    lines = notice.message[:TEXT_CHARACTERS_MAX].splitlines()
    if len(notice.message) > TEXT_CHARACTERS_MAX:
        lines.append(f"... (cut at {TEXT_CHARACTERS_MAX} characters)")
    return Text(
        project=one_line(notice.project),
        created_at=format_utc(notice.created_at),
        subject=one_line(notice.subject),
        message="\n".join(one_line(line, TEXT_CHARACTERS_MAX) for line in lines),
    )
