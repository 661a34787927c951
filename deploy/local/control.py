"""How `up` and `down` deal with the supervisor: start it, give it a plan, end it, clear up after its death."""

import os
import signal
import subprocess
import sys
import time

from deploy.local.errors import StackError
from deploy.local.keeper import make_room
from deploy.local.layout import MARKER, PROJECT, Layout
from deploy.local.plan import Plan, Status, read_plan, read_status, write_plan
from deploy.local.processes import is_alive, is_ours, kill_all, ours, read_pid, signal_ours, wait_for_end

DROPPED = ("CARILLON_", "RABBITMQ_", "ERL_", "PG", "NOTIFY_SOCKET")
"""Variables of the caller that would change a server's ways, or come to the services by the plan alone."""
FOLLOW_TIMEOUT_S = 90.0
"""A plan may ask services to leave, which takes 45 s to drain, then servers."""
END_TIMEOUT_S = 180.0
LOOK_AGAIN_S = 0.05


def running_plan(layout: Layout) -> Plan | None:
    """What a living supervisor keeps running; None without one."""
    return read_plan(layout.plan_file) if supervisor_pid(layout) else None


def supervisor_pid(layout: Layout) -> int | None:
    pid = read_pid(layout.pid_file("supervisor"))
    return pid if pid is not None and is_ours(pid, layout) and is_alive(pid) else None


def follow(layout: Layout, plan: Plan) -> Status:
    """Make the supervisor follow this plan, starting it if need be. Returns the status at that moment."""
    write_plan(layout.plan_file, plan)
    pid = supervisor_pid(layout)
    if pid is None:
        layout.status_file.unlink(missing_ok=True)
        pid = _start_supervisor(layout)
    else:
        signal_ours([pid], signal.SIGHUP, layout)
    deadline = time.monotonic() + FOLLOW_TIMEOUT_S
    while (status := read_status(layout.status_file)).plan_id != plan.id:
        if not is_alive(pid) or time.monotonic() > deadline:
            raise StackError(f"the supervisor does not follow: see {layout.log_file('supervisor')}")
        time.sleep(LOOK_AGAIN_S)
    return status


def end(layout: Layout) -> bool:
    """End everything of this stack, in order; False when nothing was running."""
    pid = supervisor_pid(layout)
    if pid is not None:
        signal_ours([pid], signal.SIGTERM, layout)
        wait_for_end([pid], END_TIMEOUT_S)
    had_orphans = end_orphans(layout)
    return pid is not None or had_orphans


def end_orphans(layout: Layout) -> bool:
    """End what a supervisor that died has left behind, as it would have; False when there was nothing."""
    found = bool(ours(layout))
    plan = read_plan(layout.plan_file)
    if found and plan is not None:
        signal_ours([pid for pid in [supervisor_pid(layout)] if pid], signal.SIGKILL, layout)
        _end_in_order(layout, plan)
    kill_all(layout)
    for pid_file in layout.pids.glob("*"):
        pid_file.unlink(missing_ok=True)
    layout.status_file.unlink(missing_ok=True)
    return found


def _end_in_order(layout: Layout, plan: Plan) -> None:
    for stage in sorted({spec.stage for spec in plan.processes}, reverse=True):
        leaving, longest_s = set(), 0.0
        for spec in (spec for spec in plan.processes if spec.stage == stage):
            pid = read_pid(layout.pid_file(spec.name))
            if pid is not None and is_ours(pid, layout):
                signal_ours([pid], spec.stop_signal, layout)
                leaving.add(pid)
                longest_s = max(longest_s, spec.stop_timeout_s)
        wait_for_end(leaving, longest_s)


def _start_supervisor(layout: Layout) -> int:
    log_path = layout.log_file("supervisor")
    make_room(log_path)
    inherited = {name: value for name, value in os.environ.items() if not name.startswith(DROPPED)}
    own = {MARKER: str(layout.root), "PYTHONUNBUFFERED": "1"}
    with log_path.open("ab") as log:
        supervisor = subprocess.Popen(
            (sys.executable, "-m", "deploy.local.supervisor"),
            cwd=PROJECT,
            env=inherited | own,
            stdin=subprocess.DEVNULL,
            stdout=log,
            stderr=log,
            start_new_session=True,
        )
    return supervisor.pid
