"""The form of a call: what is typed is the document that a client would have sent, and comes back as it was."""

import re

import msgspec
import pytest
from hypothesis import given
from hypothesis import strategies as st

from libs.common.contracts import Call
from libs.common.egress import EgressRules
from services.ingest.console.template_form import (
    DEFAULTS,
    HIDDEN,
    Document,
    faults_of,
    fields_in,
    template_fields,
    template_json,
)
from services.ingest.creation import call_of
from services.ingest.problems import FieldError, Problem
from services.ingest.requests import TaskTemplate, read_json

EGRESS = EgressRules()
decode = msgspec.json.Decoder(TaskTemplate).decode


def document(**typed: str) -> Document:
    return template_json({**DEFAULTS, "url": "https://example.com/", **typed})


def call(**typed: str) -> Call:
    """What becomes of what was typed; all of it must be right."""
    made = document(**typed)
    errors: list[FieldError] = []
    new = read_json(made.raw, decode)
    made_call = call_of(new, EGRESS, errors)
    assert [*made.errors, *errors] == []
    return made_call


def refusal(**typed: str) -> list[FieldError]:
    made = document(**typed)
    try:
        read_json(made.raw, decode)
    except Problem as problem:
        return [*made.errors, *problem.errors]
    return list(made.errors)


def test_the_form_of_a_new_one_asks_for_what_the_api_would_take_for_granted() -> None:
    assert call() == call_of(TaskTemplate(url="https://example.com/"), EGRESS, [])


@pytest.mark.parametrize(
    ("typed", "schedule_s"),
    [("", None), ("  ", None), ("none", ()), ("None", ()), ("5, 15 30\n0.5", (5.0, 15.0, 30.0, 0.5))],
)
def test_a_ladder_is_numbers_or_none_or_that_of_the_installation(
    typed: str, schedule_s: tuple[float, ...] | None
) -> None:
    assert call(schedule_s=typed).schedule_s == schedule_s


def test_a_box_that_is_not_ticked_is_not_sent() -> None:
    assert call(respect_retry_after="").respect_retry_after is False
    assert call(respect_retry_after="on").respect_retry_after is True


@pytest.mark.parametrize(
    ("kind", "typed", "content", "content_type"),
    [
        ("json", '{"a": 1.50, "a": 2}', b'{"a": 1.50, "a": 2}', "application/json"),
        ("json", "  ", b"", None),
        ("text", " a ", b" a ", "text/plain; charset=utf-8"),
        ("text", "", b"", None),
        ("base64", "AP8=\n", b"\x00\xff", "application/octet-stream"),
    ],
)
def test_a_body_goes_out_as_it_was_typed(kind: str, typed: str, content: bytes, content_type: str | None) -> None:
    made = call(body_kind=kind, body=typed)
    assert made.body == content
    assert dict(made.headers).get("Content-Type") == content_type


@pytest.mark.parametrize(
    ("typed", "pointer", "says"),
    [
        ({"body": "{"}, "/body", "is no JSON"),
        ({"body": '"a", "url": "https://evil.example/"'}, "/body", "is no JSON"),
        ({"body": "[" * 100_000}, "/body", "is no JSON"),
        ({"body_kind": "xml", "body": "<a/>"}, "/body", "is of no kind"),
        ({"headers": "X-A: 1\nX-B"}, "/headers", "has no colon in line 2"),
        ({"headers": "X-A: 1\nX-A: 2"}, "/headers/X-A", "stands twice"),
        ({"headers": f"X-Key: {HIDDEN}"}, "/headers/X-Key", "has no value that is known"),
        ({"labels": "a=1\nb"}, "/labels", "has no = in line 2"),
        ({"labels": "a=1\na=2"}, "/labels/a", "stands twice"),
        ({"url": ""}, "/url", "url is missing; add it"),
        ({"timeout_s": "soon"}, "/timeout_s", "expected `float`, got `str`"),
        ({"timeout_s": "1e3"}, "/timeout_s", "expected `float`, got `str`"),
        ({"schedule_s": "5, x"}, "/retry/schedule_s/1", "expected `float`, got `str`"),
        ({"method": "TRACE"}, "/method", "invalid enum value"),
    ],
    ids=str,
)
def test_what_cannot_be_meant_is_refused_by_its_pointer(typed: dict[str, str], pointer: str, says: str) -> None:
    [error] = refusal(**typed)
    assert error.pointer == pointer
    assert says in error.detail


def test_a_hidden_value_is_the_stored_one_of_that_name_whatever_its_case() -> None:
    stored = [("authorization", "Bearer sesame")]
    made = template_json({**DEFAULTS, "url": "https://example.com/", "headers": f"Authorization: {HIDDEN}"}, stored)
    assert made.errors == []
    assert msgspec.json.decode(made.raw)["headers"] == {"Authorization": "Bearer sesame"}


def test_more_members_stand_beside_those_of_the_template() -> None:
    made = template_json({**DEFAULTS, "url": "https://example.com/"}, more={"delay": "5m", "expires_at": None})
    assert msgspec.json.decode(made.raw)["delay"] == "5m"


