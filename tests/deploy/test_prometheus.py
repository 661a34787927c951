"""Rules, alerts, dashboards and the page about them: Prometheus reads them, and every name in them exists."""

import json
import os
import re
import shutil
import subprocess
from collections.abc import Iterator
from pathlib import Path
from typing import Any

import pytest
import yaml
from prometheus_client import generate_latest
from prometheus_client.metrics import MetricWrapperBase

from deploy.local.debian import unpacked_alone
from deploy.local.errors import StackError
from deploy.metrics import PAGE, metrics, table
from libs.common.metrics import REGISTRY
from libs.common.topology import topology

ROOT = Path(__file__).parents[2]
PROMETHEUS = ROOT / "deploy" / "prometheus"
GRAFANA = ROOT / "deploy" / "grafana"
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


@pytest.fixture(scope="session")
def promtool() -> str:
    """The one on PATH, else out of the system's package of Prometheus."""
    if on_path := shutil.which("promtool"):
        return on_path
    try:
        root = unpacked_alone("prometheus", ROOT / ".local" / "prometheus")
    except StackError as error:
        return _missing(f"no promtool: {error}")
    return str(root / "usr" / "bin" / "promtool") if root else _missing("no promtool on PATH, and no Debian packages")


def _missing(reason: str) -> str:
    if os.environ.get("CI") == "true":
        pytest.fail(reason)
    pytest.skip(reason)


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


def names_in(expression: str) -> set[str]:
    """The metrics of an expression: not its label values, nor the labels it groups by."""
    bare = re.sub(r'"[^"]*"', '""', expression)
    bare = re.sub(r"\b(?:by|without|on|ignoring|group_left|group_right)\s*\([^)]*\)", "", bare)
    return set(NAME.findall(bare))


def served() -> set[str]:
    """Every name that ours are scraped under."""
    suffixes = {"histogram": ("_bucket", "_count", "_sum")}
    return {metric.name + suffix for metric in metrics() for suffix in suffixes.get(metric.kind, ("",))}


def test_prometheus_takes_its_configuration_and_the_rules(promtool: str) -> None:
    said = checked(promtool, "check", "config", PROMETHEUS / "prometheus.yml")
    assert f"{len(RULES)} rule files found" in said  # it would not miss a folder that is not there


@pytest.mark.parametrize("path", RULE_TESTS, ids=lambda path: path.name)
def test_alerts_fire_when_they_should(promtool: str, path: Path) -> None:
    checked(promtool, "test", "rules", path)


def test_every_alert_fires_in_one_test_and_is_silent_in_another() -> None:
    fired, asked = set(), 0
    for path in RULE_TESTS:
        for case in read(path)["tests"]:
            for check in case["promql_expr_test"]:
                samples = check["exp_samples"]
                fired |= {name for sample in samples for name in re.findall(r'alertname="(\w+)"', sample["labels"])}
                # `ALERTS` without a name asks for all of them: those that it does not list are silent.
                asked += not samples
    assert fired == {alert["alert"] for alert in alerts()}
    assert asked > 1


def test_every_alert_says_how_bad_it_is_what_it_is_and_what_to_do() -> None:
    for alert in alerts():
        assert alert["labels"]["severity"] in ("critical", "warning"), alert["alert"]
        assert set(alert["annotations"]) == {"summary", "description", "action"}, alert["alert"]


def test_every_metric_in_a_rule_a_rule_test_or_a_dashboard_exists() -> None:
    recorded = {rule["record"] for rule in rules() if "record" in rule}
    series = [entry["series"] for path in RULE_TESTS for case in read(path)["tests"] for entry in case["input_series"]]
    used = {name for text in (*[rule["expr"] for rule in rules()], *series) for name in names_in(text)}
    used |= {name for expression in dashboard_expressions() for name in names_in(expression)}
    assert used - recorded - OTHERS - served() == set()
    assert OTHERS - used == set()  # the list of what is not ours holds nothing that nobody uses


def test_the_bounds_in_the_rules_are_those_of_the_queues() -> None:
    [fill] = [rule["expr"] for rule in rules() if rule.get("record") == "carillon:queue_fill:ratio"]
    terms = re.findall(r'\{queue=(~?)"([^"]+)"\} / (\d+)', fill)
    for queue in topology((0.2, 5.0)).queues:
        bounds = [
            int(bound)
            for is_pattern, name, bound in terms
            if (re.fullmatch(name, queue.name) if is_pattern else name == queue.name)
        ]
        bound = queue.arguments.get("x-max-length-bytes")
        assert bounds == ([] if bound is None else [bound]), queue.name


