"""What the stack says of itself when all is over: histories, mails, parked messages."""

import asyncio
import re
import time
from collections.abc import Collection, Iterable, Sequence
from dataclasses import dataclass
from email import message_from_bytes, policy
from email.message import EmailMessage
from pathlib import Path

import aiohttp
import asyncpg

from tests.chaos.checker import Accepted, unfinished

HISTORY_WITHIN_S = 90.0
MAIL_WITHIN_S = 60.0
READERS = 16
ASK_AGAIN_S = 1.0
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
    connection = await asyncpg.connect(postgres_url)
    try:
        records = await connection.fetch("SELECT origin, cause FROM ingest.parked ORDER BY parked_at")
    finally:
        await connection.close()
    return [f"{record['origin']}: {record['cause']}" for record in records]


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
