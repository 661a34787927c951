"""The table of exchanges and queues keeps the promises of ARCHITECTURE.md, "Exchanges and queues"."""

import dataclasses

import pytest

from libs.common import topology
from libs.common.topology import GIB, MIB, Exchange, Queue, Route, mailer_rung, rung, rung_ms

TABLE = topology.topology(topology.DEFAULT_RETRY_SCHEDULE_S)
ROUTES = [
    *(value for value in vars(topology).values() if isinstance(value, Route)),
    *(rung(rung_ms(delay_s)) for delay_s in topology.DEFAULT_RETRY_SCHEDULE_S),
    *(mailer_rung(ms) for ms in topology.MAILER_RUNGS_MS),
]
EXCHANGES = {exchange.name: exchange for exchange in TABLE.exchanges}
QUEUES = {queue.name: queue for queue in TABLE.queues}
RUNGS = [queue for queue in TABLE.queues if "x-message-ttl" in queue.arguments]
KEPT = (topology.PARKING, topology.MAILER_MEMORY, topology.INGEST_REPLICAS)
"""What stands in them goes nowhere else: it leaves by a person or, of the last two, for something newer."""
WORK = [queue for queue in TABLE.queues if queue not in RUNGS and queue.name not in KEPT]


def queues_for(exchange: Exchange, key: str) -> list[str]:
    """What the broker would do with `key`; a topic binding here is one word and a star."""

    def takes(binding_key: str) -> bool:
        if exchange.type == "topic":
            word, _dot, star = binding_key.partition(".")
            assert star == "*"
            return key.split(".", maxsplit=1)[0] == word and key.count(".") == 1
        return exchange.type == "fanout" or binding_key == key

    return [binding.queue for binding in TABLE.bindings if binding.exchange == exchange.name and takes(binding.key)]


def keys_of(exchange: Exchange) -> set[str]:
    bound = {binding.key.replace("*", "event") for binding in TABLE.bindings if binding.exchange == exchange.name}
    return bound | {route.key for route in ROUTES if route.exchange == exchange.name}


@pytest.mark.parametrize("exchange", TABLE.exchanges, ids=lambda exchange: exchange.name)
def test_every_key_leads_to_exactly_one_queue(exchange: Exchange) -> None:
    keys = keys_of(exchange)
    assert keys
    assert {key: len(queues_for(exchange, key)) for key in keys} == dict.fromkeys(keys, 1)


@pytest.mark.parametrize("route", ROUTES, ids=lambda route: f"{route.exchange} {route.key}")
def test_every_route_of_the_code_leads_to_a_queue(route: Route) -> None:
    assert len(queues_for(EXCHANGES[route.exchange], route.key)) == 1


@pytest.mark.parametrize("queue", topology.REPUBLISH)
def test_an_item_published_again_comes_back_to_the_one_who_consumes_it(queue: str) -> None:
    route = topology.REPUBLISH[queue]
    [target] = queues_for(EXCHANGES[route.exchange], route.key)
    # The dispatcher consumes both; its first queue is bounded and would refuse what was already taken from it.
    assert target == {topology.DISPATCHER_DUE: topology.DISPATCHER_RETRY_DUE}.get(queue, queue)
    assert "x-max-length-bytes" not in QUEUES[target].arguments or queue != topology.DISPATCHER_DUE


def test_nothing_is_declared_twice_and_every_binding_has_both_ends() -> None:
    assert len(EXCHANGES) == len(TABLE.exchanges)
    assert len(QUEUES) == len(TABLE.queues)
    assert len(set(TABLE.bindings)) == len(TABLE.bindings)
    assert {binding.exchange for binding in TABLE.bindings} == set(EXCHANGES)
    assert {binding.queue for binding in TABLE.bindings} == set(QUEUES)


def test_exchange_types_are_the_documented_ones() -> None:
    not_direct = {name: exchange.type for name, exchange in EXCHANGES.items() if exchange.type != "direct"}
    assert not_direct == {
        "carillon.retry-due": "fanout",
        "carillon.events": "topic",
        "carillon.mailer-retry-due": "fanout",
        "carillon.parking": "fanout",
    }


