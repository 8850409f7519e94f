"""The first step of a plan: what a scan found, decided by the rules, study by study."""

import os
from collections.abc import Callable, Iterable, Mapping, Sequence
from dataclasses import dataclass, replace
from typing import Protocol

import anyio
import anyio.to_thread

from asyncimport.journal import HeaderCache, StudySummary
from asyncimport.model import File, FileKind, Ignored, Patient, Session
from asyncimport.model.events import Event, Scanned
from asyncimport.routing import (
    EVERYTHING,
    NO_SESSIONS,
    DisputedError,
    ExistingSessions,
    LeftOutError,
    PartlyPlannedError,
    PlanProblem,
    ProblemCode,
    Study,
    StudyFilter,
    UnroutableError,
    patient_of,
)
from asyncimport.routing.plan_binding import FoundStudy, StudyHeader
from asyncimport.source.folder import FileSource

ONE_PERSON = "look at the patients; if they are one, --allow-mixed-patients"
SAME_FIELDS = "choose templates of fields that are the same in all its files"

Relative = Callable[[str], str]


class StudyRoutes(Protocol):
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
        self, studies: Iterable[Study], given: ExistingSessions, tell: Callable[[str, str], None]
    ) -> Mapping[str, Session | UnroutableError]:
        """Decide all studies, beside sessions that there are; `tell` of a study (UID) that turned up late."""
        ...


async def survey(source: FileSource, found: HeaderCache, report: Callable[[Event], None] = lambda _: None) -> None:
    """Look at everything in a source, and write it down; files that a survey knows are not opened again."""
    async for batch in source.batches():
        files = [item for item in batch if isinstance(item, File)]
        unknown = await anyio.to_thread.run_sync(found.skip_known, files)
        looks = zip(unknown, await source.identify_many(unknown), strict=True)
        looked = [look if isinstance(look, Ignored) else (file, look) for file, look in looks]
        await anyio.to_thread.run_sync(found.record, [*looked, *(one for one in batch if isinstance(one, Ignored))])
        report(Scanned(len(batch), sum(file.size for file in files)))


@dataclass(frozen=True, slots=True)
class PlanDraft:
    """The studies of a survey, each routed for itself by these rules, in the order of their dates.

    `problems` are what is wrong with them, `left` is why nobody asked for a study.
    """

    routes: StudyRoutes
    drafts: Sequence["StudyDraft"]
    problems: Sequence[PlanProblem]
    left: Mapping[str, str]

    @property
    def projects(self) -> list[str]:
        """Return the projects that something would go to, by the names that the rules have for them."""
        return sorted({draft.session.project for draft in self.drafts if draft.session is not None})


@dataclass(frozen=True, slots=True)
class StudyDraft:
    """A study, where it would go (None: nowhere), when it was, and who it is of."""

    study: StudySummary
    session: Session | None
    when: tuple[str, str]
    patients: frozenset[Patient]
    found: FoundStudy
    wanted: Session | None = None
    """Where it would go by its label alone, also where nobody asked for it."""

    def without_place(self) -> "StudyDraft":
        """Return the study with nowhere to go."""
        return replace(self, session=None, wanted=None)


