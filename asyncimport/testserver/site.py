"""The test XNAT itself: its state, its settings, and what it has received. No HTTP."""

import time
from collections import Counter
from collections.abc import Awaitable, Callable, Iterator, Mapping
from dataclasses import dataclass
from datetime import datetime, timedelta
from pathlib import Path

from .auth import Logins
from .faults import Faults
from .held import Left
from .names import FILE_NAME_TEMPLATE
from .profile import PROFILES, PetMr, Profile, Right
from .roster import Roster
from .rules import Script, SeriesFilter
from .state import (
    UNASSIGNED,
    ArchivedSession,
    ImportRecord,
    PrearchiveRow,
    Project,
    Resource,
    RowStatus,
    Scan,
    Series,
    StoredFile,
    Subject,
    User,
    Value,
)
from .storage import Storage
from .tokens import Tokens
from .tracking import Tracked

__all__ = ["TestXnat", "Timing"]

SITE_ID = "XNAT"


@dataclass(frozen=True, slots=True)
class Timing:
    """A service-time model for benchmarks; all zero means as fast as it goes."""

    serial_seconds: float = 0.0
    """Spent per import under the one lock around the row look-up (a SELECT of PrearcDatabase)."""
    parallel_seconds: float = 0.0
    """Spent per import outside that lock (body copy, anonymisation)."""
    build_seconds: float = 0.0
    """Spent per build of a session document."""
    naming_seconds: float = 0.0
    """Spent, without `rename`, between the look whether a file's name is free and the lock on it."""
    queue_seconds: float = 0.0
    """Spent by an archiving or a batch operation in its queue, before it begins."""
    poll_seconds: float = 0.0
    """Spent between the end of an archiving and the look of those who wait for it; up to 0.5 in XNAT."""
    saving_seconds: float = 0.0
    """Spent by an upload between reading a resource's catalog and writing it again, and by a new subject between the
    look whether it is there and its saving: what comes meanwhile makes one of the two fail."""
    subject_lock_seconds: float = 0.0
    """How long an archiving sleeps when another has its subject's label; 10 in XNAT. 0 waits no longer than it must."""
    threads: int = 200
    """Requests served at once (Tomcat's maxThreads)."""
    db_connections: int = 40
    """Imports between row look-up and reply at once (the connection pool)."""
    keepalive_requests: int | None = None
    """Requests until a connection is closed (Tomcat's maxKeepAliveRequests, 100 by default)."""
    keepalive_seconds: float | None = None
    """How long an idle connection is kept (Tomcat's connectionTimeout, 20 by default)."""

    @property
    def free(self) -> bool:
        """Whether imports take no modelled time at all, so that no limit can matter."""
        return self.serial_seconds == 0 and self.parallel_seconds == 0


