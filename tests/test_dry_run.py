"""The dry run is the upload: what it says of each scenario is what the run then does, session by session.

Add a scenario to `SCENARIOS`: the files that lie there, what the site is like, what was run before, the words of the
command. Nothing is to be said of what should come of it: that is for the tests of the promise itself.
"""

import csv
from collections.abc import Callable, Mapping, Sequence
from dataclasses import dataclass, field
from pathlib import Path
from typing import Any

import pytest
from conftest import Commands
from scenery import image, write

from asyncimport.testserver import Project, TestXnat

pytestmark = pytest.mark.anyio

Files = Mapping[str, Mapping[str, Any]]


def study(number: int, **attributes: Any) -> dict[str, Any]:
    """Give the attributes of a study of its own patient, and of a series of its own."""
    ids = {"StudyInstanceUID": f"1.2.{number}", "SeriesInstanceUID": f"1.3.{number}", "PatientID": f"P{number}"}
    return {**ids, **attributes}


def lacks(place: Path) -> None:
    """Cut a file short."""
    path = place / "b" / "2"
    path.write_bytes(path.read_bytes()[:-20])


@dataclass(frozen=True, slots=True)
class Scenario:
    """What lies below SOURCE (paths, and what their headers say), and how it is uploaded.

    `plan` are the rows of a plan for `--plan`, `before` are earlier runs (a place below SOURCE, and words).
    """

    files: Files
    words: Sequence[str] = ()
    plan: Sequence[Mapping[str, str]] = ()
    before: Sequence[Sequence[str]] = ()
    site: Callable[[TestXnat], object] = lambda _: None
    touch: Callable[[Path], None] = field(default=lambda _: None)
    project: Sequence[str] = ("-P", "demo")


def aliased(xnat: TestXnat) -> None:
    """Give the project another name."""
    xnat.projects["demo"].aliases = ("nickname",)


def another(xnat: TestXnat) -> None:
    """Make another project."""
    xnat.projects["other"] = Project("other")


TWO: Files = {"a/1": study(1), "b/2": study(2)}
SAME_LABEL: Files = {"a/1": study(1), "b/2": study(2, PatientID="P1")}
# A study of two series over midnight, of two modalities; and another study.
NIGHT: Files = {
    "a/1": study(1, Modality="PT", SeriesInstanceUID="1.3.1.1", AccessionNumber="A1"),
    "b/2": study(1, Modality="CT", SeriesInstanceUID="1.3.1.2", AccessionNumber="A1", StudyDate="20200103"),
    "c/3": study(3, AccessionNumber="A3"),
}
VISIT = ("-E", "{PatientID}_visit")
ROW = {"subject_label": "S1", "session_label": "S1_v1"}

