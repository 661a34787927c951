"""The lock files: what is installed is named to the byte, and nothing of the machine that made them got in."""

import re
import tomllib

import pytest

from tests.conftest import ROOT

LOCKS = ("requirements.lock", "requirements-otel.lock", "requirements-dev.lock")


@pytest.mark.parametrize("lock", LOCKS)
def test_no_option_address_or_path_is_in_a_lock(lock: str) -> None:
    lines = (ROOT / lock).read_text().splitlines()
    assert not [line for line in lines if line.startswith("--") or "://" in line or "file:" in line]


@pytest.mark.parametrize("lock", LOCKS)
def test_every_requirement_has_a_hash(lock: str) -> None:
    requirements = re.split(r"\n(?=[a-z0-9])", (ROOT / lock).read_text().strip())
    assert len(requirements) > 30
    assert not [text.split()[0] for text in requirements if "--hash=sha256:" not in text]


def test_everything_asked_for_is_locked() -> None:
    project = tomllib.loads((ROOT / "pyproject.toml").read_text())["project"]
    asked = {"requirements.lock": project["dependencies"]}
    asked["requirements-otel.lock"] = [*project["dependencies"], *project["optional-dependencies"]["otel"]]
    extras = [name for names in project["optional-dependencies"].values() for name in names]
    asked["requirements-dev.lock"] = [*project["dependencies"], *extras]
    for lock, names in asked.items():
        locked = set(re.findall(r"^([a-z0-9._-]+)==", (ROOT / lock).read_text(), re.M))
        assert {re.split(r"[<>=\[]", name)[0] for name in names} <= locked


def test_tracing_adds_packages_to_an_image_and_changes_none() -> None:
    plain, traced = (_versions(lock) for lock in ("requirements.lock", "requirements-otel.lock"))
    assert plain.items() <= traced.items()


def _versions(lock: str) -> dict[str, str]:
    return dict(re.findall(r"^([a-z0-9._-]+)==([^ ;]+)", (ROOT / lock).read_text(), re.M))
