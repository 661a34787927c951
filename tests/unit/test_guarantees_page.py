"""docs/guarantees.md and docs/faults.md name tests and programs: each must be there."""

import ast
import importlib.util
import re
from pathlib import Path

import pytest

ROOT = Path(__file__).parents[2]
PAGES = {name: (ROOT / "docs" / name).read_text() for name in ("guarantees.md", "faults.md")}
NAMED = sorted({named for page in PAGES.values() for named in re.findall(r"`(tests/[\w/]+\.py)::(\w+)`", page)})
PROGRAMS = sorted({name for page in PAGES.values() for name in re.findall(r"python -m ([\w.]+)", page)})
TARGETS = sorted({name for page in PAGES.values() for name in re.findall(r"`make ([a-z-]+)", page)})
FAULTS = re.findall(r"^\| F(\d+) \| (.+?) \| (.+) \|$", PAGES["faults.md"], re.MULTILINE)


@pytest.mark.parametrize("page", PAGES)
def test_the_page_names_tests(page: str) -> None:
    assert len(re.findall(r"`tests/[\w/]+\.py::\w+`", PAGES[page])) > 20
    assert not re.findall(r"`(tests/[^`]+)`", re.sub(r"`tests/[\w/]+\.py::\w+`", "", PAGES[page]))


@pytest.mark.parametrize(("path", "name"), NAMED)
def test_a_named_test_exists(path: str, name: str) -> None:
    tree = ast.parse((ROOT / path).read_text())

    assert name in {node.name for node in ast.walk(tree) if isinstance(node, ast.FunctionDef | ast.AsyncFunctionDef)}


def test_every_fault_of_the_design_has_its_row_with_a_test() -> None:
    assert [int(number) for number, _, _ in FAULTS] == list(range(1, 31))
    assert [number for number, _, tried in FAULTS if "::test_" not in tried] == []


@pytest.mark.parametrize("program", PROGRAMS)
def test_a_named_program_exists(program: str) -> None:
    assert importlib.util.find_spec(program) is not None


@pytest.mark.parametrize("target", TARGETS)
def test_a_named_make_target_exists(target: str) -> None:
    assert re.search(rf"^{target}:", (ROOT / "Makefile").read_text(), re.MULTILINE)
