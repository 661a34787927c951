"""The way in and out: who gets a session, who does not, and what they are told."""

import statistics
import time
from http.cookies import SimpleCookie
from urllib.parse import parse_qs, urlsplit

import pytest
from redis.asyncio import Redis

from services.ingest.console import throttle
from services.ingest.console.guard import Cookie
from services.ingest.console.page import ROOT
from services.ingest.console.passwords import Busy, Passwords
from tests.integration.console.conftest import SAME_ORIGIN, Answer, Rig
from tests.integration.console.users import HASH, PASSWORD, is_in, log_in, with_password


@pytest.fixture
def no_throttle(monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setattr(throttle, "WAIT_FIRST_S", 0)
    monkeypatch.setattr(throttle, "PER_ADDRESS", 1_000_000)


def cookie_of(answer: Answer) -> SimpleCookie:
    return SimpleCookie(answer.headers["Set-Cookie"])


# --- in


async def test_the_right_password_leads_in_and_to_the_page_that_was_asked_for(console: Rig) -> None:
    await with_password(console)
    visit = await console.visit()
    asked = await visit.get("/account?x=1")
    assert asked.status == 303
    [next_] = parse_qs(urlsplit(asked.location).query)["next"]

    sent = await log_in(visit, next_=next_)
    arrived = await visit.follow(sent)

    assert (arrived.status, arrived.location) == (303, f"{ROOT}/account?x=1")
    assert await is_in(visit)


async def test_a_name_in_capitals_and_with_spaces_around_it_is_the_same(console: Rig) -> None:
    await with_password(console)
    assert (await log_in(await console.visit(), " Ann ")).status == 303


async def test_the_cookie_is_for_http_only_and_for_this_site_and_secure_unless_told_otherwise(console: Rig) -> None:
    await with_password(console)
    plain = cookie_of(await log_in(await console.visit()))["carillon"]
    console.app.guard.cookie = Cookie(is_secure=True)
    secure = cookie_of(await log_in(await console.visit()))["__Host-carillon"]

    for morsel in (plain, secure):
        assert (morsel["httponly"], morsel["samesite"], morsel["path"]) == (True, "Lax", "/")
        assert morsel["domain"] == ""
    assert (plain["secure"], secure["secure"]) == ("", True)


async def test_who_logs_in_is_in_the_audit_log_with_the_address(console: Rig) -> None:
    await with_password(console)
    await log_in(await console.visit())

    [row] = await console.audit()
    assert (row["action"], row["actor"], row["object"], row["outcome"]) == ("login", "ann", "ann", "done")
    assert row["address"] == "127.0.0.1"


async def test_a_log_in_leads_nowhere_but_into_the_console(console: Rig, no_throttle: None) -> None:
    await with_password(console)
    elsewhere = (
        "https://example.com/console", "//example.com/console", "/v1/tasks", "/consoles", "\\\\example.com",
        "/console/../v1", "/console/%2e%2e/v1", "/console/logout", "javascript:alert(1)", "http://[",
        "/console\r\nX: y",
    )  # fmt: skip
    for next_ in elsewhere:
        visit = await console.visit()
        arrived = await visit.follow(await log_in(visit, next_=next_))
        assert arrived.status == 303
        assert arrived.location.split("?")[0] in {ROOT, f"{ROOT}X: y"}, next_


async def test_who_is_in_already_is_sent_on(console: Rig) -> None:
    answer = await (await console.login()).get(f"/login?next={ROOT}/account")
    assert (answer.status, answer.location) == (303, f"{ROOT}/account")


async def test_a_password_that_was_kept_in_an_older_way_is_kept_anew(console: Rig) -> None:
    from argon2 import PasswordHasher, extract_parameters

    old = PasswordHasher(time_cost=1, memory_cost=64, parallelism=1).hash(PASSWORD)
    await with_password(console, password=old)
    assert (await log_in(await console.visit())).status == 303
    async with console.postgres.acquire() as connection:
        kept = await connection.fetchval("SELECT password FROM console_user")
    assert extract_parameters(kept).memory_cost == 19_456
    assert (await log_in(await console.visit())).status == 303


# --- not in


async def refusals(console: Rig) -> dict[str, Answer]:
    await with_password(console)
    await with_password(console, "gone")
    await with_password(console, "new", password=None)
    async with console.postgres.acquire() as connection:
        await connection.execute("UPDATE console_user SET disabled_at = now() WHERE name = 'gone'")
    visit = await console.visit()
    return {
        "wrong password": await log_in(visit, "ann", "not a lamp on the quay"),
        "unknown user": await log_in(visit, "eve"),
        "disabled user": await log_in(visit, "gone"),
        "no password yet": await log_in(visit, "new"),
        "no name at all": await log_in(visit, ""),
        "no such name": await log_in(visit, "<b>\0'; --" * 30),
    }


async def test_whatever_is_wrong_the_answer_is_the_same(console: Rig, no_throttle: None) -> None:
    answers = await refusals(console)
    first = answers["wrong password"]
    assert first.status == 401
    assert "The name or the password is wrong, or the user is disabled." in first.text
    assert "Set-Cookie" not in first.headers
    for why, answer in answers.items():
        if why == "no such name":
            assert "<b>" not in answer.text
            assert answer.status == 401
            continue
        name = {"unknown user": "eve", "disabled user": "gone", "no password yet": "new", "no name at all": ""}
        if why == "no name at all":  # the cursor stands in the field that is empty
            assert answer.status == 401
            continue
        told = answer.text.replace(f'value="{name.get(why, "ann")}"', 'value="ann"')
        assert (answer.status, told) == (401, first.text), why
        assert set(answer.headers) == set(first.headers)


async def test_whatever_is_wrong_the_audit_log_says_no_more_than_that(console: Rig, no_throttle: None) -> None:
    """Above all not what was typed as a name: now and then that is a password."""
    answers = await refusals(console)
    rows = await console.audit()
    assert len(rows) == len(answers)
    assert {(row["action"], row["actor"], row["object"], row["detail"], row["outcome"]) for row in rows} == {
        ("login", "", "", "{}", "refused")
    }


async def test_an_unknown_user_is_told_as_late_as_a_known_one(console: Rig, no_throttle: None) -> None:
    await with_password(console)
    visit = await console.visit()

    async def one(name: str) -> float:
        begun = time.process_time()  # of all threads, the server's too; the machine may have others to serve
        assert (await log_in(visit, name, "not a lamp on the quay")).status == 401
        return time.process_time() - begun

    taken: dict[str, list[float]] = {"ann": [], "eve": []}
    for _ in range(8):
        for name, times in taken.items():
            times.append(await one(name))
    known, unknown = (min(times) for times in taken.values())
    assert 0.6 < unknown / known < 1.6, {name: statistics.median(times) for name, times in taken.items()}


async def test_a_log_in_from_another_site_is_refused_before_the_password_is_looked_at(console: Rig) -> None:
    await with_password(console)
    visit = await console.visit()
    for headers in ({"Sec-Fetch-Site": "cross-site"}, {"Origin": "https://example.com"}, {}):
        fields = {"name": "ann", "password": PASSWORD}
        answer = await visit.post("/login", fields, headers=headers)
        assert answer.status == 403
        assert "Set-Cookie" not in answer.headers


# --- throttling


@pytest.fixture
def long_waits(monkeypatch: pytest.MonkeyPatch) -> None:
    """Longer than a slow machine needs for the next request."""
    monkeypatch.setattr(throttle, "WAIT_FIRST_S", 60)


async def test_after_a_wrong_password_the_right_one_has_to_wait_and_so_has_a_user_who_does_not_exist(
    console: Rig, long_waits: None
) -> None:
    await with_password(console)
    texts = set()
    for name in ("ann", "eve"):
        visit = await console.visit()
        assert (await log_in(visit, name, "not a lamp on the quay")).status == 401
        waits = await log_in(visit, name)
        assert waits.status == 429
        seconds = waits.headers["Retry-After"]
        assert 30 < int(seconds) <= 60
        assert f"Wait {seconds} seconds" in waits.text
        assert "Set-Cookie" not in waits.headers
        texts.add(waits.text.split("Request ")[0].replace(seconds, "60"))
    assert len(texts) == 1


async def test_who_has_waited_gets_in_and_begins_anew(console: Rig, monkeypatch: pytest.MonkeyPatch) -> None:
    await with_password(console)
    visit = await console.visit()
    monkeypatch.setattr(throttle, "WAIT_FIRST_S", 0.05)
    await log_in(visit, password="not a lamp on the quay")
    monkeypatch.setattr(throttle, "WAIT_FIRST_S", 30)  # for the try that succeeds, were it not taken back
    deadline = time.monotonic() + 5
    while (answer := await log_in(visit)).status == 429:
        assert time.monotonic() < deadline
    assert answer.status == 303
    assert (await log_in(visit)).status == 303, "a success is no failure"


async def test_who_is_sent_away_leaves_no_row_in_the_audit_log(console: Rig, long_waits: None) -> None:
    """Without a session somebody could fill it."""
    visit = await console.visit()
    for _ in range(5):
        await log_in(visit)
    assert [row["outcome"] for row in await console.audit()] == ["refused"]


async def test_when_too_many_are_at_it_the_next_is_told_to_come_again(
    console: Rig, monkeypatch: pytest.MonkeyPatch
) -> None:
    async def busy(*_: object) -> None:
        raise Busy

    await with_password(console)
    monkeypatch.setattr(Passwords, "check", busy)
    answer = await log_in(await console.visit())
    assert answer.status == 429
    assert answer.headers["Retry-After"] == "1"


async def test_without_redis_nobody_gets_in_and_the_page_says_why(
    console: Rig, monkeypatch: pytest.MonkeyPatch
) -> None:
    async def away(*_: object, **__: object) -> None:
        raise ConnectionError("refused")

    await with_password(console)
    monkeypatch.setattr(Redis, "execute_command", away)
    monkeypatch.setattr(Redis, "evalsha", away)
    visit = await console.visit()
    assert (await visit.get("/login")).status == 200
    answer = await log_in(visit)
    assert answer.status == 503
    assert "Redis does not answer" in answer.text
    assert "Set-Cookie" not in answer.headers


# --- sessions


async def test_a_cookie_from_before_the_log_in_is_not_the_one_after_it(console: Rig) -> None:
    """Fixation: who put it there would be in too."""
    await with_password(console)
    thief, victim = await console.login("viewer", "thief"), await console.visit()
    jar = thief.client.session.cookie_jar
    stolen = next(morsel.value for morsel in jar if morsel.key == "carillon")
    victim.client.session.cookie_jar.update_cookies({"carillon": stolen}, victim.client.make_url("/"))

    answer = await log_in(victim)

    assert cookie_of(answer)["carillon"].value != stolen
    assert not await is_in(thief), "and the one from before is over"


async def test_a_made_up_cookie_is_not_taken_over(console: Rig) -> None:
    await with_password(console)
    visit = await console.visit()
    visit.client.session.cookie_jar.update_cookies({"carillon": "chosen"}, visit.client.make_url("/"))
    assert cookie_of(await log_in(visit))["carillon"].value != "chosen"


async def test_who_logs_out_is_out_even_with_the_old_cookie(console: Rig) -> None:
    visit = await console.login()
    [morsel] = list(visit.client.session.cookie_jar)
    answer = await visit.post("/logout")
    assert answer.status == 303
    assert cookie_of(answer)["carillon"]["max-age"] == "0"
    assert "You are logged out." in (await visit.follow(answer)).text

    visit.client.session.cookie_jar.update_cookies({"carillon": morsel.value}, visit.client.make_url("/"))
    assert not await is_in(visit)


@pytest.mark.parametrize("how", ["disabled_at = now()", "epoch = epoch + 1"])
async def test_a_session_ends_at_the_next_request_when_its_user_is_disabled_or_logged_out_everywhere(
    console: Rig, how: str
) -> None:
    visit = await console.login()
    assert await is_in(visit)
    async with console.postgres.acquire() as connection:
        await connection.execute(f"UPDATE console_user SET {how}")

    assert (await visit.get("/account")).location.startswith(f"{ROOT}/login?next=")
    assert (await visit.post("/logout")).status == 401


# --- a browser that does not keep the cookie


async def test_a_browser_that_did_not_keep_the_secure_cookie_is_told_how_to_mend_it(console: Rig) -> None:
    await with_password(console)
    console.app.guard.cookie = Cookie(is_secure=True)
    visit = await console.visit()
    arrived = await visit.follow(await log_in(visit, next_=f"{ROOT}/account"))

    assert arrived.status == 200
    assert "your browser did not keep the cookie" in arrived.text
    assert "https://" in arrived.text
    assert f"CARILLON_PUBLIC_URL=http://{visit.client.host}:{visit.client.port}" in arrived.text
    assert f'value="{ROOT}/account"' in arrived.text


async def test_a_session_that_is_over_is_no_lost_cookie(console: Rig) -> None:
    visit = await console.login()
    async with console.postgres.acquire() as connection:
        await connection.execute("UPDATE console_user SET epoch = epoch + 1")
    answer = await visit.get("/login/done")
    assert (answer.status, answer.location) == (303, f"{ROOT}/login?next=/console")


async def test_while_there_is_no_user_the_page_says_how_the_first_one_is_made(console: Rig) -> None:
    visit = await console.visit()
    assert "services.ingest.users link" in (await visit.get("/login")).text.split("<form")[0]
    await with_password(console)
    assert "services.ingest.users link" not in (await visit.get("/login")).text.split("<form")[0]


def test_the_headers_of_the_tests_are_those_of_a_browser() -> None:
    assert SAME_ORIGIN == {"Sec-Fetch-Site": "same-origin"}
    assert HASH.startswith("$argon2id$v=19$m=19456,t=2,p=1$")
