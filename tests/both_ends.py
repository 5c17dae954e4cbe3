"""Run the tests with the oldest and with the newest versions that pyproject.toml allows.

    python tests/both_ends.py                          # the default suite, at both ends
    python tests/both_ends.py --envs /tmp/ends -k hub  # where the environments are made, and arguments for pytest
    python tests/both_ends.py --models                 # measure all models and write model_cards/SUPPORTED_MODELS.md

Makes a virtual environment for each end, or takes the one that is there. PyTorch is that of the Python that runs this:
its oldest version is gigabytes, and no test depends on it.
"""

import argparse
import os
import subprocess
import sys
import venv
from importlib.metadata import version
from pathlib import Path

import tomllib
from packaging.requirements import Requirement

ROOT = Path(__file__).parent.parent


def oldest(requirement: Requirement) -> str:
    """``name==`` the lower bound, any patch release of it."""
    (lower,) = (bound.version for bound in requirement.specifier if bound.operator == ">=")
    return f"{requirement.name}=={lower}" + (".*" if lower.count(".") < 2 else "")


def wanted(end: str) -> list[str]:
    """What pip is to install for an end, ``oldest`` or ``newest``."""
    project = tomllib.loads((ROOT / "pyproject.toml").read_text())["project"]
    found = [f"torch=={version('torch').split('+')[0]}"]
    for requirement in map(Requirement, project["dependencies"]):
        if requirement.name != "torch":
            found.append(oldest(requirement) if end == "oldest" else str(requirement))
    return found


def environment(end: str, folder: Path) -> Path:
    """The Python of an end's environment, made if it is not there."""
    python = folder / end / "bin" / "python"
    if not python.exists():
        venv.create(folder / end, with_pip=True)
        subprocess.run([python, "-m", "pip", "install", "-q", *wanted(end), "-e", f"{ROOT}[test]"], check=True)
    return python


def main() -> int:
    parser = argparse.ArgumentParser(description=__doc__.split("\n")[0])
    parser.add_argument("--envs", type=Path, default=ROOT / ".ends", help="folder of the two environments")
    parser.add_argument("--models", action="store_true", help="measure all models anew instead of running the tests")
    args, rest = parser.parse_known_args()
    status = 0
    for end in ("oldest", "newest"):
        python = environment(end, args.envs)
        print(f"{end}: {', '.join(wanted(end))}", flush=True)
        command = ["tests/families.py", "--anew"] if args.models else ["-m", "pytest"]
        done = subprocess.run(
            [python, *command, *rest], cwd=ROOT, env={**os.environ, "PYTHONPATH": str(ROOT)}, check=False
        )
        status = status or done.returncode
    return status


if __name__ == "__main__":
    sys.exit(main())
