"""`make restore-drill`: back up a stack that has work, destroy it, restore into an empty one, and see what came back.

    python -m tests.restore [--tasks 200]

With deploy/backup/backup and deploy/backup/restore, as a person would. What waits at the moment of the backup falls due
before, while and after the stack is gone. Exit status 0 only if every one of these tasks was called, none before its
time, what had been called before the backup was not called again and can still be read, and the API key is the old one.
"""

import argparse
import asyncio
import os
import subprocess
import sys
import tempfile
import time
from collections.abc import Mapping, Sequence

from tests.chaos import aftermath
from tests.chaos.checker import Accepted, Call, Verdict, check, unfinished
from tests.chaos.client import Client, session
from tests.chaos.load import Order
from tests.compose import engine
from tests.compose.docker import CommandFailed
from tests.compose.outside import URL, Sink
from tests.compose.project import Project

SETTINGS = {"CARILLON_RETRY_SCHEDULE_S": "1,2,5", "COMPOSE_PROFILES": ""}
SERVICES = ("ingest", "scheduler", "dispatcher", "mailer")
DUE_FROM_S, DUE_UNTIL_S = 30.0, 180.0
"""After they are asked for. A backup, an end, a start and a restore take one to three minutes."""
FINISHED = 30
WITHIN_S = 90.0
SCRIPT_WITHIN_S = 300.0
LOOK_AGAIN_S = 0.5


class Drilled(Project):
    """A project that scripts can work on: they read what `docker compose` reads."""

    def script(self, name: str, *words: str) -> None:
        """Raises: CommandFailed."""
        files = os.pathsep.join(str(path) for path in self._files)
        environ = {**self._env, "COMPOSE_FILE": files, "COMPOSE_ENV_FILES": os.devnull}
        command = [str(engine.ROOT / "deploy" / "backup" / name), *words]
        done = subprocess.run(
            command, env=environ, cwd=engine.ROOT, capture_output=True, text=True, check=False, timeout=SCRIPT_WITHIN_S
        )
        if done.returncode:
            raise CommandFailed(f"{name}: exit {done.returncode}\n{(done.stdout + done.stderr)[-4000:]}")
        say(done.stderr.strip().splitlines()[-1])


def main() -> int:
    parser = argparse.ArgumentParser(prog="python -m tests.restore", description=__doc__)
    parser.add_argument("--tasks", type=int, default=200, help="how many wait at the backup (%(default)s)")
    options = parser.parse_args()
    project = Drilled(f"carillon-restore-{os.getpid()}", SETTINGS)
    try:
        engine.start_engine()
        project.provide_images()
        project.up()
        faults = asyncio.run(drill(project, options.tasks))
    except engine.NotRun as reason:
        faults = [f"the drill did not run: {reason}"]
    except CommandFailed as error:
        faults = [str(error), project.logs()]
    finally:
        project.down()
    say("\n".join(f"FAULT: {fault}" for fault in faults) or "verdict: everything came back")
    return 1 if faults else 0


def say(line: str) -> None:
    print(line, flush=True)


async def drill(project: Drilled, tasks: int) -> list[str]:
    key = project.secret("carillon_bootstrap_key")
    async with session(key) as http:
        client = Client(http, [project.url("ingest", 8080)], run=project.name)
        sink = Sink(http, project.url("sink", 8000))
        finished = await _finished(client, sink)
        waiting = await _waiting(client, tasks)
        say(f"{len(finished)} tasks are finished, {len(waiting)} wait")
        began = time.monotonic()
        with tempfile.TemporaryDirectory() as folder:
            await asyncio.to_thread(project.script, "backup", f"{folder}/backup")
            # So that nothing happens while we look at what has happened.
            await asyncio.to_thread(project.compose, "kill", *SERVICES)
            before = list(await sink.look())
            await asyncio.to_thread(project.down)
            say(f"{time.monotonic() - began:5.1f} s  everything is destroyed")
            await asyncio.to_thread(project.script, "restore", f"{folder}/backup")
        await asyncio.to_thread(project.up)
        say(f"{time.monotonic() - began:5.1f} s  the stack is up again")
        sink, api_url = Sink(http, project.url("sink", 8000)), project.url("ingest", 8080)
        await _called(waiting, before, sink)
        states = await aftermath.histories(http, [api_url], [*finished, *waiting])
    verdict = check(waiting, [*before, *sink.calls])
    say(_text(verdict, before, sink.calls))
    return [
        *_faults(verdict, unfinished([*finished, *waiting], states)),
        *_called_again(finished, sink.calls),
        *([] if project.secret("carillon_bootstrap_key") == key else ["the API key is another one"]),
    ]


async def _finished(client: Client, sink: Sink) -> list[Accepted]:
    """Tasks that are over, as their history says, before anything else is asked for."""
    await asyncio.gather(*(client.schedule(Order(number, "ok", 0.0, 0.0), URL) for number in range(FINISHED)))
    finished = list(client.accepted)
    await _called(finished, [], sink)
    await aftermath.histories(client.session, client.api_urls, finished)
    return finished


async def _waiting(client: Client, tasks: int) -> list[Accepted]:
    """Tasks that the scheduler has in its table: the history tells of them only then."""
    step_s = (DUE_UNTIL_S - DUE_FROM_S) / tasks
    for number in range(tasks):
        await client.schedule(Order(FINISHED + number, "ok", 0.0, DUE_FROM_S + number * step_s), URL)
    waiting = client.accepted[FINISHED:]
    for task in waiting:
        await _scheduled(client, task.id)
    return waiting


async def _scheduled(client: Client, id_: str) -> None:
    async with client.session.get(f"{client.api_urls[0]}/v1/tasks/{id_}") as response:
        response.raise_for_status()


async def _called(tasks: Sequence[Accepted], before: Sequence[Call], sink: Sink) -> None:
    """Until all are called, or time is up."""
    deadline = max(task.due_ms for task in tasks) / 1000 + WITHIN_S
    while time.time() < deadline:
        if not check(tasks, [*before, *await sink.look()]).lost:
            return
        await asyncio.sleep(LOOK_AGAIN_S)


def _text(verdict: Verdict, before: Sequence[Call], after: Sequence[Call]) -> str:
    late, earlier = verdict.lateness_ms, {call.id for call in before}
    again = len({call.id for call in after} & earlier)
    return (
        f"{verdict.accepted} tasks waited at the backup: {len(verdict.lost)} lost, {len(verdict.early)} early, "
        f"{again} called before the end and again after the restore; "
        f"lateness p50 {late.p50 if late else 0:.0f} ms, max {late.max if late else 0:.0f} ms"
    )


def _faults(verdict: Verdict, wrong: Mapping[str, str]) -> list[str]:
    found = {
        f"{len(verdict.lost)} tasks were lost: {verdict.lost[:5]}": bool(verdict.lost),
        f"{len(verdict.early)} calls came early: {verdict.early[:5]}": bool(verdict.early),
        f"histories do not end as they should: {dict(wrong)}": bool(wrong),
    }
    return [text for text, is_so in found.items() if is_so]


def _called_again(finished: Sequence[Accepted], calls: Sequence[Call]) -> list[str]:
    again = {task.id for task in finished} & {call.id for call in calls}
    return [f"{len(again)} tasks that were over before the backup were called again"] if again else []


if __name__ == "__main__":
    sys.exit(main())
