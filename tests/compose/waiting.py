"""Waiting for what can be looked at: a predicate, a deadline, and what was awaited when it does not come."""

import asyncio
from collections.abc import Awaitable, Callable
from typing import TypeVar

import pytest

LOOK_AGAIN_S = 0.2
T = TypeVar("T")


async def eventually(what: str, look: Callable[[], Awaitable[T | None]], within_s: float = 20.0) -> T:
    """The first true answer of `look`. Fails naming what was awaited."""
    answer: T | None = None
    try:
        async with asyncio.timeout(within_s):
            while True:
                answer = await look()
                if answer:
                    return answer
                await asyncio.sleep(LOOK_AGAIN_S)
    except TimeoutError:
        pytest.fail(f"{what}: not within {within_s:g} s; last seen: {answer!r}")
