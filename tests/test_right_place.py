"""Where each instance ends, in any history of runs, machines, filters, plans, edits and lost journals.

An oracle knows whose each study is. Whatever is done: no session holds two studies, no subject two people, no study
lies in two sessions, and what is archived never moves. A run that ends with 0 has brought every study that it was to
take, whole, and a dry run right before it has promised just that.
"""

import csv
import hashlib
import io
import os
import sys
from collections import defaultdict
from contextlib import ExitStack
from dataclasses import dataclass, field
from pathlib import Path
from random import SystemRandom
from tempfile import TemporaryDirectory

import pytest
from anyio.from_thread import start_blocking_portal
from conftest import Ended
from hypothesis import HealthCheck, Phase, seed, settings
from hypothesis import strategies as st
from hypothesis.stateful import RuleBasedStateMachine, precondition, rule, run_state_machine_as_test
from scenery import image, write
from typer.testing import CliRunner

from asyncimport.cli.app import app
from asyncimport.errors import UsageError
from asyncimport.testserver import Project, TestXnat, serve

PLACES = ("a", "b")
MACHINES = ("one", "two")


@dataclass(frozen=True, slots=True)
class Person:
    """Somebody who is examined. `a1` is not `A1`; one `B2` is not the other, who has it from another hospital."""

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
    """A visit: whose, when, and its instances by SOPInstanceUID with the date and the modality of each."""

    uid: str
    person: Person
    date: str
    instances: dict[str, tuple[str, str]] = field(default_factory=dict)
    where: dict[str, dict[str, bytes]] = field(default_factory=lambda: defaultdict(dict))
    """What lies in each place, by the path there."""

    @property
    def modalities(self) -> set[str]:
        """The modalities of all that there is."""
        return {modality for _, modality in self.instances.values()}

    @property
    def dates(self) -> set[str]:
        """The dates of all that there is: more than one, when it went over midnight."""
        return {date for date, _ in self.instances.values()}


