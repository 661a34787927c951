"""The mail server and the short rung, for each test anew."""

from collections.abc import AsyncIterator

import pytest
from aio_pika.abc import AbstractConnection

from tests.integration.mailer.rig import Mailbox, declare_short_rung


@pytest.fixture
async def mailbox() -> AsyncIterator[Mailbox]:
    mailbox = Mailbox()
    await mailbox.open()
    yield mailbox
    await mailbox.close()


@pytest.fixture
async def broker(amqp_url: str, amqp: AbstractConnection) -> str:
    """The broker's URL, every queue empty, with a mailer's rung that a test can wait for."""
    await declare_short_rung(amqp)
    return amqp_url
