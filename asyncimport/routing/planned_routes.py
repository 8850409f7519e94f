"""The rules of a run that carries out a plan."""

import hashlib
from collections.abc import Callable, Collection, Iterable, Mapping, Sequence

from asyncimport.model.files import Session
from asyncimport.routing.existing_sessions import NO_SESSIONS, ExistingSessions
from asyncimport.routing.labels import LeftOutError, PartlyPlannedError, UnplannedError, UnroutableError
from asyncimport.routing.plan_binding import FoundStudy, StudyHeader
from asyncimport.routing.plan_file import Key, KeyKind, PlanRow
from asyncimport.routing.router import Router
from asyncimport.routing.studies import Study

_KEY_FIELDS: Mapping[KeyKind, tuple[str, ...]] = {
    KeyKind.STUDY_UID: (),
    KeyKind.ACCESSION_NUMBER: ("AccessionNumber",),
    KeyKind.PATIENT_ID_AND_STUDY_DATE: ("PatientID", "StudyDate"),
}


class PlannedRoutes:
    """The rules of a run that sends what a plan says, and nothing else.

    `faulty` says what is wrong with a study that goes nowhere, `left_out` why one is not selected. `fallback` routes
    the studies that no row matches; without it, `if_unplanned` says why these are not sent.
    """

    def __init__(
        self,
        rows: Iterable[PlanRow],
        *,
        project: str = "",
        faulty: Mapping[str, str] | None = None,
        left_out: Mapping[str, str] | None = None,
        fallback: "PlannedRoutes | None" = None,
        if_unplanned: str = "it is not in the plan",
    ) -> None:
        self._faulty = faulty or {}
        self._left_out = left_out or {}
        self._fallback = fallback
        self._if_unplanned = if_unplanned
        self._rows: dict[Key, PlanRow] = {}
        digest = hashlib.sha256()
        for row in rows:
            self._rows[row.key] = row
            target = (row.project_id or project, row.subject_label, row.session_label, str(row.skip))
            digest.update("\n".join((row.key.kind, *row.key.values, *target, "")).encode("utf-8", "surrogatepass"))
        self._project = project
        self.rules: Mapping[str, str] = {"project": project, "plan": digest.hexdigest()[:16]}

    needs_path = needs_name = needs_whole_study = False
    session_depth = None

    @property
    def rows(self) -> Collection[PlanRow]:
        """Return all rows."""
        return self._rows.values()

    def is_done(self, row: PlanRow, sessions: ExistingSessions) -> bool:
        """Whether the session of a row exists already, for its study if the row names one."""
        project = row.project_id or self._project
        if row.study_uid:
            existing = sessions.session_of(project, row.study_uid)
            return existing is not None and existing.label.lower() == row.session_label.lower()
        return bool(row.session_label) and sessions.owner_of(project, row.session_label) is not None

    def rows_of(self, study: FoundStudy) -> list[PlanRow]:
        """Return the rows that match any header of a study."""
        found: dict[Key, PlanRow] = {}
        for header in study.headers:
            if (row := self._match(study.study_uid, header)) is not None:
                found[row.key] = row
        return list(found.values())

    @property
    def projects(self) -> list[str]:
        """Return all projects that studies go to."""
        return sorted({row.project_id or self._project for row in self._rows.values() if not row.skip})

    def route(self, study_uid: str, fields: Mapping[str, str], path: str = "") -> Session:
        """Return the session of a study.

        Raises: LeftOutError when the plan lacks it or says skip, UnroutableError when something is wrong with it.
        """
        if reason := self._faulty.get(study_uid):
            raise UnroutableError(reason)
        if reason := self._left_out.get(study_uid):
            raise LeftOutError(reason)
        row = self._find(study_uid, fields)
        if row is None and self._fallback is not None:
            return self._fallback.route(study_uid, fields, path)
        return self._session(study_uid, row)

    def _session(self, study_uid: str, row: PlanRow | None) -> Session:
        """Return the session that a row gives a study. Raises: LeftOutError."""
        if row is None:
            raise UnplannedError(self._if_unplanned)
        if row.skip:
            raise LeftOutError("the plan says skip")
        return Session(row.project_id or self._project, row.subject_label, row.session_label, study_uid)

    def study(self, study_uid: str, fields: Mapping[str, str], _: str = "") -> Study:
        """Return what a header says about its study, as far as rows may be matched by it."""
        names = ("AccessionNumber", "PatientID", "StudyDate")
        return Study(study_uid, {name: fields[name] for name in names if fields.get(name)})

    def resolve(
        self,
        studies: Iterable[Study],
        sessions: ExistingSessions = NO_SESSIONS,  # noqa: ARG002 - the plan decides
        report_late: Callable[[str, str], None] = lambda _, __: None,  # noqa: ARG002 - as above
    ) -> Mapping[str, Session | UnroutableError]:
        """Return the session of each study by its UID, or why it has none; a study may come in several pieces."""
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
        """Return the row of a study. Files without the fields of its key belong to the study all the same.

        Raises: PartlyPlannedError when the row matches only some files, or there are several rows.
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
            raise PartlyPlannedError(f"the plan has only a part of it: its files differ in {' and '.join(names)}")
        return row

    def _find(self, study_uid: str, fields: Mapping[str, str]) -> PlanRow | None:
        # Called for every file. Most plans know studies by their UID.
        return self._rows.get(Key(KeyKind.STUDY_UID, (study_uid,))) or self._match(study_uid, StudyHeader.of(fields))

    def _match(self, study_uid: str, header: StudyHeader) -> PlanRow | None:
        keys = (
            Key(KeyKind.STUDY_UID, (study_uid,)),
            Key(KeyKind.ACCESSION_NUMBER, (header.accession_number,)),
            Key(KeyKind.PATIENT_ID_AND_STUDY_DATE, (header.patient_id, header.study_date)),
        )
        return next((row for key in keys if (row := self._rows.get(key)) is not None), None)


StudyRoutes = Router | PlannedRoutes
"""Rules that decide whole studies."""
