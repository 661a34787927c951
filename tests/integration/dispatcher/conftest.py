"""What the suites here share: ears on queues, a Redis, and the callers that the conformance suite is for: the product's
own, and one of aiohttp for a second opinion.
"""

from collections.abc import AsyncIterator, Iterator
from pathlib import Path

import pytest
from aio_pika.abc import AbstractConnection
from redis.asyncio import Redis

from libs.common import topology
from libs.common.redis import redis_client
from tests.integration.dispatcher.rig import OwnRedis, Tap
from tests.integration.dispatcher.scripted import CALLERS, Kind

# Found here, and not ours to mend: tests whose names begin so are skipped for aiohttp 3.14.
AIOHTTP_DIFFERS = {
    "test_the_host_header_names_host_and_port[aiohttp-m": "takes a URL that is encoded, or changes its path",
    "test_a_name_outside_ascii_is_asked_for": "takes a URL that is encoded, or changes its path",
    "test_no_url_breaks_out_of_its_line[aiohttp-/": "drops line breaks from a URL and sends the rest",
    "test_no_method_breaks_out_of_its_line[aiohttp-]": "sends an empty method",
    "test_no_header_breaks_out_of_its_line[aiohttp-surrogate]": "sends a header that is no UTF-8 without its bytes",
    "test_a_header_that_frames_the_request_cannot_split_it[aiohttp-Transfer": "adds Content-Length to it",
    "test_of_a_huge_body_only_the_beginning_is_read[aiohttp-one byte more]": "keeps what it has not read",
    "test_what_is_no_http_is_a_protocol_error[aiohttp-status 099]": "takes it for an answer",
    "test_a_flood_ends_early": "reads some until the time of the call is over",
    "test_a_connection_closed_while_idle": "does not look before it writes; a POST is lost that nobody saw",
    "test_a_farewell_on_an_idle_connection": "takes it for the answer",
    "test_after_the_first_byte_of_an_answer": "repeats what had an answer begun",
}


@pytest.fixture(params=CALLERS)
def kind(request: pytest.FixtureRequest) -> Kind:
    for test, how in AIOHTTP_DIFFERS.items():
        if request.param == "aiohttp" and request.node.name.startswith(test):
            pytest.skip(f"aiohttp {how}")
    return Kind(request.param)


@pytest.fixture(params=[name for name in CALLERS if name != "aiohttp"])
def timed(request: pytest.FixtureRequest) -> Kind:
    """aiohttp tells it by hooks that cost a third of its speed, and cannot tell TLS from the connection."""
    return Kind(request.param)


@pytest.fixture
async def redis(redis_url: str) -> AsyncIterator[Redis]:
    client = redis_client(redis_url)
    yield client
    await client.aclose()


@pytest.fixture
def own(tmp_path: Path) -> Iterator[OwnRedis]:
    made = OwnRedis(tmp_path)
    yield made
    made.stop()


@pytest.fixture
async def events(amqp: AbstractConnection) -> Tap:
    return await Tap(amqp, topology.INGEST_HISTORY).open()


@pytest.fixture
async def returns(amqp: AbstractConnection) -> Tap:
    return await Tap(amqp, topology.SCHEDULER_RETURNS).open()


@pytest.fixture
async def fallback(amqp: AbstractConnection) -> Tap:
    return await Tap(amqp, topology.FALLBACK).open()
