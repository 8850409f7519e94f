"""Where each instance ends, in any history of runs, machines, filters, plans, edits and lost journals.

An oracle knows whose each study is. Whatever is done: no session holds two studies, no subject two people but those
that somebody has let through, no study lies in two sessions, and what is archived never moves. A run that ends with 0
has brought every instance that it was to take, and no other, and a dry run right before it has promised just that.
"""

import csv
import hashlib
import io
import os
from collections import defaultdict
from collections.abc import Callable, Iterable, Sequence
from contextlib import ExitStack, redirect_stderr, redirect_stdout
from dataclasses import dataclass, field
from functools import partial
from pathlib import Path
from random import SystemRandom
from tempfile import TemporaryDirectory
from typing import Any, ClassVar

import pytest
import typer
from anyio.from_thread import BlockingPortal, start_blocking_portal
from builders import image, write
from conftest import Ended
from histories import run_histories
from hypothesis import strategies as st
from hypothesis.stateful import RuleBasedStateMachine, initialize, precondition, rule

from asyncimport.cli.forget import forget
from asyncimport.cli.options import Output
from asyncimport.cli.plan import plan
from asyncimport.cli.upload import upload
from asyncimport.cli.verify import verify
from asyncimport.errors import AsyncimportError
from asyncimport.testserver import Project, SeriesFilter, TestXnat, serve

PLACES = ("a", "b")
MACHINES = ("one", "two")
DATES = ("20200101", "20200102", "20200301")
# There are many histories, and no power failure: a sync need not cost anything.
MEMORY = "/dev/shm" if Path("/dev/shm").is_dir() else None  # noqa: S108 - each history has a directory of its own
# The first has two names. The others are for uploads with rules that differ from its own.
PROJECTS = ("demo", "visits", "parts", "merged", "moved", "paths", "filtered")


@dataclass(frozen=True, slots=True)
class Person:
    """A patient. `a1` is not `A1`, and the two `B2` are patients of two hospitals."""

    id: str
    name: str
    issuer: str = ""


PEOPLE = (
    Person("A1", "Doe^John"),
    Person("a1", "Roe^Jane"),
    Person("B2", "Poe^Ann"),
    Person("B2", "Moe^Max", "OTHER"),
    Person("C3", "Loe^Lia"),
)


@dataclass(slots=True)
class Study:
    """A visit of a patient: instances by SOPInstanceUID, with the date and the modality of each."""

    uid: str
    person: Person
    date: str
    instances: dict[str, tuple[str, str]] = field(default_factory=dict, repr=False)
    where: dict[str, dict[str, bytes]] = field(default_factory=lambda: defaultdict(dict), repr=False)
    """The instances in each place, by path."""

    @property
    def directory(self) -> str:
        """Its directory in each place."""
        return f"{PEOPLE.index(self.person)}/{self.uid}"

    @property
    def modalities(self) -> set[str]:
        """The modalities of all instances."""
        return {modality for _, modality in self.instances.values()}


@dataclass(frozen=True, slots=True)
class Root:
    """A source: its path, its place, and the directory or file there; "": all of it."""

    path: Path
    place: str
    below: str = ""

    def holds(self, path: str) -> bool:
        """Return whether it contains a path of its place."""
        return not self.below or path == self.below or path.startswith(f"{self.below}/")