def test_queues_and_exchanges_named_in_rules_and_dashboards_exist() -> None:
    table_ = topology((5.0, 15.0))
    queues, exchanges = {queue.name for queue in table_.queues}, {exchange.name for exchange in table_.exchanges}
    for expression in (*[rule["expr"] for rule in rules()], *dashboard_expressions()):
        for is_pattern, queue in re.findall(r'\bqueue!?=(~?)"([^"]+)"', expression):
            assert any(re.fullmatch(queue, name) if is_pattern else queue == name for name in queues), queue
        assert set(re.findall(r'\bexchange="([^"]+)"', expression)) <= exchanges


def test_label_values_in_rules_and_dashboards_are_ones_that_the_code_gives() -> None:
    labels = {metric.name: set(metric.labels) for metric in metrics()}
    for expression in (*[rule["expr"] for rule in rules()], *dashboard_expressions()):
        for name, matchers in re.findall(r"\b(carillon_[a-z_]+)\{([^}]*)\}", expression):
            used = set(re.findall(r"(\w+)\s*(?:=~|!~|!=|=)", matchers)) - {"job", "instance", "le"}
            owner = next(owner for owner in labels if name in (owner, *(f"{owner}_{s}" for s in ("bucket", "count"))))
            assert used <= labels[owner], expression


def test_what_our_processes_serve_keeps_the_conventions(promtool: str) -> None:
    metrics()  # imports all of them
    for collector in list(REGISTRY._collector_to_names):
        if isinstance(collector, MetricWrapperBase) and collector._labelnames and not collector._metrics:
            collector.labels(*("x" for _ in collector._labelnames))  # else it would have no sample to look at
    page = generate_latest(REGISTRY).decode()
    assert "carillon_dispatcher_attempts_total{" in page
    checked(promtool, "check", "metrics", text=page)


def test_the_page_about_monitoring_tells_of_every_metric() -> None:
    assert table() in PAGE.read_text(), "run `python -m deploy.metrics`"


def test_the_page_about_monitoring_tells_of_every_alert() -> None:
    page = PAGE.read_text()
    wanted = [
        f"| `{alert['alert']}` | {alert['labels']['severity']} | {alert['annotations']['action']} |"
        for alert in alerts()
    ]
    assert re.findall(r"^\| `Carillon\w+` \|.*$", page, re.MULTILINE) == wanted


@pytest.mark.parametrize("path", DASHBOARDS, ids=lambda path: path.name)
def test_a_dashboard_can_be_provisioned(path: Path) -> None:
    dashboard = json.loads(path.read_text())
    [source] = read(DATASOURCE)["datasources"]
    assert dashboard["uid"] == path.stem
    assert dashboard["schemaVersion"] >= 39
    ids = [panel["id"] for panel in dashboard["panels"]]
    assert len(ids) == len(set(ids))
    for panel in panels(path):
        assert panel["description"], panel["title"]
        letters = [target["refId"] for target in panel["targets"]]
        assert letters, panel["title"]
        assert len(letters) == len(set(letters))
        for owner in (panel, *panel["targets"]):
            assert owner["datasource"] == {"type": source["type"], "uid": source["uid"]}, panel["title"]


@pytest.mark.parametrize("path", DASHBOARDS, ids=lambda path: path.name)
def test_the_panels_of_a_dashboard_do_not_overlap(path: Path) -> None:
    taken: dict[tuple[int, int], str] = {}
    for panel in json.loads(path.read_text())["panels"]:
        place = panel["gridPos"]
        assert place["x"] + place["w"] <= 24
        for x in range(place["x"], place["x"] + place["w"]):
            for y in range(place["y"], place["y"] + place["h"]):
                assert taken.setdefault((x, y), panel["title"]) == panel["title"]


def test_prometheus_can_read_every_expression_of_the_dashboards(promtool: str, tmp_path: Path) -> None:
    expressions = dashboard_expressions()
    for variable, value in GRAFANAS_OWN.items():
        expressions = [expression.replace(variable, value) for expression in expressions]
    recorded = [{"record": f"panel:{number}", "expr": text} for number, text in enumerate(expressions)]
    written = tmp_path / "panels.yml"
    written.write_text(yaml.safe_dump({"groups": [{"name": "panels", "rules": recorded}]}))
    assert f"{len(recorded)} rules found" in checked(promtool, "check", "rules", written)
