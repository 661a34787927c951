"""The Kubernetes manifests as a cluster would get them, and ways to look at them."""

import os
import sys
from collections.abc import Callable, Iterator
from functools import cache
from pathlib import Path
from tempfile import TemporaryDirectory
from typing import Any

import yaml

from deploy.render import EVALUATION, ROOT, rendered

PRODUCTION = ROOT / "k8s" / "overlays" / "production"
COMPONENTS = ROOT / "k8s" / "components"
SERVICES = ("ingest", "scheduler", "dispatcher", "mailer")
SERVERS = ("rabbitmq", "postgres", "redis", "mailpit")
VARIANTS = ("evaluation", "production", "evaluation with components", "production with components")

Thing = dict[str, Any]


@cache
def text(variant: str) -> str:
    folder = EVALUATION if variant.startswith("evaluation") else PRODUCTION
    if not variant.endswith("components"):
        return rendered(folder)
    with TemporaryDirectory() as temporary:
        here = Path(temporary).resolve()
        told = {
            "resources": [os.path.relpath(folder, here)],
            "components": [os.path.relpath(path, here) for path in sorted(COMPONENTS.iterdir())],
            "namespace": "carillon",
        }
        (here / "kustomization.yaml").write_text(yaml.safe_dump(told))
        return rendered(here)


@cache
def things(variant: str) -> tuple[Thing, ...]:
    return tuple(yaml.safe_load_all(text(variant)))


def of_kind(variant: str, *kinds: str) -> Iterator[Thing]:
    return (thing for thing in things(variant) if thing["kind"] in kinds)


def named(variant: str, kind: str, name: str) -> Thing:
    [found] = [thing for thing in of_kind(variant, kind) if thing["metadata"]["name"] == name]
    return found


def workloads(variant: str) -> Iterator[Thing]:
    return of_kind(variant, "Deployment", "StatefulSet", "Job")


def lasting(variant: str) -> Iterator[Thing]:
    return of_kind(variant, "Deployment", "StatefulSet")


def name_of(workload: Thing) -> str:
    """`carillon-ingest`, whatever the workload itself is called."""
    return str(labels_of(workload)["app.kubernetes.io/name"])


def labels_of(workload: Thing) -> dict[str, str]:
    return dict(workload["spec"]["template"]["metadata"]["labels"])


def pod_of(workload: Thing) -> Thing:
    return dict(workload["spec"]["template"]["spec"])


def container_of(workload: Thing) -> Thing:
    [container] = pod_of(workload)["containers"]
    assert "initContainers" not in pod_of(workload)
    return dict(container)


def port_numbers(workload: Thing) -> dict[str, int]:
    return {port["name"]: port["containerPort"] for port in container_of(workload)["ports"]}


def selects(selector: Thing, labels: dict[str, str]) -> bool:
    """As a label selector does; raises on an operator that our manifests do not use."""
    if unknown := set(selector) - {"matchLabels", "matchExpressions"}:
        raise AssertionError(f"unknown in a selector: {unknown}")
    for expression in selector.get("matchExpressions", ()):
        assert expression["operator"] == "In"
        if labels.get(expression["key"]) not in expression["values"]:
            return False
    return all(labels.get(key) == value for key, value in selector.get("matchLabels", {}).items())


def faults(variant: str, check: Callable[[Thing], bool], *, among: Callable[[str], Iterator[Thing]]) -> list[str]:
    """Names of the workloads that fail `check`: better than the first one only."""
    return [name_of(workload) for workload in among(variant) if not check(workload)]


def tool(name: str) -> str:
    """A program of the virtual environment."""
    path = Path(sys.executable).with_name(name)
    assert path.exists(), f"{path} is missing: make the virtual environment anew from requirements-dev.lock"
    return str(path)
