"""What the stack says of itself when all is over: histories, mails, parked messages, what still waits, its logs."""

import asyncio
import re
import time
from collections.abc import Collection, Iterable, Sequence
from dataclasses import dataclass
from email import message_from_bytes, policy
from email.message import EmailMessage
from pathlib import Path

import aio_pika
import aiohttp
import asyncpg
from redis.asyncio import Redis

from libs.common import topology
from tests.chaos.checker import Accepted, unfinished

HISTORY_WITHIN_S = 90.0
MAIL_WITHIN_S = 60.0
READERS = 16
EMPTY_WITHIN_S = 60.0
ASK_AGAIN_S = 1.0
# The digest's memory is one message that stays; parked ones and heartbeats are looked at otherwise.
NEVER_EMPTY = frozenset({topology.MAILER_MEMORY, topology.INGEST_REPLICAS})
LIST, REJECTED = "delay_queue_task", "delay_queue_task:rejected"
_FAILED = re.compile(r"(\d+) tasks? failed")


@dataclass(frozen=True)
class Mails:
    files: int
    distinct: int
    """By Message-ID: a mail sent twice is folded by the mail client."""
    failed_told: int
    """The sum of what the subjects count."""
    notices_missing: tuple[str, ...]


async def histories(
    session: aiohttp.ClientSession, api_urls: Sequence[str], accepted: Sequence[Accepted]
) -> dict[str, str]:
    """The state of every task, as soon as all are as they should be or `HISTORY_WITHIN_S` has passed."""
    states: dict[str, str] = {}
    missing: Collection[str] = [task.id for task in accepted]
    deadline = time.monotonic() + HISTORY_WITHIN_S
    while missing and time.monotonic() < deadline:
        waiting = iter(enumerate(list(missing)))
        await asyncio.gather(*(_read(session, api_urls, waiting, states) for _ in range(READERS)))
        missing = unfinished(accepted, states)
        if missing:
            await asyncio.sleep(ASK_AGAIN_S)
    return states


async def cut_off(session: aiohttp.ClientSession, api_url: str, failed: Iterable[str]) -> frozenset[str]:
    """Those of them whose last call had no answer at all, as the history says: not for the sink to foresee."""
    found = set()
    for id_ in failed:
        async with session.get(f"{api_url}/v1/tasks/{id_}") as response:
            response.raise_for_status()
            last = (await response.json())["last_attempt"]
        if last is not None and last["status_code"] is None:
            found.add(id_)
    return frozenset(found)


async def mails(folder: Path, notices: Collection[str], failed: int) -> Mails:
    """What the digests told, as soon as they told all or `MAIL_WITHIN_S` has passed."""
    deadline = time.monotonic() + MAIL_WITHIN_S
    while True:
        told = read_mails(folder, notices)
        is_all = not told.notices_missing and told.failed_told >= failed
        if is_all or time.monotonic() > deadline:
            return told
        await asyncio.sleep(ASK_AGAIN_S)


async def parked(postgres_url: str) -> list[str]:
    """Origin and cause of every parked message."""
    records = await _fetched(postgres_url, "SELECT origin, cause FROM ingest.parked ORDER BY parked_at")
    return [f"{record['origin']}: {record['cause']}" for record in records]


async def waiting(amqp_url: str, postgres_url: str, redis_url: str, retry_schedule_s: Iterable[float]) -> list[str]:
    """What has not come to rest: queues that were never seen empty, rows that nobody fires, entries of the list.

    As soon as there is nothing, or after `EMPTY_WITHIN_S`. A queue may hold a canary at any moment, so each is asked
    for until it was empty once.
    """
    names = {queue.name for queue in topology.topology(retry_schedule_s).queues} - NEVER_EMPTY
    deadline = time.monotonic() + EMPTY_WITHIN_S
    while True:
        counts = await _depths(amqp_url, names)
        names = {name for name, count in counts.items() if count}
        left = [f"{name}: {counts[name]} messages" for name in sorted(names)]
        left += await _rows_left(postgres_url) + await _entries_left(redis_url)
        if not left or time.monotonic() > deadline:
            return left
        await asyncio.sleep(ASK_AGAIN_S)


def told_in_logs(folder: Path, secrets: Collection[str]) -> list[str]:
    """Where a secret stands in a log: file and line, never the secret."""
    found = []
    for path in sorted(folder.glob("*.log")):
        with path.open(errors="replace") as lines:
            found += [
                f"{path.name}:{number}" for number, line in enumerate(lines, 1) if any(s in line for s in secrets)
            ]
    return found


def read_mails(folder: Path, notices: Collection[str]) -> Mails:
    paths = sorted(folder.glob("*.eml"))
    by_id: dict[str, EmailMessage] = {}
    for path in paths:
        message = message_from_bytes(path.read_bytes(), policy=policy.default)
        by_id[str(message["Message-ID"])] = message
    text = "\n".join(_text(message) for message in by_id.values())
    return Mails(
        files=len(paths),
        distinct=len(by_id),
        failed_told=sum(_failed_in(message) for message in by_id.values()),
        notices_missing=tuple(word for word in notices if word not in text),
    )


async def _depths(amqp_url: str, names: Collection[str]) -> dict[str, int]:
    """Of each queue; a passive declare counts exactly."""
    async with await aio_pika.connect(amqp_url) as connection:
        channel = await connection.channel()
        declared = [await channel.declare_queue(name, passive=True) for name in names]
        return {queue.name: queue.declaration_result.message_count or 0 for queue in declared}


async def _rows_left(postgres_url: str) -> list[str]:
    rows = await _fetched(postgres_url, "SELECT id, due_at FROM scheduler.task ORDER BY due_at LIMIT 10")
    return [f"scheduler.task: {row['id']}, due at {row['due_at']}" for row in rows]


async def _fetched(postgres_url: str, sql: str) -> list[asyncpg.Record]:
    connection = await asyncpg.connect(postgres_url)
    try:
        return await connection.fetch(sql)
    finally:
        await connection.close()


async def _entries_left(redis_url: str) -> list[str]:
    async with Redis.from_url(redis_url, decode_responses=True) as redis:
        left = {LIST: await redis.llen(LIST), REJECTED: await redis.llen(REJECTED)}
        left |= {name: await redis.hlen(name) async for name in redis.scan_iter(match=f"{LIST}:taken:*")}
    return [f"{name}: {count} entries" for name, count in left.items() if count]


async def _read(
    session: aiohttp.ClientSession,
    api_urls: Sequence[str],
    waiting: Iterable[tuple[int, str]],
    states: dict[str, str],
) -> None:
    for number, id_ in waiting:
        states[id_] = await _state(session, api_urls[number % len(api_urls)], id_)


async def _state(session: aiohttp.ClientSession, url: str, id_: str) -> str:
    try:
        async with session.get(f"{url}/v1/tasks/{id_}") as response:
            if response.status != 200:
                return f"HTTP {response.status}"
            task = await response.json()
    except (aiohttp.ClientError, OSError, TimeoutError) as error:
        return type(error).__name__
    return str(task["status"])


def _text(message: EmailMessage) -> str:
    body = message.get_body(("plain",))
    return str(body.get_content()) if body is not None else ""


def _failed_in(message: EmailMessage) -> int:
    match = _FAILED.search(str(message["Subject"]))
    return int(match[1]) if match else 0