def draft_plan(
    found: HeaderCache,
    routes: StudyRoutes,
    *,
    relative: Relative = lambda path: path,
    truncated: bool = False,
    study_filter: StudyFilter = EVERYTHING,
    given: ExistingSessions = NO_SESSIONS,
    suffix: bool = False,
) -> PlanDraft:
    """Route every study that the choice asks for, whole, or with `parts` those of its files that it asks for.

    They are in the order of their dates. Where labels depend on other studies (also with `suffix`), those that nobody
    asks for count among these. It blocks.
    """
    problems: list[PlanProblem] = []
    facts: dict[object, Study] = {}
    left = {} if study_filter.is_everything else _left_out(found, study_filter, relative)
    counts_left = suffix or routes.needs_whole_study
    lost: dict[str, UnroutableError] = {}
    when: dict[str, tuple[str, str]] = {}
    patients: dict[str, set[Patient]] = {}
    who: dict[str, dict[StudyHeader, None]] = {}
    by_file = routes.needs_name or (study_filter.is_of_parts and study_filter.needs_path)
    for header in found.headers(truncated=truncated, by_directory=routes.needs_path, by_file=by_file):
        fields = header.fields
        who.setdefault(header.study_uid, {})[StudyHeader.of(fields)] = None
        if (header.study_uid in left and not counts_left) or (
            study_filter.is_of_parts and study_filter.rejection_reason(fields, relative(header.path))
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
    asked = _of_parts(found, study_filter, relative, truncated=truncated) if study_filter.is_of_parts else {}
    for whole in found.studies(truncated=truncated):
        study = asked.get(whole.study_uid, whole)
        if study.files < whole.files:
            text = f"{whole.files - study.files} files of it were not asked for"
            advice = "its session stays open for them"
            problems.append(study_problem(ProblemCode.PART_OF_STUDY, study, text, advice))
        session = decided.get(study.study_uid) or UnroutableError("none of the files that are asked for is sound")
        if isinstance(session, LeftOutError):
            problems.append(study_problem(ProblemCode.LEFT_OUT, study, str(session), "it was not asked for"))
            left[study.study_uid] = str(session)
        elif isinstance(session, DisputedError):
            code, advice = ProblemCode.LABELS_DIFFER, SAME_FIELDS
            if len({patient.id for patient in patients[study.study_uid]}) > 1:
                code, advice = ProblemCode.TWO_PATIENTS, ONE_PERSON
            problems.append(study_problem(code, study, str(session), advice))
        elif isinstance(session, PartlyPlannedError):
            advice = "give the plan a row with its study_uid"
            problems.append(study_problem(ProblemCode.PARTLY_PLANNED, study, str(session), advice))
        elif isinstance(session, UnroutableError):
            advice = "choose other templates, or write its labels into the plan"
            problems.append(study_problem(ProblemCode.NO_LABEL, study, str(session), advice))
        elif study.study_uid in late:
            text, advice = late[study.study_uid], "nobody moves for it; see that this is meant"
            problems.append(study_problem(ProblemCode.LABEL_LATE, study, text, advice))
        place = session if isinstance(session, Session) else None
        whose = frozenset(patients.get(study.study_uid, ()))
        there = FoundStudy(study.study_uid, tuple(who[study.study_uid]), study.files)
        wanted = routed.get(study.study_uid) if study.study_uid in left and suffix else place
        wanted = wanted if isinstance(wanted, Session) else None
        drafts.append(StudyDraft(study, place, when.get(study.study_uid, ("", "")), whose, there, wanted))
    drafts.sort(key=lambda draft: (*draft.when, draft.study.study_uid))
    return PlanDraft(routes, drafts, problems, left)


def _left_out(found: HeaderCache, study_filter: StudyFilter, relative: Relative) -> dict[str, str]:
    """Return the studies no file of which is asked for, damaged ones included, each with why one is not."""
    left: dict[str, str] = {}
    asked: set[str] = set()
    for header in found.headers(truncated=True, by_file=study_filter.needs_path):
        if reason := study_filter.rejection_reason(header.fields, relative(header.path)):
            left.setdefault(header.study_uid, reason)
        else:
            asked.add(header.study_uid)
    return {uid: reason for uid, reason in left.items() if uid not in asked}


def _of_parts(
    found: HeaderCache, study_filter: StudyFilter, relative: Relative, *, truncated: bool
) -> dict[str, StudySummary]:
    """Return how much there is of each study, counting only what is asked for."""

    def is_asked(fields: Mapping[str, str], path: str) -> bool:
        return not study_filter.rejection_reason(fields, relative(path))

    return {study.study_uid: study for study in found.studies(truncated=truncated, is_asked=is_asked)}


def of_files(found: HeaderCache, *, truncated: bool) -> list[PlanProblem]:
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
        problems.append(PlanProblem(code, other.reason, advice, files=other.files, example=other.example))
    for study in found.studies(truncated=truncated):
        alike: list[tuple[str, ...]] = []
        for paths in study.copies:
            if len({size_of(path) for path in paths}) == 1:
                alike.append(paths)
                continue
            text = "files with one SOPInstanceUID and different sizes: only the first is sent"
            problems.append(study_problem(ProblemCode.TWIN, study, text, "decide which is right", paths))
        if alike:
            text = f"{sum(len(paths) - 1 for paths in alike)} files are copies of others"
            advice = "each instance is sent once"
            problems.append(study_problem(ProblemCode.DUPLICATE, study, text, advice, alike[0]))
    return problems


def size_of(path: str) -> int:
    """Return the size of a file in bytes; -1 if the file cannot be read."""
    try:
        return os.stat(path).st_size  # noqa: PTH116 - the path need not be text
    except OSError:
        return -1


def study_problem(
    code: ProblemCode, study: StudySummary, text: str, advice: str, paths: Sequence[str] = ()
) -> PlanProblem:
    """Return a problem of a study, or of some files of it."""
    files = len(paths) or study.files
    return PlanProblem(code, text, advice, study.study_uid, files, paths[-1] if paths else study.example)
