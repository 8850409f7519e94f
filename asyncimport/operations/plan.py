"""A plan: where each study of a source would go, and every problem, before a byte is sent.

It is made of a survey of the source and the rules of a run, and of nothing else: what the server knows is asked
elsewhere and added (`with_archive`). As a table (`manifest`) it can be edited, and is then the rules of a run itself
(`PlannedRoutes`).
"""

import hashlib
import os
from collections.abc import Callable, Collection, Iterable, Mapping, Sequence
from collections.abc import Set as AbstractSet
from dataclasses import dataclass, field, replace
from types import MappingProxyType
from typing import Protocol

import anyio
import anyio.to_thread

from asyncimport.errors import AsyncimportError
from asyncimport.journal import HeaderCache, StudySummary, SubjectPatient, Unsettled, digested
from asyncimport.model import File, FileKind, Ignored, Occupant, Patient, Session
from asyncimport.model.events import Event, Scanned
from asyncimport.routing import (
    NOTHING_GIVEN,
    Choice,
    DisputedError,
    Given,
    LeftOutError,
    PartlyPlannedError,
    Problem,
    ProblemCode,
    Study,
    UnplannedError,
    UnroutableError,
    agree,
    clash,
    doubts,
    joined,
    label_taken,
    name_in_resource,
    patient_of,
    placed,
    proves_another,
)
from asyncimport.routing.drop_rules import filter_drops
from asyncimport.routing.plan_binding import FoundStudy, Header, differences, nearest
from asyncimport.routing.plan_file import Key, KeyKind, PlanRow
from asyncimport.source.folder import Folder
from asyncimport.xnat.replies import Experiment, Row, SeriesFilter, other_row

__all__ = [
    "EVERYTHING",
    "Drafts",
    "Known",
    "Plan",
    "PlannedRoutes",
    "Planning",
    "draft_plan",
    "make_plan",
    "survey",
    "with_archive",
]


EVERYTHING = Choice()
_NO_NAMES: Mapping[str, str | AsyncimportError] = MappingProxyType({})

_ONE_PERSON = "look at the patients; if they are one, --allow-mixed-patients"
_OTHER_STUDY = "make the plan anew; if the study is meant all the same, correct or empty that cell of the line"
_NO_STUDY = "correct its key, take the line out or mark it skip; or check SOURCE"
_SAME_FIELDS = "choose templates of fields that are the same in all its files"

Relative = Callable[[str], str]


class Planning(Protocol):
    """Rules that decide whole studies, as `routing.Router` and `PlannedRoutes` do."""

    @property
    def needs_path(self) -> bool:
        """Whether paths decide."""
        ...

    @property
    def needs_name(self) -> bool:
        """Whether the names of files decide, and not only their directories."""
        ...

    @property
    def needs_whole_study(self) -> bool:
        """Whether labels depend on whole studies, and on what others have already."""
        ...

    def study(self, study_uid: str, fields: Mapping[str, str], path: str = "") -> Study:
        """Return what a header tells of its study. Raises: UnroutableError."""
        ...

    def resolve(
        self, studies: Iterable[Study], given: Given, tell: Callable[[str, str], None]
    ) -> Mapping[str, Session | UnroutableError]:
        """Decide all studies, beside sessions that there are; `tell` of a study (UID) that turned up late."""
        ...


@dataclass(frozen=True, slots=True)
class Plan:
    """A row for each study, in the order of their dates, and all problems.

    `not_dicom` counts other files by suffix, `attachments` those of them that are to go beside the images by resource,
    `series` tells SeriesDescription and files of each series, by study, `patients` whom its headers name, `left` why
    nobody asked for it.
    """

    rows: tuple[PlanRow, ...]
    problems: tuple[Problem, ...]
    not_dicom: tuple[tuple[str, int], ...] = ()
    series: Mapping[str, Sequence[tuple[str, int]]] = field(default_factory=dict, repr=False)
    attachments: tuple[tuple[str, int], ...] = ()
    patients: Mapping[str, AbstractSet[Patient]] = field(default_factory=dict, repr=False)
    left: Mapping[str, str] = field(default_factory=dict, repr=False)

    @property
    def errors(self) -> int:
        """Return the number of problems that keep something from being sent."""
        return sum(problem.is_error for problem in self.problems)

    @property
    def waiting(self) -> Mapping[str, str]:
        """Return why each study waits that may still be being written."""
        found = [problem for problem in self.problems if problem.code is ProblemCode.BEING_WRITTEN]
        return {problem.study_uid: f"it is being written: {problem.text}" for problem in found}

    @property
    def faulty(self) -> Mapping[str, str]:
        """Return what is wrong with each study that an error keeps from being sent."""
        errors = [problem for problem in self.problems if problem.is_error and problem.study_uid]
        return {problem.study_uid: f"{problem.text}; {problem.advice}" for problem in reversed(errors)}


