"""Subjects of the archive: found as the archive step finds them, described, and looked at again.

The call is the one that works before a session is archived and after it: a PUT on the subject, by its accession ID,
with the fields in its query, without a body and without `label`, at which XNAT stops to read
(SubjectResource.handlePut).
One that is not there is made by a POST on the list, which changes none that is (ProjectSubjectList.handlePost).
"""

from collections.abc import Callable, Iterable
from dataclasses import dataclass, replace
from functools import partial
from urllib.parse import quote
from weakref import WeakValueDictionary

import anyio

from asyncimport.demographics import Changes, Demographics, Difference, Values, compute_changes, missing_values
from asyncimport.errors import RefusedError, TransientError, UnavailableError, primary_error
from asyncimport.model.csv_table import label_problem
from asyncimport.pacing.retry import RetryPolicy, call_with_retries
from asyncimport.xnat.client import Client
from asyncimport.xnat.replies.subjects import (
    ListedSubject,
    SubjectItem,
    parse_saved_subject,
    parse_subject,
    parse_subjects,
)

# Each is three small requests; XNAT saves subjects one after the other anyway.
_AT_A_TIME = 8
_ONCE = RetryPolicy(attempts=1)
_ANOTHER = "XNAT answered for another subject"
# What the archive step makes underscores of in a label (OmUtils.cleanValue).
_CLEANED = str.maketrans(dict.fromkeys("`~@#$%^&*()+=[]{}|\\/?:;',.<> ", "_"))


