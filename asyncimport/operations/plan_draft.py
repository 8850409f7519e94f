"""The first step of a plan: each scanned study is routed by the rules of the run."""

from collections.abc import Callable, Collection, Iterable, Mapping, Sequence
from dataclasses import field, replace

import anyio
import anyio.to_thread

from asyncimport.dicom import Identity
from asyncimport.journal import HeaderCache, StudySummary
from asyncimport.model.events import Event, Scanned
from asyncimport.model.files import File, Ignored, Patient, Session
from asyncimport.model.ports import Source
from asyncimport.model.record import record
from asyncimport.model.states import FileKind
from asyncimport.pipeline.in_order import in_order
from asyncimport.reporting.causes import advice_for
from asyncimport.routing.accepted_patients import NOBODY, AcceptedPatients
from asyncimport.routing.existing_sessions import NO_SESSIONS, ExistingSessions
from asyncimport.routing.filters import EVERYTHING, StudyFilter
from asyncimport.routing.labels import DisputedError, LeftOutError, PartlyPlannedError, UnplannedError, UnroutableError
from asyncimport.routing.patients import patient_of
from asyncimport.routing.plan_binding import FoundStudy, StudyHeader
from asyncimport.routing.planned_routes import PlannedRoutes, StudyRoutes
from asyncimport.routing.problems import PlanProblem, ProblemCode
from asyncimport.routing.studies import Study

COMPARE_PEOPLE = "compare the people; if they are one, accept this pair in a table with --accept-patients"
COMPARE_PATIENTS = "compare the patients; if they are one person, use --allow-mixed-patients"
CONSTANT_FIELDS = "use only fields that are the same in all files of a study"

Relative = Callable[[str], str]


@record(kw_only=True)
class PlanRules:
    """What decides the plan of a run. `min_age` is in seconds."""

    routes: StudyRoutes
    study_filter: StudyFilter = EVERYTHING
    suffix: bool = False
    limit: int | None = None
    min_age: float = 0.0
    allow_mixed_patients: bool = False
    accepted: AcceptedPatients = NOBODY
    send_truncated: bool = False

    @property
    def needs_whole_studies(self) -> bool:
        """Whether a run decides all studies before it sends the first file."""
        routes = self.routes
        if isinstance(routes, PlannedRoutes):
            return True
        return self.suffix or routes.project is None or routes.needs_whole_study

    @property
    def selects_studies(self) -> bool:
        """Whether a run sends only some studies of the source."""
        return not self.study_filter.is_everything or self.limit is not None or bool(self.min_age)


async def scan_headers(source: Source, cache: HeaderCache, report: Callable[[Event], None] = lambda _: None) -> None:
    """Read the headers of a source into the cache; files that the cache knows are not opened again."""
    # Batches are read side by side, and the cache does one thing at a time.
    using_cache = anyio.Lock()

    async def read(batch: list[File | Ignored]) -> tuple[list[File | Ignored], list[Ignored | tuple[File, Identity]]]:
        files = [item for item in batch if isinstance(item, File)]
        async with using_cache:
            unknown = await anyio.to_thread.run_sync(cache.skip_known, files, source.places)
        looks = zip(unknown, await source.identify_many(unknown), strict=True)
        return batch, [look if isinstance(look, Ignored) else (file, look) for file, look in looks]

    async def record(read: tuple[list[File | Ignored], list[Ignored | tuple[File, Identity]]]) -> None:
        batch, found = read
        async with using_cache:
            await anyio.to_thread.run_sync(cache.record, [*found, *(one for one in batch if isinstance(one, Ignored))])
        report(Scanned(len(batch), sum(item.size for item in batch if isinstance(item, File))))

    await in_order(source.batches(), read, record, ahead=source.ahead)


@record
class StudyDraft:
    """A study, its session (None: it is not sent), its date and time, and its patients, each with a file.

    `ruled_session` is its session by the rules, also where a filter leaves the study out.
    """

    study: StudySummary
    session: Session | None
    when: tuple[str, str]
    patients: Mapping[Patient, str]
    found: FoundStudy
    ruled_session: Session | None = None

    def without_session(self) -> "StudyDraft":
        """Return the study as one that is not sent."""
        return replace(self, session=None, ruled_session=None)


@record
class PlanDraft:
    """The studies in the order of their dates, each routed by itself. `left_out` says why a filter leaves one out.

    With a plan file, `damaged` are the studies (UIDs) of which every file is truncated. `unasked` counts files of
    studies of which a filter selects a part.
    """

    studies: Sequence[StudyDraft]
    problems: Sequence[PlanProblem]
    left_out: Mapping[str, str]
    damaged: frozenset[str] = frozenset()
    unasked: int = 0

    @property
    def projects(self) -> list[str]:
        """Return the projects that studies go to, by the names that the rules give them."""
        return sorted({draft.session.project for draft in self.studies if draft.session is not None})


