import asyncio
import gc
import logging
import os
import signal
import socket
from collections.abc import Awaitable, Callable, Iterator

import pytest
import structlog

from libs.common.lifecycle import READ_BYTES, Backoff, Fatal, WorkerStopped, pause, run, run_until_stopped
from libs.common.settings import SettingsError


@pytest.fixture(autouse=True)
def process_restored() -> Iterator[None]:
    handlers, level, thresholds = logging.root.handlers, logging.root.level, gc.get_threshold()
    yield
    gc.set_threshold(*thresholds)
    gc.unfreeze()
    logging.captureWarnings(False)
    logging.root.handlers, logging.root.level = handlers, level
    structlog.reset_defaults()


class Doing:
    """A worker made of one function."""

    def __init__(
        self, name: str, work: Callable[[asyncio.Event], Awaitable[object]], *, until_last: bool = False
    ) -> None:
        self.name = name
        self.until_last = until_last
        self.end = ""
        self._work = work

    async def run(self, stopping: asyncio.Event) -> None:
        try:
            await self._work(stopping)
            self.end = "finished"
        except asyncio.CancelledError:
            self.end = "cancelled"
            raise


async def wait_for_stop(stopping: asyncio.Event) -> None:
    await stopping.wait()


async def never_end(_stopping: asyncio.Event) -> None:
    await asyncio.Event().wait()


async def tell_ourselves_to_stop(stopping: asyncio.Event) -> None:
    os.kill(os.getpid(), signal.SIGTERM)
    await stopping.wait()


async def test_a_signal_drains_every_worker() -> None:
    workers = [Doing("one", tell_ourselves_to_stop), Doing("two", wait_for_stop)]

    await run_until_stopped(workers, drain_s=5)

    assert [worker.end for worker in workers] == ["finished", "finished"]


async def test_a_failing_worker_drains_the_others_and_its_error_is_raised() -> None:
    async def fail(_stopping: asyncio.Event) -> None:
        raise LookupError("no such queue")

    other = Doing("other", wait_for_stop)

    with pytest.raises(LookupError, match="no such queue"):
        await run_until_stopped([other, Doing("failing", fail)], drain_s=5)

    assert other.end == "finished"


async def test_the_first_failure_is_raised_and_not_the_one_it_caused() -> None:
    async def fail_after(stopping: asyncio.Event) -> None:
        await stopping.wait()
        raise RuntimeError("second")

    async def fail(_stopping: asyncio.Event) -> None:
        raise LookupError("first")

    with pytest.raises(LookupError, match="first"):
        await run_until_stopped([Doing("after", fail_after), Doing("failing", fail)], drain_s=5)


async def test_a_late_worker_is_cancelled_when_the_drain_is_over() -> None:
    late = Doing("late", never_end)

    await run_until_stopped([Doing("signal", tell_ourselves_to_stop), late], drain_s=0.01)

    assert late.end == "cancelled"


async def test_a_worker_that_returns_unasked_is_a_failure_that_names_it() -> None:
    async def return_at_once(_stopping: asyncio.Event) -> None:
        return

    with pytest.raises(WorkerStopped, match="sweeper"):
        await run_until_stopped([Doing("sweeper", return_at_once), Doing("two", wait_for_stop)], drain_s=5)


async def test_a_cancellation_that_nobody_asked_for_is_a_failure() -> None:
    async def cancelled_by_a_library(_stopping: asyncio.Event) -> None:
        raise asyncio.CancelledError

    with pytest.raises(WorkerStopped, match="consumer"):
        await run_until_stopped([Doing("consumer", cancelled_by_a_library)], drain_s=5)


async def test_a_worker_kept_until_last_outlives_the_drain_and_does_not_prolong_it() -> None:
    admin = Doing("admin", never_end, until_last=True)
    seen: list[str] = []

    async def finish_slowly(stopping: asyncio.Event) -> None:
        await stopping.wait()
        await asyncio.sleep(0)
        seen.append(admin.end)

    await run_until_stopped(
        [admin, Doing("signal", tell_ourselves_to_stop), Doing("consumer", finish_slowly)], drain_s=60
    )

    assert seen == [""]
    assert admin.end == "cancelled"


async def test_workers_are_cancelled_when_the_caller_is() -> None:
    worker = Doing("one", never_end)
    task = asyncio.create_task(run_until_stopped([worker], drain_s=60))
    await asyncio.sleep(0)
    await asyncio.sleep(0)

    task.cancel()
    with pytest.raises(asyncio.CancelledError):
        await task

    assert worker.end == "cancelled"


