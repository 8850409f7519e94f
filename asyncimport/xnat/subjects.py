"""Subjects of the archive: found as the archive step finds them, updated, and read again.

An update is a PUT on the subject by its accession ID, with the fields in its query. It works before and after a session
is archived. It has no body and no `label`, at which XNAT stops reading (SubjectResource.handlePut). A missing subject
is created by a POST on the list, which changes no existing one (ProjectSubjectList.handlePost).
"""

from collections.abc import Callable, Iterable, Sequence
from dataclasses import dataclass, replace
from functools import partial
from urllib.parse import quote
from weakref import WeakValueDictionary

import anyio

from asyncimport.demographics.comparison import Changes, Difference, Values, compute_changes, missing_values
from asyncimport.demographics.table import Demographics
from asyncimport.errors import RefusedError, TransientError, UnavailableError
from asyncimport.model.files import Session
from asyncimport.model.label_syntax import label_problem
from asyncimport.model.record import record
from asyncimport.pacing.concurrency import map_concurrently
from asyncimport.pacing.retry import RetryPolicy, call_with_retries
from asyncimport.xnat.archive import Archive
from asyncimport.xnat.client import Client
from asyncimport.xnat.replies.identity import subject_conflict
from asyncimport.xnat.replies.subjects import (
    ListedSubject,
    SubjectItem,
    parse_saved_subject,
    parse_subject,
    parse_subjects,
)

# Each takes three small requests; XNAT saves subjects one after the other anyway.
_UPDATES = 8
_ONCE = RetryPolicy(attempts=1)
_WRONG_SUBJECT = "XNAT answered for another subject"
_RENAMED = "the subject has another label by now"
# The archive step replaces these characters of a label by underscores (OmUtils.cleanValue).
_CLEANED = str.maketrans(dict.fromkeys("`~@#$%^&*()+=[]{}|\\/?:;',.<> ", "_"))


@record
class SubjectUpdated:
    """The result for a subject, or in a dry run the expected one. Fields have XNAT's names; the repr shows no values.

    `subject` is the label as the user gave it, `label` as XNAT has it. `written` fields were sent and have arrived.
    XNAT keeps other values of `kept` fields, and had other values of `replaced` ones; `unchanged` ones were equal.
    `alike` are labels of other subjects that differ only in letter case, so the archive step confuses them.
    """

    project: str
    subject: str
    label: str
    accession: str
    created: bool = False
    written: tuple[str, ...] = ()
    kept: tuple[Difference, ...] = ()
    replaced: tuple[Difference, ...] = ()
    unchanged: tuple[str, ...] = ()
    alike: tuple[str, ...] = ()

    @property
    def agrees(self) -> bool:
        """Whether XNAT had all given values before anything was sent."""
        return not self.written and not self.kept

    @property
    def state(self) -> str:
        """The result in one word."""
        return "created" if self.created else "updated" if self.written else "unchanged"


@record
class SubjectError:
    """A subject that XNAT refused, or that failed. `reason` has no value; `no_right` holds for the whole project."""

    project: str
    subject: str
    reason: str
    refused: bool
    no_right: bool = False

    @property
    def state(self) -> str:
        """The result in one word."""
        return "refused" if self.refused else "failed"


SubjectResult = SubjectUpdated | SubjectError


class _Listing:
    """The subjects of a project, by label as the archive step looks for them (retrieveMatchingSubject)."""

    def __init__(self, listed: Iterable[ListedSubject]) -> None:
        self._subjects: dict[str, list[ListedSubject]] = {}
        for one in listed:
            self.add(one)

    def add(self, one: ListedSubject) -> None:
        self._subjects.setdefault(one.label.casefold(), []).append(one)

    def find(self, label: str) -> list[ListedSubject]:
        """Return the subjects that the archive step may take for a label, which it cleans: an exact match first."""
        return sorted(self._subjects.get(_key(label), ()), key=lambda one: one.label != label)

    def find_one(self, label: str) -> ListedSubject | None:
        """Return the subject that a label means; None if there is none. Raises: RefusedError if there are several."""
        found = self.find(label)
        same = [one for one in found if one.label == label] or found
        if len(same) > 1:
            labels = ", ".join(sorted(f"{one.label} is {one.accession}" for one in same))
            raise RefusedError(f"XNAT has several subjects of this label but for letter case ({labels})")
        return same[0] if same else None


def _key(label: str) -> str:
    return label.translate(_CLEANED).casefold()


@dataclass(slots=True)
class _Update:
    """An update in progress: the subject when it was decided what to send, and whether it was created since."""

    wanted: Demographics
    is_created: bool = False
    before: SubjectItem | None = None
    changes: Changes | None = None
    differing: frozenset[Difference] = frozenset()

    def is_other(self, now: SubjectItem | None) -> bool:
        """Whether the label means another subject than before, or none; a new one may be ours."""
        return self.before is not None and (now is None or now.accession != self.before.accession)


