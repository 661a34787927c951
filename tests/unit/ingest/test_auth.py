"""Who a key belongs to, with a Postgres that is a dict and a clock that is moved by hand."""

import asyncio
from collections.abc import Mapping, Sequence
from datetime import datetime, timedelta
from typing import Any
from uuid import UUID

import pytest

from services.ingest import auth
from services.ingest.auth import (
    ALL_SCOPES,
    AWAY_S,
    BOOTSTRAP_KEY_ID,
    FRESH_S,
    KNOWN_MAX,
    UNCONFIRMED_MAX_S,
    UNKNOWN_MAX,
    UNKNOWN_S,
    USED_EVERY_S,
    Keys,
)
from services.ingest.key_limits import Limit
from services.ingest.key_text import new_key
from services.ingest.problems import Problem
from services.ingest.store_keys import StoredKey
from tests.unit.ingest.key_samples import NOW, FakeKeyStore, HandClock, a_key

BOOTSTRAP = "a-key-of-enough-length"


class Bench:
    def __init__(self) -> None:
        self.clock, self.store = HandClock(), FakeKeyStore()
        self.keys = Keys(BOOTSTRAP, self.store, clock=self.clock)

    def made(self, **different: Any) -> tuple[str, StoredKey]:
        text = new_key()
        key = a_key(text, **different)
        self.store.put(key)
        return text, key

    async def status(self, text: str) -> int:
        """200, or how the key is refused."""
        try:
            await self.keys.caller(f"Bearer {text}")
        except Problem as problem:
            return problem.status
        return 200


@pytest.fixture
async def bench() -> Bench:
    """Which has polled once."""
    bench = Bench()
    await bench.keys.poll()
    return bench


# --- who it is


async def test_a_key_gives_its_project_scopes_and_limit(bench: Bench) -> None:
    text, key = bench.made(scopes=("tasks:read", "admin"), per_s=5.0, burst=7)
    caller = await bench.keys.caller(f"bearer  {text} ")
    assert (caller.project, caller.key_id) == ("shop", str(key.id))
    assert caller.scopes == {"tasks:read", "admin"}
    assert caller.limit == Limit(5.0, 7)


async def test_a_scope_that_this_release_does_not_know_gives_nothing(bench: Bench) -> None:
    text, _ = bench.made(scopes=("tasks:read", "tasks:fly"))
    assert (await bench.keys.caller(f"Bearer {text}")).scopes == {"tasks:read"}


async def test_the_bootstrap_key_may_do_everything_without_postgres(bench: Bench) -> None:
    bench.store.is_away = True
    caller = await bench.keys.caller(f"Bearer {BOOTSTRAP}")
    assert (caller.project, caller.key_id, caller.scopes) == ("default", BOOTSTRAP_KEY_ID, ALL_SCOPES)
    assert bench.store.looked_up == []


async def refusal(keys: Keys, authorization: str | None) -> tuple[Any, ...]:
    with pytest.raises(Problem) as refused:
        await keys.caller(authorization)
    problem = refused.value
    return (problem.status, problem.code, problem.detail, tuple(problem.errors), tuple(problem.headers.items()))


async def test_the_refusal_is_the_same_whatever_the_reason(bench: Bench) -> None:
    text, _ = bench.made()
    revoked, _ = bench.made(revoked_at=NOW)
    expired, _ = bench.made(expires_at=NOW)
    asked = {
        "none": None,
        "empty": "",
        "no key": "Bearer",
        "unknown": f"Bearer {new_key()}",
        "malformed": "Bearer ck_nonsense",
        "revoked": f"Bearer {revoked}",
        "expired": f"Bearer {expired}",
        "wrong scheme": f"Basic {text}",
        "bootstrap, wrong scheme": f"Basic {BOOTSTRAP}",
        "bootstrap, too long": f"Bearer {BOOTSTRAP}x",
        "odd bytes": "Bearer \udcff\udcfe",
        "two keys": f"Bearer {text} {text}",
    }
    refusals = {reason: await refusal(bench.keys, authorization) for reason, authorization in asked.items()}
    assert set(refusals.values()) == {refusals["none"]}
    assert refusals["none"][0] == 401


async def test_what_cannot_be_a_key_is_refused_without_a_look_up(bench: Bench) -> None:
    assert await bench.status("ck_" + "a" * 36) == 401
    assert await bench.status("hunter2") == 401
    assert bench.store.looked_up == []


