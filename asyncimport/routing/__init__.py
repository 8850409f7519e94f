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
from asyncimport.routing.existing_sessions import NOTHING_GIVEN, Given, GivenSession, Ruled, label_taken, placed
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
    agree,
    clash,
    doubts,
    joined,
    mismatch,
    patient_of,
    proves_another,
)
from asyncimport.routing.problems import Effect, Problem, ProblemCode, Severity, code_of
from asyncimport.routing.router import DEFAULT_SESSION, DEFAULT_SUBJECT, Router
from asyncimport.routing.studies import Study, misfit, modality_of

__all__ = [
    "DEFAULT_SESSION",
    "DEFAULT_SUBJECT",
    "EVERYTHING",
    "NOTHING_GIVEN",
    "TWO_IDS",
    "AttachRule",
    "DisputedError",
    "Effect",
    "FilteredRoutes",
    "Given",
    "GivenSession",
    "LeftOutError",
    "LookupTable",
    "PartlyPlannedError",
    "PathPattern",
    "Problem",
    "ProblemCode",
    "Router",
    "Ruled",
    "Severity",
    "Study",
    "StudyFilter",
    "UnplannedError",
    "UnroutableError",
    "agree",
    "check_resource",
    "clash",
    "clean_label",
    "code_of",
    "doubts",
    "glob_pattern",
    "joined",
    "label_taken",
    "misfit",
    "mismatch",
    "modality_of",
    "name_in_resource",
    "name_problem",
    "patient_of",
    "placed",
    "proves_another",
    "resource_of",
]
