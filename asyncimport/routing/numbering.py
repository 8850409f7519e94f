"""`{StudyIndex}`: the number of a study among those of its subject. One that was given stays, and is nobody else's."""

from collections.abc import Callable, Iterable, Mapping, Sequence
from dataclasses import dataclass
from functools import partial
from itertools import accumulate

from asyncimport.routing.existing_sessions import ExistingSession, ExistingSessions
from asyncimport.routing.labels import UnroutableError

# So many studies of a subject stand for all of them where the number in a given label is looked for.
_MOST_TRIED = 8
_UNTOLD = "its subject has sessions of which nobody can tell the study, as a script gives them new UIDs"


@dataclass(frozen=True, slots=True)
class Member:
    """A study of a subject: its date, what sorts it among others of that date, its UID, and its fields."""

    order: tuple[str, str, str]
    fields: Mapping[str, str]

    @property
    def study_uid(self) -> str:
        """Its StudyInstanceUID."""
        return self.order[2]


@dataclass(frozen=True, slots=True)
class _Taken:
    """A number that a session has, and the date of its study ("": nobody knows)."""

    date: str
    number: int
    label: str


@dataclass(frozen=True, slots=True)
class Numbering:
    """How the studies of one project are numbered.

    `label` makes a label of fields and a number (UnroutableError: it cannot), `number_in` finds the number in a label,
    `given` are the sessions that there are, `tell` is told of studies that turned up late, by StudyInstanceUID.
    """

    project: str
    given: ExistingSessions
    label: Callable[[Mapping[str, str], int], str]
    number_in: Callable[[str], int | None]
    tell: Callable[[str, str], None]

    def labels(
        self, new: Sequence[Member], kept: Sequence[Member], siblings: Sequence[ExistingSession]
    ) -> Mapping[str, str | UnroutableError]:
        """Give the new studies of a subject their labels, by the order of their dates; return them by UID.

        `siblings` are the sessions that the subject has, `kept` those of their studies that are at hand. A study gets
        the least free number above those of all earlier ones; a session of no known date is taken for an earlier one.
        A study that is earlier than a session with a lower number is told.
        """
        try:
            taken = sorted(self._taken([*kept, *new], kept, siblings), key=lambda one: one.date)
        except UnroutableError as error:
            return {member.study_uid: error for member in new}
        highest = list(accumulate((one.number for one in taken), max, initial=0))
        lowest_after = [*accumulate(reversed(taken), partial(min, key=lambda one: one.number))][::-1]
        used = {one.number for one in taken}
        labels: set[str] = set()
        decided: dict[str, str | UnroutableError] = {}
        before = last = 0
        for member in sorted(new, key=lambda member: member.order):
            while before < len(taken) and taken[before].date <= member.order[0]:
                before += 1
            # Studies without a session are met in the order of their dates, so the last one is the highest.
            number = max(highest[before], last) + 1
            try:
                number, made = self._next(member, number, used, labels)
                decided[member.study_uid] = made
                labels.add(made.lower())
                if before < len(taken) and (later := lowest_after[before]).number < number:
                    text = f"it is earlier than session {later.label}, which keeps its label: it gets {made}"
                    self.tell(member.study_uid, text)
            except UnroutableError as error:
                decided[member.study_uid] = error
            used.add(number)
            last = number
        return decided

    def _next(self, member: Member, number: int, used: set[int], labels: set[str]) -> tuple[int, str]:
        """Return the first number from this one on that is free, with its label. Raises: UnroutableError."""
        last = None
        while True:
            while number in used:
                number += 1
            made = self.label(member.fields, number)
            is_free = made.lower() not in labels and self.given.is_free(self.project, made, member.study_uid)
            # Where the number does not show, another one changes nothing.
            if is_free or made == last:
                return number, made
            number, last = number + 1, made

    def _taken(
        self, members: Sequence[Member], kept: Sequence[Member], siblings: Sequence[ExistingSession]
    ) -> Iterable[_Taken]:
        """Yield the numbers that sessions have: what a study of the subject would be called by it, or looks like it.

        Raises: UnroutableError when that may be the number of a study at hand, and nobody can tell.
        """
        if not siblings:
            return
        dates = {member.study_uid: member.order[0] for member in kept}
        by_label: dict[str, int] = {}
        for member in members[:_MOST_TRIED]:
            for number in range(1, len(siblings) + len(members) + 1):
                try:
                    by_label.setdefault(self.label(member.fields, number).lower(), number)
                except UnroutableError:
                    break
        for one in siblings:
            label = one.session.label
            found = by_label.get(label.lower()) or self.number_in(label)
            if found is None:
                continue
            if not one.session.study_uid:
                raise UnroutableError(_UNTOLD)
            yield _Taken(dates.get(one.session.study_uid, one.date), found, label)
