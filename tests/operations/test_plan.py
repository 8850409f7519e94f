"""Plans: each study with its session and problems, and an upload that sends what the plan says and nothing else."""

import csv
import io
import os
import zipfile
from collections.abc import Callable
from pathlib import Path
from typing import Any

import pytest
from builders import image, opens, sop, write
from conftest import Commands

from asyncimport.routing.plan_reader import read_plan
from asyncimport.testserver import Fault, Project, SeriesFilter, Tell, TestXnat

pytestmark = [pytest.mark.anyio, pytest.mark.thorough]


def study(number: int, **attributes: Any) -> dict[str, Any]:
    """Return the attributes of a study with its own patient."""
    return {"StudyInstanceUID": f"1.2.{number}", "PatientID": f"P{number}", **attributes}


def files(place: Path, first: int, count: int, **attributes: Any) -> None:
    """Write the instances of a study."""
    for number in range(first, first + count):
        write(place / f"{number}.dcm", image(number, **attributes))


@pytest.fixture
def source(tmp_path: Path) -> Path:
    """Write three intact studies of three patients."""
    place = tmp_path / "source"
    for number in (1, 2, 3):
        files(place / f"p{number}" / "visit", 10 * number, 2 + number, **study(number))
    return place


def rows_of(path: Path) -> list[dict[str, str]]:
    """Read a plan as a spreadsheet would."""
    return list(csv.DictReader(io.StringIO(path.read_text("utf-8-sig"))))


async def test_a_plan_lists_each_study(xnat: TestXnat, commands: Commands, source: Path, tmp_path: Path) -> None:
    """There is a row for each study with its numbers; no server is called."""
    target = tmp_path / "plan.csv"
    ended = await commands("plan", source, "-P", "demo", "--out", target, "-o", "json")
    assert ended.code == 0, ended.err
    assert (ended.json["sessions"], ended.json["subjects"], ended.json["files"]) == (3, 3, 12)
    assert ended.json["problems"] == []
    rows = read_plan(target.read_bytes())
    assert [(row.study_uid, row.project_id, row.subject_label, row.session_label) for row in rows] == [
        (f"1.2.{number}", "demo", f"P{number}", f"P{number}_20200102") for number in (1, 2, 3)
    ]
    assert [(row.files, row.series, row.modalities, row.study_date) for row in rows] == [
        (2 + number, 1, "MR", "20200102") for number in (1, 2, 3)
    ]
    assert [row.source for row in rows] == [str(source / f"p{number}" / "visit") for number in (1, 2, 3)]
    assert xnat.count.total() == 0
    table = await commands("plan", source, "-P", "demo")
    assert "3 subjects, 3 sessions, 3 scans, 12 files" in table.out


def one(**attributes: Any) -> Callable[[Path], None]:
    """Add an instance."""
    return lambda place: files(place / "x", 90, 1, **study(9, **attributes))


def two(first: dict[str, Any], **attributes: Any) -> Callable[[Path], None]:
    """Add two instances, which differ."""

    def make(place: Path) -> None:
        files(place / "x", 90, 1, **study(9, **first))
        files(place / "y", 91, 1, **study(9, **attributes))

    return make


def raw(content: bytes) -> Callable[[Path], None]:
    """Add a file."""

    def make(place: Path) -> None:
        write(place / "x" / "1", content)

    return make


OTHER = {"StudyInstanceUID": "1.2.10", "StudyDate": "20210102"}
PROBLEMS: dict[str, tuple[Callable[[Path], None], str]] = {
    "no-label": (one(StudyDate=None), "error"),
    "labels-differ": (two({}, StudyDate="20210102"), "error"),
    "label-taken": (one(StudyInstanceUID="1.2.9", PatientID="P1"), "error"),
    "two-patients": (two({"PatientID": "A 1"}, PatientID="A_1"), "error"),
    "subject-taken": (one(PatientID="p1", StudyDate="20210102"), "error"),
    "two-people": (two({"PatientBirthDate": "19700101"}, PatientBirthDate="19800101", **OTHER), "error"),
    "unreadable": (raw(image(90, **study(9))[:-20]), "warning"),
    "duplicate": (raw(image(10, **study(1))), "info"),
    "twin": (raw(image(10, pixels=55, **study(1))), "warning"),
}


