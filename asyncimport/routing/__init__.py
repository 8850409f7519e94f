"""From a DICOM header and a path to project, subject and session label. Pure: no disk and no network.

`Router.route` decides file by file, without memory of other files. What depends on other files (one label for two
studies, one study under two labels) the journal finds, because it knows them all.

Two fields belong to whole studies: `{Modality}`, by which XNAT would name a session (DICOM's code: PT goes before MR,
MR before CT; reports and presentation states count when there is nothing else), and `{StudyIndex}`, which counts the
studies of a subject by date and time. Who makes a router with `whole_studies` offers them, and where a template has one
of them (`Router.needs_whole_study`) routes in two steps:

    facts: dict[str, Study] = {}
    for each file:
        study = router.study(study_uid, fields, path)            # raises only for a path that does not match
        facts[study_uid] = facts[study_uid].joined(study) if study_uid in facts else study
    sessions = router.resolve(facts.values())                    # StudyInstanceUID -> Session or UnroutableError

A plan that keeps the facts of its studies makes each `Study` itself: `Study(uid, fields, modalities)`, where `fields`
are the study's header fields and its path fields (`zip(pattern.fields, pattern.match(path))`) together; their names
cannot clash. `resolve` works with any templates, and only it can tell that a study's files differ in what decides.
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