async def test_a_pause_lasts_its_time_and_says_that_nothing_stopped_it() -> None:
    assert await pause(asyncio.Event(), 0.01) is False
    assert await pause(asyncio.Event(), 0) is False


async def test_a_pause_ends_when_stopping_is_set() -> None:
    stopping = asyncio.Event()
    asyncio.get_running_loop().call_soon(stopping.set)

    assert await asyncio.wait_for(pause(stopping, 60), timeout=5) is True
    assert await pause(stopping, 60) is True
    assert await pause(stopping, 0) is True


def test_delays_double_up_to_the_cap_with_jitter_and_begin_again_after_a_reset() -> None:
    backoff = Backoff(first_s=0.05, cap_s=0.3)

    delays = [backoff.next() for _ in range(5)]
    backoff.reset()

    for delay, most in zip([*delays, backoff.next()], [0.05, 0.1, 0.2, 0.3, 0.3, 0.05], strict=True):
        assert most / 2 <= delay <= most


def test_two_replicas_do_not_wait_the_same_time() -> None:
    assert len({Backoff(1, 1).next() for _ in range(20)}) > 1


def exit_code(main: Callable[[], Awaitable[None]]) -> int | str | None:
    async def as_coroutine() -> None:
        await main()

    with pytest.raises(SystemExit) as ended:
        run(as_coroutine)
    return ended.value.code


def test_a_main_that_returns_exits_with_0() -> None:
    async def main() -> None:
        return

    assert exit_code(main) == 0


def test_wrong_settings_exit_with_78_and_are_told_on_stderr(capsys: pytest.CaptureFixture[str]) -> None:
    async def main() -> None:
        raise SettingsError("CARILLON_PROT: no service knows this variable")

    assert exit_code(main) == 78
    told = capsys.readouterr()
    assert told.err == "CARILLON_PROT: no service knows this variable\n"
    assert '"event":"process.misconfigured"' in told.out


def test_a_fatal_error_exits_with_1_and_is_told_without_a_traceback(
    capsys: pytest.CaptureFixture[str],
) -> None:
    async def main() -> None:
        raise Fatal("queue scheduler.tasks is missing; run the set-up step")

    assert exit_code(main) == 1
    told = capsys.readouterr()
    assert told.err == "queue scheduler.tasks is missing; run the set-up step\n"
    assert "Traceback" not in told.out
    assert '"event":"process.refused"' in told.out


def test_an_unexpected_error_exits_with_1_and_logs_its_traceback_without_local_variables(
    capsys: pytest.CaptureFixture[str],
) -> None:
    async def main() -> None:
        url = "amqp://carillon:hunter2@broker/"
        raise ZeroDivisionError(f"a bug {len(url)} characters long")

    assert exit_code(main) == 1
    told = capsys.readouterr()
    assert "ZeroDivisionError" in told.out
    assert "hunter2" not in told.out + told.err


def test_sigterm_while_still_starting_ends_the_process_in_order() -> None:
    closed = []

    async def main() -> None:
        try:
            os.kill(os.getpid(), signal.SIGTERM)
            await asyncio.Event().wait()
        finally:
            closed.append("connection")

    assert exit_code(main) == 143
    assert closed == ["connection"]


class Reading(asyncio.Protocol):
    """Notes how many bytes each read gave, up to `wanted` in all."""

    def __init__(self, wanted: int) -> None:
        self.sizes: list[int] = []
        self.all_here = asyncio.get_running_loop().create_future()
        self._wanted = wanted

    def data_received(self, data: bytes) -> None:
        self.sizes.append(len(data))
        if sum(self.sizes) >= self._wanted:
            self.all_here.set_result(None)


def test_no_read_of_a_process_asks_for_more_than_malloc_gives_cheaply() -> None:
    sizes: list[int] = []

    async def main() -> None:
        ours, theirs = socket.socketpair()
        theirs.setsockopt(socket.SOL_SOCKET, socket.SO_SNDBUF, 8 * READ_BYTES)
        sent = theirs.send(bytes(4 * READ_BYTES))
        transport, protocol = await asyncio.get_running_loop().create_connection(lambda: Reading(sent), sock=ours)
        await asyncio.wait_for(protocol.all_here, 5)
        transport.close()
        theirs.close()
        sizes.extend(protocol.sizes)

    with pytest.raises(SystemExit):
        run(main)

    assert len(sizes) > 1
    assert max(sizes) == READ_BYTES


def test_the_collector_leaves_alone_what_was_imported() -> None:
    frozen: list[int] = []

    async def main() -> None:
        frozen.append(gc.get_freeze_count())

    with pytest.raises(SystemExit):
        run(main)

    assert frozen[0] > 10_000
