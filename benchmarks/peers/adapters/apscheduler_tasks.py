# mypy: ignore-errors
"""APScheduler 3 with its jobs in PostgreSQL. Version 4 is a pre-release of which its own page says not to use it in
production.
"""

# Its documentation, as followed here:
# - "User guide, Choosing the right scheduler, job store(s), executor(s)": SQLAlchemyJobStore on PostgreSQL, threads
#   for what waits for the network.
# - "Missed job executions and coalescing": no `misfire_grace_time`, so that a late job runs all the same.
# - "FAQ, How do I share a single job store among one or more worker processes?": not at all; so tasks are added while
#   no worker runs, by a scheduler that is paused.
# - A job is taken out of the store when it is handed to a thread: what a killed process had in hand is gone.

import logging
import sys

import common
from apscheduler.executors.pool import ThreadPoolExecutor
from apscheduler.jobstores.sqlalchemy import SQLAlchemyJobStore
from apscheduler.schedulers.background import BackgroundScheduler
from apscheduler.schedulers.blocking import BlockingScheduler

connections = None


def call(id_: str, body: dict) -> None:
    global connections  # noqa: PLW0603  one per process
    connections = connections or common.pool()
    common.post(connections, id_, body)


def settings() -> dict:
    url = common.POSTGRES_URL.replace("postgresql://", "postgresql+psycopg://")
    return {
        "jobstores": {"default": SQLAlchemyJobStore(url=url)},
        "executors": {"default": ThreadPoolExecutor(50)},
        "job_defaults": {"misfire_grace_time": None},
        "timezone": "UTC",
    }


def submit() -> None:
    scheduler = BackgroundScheduler(**settings())
    scheduler.start(paused=True)

    def one(id_: str, body: dict, due_ms: int) -> None:
        scheduler.add_job("apscheduler_tasks:call", "date", run_date=common.moment(due_ms), args=(id_, body), id=id_)

    common.submit_in_threads(one, threads=1)  # it adds under a lock
    # No shutdown(): it wakes the scheduler once more, which then takes what is due already, with no thread to run it.


if __name__ == "__main__":
    logging.basicConfig(level=logging.WARNING)
    if sys.argv[1] == "submit":
        submit()
    elif sys.argv[1] == "worker":
        BlockingScheduler(**settings()).start()
