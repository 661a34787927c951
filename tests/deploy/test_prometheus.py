"""Rules, alerts and dashboards: Prometheus reads them, and every name in them, and in the runbooks, exists."""

import json
import re
from pathlib import Path

import pytest
import yaml
from prometheus_client import generate_latest
from prometheus_client.metrics import MetricWrapperBase

from deploy.local.layout import SERVICES
from deploy.metrics import PAGE, metrics, page
from libs.common.metrics import REGISTRY
from libs.common.topology import topology
from tests.deploy.prometheus import (
    DASHBOARDS,
    DATASOURCE,
    GRAFANAS_OWN,
    OTHERS,
    PROMETHEUS,
    RULE_TESTS,
    RULES,
    alerts,
    asked,
    checked,
    names_in,
    panels,
    read,
    recorded,
    rules,
    served,
)


def test_prometheus_takes_its_configuration_and_the_rules(promtool: str) -> None:
    said = checked(promtool, "check", "config", PROMETHEUS / "prometheus.yml")
    assert f"{len(RULES)} rule files found" in said  # it would not miss a folder that is not there


@pytest.mark.parametrize("path", RULE_TESTS, ids=lambda path: path.name)
def test_alerts_fire_when_they_should(promtool: str, path: Path) -> None:
    checked(promtool, "test", "rules", path)


def test_every_alert_fires_in_one_test_and_is_silent_in_another() -> None:
    fired, silent = set(), 0
    for path in RULE_TESTS:
        for case in read(path)["tests"]:
            for check in case["promql_expr_test"]:
                samples = check["exp_samples"]
                fired |= {name for sample in samples for name in re.findall(r'alertname="(\w+)"', sample["labels"])}
                # `ALERTS` without a name asks for all of them: those that it does not list are silent.
                silent += not samples
    assert fired == {alert["alert"] for alert in alerts()}
    assert silent > 1


def test_every_alert_says_how_bad_it_is_what_it_is_and_what_to_do() -> None:
    for alert in alerts():
        assert alert["labels"]["severity"] in ("critical", "warning"), alert["alert"]
        assert set(alert["annotations"]) == {"runbook_url", "summary", "description", "action"}, alert["alert"]


def test_every_metric_in_a_rule_a_rule_test_a_dashboard_or_a_runbook_exists() -> None:
    series = [entry["series"] for path in RULE_TESTS for case in read(path)["tests"] for entry in case["input_series"]]
    used = {name for text in (*[rule["expr"] for rule in rules()], *series) for name in names_in(text)}
    used |= {name for expression in asked() for name in names_in(expression)}
    assert used - recorded() - OTHERS - served() == set()
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


def test_queues_and_exchanges_named_in_rules_dashboards_and_runbooks_exist() -> None:
    table_ = topology((5.0, 15.0))
    queues, exchanges = {queue.name for queue in table_.queues}, {exchange.name for exchange in table_.exchanges}
    for expression in (*[rule["expr"] for rule in rules()], *asked()):
        for is_pattern, queue in re.findall(r'\bqueue!?=(~?)"([^"]+)"', expression):
            assert any(re.fullmatch(queue, name) if is_pattern else queue == name for name in queues), queue
        assert set(re.findall(r'\bexchange="([^"]+)"', expression)) <= exchanges


def test_labels_in_rules_dashboards_and_runbooks_are_ones_that_the_code_gives() -> None:
    labels = {metric.name: set(metric.labels) for metric in metrics()}
    for expression in (*[rule["expr"] for rule in rules()], *asked()):
        for name, matchers in re.findall(r"\b(carillon_[a-z_]+)\{([^}]*)\}", expression):
            used = set(re.findall(r"(\w+)\s*(?:=~|!~|!=|=)", matchers)) - {"job", "instance", "le"}
            owner = next(owner for owner in labels if name in (owner, *(f"{owner}_{s}" for s in ("bucket", "count"))))
            assert used <= labels[owner], expression


def test_what_our_processes_serve_keeps_the_conventions(promtool: str) -> None:
    metrics()  # imports all of them
    for collector in list(REGISTRY._collector_to_names):
        if isinstance(collector, MetricWrapperBase) and collector._labelnames and not collector._metrics:
            collector.labels(*("x" for _ in collector._labelnames))  # else it would have no sample to look at
    scraped = generate_latest(REGISTRY).decode()
    assert "carillon_dispatcher_attempts_total{" in scraped
    checked(promtool, "check", "metrics", text=scraped)


def test_the_page_of_metrics_is_written_from_the_code() -> None:
    assert PAGE.read_text() == page(), "run `python -m deploy.metrics`"


@pytest.mark.parametrize("service", SERVICES)
def test_the_dashboard_of_a_service_shows_all_metrics_of_its_own(service: str) -> None:
    [dashboard] = [path for path in DASHBOARDS if path.stem == f"carillon-{service}"]
    shown = {name for panel in panels(dashboard) for target in panel["targets"] for name in names_in(target["expr"])}
    own = {metric.name for metric in metrics() if metric.owner == service}
    assert {name for name in own if not any(each.startswith(name) for each in shown)} == set()


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


def test_prometheus_can_read_every_expression_of_dashboards_and_runbooks(promtool: str, tmp_path: Path) -> None:
    expressions = asked()
    for variable, value in GRAFANAS_OWN.items():
        expressions = [expression.replace(variable, value) for expression in expressions]
    as_rules = [{"record": f"asked:{number}", "expr": text} for number, text in enumerate(expressions)]
    written = tmp_path / "asked.yml"
    written.write_text(yaml.safe_dump({"groups": [{"name": "asked", "rules": as_rules}]}))
    assert f"{len(as_rules)} rules found" in checked(promtool, "check", "rules", written)
