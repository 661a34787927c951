"""Rules, alerts, dashboards and runbooks as data, and which metrics and names they may speak of."""

import json
import re
import subprocess
from collections.abc import Iterator
from pathlib import Path
from typing import Any

import yaml

from deploy.metrics import metrics

ROOT = Path(__file__).parents[2]
PROMETHEUS = ROOT / "deploy" / "prometheus"
GRAFANA = ROOT / "deploy" / "grafana"
RUNBOOKS = sorted((ROOT / "docs" / "runbooks").glob("*.md"))
RULES = sorted((PROMETHEUS / "rules").glob("*.yml"))
RULE_TESTS = sorted((PROMETHEUS / "tests").glob("*.yml"))
DASHBOARDS = sorted((GRAFANA / "dashboards").glob("*.json"))
DATASOURCE = GRAFANA / "provisioning" / "datasources" / "prometheus.yml"

# Not ours: what Prometheus makes itself, what prometheus-client adds to a process, and what RabbitMQ 4.0.5 was seen
# to serve, on /metrics (rabbitmq_) and on /metrics/detailed with the families of prometheus.yml (rabbitmq_detailed_).
OTHERS = frozenset(
    """
    up ALERTS
    process_cpu_seconds_total process_resident_memory_bytes process_open_fds process_max_fds process_start_time_seconds
    rabbitmq_alarms_memory_used_watermark rabbitmq_alarms_free_disk_space_watermark
    rabbitmq_disk_space_available_bytes rabbitmq_disk_space_available_limit_bytes
    rabbitmq_process_resident_memory_bytes rabbitmq_resident_memory_limit_bytes rabbitmq_connections
    rabbitmq_detailed_queue_messages rabbitmq_detailed_queue_messages_ready rabbitmq_detailed_queue_messages_unacked
    rabbitmq_detailed_queue_messages_bytes rabbitmq_detailed_queue_consumers
    """.split()
)
NAME = re.compile(r"\b(?:carillon[_:]|rabbitmq_|process_|python_)[a-z0-9_:]+|\bup\b|\bALERTS\b")
GRAFANAS_OWN = {"$__rate_interval": "1m"}
PROMQL = re.compile(r"^```promql\n(.*?)^```$|\bprom '([^']+)'", re.M | re.S)


def checked(*command: str | Path, text: str = "") -> str:
    done = subprocess.run(command, input=text, capture_output=True, text=True, check=False)
    assert done.returncode == 0, done.stdout + done.stderr
    return done.stdout + done.stderr


def read(path: Path) -> Any:
    return yaml.safe_load(path.read_text())


def rules() -> Iterator[dict[str, Any]]:
    for path in RULES:
        for group in read(path)["groups"]:
            yield from group["rules"]


def alerts() -> list[dict[str, Any]]:
    return [rule for rule in rules() if "alert" in rule]


def panels(dashboard: Path) -> list[dict[str, Any]]:
    return [panel for panel in json.loads(dashboard.read_text())["panels"] if panel["type"] != "row"]


def dashboard_expressions() -> list[str]:
    found = []
    for dashboard in DASHBOARDS:
        found += [target["expr"] for panel in panels(dashboard) for target in panel["targets"]]
        found += [note["expr"] for note in json.loads(dashboard.read_text())["annotations"]["list"]]
    return found


def runbook_expressions() -> list[str]:
    found = [match for path in RUNBOOKS for match in PROMQL.findall(path.read_text())]
    return [block or after_prom for block, after_prom in found]


def asked() -> list[str]:
    """What people ask Prometheus: the expressions of dashboards and runbooks."""
    return dashboard_expressions() + runbook_expressions()


def recorded() -> set[str]:
    return {rule["record"] for rule in rules() if "record" in rule}


def names_in(expression: str) -> set[str]:
    """The metrics of an expression: not its label values, nor the labels it groups by."""
    bare = re.sub(r'"[^"]*"', '""', expression)
    bare = re.sub(r"\b(?:by|without|on|ignoring|group_left|group_right)\s*\([^)]*\)", "", bare)
    return set(NAME.findall(bare))


def served() -> set[str]:
    """Every name that ours are scraped under."""
    suffixes = {"histogram": ("_bucket", "_count", "_sum")}
    return {metric.name + suffix for metric in metrics() for suffix in suffixes.get(metric.kind, ("",))}
