"""Find the sessions that exist: by the journal, and in the archive."""

from collections.abc import Mapping
from dataclasses import replace
from pathlib import Path

import anyio
import anyio.to_thread

from asyncimport.errors import TransientError, UnavailableError
from asyncimport.journal import SubjectPatient
from asyncimport.model.files import Session
from asyncimport.operations.journals import readable_journal
from asyncimport.routing.existing_sessions import ExistingSession, ExistingSessions
from asyncimport.xnat.archive import ArchivedSessions, label_before_division
from asyncimport.xnat.replies.archive import Experiment
from asyncimport.xnat.site import SiteRules


async def find_sessions(
    archived: ArchivedSessions,
    rules: SiteRules,
    journal: Path,
    project_ids: Mapping[str, str],
    *,
    relabel: bool,
    with_archive: bool,
) -> ExistingSessions:
    """Return the sessions of projects, whose IDs are given by the names that the rules have for them.

    The sessions are found by ID and by name. With `relabel`, sessions of the journal that XNAT has nothing of do not
    count. Raises: UnavailableError.
    """
    found = await anyio.to_thread.run_sync(_in_journal, journal, relabel)
    try:
        for project in sorted(set(project_ids.values())) if with_archive else ():
            found += await _in_archive(archived, rules, project)
    except TransientError as error:
        raise UnavailableError(f"XNAT could not list the sessions of the archive: {error}") from error
    by_name = [
        replace(one, session=replace(one.session, project=name))
        for name, project in project_ids.items()
        for one in found
        if name != project == one.session.project
    ]
    return ExistingSessions.of([*found, *by_name])


async def _in_archive(archived: ArchivedSessions, rules: SiteRules, project: str) -> list[ExistingSession]:
    listed = await archived.list_project(project)
    if listed is None:
        raise UnavailableError(
            f"XNAT does not show the sessions of project {project}",
            hint="ask for the right to see them: these labels depend on the sessions that exist",
        )
    is_mapped = bool(listed) and bool((await rules.get(project)).maps_studies)
    studies: dict[str, list[Experiment]] = {}
    for one in listed:
        # A session that somebody made without DICOM has no StudyInstanceUID, and counts as a study of its own.
        studies.setdefault(one.study_uid or one.accession, []).append(one)
    found = []
    for study, sessions in studies.items():
        names = [(one.subject, one.label, one.date) for one in sessions]
        if (whole := label_before_division(sessions, project)) is not None:
            names.insert(0, (sessions[0].subject, whole, sessions[0].date))
        found += [
            ExistingSession(Session(project, subject, label, "" if is_mapped else study), date.replace("-", ""))
            for subject, label, date in names
        ]
    return found


def _in_journal(journal: Path, relabel: bool) -> list[ExistingSession]:  # noqa: FBT001 - called in a thread
    with readable_journal(journal) as reader:
        labels = () if reader is None else reader.session_labels(after_relabel=relabel)
        return [ExistingSession(session, ruled=ruled) for session, ruled in labels]


def known_patients(journal: Path, *, after_relabel: bool) -> list[SubjectPatient]:
    """Return the patients of each subject by a journal, if there is one."""
    with readable_journal(journal) as reader:
        return [] if reader is None else reader.subject_patients(after_relabel=after_relabel)