class Histories(RuleBasedStateMachine):
    """Anything that may happen to a migration, in any order."""

    def __init__(self) -> None:
        super().__init__()
        self._stack = ExitStack()
        self._place = Path(self._stack.enter_context(TemporaryDirectory()))
        self.xnat = TestXnat(self._place / "xnat", anonymise=False, archive_seconds=0.0)
        self.xnat.add_project(Project("visits"))
        portal = self._stack.enter_context(start_blocking_portal())
        url = self._stack.enter_context(portal.wrap_async_context_manager(serve(self.xnat)))
        self._env: dict[str, str | None] = {
            **{name: None for name in os.environ if name.startswith(("XNAT", "ASYNCIMPORT", "XDG", "NETRC"))},
            "HOME": str(self._place),
            "COLUMNS": "200",
            "NO_COLOR": "1",
            "ASYNCIMPORT_QUIET_PERIOD": "0s",
            "XNAT_HOST": url,
            "XNAT_USER": "demo",
            "XNAT_PASS": "demo",
        }
        self.studies: list[Study] = []
        self.plans: dict[str, tuple[list[str], list[dict[str, str]]]] = {}
        self.seen: dict[str, tuple[str, str, str]] = {}
        """Where each archived study lies: id, subject and label of its session."""
        self.first_bytes: dict[str, bytes] = {}
        self.history: list[str] = []
        self._files = 0
        for place in PLACES:
            (self._place / place).mkdir()

    def teardown(self) -> None:
        """End the server."""
        self._stack.close()

    # --- what there is on disk

    def _add(self, study: Study, place: str, *, date: str, modality: str, count: int, series: int) -> None:
        for _ in range(count):
            self._files += 1
            uid = f"{study.uid}.9.{self._files}"
            content = image(
                SOPInstanceUID=uid,
                StudyInstanceUID=study.uid,
                SeriesInstanceUID=f"{study.uid}.{series}",
                SeriesNumber=series,
                StudyDate=date,
                Modality=modality,
                PatientID=study.person.id,
                PatientName=study.person.name,
                IssuerOfPatientID=study.person.issuer or None,
                pixels=8,
            )
            path = f"{PEOPLE.index(study.person)}/{study.uid}/{self._files}.dcm"
            study.instances[uid] = date, modality
            study.where[place][path] = content
            self.first_bytes[uid] = content
            write(self._place / place / path, content)

    @rule(
        person=st.sampled_from(PEOPLE),
        date=st.sampled_from(["20200101", "20200102", "20200301"]),
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
        """Write more of a study: of its series, a report that comes late, or what was made after midnight."""
        study = data.draw(st.sampled_from(self.studies))
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
        """Copy what lies of a study in the other place."""
        study = data.draw(st.sampled_from(self.studies))
        (source,) = set(PLACES) - {into}
        for path, content in list(study.where[source].items()):
            study.where[into][path] = content
            write(self._place / into / path, content)

    @precondition(lambda self: self.studies)
    @rule(data=st.data(), place=st.sampled_from(PLACES))
    def a_source_is_cleaned(self, data: st.DataObject, place: str) -> None:
        """Delete a study from a place."""
        study = data.draw(st.sampled_from(self.studies))
        for path in study.where.pop(place, {}):
            (self._place / place / path).unlink()

    # --- what people do

    def _run(self, *words: str | Path) -> Ended:
        result = CliRunner().invoke(app, [str(word) for word in words], env=self._env)
        self.history.append(f"{result.exit_code}: {' '.join(map(str, words))}")
        code = result.exit_code
        if isinstance(result.exception, UsageError):
            code = result.exception.exit_code
        elif result.exception is not None and not isinstance(result.exception, SystemExit):
            raise result.exception
        return Ended(code, result.stdout, result.stderr)

    def _upload(self, machine: str, places: tuple[str, ...], *words: str | Path, takes: list[Study]) -> Ended:
        """Rehearse an upload and carry it out; `takes` are the studies that it is to bring, if all is well."""
        sources = [self._place / place for place in places]
        all_words = [
            *("upload", *map(str, sources), "-o", "json", "-q", "-w", "4"),
            *("--state-dir", str(self._place / machine), *map(str, words)),
        ]
        before = self._archived()
        rehearsed = self._run(*all_words, "--dry-run")
        assert self._archived() == before, "a dry run has changed the archive"
        ended = self._run(*all_words)
        self._check()
        said = f"dry run {rehearsed.code}: {rehearsed.out}{rehearsed.err}\nrun {ended.code}: {ended.out}{ended.err}"
        after = self._archived()
        for study in takes:
            here = {self._uid(content) for place in places for content in study.where[place].values()}
            lacking = here - after.get(study.uid, set())
            assert not (ended.code == 0 and lacking), f"{study.uid} lacks {lacking}, and nobody says so\n{said}"
        for uid in before:
            assert before[uid] <= after[uid], f"{uid} has lost instances"
        untouched = {study.uid for study in self.studies} - {study.uid for study in takes}
        for uid in untouched:
            assert before.get(uid, set()) == after.get(uid, set()), (
                f"{uid} was not chosen: {before.get(uid)} {after.get(uid)}\n{said}"
            )
        # XNAT does not merge what is of another modality alone, which only the run finds out.
        if "modification of session modality" not in ended.out:
            assert (rehearsed.code == 0) == (ended.code == 0), said
        return ended

    def _uid(self, content: bytes) -> str:
        return next(uid for uid, found in self.first_bytes.items() if found == content)

    def _in(self, places: tuple[str, ...]) -> list[Study]:
        return [study for study in self.studies if any(study.where[place] for place in places)]

    @rule(
        machine=st.sampled_from(MACHINES),
        places=st.sampled_from([("a",), ("b",), ("a", "b")]),
        options=st.sampled_from([(), (), ("--on-collision", "suffix"), ("--retry", "held,refused")]),
    )
    def upload_all(self, machine: str, places: tuple[str, ...], options: tuple[str, ...]) -> None:
        """Upload all that there is."""
        self._upload(machine, places, "-P", "demo", *options, takes=self._in(places))

    @rule(machine=st.sampled_from(MACHINES), places=st.sampled_from([("a",), ("b",)]))
    def upload_by_visits(self, machine: str, places: tuple[str, ...]) -> None:
        """Upload under labels that number the visits of a patient."""
        self._upload(f"{machine}-visits", places, "-P", "visits", "-E", "{PatientID}_v{StudyIndex}", takes=[])

    @rule(
        machine=st.sampled_from(MACHINES),
        place=st.sampled_from(PLACES),
        since=st.sampled_from(["20200102", "20200201"]),
    )
    def upload_since(self, machine: str, place: str, since: str) -> None:
        """Upload what is not older than a date."""
        takes = [study for study in self._in((place,)) if max(self._seen_dates(study, place)) >= since]
        self._upload(machine, (place,), "-P", "demo", "--since", since, takes=takes)

    def _seen_dates(self, study: Study, place: str) -> set[str]:
        return {study.instances[self._uid(content)][0] for content in study.where[place].values()}

    @rule(
        machine=st.sampled_from(MACHINES), place=st.sampled_from(PLACES), modality=st.sampled_from(["MR", "CT", "SR"])
    )
    def upload_modality(self, machine: str, place: str, modality: str) -> None:
        """Upload the studies that have a modality."""
        takes = [
            study
            for study in self._in((place,))
            if modality in {study.instances[self._uid(content)][1] for content in study.where[place].values()}
        ]
        self._upload(machine, (place,), "-P", "demo", "--modality", modality, takes=takes)

    @rule(machine=st.sampled_from(MACHINES), place=st.sampled_from(PLACES))
    def make_a_plan(self, machine: str, place: str) -> None:
        """Write a plan of a place."""
        target = self._place / "plan.csv"
        ended = self._run(
            *("plan", self._place / place, "-P", "demo", "--out", target, "--force", "-q"),
            *("--state-dir", self._place / machine),
        )
        if ended.code == 0:
            rows = csv.DictReader(io.StringIO(target.read_text("utf-8-sig")))
            found = list(rows)
            self.plans[place] = list(rows.fieldnames or ()), found

    @precondition(lambda self: any(rows for _, rows in self.plans.values()))
    @rule(data=st.data(), what=st.sampled_from(["skip", "label"]))
    def edit_a_plan(self, data: st.DataObject, what: str) -> None:
        """Leave a study out of a plan, or give it another label."""
        place = data.draw(st.sampled_from(sorted(place for place, (_, rows) in self.plans.items() if rows)))
        row = data.draw(st.sampled_from(self.plans[place][1]))
        if what == "skip":
            row["action"] = "skip"
        else:
            row["session_label"] = f"edited_{row['study_uid'].strip(chr(39)).replace('.', '_')}"

    @precondition(lambda self: any(rows for _, rows in self.plans.values()))
    @rule(data=st.data(), machine=st.sampled_from(MACHINES))
    def upload_by_plan(self, data: st.DataObject, machine: str) -> None:
        """Upload what an earlier plan says, whatever has become of the place meanwhile."""
        place = data.draw(st.sampled_from(sorted(place for place, (_, rows) in self.plans.items() if rows)))
        columns, rows = self.plans[place]
        target = self._place / "edited.csv"
        with target.open("w", newline="", encoding="utf-8") as file:
            table = csv.DictWriter(file, columns)
            table.writeheader()
            table.writerows(rows)
        planned = {row["study_uid"].lstrip("'") for row in rows if row["action"] == "upload"}
        takes = [study for study in self._in((place,)) if study.uid in planned]
        self._upload(f"{machine}-plan", (place,), "--plan", target, takes=takes)

    @rule(machine=st.sampled_from(MACHINES))
    def a_journal_is_lost(self, machine: str) -> None:
        """Delete all that a machine knows."""
        for path in (self._place / machine).glob("*"):
            if path.is_file():
                path.unlink()

    @precondition(lambda self: self.seen)
    @rule(machine=st.sampled_from(MACHINES))
    def verify(self, machine: str) -> None:
        """Have listed what is safe to delete: it is in the archive, byte for byte."""
        target = self._place / "safe.txt"
        target.unlink(missing_ok=True)
        self._run("verify", "-P", "demo", "--safe-to-delete", target, "-q", "--state-dir", self._place / machine)
        if target.exists():
            archived = {(file.sop_uid, file.digest) for _, _, file in self.xnat.instances("demo") if file.complete}
            for line in filter(None, target.read_text().split("\0" if "\0" in target.read_text() else "\n")):
                content = Path(line).read_bytes()
                assert (self._uid(content), hashlib.md5(content).digest()) in archived, line  # noqa: S324 - as XNAT

    # --- what must be true

    def _archived(self, project: str = "demo") -> dict[str, set[str]]:
        found: dict[str, set[str]] = defaultdict(set)
        for session, _, file in self.xnat.instances(project):
            found[session.study_uid].add(file.sop_uid)
        return dict(found)

    def _check(self) -> None:
        """Compare what is archived with whose it is."""
        people = {study.uid: study.person for study in self.studies}
        for project in ("demo", "visits"):
            lying: dict[str, tuple[str, str, str]] = {}
            of: dict[str, set[Person]] = defaultdict(set)
            studies: dict[str, set[str]] = defaultdict(set)
            for session, _, file in self.xnat.instances(project):
                study = file.sop_uid.partition(".9.")[0]
                studies[session.id].add(study)
                of[session.subject.id].add(people[study])
                where = session.id, session.subject.label, session.label
                assert lying.setdefault(study, where) == where, f"study {study} lies in two sessions"
            assert all(len(found) == 1 for found in studies.values()), f"a session holds two studies: {dict(studies)}"
            assert all(len(found) == 1 for found in of.values()), f"a subject is two people: {dict(of)}"
            for study, where in lying.items():
                key = f"{project} {study}"
                assert self.seen.setdefault(key, where) == where, f"study {study} has moved"


def _run(*, histories: int, steps: int, number: int) -> None:
    given = os.environ.get("ASYNCIMPORT_HISTORIES_SEED")
    number = int(given) if given else number
    sys.stdout.write(f"ASYNCIMPORT_HISTORIES_SEED={number}\n")
    run_state_machine_as_test(
        seed(number)(Histories),
        settings=settings(
            max_examples=histories,
            stateful_step_count=steps,
            deadline=None,
            database=None,
            suppress_health_check=list(HealthCheck),
            # Who has a history that failed wants the shortest one like it; that takes minutes.
            phases=(Phase.generate, Phase.shrink) if given else (Phase.generate,),
        ),
    )


@pytest.mark.thorough
def test_some_histories() -> None:
    """A few, which are the same each time."""
    _run(histories=10, steps=10, number=1)


@pytest.mark.endurance
@pytest.mark.timeout(0)
def test_many_histories() -> None:
    """As many as somebody has time for."""
    _run(
        histories=int(os.environ.get("ASYNCIMPORT_HISTORIES", "1000")),
        steps=12,
        number=SystemRandom().randrange(1 << 32),
    )