@pytest.mark.parametrize("queue", TABLE.queues, ids=lambda queue: queue.name)
def test_every_queue_is_a_quorum_queue_that_never_expires(queue: Queue) -> None:
    assert queue.arguments["x-queue-type"] == "quorum"
    assert "x-expires" not in queue.arguments


@pytest.mark.parametrize("queue", WORK, ids=lambda queue: queue.name)
def test_a_work_queue_dead_letters_to_parking_and_loses_nothing_on_the_way(queue: Queue) -> None:
    assert queue.arguments["x-dead-letter-exchange"] == topology.PARKING_EXCHANGE
    assert queue.arguments["x-dead-letter-strategy"] == "at-least-once"
    assert queue.arguments["x-overflow"] == "reject-publish", "without it the strategy degrades silently"
    assert queue.arguments["x-delivery-limit"] == 50
    assert "x-message-ttl" not in queue.arguments


@pytest.mark.parametrize("queue", RUNGS, ids=lambda queue: queue.name)
def test_a_rung_waits_its_own_time_and_moves_on_into_the_queue_that_is_consumed(queue: Queue) -> None:
    bound_by = [binding for binding in TABLE.bindings if binding.queue == queue.name]
    assert [binding.key for binding in bound_by] == [str(queue.arguments["x-message-ttl"])]
    assert queue.arguments["x-dead-letter-strategy"] == "at-least-once"
    assert queue.arguments["x-overflow"] == "reject-publish"
    assert "x-dead-letter-routing-key" not in queue.arguments
    then = EXCHANGES[str(queue.arguments["x-dead-letter-exchange"])]
    target = {"carillon.retry": topology.DISPATCHER_RETRY_DUE, "carillon.mailer-retry": topology.MAILER_OUTBOX}
    assert then.type == "fanout"
    assert queues_for(then, "any") == [target[bound_by[0].exchange]]


def test_the_queue_that_rungs_move_on_into_has_no_bound() -> None:
    for name in (topology.DISPATCHER_RETRY_DUE, topology.MAILER_OUTBOX, topology.PARKING):
        assert not {"x-max-length", "x-max-length-bytes"} & set(QUEUES[name].arguments), name


def test_parking_is_the_end_of_the_line_and_drops_nothing() -> None:
    assert QUEUES[topology.PARKING].arguments == {"x-queue-type": "quorum", "x-delivery-limit": 1_000_000}


def test_the_bounds_are_the_documented_ones() -> None:
    bounds = {queue.name: (queue.arguments.get("x-max-length-bytes"), queue.arguments.get("x-max-length"))
              for queue in WORK}  # fmt: skip
    assert bounds[topology.SCHEDULER_TASKS] == (GIB, None)
    assert bounds[topology.DISPATCHER_DUE] == (64 * MIB, 2_000)
    assert bounds[topology.SCHEDULER_RETURNS][0] == 4 * GIB
    bounded_by_bytes = {name for name, (size, _count) in bounds.items() if size is not None}
    assert bounded_by_bytes == {queue.name for queue in WORK} - {
        topology.DISPATCHER_RETRY_DUE,
        topology.MAILER_OUTBOX,
    }


def test_a_due_message_holds_at_most_20_tasks_and_64_kib() -> None:
    for route in (topology.DUE, topology.RETRY_DUE, rung(5000)):
        assert (route.items_max, route.bytes_max) == (20, 64 * 1024)


def test_a_command_travels_alone_because_its_message_names_one_asker() -> None:
    commands = [route for route in ROUTES if route.key == "command"]
    assert topology.SCHEDULER_COMMAND in commands
    assert {route.items_max for route in commands} == {1}
    assert queues_for(EXCHANGES[topology.SCHEDULER_COMMAND.exchange], "command") == [topology.SCHEDULER_COMMANDS]


def test_there_is_one_rung_per_distinct_delay() -> None:
    rungs = {queue.name for queue in topology.topology((5.0, 5, 0.2, 5.0)).queues} - {
        queue.name for queue in topology.topology().queues
    }
    assert rungs == {"dispatcher.retry.5000", "dispatcher.retry.200"}


def test_a_changed_argument_is_another_queue() -> None:
    queue = TABLE.queues[0]
    assert dataclasses.replace(queue, arguments={**queue.arguments, "x-max-length": 7}) != queue