async def survey(source: Folder, found: HeaderCache, report: Callable[[Event], None] = lambda _: None) -> None:
    """Look at everything in a source, and write it down; files that a survey knows are not opened again."""
    async for batch in source.batches():
        files = [item for item in batch if isinstance(item, File)]
        unknown = await anyio.to_thread.run_sync(found.skip_known, files)
        looks = zip(unknown, await source.look(unknown), strict=True)
        looked = [look if isinstance(look, Ignored) else (file, look) for file, look in looks]
        await anyio.to_thread.run_sync(found.record, [*looked, *(one for one in batch if isinstance(one, Ignored))])
        report(Scanned(len(batch), sum(file.size for file in files)))


@dataclass(frozen=True, slots=True)
class Drafts:
    """The studies of a survey, each routed for itself by these rules, in the order of their dates.

    `problems` are what is wrong with them, `left` is why nobody asked for a study.
    """

    routes: Planning
    drafts: Sequence["_Draft"]
    problems: Sequence[Problem]
    left: Mapping[str, str]

    @property
    def projects(self) -> list[str]:
        """Return the projects that something would go to, by the names that the rules have for them."""
        return sorted({draft.session.project for draft in self.drafts if draft.session is not None})


def make_plan(
    found: HeaderCache,
    drafted: Drafts,
    *,
    projects: Mapping[str, str | AsyncimportError] = _NO_NAMES,
    truncated: bool = False,
    given: Given = NOTHING_GIVEN,
    residents: Iterable[SubjectPatient] = (),
    merge_patients: bool = False,
    suffix: bool = False,
    limit: int | None = None,
    looks: Unsettled | None = None,
    resource_of: Callable[[str], str | None] = lambda _: None,
    streams: bool = False,
) -> Plan:
    """Compare all studies with each other and with what is `given`, and keep the first `limit` at most by their places.

    `projects` are the IDs of projects, or why one is closed, by the names that the rules have for them, `residents` are
    who is in each subject by the journal.
    With `looks`, studies are left out that may still be being written.
    With `suffix`, studies whose label another one has already get `_2`, `_3` and so on behind it, in the order of their
    dates; else they are errors, but for the one that has it, or is the first of them by date; or that the walk meets
    first, as a run that `streams` knows no more when it begins. It blocks: call it in a worker thread.
    """
    problems: list[Problem] = [*drafted.problems]
    drafts = [_in_project(draft, projects, problems) for draft in drafted.drafts]
    if isinstance(drafted.routes, PlannedRoutes):
        drafts = list(_bound(drafts, drafted.routes, problems, given, {} if looks is None else looks.waiting))
    else:
        is_whole = suffix or drafted.routes.needs_whole_study
        drafts = [_kept(draft, given, problems, is_whole=is_whole) for draft in drafts]
    # All studies are compared before any is left for later: nothing that is wrong may hide behind a pause or a limit.
    drafts = list(_distinct(drafts, problems, given, suffix=suffix, streams=streams))
    if not merge_patients:
        drafts = list(_one_patient(drafts, problems, residents))
    if looks is not None:
        drafts = [_quiet(draft, looks, problems) for draft in drafts]
        drafts += _unfinished(found, drafts, looks, problems)
    if limit is not None:
        drafts = _first(drafts, limit)
    problems += _of_files(found, truncated=truncated)
    codes: dict[str, dict[str, None]] = {}
    for problem in problems:
        codes.setdefault(problem.study_uid, {})[problem.code] = None
    rows = tuple(_row(draft, codes.get(draft.study.study_uid, ())) for draft in drafts)
    series = found.series(truncated=truncated)
    patients = {draft.study.study_uid: draft.patients for draft in drafts}
    others = tuple(found.other_kinds(_suffix))
    attachments = _attachments(found, resource_of, problems)
    return Plan(rows, tuple(problems), others, series, attachments, patients, drafted.left)


def _attachments(
    found: HeaderCache, resource_of: Callable[[str], str | None], problems: list[Problem]
) -> tuple[tuple[str, int], ...]:
    """Count what goes beside the images, by resource; of what would have one name there, all but one are a problem."""
    alike: dict[tuple[str, str, str], list[str]] = {}

    def resource(path: str) -> str | None:
        if (label := resource_of(path)) is not None:
            directory, own = os.path.split(path)
            alike.setdefault((directory, label, name_in_resource(own)), []).append(path)
        return label

    counts = tuple(found.other_kinds(resource))
    for (_, label, name), paths in alike.items():
        if len(paths) > 1:
            text = f"{len(paths)} files beside each other would be {name} in {label}: only the first is sent"
            advice = "give the others names that differ in letters, digits, '.', '_' or '-'"
            problems.append(Problem(ProblemCode.ATTACHMENT_NAMES, text, advice, files=len(paths), example=paths[-1]))
    return counts


def _suffix(path: str) -> str:
    return os.path.splitext(path)[1].lower()  # noqa: PTH122 - the path need not be text