@pytest.mark.parametrize(("code", "make", "severity"), [(code, *how) for code, how in PROBLEMS.items()], ids=PROBLEMS)
async def test_each_problem_has_its_code(
    commands: Commands, source: Path, code: str, make: Callable[[Path], None], severity: str
) -> None:
    """The problem names the study or a file and what to do; the exit code follows."""
    make(source)
    ended = await commands("plan", source, "-P", "demo", "-o", "json")
    found = [problem for problem in ended.json["problems"] if problem["code"] == code]
    assert [problem["severity"] for problem in found] == [severity]
    assert all(problem["advice"] and problem["files"] and problem["example"] for problem in found)
    assert ended.code == (2 if severity == "error" else 8 if code in {"twin", "unreadable"} else 0)
    sent = {row["study_uid"] for row in ended.json["rows"] if not row["skip"]}
    assert {"1.2.2", "1.2.3"} <= sent
    if severity == "error":
        assert found[0]["study_uid"] not in sent


async def test_every_copy_counts(commands: Commands, source: Path) -> None:
    """Not only those of one instance, and not the file itself."""
    for place in ("x", "y"):
        for number in (10, 11):
            write(source / place / str(number), image(number, **study(1)))
    ended = await commands("plan", source, "-P", "demo", "-o", "json")
    (found,) = ended.json["problems"]
    assert (found["code"], found["text"], found["files"]) == ("duplicate", "4 files are copies of others", 4)


async def test_upload_does_what_the_plan_says_and_nothing_else(
    xnat: TestXnat, url: str, commands: Commands, source: Path, tmp_path: Path
) -> None:
    """Rows were edited, removed, marked skip and reordered."""
    target = tmp_path / "plan.csv"
    assert (await commands("plan", source, "-P", "demo", "--out", target)).code == 0
    first, second, third = rows_of(target)
    files(source / "p4", 40, 2, **study(4))
    second["session_label"], second["subject_label"] = "baseline", "S02"
    third["action"] = "skip"
    with target.open("w", encoding="utf-8-sig", newline="") as file:
        table = csv.DictWriter(file, first.keys())
        table.writeheader()
        table.writerows([third, second])
    commands.login(url)
    ended = await commands("upload", source, "--plan", target, "-o", "json")
    assert ended.code == 0, ended.err
    assert [(one.subject.label, one.label) for one in xnat.archived] == [("S02", "baseline")]
    assert xnat.sop_uids() == {sop(number) for number in range(20, 24)}
    assert (ended.json["files"]["stored"], ended.json["files"]["skipped"]) == (4, 10)
    reasons = sorted((problem["kind"], problem["reason"]) for problem in ended.json["problems"])
    assert reasons == [
        ("excluded", "study 1.2.1: it is not in the plan"),
        ("excluded", "study 1.2.3: the plan says skip"),
        ("excluded", "study 1.2.4: it is not in the plan"),
    ]
    # The same again: nothing is sent twice.
    again = await commands("upload", source, "--plan", target, "-o", "json")
    assert (again.code, again.json["files"]["already_stored"], xnat.count["import"]) == (0, 4, 4)


async def test_an_edited_plan_is_not_replaced_without_force(commands: Commands, source: Path, tmp_path: Path) -> None:
    """An edited plan is kept without --force; writing the same plan again is fine."""
    target = tmp_path / "plan.csv"
    words = ("plan", source, "-P", "demo", "--out", target)
    assert (await commands(*words)).code == 0
    first = target.read_bytes()
    assert (await commands(*words)).code == 0
    edited = first.replace(b"P2_20200102", b"baseline")
    target.write_bytes(edited)
    refused = await commands(*words)
    assert refused.code == 2
    assert f"--out {target} exists, and 1 of its lines are not in this plan" in refused.err
    assert "--force" in refused.err
    assert target.read_bytes() == edited
    assert (await commands(*words, "--force")).code == 0
    assert target.read_bytes() == first
    assert [one.name for one in tmp_path.glob("*plan*")] == ["plan.csv"]


