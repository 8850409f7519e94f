"""What comes late of a study, and would be a session of another type, is held before anything of it is sent.

XNAT merges nothing into an archived session that has another data type, which goes by the modality that leads among the
files that come together (PrearcSessionArchiver.checkForConflicts).
"""

from dataclasses import replace
from pathlib import Path
from typing import Any

import pytest
from builders import image, sop, write
from conftest import Commands, Ended
from journals import instance, opened, stored

from asyncimport.journal import AdoptedFiles, JournalReader
from asyncimport.model.deliveries import ArchivedContent
from asyncimport.model.files import Instance
from asyncimport.routing.studies import type_conflict
from asyncimport.testserver import TestXnat

pytestmark = pytest.mark.anyio

MR, PET, OTHER = "xnat:mrSessionData", "xnat:petSessionData", "xnat:otherDicomSessionData"
STUDY = {"StudyInstanceUID": "1.2.1", "PatientID": "P1"}


def add(place: Path, number: int, modality: str, series: int = 1) -> None:
    """Write a file of the study."""
    ids: dict[str, Any] = {**STUDY, "SeriesInstanceUID": f"1.3.{series}", "SeriesNumber": series}
    write(place / f"{number}.dcm", image(number, Modality=modality, **ids))


async def upload(commands: Commands, source: Path, *words: str | Path) -> Ended:
    """Do a dry run and an upload: both end the same way."""
    call: tuple[str | Path, ...] = ("upload", source, "-P", "demo", "-q", "-o", "json", *words)
    rehearsed = await commands(*call, "--dry-run")
    ended = await commands(*call)
    assert rehearsed.code == ended.code, rehearsed.out + ended.out + ended.err
    codes = [one["code"] for one in rehearsed.json["problems"]]
    assert ("modality-on-server" in codes) == (ended.code == 9), rehearsed.out
    return ended


@pytest.fixture
async def archived(url: str, commands: Commands, tmp_path: Path) -> Path:
    """Archive the first file of the study, and return its directory."""
    commands.login(url)
    add(tmp_path / "source", 5, "MR")
    assert (await upload(commands, tmp_path / "source")).code == 0
    return tmp_path / "source"


@pytest.mark.parametrize("machine", ["this", "another"])
async def test_a_report_alone_is_held(
    xnat: TestXnat, commands: Commands, archived: Path, tmp_path: Path, machine: str
) -> None:
    """In each run, with any journal, and it leaves nothing in the prearchive."""
    add(archived, 6, "SR", 2)
    words = ("--state-dir", tmp_path / "state") if machine == "another" else ()
    sent = xnat.count["import"]
    for _ in range(2):
        ended = await upload(commands, archived, *words)
        (detail,) = ended.json["details"]
        assert (ended.code, detail["state"], ended.json["files"]["left"]) == (9, "held", 1), ended.out
        assert "xnat:mrSessionData" in detail["reason"]
        assert "SR" in detail["reason"]
    assert (xnat.count["import"], xnat.prearchive, xnat.sop_uids()) == (sent, [], {sop(5)})
    # A problem that has not changed is not reported again.
    (archived / "6.dcm").unlink()
    add(archived, 6, "MR", 2)
    assert (await upload(commands, archived, *words)).code == 0
    assert xnat.sop_uids() == {sop(5), sop(6)}


@pytest.mark.parametrize("order", [(1, 9), (9, 1)], ids=["report first", "image first"])
async def test_a_report_with_images_goes_in(
    xnat: TestXnat, commands: Commands, archived: Path, order: tuple[int, int]
) -> None:
    """In any order: together they are a session of the type in the archive."""
    report, late = order
    add(archived, report, "SR", 2)
    add(archived, late, "MR")
    ended = await upload(commands, archived)
    assert ended.code == 0, ended.out
    assert xnat.sop_uids() == {sop(5), sop(report), sop(late)}