@dataclass(frozen=True, slots=True)
class Known:
    """What the server knows of a project: its sessions by label, and what drops files there.

    `filters` drop series by their SeriesDescription, `scripts` files for whatever reason they have. `rows` are those of
    the prearchive, by StudyInstanceUID and label; `source` and `own` (by address, with the labels that they were begun
    with) tell which of them the journal has begun, as far as uploads have: None, nobody asks. `occupants` are whom the
    sessions of each subject (in lower case) name, but for those that the journal has brought; `residents` are who is in
    a subject by the journal. `in_the_way` says of a study why it cannot go under its labels, or not as it is:
    label-is-id, study-on-server or modality-on-server, and the reason.
    """

    sessions: Mapping[str, Experiment]
    filters: Sequence[tuple[str, SeriesFilter]] = ()
    scripts: Sequence[str] = ()
    rows: Mapping[tuple[str, str], Sequence[Row]] = field(default_factory=dict)
    source: str | None = None
    own: Mapping[str, Session] = field(default_factory=dict)
    occupants: Mapping[str, Sequence[Occupant]] = field(default_factory=dict, repr=False)
    residents: Sequence[SubjectPatient] = ()
    in_the_way: Mapping[str, tuple[ProblemCode, str]] = field(default_factory=dict)


def with_archive(plan: Plan, known: Mapping[str, Known]) -> Plan:
    """Compare a plan with what the server knows, by project.

    A label of another study or subject is an error; a study that is there already is merged, and that is told.
    """
    problems = list(plan.problems)
    for project, there in known.items():
        for name in there.scripts:
            text = f"project {project}: {name} may reject files"
            problems.append(Problem(ProblemCode.MAY_BE_REJECTED, text, "what it rejects is told as refused"))
    rows = []
    for row in plan.rows:
        told = [] if row.skip or row.project_id not in known else list(_told(plan, row, known[row.project_id]))
        problems += told
        codes = dict.fromkeys(problem.code for problem in told)
        is_error = any(problem.is_error for problem in told)
        words = " ".join(filter(None, (row.problems, *codes)))
        rows.append(replace(row, skip=row.skip or is_error, problems=words))
    return replace(plan, rows=tuple(rows), problems=tuple(problems))


def _told(plan: Plan, row: PlanRow, known: Known) -> Iterable[Problem]:
    """Tell what the server has to say of a study."""

    def problem(code: ProblemCode, text: str, advice: str, files: int | None = None) -> Problem:
        count = row.files or 0 if files is None else files
        return Problem(code, text, advice, row.study_uid, count, row.source)

    there = known.sessions.get(row.session_label)
    if there is not None and there.study_uid not in {"", row.study_uid}:
        text = f"the session label {row.session_label} is that of another study in the archive"
        yield problem(ProblemCode.LABEL_ON_SERVER, text, "choose another label")
    elif there is not None and there.subject and there.subject.lower() != row.subject_label.lower():
        text = f"the session {row.session_label} belongs to another subject in the archive"
        yield problem(ProblemCode.SUBJECT_ON_SERVER, text, "use that subject, or another label")
    elif there is not None:
        text, advice = "its session is in the archive already", "only what is new of it will be merged"
        yield problem(ProblemCode.ARCHIVED_ALREADY, text, advice)
    if row.study_uid in known.in_the_way:
        code, why = known.in_the_way[row.study_uid]
        text, advice = why.partition("; ")[::2]
        yield problem(code, text, advice)
    for code, text in _of_another(plan, row, known):
        yield problem(code, text, _ONE_PERSON)
    for begun in known.rows.get((row.study_uid, row.session_label), ()):
        session = Session(row.project_id, row.subject_label, row.session_label, row.study_uid)
        session, source = known.own.get(begun.uri, session), None if begun.uri in known.own else known.source
        if reason := other_row(begun, session, source):
            advice = "archive, move or delete it in XNAT's prearchive: nothing is sent before"
            if other_row(begun, session) is None:
                advice = f"let that upload end, or {advice}; --adopt-rows fills it all the same"
            yield problem(ProblemCode.PREARCHIVE_TAKEN, reason, advice)
        else:
            text, advice = (
                "the prearchive has files of it already",
                "if some were not sent from here, it is held",
            )
            yield problem(ProblemCode.PREARCHIVE_BEGUN, text, advice)
    for name, one in known.filters:
        dropped = [
            files
            for description, files in plan.series.get(row.study_uid, ())
            if filter_drops(one.mode, one.expressions, {"SeriesDescription": description})
        ]
        if dropped:
            text = f"{len(dropped)} of its series would be dropped by {name}"
            yield problem(ProblemCode.SERIES_DROPPED, text, "they are told as refused", sum(dropped))


def _of_another(plan: Plan, row: PlanRow, known: Known) -> Iterable[tuple[ProblemCode, str]]:
    """Tell of one session of the archive that is of somebody else, or may be, though it has the subject of a study."""
    let_in = [
        one.patient
        for one in known.residents
        if one.is_let_in and (one.project, one.subject.lower()) == (row.project_id, row.subject_label.lower())
    ]
    there = [
        (one, patient)
        for one in known.occupants.get(row.subject_label.lower(), ())
        for patient in plan.patients.get(row.study_uid, ())
        # What is there of the study itself is merged with it.
        if one.session.study_uid != row.study_uid and not any(agree(who, digested(patient)) for who in let_in)
    ]
    subject = row.subject_label
    if why := next(filter(None, (proves_another(one, subject, patient) for one, patient in there)), ""):
        yield ProblemCode.SUBJECT_OF_ANOTHER, why
    elif why := next(filter(None, (doubts(one, subject, patient) for one, patient in there)), ""):
        yield ProblemCode.SUBJECT_DOUBTED, why


