"""The site: users, projects, prearchive, archive and subjects, and the settings that apply to them."""

from collections import Counter
from collections.abc import Awaitable, Callable, Iterator, Mapping
from dataclasses import dataclass, field
from datetime import datetime, timedelta
from pathlib import Path

from .anonymisation import Script
from .archive import ArchivedSession, Scan
from .archive_jobs import JobStatus
from .gates import HeldRow
from .logins import Logins, Tokens
from .names import make_timestamp
from .prearchive import ImportRecord, PrearchiveRow, RowStatus
from .profiles import PetMr, Right
from .projects import UNASSIGNED, Project, User
from .resources import Resource, Series, StoredFile
from .settings import Settings
from .storage import Storage
from .subjects import Subject, SubjectIndex, Value

SITE_ID = "XNAT"


@dataclass(eq=False, repr=False)
class Site(Settings):
    """A whole XNAT site in memory, with its files in a directory; without one, only their sizes and digests.

    It starts with the user `demo` (password `demo`) and the project `demo`.
    """

    directory: Path | None = field(default=None, kw_only=False)

    def __post_init__(
        self,
        keep_bytes: bool,
        checksums: bool,
        session_timeout: float,
        max_sessions: int,
        max_failed_logins: int,
        lockout_seconds: float,
        token_seconds: float,
        anonymise: bool | Script,
    ) -> None:
        self.script = Script() if anonymise is True else anonymise or None
        self.storage = Storage(
            self.directory, keep_bytes=keep_bytes, checksums=checksums and self.profile.has_checksums
        )
        self.users: dict[str, User] = {}
        self.projects: dict[str, Project] = {}
        self.deleted_projects: set[str] = set()
        self.tokens = Tokens(seconds=token_seconds, clock=self.clock)
        self.logins = Logins(
            self.users,
            timeout=session_timeout,
            max_per_user=max_sessions,
            max_failed=max_failed_logins,
            lockout_seconds=lockout_seconds,
            tokens=self.tokens,
            clock=self.clock,
        )
        self.count: Counter[str] = Counter()
        """Requests by kind."""
        self.imports: list[ImportRecord] = []
        self.job_statuses: dict[tuple[str, str], JobStatus] = {}
        """Archive jobs by user and key."""
        self.user_cache: dict[str, dict[str, dict[str, bytes]]] = {}
        """Files that users have put into their caches: user, resource, file name."""
        self.orphans: dict[tuple[str, str], set[tuple[str, str, str]]] = {}
        """(scan, resource, file name) of files in the archive folder of (project, label) that no database row names."""
        self.deleted_files: dict[tuple[str, ...], dict[str, StoredFile]] = {}
        """Files of deleted resources that are still on the disk, by folder."""
        self.held_rows: list[HeldRow] = []
        """Rows that stay in a status until they are released."""
        self.idle_builder: Callable[[], Awaitable[int]] | None = None
        self.on_hold: Callable[[HeldRow], None] | None = None
        self.on_restart: Callable[[], None] | None = None
        self._rows: dict[tuple[str | None, str, str], list[PrearchiveRow]] = {}
        self._by_uri: dict[tuple[str | None, str, str], PrearchiveRow] = {}
        self.direct_rows: dict[tuple[str | None, str, str], PrearchiveRow] = {}
        """Sessions on their way straight into the archive, by project, StudyInstanceUID and label."""
        self._experiments: dict[str, ArchivedSession] = {}
        self._by_label: dict[tuple[str, str], ArchivedSession] = {}
        self._shared: dict[tuple[str, str], ArchivedSession] = {}
        self._subjects = SubjectIndex()
        self._numbers: Counter[str] = Counter()
        self.add_user(User("demo", "demo"))
        self.add_project(Project("demo", "Demo"))

    # ---- users and projects

    def add_user(self, user: User) -> User:
        """Add a user, or replace the one with that name."""
        self.users[user.name] = user
        return user

    def add_project(self, project: Project) -> Project:
        """Add a project, or replace the one with that ID."""
        self.projects[project.id] = project
        return project

    def project(self, project_id: str) -> Project:
        """Return a project; its fields may be set. Raises KeyError."""
        return self.projects[project_id]

    def remove_project(self, project: Project) -> None:
        """Remove a project; its ID can never be used again."""
        del self.projects[project.id]
        self.deleted_projects.add(project.id)

    def project_named(self, name: str) -> Project | None:
        """Return the project with this ID or alias."""
        if (project := self.projects.get(name)) is not None:
            return project
        return next((project for project in self.projects.values() if name in project.aliases), None)

    def find_project(self, name: str, user: User | None, right: Right) -> Project | None:
        """Return the project with this ID or alias if the user has the right on it (UserProjectCache)."""
        project = self.project_named(name)
        return project if project is not None and user is not None and project.allows(user, right) else None

    def pet_mr_of(self, project: str | None) -> PetMr:
        """Return what happens to PET and MR in one study (HandlePetMr): the project's setting, or else the site's."""
        found = self.projects.get(project or "")
        return (found.pet_mr if found is not None else "") or self.pet_mr

    # ---- logins

    def live_logins(self, user: str) -> int:
        """Count a user's live logins."""
        return self.logins.live(user)

    def expire_logins(self) -> None:
        """Make all cookies invalid."""
        self.logins.expire()

    def restart(self) -> None:
        """Forget what a restart of the server forgets: logins, queued jobs, and delayed effects of requests.

        Rows keep their status. A running server breaks all its connections, and goes on at once. For a longer outage,
        use the fault `Restart`; or leave `serve`, call this, and serve again on the same port:

            async with serve(xnat) as url: ...
            xnat.restart()
            async with serve(xnat, port=URL(url).port): ...
        """
        self.logins.expire()
        self.job_statuses.clear()
        for held_row in self.held_rows:
            held_row.settle()
        self.held_rows.clear()
        if self.on_restart is not None:
            self.on_restart()

    # ---- prearchive

    @property
    def prearchive(self) -> list[PrearchiveRow]:
        """All rows of the prearchive, oldest first."""
        return sorted(self._by_uri.values(), key=lambda row: row.timestamp)

    def rows_for_import(self, project: str | None, study_uid: str, label: str) -> list[PrearchiveRow]:
        """Return the rows that an import with this key may go to (PrearcDatabase.eitherGetOrCreateSession)."""
        return self._rows.get((project, study_uid, label if self.profile.row_key_has_label else ""), [])

    @property
    def number_of_rows(self) -> int:
        """How many rows are in the prearchive."""
        return len(self._by_uri)

    def find_row(self, project: str, timestamp: str, folder: str) -> PrearchiveRow | None:
        """Return the row at the parts of a prearchive URI."""
        return self._by_uri.get((None if project == UNASSIGNED else project, timestamp, folder))

    def __contains__(self, row: PrearchiveRow) -> bool:
        """Return whether the row is (still) there, in the prearchive or on its way into the archive."""
        if row.is_direct:
            return self.direct_rows.get((row.project, row.study_uid, row.name)) is row
        return self._by_uri.get((row.project, row.timestamp, row.folder)) is row

    def add_row(self, row: PrearchiveRow) -> None:
        """Add a row."""
        if row.is_direct:
            self.direct_rows[row.project, row.study_uid, row.name] = row
            return
        self._rows.setdefault(self._key(row), []).append(row)
        self._by_uri[row.project, row.timestamp, row.folder] = row

    def remove_row(self, row: PrearchiveRow) -> None:
        """Remove a row; does nothing if it is gone."""
        if row.is_direct:
            self.direct_rows.pop((row.project, row.study_uid, row.name), None)
            return
        rows = self._rows.get(self._key(row), [])
        if row not in rows:
            return
        rows.remove(row)
        del self._by_uri[row.project, row.timestamp, row.folder]
        if not rows:
            self._rows.pop(self._key(row), None)

    def free_timestamp(self, project: str | None, folder: str) -> str:
        """Return the timestamp of now, or the next one that no row with this folder has."""
        moment = self.now()
        while self.find_row(project or UNASSIGNED, make_timestamp(moment), folder) is not None:
            moment += timedelta(milliseconds=1)
        return make_timestamp(moment)

    def leave(
        self,
        row: PrearchiveRow,
        status: RowStatus,
        *,
        looks: int | None = None,
        then: RowStatus | None = None,
        params: Mapping[str, str] | None = None,
    ) -> HeldRow:
        """Leave a row in a status. A row that is being worked on keeps it until the work is released.

        `release()` of the returned gate releases it (`await settled()` waits for the end), and so does the number of
        `looks` over HTTP that have shown the status; the work takes place in a running server. With `then`, the row
        ends in that status.
        """
        held_row = HeldRow(row, status, looks, then, params or {})
        row.status = status
        self.held_rows.append(held_row)
        if self.on_hold is not None:
            self.on_hold(held_row)
        return held_row

    def _key(self, row: PrearchiveRow) -> tuple[str | None, str, str]:
        return (row.project, row.study_uid, row.name if self.profile.row_key_has_label else "")

    def now(self) -> datetime:
        """Return the server's local time, as XNAT stores it."""
        here = datetime.now()  # noqa: DTZ005 - java.sql.Timestamp has no zone
        return here + timedelta(seconds=self.seconds_ahead)

    async def idle_round(self) -> int:
        """Run the idle builder once; return how many sessions it has built, and archived if they are to be.

        A server runs it every `idle_repeat` seconds. Raises RuntimeError if none is running.
        """
        if self.idle_builder is None:
            raise RuntimeError("the idle builder is a part of a running server")
        return await self.idle_builder()

    # ---- archive

    @property
    def archived(self) -> list[ArchivedSession]:
        """All archived sessions, in order of their accession IDs."""
        return list(self._experiments.values())

    def experiment(self, accession: str) -> ArchivedSession | None:
        """Return an archived session by accession ID."""
        return self._experiments.get(accession)

    def experiment_labelled(self, project: str | None, label: str) -> ArchivedSession | None:
        """Return the archived session with this label in a project; its own sessions come before shared ones.

        As XnatExperimentdata.GetExptByProjectIdentifier.
        """
        key = project or "", label
        return self._by_label.get(key) or self._shared.get(key)

    def add_experiment(self, session: ArchivedSession) -> None:
        """Add an archived session."""
        self._experiments[session.id] = session
        self._by_label[session.project, session.label] = session

    def remove_experiment(self, session: ArchivedSession) -> None:
        """Remove an archived session, as if a person had deleted it; its files stay on the disk."""
        del self._experiments[session.id]
        self._by_label = {key: other for key, other in self._by_label.items() if other is not session}
        self._shared = {key: other for key, other in self._shared.items() if other is not session}

    def share(self, item: Subject | ArchivedSession, project: str, label: str = "") -> None:
        """Share a subject or a session into another project, perhaps under another label there."""
        label = label or item.label
        if isinstance(item, Subject):
            self._subjects.share(item, project, label)
        else:
            self.unshare(item, project)
            item.shares[project] = label
            self._shared[project, label] = item

    def unshare(self, item: Subject | ArchivedSession, project: str) -> None:
        """End the sharing of an item into a project; does nothing if there is none."""
        if isinstance(item, Subject):
            self._subjects.unshare(item, project)
        elif (label := item.shares.pop(project, None)) is not None:
            self._shared.pop((project, label), None)

    def relocate(self, item: Subject | ArchivedSession, project: str, label: str) -> None:
        """Give an item another project, another label or both; its files stay where they are."""
        if isinstance(item, Subject):
            self._subjects.move(item, project, label)
        else:
            del self._by_label[item.project, item.label]
            item.project, item.label = project, label
            self._by_label[project, label] = item

    def sop_uids(self, project: str | None = None) -> set[str]:
        """Return the SOPInstanceUIDs of all completely received archived instances, of one project or all.

        Files whose upload was cut are left out, although XNAT lists them: see `partial_files`.
        """
        return {file.sop_uid for _, _, file in self.instances(project) if file.complete}

    def partial_files(self, project: str | None = None) -> list[StoredFile]:
        """Return the archived files whose upload was cut and never repaired."""
        return [file for _, _, file in self.instances(project) if not file.complete]

    def instances(self, project: str | None = None) -> Iterator[tuple[ArchivedSession, Scan, StoredFile]]:
        """Yield every archived instance with its session and scan; files uploaded to scan resources are left out."""
        for session in self._experiments.values():
            if project in {None, session.project}:
                for scan, resource in session.resources:
                    for file in resource.files.values():
                        if file.metadata is None:
                            yield session, scan, file

    # ---- subjects

    def subjects(self, project: str | None = None) -> list[Subject]:
        """Return the subjects of a project, or of the site, in the order in which they were created."""
        return [subject for subject in self._subjects if project in {None, subject.project}]

    def subject(self, project: str | None, name: str) -> Subject | None:
        """Return a subject by label (letter case counts) within a project, or by accession ID."""
        return self._subjects.find(name, project)

    def subject_labelled(self, project: str, label: str) -> Subject | None:
        """Return the subject with this label (letter case counts) in a project, or shared into it."""
        return self._subjects.labelled(project, label)

    def add_subject(self, project: str, label: str, *, by: str = "admin", **demographics: Value) -> Subject:
        """Create a subject."""
        return self.register_subject(Subject("", project, label, self.now(), by, demographics))

    def register_subject(self, subject: Subject) -> Subject:
        """Add a new subject, under the next accession ID unless it has one."""
        subject.id = subject.id or self.next_accession("S")
        return self._subjects.add(subject)

    def rename_subject(self, subject: Subject, label: str) -> None:
        """Give a subject another label."""
        self._subjects.rename(subject, label)

    def remove_subject(self, subject: Subject) -> None:
        """Remove a subject, as if a person had deleted it."""
        self._subjects.remove(subject)

    def matching_subject(self, project: str, label: str) -> Subject | None:
        """Return the subject that a session is archived under, if there is one.

        PrearcSessionArchiver.retrieveMatchingSubject ignores letter case, unlike the REST look-ups, and takes a label
        that no subject of the project has for an accession ID, of any project.
        """
        alike = self._subjects.ignoring_case(project, label)
        exact = (subject for subject in alike if subject.label == label)
        return next(exact, None) or next(iter(alike), None) or self._subjects.find(label)

    def subject_for_archiving(self, project: str, label: str) -> Subject:
        """Return the subject that a session is archived under; creates it if there is none."""
        return self.matching_subject(project, label) or self.add_subject(project, label)

    # ---- numbers

    def next_accession(self, kind: str) -> str:
        """Return the next accession ID, such as XNAT_E00001."""
        return f"{SITE_ID}_{kind}{self.next_number(kind):05d}"

    def next_number(self, kind: str) -> int:
        """Return the next number of a kind (a database sequence), from 1."""
        self._numbers[kind] += 1
        return self._numbers[kind]

    def new_resource(self, label: str, files: dict[str, StoredFile]) -> Resource:
        """Make a resource of imported files, with a number of its own."""
        return Resource(self.next_number("resource"), label, files)

    def new_scan(self, scan_id: str, series: Series) -> Scan:
        """Make a scan with a number of its own."""
        return Scan(scan_id, series, scan_id, self.next_number("scan"))
