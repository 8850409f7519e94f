"""A dry run predicts what the run does in each scenario, session by session.

Add a scenario to `SCENARIOS`: the files that lie there, what the site is like, what was run before, the words of the
command. Nothing is to be said of what should come of it: that is for the tests of the promise itself.
"""

import csv
import zipfile
from collections import Counter
from collections.abc import Callable, Mapping, Sequence
from dataclasses import dataclass, field, replace
from pathlib import Path
from typing import Any

import pytest
from builders import image, write
from conftest import Commands

from asyncimport.routing.problems import Effect, ProblemCode
from asyncimport.testserver import Project, RowStatus, SeriesFilter, TestXnat
from asyncimport.testserver.site.building import build_document

pytestmark = pytest.mark.anyio

Files = Mapping[str, Mapping[str, Any]]


def study(number: int, **attributes: Any) -> dict[str, Any]:
    """Return the attributes of a study with its own patient and series."""
    ids = {"StudyInstanceUID": f"1.2.{number}", "SeriesInstanceUID": f"1.3.{number}", "PatientID": f"P{number}"}
    return {**ids, **attributes}


def lacks(place: Path) -> None:
    """Cut a file short."""
    path = place / "b" / "2"
    path.write_bytes(path.read_bytes()[:-20])


@dataclass(frozen=True, slots=True)
class Scenario:
    """What lies below SOURCE (paths, and what their headers say), and how it is uploaded.

    `plan` are the rows of a plan for `--plan`, `before` are earlier runs (a place below SOURCE, and words), the last of
    which ends with `left`; `meanwhile` changes the site after them, `touch` the source. `table` is a CSV of subjects.
    """

    files: Files
    words: Sequence[str] = ()
    plan: Sequence[Mapping[str, str]] = ()
    before: Sequence[Sequence[str]] = ()
    site: Callable[[TestXnat], object] = lambda _: None
    touch: Callable[[Path], None] = field(default=lambda _: None)
    project: Sequence[str] = ("-P", "demo")
    left: int = 0
    meanwhile: Callable[[TestXnat], object] = lambda _: None
    table: str = ""


def adds(path: str, number: int, **attributes: Any) -> Callable[[Path], None]:
    """Write one more file after the earlier runs."""

    def touch(place: Path) -> None:
        write(place / path, image(number, **attributes))

    return touch


def alone(place: Path) -> None:
    """Delete the file that was sent before."""
    (place / "a" / "1").unlink()


def packed(place: Path) -> None:
    """Add a zip of DICOM files."""
    with zipfile.ZipFile(place / "more.zip", "w") as file:
        file.writestr("1.dcm", image(7, **study(7)))


def unscripted(xnat: TestXnat) -> None:
    """Switch off the script."""
    xnat.script = None


def aliased(xnat: TestXnat) -> None:
    """Give the project another name."""
    xnat.projects["demo"].aliases = ("nickname",)


def another(xnat: TestXnat) -> None:
    """Make another project."""
    xnat.projects["other"] = Project("other")


def cleared(xnat: TestXnat) -> None:
    """Clear the prearchive."""
    for row in [*xnat.prearchive]:
        xnat.remove_row(row)


def mixed(xnat: TestXnat) -> None:
    """Add another person's file to each row of the prearchive, and build it."""
    for row in xnat.prearchive:
        for files in row.scans.values():
            (file, *_) = files.values()
            files["other.dcm"] = replace(file, name="other.dcm", sop_uid="1.2.3.4.99")
        row.document = build_document(xnat, row)


def filtered(xnat: TestXnat) -> None:
    """Drop every series called localizer."""
    xnat.project("demo").series_filter = SeriesFilter(("localizer",))


def without(*paths: str) -> Callable[[Path], None]:
    """Delete files."""

    def touch(place: Path) -> None:
        for path in paths:
            (place / path).unlink()

    return touch


def noted(place: Path) -> None:
    """Write two notes that would get one name in XNAT."""
    for name in NAMES:
        (place / "a" / name).write_bytes(b"x")


