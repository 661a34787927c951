"""A digest now, or how things stand: asked over carillon.mailer, answered to the asker."""

import asyncio
from typing import Literal, NamedTuple

import structlog

from libs.common.asking import Asked, Replier
from libs.common.contracts import AskDigest, DigestAnswer
from services.mailer.collect import Collected, FallbackQueue, Interrupted, Occupied
from services.mailer.runs import Runs

log = structlog.get_logger(__name__)


class Readers(NamedTuple):
    """Who gets the digest, and who a project's part instead."""

    to: tuple[str, ...]
    to_projects: dict[str, tuple[str, ...]]


class Commands:
    """The handler of mailer.commands. Who hears nothing asks again; a second digest has what is left, or nothing."""

    def __init__(self, runs: Runs, fallback: FallbackQueue, replier: Replier, readers: Readers) -> None:
        self._runs = runs
        self._fallback = fallback
        self._replier = replier
        self._readers = readers

    async def handle(self, asked: Asked[AskDigest]) -> None:
        try:
            await self._replier.reply(asked, await self._answer(asked.command))
        except Interrupted as error:
            log.warning("command.interrupted", reason=str(error))

    async def _answer(self, command: AskDigest) -> DigestAnswer:
        last = await self._fallback.last()
        waiting = await self._fallback.waiting()
        result: Literal["collected", "busy", "status"] = "status"
        collected = Collected(0, 0)
        if command.action == "now":
            try:
                collected = await self._runs.now(asyncio.Event())
                result = "collected"
            except Occupied:
                result = "busy"
        return DigestAnswer(
            command_id=command.command_id,
            result=result,
            waiting=waiting,
            pages=collected.pages,
            next_at=self._runs.next_at,
            last_at=last.collected_at if last else None,
            to=self._readers.to,
            to_projects=self._readers.to_projects,
        )