@pytest.mark.parametrize("more", [True, False])
def test_a_report_waits_for_the_scan(tmp_path: Path, more: bool) -> None:
    """Until the scan ends, a later file may change the type. After it, the report is held."""

    def of(name: str, modality: str) -> Instance:
        return replace(instance(name), modality=modality)

    there = ArchivedContent("/data/archive/E", frozenset({"1.2.E1.a"}), MR)
    with opened(tmp_path / "journal.db") as journal:
        journal.scan.admit([of("a", "MR"), of("b", "SR")])
        (claim,) = journal.queue.claim(10, max_active=10) or []
        assert journal.existing.adopt(claim, there) == AdoptedFiles(1, 10)
        assert journal.queue.claim(10, max_active=10) == []
        if more:
            journal.scan.admit([of("c", "MR")])
            (first,) = journal.queue.claim(10, max_active=10) or []
            journal.queue.record_outcomes([stored(first)])
            assert len({first.key, *(claim.key for claim in journal.queue.claim(10, max_active=10) or [])}) == 2
            return
        journal.scan.finish(["/src"])
        assert journal.queue.claim(10, max_active=10) is None
        (report,) = JournalReader.of(journal).summary().sessions
        assert (report.state, MR in str(report.reason)) == ("held", True)


async def test_a_site_that_merges_them(xnat: TestXnat, commands: Commands, archived: Path) -> None:
    """XNAT tells this only to administrators. Other users get the default, with a note."""
    xnat.prevent_cross_modality_merge = False
    add(archived, 6, "SR", 2)
    held = await upload(commands, archived)
    assert (held.code, "administrator" in held.json["details"][0]["reason"]) == (9, True)
    assert (await upload(commands, archived, "--retry", "held")).code == 9
    xnat.add_user(replace(xnat.users["demo"], all_data=True))
    assert (await upload(commands, archived)).code == 0
    assert xnat.sop_uids() == {sop(5), sop(6)}


@pytest.mark.parametrize("is_admin", [False, True])
async def test_a_site_that_does_not_merge_them(
    xnat: TestXnat, commands: Commands, archived: Path, is_admin: bool
) -> None:
    """Nothing of it is sent, even with `--retry held`."""
    xnat.add_user(replace(xnat.users["demo"], all_data=is_admin))
    add(archived, 6, "SR", 2)
    assert (await upload(commands, archived)).code == 9
    ended = await upload(commands, archived, "--retry", "held")
    assert (ended.code, ended.json["details"][0]["state"]) == (9, "held")
    assert (xnat.sop_uids(), xnat.prearchive) == ({sop(5)}, [])


async def test_what_has_been_sent_before_is_not_held(xnat: TestXnat, commands: Commands, archived: Path) -> None:
    """A study of two modalities that is archived whole has no new files."""
    add(archived, 6, "SR", 2)
    add(archived, 7, "MR")
    for _ in range(2):
        assert (await upload(commands, archived)).code == 0
    assert (await upload(commands, archived, "--state-dir", archived.parent / "state")).code == 0
    assert xnat.count["import"] == 3


@pytest.mark.parametrize(
    ("kind", "modalities", "fits"),
    [
        (MR, {"MR"}, True),
        (MR, {"MR", "SR", "PR"}, True),
        (MR, {"SR"}, False),
        (MR, {"SC"}, False),
        (MR, {"CT"}, False),
        (MR, {"MR", "PT"}, False),
        (PET, {"CT"}, False),
        (PET, {"PT", "CT"}, True),
        (PET, {"PT", "MR"}, True),
        (OTHER, {"SR"}, True),
        (OTHER, {"MR"}, False),
        # Where the type is unknown, XNAT decides: no modality, types of the site, an order that may vary.
        (MR, {""}, True),
        (MR, {"", "SR"}, True),
        (MR, set(), True),
        ("", {"SR"}, True),
        ("xnat:petmrSessionData", {"PT"}, True),
        ("site:ownSessionData", {"MR"}, True),
        (OTHER, {"SM"}, True),
        ("xnat:usSessionData", {"US", "XA"}, True),
        ("xnat:RTIMAGESESSIONDATA", {"RTIMAGE"}, True),
    ],
)
def test_what_makes_another_type(kind: str, modalities: set[str], fits: bool) -> None:
    """Only what is certain holds a session."""
    assert (type_conflict(kind, modalities) == "") is fits
