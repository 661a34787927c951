"""Runbooks: every alert has its section, every section its parts, and what they speak of exists."""

import re
from collections.abc import Iterator
from pathlib import Path

import pytest

from libs.common.settings import KNOWN_VARIABLES
from libs.common.topology import topology
from tests.deploy.prometheus import ROOT, RUNBOOKS, alerts, names_in, recorded, served

CODE = [*(ROOT / "libs").rglob("*.py"), *(ROOT / "services").rglob("*.py"), *(ROOT / "deploy").rglob("*.py")]
MIGRATIONS = list((ROOT / "services").glob("*/migrations/*.sql"))
PARTS = (["For users", "See", "Do", "Do not", "Over when"], ["For users", "See and do", "Do not", "Over when"])
DOCUMENTS = [*RUNBOOKS, ROOT / "docs" / "monitoring.md"]
# Names in the shape of ours that are something else: a login of PostgreSQL, a plugin, a unit of systemd's.
NO_METRICS = {"carillon_scheduler", "carillon_ingest", "rabbitmq_prometheus"}


def sections(path: Path) -> dict[str, str]:
    """By heading."""
    parts = re.split(r"^## (.+)\n", path.read_text(), flags=re.M)
    return dict(zip(parts[1::2], parts[2::2], strict=True))


def anchor(heading: str) -> str:
    """As GitHub makes it of a plain heading."""
    return heading.lower().replace(" ", "-")


def spans(path: Path) -> set[str]:
    """What stands between single backticks."""
    prose = re.sub(r"^```.*?^```$", "", path.read_text(), flags=re.M | re.S)
    return set(re.findall(r"`([^`]+)`", prose))


def links(path: Path) -> Iterator[str]:
    for target in re.findall(r"\]\(([^)]+)\)", path.read_text()):
        if "://" not in target:
            yield target


def test_each_alert_leads_to_its_own_section_and_each_section_belongs_to_an_alert() -> None:
    told = {alert["alert"]: alert["annotations"]["runbook_url"] for alert in alerts()}
    written = {
        heading: f"{path.relative_to(ROOT)}#{anchor(heading)}"
        for path in RUNBOOKS
        for heading in sections(path)
        if heading.startswith("Carillon")
    }
    assert told == written


@pytest.mark.parametrize("path", RUNBOOKS, ids=lambda path: path.name)
def test_a_section_says_what_users_notice_what_to_do_and_when_it_is_over(path: Path) -> None:
    for heading, text in sections(path).items():
        if heading.startswith("Carillon"):
            bold = [words.rstrip(".") for words in re.findall(r"^\*\*([^*]+)\*\*", text, re.M)]
            assert bold in PARTS, heading


@pytest.mark.parametrize("path", DOCUMENTS, ids=lambda path: path.name)
def test_a_link_leads_somewhere(path: Path) -> None:
    for link in links(path):
        name, _, wanted = link.partition("#")
        target = path.parent / name if name else path
        assert target.exists(), link
        assert not wanted or wanted in map(anchor, sections(target)), link


def test_every_page_is_in_the_table_of_contents() -> None:
    contents = ROOT / "docs" / "runbooks" / "README.md"
    assert {path.name for path in RUNBOOKS} - {contents.name} <= set(links(contents))


@pytest.mark.parametrize("path", RUNBOOKS, ids=lambda path: path.name)
def test_metrics_and_settings_in_a_runbook_exist(path: Path) -> None:
    named = {name for span in spans(path) for name in names_in(span) if name.startswith("carillon")}
    assert named - served() - recorded() - NO_METRICS == set()
    assert set(re.findall(r"CARILLON_[A-Z_]+", path.read_text())) <= {
        *KNOWN_VARIABLES,
        "CARILLON_URL",
        "CARILLON_API_KEY",
    }


@pytest.mark.parametrize("path", RUNBOOKS, ids=lambda path: path.name)
def test_log_lines_queues_and_tables_in_a_runbook_exist(path: Path) -> None:
    events = {name for code in CODE for name in re.findall(r'"([a-z]+\.[a-z-]+)"', code.read_text())}
    tables = {name for sql in MIGRATIONS for name in re.findall(r"CREATE TABLE (\w+\.\w+)", sql.read_text())}
    table = topology()
    known = events | tables | {queue.name for queue in table.queues} | {exchange.name for exchange in table.exchanges}
    named = {span for span in spans(path) if re.fullmatch(r"[a-z]+\.[a-z_-]+", span)}
    assert {name for name in named if Path(name).suffix not in (".md", ".config")} - known == set()