async def test_all_parts_of_a_plan_are_written_or_none(commands: Commands, source: Path, tmp_path: Path) -> None:
    """A mix of old and new parts would not be a plan."""
    (tmp_path / "plan-2.csv").write_text("mine")
    ended = await commands("plan", source, "-P", "demo", "--out", tmp_path / "plan.csv", "--split", "2")
    assert ended.code == 2
    assert (tmp_path / "plan-2.csv").read_text() == "mine"
    assert not (tmp_path / "plan-1.csv").exists()


async def test_an_output_that_cannot_be_written_is_refused_before_the_scan(
    commands: Commands, source: Path, tmp_path: Path
) -> None:
    """The error comes before the scan; a pipe works like a file, and only the owner can read a plan."""
    ended = await commands("plan", source, "-P", "demo", "--out", tmp_path / "away" / "plan.csv")
    assert (ended.code, "there is no such directory" in ended.err) == (2, True)
    assert not list(commands.home.rglob("*.survey"))
    piped = await commands("plan", source, "-P", "demo", "--out", "/dev/stdout", "-o", "json")
    assert "study_uid" in piped.out.partition("{")[0]
    assert (await commands("plan", source, "-P", "demo", "--out", tmp_path / "plan.csv")).code == 0
    if os.name == "posix":
        assert (tmp_path / "plan.csv").stat().st_mode & 0o077 == 0


async def test_a_plan_can_be_split(xnat: TestXnat, url: str, commands: Commands, source: Path, tmp_path: Path) -> None:
    """Each part is a plan, and together they are the whole plan."""
    target = tmp_path / "plan.csv"
    ended = await commands("plan", source, "-P", "demo", "--out", target, "--split", "2", "-o", "json")
    assert [Path(path).name for path in ended.json["written"]] == ["plan-1.csv", "plan-2.csv"]
    commands.login(url)
    for path in ended.json["written"]:
        assert (await commands("upload", source, "--plan", path, "--state-dir", f"{path}.d", "-q")).code == 0
    assert {one.label for one in xnat.archived} == {f"P{number}_20200102" for number in (1, 2, 3)}
    assert len(xnat.sop_uids()) == xnat.count["import"] == 12


async def test_more_rows_move_no_study(
    xnat: TestXnat, url: str, commands: Commands, source: Path, tmp_path: Path
) -> None:
    """More rows send more; a row that gives a study another session is an error with its line."""
    target = tmp_path / "plan.csv"
    assert (await commands("plan", source, "-P", "demo", "--out", target)).code == 0
    commands.login(url)
    lines = target.read_text("utf-8-sig").splitlines()
    target.write_text("\n".join(lines[:2]), "utf-8")
    assert (await commands("upload", source, "--plan", target, "-P", "demo", "-q")).code == 0
    moved = lines[1].replace("P1_20200102", "elsewhere")
    target.write_text("\n".join([lines[0], moved, *lines[2:]]), "utf-8")
    refused = await commands("upload", source, "--plan", target, "-P", "demo", "-q")
    assert (refused.code, "line 2" in refused.err) == (2, True)
    target.write_text("\n".join(lines), "utf-8")
    assert (await commands("upload", source, "--plan", target, "-P", "demo", "-q")).code == 0
    assert len(xnat.archived) == 3
    assert xnat.count["import"] == 12


async def test_a_closed_project_keeps_no_other_back(
    xnat: TestXnat, url: str, commands: Commands, source: Path, tmp_path: Path
) -> None:
    """Sessions of a missing project are skipped, the others arrive."""
    xnat.add_project(Project("second", editors=("demo",)))
    target = tmp_path / "plan.csv"
    await commands("plan", source, "-P", "demo", "--out", target)
    text = target.read_text("utf-8-sig").replace("P2,demo", "P2,second").replace("P3,demo", "P3,nowhere")
    target.write_text(text, "utf-8")
    commands.login(url)
    ended = await commands("upload", source, "--plan", target, "-o", "json")
    assert ended.code == 8
    assert {(one.project, one.label) for one in xnat.archived} == {("demo", "P1_20200102"), ("second", "P2_20200102")}
    (problem,) = ended.json["problems"]
    assert "project nowhere does not exist" in problem["reason"]


