"""Is it ready? One question per kind of process, and the wait for all of them.

A question is answered by None (yes) or by the reason why not, in words for the person who waits.
"""

import asyncio
import logging
from collections.abc import Awaitable, Callable, Mapping
from urllib.parse import urlsplit

import aio_pika
import aiohttp
import asyncpg
import redis.asyncio
from aiormq.exceptions import AMQPError

from deploy.local.errors import StackError
from deploy.local.layout import Layout
from deploy.local.plan import Status, read_status

# It logs each refused connection as an error; here each is an answer.
logging.getLogger("aiormq.connection").setLevel(logging.CRITICAL)

Question = Callable[[], Awaitable[str | None]]

ASK_AGAIN_S = 0.1
ANSWER_S = 3.0
HOPELESS_EXITS = 3
"""A process that ended this often while we waited is not going to be ready."""
TAIL_LINES = 20
TAILS_MAX = 3


async def wait_until_ready(questions: Mapping[str, Question], layout: Layout, before: Status, timeout_s: float) -> None:
    """Ask all by name until all are ready. Raises `StackError` with reasons and log tails when it is hopeless.

    `before`: the supervisor's status when the wait began; later exits count.
    """
    deadline = asyncio.get_running_loop().time() + timeout_s
    while True:
        answers = await asyncio.gather(*(question() for question in questions.values()))
        missing = {name: why for name, why in zip(questions, answers, strict=True) if why is not None}
        if not missing:
            return
        hopeless = _hopeless(missing, before, read_status(layout.status_file))
        if hopeless:
            raise StackError(_report(hopeless | {name: missing[name] for name in missing.keys() - hopeless}, layout))
        if asyncio.get_running_loop().time() > deadline:
            raise StackError(_report(missing, layout))
        await asyncio.sleep(ASK_AGAIN_S)


def postgres(url: str) -> Question:
    async def ask() -> str | None:
        try:
            connection = await asyncpg.connect(url, timeout=ANSWER_S)
            await connection.close()
        except (OSError, TimeoutError, asyncpg.PostgresError, asyncpg.InterfaceError) as error:
            return _in_words(error)
        return None

    return ask


def valkey(url: str) -> Question:
    async def ask() -> str | None:
        client = redis.asyncio.Redis.from_url(url, socket_timeout=ANSWER_S, socket_connect_timeout=ANSWER_S)
        try:
            await client.ping()
        except (OSError, redis.RedisError) as error:
            return _in_words(error)
        finally:
            await client.aclose()
        return None

    return ask


def rabbitmq(url: str) -> Question:
    async def ask() -> str | None:
        try:
            connection = await aio_pika.connect(url, timeout=ANSWER_S)
            await connection.close()
        except (OSError, TimeoutError, AMQPError) as error:
            return _in_words(error)
        return None

    return ask


def smtp(url: str) -> Question:
    async def ask() -> str | None:
        address = urlsplit(url)
        try:
            async with asyncio.timeout(ANSWER_S):
                reader, writer = await asyncio.open_connection(address.hostname, address.port)
                greeting = await reader.readline()
        except (OSError, TimeoutError) as error:
            return _in_words(error)
        writer.close()
        return None if greeting.startswith(b"220") else f"greets with {greeting!r}"

    return ask


def service(admin_url: str) -> Question:
    """A service by its /readyz, whose body says why not."""
    timeout = aiohttp.ClientTimeout(total=ANSWER_S)

    async def ask() -> str | None:
        try:
            async with (
                aiohttp.ClientSession(timeout=timeout) as session,
                session.get(f"{admin_url}/readyz") as response,
            ):
                return None if response.status == 200 else f"{response.status} {(await response.text()).strip()}"
        except (OSError, TimeoutError, aiohttp.ClientError) as error:
            return _in_words(error)

    return ask


def log_tail(layout: Layout, process: str) -> str:
    """The last lines of its log."""
    try:
        text = layout.log_file(process).read_text(errors="replace")
    except FileNotFoundError:
        return "(no log)"
    return "\n".join(text.splitlines()[-TAIL_LINES:]) or "(its log is empty)"


def _hopeless(missing: Mapping[str, str], before: Status, now: Status) -> dict[str, str]:
    ended = {}
    for name in missing:
        known, state = before.processes.get(name), now.processes.get(name)
        exits = (state.exits if state else 0) - (known.exits if known else 0)
        if state and exits >= HOPELESS_EXITS:
            ended[name] = f"ended {exits} times, last with {state.last_exit}"
    return ended


def _report(missing: Mapping[str, str], layout: Layout) -> str:
    reasons = [f"{name} is not ready: {why}" for name, why in missing.items()]
    tails = [f"--- the end of {layout.log_file(name)}\n{log_tail(layout, name)}" for name in list(missing)[:TAILS_MAX]]
    return "\n".join(reasons + tails)


def _in_words(error: BaseException) -> str:
    return str(error) or type(error).__name__
