"""`{StudyIndex}`: the number of a study among those of its subject. A number never changes, and is never reused."""

from collections.abc import Callable, Iterable, Mapping, Sequence
from functools import partial
from itertools import accumulate

from asyncimport.model.record import record
from asyncimport.routing.existing_sessions import ExistingSession, ExistingSessions
from asyncimport.routing.labels import UnroutableError

# Studies of a subject whose labels are tried to find the number in an existing label.
_MOST_TRIED = 8
_UNKNOWN_STUDY = "its subject has sessions of unknown studies, because a script gives them new UIDs"


@record
class NumberedStudy:
    """A study of a subject: its date, time and UID, by which studies are sorted, and its fields."""

    order: tuple[str, str, str]
    fields: Mapping[str, str]

    @property
    def study_uid(self) -> str:
        """Return its StudyInstanceUID."""
        return self.order[2]


@record
class _Numbered:
    """The number of a session, and the date of its study, or ""."""

    date: str
    number: int
    label: str


@record
class Numbering:
    """Numbers the studies of one project.

    `label` makes a label of fields and a number, or raises UnroutableError; `number_in` finds the number in a label.
    `report_late` gets the StudyInstanceUID of a study that comes late, and a text.
    """

    project: str
    sessions: ExistingSessions
    label: Callable[[Mapping[str, str], int], str]
    number_in: Callable[[str], int | None]
    report_late: Callable[[str, str], None]

    def labels(
        self, new: Sequence[NumberedStudy], known: Sequence[NumberedStudy], siblings: Sequence[ExistingSession]
    ) -> Mapping[str, str | UnroutableError]:
        """Return the labels of the new studies of a subject by UID, in the order of their dates.

        `siblings` are the sessions of the subject, `known` the studies of this run that have one. A study gets the
        lowest free number above those of all earlier studies. A session without a date counts as earlier. A study that
        is earlier than a session with a lower number is reported as late.
        """
        try:
            taken = sorted(self._taken([*known, *new], known, siblings), key=lambda one: one.date)
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
            # New studies come in the order of their dates, so the last number is the highest.
            number = max(highest[before], last) + 1
            try:
                number, made = self._next(member, number, used, labels)
                decided[member.study_uid] = made
                labels.add(made.lower())
                if before < len(taken) and (later := lowest_after[before]).number < number:
                    text = f"it is earlier than session {later.label}, which keeps its label: it gets {made}"
                    self.report_late(member.study_uid, text)
            except UnroutableError as error:
                decided[member.study_uid] = error
            used.add(number)
            last = number
        return decided

    def _next(self, member: NumberedStudy, number: int, used: set[int], labels: set[str]) -> tuple[int, str]:
        """Return the first free number from `number` on, with its label. Raises: UnroutableError."""
        last = None
        while True:
            while number in used:
                number += 1
            made = self.label(member.fields, number)
            is_free = made.lower() not in labels and self.sessions.is_free(self.project, made, member.study_uid)
            # A label without the number never changes.
            if is_free or made == last:
                return number, made
            number, last = number + 1, made

    def _taken(
        self, members: Sequence[NumberedStudy], known: Sequence[NumberedStudy], siblings: Sequence[ExistingSession]
    ) -> Iterable[_Numbered]:
        """Yield the numbers of sessions, found by the labels of the subject's studies, or by the form of the label.

        Raises: UnroutableError when a number may belong to a study of this run, but its study is unknown.
        """
        if not siblings:
            return
        dates = {member.study_uid: member.order[0] for member in known}
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
                raise UnroutableError(_UNKNOWN_STUDY)
            yield _Numbered(dates.get(one.session.study_uid, one.date), found, label)
