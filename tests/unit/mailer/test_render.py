"""The mail: what it says, what it never says, and that it says it in the same bytes each time."""

from datetime import timedelta
from email import message_from_bytes
from email.message import EmailMessage
from email.policy import default
from uuid import UUID

import pytest

from libs.common.contracts import DigestPage, Notice
from services.mailer.render import TEXT_CHARACTERS_MAX, Letterhead, grouped, render, subject
from tests.unit.mailer.samples import AT, failed, notice, page

LETTERHEAD = Letterhead("carillon@example.org", ("ops@example.org", "boss@example.org"))
EVIL = "a\r\nBcc: victim@example.com\nSubject: x\x00\u2028\u202e"


def read(sent: DigestPage) -> EmailMessage:
    """The mail as its reader's program has it."""
    message = message_from_bytes(render(sent, LETTERHEAD).as_bytes(), policy=default)
    assert isinstance(message, EmailMessage)
    return message


def part(message: EmailMessage, kind: str) -> str:
    body = message.get_body(preferencelist=(kind,))
    assert body is not None
    content = body.get_content()
    assert isinstance(content, str)
    return content


@pytest.mark.parametrize(
    ("sent", "expected"),
    [
        (page(failed(1), failed(2), failed(3), notice()), "Carillon: 3 tasks failed, 1 notice"),
        (page(failed(1)), "Carillon: 1 task failed"),
        (page(failed(1), failed(2, state="parked")), "Carillon: 1 task failed, 1 task parked"),
        (page(notice(1), notice(2), number=2), "Carillon: 2 notices (page 2)"),
    ],
)
def test_the_subject_says_the_numbers(sent: DigestPage, expected: str) -> None:
    assert subject(sent) == expected


def test_tasks_are_grouped_by_host_and_error_largest_group_first() -> None:
    groups = grouped(
        [
            failed(1, url="https://a.example/one", error="timeout", status_code=None),
            failed(2, url="https://b.example/one"),
            failed(3, url="https://B.example/two?x=1"),
            failed(4, url="https://b.example/one", error="timeout", status_code=None),
        ]
    )
    assert [(group.host, group.error, group.count) for group in groups] == [
        ("b.example", "status, HTTP 503", 2),
        ("a.example", "timeout", 1),
        ("b.example", "timeout", 1),
    ]


def test_a_group_shows_the_task_that_failed_last() -> None:
    late = failed(1, failed_at=AT + timedelta(seconds=1), error_detail="upstream said no")
    [group] = grouped([late, failed(2)])
    assert group.sample.id == str(UUID(int=1))
    assert group.sample.answer == "status, HTTP 503: upstream said no"


def test_both_parts_name_the_sample_and_the_notice() -> None:
    message = read(page(failed(1, url="https://shop.example.com/hook?a=1"), notice(message="two\nlines")))
    for kind in ("plain", "html"):
        text = part(message, kind)
        for word in (str(UUID(int=1)), "POST", "https://shop.example.com/hook?a=1", "HTTP 503", "7", "Disk", "lines"):
            assert word in text


def test_the_headers_say_who_when_and_that_no_person_wrote_it() -> None:
    message = read(page(failed(1)))
    assert message["From"] == "Carillon <carillon@example.org>"
    assert message["To"] == "ops@example.org, boss@example.org"
    assert message["Message-ID"] == "<01957000-0000-7000-8000-000000000001@example.org>"
    assert message["Date"] == "Mon, 01 Mar 2027 08:00:00 +0000"
    assert message["Auto-Submitted"] == "auto-generated"
    assert message["List-Id"] == "<carillon-digest.example.org>"


def test_the_same_page_gives_the_same_bytes_whatever_its_tries() -> None:
    once = render(page(failed(1), notice()), LETTERHEAD).as_bytes()
    again = render(page(failed(1), notice(), tries=3), LETTERHEAD).as_bytes()
    assert once == again


def test_no_users_word_reaches_a_header() -> None:
    plain = page(failed(1), notice())
    evil = page(
        failed(1, project=EVIL, method=EVIL, url=EVIL, error=EVIL, error_detail=EVIL, labels={EVIL: EVIL}),
        Notice(id=UUID(int=1), project=EVIL, created_at=AT, subject=EVIL, message=EVIL),
    )
    headers, evil_headers = (render(sent, LETTERHEAD).as_bytes().partition(b"\r\n\r\n")[0] for sent in (plain, evil))
    assert headers == evil_headers


def test_line_ends_and_direction_marks_fake_no_line_of_the_text() -> None:
    text = part(read(page(failed(1, url=EVIL, error_detail=EVIL), notice(subject=EVIL))), "plain")
    assert not any(line.startswith(("Bcc:", "Subject:")) for line in text.splitlines())
    assert not set(text.replace("\r\n", "\n")) & set("\r\x00\u2028\u202e")


def test_html_of_a_user_is_shown_and_not_obeyed() -> None:
    script = "<script>alert(1)</script>"
    html = part(read(page(failed(1, error_detail=script), notice(subject=script, message=script))), "html")
    assert script not in html
    assert html.count("&lt;script&gt;") == 3


def test_a_lone_surrogate_and_an_unreadable_url_are_survived() -> None:
    text = part(read(page(failed(1, url="http://[bad"), notice(message="\ud800"))), "plain")
    assert "unreadable URL" in text


def test_a_password_in_a_url_is_hidden() -> None:
    raw = render(page(failed(1, url="https://me:hunter2@shop.example.com/")), LETTERHEAD).as_bytes()
    assert b"hunter2" not in raw


def test_a_long_notice_is_cut_and_says_so() -> None:
    text = part(read(page(notice(message="x" * (TEXT_CHARACTERS_MAX + 1)))), "plain")
    assert "(cut at 10000 characters)" in text
