"""An engine to run the tier on, and the images that its files name; or the reason why there are none.

Where no registry answers, stand-ins built by `$BASE_IMAGES/build-base-images` take the place of the images, under the
same names. `$BASE_IMAGES/start-docker` starts an engine; it is left running, with its images, for the next time.
"""

import os
import re
import subprocess
from collections.abc import Iterable
from pathlib import Path

from tests.compose.docker import CommandFailed, run, works

ROOT = Path(__file__).parents[2]
REGISTRY_ANSWERS_WITHIN_S = 15.0
BUILD_WITHIN_S = 420.0
_FROM = re.compile(r"^FROM\s+(?:--\S+\s+)?(\S+)(?:\s+AS\s+(\S+))?", re.M | re.I)


class NotRun(Exception):
    """The tier can't be run here; the text says why, for a person."""


def start_engine() -> None:
    """Raises: NotRun."""
    if works("info"):
        _needs_compose()
        return
    folder = base_images()
    if folder is None:
        raise NotRun("`docker info` fails, and BASE_IMAGES names no folder with `start-docker`")
    if os.geteuid() != 0 or not Path("/etc/debian_version").exists():
        raise NotRun(f"`docker info` fails, and {folder}/start-docker needs root on Debian")
    try:
        run(str(folder / "start-docker"), timeout_s=BUILD_WITHIN_S)
    except CommandFailed as error:
        raise NotRun(f"no engine can be started: {error}") from error


def provide(images: Iterable[str]) -> set[str]:
    """Make these images usable; gives those that cannot be had. Raises: NotRun, CommandFailed."""
    missing = sorted(image for image in set(images) if not works("image", "inspect", image))
    if not missing or registry_answers(missing[0]):
        return set()
    folder = base_images()
    if folder is None:
        raise NotRun(f"no registry answers, BASE_IMAGES names no folder, and these images are missing: {missing}")
    buildable = [image for image in missing if (folder / "images" / _last_part(image)).is_dir()]
    if buildable:
        run(str(folder / "build-base-images"), *buildable, timeout_s=BUILD_WITHIN_S)
    return set(missing) - set(buildable)


def registry_answers(image: str) -> bool:
    """Asked through the engine, which may have a mirror: it says "Pulling from" as soon as a registry answers."""
    command = ["docker", "pull", image]
    try:
        done = subprocess.run(command, capture_output=True, check=False, timeout=REGISTRY_ANSWERS_WITHIN_S)
    except subprocess.TimeoutExpired as error:
        return b"Pulling from" in (error.stdout or b"")
    return b"Pulling from" in done.stdout


def base_images_of(dockerfile: Path) -> set[str]:
    """The images after FROM that are no stage of the file itself."""
    found = _FROM.findall(dockerfile.read_text())
    stages = {stage for _, stage in found}
    return {image for image, _ in found} - stages


def base_images() -> Path | None:
    folder = ROOT / os.environ.get("BASE_IMAGES", "/nowhere")
    return folder if all((folder / name).exists() for name in ("start-docker", "build-base-images")) else None


def _last_part(image: str) -> str:
    return image.rpartition("/")[2].partition(":")[0]


def _needs_compose() -> None:
    if not works("compose", "version"):
        raise NotRun("there is an engine, but no `docker compose`")
