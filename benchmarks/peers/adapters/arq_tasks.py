# mypy: ignore-errors
"""arq on Redis: jobs deferred until a time, run at least once."""

# Its documentation, as followed here:
# - "Pessimistic Execution": a job stays in Redis until it ended, so a killed worker's jobs run again; the claim of a
#   dead worker lasts as long as `job_timeout` and ten seconds more, so the limit is that of the call in place of 5
#   minutes.
# - Reference of `Worker`: `max_jobs` (10 unless said) for what waits for the network, `keep_result` 0 for results
#   that nobody reads, `poll_delay` 0.1 s in place of 0.5 s, for what is due at a time.

import asyncio
import sys

import common
from arq import create_pool
from arq.connections import RedisSettings

LOGS = {"version": 1, "disable_existing_loggers": False, "loggers": {"arq": {"level": "WARNING"}}}
settings = RedisSettings.from_dsn(common.REDIS_URL)


async def call(ctx: dict, id_: str, body: dict) -> None:
    await common.post_async(ctx["client"], id_, body)


async def startup(ctx: dict) -> None:
    ctx["client"] = common.session()


async def shutdown(ctx: dict) -> None:
    await ctx["client"].close()


class WorkerSettings:
    functions = [call]
    redis_settings = settings
    on_startup = startup
    on_shutdown = shutdown
    max_jobs = 100
    poll_delay = 0.1
    job_timeout = common.TIMEOUT_S
    keep_result = 0
    log_results = False


async def submit() -> None:
    redis = await create_pool(settings)

    async def one(id_: str, body: dict, due_ms: int) -> None:
        await redis.enqueue_job("call", id_, body, _defer_until=common.moment(due_ms))

    await common.submit_concurrently(one)
    await redis.aclose()


if __name__ == "__main__":
    if sys.argv[1] == "submit":
        asyncio.run(submit())
