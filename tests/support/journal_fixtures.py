"""Fixtures of the tests of the journal: its path, a new journal, and a disk to scan."""

from collections.abc import Iterator
from pathlib import Path

import pytest
from journals import Disk, opened

from asyncimport.journal import Journal


@pytest.fixture
def path(tmp_path: Path) -> Path:
    """Return the path of the test's journal."""
    return tmp_path / "state" / "test.journal"


@pytest.fixture
def journal(path: Path) -> Iterator[Journal]:
    """Open a new journal."""
    with opened(path) as journal:
        yield journal


@pytest.fixture
def disk() -> Disk:
    """Return an empty disk."""
    return Disk()
