"""A page as a mail. Pure: the same page gives the same bytes, so that a mail sent twice is folded into one.

No header holds a user's word: subject and ids are made of numbers, addresses come from the settings. A user's words
stand in the body only, escaped in the HTML part, without characters that could fake a line or hide one.
"""

from collections.abc import Sequence
from dataclasses import dataclass
from datetime import UTC, datetime
from email.headerregistry import Address
from email.message import EmailMessage
from email.policy import SMTP
from pathlib import Path
from urllib.parse import quote, urlencode

from jinja2 import Environment, FileSystemLoader, StrictUndefined, select_autoescape

from libs.common.contracts import DigestPage, Notice, NoticeTally
from libs.common.digest.tally import Group, groups_of, one_line

TEXT_CHARACTERS_MAX = 10_000
"""Of one notice."""
HTML_BYTES_MAX = 100_000
"""Mail programs cut at about that."""
SHOWN = ((10, 290), (10, 100), (5, 30), (2, 10))
"""Causes with an example, and after them with a line each: the first that keeps the HTML small. Others are counted."""

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
    """Who writes to whom, and where readers find Carillon: from the settings, validated there."""

    sender: str
    recipients: tuple[str, ...]
    public_url: str | None = None

    @property
    def domain(self) -> str:
        return self.sender.rpartition("@")[2]


@dataclass(frozen=True)
class Sample:
    """One task of a group, each field a single line. `curl` has it called again."""

    id: str
    project: str
    method: str
    url: str
    detail: str | None
    attempts: int
    due_at: str
    curl: str


@dataclass(frozen=True)
class Cause:
    """The tasks that failed alike. `link` leads to them in the console."""

    state: str
    host: str
    error: str
    count: int
    when: str
    is_new: bool
    link: str | None
    sample: Sample


@dataclass(frozen=True)
class Text:
    """A client's own words."""

    project: str
    created_at: str
    subject: str
    message: str


@dataclass(frozen=True)
class Content:
    """What both parts of a mail say."""

    subject: str
    created_at: str
    is_urgent: bool
    causes: Sequence[Cause]
    briefly: Sequence[Cause]
    failed_more: int
    notices: Sequence[Text]
    notice_tallies: Sequence[NoticeTally]
    notices_more: int
    unreadable: int


def render(page: DigestPage, letterhead: Letterhead) -> EmailMessage:
    """The mail of `page`, with a text and an HTML part. `page.tries` is not in it."""
    for detailed, briefly in SHOWN:
        content = content_of(page, letterhead, detailed, briefly)
        html = as_html(content)
        if len(html.encode(errors="replace")) < HTML_BYTES_MAX:
            break
    message = _addressed(page, letterhead)
    message.set_content(as_text(content), cte="quoted-printable")
    message.add_alternative(html, subtype="html", cte="quoted-printable")
    # Random by default. Quoted-printable never writes "=_", so no body can hold it.
    message.set_boundary(f"=_{page.id.hex}")
    return message


def plainly(page: DigestPage, letterhead: Letterhead) -> EmailMessage:
    """The numbers alone, for a page that `render` failed on: a mail that says little beats none."""
    message = _addressed(page, letterhead)
    message.set_content(f"{subject(page)}\n\nThe details could not be shown. The history has them.\n")
    return message


def as_text(content: Content) -> str:
    return _templates.get_template("digest.txt").render(vars(content))


def as_html(content: Content) -> str:
    return _templates.get_template("digest.html").render(vars(content))


def content_of(page: DigestPage, letterhead: Letterhead, detailed: int, briefly: int) -> Content:
    """What is to be said with so many causes in detail, and so many briefly."""
    causes = [_cause(group, letterhead.public_url) for group in groups_of(page)]
    unshown = causes[detailed + briefly :]
    return Content(
        subject=subject(page),
        created_at=_time(page.created_at),
        is_urgent=page.is_urgent,
        causes=causes[:detailed],
        briefly=causes[detailed : detailed + briefly],
        failed_more=page.failed_more + sum(cause.count for cause in unshown),
        notices=[_text(notice) for notice in page.notices],
        notice_tallies=page.notice_tallies,
        notices_more=page.notices_more,
        unreadable=page.unreadable,
    )


