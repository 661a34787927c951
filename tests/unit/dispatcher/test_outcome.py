"""The table of the public interface, section 3, row by row."""

import pytest
from hypothesis import given
from hypothesis import strategies as st

from services.dispatcher.outcome import Outcome, judge
from tests.unit.dispatcher.samples import a_call, an_answer

NETWORK = ["dns", "connect", "tls", "timeout", "disconnected", "protocol"]


def judged(status: int | None, body: bytes = b"", error: object = None, call: object = None, **headers: str) -> Outcome:
    return judge(call or a_call(), an_answer(status, body, error, **headers))  # type: ignore[arg-type]


@pytest.mark.parametrize("status", [200, 201, 202, 204, 206, 226, 299])
def test_any_2xx_succeeds(status: int) -> None:
    assert judged(status) == Outcome("succeeded")


@pytest.mark.parametrize("status", [408, 425, 429, 400, 401, 403, 404, 409, 418, 422, 499])
def test_a_4xx_is_retried_because_the_receiver_may_be_mid_deploy(status: int) -> None:
    assert judged(status) == Outcome("retry", "client_error", f"HTTP {status}")


@pytest.mark.parametrize("status", [500, 501, 502, 503, 504, 511, 599])
def test_a_5xx_is_retried(status: int) -> None:
    assert judged(status) == Outcome("retry", "server_error", f"HTTP {status}")


@pytest.mark.parametrize("status", [300, 301, 302, 303, 304, 307, 308])
def test_a_redirect_is_a_failure_that_is_retried(status: int) -> None:
    assert judged(status, location="http://elsewhere/") == Outcome("retry", "redirect", f"HTTP {status}, not followed")


@pytest.mark.parametrize("status", [101, 600, 999])
def test_a_status_of_no_class_is_retried(status: int) -> None:
    assert judged(status).kind == "retry"


@pytest.mark.parametrize("error", NETWORK)
def test_an_error_of_the_network_is_retried_under_its_own_name(error: str) -> None:
    assert judged(None, error=error) == Outcome("retry", error, f"{error} it was")  # type: ignore[arg-type]


def test_a_blocked_address_fails_at_once() -> None:
    assert judged(None, error="blocked_address") == Outcome("failed", "blocked_address", "blocked_address it was")


def test_410_fails_at_once() -> None:
    assert judged(410) == Outcome("failed", "gone", "HTTP 410")


@pytest.mark.parametrize("value", ["true", "True", " TRUE "])
@pytest.mark.parametrize("status", [400, 404, 408, 429, 499])
def test_a_4xx_may_refuse_its_retries(status: int, value: str) -> None:
    assert judged(status, carillon_no_retry=value).kind == "failed"
    assert judged(status, carillon_no_retry=value).error == "refused_retry"


@pytest.mark.parametrize("value", ["false", "1", "yes", "", "truely"])
def test_only_the_word_true_refuses_retries(value: str) -> None:
    assert judged(404, carillon_no_retry=value).kind == "retry"


@pytest.mark.parametrize("status", [200, 302, 500, 503])
def test_other_classes_cannot_refuse_retries(status: int) -> None:
    assert judged(status, carillon_no_retry="true").error != "refused_retry"


@pytest.mark.parametrize(
    ("expected", "status", "kind"),
    [
        (("200",), 200, "succeeded"),
        (("200",), 201, "retry"),
        (("2xx", "404"), 404, "succeeded"),
        (("2xx", "404"), 204, "succeeded"),
        (("3xx",), 302, "succeeded"),
        (("410",), 410, "succeeded"),
        (("4xx",), 200, "retry"),
        (("201",), 410, "failed"),
        (("20",), 200, "retry"),
        ((), 200, "retry"),
    ],
)
def test_the_expected_statuses_decide(expected: tuple[str, ...], status: int, kind: str) -> None:
    assert judged(status, call=a_call(expect_status=expected)).kind == kind


def test_an_expected_status_that_did_not_come_is_named() -> None:
    outcome = judged(204, call=a_call(expect_status=("200", "201")))
    assert outcome == Outcome("retry", "expectation", "HTTP 204, expected 200 or 201")


@pytest.mark.parametrize(
    ("body", "kind"),
    [
        (b"it is \xc3\xa9crit", "succeeded"),
        (b"it is \xe9crit", "retry"),
        (b"", "retry"),
        (b"\xff\xc3\xa9crit\xff", "succeeded"),
    ],
)
def test_the_expected_text_is_looked_for_in_the_bytes(body: bytes, kind: str) -> None:
    assert judged(200, body, call=a_call(expect_body_contains="écrit")).kind == kind


def test_a_text_that_is_missing_is_an_expectation_not_met_and_a_500_stays_a_server_error() -> None:
    call = a_call(expect_body_contains="ok")
    assert judged(200, b"no", call=call).error == "expectation"
    assert judged(500, b"ok", call=call).error == "server_error"


@pytest.mark.parametrize(
    "body",
    [
        b'{"success": true}',
        b' {"success":true,"a":[1]} \n',
    ],
)
def test_the_ancestors_rule_is_200_and_success_true(body: bytes) -> None:
    assert judged(200, body, call=a_call(expect_json_success=True)).kind == "succeeded"
    assert judged(201, body, call=a_call(expect_json_success=True)) == Outcome(
        "retry", "expectation", "HTTP 201 without JSON success: true"
    )


@pytest.mark.parametrize(
    "body",
    [
        b"", b"ok", b'{"success": "true"}', b'{"success": 1}', b'{"success": false}', b'{"Success": true}', b"[true]",
        b'{"success": true', b'{"success": true, "name": "caf\xe9"}', b"[" * 60_000, b'{"a":' * 20_000, b"\xff\xfe",
    ],
)  # fmt: skip
def test_a_body_that_does_not_say_success_is_retried_whatever_it_is(body: bytes) -> None:
    assert judged(200, body, call=a_call(expect_json_success=True)).error == "expectation"


@given(
    status=st.none() | st.integers(100, 999),
    body=st.binary(max_size=200),
    headers=st.dictionaries(st.sampled_from(["carillon_no_retry", "retry_after"]), st.text(max_size=20)),
    expected=st.lists(st.sampled_from(["2xx", "3xx", "404", "410", "200"]), max_size=3),
    contains=st.none() | st.just("ok"),
    json_success=st.booleans(),
)
def test_every_answer_has_an_outcome(
    status: int | None,
    body: bytes,
    headers: dict[str, str],
    expected: list[str],
    contains: str | None,
    json_success: bool,
) -> None:
    call = a_call(expect_status=tuple(expected), expect_body_contains=contains, expect_json_success=json_success)
    outcome = judged(status, body, None if status else "timeout", call, **headers)
    assert (outcome.error is None) == (outcome.kind == "succeeded")
