"""Passwords of the console's users: which are good enough, and argon2id in a bounded number of threads.

A hash takes 19 MiB and some 30 ms of a core (OWASP's parameters), so two run at once and a few wait; more is `Busy`.
Whoever has no password costs as much as whoever has one: a dummy is verified in its place.
"""

import asyncio
import secrets
import unicodedata
from collections.abc import Callable, Iterator
from contextlib import contextmanager
from typing import NamedTuple, TypeVar

from argon2 import PasswordHasher
from argon2.exceptions import InvalidHashError, VerificationError

CHARS_MIN, CHARS_MAX = 12, 128
DIFFERENT_MIN = 5
"""Different characters, without words that everybody tries, runs (1234, qwer, aaaa) and repeats."""
AT_ONCE = 2
WAITING_MAX = 16
"""Half a second's worth."""

_KIB_OF_MEMORY = 19 * 1024
# Longest first: of words within words the longer goes.
_WORDS = (
    "administrator qwertyuiop qwertzuiop asdfghjkl password passwort passw0rd p@ssword p@ssw0rd 1q2w3e4r changeme"
    " sunshine football carillon operator iloveyou welcome letmein zxcvbnm yxcvbnm console secret dragon monkey qwerty"
    " qwertz azerty admin login asdf"
).split()

R = TypeVar("R")


class Busy(Exception):
    """Too many passwords are being checked already: come again."""


class Checked(NamedTuple):
    """`better`: a hash to keep in place of the old one, made with today's parameters."""

    is_right: bool
    better: str | None = None


def password_fault(name: str, password: str) -> str | None:
    """What is wrong with `password` for the user `name`; None when it will do."""
    text = unicodedata.normalize("NFKC", password)
    if len(text) < CHARS_MIN:
        return f"is too short: write {CHARS_MIN} characters or more"
    if len(text) > CHARS_MAX:
        return f"is too long: write {CHARS_MAX} characters or fewer"
    if len(set(_rest(text.lower(), name))) < DIFFERENT_MIN:
        return "is too easy to guess: it is made of a common word, your name, a row of keys or few characters"
    return None


class Passwords:
    """Call it from one event loop. `hasher`: a cheaper one for tests."""

    def __init__(self, hasher: PasswordHasher | None = None) -> None:
        self._hasher = hasher or PasswordHasher(time_cost=2, memory_cost=_KIB_OF_MEMORY, parallelism=1)
        self._nobodys = self._hasher.hash(secrets.token_bytes())
        self._turns = asyncio.Semaphore(AT_ONCE)
        self._waiting = 0

    async def hashed(self, password: str) -> str:
        """Raises: Busy."""
        return await self._in_turn(lambda: self._hasher.hash(_bytes(password)))

    async def check(self, kept: str | None, password: str) -> Checked:
        """Whether `kept` is the hash of `password`; with None it is not, and that takes as long. Raises: Busy."""
        return await self._in_turn(lambda: self._checked(kept, _bytes(password)))

    def _checked(self, kept: str | None, given: bytes) -> Checked:
        try:
            self._hasher.verify(kept or self._nobodys, given)
        except (VerificationError, InvalidHashError):
            return Checked(is_right=False)
        is_old = kept is not None and self._hasher.check_needs_rehash(kept)
        return Checked(kept is not None, better=self._hasher.hash(given) if is_old else None)

    async def _in_turn(self, work: Callable[[], R]) -> R:
        with self._counted():
            async with self._turns:
                return await asyncio.to_thread(work)

    @contextmanager
    def _counted(self) -> Iterator[None]:
        if self._waiting >= AT_ONCE + WAITING_MAX:
            raise Busy
        self._waiting += 1
        try:
            yield
        finally:
            self._waiting -= 1


def _bytes(password: str) -> bytes:
    """The same for the same text, whichever keyboard composed its letters."""
    return unicodedata.normalize("NFKC", password[: 4 * CHARS_MAX]).encode("utf-8", "surrogatepass")


def _rest(text: str, name: str) -> str:
    """`text` without what everybody tries; of a run of neighbours its first character."""
    for word in (name, *_WORDS):
        text = text.replace(word, "")
    return "".join(now for before, now in zip(" " + text, text, strict=False) if abs(ord(before) - ord(now)) > 1)
