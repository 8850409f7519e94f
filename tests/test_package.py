"""What goes to a package index: it is well-formed, complete without a checkout, and its page has no broken link."""

import os
import re
import subprocess
import sys
import tarfile
import zipfile
from email import message_from_bytes
from pathlib import Path

import pytest

ROOT = Path(__file__).parent.parent

pytestmark = [pytest.mark.thorough, pytest.mark.timeout(600)]


@pytest.fixture(scope="module")
def built(tmp_path_factory: pytest.TempPathFactory) -> Path:
    """Build a source distribution, and a wheel from that alone."""
    target = tmp_path_factory.mktemp("dist")
    words = [sys.executable, "-m", "build", "--no-isolation", "--outdir", str(target), str(ROOT)]
    done = subprocess.run(words, capture_output=True, text=True, check=False)
    assert done.returncode == 0, done.stdout + done.stderr
    return target


def test_an_index_accepts_both(built: Path) -> None:
    """Twine has no warning."""
    files = sorted(built.iterdir())
    done = subprocess.run(
        [sys.executable, "-m", "twine", "check", "--strict", *files], capture_output=True, text=True, check=False
    )
    assert (done.returncode, len(files), done.stdout.count("PASSED")) == (0, 2, 2), done.stdout


def test_the_page_of_an_index_has_no_broken_link(built: Path) -> None:
    """README links to files of the repository; on the page of an index they are text."""
    (wheel,) = built.glob("*.whl")
    with zipfile.ZipFile(wheel) as archive:
        (name,) = (one for one in archive.namelist() if one.endswith("/METADATA"))
        metadata = message_from_bytes(archive.read(name))
    text = str(metadata.get_payload())
    assert metadata["Description-Content-Type"] == "text/markdown"
    assert "It does not de-identify" in text
    assert re.findall(r"\]\((?!https?://)[^)]*\)", text) == []


def test_the_source_has_what_its_tests_need(built: Path) -> None:
    """Whoever packages it for a distribution runs them."""
    (source,) = built.glob("*.tar.gz")
    with tarfile.open(source) as archive:
        names = {name.partition("/")[2] for name in archive.getnames()}
    assert {"README.md", "LICENSE", "CHANGELOG.md", "docs/index.md", "docs/asyncimport.1", "tests/conftest.py"} <= names


def test_the_wheel_works_without_a_checkout(built: Path, tmp_path: Path) -> None:
    """The demo is the whole job: it needs each module, table and page that the package has."""
    (wheel,) = built.glob("*.whl")
    with zipfile.ZipFile(wheel) as archive:
        archive.extractall(tmp_path / "site")  # noqa: S202 - we have just built it
        assert any(name.endswith("share/man/man1/asyncimport.1") for name in archive.namelist())
    environment = {"PATH": os.environ["PATH"], "HOME": str(tmp_path), "PYTHONPATH": str(tmp_path / "site")}

    def run(*words: str) -> str:
        command = [sys.executable, *words]
        done = subprocess.run(
            command, env=environment, cwd=tmp_path, capture_output=True, text=True, check=False, timeout=240
        )
        assert done.returncode == 0, done.stdout + done.stderr
        return done.stdout

    assert run("-c", "import asyncimport; print(asyncimport.__file__)").startswith(str(tmp_path / "site"))
    assert "verified" in run("-m", "asyncimport", "demo")