def moved(place: Path) -> None:
    """Rename a directory."""
    (place / "a").rename(place / "z")


def rewritten(place: Path) -> None:
    """Replace an instance by another one."""
    write(place / "a" / "1", image(9, **study(2)))


NAMES = ("n\u00f6te.txt", "note.txt")
TWO: Files = {"a/1": study(1), "b/2": study(2)}
SAME_LABEL: Files = {"a/1": study(1), "b/2": study(2, PatientID="P1")}
# A study of two series over midnight, of two modalities; and another study.
NIGHT: Files = {
    "a/1": study(1, Modality="PT", SeriesInstanceUID="1.3.1.1", AccessionNumber="A1"),
    "b/2": study(1, Modality="CT", SeriesInstanceUID="1.3.1.2", AccessionNumber="A1", StudyDate="20200103"),
    "c/3": study(3, AccessionNumber="A3"),
}
# The walk meets the later one first.
DATED: Files = {
    "a/1": study(1, StudyDate="20200103", StudyTime="12"),
    "b/2": study(2, StudyDate="20200103", StudyTime="11", PatientID="P1"),
}
LATE: Files = {"a/1": study(1), "b/2": study(1, SeriesInstanceUID="1.3.9")}
REPORT: Files = {"a/1": study(1), "b/2": study(1, SeriesInstanceUID="1.3.9", SeriesNumber=9, Modality="SR")}
VISIT = ("-E", "{PatientID}_visit")
ALL = ("-S", "all", "-E", "{PatientID}")
PATHS = ("--path-pattern", "{session}/*")
ROW = {"subject_label": "S1", "session_label": "S1_v1"}

