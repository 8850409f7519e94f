"""The source tree to measure: this one, or a checkout of another revision."""

import os
import subprocess
import sys
import tarfile
from collections.abc import Iterator, Mapping
from contextlib import contextmanager
from pathlib import Path
from tempfile import TemporaryDirectory

ROOT = Path(__file__).absolute().parent.parent
_KEPT_OUT = ("XNAT", "ASYNCIMPORT", "XDG", "NETRC", "PYTHON", "PYTEST", "COVERAGE")


def clean_environment() -> dict[str, str]:
    """Return the environment without variables that name other servers."""
    return {name: value for name, value in os.environ.items() if not name.startswith(_KEPT_OUT)}


def python_path(tree: Path) -> Mapping[str, str]:
    """Return an environment in which Python finds the package of a tree, and this bench."""
    path = str(tree) if tree == ROOT else os.pathsep.join((str(tree), str(ROOT)))
    return {**clean_environment(), "PYTHONPATH": path}


@contextmanager
def checkout(revision: str) -> Iterator[Path]:
    """Put the package of another revision into its own directory. Raises ValueError if git does not know it."""
    with TemporaryDirectory(prefix="bench-tree-") as place:
        archive = Path(place) / "tree.tar"
        done = subprocess.run(
            ["git", "-C", ROOT, "archive", "--output", archive, revision, "asyncimport"],
            check=False,
            capture_output=True,
            text=True,
        )
        if done.returncode:
            raise ValueError(f"--against {revision}: {done.stderr.strip() or 'git cannot check it out'}")
        tree = Path(place) / "tree"
        with tarfile.open(archive) as packed:
            packed.extractall(tree, filter="data")
        # Otherwise the first run would compile it.
        subprocess.run([sys.executable, "-m", "compileall", "-q", tree], check=True)
        yield tree