async def test_a_plan_that_cannot_be_read(commands: Commands, url: str, source: Path, tmp_path: Path) -> None:
    """The error names the file and the line, and nothing is sent."""
    target = tmp_path / "plan.csv"
    target.write_text("study_uid,project_id,subject_label,session_label\n1.2E+15,demo,S,E\n", "utf-8")
    commands.login(url)
    ended = await commands("upload", source, "--plan", target)
    assert ended.code == 2
    assert str(target) in ended.err
    assert "line 2" in ended.err
    assert (await commands("upload", source, "--plan", tmp_path / "none.csv")).code == 2
    both = await commands("upload", source, "--plan", target, "-S", "{PatientID}")
    assert (both.code, "give one of them" in both.err) == (2, True)


async def test_a_plan_with_an_error_sends_nothing(
    xnat: TestXnat, url: str, commands: Commands, source: Path, tmp_path: Path
) -> None:
    """Two patients in one subject are found before the first byte is sent."""
    target = tmp_path / "plan.csv"
    await commands("plan", source, "-P", "demo", "--out", target)
    target.write_text(target.read_text("utf-8-sig").replace(",demo,P2,", ",demo,P1,"), "utf-8")
    commands.login(url)
    ended = await commands("upload", source, "--plan", target, "-o", "json")
    assert (ended.code, xnat.count["import"]) == (2, 0)
    assert "two PatientIDs" in ended.err


async def test_a_dry_run_compares_with_the_server_and_sends_nothing(
    xnat: TestXnat, url: str, commands: Commands, source: Path, tmp_path: Path
) -> None:
    """It reports archived sessions, and labels of other studies there."""
    commands.login(url)
    assert (await commands("upload", source / "p1", "-P", "demo", "-q")).code == 0
    files(source / "p5", 50, 1, **study(5, PatientID="P1", StudyInstanceUID="1.2.1"))
    (source / "p1").rename(tmp_path / "gone")
    files(source / "p6", 60, 1, **study(2, StudyInstanceUID="1.2.2"))
    xnat.count.clear()
    clean = await commands("upload", source, "-P", "demo", "--dry-run", "-o", "json")
    assert clean.code == 0, clean.err
    assert [problem["code"] for problem in clean.json["problems"]] == ["archived-already"]
    files(source / "p7", 70, 1, **study(1, StudyInstanceUID="7.7.7"))
    (source / "p5" / "50.dcm").unlink()
    # The journal knows whose it is, and without it the archive does.
    for state, code, ends in ((commands.home, "label-on-server", 9), (None, "label-taken", 8)):
        words = () if state is None else ("--state-dir", state)
        taken = await commands("upload", source, "-P", "demo", "--dry-run", "-o", "json", *words)
        assert taken.code == ends
        assert [(one["code"], one["study_uid"]) for one in taken.json["problems"]] == [(code, "7.7.7")]
    assert xnat.count["import"] == 0
    assert (await commands("upload", source, "-P", "nowhere", "--dry-run")).code == 5


async def test_labels_of_whole_studies_are_decided_first(
    xnat: TestXnat, url: str, commands: Commands, source: Path
) -> None:
    """{Modality} needs a whole study, {StudyIndex} all studies of a subject."""
    files(source / "p1" / "later", 80, 2, **study(1, StudyInstanceUID="1.2.11", StudyDate="20220202"))
    files(source / "p1" / "sooner", 90, 1, **study(1, StudyInstanceUID="1.2.12", StudyDate="20180202"))
    commands.login(url)
    ended = await commands("upload", source, "-P", "demo", "-E", "{PatientID}_{Modality}_{StudyIndex}", "-o", "json")
    assert ended.code == 0, ended.err
    labels = {one.study_uid: one.label for one in xnat.archived}
    assert labels == {
        "1.2.12": "P1_MR_1",
        "1.2.1": "P1_MR_2",
        "1.2.11": "P1_MR_3",
        "1.2.2": "P2_MR_1",
        "1.2.3": "P3_MR_1",
    }