SCENARIOS: dict[str, Scenario] = {
    "plain": Scenario(TWO),
    "nothing to go by": Scenario({"a/1": study(1, PatientID=None), "b/2": study(2)}),
    "damaged": Scenario(TWO, touch=lacks),
    "two studies with one label": Scenario(SAME_LABEL),
    "two studies with one label, suffix": Scenario(SAME_LABEL, ("--on-collision", "suffix")),
    "two studies with one label, first only": Scenario(SAME_LABEL, ("--limit", "1")),
    "two people, later": Scenario({"a/1": study(1), "b/2": study(2, PatientID="p1")}, ("--quiet-time", "1h")),
    "being written": Scenario(TWO, ("--quiet-time", "1h")),
    "pilot": Scenario(TWO, ("--limit", "1")),
    # Projects.
    "template": Scenario(
        {"a/1": study(1, StudyDescription="demo"), "b/2": study(2, StudyDescription="other")},
        project=("-P", "{StudyDescription}"),
        site=another,
    ),
    "template, a project is missing": Scenario(
        {"a/1": study(1, StudyDescription="demo"), "b/2": study(2, StudyDescription="other")},
        project=("-P", "{StudyDescription}"),
    ),
    "template, the only project is missing": Scenario(
        {"a/1": study(1, StudyDescription="other")}, project=("-P", "{StudyDescription}")
    ),
    "template, alias and ID with one label": Scenario(
        {"a/1": study(1, StudyDescription="demo"), "b/2": study(2, StudyDescription="nickname", PatientID="P1")},
        project=("-P", "{StudyDescription}"),
        site=aliased,
    ),
    "alias": Scenario(TWO, project=("-P", "nickname"), site=aliased, before=(("a", "-P", "demo"),)),
    "missing project": Scenario(TWO, project=("-P", "nowhere")),
    # Plans.
    "plan": Scenario(TWO, plan=({"study_uid": "1.2.1", **ROW},)),
    "plan, alias and ID with one label": Scenario(
        TWO,
        ("--merge-patients",),
        plan=(
            {"study_uid": "1.2.1", "project_id": "demo", **ROW},
            {"study_uid": "1.2.2", "project_id": "nickname", **ROW},
        ),
        project=(),
        site=aliased,
    ),
    "plan, several projects, one missing": Scenario(
        TWO,
        plan=(
            {"study_uid": "1.2.1", "project_id": "demo", "subject_label": "S1", "session_label": "E1"},
            {"study_uid": "1.2.2", "project_id": "other", "subject_label": "S2", "session_label": "E2"},
        ),
        project=(),
    ),
    "plan, two studies with one key": Scenario(
        {"a/1": study(1, AccessionNumber="A"), "b/2": study(2, AccessionNumber="A", PatientID="P1")},
        plan=({"accession_number": "A", **ROW},),
    ),
    "plan, two studies with one key, suffix": Scenario(
        {"a/1": study(1, AccessionNumber="A"), "b/2": study(2, AccessionNumber="A", PatientID="P1")},
        ("--on-collision", "suffix"),
        plan=({"accession_number": "A", **ROW},),
    ),
    "plan, a file without the key": Scenario(
        {"a/1": study(1, AccessionNumber="A"), "a/2": study(1)}, plan=({"accession_number": "A", **ROW},)
    ),
    "plan, key of a part": Scenario(NIGHT, plan=({"patient_id": "P1", "study_date": "20200102", **ROW},)),
    "plan, no such study": Scenario(TWO, plan=({"study_uid": "1.2.7", **ROW},)),
    "plan, another session already": Scenario(
        TWO,
        plan=({"study_uid": "1.2.1", **ROW},),
        before=(("a", "-P", "demo", "-S", "S7", "--journal", "{journal}"),),
        words=("--journal", "{journal}"),
    ),
    # Choices.
    "over midnight": Scenario(NIGHT),
    "by modality": Scenario(NIGHT, ("--modality", "CT", *VISIT)),
    "by date": Scenario(NIGHT, ("--since", "2020-01-03", *VISIT)),
    "by path": Scenario(NIGHT, ("--include", "b/*", *VISIT)),
    "by path, over midnight": Scenario(NIGHT, ("--include", "b/*", "-E", "{PatientID}_{StudyDate}_{Modality}")),
    "nothing chosen": Scenario(NIGHT, ("--modality", "US")),
    # What was there before.
    "again": Scenario(TWO, before=((".", "-P", "demo"),)),
    "changed rules": Scenario(TWO, ("-S", "S_{PatientID}"), before=(("a", "-P", "demo"),)),
    "the label of another study": Scenario(
        SAME_LABEL, before=(("b", "-P", "demo", "--journal", "{other}"),), words=("--include", "a/*")
    ),
    "another subject": Scenario(TWO, before=(("a", "-P", "demo", "-S", "S7", "--journal", "{other}"),)),
}


@pytest.mark.parametrize("name", SCENARIOS)
async def test_the_run_does_what_the_dry_run_says(
    xnat: TestXnat, url: str, commands: Commands, tmp_path: Path, name: str
) -> None:
    """Sessions, their labels, the number of their files and what is skipped agree, and 0 means 0."""
    scenario = SCENARIOS[name]
    source = tmp_path / "source"
    for number, (path, attributes) in enumerate(scenario.files.items(), 1):
        write(source / path, image(number, **attributes))
    scenario.site(xnat)
    commands.login(url)
    places = {"{journal}": str(tmp_path / "one.journal"), "{other}": str(tmp_path / "other.journal")}

    def filled(words: Sequence[str]) -> list[str]:
        return [places.get(word, word) for word in words]

    for where, *words in scenario.before:
        assert (await commands("upload", source / where, "-q", *filled(words))).code == 0
    scenario.touch(source)
    command: list[str | Path] = ["upload", source, *scenario.project, "-q", "-o", "json", *filled(scenario.words)]
    if scenario.plan:
        with (tmp_path / "plan.csv").open("w", newline="") as file:
            table = csv.DictWriter(file, scenario.plan[0].keys())
            table.writeheader()
            table.writerows(scenario.plan)
        command += ["--plan", tmp_path / "plan.csv"]
    there = {(one.project, one.label): len(list(one.files)) for one in xnat.archived}
    said = await commands(*command, "--dry-run")
    assert {(one.project, one.label): len(list(one.files)) for one in xnat.archived} == there
    done = await commands(*command)
    assert (said.code == 0) == (done.code == 0), (said.out, done.out, done.err)
    archived = {
        (one.project, one.subject.label, one.label, one.study_uid, len(list(one.files))) for one in xnat.archived
    }
    new = {one for one in archived if (one[0], one[2]) not in there}
    if done.code == 2 or "error" in said.json or done.json.get("error"):
        # Nothing is sent where the whole of it makes no sense, and the dry run has said why.
        assert new == set(), (said.out, done.out)
        assert "error" in said.json or any(one["severity"] == "error" for one in said.json["problems"])
        return
    rows = [row for row in said.json["rows"] if not row["skip"]]
    promised = {(row["project"], row["subject"], row["session"], row["study_uid"], row["files"]) for row in rows}
    assert {one for one in promised if (one[0], one[2]) not in there} == new, (said.out, done.out)
    skipped = {row["study_uid"] for row in said.json["rows"] if row["skip"]}
    assert skipped.isdisjoint({one[3] for one in new})