@dataclass(frozen=True, slots=True)
class _Draft:
    """A study, where it would go (None: nowhere), when it was, and who it is of."""

    study: StudySummary
    session: Session | None
    when: tuple[str, str]
    patients: frozenset[Patient]
    found: FoundStudy
    wanted: Session | None = None
    """Where it would go by its label alone, also where nobody asked for it."""

    def without_place(self) -> "_Draft":
        return replace(self, session=None, wanted=None)


def _quiet(draft: _Draft, looks: Unsettled, problems: list[Problem]) -> _Draft:
    """Leave a study out that is still being written, it may be; tell of files that are dated in the future."""
    study = draft.study
    if files := looks.ahead.get(study.study_uid):
        text, advice = f"{files} of its files are dated in the future", "set the clock; their times are not gone by"
        problems.append(_problem(ProblemCode.DATED_AHEAD, study, text, advice))
    if draft.session is None or study.study_uid not in looks.waiting:
        return draft
    problems.append(_being_written(study, looks))
    return draft.without_place()


def _being_written(study: StudySummary, looks: Unsettled) -> Problem:
    advice = "it is sent when its files have been quiet"
    return _problem(ProblemCode.BEING_WRITTEN, study, looks.waiting[study.study_uid], advice)


def _unfinished(
    found: HeaderCache, drafts: Sequence[_Draft], looks: Unsettled, problems: list[Problem]
) -> list[_Draft]:
    """Leave studies out of which no file is whole yet, as they are being written, it may be."""
    known = {draft.study.study_uid for draft in drafts}
    left = []
    for study in found.studies(truncated=True):
        if study.study_uid not in known and study.study_uid in looks.waiting:
            problems.append(_being_written(study, looks))
            left.append(_Draft(study, None, ("", ""), frozenset(), FoundStudy(study.study_uid, (), None)))
    return left


def _first(drafts: list[_Draft], limit: int) -> list[_Draft]:
    """Keep the studies that a walk meets first."""
    met = sorted((draft for draft in drafts if draft.session is not None), key=lambda draft: draft.study.met)
    kept = {draft.study.study_uid for draft in met[:limit]}
    return [draft for draft in drafts if draft.session is None or draft.study.study_uid in kept]


def draft_plan(
    found: HeaderCache,
    routes: Planning,
    *,
    relative: Relative = lambda path: path,
    truncated: bool = False,
    choice: Choice = EVERYTHING,
    given: Given = NOTHING_GIVEN,
    suffix: bool = False,
) -> Drafts:
    """Route every study that the choice asks for, whole, or with `parts` those of its files that it asks for.

    They are in the order of their dates. Where labels depend on other studies (also with `suffix`), those that nobody
    asks for count among these. It blocks.
    """
    problems: list[Problem] = []
    facts: dict[object, Study] = {}
    left = {} if choice.is_everything else _left_out(found, choice, relative)
    counts_left = suffix or routes.needs_whole_study
    lost: dict[str, UnroutableError] = {}
    when: dict[str, tuple[str, str]] = {}
    patients: dict[str, set[Patient]] = {}
    who: dict[str, dict[Header, None]] = {}
    by_file = routes.needs_name or (choice.is_of_parts and choice.needs_path)
    for header in found.headers(truncated=truncated, by_directory=routes.needs_path, by_file=by_file):
        fields = header.fields
        who.setdefault(header.study_uid, {})[Header.of(fields)] = None
        if (header.study_uid in left and not counts_left) or (
            choice.is_of_parts and choice.against(fields, relative(header.path))
        ):
            continue
        when.setdefault(header.study_uid, (fields.get("StudyDate", ""), fields.get("StudyTime", "")))
        patients.setdefault(header.study_uid, set()).add(patient_of(fields))
        try:
            fact = routes.study(header.study_uid, fields, relative(header.path))
        except UnroutableError as error:
            lost[header.study_uid] = error
        else:
            facts.setdefault((fact.uid, *sorted(fact.fields.items()), *fact.modalities), fact)
    late: dict[str, str] = {}
    routed = routes.resolve(facts.values(), given, late.__setitem__)
    decided = {**routed, **lost, **{uid: LeftOutError(reason) for uid, reason in left.items()}}
    drafts = []
    asked = _of_parts(found, choice, relative, truncated=truncated) if choice.is_of_parts else {}
    for whole in found.studies(truncated=truncated):
        study = asked.get(whole.study_uid, whole)
        if study.files < whole.files:
            text = f"{whole.files - study.files} files of it were not asked for"
            advice = "its session stays open for them"
            problems.append(_problem(ProblemCode.PART_OF_STUDY, study, text, advice))
        session = decided.get(study.study_uid) or UnroutableError("none of the files that are asked for is sound")
        if isinstance(session, LeftOutError):
            problems.append(_problem(ProblemCode.LEFT_OUT, study, str(session), "it was not asked for"))
            left[study.study_uid] = str(session)
        elif isinstance(session, DisputedError):
            code, advice = ProblemCode.LABELS_DIFFER, _SAME_FIELDS
            if len({patient.id for patient in patients[study.study_uid]}) > 1:
                code, advice = ProblemCode.TWO_PATIENTS, _ONE_PERSON
            problems.append(_problem(code, study, str(session), advice))
        elif isinstance(session, PartlyPlannedError):
            advice = "give the plan a row with its study_uid"
            problems.append(_problem(ProblemCode.PARTLY_PLANNED, study, str(session), advice))
        elif isinstance(session, UnroutableError):
            advice = "choose other templates, or write its labels into the plan"
            problems.append(_problem(ProblemCode.NO_LABEL, study, str(session), advice))
        elif study.study_uid in late:
            text, advice = late[study.study_uid], "nobody moves for it; see that this is meant"
            problems.append(_problem(ProblemCode.LABEL_LATE, study, text, advice))
        place = session if isinstance(session, Session) else None
        whose = frozenset(patients.get(study.study_uid, ()))
        there = FoundStudy(study.study_uid, tuple(who[study.study_uid]), study.files)
        wanted = routed.get(study.study_uid) if study.study_uid in left and suffix else place
        wanted = wanted if isinstance(wanted, Session) else None
        drafts.append(_Draft(study, place, when.get(study.study_uid, ("", "")), whose, there, wanted))
    drafts.sort(key=lambda draft: (*draft.when, draft.study.study_uid))
    return Drafts(routes, drafts, problems, left)


