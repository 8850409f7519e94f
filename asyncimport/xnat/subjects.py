"""Subjects of the archive: found as the archive step finds them, described, and looked at again.

The call is the one that works before a session is archived and after it: a PUT on the subject with the fields in its
query, without a body and without `label`, at which XNAT stops to read (SubjectResource.handlePut).
"""

from collections.abc import Callable, Iterable
from dataclasses import dataclass
from functools import partial
from urllib.parse import quote
from weakref import WeakValueDictionary

import anyio

from asyncimport import replies
from asyncimport.demographics import Decision, Demographics, Difference, Values, decide, lacking
from asyncimport.errors import RefusedError, TransientError, UnavailableError, worst
from asyncimport.replies import ListedSubject, SubjectItem
from asyncimport.retry import RetryPolicy, retrying
from asyncimport.tables import label_flaw
from asyncimport.xnat.client import Client

__all__ = ["Described", "NotDescribed", "Outcome", "Subjects", "describe"]

# Each is three small requests; XNAT saves subjects one after the other anyway.
_AT_A_TIME = 8
_ONCE = RetryPolicy(attempts=1)
# What the archive step makes underscores of in a label (OmUtils.cleanValue).
_CLEANED = str.maketrans(dict.fromkeys("`~@#$%^&*()+=[]{}|\\/?:;',.<> ", "_"))


