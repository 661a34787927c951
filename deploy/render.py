"""Renders the Kubernetes manifests: `python -m deploy.render` writes k8s/install.yaml from the evaluation overlay.

The file is for a plain `kubectl apply -f`; a test holds it up to date.
"""

import shutil
import subprocess
import sys
from pathlib import Path

ROOT = Path(__file__).parent.parent
EVALUATION = ROOT / "k8s" / "overlays" / "evaluation"
INSTALL = ROOT / "k8s" / "install.yaml"
HEAD = """\
# Made by `make k8s` from k8s/overlays/evaluation: change it there.
#
# Carillon with single-node servers, to try it; not for production (k8s/overlays/production is).
# Its Secrets are not in here, and its pods wait for them:
#
#   kubectl apply -f k8s/install.yaml
#   python3 deploy/secrets.py kubernetes --passwords passwords.json | kubectl apply -f -
#
# The images carillon-*:0.1.0 are yours to build and to bring to the nodes. All of it: docs/kubernetes.md.
"""


def main() -> None:
    INSTALL.write_text(install())
    print(f"{INSTALL.relative_to(ROOT)} is up to date")


def install() -> str:
    """What k8s/install.yaml should hold."""
    return HEAD + rendered(EVALUATION)


def rendered(folder: Path) -> str:
    """What `kubectl kustomize` makes of `folder`. Raises: SystemExit with its words."""
    done = subprocess.run([kubectl(), "kustomize", folder], capture_output=True, text=True, check=False)  # noqa: S603  ours
    if done.returncode != 0:
        raise SystemExit(done.stderr.strip())
    return done.stdout


def kubectl() -> str:
    """The virtual environment's own (its release decides how the file is laid out), else the machine's."""
    own = Path(sys.executable).with_name("kubectl")
    found = str(own) if own.exists() else shutil.which("kubectl")
    if found is None:
        raise SystemExit("kubectl is missing: make the virtual environment anew (make check), or install it")
    return found


if __name__ == "__main__":
    main()