def _left_out(found: HeaderCache, choice: Choice, relative: Relative) -> dict[str, str]:
    """Return the studies no file of which is asked for, damaged ones included, each with why one is not."""
    left: dict[str, str] = {}
    asked: set[str] = set()
    for header in found.headers(truncated=True, by_file=choice.needs_path):
        if reason := choice.against(header.fields, relative(header.path)):
            left.setdefault(header.study_uid, reason)
        else:
            asked.add(header.study_uid)
    return {uid: reason for uid, reason in left.items() if uid not in asked}


def _of_parts(found: HeaderCache, choice: Choice, relative: Relative, *, truncated: bool) -> dict[str, StudySummary]:
    """Return how much there is of each study, counting only what is asked for."""

    def is_asked(fields: Mapping[str, str], path: str) -> bool:
        return not choice.against(fields, relative(path))

    return {study.study_uid: study for study in found.studies(truncated=truncated, is_asked=is_asked)}


def _in_project(draft: _Draft, names: Mapping[str, str | AsyncimportError], problems: list[Problem]) -> _Draft:
    """Let a study go to its project by the ID of that, or nowhere where the project is closed."""
    if draft.wanted is None:
        return draft
    name = names.get(draft.wanted.project, draft.wanted.project)
    if isinstance(name, str):
        if name == draft.wanted.project:
            return draft
        wanted = replace(draft.wanted, project=name)
        return replace(draft, wanted=wanted, session=None if draft.session is None else wanted)
    if draft.session is None:
        return replace(draft, wanted=None)
    advice = name.hint or "see who owns the project"
    problems.append(_problem(ProblemCode.PROJECT_CLOSED, draft.study, str(name), advice))
    return draft.without_place()


def _kept(draft: _Draft, given: Given, problems: list[Problem], *, is_whole: bool) -> _Draft:
    """Let a study keep the session that it has by the journal, as a run does (`Registry` there).

    Where whole studies decide (`is_whole`) it has been given the label of that already.
    """
    session, study = draft.session, draft.study
    known = None if session is None else given.kept(session.project, study.study_uid)
    if session is None or known is None:
        return draft
    has, (subject, label) = known
    place = placed(has, (subject, None if is_whole else label), session)
    if place is None:
        text = f"it goes to subject {has.subject}, session {has.label}; by its headers it would go to subject "
        text += f"{session.subject}, session {session.label}"
        problems.append(_problem(ProblemCode.LABELS_DIFFER, study, text, _SAME_FIELDS))
        return draft.without_place()
    if is_whole:
        return replace(draft, session=replace(session, subject=place.subject))
    if place != session:
        text = f"it has session {place.label} of subject {place.subject}, and not {session.label} of {session.subject}"
        problems.append(_problem(ProblemCode.SESSION_KEPT, study, text, "what is new of it goes there"))
    return replace(draft, session=place, wanted=place)


def _distinct(
    drafts: Sequence[_Draft], problems: list[Problem], given: Given, *, suffix: bool, streams: bool
) -> Iterable[_Draft]:
    """Give each label to one study. XNAT matches labels without regard to case when it archives."""
    labels = _suffixed(drafts, given) if suffix else {}
    owners = {} if suffix else _owners(sorted(drafts, key=lambda draft: draft.study.met) if streams else drafts, given)
    for draft in drafts:
        wanted = draft.session
        if wanted is None:
            yield draft
            continue
        uid = draft.study.study_uid
        label = labels.get(uid, wanted.label) if suffix else wanted.label
        owner = owners.get((wanted.project, wanted.label.lower())) if label is not None else ""
        if text := label_taken(wanted, owner):
            advice = "use a template that tells them apart, --on-collision suffix, or edit the plan"
            problems.append(_problem(ProblemCode.LABEL_TAKEN, draft.study, text, advice))
            yield draft.without_place()
            continue
        if label != wanted.label:
            text = f"the session label {wanted.label} was taken: it gets {label}"
            problems.append(_problem(ProblemCode.LABEL_SUFFIXED, draft.study, text, "see that this is meant"))
        yield replace(draft, session=replace(wanted, label=label or wanted.label))