@dataclass(frozen=True, slots=True)
class Described:
    """What became of a subject, or in a dry run what would: fields by XNAT's names, and never a value in its repr.

    `subject` is the label as it was given, `label` as XNAT has it. `written` fields were sent and have arrived, `kept`
    ones have another value in XNAT, `replaced` ones had; `unchanged` ones are there already.
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

    @property
    def agrees(self) -> bool:
        """Whether XNAT had all that was given before anything was sent."""
        return not self.written and not self.kept

    @property
    def state(self) -> str:
        """One word for it."""
        return "created" if self.created else "updated" if self.written else "unchanged"


@dataclass(frozen=True, slots=True)
class NotDescribed:
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


Outcome = Described | NotDescribed


class _Listing:
    """The subjects of a project, by label as the archive step looks for them (retrieveMatchingSubject)."""

    def __init__(self, listed: Iterable[ListedSubject]) -> None:
        self._labels: dict[str, ListedSubject] = {}
        self._folded: dict[str, ListedSubject] = {}
        for one in listed:
            self.add(one)

    def add(self, one: ListedSubject) -> None:
        self._labels[one.label] = one
        self._folded.setdefault(one.label.casefold(), one)

    def remove(self, one: ListedSubject) -> None:
        for known in (self._labels, self._folded):
            for label in [label for label, found in known.items() if found is one]:
                del known[label]

    def find(self, label: str) -> ListedSubject | None:
        """Return the subject of a label: the same, else but for letter case, else as the archive step cleans it."""
        return self._labels.get(label) or self._folded.get(_key(label))


def _key(label: str) -> str:
    return label.translate(_CLEANED).casefold()


@dataclass(slots=True)
class _Setting:
    """A subject on its way: what was there at the look by which it was decided what to send."""

    wish: Demographics
    before: SubjectItem | None = None
    decision: Decision | None = None


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
        return (await self._listed(project, self._policy)).find(label)

    async def is_there(self) -> bool:
        """Tell whether XNAT answers at all."""
        return await self._client.is_there()

    def forget(self, project: str) -> None:
        """List a project anew at the next question, such as when sessions have been archived into it."""
        self._listings.pop(project, None)

    async def set(self, wish: Demographics) -> Described:
        """Bring a subject to the given values, and see that they have arrived. Again, it sends nothing.

        Raises: TransientError when it failed to the last attempt, RefusedError, UnavailableError.
        """
        turn = self._turns.setdefault((wish.project, _key(wish.subject)), anyio.Lock())
        async with turn:
            return await retrying(partial(self._step, _Setting(wish)), self._policy)

    async def _step(self, setting: _Setting) -> Described:
        """Look, decide, send what is lacking, and look again."""
        wish, now = setting.wish, await self._look(setting.wish)
        if setting.decision is None:
            setting.before = now
            setting.decision = decide(wish.values, now.values if now else {}, overwrite=self._overwrite)
        decision = setting.decision
        if now is None and wish.values and self._only_existing:
            raise RefusedError("XNAT has no such subject")
        if not self._dry_run and (missing := lacking(decision.write, now.values if now else {})):
            now = await self._send(setting, now, {name: decision.write[name] for name in missing})
        return Described(
            wish.project,
            wish.subject,
            now.label if now else "",
            now.accession if now else "",
            created=setting.before is None and bool(decision.write),
            written=decision.written,
            kept=decision.kept,
            replaced=decision.replaced,
            unchanged=decision.unchanged,
        )

    async def _send(self, setting: _Setting, before: SubjectItem | None, values: Values) -> SubjectItem:
        """Send values, and return the subject as XNAT has it then, with all of them."""
        wish = setting.wish
        try:
            accession = await self._put(wish, before, values)
        except TransientError as error:
            if not error.cut:
                # Nothing was saved, and whoever has saved in between is not to be overwritten.
                setting.decision = None
            raise
        after = await self._item(wish.project, accession)
        if after is None:
            raise TransientError("XNAT does not show the subject", judges_file=True)
        if before is None and wish.project in self._listings:
            self._listings[wish.project].add(ListedSubject(after.accession, after.label))
        if missing := lacking(values, after.values):
            # XNAT answers 200 to fields that it has dropped on the way.
            raise TransientError(f"XNAT does not show what was sent: {', '.join(missing)}", judges_file=True)
        return after

    async def _look(self, wish: Demographics) -> SubjectItem | None:
        """Return the subject as XNAT has it now; None when it has none."""
        listing = await self._listed(wish.project, _ONCE)
        found = listing.find(wish.subject)
        item = await self._item(wish.project, found.accession if found else wish.subject)
        if item is None:
            if found is not None:
                listing.remove(found)
            return None
        if found is None:
            if item.label != wish.subject:
                # XNAT looks for accession IDs first, and in all projects (SubjectResource.represent).
                raise RefusedError("the label is the accession ID of another subject")
            listing.add(ListedSubject(item.accession, item.label))
        return item

    async def _put(self, wish: Demographics, before: SubjectItem | None, values: Values) -> str:
        """Send values once, and return the accession ID of the subject."""
        if before is None and (flaw := label_flaw(wish.subject)):
            raise RefusedError(f"XNAT does not save such a label: {flaw}")
        fields = {**values, **({"event_reason": self._event_reason} if self._event_reason else {})}
        query = "&".join(f"{quote(name, safe='')}={quote(value, safe='')}" for name, value in fields.items())
        path = f"{_path(wish.project, before.accession if before else wish.subject)}?{query}"
        accession = await self._client.ask("PUT", path, partial(replies.described, sent=tuple(values)), _ONCE)
        if before is not None and accession != before.accession:
            raise RefusedError("XNAT answered for another subject")
        return accession

    async def _item(self, project: str, name: str) -> SubjectItem | None:
        return await self._client.ask("GET", f"{_path(project, name)}?format=json", replies.subject, _ONCE)

    async def _listed(self, project: str, policy: RetryPolicy) -> _Listing:
        async with self._listing:
            if project not in self._listings:
                path = f"/data/projects/{quote(project, safe='')}/subjects?columns=ID,label&format=json"
                self._listings[project] = _Listing(await self._client.ask("GET", path, replies.subjects, policy))
            return self._listings[project]


def _path(project: str, name: str) -> str:
    return f"/data/projects/{quote(project, safe='')}/subjects/{quote(name, safe='')}"


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
        raise worst(errors) from None
    return [outcomes[place] for place in sorted(outcomes)]


async def _outcome(subjects: Subjects, wish: Demographics) -> Outcome:
    try:
        return await subjects.set(wish)
    except RefusedError as error:
        return NotDescribed(wish.project, wish.subject, str(error), refused=True, no_right=error.whole_session)
    except TransientError as error:
        if error.unreachable or error.overload or error.cut:
            raise UnavailableError(str(error), hint="run the command again when the server is back") from error
        return NotDescribed(wish.project, wish.subject, str(error), refused=False)
