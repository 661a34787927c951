"""Reads request bodies within bounds of size and time, so that a slow or endless client costs little of either.

Headers have their bound too: `IDLE_S` in `libs/common/admin.py`.
"""

import asyncio
from collections.abc import AsyncIterator, Awaitable
from typing import TypeVar

from aiohttp import web

from services.ingest.problems import Problem

READ_S = 30.0
"""For the whole of a body: enough for 8 MiB at 2.3 Mbit/s."""

T = TypeVar("T")


async def in_time(reading: Awaitable[T], within_s: float | None = None) -> T:
    """What `reading` a body gives. Raises: Problem (400 when the body breaks off, 408 when it does not come)."""
    try:
        async with asyncio.timeout(READ_S if within_s is None else within_s):
            return await reading
    except TimeoutError:
        detail = f"The body did not arrive within {READ_S:g} seconds. Send it faster, or in parts."
        raise Problem(408, "body_too_slow", detail) from None
    except (ConnectionError, web.RequestPayloadError) as error:
        detail = "The body breaks off, or is not encoded as its headers say. Send it again."
        raise Problem(400, "body_unreadable", detail) from error


async def whole(request: web.Request) -> bytes:
    """The body, up to the size that the application allows. Raises: Problem (400, 408, 413)."""
    if (request.content_length or 0) > request.client_max_size:
        raise _too_large(request.client_max_size)
    if not request.content.is_eof():
        return await in_time(request.read())
    raw = request.content.read_nowait()  # it has come already, as most do
    if len(raw) > request.client_max_size:
        raise _too_large(request.client_max_size)
    return raw


async def chunks(request: web.Request, bytes_max: int) -> AsyncIterator[bytes]:
    """The body as it arrives. Raises: Problem (400, 408, 413); what came before is good."""
    if (request.content_length or 0) > bytes_max:
        raise _too_large(bytes_max)
    loop, left_s, size = asyncio.get_running_loop(), READ_S, 0
    while True:
        began = loop.time()
        chunk = await in_time(request.content.readany(), left_s)
        if not chunk:
            return
        left_s -= loop.time() - began
        size += len(chunk)
        if size > bytes_max:
            raise _too_large(bytes_max)
        yield chunk


def _too_large(bytes_max: int) -> Problem:
    return Problem(413, "body_too_large", f"The body is larger than {bytes_max} bytes. Send it in parts.")