def _owners(drafts: Iterable[_Draft], given: Given) -> Mapping[tuple[str, str], str]:
    """Return which study has each label: the one that has it already, or the first of these."""
    owners: dict[tuple[str, str], str] = {}
    for draft in drafts:
        if (session := draft.session) is not None:
            owner = given.owner_of(session.project, session.label) or draft.study.study_uid
            owners.setdefault((session.project, session.label.lower()), owner)
    return owners


def _suffixed(drafts: Iterable[_Draft], given: Given) -> Mapping[str, str | None]:
    """Return a label for each study, with a suffix where another study has it; None where nobody can tell which has.

    A study that has a session keeps the label of that. The drafts are in the order of their dates.
    """
    labels: dict[str, str | None] = {}
    last: dict[tuple[str, str], int] = {}
    taken: set[tuple[str, str]] = set()
    for draft in drafts:
        if (wanted := draft.wanted) is None:
            continue
        uid, project = draft.study.study_uid, wanted.project
        if (has := given.session_of(project, uid)) is not None:
            labels[uid] = has.label
            continue
        first = project, wanted.label.lower()
        while True:
            number = last[first] = last.get(first, 0) + 1
            label = wanted.label if number == 1 else f"{wanted.label}_{number}"
            owner = given.owner_of(project, label)
            if owner == "":
                # It may be that of any of them, so none gets another one.
                labels[uid], last[first] = None, number - 1
                break
            if owner in {None, uid} and (project, label.lower()) not in taken:
                labels[uid] = label
                taken.add((project, label.lower()))
                break
    return labels


def _one_patient(
    drafts: Iterable[_Draft], problems: list[Problem], residents: Iterable[SubjectPatient]
) -> Iterable[_Draft]:
    """Give each subject to one patient, and each PatientID to one person."""
    people = _People(residents)
    for draft in drafts:
        if draft.session is None:
            yield draft
            continue
        code, text = people.enter(draft.session, draft.patients)
        if code is None:
            yield draft
            continue
        is_error = code is not ProblemCode.TWO_SUBJECTS
        problems.append(_problem(code, draft.study, text, _ONE_PERSON if is_error else "see that this is meant"))
        yield draft.without_place() if is_error else draft


class _People:
    """Who is in which subject, by the journal and by a plan as far as it has been read."""

    def __init__(self, residents: Iterable[SubjectPatient]) -> None:
        self._subjects: dict[tuple[str, str], list[tuple[str, Patient]]] = {}
        self._ids: dict[tuple[str, str], list[tuple[str, Patient]]] = {}
        for one in residents:
            who = one.subject, one.patient
            self._subjects.setdefault((one.project, one.subject.lower()), []).append(who)
            if one.patient.id:
                self._ids.setdefault((one.project, one.patient.id), []).append(who)

    def enter(self, session: Session, patients: frozenset[Patient]) -> tuple[ProblemCode | None, str]:
        """Enter the patients of a study, or return a code and what keeps one of them out; or what is to be told.

        Nothing keeps out who is there already, as in a run (`Registry` in the journal).
        """
        here = self._subjects.setdefault((session.project, session.subject.lower()), [])
        whose = sorted(map(digested, patients), key=lambda one: (one.id, one.issuer, one.name, one.birth_date))
        strangers = [patient for patient in whose if not any(agree(one, patient) for _, one in here)]
        if strangers and len(ids := {patient.id for patient in patients}) > 1:
            return ProblemCode.TWO_PATIENTS, f"it holds files of {len(ids)} PatientIDs"
        told: tuple[ProblemCode | None, str] = None, ""
        for patient in whose:
            same_id = self._ids.setdefault((session.project, patient.id), []) if patient.id else []
            if patient in strangers and (why := clash([*here, *same_id], session.subject, patient)):
                code = ProblemCode.SUBJECT_TAKEN if why.startswith("the subject") else ProblemCode.TWO_PEOPLE
                return code, why.replace("the subject", f"the subject {session.subject}", 1)
            elsewhere = next((place for place, one in same_id if agree(one, patient)), session.subject)
            if not _enter(here, session.subject, patient) and elsewhere.lower() != session.subject.lower():
                text = f"its PatientID is under two subjects ({elsewhere}, {session.subject})"
                told = ProblemCode.TWO_SUBJECTS, text
            _enter(same_id, session.subject, patient)
        return told


def _enter(known: list[tuple[str, Patient]], subject: str, patient: Patient) -> bool:
    """Note a patient, or what more is known of one; whether that is one who was known."""
    for place, (where, one) in enumerate(known):
        if agree(one, patient):
            known[place] = where, joined(one, patient)
            return True
    known.append((subject, patient))
    return False