def test_line_ends_of_forms_become_those_of_texts() -> None:
    assert fields_in({"a": "1\r\n2\r\n", "file": object()}) == {"a": "1\n2\n"}


TEXTS = st.text(st.characters(codec="utf-8"), max_size=20)
TOKENS = st.text("abcXYZ-09", min_size=1, max_size=8)
VISIBLE = st.text(st.characters(codec="utf-8", exclude_categories=("Cc", "Cs")), max_size=12).map(str.strip)


@given(
    st.builds(
        Call,
        url=st.just("https://example.com/a?b=c"),
        method=st.sampled_from(("POST", "GET", "PUT", "PATCH", "DELETE", "HEAD")),
        headers=st.dictionaries(
            TOKENS.filter(lambda name: not name.lower().startswith("proxy")), VISIBLE, max_size=4
        ).map(lambda headers: tuple({name.lower(): (f"X-{name}", value) for name, value in headers.items()}.values())),
        body=st.binary(max_size=20) | TEXTS.map(str.encode) | st.sampled_from((b'{"a":\r\n1}', b'{"a": 1}', b"\n\na")),
        timeout_s=st.sampled_from((0.1, 15.0, 59.999)),
        schedule_s=st.none() | st.lists(st.sampled_from((0.0, 0.25, 5.0, 86400.0)), max_size=3).map(tuple),
        respect_retry_after=st.booleans(),
        expect_status=st.lists(st.sampled_from(("2xx", "204", "3xx")), min_size=1, max_size=3).map(tuple),
        expect_body_contains=st.none() | VISIBLE.filter(bool),
        callback_success=st.none() | st.just("https://example.com/ok"),
        callback_failure=st.none() | st.just("https://example.com/failed"),
    ),
    st.dictionaries(TOKENS, st.text(st.characters(codec="utf-8", exclude_categories=("Cc", "Cs")), max_size=9)),
)
def test_the_form_of_a_call_says_that_call(original: Call, labels: dict[str, str]) -> None:
    typed = template_fields(original, labels)
    sent = fields_in({name: _by_a_browser(value) for name, value in typed.items()})
    made = template_json(sent, original.headers)
    assert made.errors == []
    new = read_json(made.raw, decode)
    assert new.labels == labels
    again = call_of(new, EGRESS, [])
    wanted = original.headers if not original.body or "Content-Type" in dict(original.headers) else again.headers
    assert again.headers[: len(original.headers)] == wanted[: len(original.headers)] == original.headers
    assert msgspec.structs.replace(again, headers=()) == msgspec.structs.replace(original, headers=())


def _by_a_browser(text: str) -> str:
    """HTML: a NUL is replaced, and each line end sent as CRLF."""
    return re.sub("\r\n|\r|\n", "\r\n", text.replace("\0", "\ufffd"))


@pytest.mark.parametrize(
    ("content_type", "body", "typed"),
    [
        ("application/json", b"{}", ""),
        ("application/json; charset=utf-8", b"{}", "application/json; charset=utf-8"),
        ("text/plain; charset=utf-8", b"a", ""),
        ("application/xml", b"<a/>", "application/xml"),
        ("application/json", b"", "application/json"),
    ],
)
def test_a_content_type_is_shown_where_the_body_does_not_say_it(content_type: str, body: bytes, typed: str) -> None:
    original = Call(url="https://example.com/", headers=(("Content-Type", content_type),), body=body)
    fields = template_fields(original, {})
    assert fields["content_type"] == typed
    assert call(**fields).headers == original.headers


def test_a_secret_is_in_no_field() -> None:
    typed = template_fields(Call(url="https://example.com/", headers=(("X-Api-Key", "sesame"), ("X-A", "b"))), {})
    assert typed["headers"] == f"X-Api-Key: {HIDDEN}\nX-A: b"
    assert "sesame" not in str(typed)


@pytest.mark.parametrize(
    ("error", "field", "text"),
    [
        (FieldError("/task/url", "required", "url is missing; add it"), "url", "url is missing; add it"),
        (FieldError("/cron", "bad_cron", "is no cron expression"), "cron", "cron is no cron expression"),
        (FieldError("/task/headers/X~1A", "bad_name", "is bad"), "headers", "headers.X/A is bad"),
        (FieldError("/task/retry/schedule_s/2", "x", "is odd"), "schedule_s", "retry.schedule_s.2 is odd"),
        (FieldError("/task/body_base64", "x", "is no base64"), "body", "body_base64 is no base64"),
        (FieldError("/task/callbacks/failure", "x", "is no URL"), "callback_failure", "callbacks.failure is no URL"),
        (FieldError("/timeout_s", "wrong_type", "expected `float`"), "timeout_s", "timeout_s: expected `float`"),
        (FieldError("", "x", "The schedule is odd"), "", "The schedule is odd"),
        (FieldError("/due_at", "x", "is odd"), "due_at", "due_at is odd"),
    ],
)  # fmt: skip
def test_a_fault_is_told_beside_its_field(error: FieldError, field: str, text: str) -> None:
    assert faults_of([error, error]) == {field: [text, text]}