class TestXnat:
    """A whole XNAT site in memory, with its files in a directory, or nowhere.

    It starts with the user, the password and the project "demo". Without a directory, or with
    `keep_bytes=False`, only sizes and digests of files are kept. Times are in seconds; what is not given is as
    XNAT comes. What rules imports and archiving are attributes of the same names, which may be set at any time.

    `anonymise` is the attribute `script`: None (False) stores files as they are sent; otherwise three attributes
    of each are rewritten, or what the given script says. A project may have a filter and a script of its own. The
    server's clock is `seconds_ahead` of this machine's. Where it `needs_reason`, changes need an event_reason.
    """

    __test__ = False  # pytest is not to collect it

    def __init__(
        self,
        directory: Path | None = None,
        *,
        profile: Profile = PROFILES["1.8"],
        timing: Timing | None = None,
        keep_bytes: bool = True,
        checksums: bool = True,
        session_timeout: float = 900,
        max_sessions: int = 1000,
        max_failed_logins: int = 20,
        lockout_seconds: float = 3600,
        archive_seconds: float = 0.0,
        archive_timeout: float = 600.0,
        default_prearchive_code: int = 4,
        anonymise: bool | Script = True,
        series_filter: SeriesFilter | None = None,
        idle_minutes: int = 5,
        idle_repeat: float | None = 60.0,
        prevent_cross_modality_merge: bool = True,
        unique_sop_uids: bool = True,
        separate_secondary: bool = True,
        pet_mr: PetMr = "",
        token_seconds: float = 172_800,
        require_login: bool = True,
        initialised: bool = True,
        strict_urls: bool = True,
        disk_full: bool = False,
        needs_reason: bool = False,
        site_url: str | None = None,
        file_name_template: str = FILE_NAME_TEMPLATE,
        seconds_ahead: float = 0.0,
        clock: Callable[[], float] = time.monotonic,
    ) -> None:
        self.profile = profile
        self.timing = timing or Timing()
        self.archive_seconds = archive_seconds
        self.archive_timeout = archive_timeout
        self.default_prearchive_code = default_prearchive_code
        self.script = Script() if anonymise is True else anonymise or None
        self.series_filter = series_filter
        self.idle_minutes = idle_minutes
        self.idle_repeat = idle_repeat
        self.prevent_cross_modality_merge = prevent_cross_modality_merge
        self.unique_sop_uids = unique_sop_uids
        self.separate_secondary = separate_secondary
        self.pet_mr: PetMr = pet_mr
        self.require_login = require_login
        self.initialised = initialised
        self.strict_urls = strict_urls
        self.disk_full = disk_full
        self.needs_reason = needs_reason
        self.site_url = site_url
        self.file_name_template = file_name_template
        self.seconds_ahead = seconds_ahead
        self.clock = clock
        self.storage = Storage(directory, keep_bytes=keep_bytes, checksums=checksums)
        self.users: dict[str, User] = {}
        self.projects: dict[str, Project] = {}
        self.deleted_projects: set[str] = set()
        self.tokens = Tokens(seconds=token_seconds, clock=clock)
        self.logins = Logins(
            self.users,
            timeout=session_timeout,
            max_per_user=max_sessions,
            max_failed=max_failed_logins,
            lockout_seconds=lockout_seconds,
            tokens=self.tokens,
            clock=clock,
        )
        self.faults = Faults()
        self.count: Counter[str] = Counter()
        self.imports: list[ImportRecord] = []
        self.tracked: dict[tuple[str, str], Tracked] = {}
        """Archive jobs by user and key."""
        self.orphans: dict[tuple[str, str], set[tuple[str, str, str]]] = {}
        """(scan, resource, file name) of what is in the archive folder of (project, label), unknown to the database."""
        self.remains: dict[tuple[str, ...], dict[str, StoredFile]] = {}
        """Files of deleted resources that are still on the disk, by the folder."""
        self.left: list[Left] = []
        """Rows that stay in a status until they are let go."""
        self.idle_builder: Callable[[], Awaitable[int]] | None = None
        self.finisher: Callable[[Left], None] | None = None
        self.on_restart: Callable[[], None] | None = None
        self._rows: dict[tuple[str | None, str, str], list[PrearchiveRow]] = {}
        self._by_uri: dict[tuple[str | None, str, str], PrearchiveRow] = {}
        self._experiments: dict[str, ArchivedSession] = {}
        self._by_label: dict[tuple[str, str], ArchivedSession] = {}
        self._shared: dict[tuple[str, str], ArchivedSession] = {}
        self._roster = Roster()
        self._numbers: Counter[str] = Counter()
        self.add_user(User("demo", "demo"))
        self.add_project(Project("demo", "Demo"))

    # ---- users and projects

    def add_user(self, user: User) -> User:
        """Add a user, or replace the one of that name."""
        self.users[user.name] = user
        return user

    def add_project(self, project: Project) -> Project:
        """Add a project, or replace the one of that id."""
        self.projects[project.id] = project
        return project

    def project(self, project_id: str) -> Project:
        """Return a project; its fields may be set. Raises KeyError."""
        return self.projects[project_id]

    def project_named(self, name: str) -> Project | None:
        """Return the project of this id or alias."""
        if (project := self.projects.get(name)) is not None:
            return project
        return next((project for project in self.projects.values() if name in project.aliases), None)

    def find_project(self, name: str, user: User | None, right: Right) -> Project | None:
        """Return the project of this id or alias if the user has the right (UserProjectCache)."""
        project = self.project_named(name)
        return project if project is not None and user is not None and project.allows(user, right) else None

    def pet_mr_of(self, project: str | None) -> PetMr:
        """Return what is done with PET and MR in one study (HandlePetMr): a project's word, or else the site's."""
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
        """Forget what a restart of the server forgets: logins, queued jobs, and requests whose effect is late.

        Rows stay in whatever status they are. A running server breaks all its connections, and goes on at once. For a
        longer outage, strike a request with `Restart`; or leave `serve`, call this, and serve again on the same port:

            async with serve(xnat) as url: ...
            xnat.restart()
            async with serve(xnat, port=URL(url).port): ...
        """
        self.logins.expire()
        self.tracked.clear()
        for left in self.left:
            left.end()
        self.left.clear()
        if self.on_restart is not None:
            self.on_restart()

    # ---- prearchive

    @property
    def prearchive(self) -> list[PrearchiveRow]:
        """All rows of the prearchive, oldest first."""
        return sorted(self._by_uri.values(), key=lambda row: row.timestamp)

    def rows_like(self, project: str | None, study_uid: str, label: str) -> list[PrearchiveRow]:
        """Return the rows an import of this key may go to (PrearcDatabase.eitherGetOrCreateSession)."""
        return self._rows.get((project, study_uid, label if self.profile.row_key_has_label else ""), [])

    def find_row(self, project: str, timestamp: str, folder: str) -> PrearchiveRow | None:
        """Return the row of a prearchive URI's parts."""
        return self._by_uri.get((None if project == UNASSIGNED else project, timestamp, folder))

    def __contains__(self, row: PrearchiveRow) -> bool:
        """Tell whether the row is (still) in the prearchive."""
        return self._by_uri.get((row.project, row.timestamp, row.folder)) is row

    def add_row(self, row: PrearchiveRow) -> None:
        """Add a row."""
        self._rows.setdefault(self._key(row), []).append(row)
        self._by_uri[row.project, row.timestamp, row.folder] = row

    def remove_row(self, row: PrearchiveRow) -> None:
        """Remove a row; one that is gone is passed over."""
        rows = self._rows.get(self._key(row), [])
        if row not in rows:
            return
        rows.remove(row)
        del self._by_uri[row.project, row.timestamp, row.folder]
        if not rows:
            self._rows.pop(self._key(row), None)

    def leave(
        self,
        row: PrearchiveRow,
        status: RowStatus,
        *,
        looks: int | None = None,
        then: RowStatus | None = None,
        params: Mapping[str, str] | None = None,
    ) -> Left:
        """Leave a row in a status. One at which somebody is at work stays so until the work is let go.

        That is by `release()` of what is returned (and `await settled()`, to see it done), or when so many `looks`
        over HTTP have shown it; the work takes place in a running server. With `then`, the row ends in that status.
        """
        left = Left(row, status, looks, then, params or {})
        row.status = status
        self.left.append(left)
        if self.finisher is not None:
            self.finisher(left)
        return left

    def _key(self, row: PrearchiveRow) -> tuple[str | None, str, str]:
        return (row.project, row.study_uid, row.name if self.profile.row_key_has_label else "")

    def now(self) -> datetime:
        """Return the server's local time, as XNAT stores it."""
        here = datetime.now()  # noqa: DTZ005 - java.sql.Timestamp has no zone
        return here + timedelta(seconds=self.seconds_ahead)

    async def idle_round(self) -> int:
        """Let the idle builder look once; return how many sessions it has built, and archived where they are to be.

        A server does so by itself every `idle_repeat` seconds. Raises RuntimeError when none is running.
        """
        if self.idle_builder is None:
            raise RuntimeError("the idle builder is a part of a running server")
        return await self.idle_builder()

    # ---- archive

    @property
    def archived(self) -> list[ArchivedSession]:
        """All archived sessions, in order of their accession ids."""
        return list(self._experiments.values())

    def experiment(self, accession: str) -> ArchivedSession | None:
        """Return an archived session by accession id."""
        return self._experiments.get(accession)

    def experiment_labelled(self, project: str | None, label: str) -> ArchivedSession | None:
        """Return the archived session of a label in a project: its own before one that is shared into it.

        As XnatExperimentdata.GetExptByProjectIdentifier.
        """
        key = project or "", label
        return self._by_label.get(key) or self._shared.get(key)

    def add_experiment(self, session: ArchivedSession) -> None:
        """Add an archived session."""
        self._experiments[session.id] = session
        self._by_label[session.project, session.label] = session

    def remove_experiment(self, session: ArchivedSession) -> None:
        """Forget an archived session, as after its deletion by a person; files on disk stay."""
        del self._experiments[session.id]
        self._by_label = {key: other for key, other in self._by_label.items() if other is not session}
        self._shared = {key: other for key, other in self._shared.items() if other is not session}

    def share(self, item: Subject | ArchivedSession, project: str, label: str = "") -> None:
        """Share a subject or a session into another project, perhaps under another label there."""
        label = label or item.label
        if isinstance(item, Subject):
            self._roster.share(item, project, label)
        else:
            item.shares[project] = label
            self._shared[project, label] = item

    def subjects(self, project: str | None = None) -> list[Subject]:
        """Return the subjects of a project, or of the site, in order of their making."""
        return [subject for subject in self._roster if project in {None, subject.project}]

    def subject(self, project: str | None, name: str) -> Subject | None:
        """Return a subject by label (letter case counts) within a project, or by accession id."""
        return self._roster.find(name, project)

    def subject_labelled(self, project: str, label: str) -> Subject | None:
        """Return the subject of a label (letter case counts) in a project, or shared into it."""
        return self._roster.labelled(project, label)

    def add_subject(self, project: str, label: str, *, by: str = "admin", **demographics: Value) -> Subject:
        """Make a subject."""
        return self.enter_subject(Subject("", project, label, self.now(), by, demographics))

    def enter_subject(self, subject: Subject) -> Subject:
        """Enter a new subject, with the next accession id unless it has one."""
        subject.id = subject.id or self.accession("S")
        return self._roster.add(subject)

    def rename_subject(self, subject: Subject, label: str) -> None:
        """Give a subject another label."""
        self._roster.rename(subject, label)

    def remove_subject(self, subject: Subject) -> None:
        """Forget a subject, as after its deletion by a person."""
        self._roster.remove(subject)

    def subject_of_archive(self, project: str, label: str) -> Subject:
        """Return the subject a session is archived under; made if need be.

        PrearcSessionArchiver.retrieveMatchingSubject ignores letter case, unlike the REST look-ups, and takes a label
        that no subject of the project has for an accession id, of whatever project.
        """
        alike = self._roster.alike(project, label)
        exact = (subject for subject in alike if subject.label == label)
        found = next(exact, None) or next(iter(alike), None) or self._roster.find(label)
        return found or self.add_subject(project, label)

    def accession(self, kind: str) -> str:
        """Return the next accession id, such as XNAT_E00001."""
        return f"{SITE_ID}_{kind}{self.number(kind):05d}"

    def number(self, kind: str) -> int:
        """Return the next number of a kind (a database sequence), from 1."""
        self._numbers[kind] += 1
        return self._numbers[kind]

    def sop_uids(self, project: str | None = None) -> set[str]:
        """Return the SOPInstanceUIDs of all wholly received archived instances, of one project or all.

        Files whose upload was cut are left out, although XNAT lists them: see `partial_files`.
        """
        return {file.sop_uid for _, _, file in self.instances(project) if file.complete}

    def partial_files(self, project: str | None = None) -> list[StoredFile]:
        """Return the archived files whose upload was cut and never repaired."""
        return [file for _, _, file in self.instances(project) if not file.complete]

    def instances(self, project: str | None = None) -> Iterator[tuple[ArchivedSession, Scan, StoredFile]]:
        """Yield every archived instance with its session and scan; not what was uploaded to a scan's resources."""
        for session in self._experiments.values():
            if project in {None, session.project}:
                for scan, resource in session.resources:
                    for file in resource.files.values():
                        if file.said is None:
                            yield session, scan, file

    def new_resource(self, label: str, files: dict[str, StoredFile]) -> Resource:
        """Make a resource of imported files, with a number of its own."""
        return Resource(self.number("resource"), label, files)

    def new_scan(self, scan_id: str, series: Series) -> Scan:
        """Make a scan with a number of its own."""
        return Scan(scan_id, series, scan_id, self.number("scan"))