class Subjects:
    """Updates subjects, any number at once, but each with one call at a time.

    `overwrite` replaces values that XNAT has. Sites with an audit trail require an `event_reason`. A `dry_run` compares
    and sends nothing. With `only_existing` a missing subject is refused, else created.
    """

    def __init__(
        self,
        client: Client,
        policy: RetryPolicy,
        *,
        overwrite: bool = False,
        event_reason: str = "",
        dry_run: bool = False,
        only_existing: bool = False,
    ) -> None:
        self._client = client
        self._policy = policy
        self._archive = Archive(client, policy)
        self._overwrite = overwrite
        self._reason = {"event_reason": event_reason} if event_reason else {}
        self._dry_run = dry_run
        self._only_existing = only_existing
        self._listings: dict[str, _Listing] = {}
        self._listing_lock = anyio.Lock()
        self._locks: WeakValueDictionary[tuple[str, str], anyio.Lock] = WeakValueDictionary()

    async def find(self, project: str, label: str) -> ListedSubject | None:
        """Return the subject that the archive step would take for a label. Raises: TransientError, RefusedError."""
        return next(iter((await self._list(project, self._policy)).find(label)), None)

    async def find_alike(self, project: str, label: str, accession: str) -> tuple[str, ...]:
        """Return labels that the archive step cannot tell from this. Raises: TransientError, RefusedError."""
        found = (await self._list(project, self._policy)).find(label)
        return tuple(one.label for one in found if one.accession != accession)

    async def find_moved(self, sessions: Sequence[Session]) -> str:
        """Say which session the archive has under another subject; "" if none. Raises: TransientError, RefusedError."""

        async def problem(session: Session) -> str | None:
            labelled = (await self._archive.find_session(session)).experiments
            # It may have another label too.
            found = labelled or await self._archive.list_study(session.project, session.study_uid)
            return next(filter(None, (subject_conflict(one.subject, session) for one in found)), None)

        problems = await map_concurrently(problem, sessions, _UPDATES)
        wrong = (f"session {one.label}: {text}" for one, text in zip(sessions, problems, strict=True) if text)
        return next(wrong, "")

    async def ping(self) -> bool:
        """Whether XNAT answers at all."""
        return await self._client.ping()

    def forget(self, project: str) -> None:
        """List a project anew the next time, such as after sessions have been archived into it."""
        self._listings.pop(project, None)

    async def update(self, wanted: Demographics) -> SubjectUpdated:
        """Give a subject values, and check them; a second call sends nothing. Raises: TransientError, RefusedError."""
        lock = self._locks.setdefault((wanted.project, _key(wanted.subject)), anyio.Lock())
        async with lock:
            return await call_with_retries(partial(self._try_update, _Update(wanted)), self._policy)

    async def _try_update(self, update: _Update) -> SubjectUpdated:
        """Read, decide, send what is missing, and read again."""
        wanted, now = update.wanted, await self._read(update.wanted)
        existing = now.values if now else {}
        differing = frozenset(compute_changes(wanted.values, existing, overwrite=False).kept)
        if update.changes is None or update.is_other(now) or not differing <= update.differing:
            # The first attempt; or somebody has moved the label since, or given one of the fields a value.
            update.before, update.differing = now, differing
            update.changes = compute_changes(wanted.values, existing, overwrite=self._overwrite)
        changes = update.changes
        if now is None and wanted.values and self._only_existing:
            raise RefusedError("XNAT has no such subject")
        missing = missing_values(changes.write, existing)
        if missing and now is not None and now.project != wanted.project:
            raise RefusedError(f"the subject belongs to project {now.project}: set its demographics there")
        if missing and not self._dry_run:
            now = await self._send(update, now, {name: changes.write[name] for name in missing})
        return SubjectUpdated(
            wanted.project,
            wanted.subject,
            now.label if now else "",
            now.accession if now else "",
            created=update.is_created or (update.before is None and bool(changes.write)),
            written=changes.written,
            kept=changes.kept,
            replaced=changes.replaced,
            unchanged=changes.unchanged,
            alike=await self.find_alike(wanted.project, wanted.subject, now.accession) if now else (),
        )

    async def _send(self, update: _Update, before: SubjectItem | None, values: Values) -> SubjectItem:
        """Send values, and return the subject as XNAT has it then, with all of them."""
        wanted = update.wanted
        try:
            accession = await (self._create(wanted, values) if before is None else self._change(before, values))
        except TransientError as error:
            if not error.may_have_taken_effect:
                # Nothing was saved, and what somebody else saves meanwhile must not be overwritten.
                update.changes = None
            raise
        update.is_created = update.is_created or before is None
        if before is None and wanted.project in self._listings:
            self._listings[wanted.project].add(ListedSubject(accession, wanted.subject))
        after = await self._read_item(_path(accession))
        if after is None:
            raise TransientError("XNAT does not show the subject", is_file_verdict=True)
        if after.accession != accession or (before is None and not _matches(wanted, after)):
            raise RefusedError(_WRONG_SUBJECT)
        if before is not None and (after.project, after.label) != (before.project, before.label):
            # What was sent went to whom the label meant right before.
            self.forget(wanted.project)
            raise TransientError(_RENAMED, is_file_verdict=True)
        if missing := missing_values(values, after.values):
            # XNAT answers 200 to fields that it has dropped.
            raise TransientError(f"XNAT does not show what was sent: {', '.join(missing)}", is_file_verdict=True)
        return after

    async def _read(self, wanted: Demographics) -> SubjectItem | None:
        """Return the subject as XNAT has it now, by the ID in its project's listing; None if there is none."""
        # XNAT takes a name for a label or an ID, in an order that differs between its calls, so only the ID is safe.
        listing = await self._list(wanted.project, _ONCE)
        found = listing.find_one(wanted.subject)
        if found is None:
            # It may have been created since, or the label may be the ID of another (SubjectResource.represent).
            item = await self._read_item(_path(wanted.subject, wanted.project))
            if item is None:
                return None
            if not _matches(wanted, item):
                raise RefusedError("the label is the accession ID of another subject")
            listing.add(ListedSubject(item.accession, item.label))
            return item
        item = await self._read_item(_path(found.accession))
        if item is None:
            # It may be hidden for a moment only: creating a second one would be wrong.
            self.forget(wanted.project)
            raise TransientError("XNAT lists the subject, and does not show it", is_file_verdict=True)
        if item.accession != found.accession:
            raise RefusedError(_WRONG_SUBJECT)
        if item.project == wanted.project and item.label != found.label:
            self.forget(wanted.project)
            raise TransientError(_RENAMED, is_file_verdict=True)
        return item

    async def _create(self, wanted: Demographics, values: Values) -> str:
        """Create a subject with values, once, and return its accession ID. An existing one is not changed."""
        if issue := label_problem(wanted.subject):
            raise RefusedError(f"XNAT does not save such a label: {issue}")
        query = self._query({"label": wanted.subject, **values})
        path = f"/data/projects/{quote(wanted.project, safe='')}/subjects?{query}"
        parse = partial(parse_saved_subject, sent=tuple(values), is_new=True)
        return await self._client.request("POST", path, parse, _ONCE)

    async def _change(self, before: SubjectItem, values: Values) -> str:
        """Give a subject values, once, and return its accession ID."""
        path = f"{_path(before.accession)}?{self._query(values)}"
        accession = await self._client.request("PUT", path, partial(parse_saved_subject, sent=tuple(values)), _ONCE)
        if accession != before.accession:
            raise RefusedError(_WRONG_SUBJECT)
        return accession

    def _query(self, values: Values) -> str:
        fields = {**values, **self._reason}
        return "&".join(f"{quote(name, safe='')}={quote(value, safe='')}" for name, value in fields.items())

    async def _read_item(self, path: str) -> SubjectItem | None:
        return await self._client.request("GET", f"{path}?format=json", parse_subject, _ONCE)

    async def _list(self, project: str, policy: RetryPolicy) -> _Listing:
        if project in self._listings:
            # Without the lock, which costs a turn of the loop: a subject is looked up several times.
            return self._listings[project]
        async with self._listing_lock:
            if project not in self._listings:
                path = f"/data/projects/{quote(project, safe='')}/subjects?columns=ID,label&format=json"
                self._listings[project] = _Listing(await self._client.request("GET", path, parse_subjects, policy))
            return self._listings[project]


