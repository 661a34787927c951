"""A consumer that one item kills, as a crash of the interpreter or the kernel's memory killer would; it lives again.

    python -m tests.integration.mortal AMQP_URL POISON MOMENT_S

Takes what is due, at most 100 messages in hand. `POISON` ends it at once with no word to anybody, `MOMENT_S` after it
was begun. Prints each item that it has handled, and "died" for each of its lives. A life is a fork: imports cost more.
"""

import asyncio
import os
import sys
from collections.abc import Awaitable, Callable

from libs.common.consumer import ItemConsumer
from libs.common.intake import Intake, decoder
from libs.common.publisher import Publisher
from libs.common.topology import DISPATCHER_DUE, DISPATCHER_RETRY_DUE
from tests.integration.rig import consuming, publishing

PREFETCH = 100


async def live(url: str, poison: int, moment_s: float) -> None:
    async def handle(item: int) -> None:
        if item == poison:
            await asyncio.sleep(moment_s)
            os._exit(1)
        say(str(item))

    async with publishing(url) as publisher:
        consumers = [_consumer(queue, handle, publisher) for queue in (DISPATCHER_DUE, DISPATCHER_RETRY_DUE)]
        async with consuming(url, *consumers):
            await asyncio.Event().wait()


def _consumer(queue: str, handle: Callable[[int], Awaitable[None]], publisher: Publisher) -> ItemConsumer[int]:
    return ItemConsumer(Intake(queue, decoder(int), publisher, prefetch=PREFETCH), handle, asyncio.Semaphore(PREFETCH))


def say(line: str) -> None:
    os.write(1, f"{line}\n".encode())


def main() -> None:
    url, poison, moment_s = sys.argv[1], int(sys.argv[2]), float(sys.argv[3])
    while True:
        child = os.fork()
        if child == 0:
            asyncio.run(live(url, poison, moment_s))
        os.waitpid(child, 0)
        say("died")


if __name__ == "__main__":
    main()