async def test_a_path_pattern_gives_labels(xnat: TestXnat, url: str, commands: Commands, source: Path) -> None:
    """Directories give the labels; files that do not match are skipped with a reason."""
    commands.login(url)
    files(source / "stray", 95, 1, **study(9))
    ended = await commands(
        "upload",
        source,
        "-P",
        "demo",
        "--path-pattern",
        "{subject}/{session}/*",
        "-E",
        "{subject}_{session}",
        "-o",
        "json",
    )
    assert ended.code == 8, ended.err
    assert {(one.subject.label, one.label) for one in xnat.archived} == {
        (f"p{number}", f"p{number}_visit") for number in (1, 2, 3)
    }
    (problem,) = ended.json["problems"]
    assert "its path does not match --path-pattern" in problem["reason"]


async def test_a_lookup_table_gives_labels(
    xnat: TestXnat, url: str, commands: Commands, source: Path, tmp_path: Path
) -> None:
    """A CSV gives the subject of a PatientID; other patients are skipped."""
    table = tmp_path / "subjects.csv"
    table.write_text("PatientID,subject\nP1,sub-001\nP3,sub-003\n", "utf-8")
    commands.login(url)
    ended = await commands(
        "upload", source, "-P", "demo", "--label-map", table, "-E", "{subject}_{StudyDate}", "-o", "json"
    )
    assert ended.code == 8, ended.err
    assert {one.label for one in xnat.archived} == {"sub-001_20200102", "sub-003_20200102"}


@pytest.mark.parametrize(("encoding", "mark"), [("cp1252", ";"), ("utf-8-sig", "\t"), ("utf-16", ",")])
async def test_a_lookup_table_as_spreadsheets_save_it(
    xnat: TestXnat, url: str, commands: Commands, source: Path, tmp_path: Path, encoding: str, mark: str
) -> None:
    """Any delimiter works, and any encoding that has a mark or is named."""
    table = tmp_path / "subjects.csv"
    rows = [("PatientID", "StudyDate", "subject", "Notes"), ("P2", "20200102", "sub-2", "M\u00fcller")]
    table.write_bytes("\r\n".join(mark.join(row) for row in rows).encode(encoding))
    commands.login(url)
    named = ("--encoding", encoding) if encoding == "cp1252" else ()
    assert (await commands("plan", source / "p2", "--label-map", table, *named)).code == 0
    assert (await commands("plan", source / "p2", "--label-map", table)).code == (2 if named else 0)
    ended = await commands("upload", source / "p2", "-P", "demo", "--label-map", table, "-q", *named)
    assert ended.code == 0, ended.err
    assert [one.subject.label for one in xnat.archived] == ["sub-2"]


async def test_all_problems_are_listed_at_once(commands: Commands, source: Path) -> None:
    """Each problem is listed once with a path, and none hides another."""
    numbers = iter(range(200, 300))

    def add(of: int, **attributes: Any) -> None:
        number = next(numbers)
        write(source / "odd" / f"{number}", image(number, **study(of, **attributes)))

    add(11, StudyDate=None)
    add(12)
    add(12, StudyDate="20210101")
    add(13, PatientID="P1")
    add(14, PatientID="B 1")
    add(14, PatientID="B_1")
    add(15, PatientID="p2", StudyDate="20210102")
    add(16, PatientID="Q", PatientBirthDate="19700101")
    add(17, PatientID="Q", PatientBirthDate="19800101", StudyDate="20210102")
    write(source / "odd" / "cut", image(300, **study(18))[:-20])
    write(source / "odd" / "copy", image(10, **study(1)))
    write(source / "odd" / "twin", image(20, pixels=55, **study(2)))
    with zipfile.ZipFile(source / "odd" / "old.zip", "w") as archive:
        archive.writestr("1.dcm", image(301, **study(19)))
    ended = await commands("plan", source, "-P", "demo", "-o", "json")
    codes = sorted(problem["code"] for problem in ended.json["problems"])
    assert codes == sorted([*PROBLEMS, "archive-file"])
    assert all(problem["example"].startswith(str(source)) for problem in ended.json["problems"])
    assert ended.code == 2