SCENARIOS: dict[str, Scenario] = {
    "plain": Scenario(TWO),
    "nothing to go by": Scenario({"a/1": study(1, PatientID=None), "b/2": study(2)}),
    "damaged": Scenario(TWO, touch=lacks),
    "two studies with one label": Scenario(SAME_LABEL),
    "two studies with one label, suffix": Scenario(SAME_LABEL, ("--on-collision", "suffix")),
    "two studies with one label, first only": Scenario(SAME_LABEL, ("--max-sessions", "1")),
    "two people, later": Scenario({"a/1": study(1), "b/2": study(2, PatientID="p1")}, ("--min-age", "1h")),
    "being written": Scenario(TWO, ("--min-age", "1h")),
    "pilot": Scenario(TWO, ("--max-sessions", "1")),
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
        ("--allow-mixed-patients",),
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
    "by date": Scenario(NIGHT, ("--study-since", "2020-01-03", *VISIT)),
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
    # Who gets a label.
    "two studies with one label, checked first": Scenario(SAME_LABEL, ("--check-first",)),
    "two studies under one fixed label": Scenario(SAME_LABEL, ("-S", "S", "-E", "visit")),
    "two studies with one label, the later one first": Scenario(DATED),
    "two studies with one label, the later one first, chosen": Scenario(
        DATED, ("--max-sessions", "7", "-E", "{PatientID}")
    ),
    "two studies with one label, the later one first, whole": Scenario(DATED, ("-E", "{PatientID}_{Modality}")),
    "two studies with one label, one has it": Scenario(
        DATED, ("-E", "{PatientID}"), before=(("b", "-P", "demo", "-E", "{PatientID}"),)
    ),
    # What comes late.
    "a late report": Scenario(REPORT, before=(("a", "-P", "demo"),)),
    "a late report, by another journal": Scenario(REPORT, before=(("a", "-P", "demo", "--journal", "{other}"),)),
    "a late report, with an image": Scenario(
        REPORT, before=(("a", "-P", "demo"),), touch=adds("c/3", 3, **study(1)), words=("-w", "1")
    ),
    "a late report, built": Scenario(REPORT, before=(("a", "-P", "demo", "--no-archive"),)),
    "a late report, by choice": Scenario(
        REPORT, ("--modality", "SR", "--partial-studies", "--partial", "archive"), before=(("a", "-P", "demo"),)
    ),
    "a late series, other labels by --relabel": Scenario(LATE, ("--relabel", *VISIT), before=(("a", "-P", "demo"),)),
    "a late series, other labels by an earlier --relabel": Scenario(
        LATE, VISIT, before=(("a", "-P", "demo"), ("a", "-P", "demo", "--relabel", *VISIT))
    ),
    "a late series, another subject by --relabel": Scenario(
        LATE,
        ("--relabel", "-S", "S_{PatientID}", "-E", "{PatientID}_v{StudyIndex}"),
        before=(("a", "-P", "demo", "-E", "{PatientID}_v{StudyIndex}"),),
    ),
    "a late series, after a suffix": Scenario(
        {**SAME_LABEL, "c/3": study(2, PatientID="P1", SeriesInstanceUID="1.3.9")},
        before=(("a", "-P", "demo", "--on-collision", "suffix"), ("b", "-P", "demo", "--on-collision", "suffix")),
    ),
    "a late series, of another date": Scenario(
        {"a/1": study(1), "b/2": study(1, StudyDate="20200103")}, before=(("a", "-P", "demo"),), touch=alone
    ),
    "a part of a study": Scenario(NIGHT, ("--modality", "CT", "--partial-studies", *VISIT)),
    # What the journal knows and the run does not ask again.
    "built, and not asked for": Scenario(
        {"a/1": study(1), "b/2": study(2, Modality="CT")},
        ("--modality", "CT", "--partial-studies", "--partial", "archive"),
        before=((".", "-P", "demo", "--no-archive"),),
    ),
    "a part, all of which is archived": Scenario(
        NIGHT, ("--modality", "CT", "--partial-studies", *VISIT), before=((".", "-P", "demo", *VISIT),)
    ),
    "a part, built, of which the rest is archived": Scenario(
        NIGHT, ("--modality", "CT", "--partial-studies", *VISIT), before=(("a", "-P", "demo", *VISIT),)
    ),
    "over midnight, archived, then rerouted": Scenario(NIGHT, ("--relabel",), before=((".", "-P", "demo", *VISIT),)),
    "known by its path below another root": Scenario(
        {"a/v1/1": study(1)}, PATHS, before=(("a", "-P", "demo", *PATHS),)
    ),
    "somebody else waits in the subject": Scenario(
        TWO, (*ALL, "--relabel", "--include", "b/*"), before=(("a", "-P", "demo", *ALL, "--no-archive"),)
    ),
    "a label in another case": Scenario(
        {"a/1": study(1, PatientID="A", AccessionNumber="X1"), "b/2": study(2, PatientID="a", AccessionNumber="X2")},
        ("-S", "{AccessionNumber}", "--include", "b/*"),
        before=(("a", "-P", "demo", "-S", "{AccessionNumber}", "--journal", "{other}"),),
    ),
    # Who is let in.
    "let in before": Scenario(
        TWO,
        ALL,
        before=((".", "-P", "demo", *ALL, "--allow-mixed-patients"),),
        touch=adds("c/3", 3, **study(2, SeriesInstanceUID="1.3.9")),
    ),
    "let in before, beside another journal's": Scenario(
        TWO,
        (*ALL, "--include", "[bc]/*"),
        site=unscripted,
        before=(
            ("a", "-P", "demo", *ALL, "--journal", "{other}"),
            ("b", "-P", "demo", *ALL, "--allow-mixed-patients"),
        ),
        touch=adds("c/3", 3, **study(2, SeriesInstanceUID="1.3.9")),
    ),
    "let in before, whole": Scenario(
        TWO,
        ("-S", "all", "-E", "{PatientID}_{Modality}"),
        before=((".", "-P", "demo", "-S", "all", "-E", "{PatientID}_{Modality}", "--allow-mixed-patients"),),
        touch=adds("c/3", 3, **study(2, SeriesInstanceUID="1.3.9")),
    ),
    "somebody else is there by the journal": Scenario(TWO, ALL, before=(("a", "-P", "demo", *ALL),), touch=alone),
    # What stands in the prearchive.
    "built": Scenario(TWO, before=(("a", "-P", "demo", "--no-archive"),)),
    "built, then rerouted": Scenario(
        TWO, ("--relabel",), before=(("a", "-P", "demo", "--no-archive", "-S", "WRONG_{PatientID}"),)
    ),
    "built, then rerouted to another label": Scenario(
        TWO, ("--relabel",), before=(("a", "-P", "demo", "--no-archive", "-E", "WRONG_{PatientID}"),)
    ),
    "built by another journal": Scenario(TWO, before=(("a", "-P", "demo", "--no-archive", "--journal", "{other}"),)),
    # What else lies there.
    "an archive of files": Scenario(TWO, touch=packed),
    "one instance twice": Scenario(
        {**TWO, "c/3": study(1, SOPInstanceUID="1.2.3.4.1", pixels=90)},
    ),
}


