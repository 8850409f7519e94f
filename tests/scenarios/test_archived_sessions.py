"""The sessions in the archive of a project: listed once for all callers."""

from dataclasses import replace
from pathlib import Path

import anyio
import pytest
from builders import AT_ONCE, image, logged_in, upload, write

from asyncimport.testserver import Fault, Status, TestXnat
from asyncimport.xnat.archive import ArchivedSessions, label_before_division
from asyncimport.xnat.replies.archive import Experiment

pytestmark = pytest.mark.anyio


async def test_a_project_is_listed_once(xnat: TestXnat, url: str, tmp_path: Path) -> None:
    """All callers, at the same time and later, share one listing. It has label, study, subject and date."""
    write(tmp_path / "tree" / "1.dcm", image(1))
    await upload(url, [tmp_path / "tree"], tmp_path / "journal")
    found: list[object] = []
    async with logged_in(url) as client:
        xnat.count.clear()
        archived = ArchivedSessions(client, AT_ONCE)

        async def ask() -> None:
            found.append(await archived.list_project("demo"))

        async with anyio.create_task_group() as tasks:
            for _ in range(5):
                tasks.start_soon(ask)
        await ask()
    (session,) = xnat.archived
    there = [Experiment(session.id, "S_20200102", "1.2.3", "S", "xnat:mrSessionData", "2020-01-02", "demo")]
    there = [replace(one, subject_id=session.subject.id, prearchive_path=session.prearchive_path) for one in there]
    assert found == [there] * 6
    assert xnat.count["listing"] == 1


async def test_what_is_not_shown_is_not_taken_for_nothing(xnat: TestXnat, url: str) -> None:
    """The result is None and not an empty list."""
    async with logged_in(url) as client:
        xnat.faults.add(Fault("listing", Status(403, "no")))
        assert await ArchivedSessions(client, AT_ONCE).list_project("demo") is None


@pytest.mark.parametrize(
    ("mr", "pet", "expected"),
    [
        ("E_MR", "E_PET", "E"),
        ("E_MR2", "E_PET", "E"),
        ("E_MR_1", "E_PET_1", "E_PETMR_1"),
        ("MR_mr", "MR_pet", "MR_petmr"),
        ("E", "F", None),
        ("E_MR", "F_PET", None),
    ],
)
def test_the_label_of_a_session_that_was_divided(mr: str, pet: str, expected: str | None) -> None:
    """The labels of the MR and the PET session that XNAT makes of one session tell its label."""
    found = [
        Experiment("X1", mr, "1.2", "S", "xnat:mrSessionData"),
        Experiment("X2", pet, "1.2", "S", "xnat:petSessionData"),
    ]
    assert label_before_division(found, "P") == expected
    assert label_before_division(found[::-1], "P") == expected
    assert label_before_division(found[:1], "P") is None
