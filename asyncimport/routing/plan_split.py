"""A plan in parts of about equal size, for several machines. Pure."""

from collections.abc import Iterable

from asyncimport.errors import UsageError
from asyncimport.routing.plan_file import PlanRow

_MOST_SUBJECTS = 10


def split(rows: Iterable[PlanRow], n: int) -> list[list[PlanRow]]:
    """Return `n` plans of about equal size, each in the order of the rows; with too few subjects, some are empty.

    The sessions of a subject stay together, because XNAT's archive step locks subjects, whose case it ignores. The
    subjects of a patient stay together too, so that each part can compare its patients. Skipped rows have no weight.
    """
    if n < 1:
        raise UsageError(f"a plan cannot be split into {n} parts", hint="give 1 or more")
    weights: dict[tuple[str, str], tuple[int, int]] = {}
    rows = list(rows)
    group_of = _groups(rows)
    for row in rows:
        group = group_of[_subject(row)]
        size, count = weights.get(group, (0, 0))
        weights[group] = (size, count) if row.skip else (size + (row.bytes or 0), count + 1)
    # The largest first, each to the smallest part. Numbers of sessions decide between equal sizes.
    loads = [(0, 0)] * n
    part_of: dict[tuple[str, str], int] = {}
    for subject, (size, count) in sorted(weights.items(), key=lambda item: (-item[1][0], -item[1][1], item[0])):
        part = loads.index(min(loads))
        part_of[subject] = part
        loads[part] = loads[part][0] + size, loads[part][1] + count
    parts: list[list[PlanRow]] = [[] for _ in range(n)]
    for row in rows:
        parts[part_of[group_of[_subject(row)]]].append(row)
    return parts


def _subject(row: PlanRow) -> tuple[str, str]:
    return row.project_id, row.subject_label.lower()


def _groups(rows: Iterable[PlanRow]) -> dict[tuple[str, str], tuple[str, str]]:
    """Return for each subject the first, by label, of those that share patients with it."""
    patients: dict[tuple[str, str], set[tuple[str, str]]] = {}
    above: dict[tuple[str, str], tuple[str, str]] = {}
    for row in rows:
        above[_subject(row)] = _subject(row)
        if row.patient_id and not row.skip:
            patients.setdefault((row.project_id, row.patient_id), set()).add(_subject(row))

    def top(subject: tuple[str, str]) -> tuple[str, str]:
        while above[subject] != subject:
            above[subject] = subject = above[above[subject]]
        return subject

    for subjects in patients.values():
        # A PatientID of more subjects does not identify a patient.
        if len(subjects) <= _MOST_SUBJECTS:
            first, *others = sorted(map(top, subjects))
            above.update(dict.fromkeys(others, first))
    return {subject: top(subject) for subject in above}