class Histories(RuleBasedStateMachine):
    """All events of a migration, in any order."""

    portal: ClassVar[BlockingPortal]
    """The loop in which the servers run, one for each history."""

    def __init__(self) -> None:
        super().__init__()
        self._stack = ExitStack()
        self._place = Path(self._stack.enter_context(TemporaryDirectory(dir=MEMORY)))
        self.xnat = TestXnat(anonymise=False, archive_seconds=0.0)
        self.xnat.project("demo").aliases = ("nickname",)
        for project in PROJECTS[1:]:
            self.xnat.add_project(Project(project))
        self.xnat.project("filtered").series_filter = SeriesFilter(("report",))
        (self._place / "subjects.csv").write_text("subject_label,gender\nC3,female\nNobody,male\n")
        self._url = self._stack.enter_context(self.portal.wrap_async_context_manager(serve(self.xnat)))
        env = self._stack.enter_context(pytest.MonkeyPatch.context())
        for name in [*os.environ]:
            if name.startswith(("XNAT", "ASYNCIMPORT", "XDG", "NETRC")) or name.endswith(("CERT_FILE", "CA_BUNDLE")):
                env.delenv(name)
        for name, value in {"HOME": str(self._place), "XNAT_USER": "demo", "XNAT_PASS": "demo"}.items():
            env.setenv(name, value)
        self.studies: list[Study] = []
        self.plans: dict[tuple[str, int], tuple[list[str], list[dict[str, str]]]] = {}
        """Plans by place and part; 0: of all."""
        self.seen: dict[tuple[str, str], tuple[str, str, str]] = {}
        """Where each archived study of a project lies: id, subject and label of its session."""
        self.let_through: set[tuple[str, str, Person]] = set()
        """Projects and subjects, in lower case, and the patients that may share them."""
        self.uids: dict[bytes, str] = {}
        """SOPInstanceUIDs by the bytes of their files."""
        self._files = 0
        for place in PLACES:
            (self._place / place).mkdir()
            (self._place / f"link-{place}").symlink_to(place)

    def teardown(self) -> None:
        """End the server."""
        self._stack.close()

    # --- files on disk

    def _add(self, study: Study, place: str, *, date: str, modality: str, count: int, series: int) -> None:
        for _ in range(count):
            self._files += 1
            uid = f"{study.uid}.9.{self._files}"
            content = image(
                SOPInstanceUID=uid,
                StudyInstanceUID=study.uid,
                SeriesInstanceUID=f"{study.uid}.{series}",
                SeriesNumber=series,
                SeriesDescription={1: "images", 2: "report", 3: "night"}[series],
                StudyDate=date,
                Modality=modality,
                PatientID=study.person.id,
                PatientName=study.person.name,
                IssuerOfPatientID=study.person.issuer or None,
                pixels=8,
            )
            path = f"{study.directory}/{self._files}.dcm"
            study.instances[uid] = date, modality
            study.where[place][path] = content
            self.uids[content] = uid
            write(self._place / place / path, content)

    @initialize(data=st.data())
    def it_begins_with_something(self, data: st.DataObject) -> None:
        """Write some studies into both places."""
        for place in PLACES:
            for _ in range(data.draw(st.integers(1, 2))):
                person, date = data.draw(st.sampled_from(PEOPLE)), data.draw(st.sampled_from(DATES))
                self.somebody_is_examined(person, date, data.draw(st.sampled_from(["MR", "CT"])), place, 2)

    @rule(
        person=st.sampled_from(PEOPLE),
        date=st.sampled_from(DATES),
        modality=st.sampled_from(["MR", "CT"]),
        place=st.sampled_from(PLACES),
        count=st.integers(1, 3),
    )
    def somebody_is_examined(self, person: Person, date: str, modality: str, place: str, count: int) -> None:
        """Write a new study into a place."""
        study = Study(f"1.2.{len(self.studies) + 1}", person, date)
        self.studies.append(study)
        self._add(study, place, date=date, modality=modality, count=count, series=1)

    @precondition(lambda self: self.studies)
    @rule(data=st.data(), place=st.sampled_from(PLACES), kind=st.sampled_from(["more", "report", "midnight"]))
    def a_study_grows(self, data: st.DataObject, place: str, kind: str) -> None:
        """Write more of a study: in its series, a late report, or images made after midnight."""
        study = self._one(data, self.studies)
        first = sorted(study.modalities - {"SR"})[0]
        date = str(int(study.date) + 1) if kind == "midnight" else study.date
        self._add(
            study,
            place,
            date=date,
            modality="SR" if kind == "report" else first,
            count=1,
            series={"more": 1, "report": 2, "midnight": 3}[kind],
        )

    @precondition(lambda self: self.studies)
    @rule(data=st.data(), into=st.sampled_from(PLACES))
    def a_study_is_copied(self, data: st.DataObject, into: str) -> None:
        """Copy the files of a study from the other place."""
        study = self._one(data, self.studies)
        (source,) = set(PLACES) - {into}
        for path, content in list(study.where[source].items()):
            study.where[into][path] = content
            write(self._place / into / path, content)

    @precondition(lambda self: self.studies)
    @rule(data=st.data(), place=st.sampled_from(PLACES))
    def a_source_is_cleaned(self, data: st.DataObject, place: str) -> None:
        """Delete a study from a place."""
        study = self._one(data, self.studies)
        for path in study.where.pop(place, {}):
            (self._place / place / path).unlink()

    def _one(self, data: st.DataObject, studies: Iterable[Study]) -> Study:
        """Draw a study, which a history names by its UID."""
        found = {study.uid: study for study in studies}
        return found[data.draw(st.sampled_from([*found]))]

    def _in(self, place: str) -> list[Study]:
        return [study for study in self.studies if study.where[place]]

    def _filled(self, place: str) -> str:
        """Return a place, or the other one if it is empty: else most histories would have nothing to do."""
        return place if self._in(place) else next(filter(self._in, PLACES), place)

    def _roots(self, *places: str) -> list[Root]:
        return [Root(self._place / place, place) for place in dict.fromkeys(map(self._filled, places))]

    def _lying(self, roots: Sequence[Root]) -> dict[str, set[str]]:
        """Return the instances in sources, by study."""
        found: dict[str, set[str]] = {}
        for study in self.studies:
            uids = {
                self.uids[content]
                for root in roots
                for path, content in study.where[root.place].items()
                if root.holds(path)
            }
            if uids:
                found[study.uid] = uids
        return found

    def _looks(self, uids: Iterable[str]) -> list[tuple[str, str]]:
        """Return date and modality of instances."""
        return [study.instances[uid] for study in self.studies for uid in uids if uid in study.instances]

    # --- commands

    def _run(self, command: Callable[..., None], *values: object, machine: str, **options: Any) -> Ended:
        """Run a command by its function, with its parameters: to parse words takes longer than a run."""
        out, err = io.StringIO(), io.StringIO()
        code = 0
        with redirect_stdout(out), redirect_stderr(err):
            try:
                command(*values, state_dir=self._place / machine, **options)
            except typer.Exit as end:
                code = end.exit_code
            except AsyncimportError as error:
                code = error.exit_code
        return Ended(code, out.getvalue(), err.getvalue())

    def _upload(
        self,
        machine: str,
        roots: Sequence[Root],
        project: str,
        *,
        takes: dict[str, set[str]] | None = None,
        **options: Any,
    ) -> None:
        """Do a dry run and an upload. `takes` are the instances that should arrive; by default all."""
        takes = self._lying(roots) if takes is None else takes
        if "subjects" in options:
            options["subjects"] = self._place / "subjects.csv"
        is_archived = options.get("archive", True) and not options.get("partial_studies")
        # A plan names its projects.
        given = None if "plan" in options else project
        project = "demo" if project == "nickname" else project
        run = partial(
            self._run,
            upload,
            [root.path for root in roots],
            given,
            machine=machine,
            host=self._url,
            workers="4",
            settle_seconds="0s",
            output=Output.JSON,
            quiet=True,
            **options,
        )
        before = self._archived(project)
        rehearsed = run(dry_run=True)
        assert self._archived(project) == before, "a dry run has changed the archive"
        imported = len(self.xnat.imports)
        ended = run()
        said = f"dry run {rehearsed.code}: {rehearsed.out}{rehearsed.err}\nrun {ended.code}: {ended.out}{ended.err}"
        self._check(said)
        after = self._archived(project)
        there = after if is_archived else self._joined(after, self._in_prearchive(project))
        brings = self._promised(rehearsed) if "max_sessions" in options else takes.keys()
        for uid, wanted in takes.items():
            if uid not in brings:
                continue
            lacking = wanted - there.get(uid, set())
            assert not (ended.code == 0 and lacking), f"{uid} lacks {lacking}, and nobody says so\n{said}"
        for uid in before:
            assert before[uid] <= after[uid], f"{uid} has lost instances\n{said}"
        for uid in {study.uid for study in self.studies} - takes.keys():
            was, now = before.get(uid, set()), after.get(uid, set())
            assert now <= was, f"{uid} was not chosen: {was} {now}\n{said}"
        sent = {record.sop_uid for record in self.xnat.imports[imported:]}
        unasked = sent - {uid for wanted in takes.values() for uid in wanted}
        assert not unasked, f"{unasked} were not asked for, and sent\n{said}"
        studies = {uid.rpartition(".9.")[0] for uid in sent}
        assert len(studies) <= options.get("max_sessions", len(studies)), f"{studies} are beyond --max-sessions\n{said}"
        assert rehearsed.code == ended.code, said
        if ended.code == 0 and is_archived:
            self._check_rows(rehearsed, said)

    def _promised(self, rehearsed: Ended) -> set[str]:
        """Return the studies that a dry run would send."""
        return {row["study_uid"] for row in rehearsed.json.get("rows", ()) if not row["skip"]}

    @rule(
        machine=st.sampled_from(MACHINES),
        places=st.sampled_from([("a",), ("b",), ("a", "b")]),
        project=st.sampled_from(["demo", "nickname", "demo", "nickname", "parts", "merged"]),
        options=st.sampled_from([{}, {}, {"on_collision": "suffix"}, {"retry": "held,refused"}, {"subjects": None}]),
    )
    def upload_all(self, machine: str, places: tuple[str, ...], project: str, options: dict[str, Any]) -> None:
        """Upload everything into a project by its ID or alias."""
        self._upload(machine, self._roots(*places), project, **options)

    @rule(
        machine=st.sampled_from(MACHINES),
        place=st.sampled_from(PLACES),
        project=st.sampled_from(["demo", "nickname", "parts"]),
    )
    def upload_into_the_prearchive(self, machine: str, place: str, project: str) -> None:
        """Upload, and leave the sessions in the prearchive."""
        self._upload(machine, self._roots(place), project, archive=False)

    @rule(machine=st.sampled_from(MACHINES), place=st.sampled_from(PLACES), limit=st.sampled_from([1, 2]))
    def upload_a_pilot(self, machine: str, place: str, limit: int) -> None:
        """Upload the first studies of a scan."""
        self._upload(machine, self._roots(place), "demo", max_sessions=limit)

    @rule(machine=st.sampled_from(MACHINES), places=st.sampled_from([("a",), ("b",), ("a", "b")]))
    def upload_past_a_filter(self, machine: str, places: tuple[str, ...]) -> None:
        """Upload into a project that accepts no reports."""
        roots = self._roots(*places)
        takes = {
            uid: {one for one in uids if self._looks([one])[0][1] != "SR"} for uid, uids in self._lying(roots).items()
        }
        self._upload(machine, roots, "filtered", takes={uid: uids for uid, uids in takes.items() if uids})

    @rule(machine=st.sampled_from(MACHINES), places=st.sampled_from([("a",), ("b",)]))
    def upload_by_visits(self, machine: str, places: tuple[str, ...]) -> None:
        """Upload under labels that number the visits of a patient."""
        self._upload(f"{machine}-visits", self._roots(*places), "visits", session="{PatientID}_v{StudyIndex}")

    @rule(
        machine=st.sampled_from(MACHINES),
        place=st.sampled_from(PLACES),
        since=st.sampled_from(["20200102", "20200201"]),
    )
    def upload_since(self, machine: str, place: str, since: str) -> None:
        """Upload studies from a date on."""
        lying = self._lying(self._roots(place))
        takes = {uid: uids for uid, uids in lying.items() if any(date >= since for date, _ in self._looks(uids))}
        self._upload(machine, self._roots(place), "demo", study_since=since, takes=takes)

    @rule(
        machine=st.sampled_from(MACHINES), place=st.sampled_from(PLACES), modality=st.sampled_from(["MR", "CT", "SR"])
    )
    def upload_modality(self, machine: str, place: str, modality: str) -> None:
        """Upload the studies that have a modality."""
        lying = self._lying(self._roots(place))
        takes = {uid: uids for uid, uids in lying.items() if modality in {one for _, one in self._looks(uids)}}
        self._upload(machine, self._roots(place), "demo", modality=modality, takes=takes)

    @rule(
        machine=st.sampled_from(MACHINES),
        place=st.sampled_from(PLACES),
        study_filter=st.sampled_from([("modality", "MR"), ("modality", "SR"), ("study_since", "20200102")]),
        partial=st.sampled_from(["hold", "archive"]),
    )
    def upload_parts_of_studies(self, machine: str, place: str, study_filter: tuple[str, str], partial: str) -> None:
        """Upload the series of a modality, or since a date, and leave the sessions open for the rest, or not."""
        option, value = study_filter

        def is_asked(uid: str) -> bool:
            ((date, modality),) = self._looks([uid])
            return modality == value if option == "modality" else date >= value

        takes = {uid: set(filter(is_asked, uids)) for uid, uids in self._lying(self._roots(place)).items()}
        self._upload(
            machine,
            self._roots(place),
            "parts",
            takes={uid: uids for uid, uids in takes.items() if uids},
            partial_studies=True,
            partial=partial,
            **dict[str, Any]({option: value}),
        )

    @rule(machine=st.sampled_from(MACHINES), places=st.sampled_from([("a",), ("b",), ("a", "b")]))
    def upload_merged(self, machine: str, places: tuple[str, ...]) -> None:
        """Let the patients of this run, and no others, share a subject."""
        people = {study.person for root in self._roots(*places) for study in self._in(root.place)}
        self.let_through |= {("merged", person.id.lower(), person) for person in people}
        self._upload(machine, self._roots(*places), "merged", allow_mixed_patients=True)

    @rule(
        machine=st.sampled_from(MACHINES),
        places=st.sampled_from([("a",), ("b",), ("a", "b")]),
        label=st.sampled_from(["{PatientID}_{StudyDate}", "{StudyDate}_{PatientID}"]),
        archive=st.booleans(),
    )
    def upload_rerouted(self, machine: str, places: tuple[str, ...], label: str, archive: bool) -> None:
        """Upload under changed labels: archived sessions keep theirs, those in the prearchive get the new ones."""
        self._upload(
            machine,
            self._roots(*places),
            "moved",
            session=label,
            relabel=True,
            archive=archive,
        )

    @precondition(lambda self: any(map(self._in, PLACES)))
    @rule(
        data=st.data(),
        machine=st.sampled_from(MACHINES),
        form=st.sampled_from(["study", "person", "file", "place", "link", "inside a link"]),
        is_first=st.booleans(),
        by_path=st.booleans(),
    )
    def upload_overlapping(self, data: st.DataObject, machine: str, form: str, is_first: bool, by_path: bool) -> None:
        """Upload a place and a part of it, in either order: each file counts once."""
        place = data.draw(st.sampled_from(list(filter(self._in, PLACES))))
        study = self._one(data, self._in(place))
        inner = {
            "study": study.directory,
            "person": study.directory.partition("/")[0],
            "file": min(study.where[place]),
            "place": "",
            "link": "",
            "inside a link": study.directory,
        }[form]
        top = self._place / (f"link-{place}" if "link" in form else place)
        roots = [Root(self._place / place, place), Root(top / inner, place, inner)]
        rules: dict[str, Any] = {"path_pattern": "{whose}/{visit}/*", "session": "{visit}"} if by_path else {}
        project = "paths" if by_path else "demo"
        self._upload(machine, roots[::-1] if is_first else roots, project, **rules)

    @rule(
        machine=st.sampled_from(MACHINES),
        place=st.sampled_from(PLACES),
        project=st.sampled_from(["demo", "nickname"]),
        parts=st.sampled_from([1, 2]),
    )
    def make_a_plan(self, machine: str, place: str, project: str, parts: int) -> None:
        """Write a plan of a place, or one for each of two machines."""
        place = self._filled(place)
        target = self._place / "plan.csv"
        ended = self._run(
            plan,
            [self._place / place],
            machine=machine,
            project=project,
            out_file=target,
            parts=parts,
            force=True,
            quiet=True,
        )
        if ended.code == 0:
            for part in range(1, parts + 1) if parts > 1 else (0,):
                path = target.with_name(f"plan-{part}.csv") if part else target
                rows = csv.DictReader(io.StringIO(path.read_text("utf-8-sig")))
                found = list(rows)
                self.plans[place, part] = list(rows.fieldnames or ()), found

    def _planned(self) -> list[tuple[str, int]]:
        return sorted(key for key, (_, rows) in self.plans.items() if rows)

    @precondition(lambda self: self._planned())
    @rule(data=st.data(), what=st.sampled_from(["skip", "label", "subject"]))
    def edit_a_plan(self, data: st.DataObject, what: str) -> None:
        """Leave a study out of a plan, or give it another label, or the subject of another one."""
        rows = self.plans[data.draw(st.sampled_from(self._planned()))][1]
        row = data.draw(st.sampled_from(rows))
        match what:
            case "skip":
                row["action"] = "skip"
            case "label":
                row["session_label"] = f"edited_{row['study_uid'].strip(chr(39)).replace('.', '_')}"
            case _:
                row["subject_label"] = data.draw(st.sampled_from(rows))["subject_label"]

    @precondition(lambda self: self._planned())
    @rule(data=st.data(), machine=st.sampled_from(MACHINES))
    def upload_by_plan(self, data: st.DataObject, machine: str) -> None:
        """Upload by an earlier plan, although the place may have changed."""
        self._follow(machine, *data.draw(st.sampled_from(self._planned())))

    @precondition(lambda self: any(part for _, part in self._planned()))
    @rule(place=st.sampled_from(PLACES), is_turned=st.booleans())
    def upload_by_parts_of_a_plan(self, place: str, is_turned: bool) -> None:
        """Let each machine upload its part."""
        parts = [part for part in (1, 2) if (place, part) in self._planned()]
        for part in reversed(parts) if is_turned else parts:
            self._follow(MACHINES[part - 1], place, part)

    def _follow(self, machine: str, place: str, part: int) -> None:
        columns, rows = self.plans[place, part]
        target = self._place / "edited.csv"
        with target.open("w", newline="", encoding="utf-8") as file:
            table = csv.DictWriter(file, columns)
            table.writeheader()
            table.writerows(rows)
        planned = {row["study_uid"].lstrip("'") for row in rows if row["action"] == "upload"}
        roots = [Root(self._place / place, place)]
        takes = {uid: uids for uid, uids in self._lying(roots).items() if uid in planned}
        self._upload(f"{machine}-plan", roots, "demo", plan=target, takes=takes)

    @rule(machine=st.sampled_from(MACHINES))
    def a_journal_is_lost(self, machine: str) -> None:
        """Delete the journal of a machine."""
        for path in (self._place / machine).glob("*"):
            if path.is_file():
                path.unlink()

    @precondition(lambda self: self.seen)
    @rule(data=st.data(), machine=st.sampled_from(MACHINES), held=st.booleans(), force=st.booleans())
    def something_is_forgotten(self, data: st.DataObject, machine: str, held: bool, force: bool) -> None:
        """Delete sessions from a journal, even if XNAT has them."""
        project, uid = data.draw(st.sampled_from(sorted(self.seen)))
        what = {"held": True} if held else {"sessions": [self.seen[project, uid][2]]}
        before = self._archived(project)
        self._run(forget, host=self._url, project=project, machine=machine, force=force, yes=True, **what)
        assert self._archived(project) == before

    @precondition(lambda self: self.seen)
    @rule(machine=st.sampled_from(MACHINES), project=st.sampled_from(["demo", "nickname", "parts", "moved"]))
    def somebody_verifies(self, machine: str, project: str) -> None:
        """List files that are safe to delete: the archive has each, byte for byte."""
        target = self._place / "safe.txt"
        target.unlink(missing_ok=True)
        self._run(verify, project=project, host=self._url, machine=machine, safe_to_delete=target)
        if target.exists():
            name = "demo" if project == "nickname" else project
            archived = {(file.sop_uid, file.digest) for _, _, file in self.xnat.instances(name) if file.complete}
            for line in target.read_text().splitlines():
                content = Path(line).read_bytes()
                assert (self.uids[content], hashlib.md5(content).digest()) in archived, line  # noqa: S324 - as XNAT

    # --- invariants

    def _archived(self, project: str) -> dict[str, set[str]]:
        found: dict[str, set[str]] = defaultdict(set)
        for session, _, file in self.xnat.instances(project):
            found[session.study_uid].add(file.sop_uid)
        return dict(found)

    def _in_prearchive(self, project: str) -> dict[str, set[str]]:
        found: dict[str, set[str]] = defaultdict(set)
        for row in self.xnat.prearchive:
            if row.project == project:
                found[row.study_uid] |= {file.sop_uid for files in row.scans.values() for file in files.values()}
        return dict(found)

    def _joined(self, one: dict[str, set[str]], other: dict[str, set[str]]) -> dict[str, set[str]]:
        return {uid: one.get(uid, set()) | other.get(uid, set()) for uid in one.keys() | other.keys()}

    def _check_rows(self, rehearsed: Ended, said: str) -> None:
        """Check that each session is where the dry run said."""
        there = {(session.project, session.study_uid, session.label) for session in self.xnat.archived}
        for row in rehearsed.json["rows"]:
            promised = row["project"], row["study_uid"], row["session"]
            assert row["skip"] or promised in there, f"{promised} was promised\n{said}"

    def _check(self, said: str) -> None:
        """Check that each archived instance is with its patient."""
        people = {study.uid: study.person for study in self.studies}
        studies: dict[str, set[str]] = defaultdict(set)
        for row in self.xnat.prearchive:
            files = [file for folder in row.scans.values() for file in folder.values()]
            studies[row.uri] = {file.sop_uid.rpartition(".9.")[0] for file in files}
        for project in PROJECTS:
            of: dict[str, set[Person]] = defaultdict(set)
            for session, _, file in self.xnat.instances(project):
                study = file.sop_uid.rpartition(".9.")[0]
                subject = session.subject.label
                studies[session.id].add(study)
                if (project, subject.lower(), people[study]) not in self.let_through:
                    of[subject.lower()].add(people[study])
                where = session.id, subject, session.label
                known = self.seen.setdefault((project, study), where)
                assert known == where, f"study {study} has moved, or lies in two sessions\n{said}"
            for subject, found in of.items():
                if len({person.id for person in found}) == 1 and "has another name" in said:
                    # The archive has no issuers, and spellings of names vary: this is reported and stops nothing.
                    self.let_through |= {(project, subject, person) for person in found}
                    continue
                assert len(found) < 2, f"subject {subject} of {project} is two people: {found}\n{said}"
        assert all(len(found) < 2 for found in studies.values()), f"a session holds two studies: {studies}\n{said}"


def _run(*, histories: int, steps: int, number: int) -> None:
    with start_blocking_portal() as started:

        class Served(Histories):
            portal = started

        run_histories(Served, histories=histories, steps=steps, number=number)


@pytest.mark.thorough
def test_some_histories() -> None:
    """A few histories, the same each time."""
    _run(histories=10, steps=10, number=1)


@pytest.mark.endurance
@pytest.mark.timeout(0)
@pytest.mark.parametrize("half", [1, 2])
def test_many_histories(half: int) -> None:
    """As many histories as there is time for, in two halves for two processors."""
    _run(
        histories=int(os.environ.get("ASYNCIMPORT_HISTORIES", "1000")) // 2,
        steps=12,
        number=2 * SystemRandom().randrange(1 << 31) + half,
    )
