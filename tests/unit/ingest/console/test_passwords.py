"""Which passwords will do, and how many are checked at once."""

import asyncio
import random
import string
import threading

import pytest
from argon2 import PasswordHasher, extract_parameters

from services.ingest.console.passwords import AT_ONCE, CHARS_MAX, WAITING_MAX, Busy, Passwords, password_fault

CHEAP = PasswordHasher(time_cost=1, memory_cost=64, parallelism=1)
GOOD = "a lamp on the quay"


@pytest.mark.parametrize("length", [0, 1, 11])
def test_a_short_password_is_refused(length: int) -> None:
    assert "too short" in str(password_fault("ann", "kD9!xw#Lq2vT"[:length]))


def test_twelve_characters_will_do_and_so_will_a_hundred_and_twenty_eight() -> None:
    assert password_fault("ann", "kD9!xw#Lq2vT") is None
    assert password_fault("ann", ("kD9!xw#Lq2vT" * 11)[:CHARS_MAX]) is None
    assert "too long" in str(password_fault("ann", ("kD9!xw#Lq2vT" * 11)[: CHARS_MAX + 1]))


@pytest.mark.parametrize(
    "password",
    "aaaaaaaaaaaa 123456789012 abcdefghijklm abcabcabcabc password1234 PasswordPassword Passw0rd2026 qwertyuiop123"
    " letmeinletmein carillon-admin administrator1 Annabel.Smith1".split(),
)
def test_what_everybody_tries_is_refused(password: str) -> None:
    assert "too easy" in str(password_fault("annabel.smith", password))


def test_what_is_random_will_do() -> None:
    seed = random.randrange(1 << 32)
    print(f"seed {seed}")
    dice = random.Random(seed)
    for _ in range(1000):
        password = "".join(dice.choices(string.ascii_letters + string.digits, k=14))
        assert password_fault("annabel", password) is None, password


async def test_a_password_is_known_again_and_another_is_not() -> None:
    passwords = Passwords(CHEAP)
    kept = await passwords.hashed(GOOD)
    assert GOOD not in kept
    assert await passwords.check(kept, GOOD) == (True, None)
    assert await passwords.check(kept, GOOD + "s") == (False, None)
    assert await passwords.check("no hash at all", GOOD) == (False, None)


async def test_the_same_letters_from_another_keyboard_are_the_same_password() -> None:
    passwords = Passwords(CHEAP)
    kept = await passwords.hashed("überquerung 42")
    assert (await passwords.check(kept, "u\N{COMBINING DIAERESIS}berquerung 42")).is_right


async def test_whoever_has_no_password_is_never_right(monkeypatch: pytest.MonkeyPatch) -> None:
    """Not even when the dummy agrees."""
    monkeypatch.setattr(PasswordHasher, "verify", lambda *_: True)
    assert await Passwords(CHEAP).check(None, GOOD) == (False, None)


async def test_the_parameters_are_owasps_and_an_older_hash_is_made_anew() -> None:
    passwords = Passwords()
    checked = await passwords.check(CHEAP.hash(GOOD), GOOD)
    assert checked.is_right
    assert checked.better is not None
    told = extract_parameters(checked.better)
    assert (told.type.name, told.memory_cost, told.time_cost, told.parallelism) == ("ID", 19_456, 2, 1)
    assert await passwords.check(checked.better, GOOD) == (True, None)


async def test_a_wrong_password_is_not_made_anew() -> None:
    assert await Passwords().check(CHEAP.hash(GOOD), GOOD + "s") == (False, None)


async def test_odd_characters_are_no_crash() -> None:
    passwords = Passwords(CHEAP)
    for odd in ("\0" * 12, "\udcff" * 12, "x" * 100_000, ""):
        kept = await passwords.hashed(odd)
        assert (await passwords.check(kept, odd)).is_right


async def test_two_are_checked_at_once_some_wait_and_the_rest_is_sent_away() -> None:
    at_work, most, gate = 0, 0, threading.Event()
    both = threading.Barrier(AT_ONCE + 1)
    count = threading.Lock()

    class Slow(PasswordHasher):
        def hash(self, password: str | bytes, *, salt: bytes | None = None) -> str:
            nonlocal at_work, most
            if not is_ready:
                return ""
            with count:
                at_work += 1
                most = max(most, at_work)
            if not gate.is_set():
                both.wait(5)
            gate.wait(5)
            with count:
                at_work -= 1
            return "done"

    is_ready = False
    passwords = Passwords(Slow())
    is_ready = True
    taken = [asyncio.create_task(passwords.hashed(GOOD)) for _ in range(AT_ONCE + WAITING_MAX)]
    await asyncio.to_thread(both.wait, 5)
    with pytest.raises(Busy):
        await passwords.hashed(GOOD)
    gate.set()
    assert await asyncio.gather(*taken) == ["done"] * (AT_ONCE + WAITING_MAX)
    assert most == AT_ONCE
    assert await passwords.hashed(GOOD) == "done", "and there is room again"
