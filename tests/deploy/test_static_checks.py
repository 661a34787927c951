"""The deployment files held against what others know of their formats: schemas, linters, the tools' own readers."""

import subprocess
from pathlib import Path

import pytest

from deploy.render import ROOT
from tests.deploy.manifests import VARIANTS, text, things, tool

COMPOSE = ROOT / "compose.yaml"
KUBERNETES = ("1.27", "1.32", "1.37")
"""The oldest that docs/kubernetes.md names, one between, the newest schema there is."""
CUSTOM = ("ScaledObject", "TriggerAuthentication", "PodMonitor")
"""Not Kubernetes' own: there is no schema for them here; test_kubernetes.py looks at what matters in them."""


@pytest.mark.parametrize("profiles", [(), ("observability", "demo")])
def test_compose_reads_its_file(profiles: tuple[str, ...]) -> None:
    options = [word for profile in profiles for word in ("--profile", profile)]
    done = _run("docker-compose", "--file", str(COMPOSE), "--env-file", "/dev/null", *options, "config", "--quiet")
    assert (done.returncode, done.stdout + done.stderr) == (0, "")


def test_compose_yaml_keeps_to_the_compose_specification() -> None:
    done = _run("check-jsonschema", "--builtin-schema", "vendor.compose-spec", str(COMPOSE))
    assert done.returncode == 0, done.stdout + done.stderr


def test_hadolint_has_nothing_to_say() -> None:
    done = _run("hadolint", "--no-color", "Dockerfile")
    assert (done.returncode, done.stdout + done.stderr) == (0, "")


@pytest.mark.parametrize("version", KUBERNETES)
@pytest.mark.parametrize("variant", VARIANTS)
def test_kubernetes_knows_every_field(variant: str, version: str, tmp_path: Path) -> None:
    path = tmp_path / "rendered.yaml"
    path.write_text(text(variant))
    done = _run("kubernetes-validate", "--strict", "-k", version, str(path))
    lines = (done.stdout + done.stderr).splitlines()
    custom = [thing["kind"] for thing in things(variant) if thing["kind"] in CUSTOM]
    unknown = [line for line in lines if "passed for resource" not in line]
    assert done.returncode == 0, unknown
    assert [line.partition("for kind ")[2].split()[0] for line in unknown] == custom
    assert len(lines) == len(things(variant))


def _run(name: str, *arguments: str) -> subprocess.CompletedProcess[str]:
    return subprocess.run(
        [tool(name), *arguments], cwd=ROOT, env={"PATH": "/usr/bin:/bin", "HOME": "/nonexistent"},
        stdin=subprocess.DEVNULL, capture_output=True, text=True, check=False,
    )  # fmt: skip