@dataclass(frozen=True, slots=True)
class SubjectUpdated:
    """What became of a subject, or in a dry run what would: fields by XNAT's names, and never a value in its repr.

    `subject` is the label as it was given, `label` as XNAT has it. `written` fields were sent and have arrived, `kept`
    ones have another value in XNAT, `replaced` ones had; `unchanged` ones are there already. `alike` are labels of
    other subjects that XNAT's archive step cannot tell from this one, as it ignores letter case.
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
        """Whether XNAT had all that was given before anything was sent."""
        return not self.written and not self.kept

    @property
    def state(self) -> str:
        """One word for it."""
        return "created" if self.created else "updated" if self.written else "unchanged"


@dataclass(frozen=True, slots=True)
class SubjectError:
    """A subject that XNAT refused, or that failed; `no_right` holds for all of its project. `reason` tells no value."""

    project: str
    subject: str
    reason: str
    refused: bool
    no_right: bool = False

    @property
    def state(self) -> str:
        """One word for it."""
        return "refused" if self.refused else "failed"


Outcome = SubjectUpdated | SubjectError


class _Listing:
    """The subjects of a project, by label as the archive step looks for them (retrieveMatchingSubject)."""

    def __init__(self, listed: Iterable[ListedSubject]) -> None:
        self._alike: dict[str, list[ListedSubject]] = {}
        for one in listed:
            self.add(one)

    def add(self, one: ListedSubject) -> None:
        self._alike.setdefault(one.label.casefold(), []).append(one)

    def find(self, label: str) -> list[ListedSubject]:
        """Return the subjects that a label may mean: the same label first, then others but for letter case.

        Else those of the label that the archive step makes of it.
        """
        return sorted(self._alike.get(_key(label), ()), key=lambda one: one.label != label)

    def only(self, label: str) -> ListedSubject | None:
        """Return the one subject that a label means, if there is any. Raises: RefusedError where it means several."""
        found = self.find(label)
        same = [one for one in found if one.label == label] or found
        if len(same) > 1:
            labels = ", ".join(sorted(f"{one.label} is {one.accession}" for one in same))
            raise RefusedError(f"XNAT has several subjects of this label but for letter case ({labels})")
        return same[0] if same else None


def _key(label: str) -> str:
    return label.translate(_CLEANED).casefold()


@dataclass(slots=True)
class _Setting:
    """A subject on its way: what was there when it was decided what to send, and whether it was made since."""

    wish: Demographics
    made: bool = False
    before: SubjectItem | None = None
    decision: Changes | None = None
    differing: frozenset[Difference] = frozenset()

    def is_another(self, now: SubjectItem | None) -> bool:
        """Whether the label means another subject than it did, or none any more; what was not there may be ours."""
        return self.before is not None and (now is None or now.accession != self.before.accession)


class Subjects:
    """Describes subjects, one at a call, any number at a time; the same one never twice at once.

    `overwrite` replaces values that XNAT has. `event_reason` is what sites with an audit trail ask for. A `dry_run`
    compares and sends nothing. With `only_existing` a subject that is not there is refused, else it is made.
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
        self._overwrite = overwrite
        self._event_reason = event_reason
        self._dry_run = dry_run
        self._only_existing = only_existing
        self._listings: dict[str, _Listing] = {}
        self._listing = anyio.Lock()
        self._turns: WeakValueDictionary[tuple[str, str], anyio.Lock] = WeakValueDictionary()

    async def find(self, project: str, label: str) -> ListedSubject | None:
        """Return the subject that the archive step would take a label for; a project is listed once.

        Raises: TransientError, RefusedError.
        """
        return next(iter((await self._listed(project, self._policy)).find(label)), None)

    async def alike(self, project: str, label: str, accession: str) -> tuple[str, ...]:
        """Return the labels of others that the archive step cannot tell from a subject; a project is listed once.

        Raises: TransientError, RefusedError.
        """
        found = (await self._listed(project, self._policy)).find(label)
        return tuple(one.label for one in found if one.accession != accession)

    async def ping(self) -> bool:
        """Tell whether XNAT answers at all."""
        return await self._client.ping()

    def forget(self, project: str) -> None:
        """List a project anew at the next question, such as when sessions have been archived into it."""
        self._listings.pop(project, None)

    async def set(self, wish: Demographics) -> SubjectUpdated:
        """Bring a subject to the given values, and see that they have arrived. Again, it sends nothing.

        Raises: TransientError when it failed to the last attempt, RefusedError, UnavailableError.
        """
        turn = self._turns.setdefault((wish.project, _key(wish.subject)), anyio.Lock())
        async with turn:
            return await call_with_retries(partial(self._step, _Setting(wish)), self._policy)

    async def _step(self, setting: _Setting) -> SubjectUpdated:
        """Look, decide, send what is lacking, and look again."""
        wish, now = setting.wish, await self._look(setting.wish)
        existing = now.values if now else {}
        differing = frozenset(compute_changes(wish.values, existing, overwrite=False).kept)
        if setting.decision is None or setting.is_another(now) or not differing <= setting.differing:
            # This is the first look; or somebody has moved the label since, or given one of the fields a value.
            setting.before, setting.differing = now, differing
            setting.decision = compute_changes(wish.values, existing, overwrite=self._overwrite)
        decision = setting.decision
        if now is None and wish.values and self._only_existing:
            raise RefusedError("XNAT has no such subject")
        missing = missing_values(decision.write, existing)
        if missing and now is not None and now.project != wish.project:
            raise RefusedError(f"the subject belongs to project {now.project}, where its demographics are set")
        if missing and not self._dry_run:
            now = await self._send(setting, now, {name: decision.write[name] for name in missing})
        alike = await self.alike(wish.project, wish.subject, now.accession) if now else ()
        return SubjectUpdated(
            wish.project,
            wish.subject,
            now.label if now else "",
            now.accession if now else "",
            created=setting.made or (setting.before is None and bool(decision.write)),
            written=decision.written,
            kept=decision.kept,
            replaced=decision.replaced,
            unchanged=decision.unchanged,
            alike=alike,
        )

    async def _send(self, setting: _Setting, before: SubjectItem | None, values: Values) -> SubjectItem:
        """Send values, and return the subject as XNAT has it then, with all of them."""
        wish = setting.wish
        try:
            accession = await (self._make(wish, values) if before is None else self._change(before, values))
        except TransientError as error:
            if not error.may_have_taken_effect:
                # Nothing was saved, and whoever has saved in between is not to be overwritten.
                setting.decision = None
            raise
        setting.made = setting.made or before is None
        if before is None and wish.project in self._listings:
            self._listings[wish.project].add(ListedSubject(accession, wish.subject))
        after = await self._item(_path(accession))
        if after is None:
            raise TransientError("XNAT does not show the subject", is_file_verdict=True)
        if after.accession != accession or (before is None and not _is_of(wish, after)):
            raise RefusedError(_ANOTHER)
        if missing := missing_values(values, after.values):
            # XNAT answers 200 to fields that it has dropped on the way.
            raise TransientError(f"XNAT does not show what was sent: {', '.join(missing)}", is_file_verdict=True)
        return after

    async def _look(self, wish: Demographics) -> SubjectItem | None:
        """Return the subject as XNAT has it now, by the ID that its project lists it under; None when it has none.

        XNAT takes a name for a label or for an accession ID, in an order that differs between its calls, so none but
        the ID alone is safe to be called by. Raises: TransientError where the listing is out of date, RefusedError.
        """
        listing = await self._listed(wish.project, _ONCE)
        found = listing.only(wish.subject)
        if found is None:
            # Made since, it may be; or the label is somebody's accession ID (SubjectResource.represent).
            item = await self._item(_path(wish.subject, wish.project))
            if item is None:
                return None
            if not _is_of(wish, item):
                raise RefusedError("the label is the accession ID of another subject")
            listing.add(ListedSubject(item.accession, item.label))
            return item
        item = await self._item(_path(found.accession))
        if item is None:
            # A second one beside it would be made of what is only out of sight for a moment.
            self.forget(wish.project)
            raise TransientError("XNAT lists the subject, and does not show it", is_file_verdict=True)
        if item.accession != found.accession:
            raise RefusedError(_ANOTHER)
        if item.project == wish.project and item.label != found.label:
            self.forget(wish.project)
            raise TransientError("the subject has another label by now", is_file_verdict=True)
        return item

    async def _make(self, wish: Demographics, values: Values) -> str:
        """Make a subject with values, once, and return its accession ID. What is there already is left as it is."""
        if issue := label_problem(wish.subject):
            raise RefusedError(f"XNAT does not save such a label: {issue}")
        path = (
            f"/data/projects/{quote(wish.project, safe='')}/subjects?{self._query({'label': wish.subject, **values})}"
        )
        read = partial(parse_saved_subject, sent=tuple(values), is_new=True)
        return await self._client.request("POST", path, read, _ONCE)

    async def _change(self, before: SubjectItem, values: Values) -> str:
        """Give a subject values, once, and return its accession ID."""
        path = f"{_path(before.accession)}?{self._query(values)}"
        accession = await self._client.request("PUT", path, partial(parse_saved_subject, sent=tuple(values)), _ONCE)
        if accession != before.accession:
            raise RefusedError(_ANOTHER)
        return accession

    def _query(self, values: Values) -> str:
        fields = {**values, **({"event_reason": self._event_reason} if self._event_reason else {})}
        return "&".join(f"{quote(name, safe='')}={quote(value, safe='')}" for name, value in fields.items())

    async def _item(self, path: str) -> SubjectItem | None:
        return await self._client.request("GET", f"{path}?format=json", parse_subject, _ONCE)

    async def _listed(self, project: str, policy: RetryPolicy) -> _Listing:
        if project in self._listings:
            # Without the lock, which costs a turn of the loop: a subject is looked up several times.
            return self._listings[project]
        async with self._listing:
            if project not in self._listings:
                path = f"/data/projects/{quote(project, safe='')}/subjects?columns=ID,label&format=json"
                self._listings[project] = _Listing(await self._client.request("GET", path, parse_subjects, policy))
            return self._listings[project]