def _path(name: str, project: str = "") -> str:
    """Return the path of a subject: by its accession ID, or in a project by label or ID, as XNAT takes the name."""
    place = f"projects/{quote(project, safe='')}/" if project else ""
    return f"/data/{place}subjects/{quote(name, safe='')}"


def _matches(wanted: Demographics, item: SubjectItem) -> bool:
    return (item.project, item.label) == (wanted.project, wanted.subject)


async def update_all(
    subjects: Subjects, wanted: Iterable[Demographics], report: Callable[[SubjectResult], None] = lambda _: None
) -> list[SubjectResult]:
    """Update subjects, several at once, and return the result of each, in their order.

    `report` gets each at once. One that fails stops no other. Raises: UnavailableError; the reported ones are done.
    """

    async def update(one: Demographics) -> SubjectResult:
        result = await _update(subjects, one)
        report(result)
        return result

    results = await map_concurrently(update, wanted, _UPDATES)
    # Somebody else may have created subjects of the same labels at the same time.
    created = [
        (place, one)
        for place, one in enumerate(results)
        if isinstance(one, SubjectUpdated) and one.created and one.label
    ]
    for project in {one.project for _, one in created}:
        subjects.forget(project)
    try:
        for place, one in created:
            results[place] = replace(one, alike=await subjects.find_alike(one.project, one.subject, one.accession))
    except (RefusedError, TransientError) as error:
        raise _away(error) from error
    return results


async def _update(subjects: Subjects, wanted: Demographics) -> SubjectResult:
    try:
        return await subjects.update(wanted)
    except RefusedError as error:
        return SubjectError(wanted.project, wanted.subject, str(error), refused=True, no_right=error.whole_session)
    except TransientError as error:
        if error.unreachable or error.overload or error.may_have_taken_effect:
            raise _away(error) from error
        return SubjectError(wanted.project, wanted.subject, str(error), refused=False)


def _away(error: Exception) -> UnavailableError:
    return UnavailableError(str(error), hint="run the command again when the server is back")
