"""Sources that contain each other, or are one directory: each file counts once, for the first that contains it."""

import os
from collections.abc import Callable
from pathlib import Path
from typing import Any

import anyio.to_thread
import pytest
from builders import folder, image, write
from conftest import Commands, Ended

from asyncimport.model.files import File
from asyncimport.testserver import TestXnat

pytestmark = pytest.mark.anyio

STUDIES = ("a", "b", "c")


@pytest.fixture
def tree(tmp_path: Path) -> Path:
    """Write three studies of one patient and one day, two files each. Only their paths give them different labels."""
    for number, name in enumerate(STUDIES):
        ids: dict[str, Any] = {"StudyInstanceUID": f"1.2.{number}", "SeriesInstanceUID": f"1.2.{number}.1"}
        for file in range(2):
            write(tmp_path / "tree" / name / f"{file}.dcm", image(10 * number + file, **ids))
    (tmp_path / "link").symlink_to("tree")
    (tmp_path / "tree" / "other").symlink_to("c")
    return tmp_path / "tree"


# What is given beside the tree, and whether paths below it are those below the tree.
FORMS: dict[str, tuple[Callable[[Path], Path], bool]] = {
    "itself": (lambda tree: tree, True),
    "a part": (lambda tree: tree / "b", False),
    "a file": (lambda tree: tree / "b" / "1.dcm", True),
    "a link to it": (lambda tree: tree.parent / "link", True),
    "a part beyond a link": (lambda tree: tree.parent / "link" / "b", False),
    "a link in it to a part": (lambda tree: tree / "other", False),
    "by dots": (lambda tree: tree / "b" / "..", True),
}


@pytest.fixture(params=[False, True], ids=["after", "before"])
def is_before(request: pytest.FixtureRequest) -> bool:
    """Say whether the overlapping source comes before the tree."""
    return bool(request.param)


def given(tree: Path, other: Path, *, is_before: bool) -> list[Path]:
    """Return two sources in their order."""
    return [other, tree] if is_before else [tree, other]


@pytest.mark.parametrize("form", FORMS)
async def test_a_walk_meets_each_file_once(tree: Path, form: str, is_before: bool) -> None:
    """It has one path. A file that is a source itself has that path again."""
    source = await folder(*given(tree, FORMS[form][0](tree), is_before=is_before))
    met = [
        item.path for batch in [batch async for batch in source.batches()] for item in batch if isinstance(item, File)
    ]
    places = await anyio.to_thread.run_sync(lambda: sorted(os.path.realpath(path) for path in dict.fromkeys(met)))
    assert places == sorted(os.path.realpath(tree / name / f"{file}.dcm") for name in STUDIES for file in range(2))


async def both(commands: Commands, sources: list[Path], *words: str | Path) -> tuple[Ended, Ended, Ended]:
    """Run plan, dry run and upload."""
    sources_and_rules = (*sources, "-P", "demo", *words)
    return (
        await commands("plan", *sources_and_rules, "-o", "json"),
        await commands("upload", *sources_and_rules, "-o", "json", "-q", "--dry-run"),
        await commands("upload", *sources_and_rules, "-o", "json", "-q"),
    )


def planned(ended: Ended) -> dict[str, tuple[str, int]]:
    """Return the label and the number of files of each study that a plan would send."""
    return {row["study_uid"]: (row["session"], row["files"]) for row in ended.json["rows"] if not row["skip"]}


def archived(xnat: TestXnat) -> dict[str, tuple[str, int]]:
    """Return the same of what is archived."""
    count: dict[str, tuple[str, int]] = {}
    for session, _, _ in xnat.instances("demo"):
        count[session.study_uid] = session.label, count.get(session.study_uid, ("", 0))[1] + 1
    return count


@pytest.mark.thorough
@pytest.mark.parametrize("form", FORMS)
async def test_labels_by_paths_are_those_of_the_plan(
    xnat: TestXnat, url: str, commands: Commands, tree: Path, form: str, is_before: bool
) -> None:
    """The first source that contains a file decides its path. A file without a label is reported and not sent."""
    commands.login(url)
    find, is_alike = FORMS[form]
    sources = given(tree, find(tree), is_before=is_before)
    plan, rehearsed, ended = await both(commands, sources, "--path-pattern", "{visit}/*", "-E", "{visit}")
    assert planned(plan) == planned(rehearsed) == archived(xnat)
    if is_alike or not is_before:
        assert archived(xnat) == {f"1.2.{number}": (name, 2) for number, name in enumerate(STUDIES)}
        assert (plan.code, rehearsed.code, ended.code) == (0, 0, 0), ended
        assert xnat.count["import"] == 2 * len(STUDIES)
    else:
        assert len(archived(xnat)) == len(STUDIES) - 1
        assert (plan.code, rehearsed.code, ended.code) == (2, 8, 8), ended


@pytest.mark.thorough
@pytest.mark.parametrize("form", FORMS)
async def test_who_gets_a_label_is_as_the_plan_says(
    xnat: TestXnat, url: str, commands: Commands, tree: Path, form: str, is_before: bool
) -> None:
    """Of studies with the same label, the first that the scan finds gets it, in any source."""
    commands.login(url)
    sources = given(tree, FORMS[form][0](tree), is_before=is_before)
    plan, rehearsed, _ = await both(commands, sources)
    assert planned(plan) == planned(rehearsed) == archived(xnat)
    assert len(archived(xnat)) == 1


async def test_another_source_holds_what_was_met_elsewhere_before(
    xnat: TestXnat, url: str, commands: Commands, tree: Path
) -> None:
    """Nothing is sent again, nothing counts as gone, and no file counts as its own copy."""
    commands.login(url)
    words = ("-P", "demo", "--path-pattern", "{visit}/*", "-E", "{visit}", "-q", "-o", "json")
    for sources in ([tree.parent / "link"], [tree, tree.parent / "link"], [tree.parent / "link", tree], [tree]):
        ended = await commands("upload", *sources, *words)
        assert (ended.code, ended.json["files"]["duplicate"], ended.err) == (0, 0, ""), ended
    assert xnat.count["import"] == 2 * len(STUDIES)
    assert (await commands("verify", "-P", "demo")).code == 0
