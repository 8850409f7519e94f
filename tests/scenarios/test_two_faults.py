"""Faults that take two: a lost journal, instances that are lost again, a rejection after an interrupted attempt."""

from dataclasses import replace
from functools import partial
from pathlib import Path

import anyio
import pytest
from builders import upload
from fault_checks import check_files, study
from fault_table import ALONE, PATIENT, RUNS, STAGES, STRUCK, End, row

from asyncimport.model.choices import Retry
from asyncimport.model.summary import SessionReport, exit_code
from asyncimport.testserver import (
    Fault,
    Gateway,
    Status,
    Tell,
    TestXnat,
)

pytestmark = [pytest.mark.anyio, pytest.mark.thorough]


@pytest.mark.parametrize("stage", RUNS)
async def test_a_run_with_a_new_journal_sends_no_archived_file_again(
    xnat: TestXnat, url: str, tmp_path: Path, stage: str
) -> None:
    """A run is killed at the third session, and its journal is lost."""
    place, end = STAGES[stage], End.BUILT if stage == "build alone" else End.WELL
    options = replace(ALONE, archive=end is End.WELL)
    sent = study(tmp_path / "tree", place.files)
    nth = place.nth if place.path else 2 * place.requests[place.kind] + place.nth
    with anyio.CancelScope() as scope:
        killed = xnat.faults.add(Fault(place.kind, Tell(scope.cancel), nth, path=place.path.format(3)))
        await upload(url, [tmp_path / "tree"], tmp_path / "lost.db", options=options, policy=PATIENT)
    assert killed.hits == 1
    # XNAT goes on with what it was asked to archive.
    while any("ARCHIVING" in one.status for one in xnat.prearchive):
        await anyio.lowlevel.checkpoint()
    before = xnat.count["import"]
    held: list[SessionReport] = []
    if left := [one.name for one in xnat.prearchive]:
        # What the lost journal has begun may be another machine's: told, with the way out, and nothing of it is sent.
        summary = await upload(url, [tmp_path / "tree"], tmp_path / "journal.db", options=options, policy=PATIENT)
        held = [one for one in summary.sessions if one.state == "held"]
        assert sorted(one.session.label for one in held) == sorted(left)
        assert all("--adopt-rows" in (one.reason or "") for one in held)
        assert exit_code(summary) == 9
    adopting = partial(upload, options=options, policy=PATIENT, adopt_rows=bool(left))
    summary = await adopting(url, [tmp_path / "tree"], tmp_path / "journal.db")
    files = summary.files
    assert (files.stored + files.already_stored, files.refused, files.failed, files.left) == (
        STRUCK * place.files, 0, 0, 0
    )  # fmt: skip
    check_files(xnat, sent, place, row(end))
    # XNAT archives the third session whether anybody waits for that or not.
    archived = 0 if end is End.BUILT else 3 if stage == "archive" or stage.startswith("verify") else 2
    # What was not sent from this journal is seen to be there; in which version, nobody can tell.
    proofs = ["present"] * archived + ["uids"] * (STRUCK - archived) if end is End.WELL else [None] * STRUCK
    assert [one.verified for one in summary.sessions] == proofs
    assert {one.state for one in summary.sessions} == {"archived" if end is End.WELL else "prearchive"}
    assert xnat.count["import"] - before == (STRUCK - archived) * place.files


@pytest.mark.parametrize("again", [False, True])
async def test_what_the_archive_lacks_is_sent_again_once(xnat: TestXnat, url: str, tmp_path: Path, again: bool) -> None:
    """XNAT loses two files of each session before building it; if one is lost again, the session is held."""
    sent = study(tmp_path / "tree", files=3)

    def lose(*lost: str) -> None:
        for one in xnat.prearchive:
            for files in one.scans.values():
                for name in [name for name, file in files.items() if file.sop_uid in lost]:
                    del files[name]

    faults = [
        xnat.faults.add(Fault("build", Tell(partial(lose, *lost)), nth + 2 * number))
        for number, (_, one, other) in enumerate(sent)
        for nth, lost in ((1, (one, other)), (2, (one,) if again else ()))
    ]
    summary = await upload(url, [tmp_path / "tree"], tmp_path / "journal.db", options=ALONE)
    assert [fault.hits for fault in faults] == [1, 1] * STRUCK
    assert (xnat.count["import"], xnat.count["build"], xnat.count["archive"]) == (25, 10, 10)
    assert summary.files.stored == 15
    assert xnat.sop_uids() == {uid for uids in sent for uid in uids} - ({uids[1] for uids in sent} if again else set())
    ends = [(one.state, one.verified) for one in summary.sessions]
    assert ends == [("held", None) if again else ("archived", "uids")] * STRUCK
    reasons = {one.reason for one in summary.sessions}
    lacks = "the archive lacks 1 of its instances; `asyncimport verify --repair` sends them again"
    assert reasons == {lacks if again else None}


async def test_a_file_too_large_is_refused_after_an_interrupted_attempt_too(
    xnat: TestXnat, url: str, tmp_path: Path
) -> None:
    """A proxy that times out once and then rejects the file never let it through."""
    sent = study(tmp_path / "tree", files=2)
    faults = [
        xnat.faults.add(Fault("import", action, nth + 3 * number))
        for number in range(STRUCK)
        for nth, action in ((2, Gateway(effect=False)), (3, Status(413)))
    ]
    summary = await upload(url, [tmp_path / "tree"], tmp_path / "journal.db", options=ALONE)
    assert [fault.hits for fault in faults] == [1, 1] * STRUCK
    assert xnat.count["import"] == 3 * STRUCK
    assert (summary.files.refused, summary.files.failed) == (STRUCK, 0)
    assert summary.count("held") == STRUCK
    assert not xnat.archived
    summary = await upload(
        url, [tmp_path / "tree"], tmp_path / "journal.db", options=replace(ALONE, retry=frozenset({Retry.REFUSED}))
    )
    assert summary.count("archived") == STRUCK
    assert xnat.sop_uids() == {uid for uids in sent for uid in uids}