# --- expiry


async def test_a_key_works_until_the_very_moment_that_it_expires(bench: Bench) -> None:
    text, _ = bench.made(expires_at=NOW + timedelta(seconds=1))
    assert await bench.status(text) == 200
    bench.clock.passed_s = 0.999
    assert await bench.status(text) == 200
    bench.clock.passed_s = 1.0
    assert await bench.status(text) == 401
    assert len(bench.store.looked_up) == 1


# --- revocation


async def test_a_known_key_costs_no_look_up_while_polls_succeed(bench: Bench) -> None:
    text, _ = bench.made()
    bench.store.changes.clear()
    for _ in range(50):
        assert await bench.status(text) == 200
        bench.clock.passed_s += 1
        await bench.keys.poll()
    assert len(bench.store.looked_up) == 1


async def test_a_revoked_key_is_refused_after_the_next_poll(bench: Bench) -> None:
    text, key = bench.made()
    assert await bench.status(text) == 200
    bench.store.put(key._replace(revoked_at=NOW))
    await bench.keys.poll()
    assert await bench.status(text) == 401


async def test_a_revoked_key_is_refused_after_two_seconds_even_without_a_poll(bench: Bench) -> None:
    text, key = bench.made()
    assert await bench.status(text) == 200
    bench.store.put(key._replace(revoked_at=NOW))
    bench.clock.passed_s = FRESH_S + 0.001
    assert FRESH_S <= 2
    assert await bench.status(text) == 401


async def test_a_key_revoked_while_it_was_looked_up_is_refused_after_two_seconds(bench: Bench) -> None:
    """The look-up saw it before; the poll came before the look-up's answer was known."""
    text, key = bench.made()
    read, gate, find = asyncio.Event(), asyncio.Event(), bench.store.find

    async def slow(digests: Sequence[bytes]) -> list[StoredKey]:
        found = await find(digests)
        read.set()
        await gate.wait()
        return found

    bench.store.find = slow  # type: ignore[method-assign]
    asking = asyncio.create_task(bench.status(text))
    await read.wait()
    bench.store.put(key._replace(revoked_at=NOW))
    bench.clock.passed_s = 1.9
    await bench.keys.poll()
    bench.store.changes.clear()  # the next poll would tell; there is none
    gate.set()
    assert await asking == 200
    bench.clock.passed_s = 2.1
    assert await bench.status(text) == 401


async def test_the_first_poll_confirms_nothing_that_was_read_before_it() -> None:
    bench = Bench()
    text, key = bench.made()
    assert await bench.status(text) == 200
    bench.store.put(key._replace(revoked_at=NOW))
    bench.clock.passed_s = 1.5
    await bench.keys.poll()
    bench.clock.passed_s = 2.5
    assert await bench.status(text) == 401


async def test_a_key_that_gets_an_end_has_it_after_the_next_poll(bench: Bench) -> None:
    text, key = bench.made()
    assert await bench.status(text) == 200
    bench.store.put(key._replace(expires_at=NOW + timedelta(seconds=3)))
    await bench.keys.poll()
    assert await bench.status(text) == 200
    bench.clock.passed_s = 3
    await bench.keys.poll()
    assert await bench.status(text) == 401


# --- Postgres away


async def test_without_postgres_a_known_key_works_for_ten_minutes_and_an_unknown_one_is_503(bench: Bench) -> None:
    known, _ = bench.made()
    unknown, _ = bench.made()
    assert await bench.status(known) == 200
    bench.store.is_away = True
    bench.clock.passed_s = UNCONFIRMED_MAX_S - 1
    await bench.keys.poll()
    assert await bench.status(known) == 200
    assert await bench.status(unknown) == 503
    bench.clock.passed_s = UNCONFIRMED_MAX_S + 1
    assert await bench.status(known) == 503
    bench.store.is_away = False
    await bench.keys.poll()
    assert await bench.status(known) == 200
    assert await bench.status(unknown) == 200


async def test_without_postgres_an_expired_key_is_refused_all_the_same(bench: Bench) -> None:
    text, _ = bench.made(expires_at=NOW + timedelta(seconds=60))
    assert await bench.status(text) == 200
    bench.store.is_away = True
    bench.clock.passed_s = 60
    assert await bench.status(text) == 401


