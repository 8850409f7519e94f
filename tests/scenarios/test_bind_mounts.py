"""Files under two paths, by a bind mount, are sent once."""

import shutil
import subprocess
import sys
from pathlib import Path
from typing import Any

import anyio
import pytest
from builders import image, sop, write
from conftest import Commands, Ended

from asyncimport.testserver import TestXnat

pytestmark = pytest.mark.anyio

# A mount that no other process sees, and that ends with this one.
APART = ("unshare", "--mount", "--map-root-user")
BIND = 'mount --bind "$1" "$2" && shift 2 && exec "$@"'


@pytest.fixture
def source(tmp_path: Path) -> Path:
    """Write two studies and make an empty directory. Skip where mounting is not allowed."""
    for number in (1, 2):
        ids: dict[str, Any] = {"StudyInstanceUID": f"1.2.{number}", "PatientID": f"P{number}"}
        write(tmp_path / "source" / f"p{number}" / "1.dcm", image(number, **ids))
    (tmp_path / "again").mkdir()
    trial = [*APART, "sh", "-c", BIND, "sh", str(tmp_path / "source"), str(tmp_path / "again"), "true"]
    if shutil.which("unshare") is None or subprocess.run(trial, capture_output=True, check=False).returncode:
        pytest.skip("nothing may be mounted here")
    return tmp_path / "source"


async def bound(commands: Commands, one: Path, other: Path, *words: str | Path) -> Ended:
    """Run a command while one directory is mounted at the path of another, too."""
    command = ["sh", "-c", BIND, "sh", one, other, sys.executable, "-m", "asyncimport", *words]
    done = await anyio.run_process([*APART, *command], env=commands.env, check=False)
    return Ended(done.returncode, done.stdout.decode(), done.stderr.decode())


@pytest.mark.parametrize("part", ["", "p1"])
@pytest.mark.parametrize("is_first", [False, True])
async def test_of_two_sources_that_are_one_each_file_counts_once(
    xnat: TestXnat, url: str, commands: Commands, source: Path, part: str, is_first: bool
) -> None:
    """Also for a source and a part of it, in any order. Inode and device identify them."""
    commands.login(url)
    again = source.parent / "again"
    places = [again, source] if is_first else [source, again]
    words: tuple[str | Path, ...] = ("upload", *places, "-P", "demo", "-q", "-o", "json")
    said = await bound(commands, source / part, again, *words, "--dry-run")
    done = await bound(commands, source / part, again, *words)
    assert (said.code, said.json["files"]["found"], said.json["problems"]) == (0, 2, []), said
    assert (done.code, done.json["files"]["found"], done.json["files"]["stored"]) == (0, 2, 2), done
    assert xnat.sop_uids() == {sop(1), sop(2)}
    later = await bound(commands, source / part, again, *words)
    assert (later.code, later.json["files"]["already_stored"], xnat.count["import"]) == (0, 2, 2), later


async def test_a_directory_that_is_twice_in_a_source_is_sent_once(
    xnat: TestXnat, url: str, commands: Commands, source: Path
) -> None:
    """The files under the second path are reported as copies."""
    commands.login(url)
    (source / "p9").mkdir()
    words: tuple[str | Path, ...] = ("upload", source, "-P", "demo", "-q", "-o", "json")
    said = await bound(commands, source / "p1", source / "p9", *words, "--dry-run")
    done = await bound(commands, source / "p1", source / "p9", *words)
    assert (said.code, [one["code"] for one in said.json["problems"]]) == (0, ["duplicate"]), said
    assert (done.code, done.json["files"]["stored"], done.json["files"]["duplicate"]) == (0, 2, 1), done
    assert (xnat.sop_uids(), xnat.count["import"]) == ({sop(1), sop(2)}, 2)
    # The file does not count as gone when the mount ends.
    alone = await commands(*words)
    assert (alone.code, alone.json["files"]["already_stored"]) == (0, 2), alone