def _bound(
    drafts: Iterable[_Draft],
    routes: "PlannedRoutes",
    problems: list[Problem],
    given: Given,
    waiting: Mapping[str, str],
) -> Iterable[_Draft]:
    """Compare studies with what the rows of a plan were made for, and tell of rows that match none.

    What has a session already may have been cleaned away, in part or as a whole.
    """
    # Of what is being written perhaps no file is whole yet.
    matched = {Key(KeyKind.STUDY_UID, (uid,)) for uid in waiting}
    unmatched: list[FoundStudy] = []
    for draft in drafts:
        rows = routes.rows_of(draft.found)
        matched.update(row.key for row in rows)
        if not rows:
            unmatched.append(draft.found)
        if draft.session is None:
            yield draft
            continue
        session, study = draft.session, draft.study
        lines = ", ".join(str(row.line) for row in rows)
        has = given.session_of(session.project, study.study_uid)
        # Of a study with PET and MR, XNAT may have made a PET session.
        if has is not None and has.label.lower() != session.label.lower() and "petmr" not in session.label.lower():
            text = f"line {lines} of the plan: the study has session {has.label} already, and not {session.label}"
            problems.append(_problem(ProblemCode.ROW_ELSEWHERE, study, text, "write that label into the line"))
            yield draft.without_place()
            continue
        is_partial = study.study_uid in waiting or (
            has is not None and all(study.files < (row.files or 0) for row in rows)
        )
        there = replace(draft.found, files=None) if is_partial else draft.found
        told = [(row.line, text) for row in rows for text in differences(row, there)]
        if not told:
            yield draft
            continue
        text = "; ".join(f"line {line} of the plan: {text}" for line, text in told)
        problems.append(_problem(ProblemCode.ROW_DIFFERS, study, text, _OTHER_STUDY))
        yield draft.without_place()
    gone = {row.key: row for row in routes.rows if row.key not in matched and not routes.is_done(row, given)}
    is_other = len(gone) == len(routes.rows)
    for row in gone.values():
        if row.skip and not is_other:
            continue
        near = nearest(row, unmatched)
        text = f"line {row.line} of the plan: no study of the source matches it"
        advice = f"{near}: correct the line" if near else _NO_STUDY
        uid = row.study_uid
        problems.append(Problem(ProblemCode.ROW_UNMATCHED, text, advice, uid, row.files or 0, row.source))


def _of_files(found: HeaderCache, *, truncated: bool) -> list[Problem]:
    """Tell of what is no instance and yet is not nothing, and of copies."""
    problems = []
    for other in found.non_instances(truncated=truncated):
        match other.kind:
            case FileKind.UNREADABLE:
                code, advice = ProblemCode.UNREADABLE, "it is not sent; get a sound copy"
            case FileKind.CONTAINER:
                code, advice = ProblemCode.ARCHIVE_FILE, "unpack it, or --ignore-archives"
            case FileKind.LINK:
                code, advice = ProblemCode.LINK, "or leave it out with --exclude"
            case FileKind.INNER_LINK:
                code, advice = ProblemCode.INNER_LINK, "nothing is lost by that"
            case _:
                continue
        problems.append(Problem(code, other.reason, advice, files=other.files, example=other.example))
    for study in found.studies(truncated=truncated):
        alike: list[tuple[str, ...]] = []
        for paths in study.copies:
            if len({_size(path) for path in paths}) == 1:
                alike.append(paths)
                continue
            text = "files with one SOPInstanceUID and different sizes: only the first is sent"
            problems.append(_problem(ProblemCode.TWIN, study, text, "decide which is right", paths))
        if alike:
            text = f"{sum(len(paths) - 1 for paths in alike)} files are copies of others"
            advice = "each instance is sent once"
            problems.append(_problem(ProblemCode.DUPLICATE, study, text, advice, alike[0]))
    return problems


def _size(path: str) -> int:
    try:
        return os.stat(path).st_size  # noqa: PTH116 - the path need not be text
    except OSError:
        return -1


def _problem(code: ProblemCode, study: StudySummary, text: str, advice: str, paths: Sequence[str] = ()) -> Problem:
    files = len(paths) or study.files
    return Problem(code, text, advice, study.study_uid, files, paths[-1] if paths else study.example)


def _row(draft: _Draft, codes: Iterable[str]) -> PlanRow:
    study, session = draft.study, draft.session
    patient_id, issuer = draft.found.bound()
    return PlanRow(
        study.study_uid,
        session.project if session else "",
        session.subject if session else "",
        session.label if session else "",
        study_date=draft.when[0],
        modalities=" ".join(study.modalities),
        series=study.series,
        files=study.files,
        bytes=study.size,
        source=study.directory,
        problems=" ".join(codes),
        skip=session is None,
        patient_id=patient_id,
        issuer=issuer,
    )