async def test_while_postgres_is_away_few_requests_wait_for_it(bench: Bench) -> None:
    text, _ = bench.made()
    bench.store.is_away = True
    for _ in range(100):
        assert await bench.status(text) == 503
        bench.clock.passed_s += AWAY_S / 50
    assert len(bench.store.looked_up) <= 3


async def test_a_postgres_that_fell_silent_costs_a_request_a_second_at_most(
    bench: Bench, monkeypatch: pytest.MonkeyPatch
) -> None:
    text, _ = bench.made()

    async def silent(digests: Sequence[bytes]) -> list[StoredKey]:
        await asyncio.Event().wait()
        raise AssertionError

    bench.store.find = silent  # type: ignore[method-assign]
    assert await bench.status(text) == 503
    monkeypatch.setattr(auth, "LOOKUP_S", 1000.0)  # what a second that waits would wait for
    assert await asyncio.wait_for(bench.status(text), 30) == 503


# --- guessing


async def test_an_unknown_key_is_looked_up_once_in_ten_seconds(bench: Bench) -> None:
    guess = new_key()
    for _ in range(20):
        assert await bench.status(guess) == 401
    assert len(bench.store.looked_up) == 1
    bench.clock.passed_s = UNKNOWN_S
    assert await bench.status(guess) == 401
    assert len(bench.store.looked_up) == 2


async def test_a_key_that_was_asked_for_too_early_works_after_the_next_poll(bench: Bench) -> None:
    text = new_key()
    assert await bench.status(text) == 401
    bench.store.put(a_key(text))
    await bench.keys.poll()
    assert await bench.status(text) == 200


async def test_many_guesses_at_once_are_one_query_at_a_time(bench: Bench) -> None:
    at_once, most, find = 0, 0, bench.store.find

    async def counted(digests: Sequence[bytes]) -> list[StoredKey]:
        nonlocal at_once, most
        at_once += 1
        most = max(most, at_once)
        await asyncio.sleep(0.01)
        at_once -= 1
        return await find(digests)

    bench.store.find = counted  # type: ignore[method-assign]
    text, _ = bench.made()

    async def guess(after_s: float) -> int:
        await asyncio.sleep(after_s)
        return await bench.status(new_key())

    guesses = [guess(number % 10 * 0.003) for number in range(400)]
    assert await asyncio.gather(*guesses, bench.status(text)) == [401] * 400 + [200]
    assert most == 1
    assert len(bench.store.looked_up) <= 6


async def test_guesses_cost_bounded_memory(bench: Bench, monkeypatch: pytest.MonkeyPatch) -> None:
    assert KNOWN_MAX == UNKNOWN_MAX == 10_000
    monkeypatch.setattr("services.ingest.auth.KNOWN_MAX", 5)
    monkeypatch.setattr("services.ingest.auth.UNKNOWN_MAX", 5)
    for _ in range(8):
        text, _ = bench.made()
        assert await bench.status(text) == 200
        assert await bench.status(new_key()) == 401
    assert (len(bench.keys._known), len(bench.keys._unknown)) == (5, 5)
    assert await bench.status(text) == 200


# --- last use


async def test_the_last_use_is_written_down_once_a_minute(bench: Bench) -> None:
    text, key = bench.made()
    for _ in range(int(USED_EVERY_S) + 1):
        assert await bench.status(text) == 200
        bench.clock.passed_s += 1
        await bench.keys.poll()
    assert bench.store.last_uses == [{key.id: NOW}, {key.id: NOW + timedelta(seconds=60)}]


async def test_a_use_while_the_last_uses_are_written_is_written_next(bench: Bench) -> None:
    (first, one), (second, two) = bench.made(), bench.made()
    assert await bench.status(first) == 200
    used = bench.store.used

    async def slow(when: Mapping[UUID, datetime], every: timedelta) -> None:
        await used(when, every)
        assert await bench.status(second) == 200

    bench.store.used = slow  # type: ignore[method-assign]
    await bench.keys.poll()
    await bench.keys.poll()
    assert bench.store.last_uses == [{one.id: NOW}, {two.id: NOW}]


async def test_a_last_use_that_could_not_be_written_is_written_later(bench: Bench) -> None:
    text, key = bench.made()
    assert await bench.status(text) == 200
    bench.store.is_away = True
    await bench.keys.poll()
    bench.store.is_away = False
    await bench.keys.poll()
    await bench.keys.poll()
    assert bench.store.last_uses == [{key.id: NOW}]
