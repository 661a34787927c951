# mypy: ignore-errors
"""Procrastinate on PostgreSQL: jobs scheduled at a time."""

# Its documentation, as followed here:
# - "Launch a worker": `concurrency` for asynchronous tasks that wait for the network; finished jobs are deleted, for
#   a table that stays small.
# - "Schedule a task": what is scheduled is found by polling, at `fetch_job_polling_interval`: 0.1 s in place of 5 s.
# - "Retry stalled jobs": a periodic task puts back the jobs of workers whose heartbeat has stopped for 30 s; it runs
#   every 10 s here in place of every 10 minutes.
# - "Launch many tasks at once": `batch_defer`.

import asyncio
import itertools
import sys
import time

import common
import procrastinate

app = procrastinate.App(connector=procrastinate.PsycopgConnector(conninfo=common.POSTGRES_URL, max_size=20))
client = None


@app.task(name="call", retry=True)
async def call(id_: str, body: dict) -> None:
    global client  # noqa: PLW0603  one per worker, made where its loop runs
    client = client or common.session()
    await common.post_async(client, id_, body)


@app.periodic(cron="* * * * * */10")  # the sixth field is of seconds
@app.task(name="retry_stalled_jobs", queueing_lock="retry_stalled_jobs", pass_context=True)
async def retry_stalled_jobs(context, timestamp: int) -> None:
    for job in await app.job_manager.get_stalled_jobs():
        await app.job_manager.retry_job(job)


async def submit() -> None:
    async def one(id_: str, body: dict, due_ms: int) -> None:
        await call.configure(schedule_at=common.moment(due_ms)).defer_async(id_=id_, body=body)

    async with app.open_async():
        if common.job().bulk:
            await submit_bulk()
        else:
            await common.submit_concurrently(one)


async def submit_bulk() -> None:
    """A time for each: `batch_defer` is this with one time for all."""
    tasks = iter(list(common.job()))
    began = time.monotonic()
    while batch := list(itertools.islice(tasks, common.BULK)):
        jobs = [
            call.configure(schedule_at=common.moment(due_ms)).make_new_job(id_=id_, body=body)
            for id_, body, due_ms in batch
        ]
        await app.job_manager.batch_defer_jobs_async(jobs=jobs)
    common.report(began)


async def set_up() -> None:
    async with app.open_async():
        await app.schema_manager.apply_schema_async()


if __name__ == "__main__":
    if sys.argv[1] == "setup":
        asyncio.run(set_up())
    elif sys.argv[1] == "submit":
        asyncio.run(submit())
