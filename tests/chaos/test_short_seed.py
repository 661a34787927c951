"""Two thirds of a minute of `make chaos` in CI: its load, its checker, and of its faults what a busy machine bears."""

import pytest

from tests.chaos.run import Run
from tests.chaos.testing import report_of

SHORT = Run(
    seed=100,
    minutes=2 / 3,
    kinds=("kill", "restart", "freeze", "alarm", "reset", "latency", "slice"),
    # Of the broker its alarm alone: the plan of this seed kills no server, which on a busy machine takes long to mend.
    targets=(
        "ingest", "scheduler", "dispatcher", "mailer", "rabbitmq", "ingest>rabbitmq", "scheduler>rabbitmq",
        "dispatcher>rabbitmq", "scheduler>postgres", "dispatcher>redis",
    ),
    per_minute=15.0,
)  # fmt: skip


@pytest.mark.timeout(420)
def test_a_short_run_of_faults_keeps_every_promise() -> None:
    planned = SHORT.plan()
    assert {"kill", "restart", "alarm", "reset", "latency"} <= {fault.kind for fault in planned}
    assert {fault.kind for fault in planned if fault.target == "rabbitmq"} == {"alarm"}

    report = report_of(SHORT, "short")

    assert report.faults == [], report.text()
    assert len(report.done) == len(planned)