# Files that wait, as a row of another journal was in their way.
WAITING: dict[str, Any] = {
    "before": ((".", "-P", "demo", "--no-archive", "--journal", "{other}"), (".", "-P", "demo")),
    "left": 9,
    "meanwhile": cleared,
}
EFFECTS = {code.value: code.effect for code in ProblemCode}
LACKS = {Effect.WRONG, Effect.SKIPS, Effect.LACKS}
SAYS_WHY = {8: LACKS, 9: {Effect.HOLDS, Effect.PARTS}}
THREE: Files = {**TWO, "a/3": study(1)}
LOCALIZER = {"SeriesInstanceUID": "1.3.9", "SeriesDescription": "Localizer"}
SERIES: Files = {**TWO, "c/3": study(1, **LOCALIZER)}

SCENARIOS |= {
    # What earlier runs have left.
    "files that wait": Scenario(THREE, **WAITING),
    "files that wait are gone": Scenario(THREE, **WAITING, touch=without("a/1")),
    "files that wait are gone, a whole study": Scenario(THREE, **WAITING, touch=without("a/1", "a/3")),
    "files that wait are gone, all": Scenario(THREE, **WAITING, touch=without("a/1", "a/3", "b/2")),
    "files that wait are gone, beside a filter": Scenario(THREE, ("--include", "a/*"), **WAITING, touch=without("a/1")),
    "files that wait were moved": Scenario(THREE, **WAITING, touch=moved),
    "files that wait, another in the place of one": Scenario(THREE, **WAITING, touch=rewritten),
    "files that wait, a pilot": Scenario(THREE, ("--max-sessions", "1"), **WAITING),
    "files that wait, a pilot of what is left": Scenario(
        THREE, ("--max-sessions", "1"), **WAITING, touch=without("a/1", "a/3")
    ),
    "files that wait, a pilot and one of them is gone": Scenario(
        {**THREE, "b/4": study(2)}, ("--max-sessions", "1"), **WAITING, touch=without("b/4")
    ),
    "files that wait, being written": Scenario(THREE, ("--min-age", "1h"), **WAITING),
    "files that wait, of what nobody asks for": Scenario(THREE, ("--include", "b/*"), **WAITING),
    "files that wait, and a plan that says skip": Scenario(
        THREE,
        ("--relabel",),
        **WAITING,
        plan=(
            {"study_uid": "1.2.1", **ROW, "action": "skip"},
            {"study_uid": "1.2.2", **ROW, "session_label": "E2", "action": ""},
        ),
    ),
    "files that wait, of studies that a plan does not know": Scenario(
        THREE, ("--relabel",), **WAITING, plan=({"study_uid": "1.2.2", **ROW, "session_label": "E2"},)
    ),
    "a row with a file of somebody else": Scenario(
        THREE, before=((".", "-P", "demo", "--no-archive"),), meanwhile=mixed
    ),
    "a row with a file of somebody else, under another label by --relabel": Scenario(
        THREE, ("--relabel",), before=((".", "-P", "demo", "--no-archive", "-E", "WRONG_{PatientID}"),), meanwhile=mixed
    ),
    "a row with a file of somebody else, which is overwritten": Scenario(
        THREE, ("--overwrite", "append"), before=((".", "-P", "demo", "--no-archive"),), meanwhile=mixed
    ),
    # What the site drops.
    "a filter drops a series": Scenario(SERIES, site=filtered),
    "a filter drops all of a study": Scenario({"a/1": study(1), "b/2": study(2, **LOCALIZER)}, site=filtered),
    "a filter drops a series, again": Scenario(SERIES, site=filtered, before=((".", "-P", "demo"),), left=8),
    "a filter drops a series, and a new one": Scenario(
        SERIES, site=filtered, before=((".", "-P", "demo"),), left=8, touch=adds("d/4", 4, **study(2, **LOCALIZER))
    ),
    "a filter drops a series that nobody asks for": Scenario(SERIES, ("--include", "b/*"), site=filtered),
    # Tables.
    "subjects of the table": Scenario(TWO, table="subject_label,gender\nP1,female\np2,male\n"),
    "subjects of the table, one is nobody": Scenario(TWO, table="subject_label,gender\nP1,female\nP7,male\n"),
    "subjects of the table, one is nobody, a pilot": Scenario(
        TWO, ("--max-sessions", "1"), table="subject_label,gender\nP1,female\nP7,male\n"
    ),
    "subjects of the table, one is known": Scenario(
        TWO, before=(("a", "-P", "demo"),), touch=alone, table="subject_label,gender\nP1,female\nP2,male\n"
    ),
    "subjects of the table, by an alias": Scenario(
        TWO,
        ("--on-collision", "suffix"),
        project=("-P", "nickname"),
        site=aliased,
        table="subject_label,gender\nP1,female\n",
    ),
    # Attachments.
    "attachments of one name": Scenario(TWO, ("--attach", "*.txt=NOTES"), touch=noted),
}


