"""From a DICOM header and a path to project, subject and session label. Pure: no disk and no network.

`Router.route` decides file by file, and remembers no other file. The journal finds conflicts between files, such as one
label for two studies.

Two fields belong to whole studies. `{Modality}` is the one by which XNAT names a session: PT comes before MR, MR before
CT; reports and presentation states count only if there is nothing else. `{StudyIndex}` counts the studies of a subject
by date and time. A router with `whole_studies` offers them. If a template has one (`Router.needs_whole_study`), route
in two steps:

    whole: dict[str, Study] = {}
    for each file:
        study = router.study(study_uid, fields, path)            # raises only for a path that does not match
        whole[study_uid] = whole[study_uid].merge(study) if study_uid in whole else study
    sessions = router.resolve(whole.values())                    # StudyInstanceUID -> Session or UnroutableError

`resolve` works with any templates, and only it finds out that the files of a study differ in a field that decides.
"""

from asyncimport.routing.attachments import AttachRule, check_resource, name_in_resource, name_problem, resource_of
from asyncimport.routing.existing_sessions import (
    NO_SESSIONS,
    ExistingSession,
    ExistingSessions,
    RoutedLabels,
    label_conflict,
    matching_session,
)
from asyncimport.routing.filters import EVERYTHING, FilteredRoutes, StudyFilter, glob_pattern
from asyncimport.routing.label_map import LookupTable
from asyncimport.routing.labels import (
    DisputedError,
    LeftOutError,
    PartlyPlannedError,
    UnplannedError,
    UnroutableError,
    clean_label,
)
from asyncimport.routing.paths import PathPattern
from asyncimport.routing.patients import (
    TWO_IDS,
    is_same_patient,
    merge_patients,
    occupant_conflict,
    occupant_doubt,
    patient_conflict,
    patient_difference,
    patient_of,
)
from asyncimport.routing.problems import Effect, PlanProblem, ProblemCode, Severity, exit_code_of
from asyncimport.routing.router import DEFAULT_SESSION, DEFAULT_SUBJECT, Router
from asyncimport.routing.studies import Study, modality_of, type_conflict

__all__ = [
    "DEFAULT_SESSION",
    "DEFAULT_SUBJECT",
    "EVERYTHING",
    "NO_SESSIONS",
    "TWO_IDS",
    "AttachRule",
    "DisputedError",
    "Effect",
    "ExistingSession",
    "ExistingSessions",
    "FilteredRoutes",
    "LeftOutError",
    "LookupTable",
    "PartlyPlannedError",
    "PathPattern",
    "PlanProblem",
    "ProblemCode",
    "RoutedLabels",
    "Router",
    "Severity",
    "Study",
    "StudyFilter",
    "UnplannedError",
    "UnroutableError",
    "check_resource",
    "clean_label",
    "exit_code_of",
    "glob_pattern",
    "is_same_patient",
    "label_conflict",
    "matching_session",
    "merge_patients",
    "modality_of",
    "name_in_resource",
    "name_problem",
    "occupant_conflict",
    "occupant_doubt",
    "patient_conflict",
    "patient_difference",
    "patient_of",
    "resource_of",
    "type_conflict",
]