async def test_a_project_template_sends_to_several(xnat: TestXnat, url: str, commands: Commands, source: Path) -> None:
    """A project may be a template."""
    xnat.add_project(Project("P1", editors=("demo",)))
    xnat.add_project(Project("P2", editors=("demo",)))
    commands.login(url)
    ended = await commands("upload", source, "-P", "{PatientID}", "-o", "json")
    assert ended.code == 8, ended.err
    assert {(one.project, one.label) for one in xnat.archived} == {("P1", "P1_20200102"), ("P2", "P2_20200102")}


async def test_a_taken_label_can_get_a_suffix(xnat: TestXnat, url: str, commands: Commands, source: Path) -> None:
    """Suffixes follow the order of studies, and are reported."""
    files(source / "p1" / "again", 80, 1, **study(1, StudyInstanceUID="1.2.11", StudyTime="120000"))
    commands.login(url)
    assert (await commands("plan", source, "-P", "demo")).code == 2
    told = await commands("plan", source, "-P", "demo", "--on-collision", "suffix", "-o", "json")
    assert (told.code, [one["code"] for one in told.json["problems"]]) == (0, ["label-suffixed", "labels-by-source"])
    assert (await commands("upload", source, "-P", "demo", "--on-collision", "suffix", "-q")).code == 0
    assert {one.study_uid: one.label for one in xnat.archived}["1.2.11"] == "P1_20200102_2"


async def test_a_second_plan_opens_no_unchanged_file(commands: Commands, source: Path, tmp_path: Path) -> None:
    """Unchanged files are not opened; new, removed and rewritten ones are found."""
    opened = opens(commands.env, tmp_path, source)
    first = await commands("plan", source, "-P", "demo", "-o", "json")
    assert len(opened()) >= len(list(source.rglob("*.dcm")))
    again = await commands("plan", source, "-P", "demo", "-o", "json")
    assert (again.json["rows"], opened()) == (first.json["rows"], [])
    (source / "p1" / "visit" / "10.dcm").unlink()
    write(source / "p2" / "visit" / "20.dcm", image(20, pixels=77, **study(2)))
    files(source / "p4", 40, 1, **study(4))
    third = await commands("plan", source, "-P", "demo", "-o", "json")
    assert {row["study_uid"]: row["files"] for row in third.json["rows"]} == {
        "1.2.1": 2,
        "1.2.2": 4,
        "1.2.3": 5,
        "1.2.4": 1,
    }


PARTS: dict[str, tuple[tuple[str, ...], set[str]]] = {
    "included": (("--include", "p1/*", "--include", "*/visit/3?.dcm"), {"P1", "P3"}),
    "excluded": (("--exclude", "p2/*"), {"P1", "P3"}),
    "of a modality": (("--modality", "ct,PT"), {"P4"}),
    "since a date": (("--study-since", "2021-01-01"), {"P4"}),
    "a pilot": (("--max-sessions", "2"), {"P1", "P2"}),
}