@pytest.mark.parametrize("name", SCENARIOS)
async def test_the_run_does_what_the_dry_run_predicts(
    xnat: TestXnat, url: str, commands: Commands, tmp_path: Path, name: str
) -> None:
    """Sessions, labels, numbers of files, skipped files and the exit code agree."""
    scenario = SCENARIOS[name]
    source = tmp_path / "source"
    for number, (path, attributes) in enumerate(scenario.files.items(), 1):
        write(source / path, image(number, **attributes))
    scenario.site(xnat)
    commands.login(url)
    places = {"{journal}": str(tmp_path / "one.journal"), "{other}": str(tmp_path / "other.journal")}

    def filled(words: Sequence[str]) -> list[str]:
        return [places.get(word, word) for word in words]

    codes = [(await commands("upload", source / where, "-q", *filled(words))).code for where, *words in scenario.before]
    assert codes == [0] * (len(codes) - 1) + [scenario.left] * bool(codes)
    scenario.meanwhile(xnat)
    scenario.touch(source)
    command: list[str | Path] = ["upload", source, *scenario.project, "-q", "-o", "json", *filled(scenario.words)]
    if scenario.plan:
        with (tmp_path / "plan.csv").open("w", newline="") as file:
            table = csv.DictWriter(file, scenario.plan[0].keys())
            table.writeheader()
            table.writerows(scenario.plan)
        command += ["--plan", tmp_path / "plan.csv"]
    if scenario.table:
        (tmp_path / "subjects.csv").write_text(scenario.table)
        command += ["--subjects", tmp_path / "subjects.csv"]
    there = {(one.project, one.label): len(list(one.files)) for one in xnat.archived}
    standing = {(row.project, row.name) for row in xnat.prearchive}
    said = await commands(*command, "--dry-run")
    assert {(one.project, one.label): len(list(one.files)) for one in xnat.archived} == there
    done = await commands(*command)
    assert said.code == done.code, (said.out, done.out, done.err)
    effects = {EFFECTS[one["code"]] for one in said.json.get("problems", ())}
    assert said.code not in SAYS_WHY or effects & SAYS_WHY[said.code], f"nobody says why\n{said.out}"
    archived = {
        (one.project, one.subject.label, one.label, one.study_uid, len(list(one.files))) for one in xnat.archived
    }
    new = {one for one in archived if (one[0], one[2]) not in there}
    if done.code == 2 or said.json["error"] or done.json["error"]:
        # Nothing is sent where the whole of it makes no sense, and the dry run has said why.
        assert new == set(), (said.out, done.out)
        assert said.json["error"] or any(one["severity"] == "error" for one in said.json["problems"])
        return
    if done.code == 9:
        # What stays open, as was asked for, has gone where the dry run says; what is held goes nowhere.
        held = {one["study_uid"] for one in said.json["problems"] if one["code"] == "session-held"}
        new |= {
            (row.project or "", row.subject, row.name, row.study_uid, len(list(row.files)))
            for row in xnat.prearchive
            if (row.project, row.name) not in standing and row.study_uid not in held
        }
    dropped: Counter[str] = Counter()
    for one in said.json["problems"]:
        if one["code"] in {"series-dropped", "dropped-already"}:
            dropped[one["study_uid"]] += one["files"]
    rows = [row for row in said.json["rows"] if not row["skip"]]
    promised = {
        (row["project"], row["subject"], row["session"], row["study_uid"], files)
        for row in rows
        if (files := row["files"] - dropped[row["study_uid"]])
    }
    assert {one for one in promised if (one[0], one[2]) not in there} == new, (said.out, done.out)
    if done.code == 0 and "--partial-studies" not in scenario.words:
        # Also what is merged into sessions that were there.
        assert promised <= archived, (said.out, done.out)
    skipped = {row["study_uid"] for row in said.json["rows"] if row["skip"]}
    assert skipped.isdisjoint({one[3] for one in new})


