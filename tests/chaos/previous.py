"""The release before this one, beside it: the second replica of every service runs from the files of a git revision.

The set-up step, the queues and the tables are this release's, as in a rolling upgrade whose old half lives on.
"""

import subprocess
import sys
from collections.abc import Mapping
from pathlib import Path

from deploy.local.layout import SERVICES, replica_name
from deploy.local.plan import Override
from libs.common.settings import KNOWN_VARIABLES
from tests.upgrade.release import unpack

REPLICA = 2


def overrides(ref: str, folder: Path) -> Mapping[str, Override]:
    """`folder` takes the release's files. Raises: ReleaseError for a revision that git does not know."""
    files = unpack(ref, folder.resolve())
    # It refuses to start with variables that only a later release knows; an empty one counts as not told.
    env = dict.fromkeys(sorted(KNOWN_VARIABLES - known_to(files)), "")
    return {replica_name(service, REPLICA): Override(env=env, cwd=str(files)) for service in SERVICES}


def known_to(files: Path) -> set[str]:
    show = "from libs.common.settings import KNOWN_VARIABLES; print(*KNOWN_VARIABLES)"
    done = subprocess.run((sys.executable, "-c", show), cwd=files, capture_output=True, text=True, check=True)
    return set(done.stdout.split())
