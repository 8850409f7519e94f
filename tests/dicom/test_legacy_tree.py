"""A tree of thirty years, uploaded as a whole: the summary counts what the oracle counts, path by path."""

import os
import sqlite3
from collections import Counter
from pathlib import Path

import pytest
from conftest import Commands
from dicom_files import expected_of, packaged

from asyncimport.dicom import Identity
from asyncimport.testserver import TestXnat

pytestmark = pytest.mark.anyio


def kind_of(path: Path) -> str:
    """Return the kind of a file, by the oracle."""
    expected = expected_of(path.read_bytes())
    if isinstance(expected, Identity):
        return "UNREADABLE" if expected.truncated else "INSTANCE"
    return {"NotDicom": "NOT_DICOM", "Unreadable": "UNREADABLE"}[expected[0]]


async def test_every_bundled_file_ends_like_the_oracle(
    xnat: TestXnat, url: str, commands: Commands, tmp_path: Path
) -> None:
    """All files of pydicom, pydicom-data, pynetdicom and nibabel, in one upload."""
    tree = tmp_path / "tree"
    kinds: dict[bytes, str] = {}
    for number, path in enumerate(sorted(packaged())):
        target = tree / f"{number:04}" / path.name
        target.parent.mkdir(parents=True)
        target.symlink_to(path)
        kinds[os.fsencode(target)] = kind_of(path)
    commands.login(url)
    ended = await commands(
        "upload", tree, "-P", "demo", "-S", "all", "-E", "{StudyInstanceUID}", "--allow-mixed-patients",
        "--ignore-archives", "--follow-links", "-o", "json",
    )  # fmt: skip
    assert ended.code == 8, ended.err
    counts = Counter(kinds.values())
    files = ended.json["files"]
    assert (files["not_dicom"], files["unreadable"]) == (counts["NOT_DICOM"], counts["UNREADABLE"])
    assert files["found"] == counts["INSTANCE"] > 100
    assert files["failed"] == files["left"] == 0

    (journal,) = commands.home.rglob("*.journal")
    connection = sqlite3.connect(journal)
    found = dict(connection.execute("SELECT path, kind FROM file"))
    stored = {uid for (uid,) in connection.execute("SELECT sop_uid FROM instance WHERE state = 'STORED'")}
    connection.close()
    # Instances that the packages hold twice are duplicates, or twins with other bytes.
    same = {"DUPLICATE": "INSTANCE", "SKIPPED": "INSTANCE"}
    assert {path: same.get(kind, kind) for path, kind in found.items()} == kinds
    assert len(stored) == files["stored"]
    assert xnat.sop_uids("demo") == stored