@pytest.mark.thorough
@pytest.mark.parametrize("gone", [True, False])
async def test_a_row_that_was_deleted_or_is_busy(
    xnat: TestXnat, url: str, commands: Commands, tmp_path: Path, gone: bool
) -> None:
    """A deleted row is sent again, and a busy row is not waited for."""
    commands.login(url)
    for number, (path, attributes) in enumerate(NIGHT.items(), 1):
        write(tmp_path / "source" / path, image(number, **attributes))
    command = ("upload", tmp_path / "source", "-P", "demo", "-q", "-o", "json", *VISIT)
    assert (await commands(*command, "--modality", "CT", "--partial-studies")).code == 9
    (row,) = xnat.prearchive
    if gone:
        xnat.remove_row(row)
    else:
        row.status = RowStatus.BUILDING
    said = await commands(*command, "--dry-run")
    assert (said.code, [one["session"] for one in said.json["rows"] if one["skip"]]) == (0, []), said.out
    row.status = RowStatus.READY
    assert (await commands(*command)).code == 0
    assert len(xnat.sop_uids()) == len(NIGHT)


async def test_whole_studies_are_compared_with_patients_of_the_journal(
    xnat: TestXnat, url: str, commands: Commands, tmp_path: Path
) -> None:
    """A run that decides whole studies sends nothing if one of them belongs to another patient of its subject."""
    source = tmp_path / "source"
    for number, (path, attributes) in enumerate({"a/1": study(1), "b/2": study(2), "c/3": study(3)}.items(), 1):
        write(source / path, image(number, **attributes))
    commands.login(url)
    words = ["-P", "demo", "-S", "ALL", "-E", "{PatientID}_{Modality}"]
    assert (await commands("upload", source / "a", *words)).code == 0
    (source / "a" / "1").unlink()
    (source / "c" / "3").unlink()
    said = await commands("upload", source, *words, "--dry-run", "-o", "json")
    done = await commands("upload", source, *words)
    assert (said.code, done.code) == (2, 2), (said.out, done.err)
    assert "subject-taken" in {one["code"] for one in said.json["problems"]}
    assert "nothing was sent" in done.err
    assert {one.study_uid for one in xnat.archived} == {"1.2.1"}
