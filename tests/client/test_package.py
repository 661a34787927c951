"""The package `carillon` as somebody gets who has nothing else of this repository."""

import os
import subprocess
import sys
import zipfile
from pathlib import Path

import carillon
import pytest

from libs.common.version import VERSION
from tests.conftest import ROOT

CLIENT = ROOT / "client"


@pytest.fixture(scope="module")
def unpacked(tmp_path_factory: pytest.TempPathFactory) -> Path:
    """What pip installs of it."""
    folder = tmp_path_factory.mktemp("wheel")
    built = subprocess.run(
        [sys.executable, "-m", "hatchling", "build", "-t", "wheel", "-d", str(folder)],
        cwd=CLIENT, capture_output=True, text=True, check=False,
    )  # fmt: skip
    assert built.returncode == 0, built.stderr
    [wheel] = folder.glob("carillon-*.whl")
    with zipfile.ZipFile(wheel) as archive:
        archive.extractall(folder / "site")
    return folder / "site"


def test_it_is_tested_from_this_checkout() -> None:
    assert Path(carillon.__file__).parent == CLIENT / "carillon"


def test_it_has_the_version_of_the_services() -> None:
    assert carillon.__version__ == VERSION


def test_the_wheel_holds_the_package_alone_with_its_types(unpacked: Path) -> None:
    assert {path.name for path in unpacked.iterdir()} == {"carillon", f"carillon-{VERSION}.dist-info"}
    assert (unpacked / "carillon" / "py.typed").exists()
    modules = {path.relative_to(CLIENT) for path in CLIENT.glob("carillon/**/*.py")}
    assert {path.relative_to(unpacked) for path in unpacked.glob("carillon/**/*.py")} == modules
    assert "Provides-Extra: cli" in (unpacked / f"carillon-{VERSION}.dist-info" / "METADATA").read_text()


def alone(unpacked: Path, program: str) -> str:
    """What `program` prints where only the wheel and its requirements are."""
    done = subprocess.run(
        [sys.executable, "-c", program], env={**os.environ, "PYTHONPATH": str(unpacked)}, cwd=unpacked,
        capture_output=True, text=True, check=False, timeout=30,
    )  # fmt: skip
    return done.stdout + done.stderr


def test_the_library_imports_neither_services_nor_what_the_command_needs(unpacked: Path) -> None:
    program = (
        "import sys, carillon; print(carillon.__file__);"
        "print(sorted({'services', 'libs', 'deploy', 'typer', 'rich', 'pydantic'} & sys.modules.keys()))"
    )
    assert alone(unpacked, program).splitlines() == [str(unpacked / "carillon" / "__init__.py"), "[]"]


@pytest.mark.parametrize("missing", ["typer", "rich"])
def test_without_what_the_command_needs_it_says_what_to_install(unpacked: Path, missing: str) -> None:
    program = f"import sys; sys.modules['{missing}'] = None; from carillon.__main__ import main; main()"
    assert alone(unpacked, program) == f"error: the command needs {missing}: pip install typer rich\n"