@record
class _Headers:
    """What the headers of studies say, by StudyInstanceUID.

    `when` is date and time. `patients` have the path of a file each. `pieces` are the parts of studies that the rules
    can tell apart; a study with a file that no rule fits is `unroutable`.
    """

    of_study: dict[str, dict[StudyHeader, None]] = field(default_factory=dict)
    when: dict[str, tuple[str, str]] = field(default_factory=dict)
    patients: dict[str, dict[Patient, str]] = field(default_factory=dict)
    pieces: dict[object, Study] = field(default_factory=dict)
    unroutable: dict[str, UnroutableError] = field(default_factory=dict)


def draft_plan(
    cache: HeaderCache,
    rules: PlanRules,
    *,
    relative: Relative = lambda path: path,
    sessions: ExistingSessions = NO_SESSIONS,
) -> PlanDraft:
    """Route every study that the filter selects: by all its files or, if it selects parts of studies, by these.

    Where labels depend on other studies (also with `suffix`), studies that the filter leaves out count among these.
    It blocks.
    """
    routes, study_filter, truncated = rules.routes, rules.study_filter, rules.send_truncated
    left_out = {} if study_filter.is_everything else _left_out(cache, study_filter, relative)
    headers = _read_headers(cache, rules, relative, left_out)
    late: dict[str, str] = {}
    routed = routes.resolve(headers.pieces.values(), sessions, late.__setitem__)
    results = {**routed, **headers.unroutable, **{uid: LeftOutError(reason) for uid, reason in left_out.items()}}
    selected = _selected_parts(cache, rules, relative) if study_filter.is_of_parts else {}
    numbers = _files_of_planned(cache) if isinstance(routes, PlannedRoutes) else {}
    problems: list[PlanProblem] = []
    unasked, drafts = 0, []
    for whole in cache.studies(truncated=truncated):
        uid = whole.study_uid
        study = selected.get(uid, whole)
        if study.files < whole.files:
            unasked += whole.files - study.files
            text = f"the filters leave out {whole.files - study.files:,} of its files"
            advice = "send these too, or its session stays open; --partial archive archives it without them"
            problems.append(study_problem(ProblemCode.PART_OF_STUDY, study, text, advice))
        result = results.get(uid) or UnroutableError("none of its selected files is intact")
        files, intact_files = numbers.get(uid, (None, None))
        if isinstance(result, UnplannedError) and intact_files == 0:
            result = UnplannedError(
                f"{result}: all its files are truncated, and only a plan of --truncated send has them"
            )
        if isinstance(result, LeftOutError):
            left_out[uid] = str(result)
        patients = headers.patients.get(uid, {})
        problems += _routing_problems(study, result, patients, late.get(uid))
        session = result if isinstance(result, Session) else None
        ruled = routed.get(uid) if uid in left_out and rules.suffix else session
        drafts.append(
            StudyDraft(
                study,
                session,
                headers.when.get(uid, ("", "")),
                patients,
                FoundStudy(uid, tuple(headers.of_study[uid]), study.files, files, intact_files),
                ruled if isinstance(ruled, Session) else None,
            )
        )
    drafts.sort(key=lambda draft: (*draft.when, draft.study.study_uid))
    damaged = frozenset(uid for uid, (_, intact_files) in numbers.items() if not intact_files)
    return PlanDraft(drafts, problems, left_out, damaged, unasked)


def _read_headers(cache: HeaderCache, rules: PlanRules, relative: Relative, left_out: Collection[str]) -> _Headers:
    """Read the headers of the scan; those of studies that are left out only as far as other labels depend on them."""
    routes, study_filter = rules.routes, rules.study_filter
    counts_left_out = rules.suffix or routes.needs_whole_study
    by_file = routes.needs_name or (study_filter.is_of_parts and study_filter.needs_path)
    found = _Headers()
    for header in cache.headers(truncated=rules.send_truncated, by_directory=routes.needs_path, by_file=by_file):
        uid, fields, path = header.study_uid, header.fields, relative(header.path)
        found.of_study.setdefault(uid, {})[StudyHeader.of(fields)] = None
        found.when.setdefault(uid, (fields.get("StudyDate", ""), fields.get("StudyTime", "")))
        if uid in left_out and not counts_left_out:
            continue
        if study_filter.is_of_parts and study_filter.rejection_reason(fields, path):
            continue
        found.patients.setdefault(uid, {}).setdefault(patient_of(fields), header.path)
        try:
            piece = routes.study(uid, fields, path)
        except UnroutableError as error:
            found.unroutable[uid] = error
        else:
            found.pieces.setdefault((piece.uid, *sorted(piece.fields.items()), *piece.modalities), piece)
    return found