def subject(page: DigestPage) -> str:
    """`Carillon: 3 tasks failed, 1 notice`, in numbers only."""
    counts = {"failed": page.failed_more, "parked": 0}
    for group in groups_of(page):
        counts[group.cause.state] += group.count
    notices = len(page.notices) + sum(tally.count for tally in page.notice_tallies) + page.notices_more
    parts = [
        *(f"{_counted(count, 'task')} {state}" for state, count in counts.items() if count),
        *([_counted(notices, "notice")] if notices else []),
        *([f"{_counted(page.unreadable, 'entry', 'entries')} unreadable"] if page.unreadable else []),
    ]
    number = f" (page {page.number})" if page.number > 1 else ""
    return f"Carillon{' now' if page.is_urgent else ''}: {', '.join(parts) or 'nothing failed'}{number}"


def _addressed(page: DigestPage, letterhead: Letterhead) -> EmailMessage:
    message = EmailMessage(policy=SMTP)
    message["From"] = Address("Carillon", addr_spec=letterhead.sender)
    recipients = page.recipients or letterhead.recipients
    message["To"] = tuple(Address(addr_spec=recipient) for recipient in recipients)
    message["Subject"] = subject(page)
    message["Date"] = page.created_at
    message["Message-ID"] = f"<{page.id}@{letterhead.domain}>"
    message["Auto-Submitted"] = "auto-generated"
    message["List-Id"] = f"<carillon-digest.{letterhead.domain}>"
    return message


def _time(moment: datetime) -> str:
    return f"{moment.astimezone(UTC):%Y-%m-%d %H:%M:%S} UTC"


def _between(first: datetime, last: datetime) -> str:
    begin, end = _time(first), _time(last)
    if begin == end:
        return begin
    return f"{begin.removesuffix(' UTC')} to {end[11:] if begin[:10] == end[:10] else end}"


def _counted(count: int, noun: str, plural: str | None = None) -> str:
    return f"{count} {noun}" if count == 1 else f"{count} {plural or noun + 's'}"


def _cause(group: Group, public_url: str | None) -> Cause:
    return Cause(
        *group.cause,
        count=group.count,
        when=_between(group.first_at, group.last_at),
        is_new=group.is_new,
        link=public_url and f"{public_url}/console/tasks?{_search(group)}",
        sample=_sample(group, public_url or "$CARILLON_URL"),
    )


def _search(group: Group) -> str:
    """Which of them the console shows: those of the project that the newest is of."""
    words = f"status:{group.cause.state} host:{group.cause.host}"
    return urlencode({"q": words, "project": group.newest.project}, quote_via=quote)


def _sample(group: Group, base: str) -> Sample:
    task = group.newest
    return Sample(
        id=str(task.id),
        project=one_line(task.project),
        method=one_line(task.method),
        url=one_line(task.url),
        detail=task.error_detail and one_line(task.error_detail),
        attempts=task.attempts,
        due_at=_time(task.due_at),
        curl=f'curl -X POST "{base}/v1/tasks/{task.id}/redrive" -H "Authorization: Bearer $CARILLON_KEY"',
    )


def _text(notice: Notice) -> Text:
    lines = notice.message[:TEXT_CHARACTERS_MAX].splitlines()
    if len(notice.message) > TEXT_CHARACTERS_MAX:
        lines.append(f"... (cut at {TEXT_CHARACTERS_MAX} characters)")
    return Text(
        project=one_line(notice.project),
        created_at=_time(notice.created_at),
        subject=one_line(notice.subject),
        message="\n".join(one_line(line, TEXT_CHARACTERS_MAX) for line in lines),
    )