class PlannedRoutes:
    """The rules of a run that does what a plan says, and nothing else.

    `faulty` are studies without a place, each with what is wrong with it, `left` those that nobody asked for, with why.
    Of what the rows do not know at all `otherwise` decides, where such rules were followed by a plan.
    """

    def __init__(
        self,
        rows: Iterable[PlanRow],
        *,
        project: str = "",
        faulty: Mapping[str, str] | None = None,
        left: Mapping[str, str] | None = None,
        otherwise: "PlannedRoutes | None" = None,
    ) -> None:
        self._faulty = faulty or {}
        self._left = left or {}
        self._otherwise = otherwise
        self._rows: dict[Key, PlanRow] = {}
        told = hashlib.sha256()
        for row in rows:
            self._rows[row.key] = row
            target = (row.project_id or project, row.subject_label, row.session_label, str(row.skip))
            told.update("\n".join((row.key.kind, *row.key.values, *target, "")).encode("utf-8", "surrogatepass"))
        self._project = project
        self.rules: Mapping[str, str] = {"project": project, "plan": told.hexdigest()[:16]}

    needs_path = needs_name = needs_whole_study = False
    session_depth = None

    @property
    def rows(self) -> Collection[PlanRow]:
        """Return all rows."""
        return self._rows.values()

    def is_done(self, row: PlanRow, given: Given) -> bool:
        """Whether the session that a row asks for is there already, of its study as far as the row names it."""
        project = row.project_id or self._project
        if row.study_uid:
            has = given.session_of(project, row.study_uid)
            return has is not None and has.label.lower() == row.session_label.lower()
        return bool(row.session_label) and given.owner_of(project, row.session_label) is not None

    def rows_of(self, study: FoundStudy) -> list[PlanRow]:
        """Return the rows that match any header of a study."""
        found: dict[Key, PlanRow] = {}
        for header in study.headers:
            if (row := self._match(study.study_uid, header)) is not None:
                found[row.key] = row
        return list(found.values())

    @property
    def projects(self) -> list[str]:
        """Return all projects that something goes to."""
        return sorted({row.project_id or self._project for row in self._rows.values() if not row.skip})

    def route(self, study_uid: str, fields: Mapping[str, str], path: str = "") -> Session:
        """Return the session of a study.

        Raises: LeftOutError when the plan does not have it, or says skip, UnroutableError when something is wrong with
        it.
        """
        if reason := self._faulty.get(study_uid):
            raise UnroutableError(reason)
        if reason := self._left.get(study_uid):
            raise LeftOutError(reason)
        row = self._find(study_uid, fields)
        if row is None and self._otherwise is not None:
            return self._otherwise.route(study_uid, fields, path)
        return self._session(study_uid, row)

    def _session(self, study_uid: str, row: PlanRow | None) -> Session:
        """Return what a row says of a study. Raises: LeftOutError."""
        if row is None:
            raise UnplannedError("it is not in the plan")
        if row.skip:
            raise LeftOutError("the plan says skip")
        return Session(row.project_id or self._project, row.subject_label, row.session_label, study_uid)

    def study(self, study_uid: str, fields: Mapping[str, str], _: str = "") -> Study:
        """Return what decides of a study."""
        names = ("AccessionNumber", "PatientID", "StudyDate")
        return Study(study_uid, {name: fields[name] for name in names if fields.get(name)})

    def resolve(
        self,
        studies: Iterable[Study],
        given: Given = NOTHING_GIVEN,  # noqa: ARG002 - a plan says what it says
        tell: Callable[[str, str], None] = lambda _, __: None,  # noqa: ARG002 - as above
    ) -> Mapping[str, Session | UnroutableError]:
        """Decide all studies, of which each may come in several pieces: it goes whole, or not at all."""
        pieces: dict[str, list[Study]] = {}
        for study in studies:
            pieces.setdefault(study.uid, []).append(study)
        decided: dict[str, Session | UnroutableError] = {}
        for uid, parts in pieces.items():
            try:
                decided[uid] = self._session(uid, self._row_of(parts))
            except UnroutableError as error:
                decided[uid] = error
        return decided

    def _row_of(self, parts: Sequence[Study]) -> PlanRow | None:
        """Return the row of a study. A part without the field that knows it is no other study for that.

        Raises: PartlyPlannedError when the row is that of a part of it, or parts have several.
        """
        rows = [self._find(part.uid, part.fields) for part in parts]
        found = {row.key: row for row in rows if row is not None}
        if len(found) > 1:
            raise PartlyPlannedError("the plan has several rows for parts of it")
        row = next(iter(found.values()), None)
        if row is None:
            return None
        names = _KEY_FIELDS[row.key.kind]
        if any(
            other is None and all(part.fields.get(name) for name in names)
            for other, part in zip(rows, parts, strict=True)
        ):
            raise PartlyPlannedError(f"the plan knows a part of it only: its files differ in {' and '.join(names)}")
        return row

    def _find(self, study_uid: str, fields: Mapping[str, str]) -> PlanRow | None:
        # Plans mostly know studies by their UID, and this is asked for every file.
        return self._rows.get(Key(KeyKind.STUDY_UID, (study_uid,))) or self._match(study_uid, Header.of(fields))

    def _match(self, study_uid: str, header: Header) -> PlanRow | None:
        keys = (
            Key(KeyKind.STUDY_UID, (study_uid,)),
            Key(KeyKind.ACCESSION_NUMBER, (header.accession_number,)),
            Key(KeyKind.PATIENT_ID_AND_STUDY_DATE, (header.patient_id, header.study_date)),
        )
        return next((row for key in keys if (row := self._rows.get(key)) is not None), None)


_KEY_FIELDS: Mapping[KeyKind, tuple[str, ...]] = {
    KeyKind.STUDY_UID: (),
    KeyKind.ACCESSION_NUMBER: ("AccessionNumber",),
    KeyKind.PATIENT_ID_AND_STUDY_DATE: ("PatientID", "StudyDate"),
}