def _routing_problems(
    study: StudySummary, result: Session | UnroutableError, patients: Iterable[Patient], late: str | None
) -> list[PlanProblem]:
    """Return what is wrong with the route of a study; `late` says that other studies already have later numbers."""
    match result:
        case LeftOutError():
            code, advice = ProblemCode.LEFT_OUT, "change the filters or the plan to send it"
        case DisputedError() if len({patient.id for patient in patients}) > 1:
            code, advice = ProblemCode.TWO_PATIENTS, COMPARE_PATIENTS
        case DisputedError():
            code, advice = ProblemCode.LABELS_DIFFER, CONSTANT_FIELDS
        case PartlyPlannedError():
            code, advice = ProblemCode.PARTLY_PLANNED, "identify the study by its study_uid in the plan"
        case UnroutableError():
            code, advice = ProblemCode.NO_LABEL, "choose other templates, or write its labels into the plan"
        case _:
            advice = "check that this is intended: sessions that exist keep their labels"
            return [] if late is None else [study_problem(ProblemCode.LABEL_LATE, study, late, advice)]
    return [study_problem(code, study, str(result), advice)]


def _left_out(cache: HeaderCache, study_filter: StudyFilter, relative: Relative) -> dict[str, str]:
    """Return why the filter leaves out a study with all its files, damaged ones included."""
    reasons: dict[str, str] = {}
    selected: set[str] = set()
    for header in cache.headers(truncated=True, by_file=study_filter.needs_path):
        if reason := study_filter.rejection_reason(header.fields, relative(header.path)):
            reasons.setdefault(header.study_uid, reason)
        else:
            selected.add(header.study_uid)
    return {uid: reason for uid, reason in reasons.items() if uid not in selected}


def _files_of_planned(cache: HeaderCache) -> dict[str, tuple[int, int]]:
    """Return the number of files of each study, and how many of them are intact."""
    intact = {one.study_uid: one.files for one in cache.studies()}
    return {one.study_uid: (one.files, intact.get(one.study_uid, 0)) for one in cache.studies(truncated=True)}


def _selected_parts(cache: HeaderCache, rules: PlanRules, relative: Relative) -> dict[str, StudySummary]:
    """Return each study with only the files that the filter selects."""

    def is_selected(fields: Mapping[str, str], path: str) -> bool:
        return not rules.study_filter.rejection_reason(fields, relative(path))

    return {one.study_uid: one for one in cache.studies(truncated=rules.send_truncated, is_asked=is_selected)}


def file_problems(cache: HeaderCache, *, truncated: bool) -> list[PlanProblem]:
    """Return problems of files: unreadable ones, archives, links, and files with one SOPInstanceUID."""
    problems = []
    for other in cache.non_instances(truncated=truncated):
        match other.kind:
            case FileKind.UNREADABLE:
                code = ProblemCode.UNREADABLE
            case FileKind.CONTAINER:
                code = ProblemCode.ARCHIVE_FILE
            case FileKind.LINK:
                code = ProblemCode.LINK
            case FileKind.INNER_LINK:
                code = ProblemCode.INNER_LINK
            case _:
                continue
        advice = advice_for(other.kind.lower(), other.reason)
        problems.append(PlanProblem(code, other.reason, advice, files=other.files, example=other.example))
    for study in cache.studies(truncated=truncated):
        for paths in study.twins:
            text = "files with one SOPInstanceUID have different sizes: only the first is sent"
            advice = "find out which file is right, and remove or exclude the others"
            problems.append(study_problem(ProblemCode.TWIN, study, text, advice, paths))
        if copies := [path for paths in study.copies for path in paths[1:]]:
            number = len(copies)
            text = "1 file is a copy of another" if number == 1 else f"{number:,} files are copies of others"
            advice = "nothing to do: each instance is sent once"
            problems.append(study_problem(ProblemCode.DUPLICATE, study, text, advice, copies))
    return problems


def study_problem(
    code: ProblemCode, study: StudySummary, text: str, advice: str, paths: Sequence[str] = ()
) -> PlanProblem:
    """Return a problem of a study, or of some files of it."""
    files = len(paths) or study.files
    return PlanProblem(code, text, advice, study.study_uid, files, paths[-1] if paths else study.example)
