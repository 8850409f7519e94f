"""The sessions that studies have already: what the journal knows, and what the archive holds."""

from collections.abc import Mapping
from dataclasses import replace
from pathlib import Path

import anyio
import anyio.to_thread

from asyncimport.errors import JournalError, TransientError, UnavailableError, UsageError
from asyncimport.journal import JournalReader, SubjectPatient
from asyncimport.model import Session
from asyncimport.routing import ExistingSession, ExistingSessions
from asyncimport.xnat.archive import ArchivedSessions, label_before_division
from asyncimport.xnat.replies.archive import Experiment
from asyncimport.xnat.site import SiteRules


class SessionLookup:
    """The sessions that there are, by the journal of a run and by one listing of each project.

    With `relabel`, what the journal has and XNAT has nothing of does not count.
    """

    def __init__(self, archived: ArchivedSessions, rules: SiteRules, journal: Path, *, relabel: bool) -> None:
        self._archived = archived
        self._rules = rules
        self._journal = journal
        self._reroute = relabel

    async def in_projects(self, names: Mapping[str, str], *, with_archive: bool) -> ExistingSessions:
        """Return the sessions of projects, of which the ID is given by the name that the rules have for it.

        They are found by both. Raises: UnavailableError.
        """
        found = await anyio.to_thread.run_sync(self._journalled)
        try:
            for project in sorted(set(names.values())) if with_archive else ():
                found += await self._listed(project)
        except TransientError as error:
            raise UnavailableError(f"the archive could not be asked for its sessions: {error}") from error
        aliases = {name: project for name, project in names.items() if name != project}
        return ExistingSessions.of(
            [
                *found,
                *(
                    replace(one, session=replace(one.session, project=name))
                    for name, project in aliases.items()
                    for one in found
                    if one.session.project == project
                ),
            ]
        )

    async def _listed(self, project: str) -> list[ExistingSession]:
        listed = await self._archived.in_project(project)
        if listed is None:
            raise UnavailableError(
                f"XNAT does not show the sessions of project {project}",
                hint="labels that depend on other sessions cannot be given without them",
            )
        is_mapped = bool(listed) and bool((await self._rules.get(project)).maps_studies)
        studies: dict[str, list[Experiment]] = {}
        for one in listed:
            # One that somebody has made without DICOM has no StudyInstanceUID, and is another study's.
            studies.setdefault(one.study_uid or one.accession, []).append(one)
        found = []
        for study, sessions in studies.items():
            uid = "" if is_mapped else study
            first = sessions[0]
            if (whole := label_before_division(sessions, project)) is not None:
                session = Session(project, first.subject, whole, uid)
                found.append(ExistingSession(session, first.date.replace("-", "")))
            for one in sessions:
                session = Session(project, one.subject, one.label, uid)
                found.append(ExistingSession(session, one.date.replace("-", "")))
        return found

    def _journalled(self) -> list[ExistingSession]:
        if not self._journal.exists():
            return []
        try:
            with JournalReader.open(self._journal) as reader:
                placed = reader.session_labels(after_reroute=self._reroute)
                return [ExistingSession(session, ruled=ruled) for session, ruled in placed]
        except (JournalError, UsageError):
            # The run itself reports what is wrong with it.
            return []


def known_patients(journal: Path, *, after_reroute: bool) -> list[SubjectPatient]:
    """Return who is in each subject by a journal, if there is one."""
    if not journal.exists():
        return []
    try:
        with JournalReader.open(journal) as reader:
            return reader.subject_patients(after_reroute=after_reroute)
    except (JournalError, UsageError):
        # As above.
        return []
