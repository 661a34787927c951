"""How a process starts, stops and dies.

    starting ----------> running -- SIGTERM, SIGINT, or the first worker that ends --> draining ---> stopped
    (SIGTERM: cancel)                                            ask, drain_s seconds, insist

Ask: `stopping` is set, workers take nothing new and finish what they hold. Insist: who is late is cancelled,
and the broker redelivers what it dropped. Not `asyncio.TaskGroup`, which cuts calls in flight when one
sibling fails.
"""

import asyncio
import asyncio.selector_events
import gc
import random
import signal
import socket
import sys
from collections.abc import Callable, Coroutine, Sequence
from pathlib import Path
from typing import Any, NoReturn, Protocol

import structlog

from libs.common.logs import configure_logs
from libs.common.settings import SettingsError

EXIT_FAILED = 1
EXIT_SETTINGS = 78
"""EX_CONFIG of sysexits.h: restarting the same process with the same settings cannot help."""

READ_BYTES = 64 * 1024
"""asyncio would read into 256 KiB each time, which malloc maps and unmaps: 16 microseconds more for every read."""
GC_THRESHOLD = 50_000
"""Work leaves no cycles behind, but for a digest, which collects its own. The default, 700 objects, goes through those
of all tasks in hand again and again, for a fifth of the CPU of a burst; this is above what a process has in hand."""

log = structlog.get_logger()


class Fatal(Exception):
    """Waiting cannot mend this: wrong credentials, a missing queue, a taken port. The process ends.

    Text: what, which one, what to do. Never a password.
    """


class WorkerStopped(Exception):
    """A worker ended though nobody had asked it to: a loop that died quietly."""


class Worker(Protocol):
    """What a process does all day: one loop, with a name for the logs.

    A worker with an attribute `until_last = True` is kept while the others drain and is cancelled after them
    (the admin port, which answers probes and scrapes to the end).
    """

    @property
    def name(self) -> str:
        """Short and stable: it stands in logs."""

    async def run(self, stopping: asyncio.Event) -> None:
        """Work until `stopping` is set, then finish what is in hand and return."""


async def run_until_stopped(workers: Sequence[Worker], *, drain_s: float) -> None:
    """Run `workers` until SIGTERM, SIGINT or the first of them ends; then give them `drain_s` seconds.

    Raises: what the first failed worker raised, or `WorkerStopped`, so that the process exits non-zero.
    """
    stopping = asyncio.Event()
    failures: list[Exception] = []
    running = {asyncio.create_task(_run(worker, stopping, failures), name=worker.name): worker for worker in workers}
    _on_signals(stopping.set)
    try:
        await stopping.wait()
        log.info("drain.started", drain_s=drain_s)
        await _finish([task for task, worker in running.items() if not _is_until_last(worker)], drain_s)
    finally:
        for task in running:
            task.cancel()
        await asyncio.gather(*running, return_exceptions=True)
        _off_signals()
    log.info("drain.finished", failures=len(failures))
    if failures:
        raise failures[0]


def run(main: Callable[[], Coroutine[Any, Any, None]]) -> NoReturn:
    """Run `main` as this process and exit: 0 when it returns, 78 for its settings, 1 for anything else.

    What is expected (`SettingsError`, `Fatal`) says so on stderr without a traceback.
    """
    # Until main has its settings: structlog's own default would print local variables, and the URLs in them.
    configure_logs(Path(sys.argv[0]).parent.name, socket.gethostname(), "info")
    _tune()
    sys.exit(_exit_code(main))


async def pause(stopping: asyncio.Event, seconds: float) -> bool:
    """Wait `seconds`, or less when `stopping` is set; True when it is. The one sleep of every loop."""
    try:
        async with asyncio.timeout(seconds):
            return await stopping.wait()
    except TimeoutError:
        return stopping.is_set()


class Backoff:
    """Delays that double from `first_s` to `cap_s`, each cut by up to half at random.

    The cut keeps replicas that lost the same server from coming back in step.
    """

    def __init__(self, first_s: float, cap_s: float) -> None:
        self._first_s = first_s
        self._cap_s = cap_s
        self._next_s = first_s

    def next(self) -> float:
        """Seconds to wait before the next try."""
        delay_s, self._next_s = self._next_s, min(self._next_s * 2, self._cap_s)
        return delay_s * random.uniform(0.5, 1)  # noqa: S311  spreads load, guards nothing

    @property
    def is_fresh(self) -> bool:
        """Nothing has been waited for yet, or not since the last reset."""
        return self._next_s == self._first_s

    def reset(self) -> None:
        """Begin again at `first_s`: the last try went well."""
        self._next_s = self._first_s


async def _run(worker: Worker, stopping: asyncio.Event, failures: list[Exception]) -> None:
    try:
        await worker.run(stopping)
        if not stopping.is_set():
            failures.append(WorkerStopped(f"worker {worker.name} returned before it was asked to"))
            log.error("worker.stopped", worker=worker.name)
    except asyncio.CancelledError:
        if _is_being_cancelled():
            raise
        # aiormq ends a wait on a dead link with a bare CancelledError, which no sibling would hear of.
        failures.append(WorkerStopped(f"worker {worker.name} ended in a cancellation that nobody asked for"))
        log.exception("worker.stopped", worker=worker.name)
    except Exception as error:
        failures.append(error)
        log.exception("worker.failed", worker=worker.name)
    finally:
        stopping.set()


def _tune() -> None:
    """Of the process, for work that is many small reads and values that soon die."""
    asyncio.selector_events._SelectorSocketTransport.max_size = READ_BYTES  # type: ignore[attr-defined]
    gc.collect()
    gc.freeze()  # what was imported stays: the collector need not look at it again and again
    gc.set_threshold(GC_THRESHOLD)


async def _finish(tasks: list[asyncio.Task[None]], drain_s: float) -> None:
    if not tasks:
        return
    _, late = await asyncio.wait(tasks, timeout=drain_s)
    for task in late:
        log.warning("worker.cut-off", worker=task.get_name(), drain_s=drain_s)


def _is_until_last(worker: Worker) -> bool:
    return getattr(worker, "until_last", False)


def _is_being_cancelled() -> bool:
    task = asyncio.current_task()
    return task is not None and task.cancelling() > 0


def _on_signals(tell: Callable[[], object]) -> None:
    for signum in (signal.SIGINT, signal.SIGTERM):
        asyncio.get_running_loop().add_signal_handler(signum, tell)


def _off_signals() -> None:
    for signum in (signal.SIGINT, signal.SIGTERM):
        asyncio.get_running_loop().remove_signal_handler(signum)


async def _startable(main: Callable[[], Coroutine[Any, Any, None]]) -> None:
    # Until `run_until_stopped` takes the signals over: process 1 of a container ignores SIGTERM by default,
    # and main may be waiting for a broker.
    task = asyncio.current_task()
    assert task is not None
    _on_signals(task.cancel)
    await main()


def _exit_code(main: Callable[[], Coroutine[Any, Any, None]]) -> int:
    try:
        asyncio.run(_startable(main))
    except SettingsError as error:
        return _report("process.misconfigured", error, EXIT_SETTINGS)
    except Fatal as error:
        return _report("process.refused", error, EXIT_FAILED)
    except asyncio.CancelledError:
        log.warning("process.interrupted")
        return 128 + signal.SIGTERM
    except Exception:
        log.exception("process.crashed")
        return EXIT_FAILED
    return 0


def _report(event: str, error: Exception, code: int) -> int:
    log.error(event, reason=str(error), exit_code=code)
    print(error, file=sys.stderr)
    return code
