"""Logins of workers that expire in mid-run: one after the other logs in again, as the password may have changed."""

from dataclasses import replace
from functools import partial
from pathlib import Path

import pytest
from builders import uids_below, upload
from local_cluster import local_workers

from asyncimport.errors import LoginRefusedError
from asyncimport.model.options import Options
from asyncimport.source.folder import FileSource
from asyncimport.testserver import ExpireLogins, Fault, Stall, Tell, TestXnat
from asyncimport.testserver.samples import generated

pytestmark = [pytest.mark.anyio, pytest.mark.thorough]

WORKERS = 4
OPTIONS = Options(workers=8 * WORKERS, finalizers=2)


@pytest.fixture
def tree(tmp_path: Path) -> Path:
    """Write some sessions."""
    generated(tmp_path / "tree", sessions=8, files=400, size=4_000, seed=1)
    return tmp_path / "tree"


async def test_workers_log_in_again(xnat: TestXnat, url: str, tree: Path, tmp_path: Path) -> None:
    """XNAT has restarted, say. Nothing is lost, and no login is left."""
    xnat.faults.add(Fault("import", ExpireLogins(), nth=100))
    xnat.faults.add(Fault("import", ExpireLogins(), nth=250))
    async with local_workers(partial(FileSource, [tree]), workers=WORKERS) as workers:
        summary = await upload(url, [tree], tmp_path / "journal.db", options=OPTIONS, workers=workers)
    assert {(one.state, one.verified) for one in summary.sessions} == {("archived", "uids")}
    assert xnat.sop_uids("demo") == await uids_below(tree)
    assert xnat.count["login"] > 1 + WORKERS
    assert xnat.live_logins("demo") == 0


async def test_a_password_that_has_changed_is_not_tried_by_all_workers(
    xnat: TestXnat, url: str, tree: Path, tmp_path: Path
) -> None:
    """XNAT locks the account after some refusals: there are no more than on one machine, but for the driver's."""

    def change() -> None:
        # All have logged in, by the password that was. From now on files are taken, and soon the logins expire.
        xnat.users["demo"] = replace(xnat.users["demo"], password="another")
        xnat.faults.clear()
        held.release()
        xnat.faults.add(Fault("import", ExpireLogins(), nth=100))

    held = xnat.faults.add(Fault("import", Stall(), times=1000))
    xnat.faults.add(Fault("listing", Tell(change), nth=1 + WORKERS, path="auth"))
    async with local_workers(partial(FileSource, [tree]), workers=WORKERS) as workers:
        with pytest.raises(LoginRefusedError):
            await upload(url, [tree], tmp_path / "journal.db", options=OPTIONS, workers=workers)
    assert 1 <= xnat.logins._failed["demo"] <= 2