def _path(name: str, project: str = "") -> str:
    """Return the address of a subject: by its accession ID, or in a project by whatever XNAT takes the name for."""
    place = f"projects/{quote(project, safe='')}/" if project else ""
    return f"/data/{place}subjects/{quote(name, safe='')}"


def _is_of(wish: Demographics, item: SubjectItem) -> bool:
    return (item.project, item.label) == (wish.project, wish.subject)


async def describe(
    client: Client,
    wanted: Iterable[Demographics],
    policy: RetryPolicy,
    *,
    overwrite: bool = False,
    event_reason: str = "",
    dry_run: bool = False,
    only_existing: bool = False,
    report: Callable[[Outcome], None] = lambda _: None,
) -> list[Outcome]:
    """Describe subjects, several at a time, and return what became of each, in their order.

    `report` is told at once. One that is refused or fails keeps no other back.
    Raises: UnavailableError when the server goes away meanwhile: what was reported has been done.
    """
    subjects = Subjects(
        client,
        policy,
        overwrite=overwrite,
        event_reason=event_reason,
        dry_run=dry_run,
        only_existing=only_existing,
    )
    outcomes: dict[int, Outcome] = {}
    waiting = iter(enumerate(wanted))

    async def work() -> None:
        for place, wish in waiting:
            outcomes[place] = await _outcome(subjects, wish)
            report(outcomes[place])

    try:
        async with anyio.create_task_group() as tasks:
            for _ in range(_AT_A_TIME):
                tasks.start_soon(work)
    except BaseExceptionGroup as errors:
        raise primary_error(errors) from None
    await _look_for_twins(subjects, outcomes)
    return [outcomes[place] for place in sorted(outcomes)]


async def _look_for_twins(subjects: Subjects, outcomes: dict[int, Outcome]) -> None:
    """Tell of subjects that were made whether somebody else has made another of their label at the same time."""
    made = {
        place: one for place, one in outcomes.items() if isinstance(one, SubjectUpdated) and one.created and one.label
    }
    for project in {one.project for one in made.values()}:
        subjects.forget(project)
    try:
        for place, one in made.items():
            outcomes[place] = replace(one, alike=await subjects.alike(one.project, one.subject, one.accession))
    except (RefusedError, TransientError) as error:
        raise UnavailableError(str(error), hint="run the command again when the server is back") from error


async def _outcome(subjects: Subjects, wish: Demographics) -> Outcome:
    try:
        return await subjects.set(wish)
    except RefusedError as error:
        return SubjectError(wish.project, wish.subject, str(error), refused=True, no_right=error.whole_session)
    except TransientError as error:
        if error.unreachable or error.overload or error.may_have_taken_effect:
            raise UnavailableError(str(error), hint="run the command again when the server is back") from error
        return SubjectError(wish.project, wish.subject, str(error), refused=False)
