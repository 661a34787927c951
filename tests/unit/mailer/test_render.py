"""The mail: what it says, what it never says, and that it says it in the same bytes each time."""

import html
from datetime import timedelta
from email import message_from_bytes
from email.message import EmailMessage
from email.policy import default
from uuid import UUID

import pytest
from msgspec import structs

from libs.common.contracts import DigestPage, Notice, Tally
from libs.common.digest.render import TEXT_CHARACTERS_MAX, Letterhead, content_of, plainly, render, subject
from libs.common.digest.tally import groups_of
from services.mailer.pages import Gathering
from tests.unit.mailer.samples import AT, failed, notice, page

LETTERHEAD = Letterhead("carillon@example.org", ("ops@example.org", "boss@example.org"))
LETTERHEAD_WITH_URL = Letterhead("carillon@example.org", ("ops@example.org",), "https://c.example")
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
    groups = groups_of(
        page(
            failed(1, url="https://a.example/one", error="timeout", status_code=None),
            failed(2, url="https://b.example/one"),
            failed(3, url="https://B.example/two?x=1"),
            failed(4, url="https://b.example/one", error="timeout", status_code=None),
        )
    )
    assert [(group.cause.host, group.cause.error, group.count) for group in groups] == [
        ("b.example", "HTTP 503", 2),
        ("a.example", "timeout", 1),
        ("b.example", "timeout", 1),
    ]


def test_a_group_shows_the_task_that_failed_last() -> None:
    late = failed(1, failed_at=AT + timedelta(seconds=1), error_detail="upstream said no")
    [cause] = content_of(page(late, failed(2)), LETTERHEAD, 9, 9).causes
    assert cause.sample.id == str(UUID(int=1))
    assert (cause.error, cause.sample.detail) == ("HTTP 503", "upstream said no")


def test_a_cause_says_when_how_to_call_again_and_where_all_of_them_are() -> None:
    sent = page(failed(1), failed(2, failed_at=AT + timedelta(hours=3)))
    message = message_from_bytes(render(sent, LETTERHEAD_WITH_URL).as_bytes(), policy=default)
    assert isinstance(message, EmailMessage)
    for kind in ("plain", "html"):
        text = html.unescape(part(message, kind))
        assert "2027-03-01 08:00:00 to 11:00:00 UTC" in " ".join(text.split())
        assert f'curl -X POST "https://c.example/v1/tasks/{UUID(int=2)}/redrive"' in text
        assert "https://c.example/console/tasks?q=status%3Afailed%20host%3Ashop.example.com&project=shop" in text


def test_without_an_address_of_its_own_it_links_nowhere() -> None:
    text = part(read(page(failed(1))), "html")
    assert "href" not in text
    assert "$CARILLON_URL/v1/tasks/" in text


def test_what_is_new_and_what_could_not_be_read_is_said() -> None:
    tally = Tally(count=3, first_at=AT, last_at=AT, is_new=True)
    message = read(structs.replace(page(failed(1)), tallies=(tally,), unreadable=2, failed_more=4))
    assert message["Subject"] == "Carillon: 7 tasks failed, 2 entries unreadable"
    assert "[new]" in part(message, "plain")
    assert ">new<" in part(message, "html")
    for kind in ("plain", "html"):
        assert "could not be read" in part(message, kind)
        assert "more of other causes" in part(message, kind)


def test_an_urgent_page_says_so() -> None:
    assert subject(structs.replace(page(failed(1)), is_urgent=True)) == "Carillon now: 1 task failed"


def test_the_html_stays_under_100_kb_whatever_is_in_it() -> None:
    gathering = Gathering({})
    evil = "<" * 400
    gathering.add(
        failed(n, url=f"https://{n:03}{'h' * 60}.example/{evil}", error_detail=evil, project=evil) for n in range(2000)
    )
    gathering.add(notice(n, message="&" * 9_000) for n in range(3))
    for made in gathering.pages(AT, frozenset()):
        assert len(part(read(made), "html").encode()) < 100_000


def test_a_page_that_cannot_be_shown_is_a_mail_of_numbers() -> None:
    message = plainly(page(failed(1), failed(2)), LETTERHEAD)
    assert message["Subject"] == "Carillon: 2 tasks failed"
    assert message["Message-ID"] == read(page(failed(1)))["Message-ID"]


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


INJECTIONS = [
    "x\r\nBcc: victim@example.com",
    "x\nSubject: free",
    "x\rX-Evil: 1",
    "x\x00y",
    "x\r\n\r\nbody",
    "=?utf-8?q?x=0D=0ABcc:_victim@example.com?=",
    "x\u2028Bcc: victim@example.com",
    "x\x85Bcc: victim@example.com",
]


@pytest.mark.parametrize("text", INJECTIONS, ids=range(len(INJECTIONS)))
@pytest.mark.parametrize("field", ["project", "method", "url", "error", "error_detail", "labels", "subject", "message"])
def test_an_injection_reaches_no_header(field: str, text: str) -> None:
    if field in {"subject", "message"}:
        sent, harmless = page(notice(1, **{field: text})), page(notice(1))
    else:
        value = {text: text} if field == "labels" else f"https://{text}/" if field == "url" else text
        sent, harmless = page(failed(1, **{field: value})), page(failed(1))
    headers, expected = (render(each, LETTERHEAD).as_bytes().partition(b"\r\n\r\n")[0] for each in (sent, harmless))
    assert headers == expected
    assert read(sent)["Bcc"] is None


@pytest.mark.parametrize("text", INJECTIONS[:4], ids=range(4))
def test_an_address_with_a_line_end_makes_no_mail(text: str) -> None:
    with pytest.raises(ValueError, match=r"invalid arguments|non-printables"):
        render(structs.replace(page(failed(1)), recipients=(f"{text}@example.org",)), LETTERHEAD)


def test_line_ends_and_direction_marks_fake_no_line_of_the_text() -> None:
    text = part(read(page(failed(1, url=EVIL, error_detail=EVIL), notice(subject=EVIL))), "plain")
    assert not any(line.startswith(("Bcc:", "Subject:")) for line in text.splitlines())
    assert not set(text.replace("\r\n", "\n")) & set("\r\x00\u2028\u202e")


def test_html_of_a_user_is_shown_and_not_obeyed() -> None:
    script = "<script>alert(1)</script>"
    shown = part(read(page(failed(1, error_detail=script), notice(subject=script, message=script))), "html")
    assert script not in shown
    assert shown.count("&lt;script&gt;") == 3


def test_a_lone_surrogate_and_an_unreadable_url_are_survived() -> None:
    text = part(read(page(failed(1, url="http://[bad"), notice(message="\ud800"))), "plain")
    assert "unreadable URL" in text


def test_a_password_in_a_url_is_hidden() -> None:
    raw = render(page(failed(1, url="https://me:hunter2@shop.example.com/")), LETTERHEAD).as_bytes()
    assert b"hunter2" not in raw


def test_a_long_notice_is_cut_and_says_so() -> None:
    text = part(read(page(notice(message="x" * (TEXT_CHARACTERS_MAX + 1)))), "plain")
    assert "(cut at 10000 characters)" in text