@pytest.mark.parametrize(("words", "patients"), PARTS.values(), ids=PARTS)
async def test_filters_select_a_part_of_the_source(
    xnat: TestXnat, url: str, commands: Commands, source: Path, words: tuple[str, ...], patients: set[str]
) -> None:
    """Plan and upload select the same; other files are no problem, and a later run may select them."""
    files(source / "p4" / "visit", 40, 2, **study(4, Modality="CT", StudyDate="20210303"))
    if "included" in words[0] or words[0] in {"--include", "--exclude"}:
        (source / "p4" / "visit" / "40.dcm").unlink()
        (source / "p4" / "visit" / "41.dcm").unlink()
    plan = await commands("plan", source, "-P", "demo", "-o", "json", *words)
    assert plan.code == 0, plan.err
    assert {row["subject"] for row in plan.json["rows"] if not row["skip"]} == patients
    commands.login(url)
    ended = await commands("upload", source, "-P", "demo", "-o", "json", *words)
    assert ended.code == 0, ended.err
    assert {one.subject.label for one in xnat.archived} == patients
    sent = xnat.count["import"]
    assert (await commands("upload", source, "-P", "demo", "-o", "json", *words)).code == 0
    assert xnat.count["import"] == sent
    whole = await commands("upload", source, "-P", "demo", "-o", "json")
    assert (whole.code, whole.json["files"]["skipped"]) == (0, 0)
    assert {one.subject.label for one in xnat.archived} >= {"P1", "P2", "P3"}
    assert len(xnat.sop_uids()) == xnat.count["import"]


async def test_files_that_a_filter_leaves_out_are_not_gone(
    xnat: TestXnat, url: str, commands: Commands, source: Path
) -> None:
    """A run with a filter does not fail files that an earlier run left."""
    commands.login(url)
    async with commands.start("upload", source, "-P", "demo", "-q", "-w", "1") as process:
        xnat.faults.add(Fault("import", Tell(process.kill), nth=2))
        await process.wait()
    part = await commands("upload", source, "-P", "demo", "-o", "json", "--include", "p1/*")
    assert (part.code, part.json["files"]["failed"]) == (0, 0), part.out
    assert part.json["files"]["stored"] + part.json["files"]["already_stored"] == 3
    assert (await commands("upload", source, "-P", "demo", "-q")).code == 0
    assert len(xnat.sop_uids()) == 12


async def test_a_dry_run_reports_series_that_a_filter_will_drop(
    xnat: TestXnat, url: str, commands: Commands, source: Path
) -> None:
    """It names the studies that will lose series, and the number of files."""
    files(source / "p2" / "scout", 80, 2, **study(2, SeriesInstanceUID="1.2.2.9", SeriesDescription="Localizer 1"))
    xnat.project("demo").series_filter = SeriesFilter(("Localizer.*", "Survey"))
    commands.login(url)
    ended = await commands("upload", source, "-P", "demo", "--dry-run", "-o", "json")
    (told,) = ended.json["problems"]
    assert (ended.code, told["code"], told["study_uid"], told["files"]) == (8, "series-dropped", "1.2.2", 2)
    assert told["text"] == "the project's series import filter will drop 1 of its series"
    xnat.project("demo").series_filter = None
    xnat.series_filter = SeriesFilter(("Localizer.*",), mode="allowlist")
    ended = await commands("upload", source, "-P", "demo", "--dry-run", "-o", "json")
    assert [(one["code"], one["study_uid"]) for one in ended.json["problems"]] == [
        ("series-dropped", f"1.2.{number}") for number in (1, 2, 3)
    ]


async def test_a_dry_run_reports_sessions_of_other_subjects(url: str, commands: Commands, source: Path) -> None:
    """A study in the archive under another subject is reported, because XNAT would refuse to merge it."""
    commands.login(url)
    assert (await commands("upload", source / "p1", "-P", "demo", "-S", "other", "-q")).code == 0
    other = ("--state-dir", commands.home / "other")
    ended = await commands("upload", source, "-P", "demo", "--dry-run", "-o", "json", *other)
    assert ended.code == 9
    assert [(one["code"], one["study_uid"]) for one in ended.json["problems"]] == [("subject-on-server", "1.2.1")]


@pytest.mark.parametrize("words", [("--study-since", "soon"), ("--max-sessions", "0"), ("--on-collision", "ask")])
async def test_invalid_filters(commands: Commands, source: Path, words: tuple[str, str]) -> None:
    """The message names the value, and a hint says what to do."""
    commands.login("http://127.0.0.1:1")
    ended = await commands("upload", source, "-P", "demo", *words)
    assert (ended.code, words[1] in ended.err, "hint: " in ended.err) == (2, True, True)
