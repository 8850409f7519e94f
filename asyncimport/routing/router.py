"""The rules of one run: they give each file its session."""

from collections import defaultdict
from collections.abc import Callable, Iterable, Mapping
from copy import copy
from functools import lru_cache, partial

from asyncimport.errors import UsageError
from asyncimport.model.files import Session
from asyncimport.model.label_syntax import LONGEST_LABEL
from asyncimport.model.texts import nfc
from asyncimport.routing.existing_sessions import NO_SESSIONS, ExistingSessions
from asyncimport.routing.label_map import LookupTable
from asyncimport.routing.labels import DisputedError, UnroutableError, is_project_id, label_of
from asyncimport.routing.numbering import NumberedStudy, Numbering
from asyncimport.routing.paths import PathPattern
from asyncimport.routing.studies import WHOLE_STUDY, Study, is_dated, modality_of, sort_key
from asyncimport.routing.templates import Template

DEFAULT_SUBJECT = "{PatientID}"
DEFAULT_SESSION = "{PatientID}_{StudyDate}"

# Files of one session mostly come one after the other, or those of a few sessions in turns.
_REMEMBERED = 1024


class Router:
    """The rules of one run.

    `keywords` are the DICOM keywords that templates and the lookup table may use: those that are the same in a whole
    study. The labels of a template that is None come from the table, else from the path pattern, else from the default.
    `whole_studies` offers the fields that only `resolve` decides. Raises: UsageError for rules that no file satisfies.
    """

    def __init__(
        self,
        project: str | None,
        subject: str | None = None,
        session: str | None = None,
        *,
        keywords: frozenset[str],
        paths: PathPattern | None = None,
        table: LookupTable | None = None,
        whole_studies: bool = False,
    ) -> None:
        self._paths = paths
        self._table = table
        self._path_fields = () if paths is None else paths.fields
        columns = () if table is None else table.columns
        for name in self._path_fields:
            if name in keywords or name in WHOLE_STUDY:
                raise UsageError(
                    f"--path-pattern: {{{name}}} is already a field of the study", hint="give it another name"
                )
        offered = keywords.union(WHOLE_STUDY) if whole_studies else keywords
        places = {
            **dict.fromkeys(offered, "the header"),
            **dict.fromkeys(self._path_fields, "the path"),
            **dict.fromkeys(columns, "--label-map"),
        }
        if project is None and (project := self._default_template("project")) is None:
            raise UsageError("no project", hint="name it with -P")
        subject = self._default_template("subject") or DEFAULT_SUBJECT if subject is None else subject
        session = self._default_template("session") or DEFAULT_SESSION if session is None else session
        self._project = _project_template(project, places)
        self._subject = _label_template(subject, "--subject", places)
        self._session = _label_template(session, "--session", places)
        for option, template in (("--project", self._project), ("--subject", self._subject)):
            if "StudyIndex" in template.names:
                raise UsageError(
                    f"{option}: {{StudyIndex}} counts the studies of a subject", hint="use it in --session only"
                )
        self._used = self._project.names | self._subject.names | self._session.names
        self._project_column = self._find_project_column()
        self._counts = "StudyIndex" in self._session.names
        needed = self._used if table is None else self._used | set(table.keys)
        self._decisive = needed - set(columns) - set(WHOLE_STUDY)
        self._keywords = tuple(sorted(self._decisive & keywords))
        self.rules = _rules(project, subject, session, paths, table)
        self._remembered = lru_cache(maxsize=_REMEMBERED)(self._session_of)

    def _default_template(self, label: str) -> str | None:
        if self._table is not None and (column := self._table.column(label)) is not None:
            return f"{{{column}}}"
        return f"{{{label}}}" if label in self._path_fields else None

    def _find_project_column(self) -> str | None:
        """Return the table's column of projects if it must be compared with the project of each file.

        Raises: UsageError when there is one project for all files, and the table names another one.
        """
        column = None if self._table is None else self._table.column("project")
        if self._table is None or column is None or column in self._project.names:
            return None
        if (project := self.project) is not None:
            # Compare before an alias becomes the ID of the project.
            line = next((line for line, value in self._table.values(column) if value != project), None)
            if line is not None:
                raise UsageError(
                    f"-P, ASYNCIMPORT_PROJECT or a profile names project {project!r}, and line {line} of --label-map "
                    "another one",
                    hint=f"leave out one of them; -P '{{{column}}}' uses the projects of --label-map in any case",
                )
            return None
        return column

    @property
    def project(self) -> str | None:
        """Return the project if it is the same for all files."""
        return self._project.render({}) if self._project.is_fixed else None

    def with_project(self, project: str) -> "Router":
        """Return these rules with another name of the project, such as its ID for an alias."""
        other = copy(self)
        other.rules = {**self.rules, "project": project}
        other._project = Template.parse(project, "--project", {})  # noqa: SLF001 - a copy of itself
        other._remembered = lru_cache(maxsize=_REMEMBERED)(other._session_of)  # noqa: SLF001 - as above
        return other

    @property
    def one_session(self) -> bool:
        """Whether all files get the same session label, so that two studies collide."""
        return self._session.is_fixed

    @property
    def needs_path(self) -> bool:
        """Whether the path of a file decides."""
        return self._paths is not None

    @property
    def needs_name(self) -> bool:
        """Whether files of one directory may go to different sessions because of their names."""
        return self._paths is not None and self._paths.needs_name

    @property
    def needs_whole_study(self) -> bool:
        """Whether a label depends on all studies; then call `resolve`, not `route`."""
        return not self._used.isdisjoint(WHOLE_STUDY)

    @property
    def counts_studies(self) -> bool:
        """Whether labels count the studies of a subject."""
        return self._counts

    @property
    def session_depth(self) -> int | None:
        """Return how many directories below the source root decide the session; see `PathPattern.depth`.

        None if something else decides too, or if two directories may give the same session.
        """
        verbatim = self._session.verbatim
        if self._paths is None or not self._session.names <= verbatim & set(self._path_fields):
            return None
        return self._paths.depth(verbatim, verbatim | self._subject.verbatim | self._project.verbatim)

    def route(self, study_uid: str, fields: Mapping[str, str], path: str = "") -> Session:
        """Return the session of a file with these header fields and this path below the source root.

        Raises: UnroutableError when a field is missing, a label is empty, the path does not match, or the table lacks
        it.
        """
        if self._paths is None:
            return self._remembered(study_uid, *map(fields.get, self._keywords))
        return self._remembered(study_uid, *map(fields.get, self._keywords), *self._paths.match(path))

    def study(self, study_uid: str, fields: Mapping[str, str], path: str = "") -> Study:
        """Return what these header fields and this path say about a study.

        Raises: UnroutableError when the path does not match. `resolve` reports everything else.
        """
        values = () if self._paths is None else self._paths.match(path)
        names = {*self._keywords, "StudyDate", "StudyTime"}
        known = {name: nfc(value) for name in names if (value := fields.get(name, ""))}
        # Leave out path fields that decide nothing: a number in each name would make each file a piece of its own.
        found = zip(self._path_fields, values, strict=True)
        modality = fields.get("Modality", "")
        return Study(
            study_uid,
            known | {name: value for name, value in found if name in self._decisive},
            frozenset([modality] if modality else []),
        )

    def resolve(
        self,
        studies: Iterable[Study],
        sessions: ExistingSessions = NO_SESSIONS,
        report_late: Callable[[str, str], None] = lambda _, __: None,
    ) -> dict[str, Session | UnroutableError]:
        """Return the session of each study by its UID, or why it has none.

        A study may come in several pieces, in any order. Where labels depend on all studies, a study that already has a
        session keeps its label, and `{StudyIndex}` continues from there. `report_late` gets the UID of each study that
        comes after later ones were numbered, and a text. Pass all studies of a subject: each counts.
        """
        whole: dict[str, Study] = {}
        for study in studies:
            known = whole.get(study.uid)
            whole[study.uid] = study if known is None else known.merge(study)
        decided: dict[str, Session | UnroutableError] = {}
        subjects: dict[tuple[str, str], list[tuple[str, NumberedStudy]]] = defaultdict(list)
        for uid, study in whole.items():
            try:
                fields = self._fields_of(study)
                project, subject = self._project_of(fields), label_of(self._subject.render(fields))
                existing = sessions.session_of(project, uid) if self.needs_whole_study else None
                if existing is not None:
                    decided[uid] = Session(project, subject, existing.label, uid)
                elif not self._counts:
                    decided[uid] = Session(project, subject, self._label(fields, 0), uid)
                if self._counts:
                    order = ("", "", uid) if existing is not None and not is_dated(study) else sort_key(study)
                    subjects[project, subject.lower()].append((subject, NumberedStudy(order, fields)))
            except UnroutableError as error:
                decided[uid] = error
        for (project, subject), members in subjects.items():
            number_in = partial(self._session.number_in, "StudyIndex")
            numbering = Numbering(project, sessions, self._label, number_in, report_late)
            new = [one for _, one in members if one.study_uid not in decided]
            decided_before = [one for _, one in members if one.study_uid in decided]
            labels = numbering.labels(new, decided_before, sessions.of_subject(project, subject))
            for spelling, one in members:
                label = labels.get(uid := one.study_uid)
                if label is not None:
                    decided[uid] = Session(project, spelling, label, uid) if isinstance(label, str) else label
        return decided

    def _label(self, fields: Mapping[str, str], number: int) -> str:
        return label_of(self._session.render({**fields, "StudyIndex": str(number)}))

    def _session_of(self, study_uid: str, *values: str | None) -> Session:
        if self.needs_whole_study:
            raise TypeError("these labels need whole studies: collect them with `study`, and `resolve` them")
        names = self._keywords + self._path_fields
        fields = self._with_values({name: value for name, value in zip(names, values, strict=True) if value})
        return Session(
            self._project_of(fields),
            label_of(self._subject.render(fields)),
            label_of(self._session.render(fields)),
            study_uid,
        )

    def _fields_of(self, study: Study) -> Mapping[str, str]:
        if differing := study.disputed & self._decisive:
            raise DisputedError(f"its files differ in {' and '.join(sorted(differing))}")
        return {**self._with_values(study.fields), "Modality": modality_of(study.modalities)}

    def _with_values(self, fields: Mapping[str, str]) -> Mapping[str, str]:
        return fields if self._table is None else {**fields, **self._table.find(fields)}

    def _project_of(self, fields: Mapping[str, str]) -> str:
        project = self._project.render(fields)
        if not is_project_id(project):
            raise UnroutableError("the name of its project is not a project ID")
        if self._project_column is not None and fields.get(self._project_column, "") not in {"", project}:
            raise UnroutableError("-P and --label-map name different projects for it")
        return project


def _project_template(text: str, places: Mapping[str, str]) -> Template:
    template = Template.parse(text, "--project", places)
    # Fixed text must be valid as it is: the ID becomes part of addresses.
    if not all(is_project_id(literal) for literal in template.literals if literal) or not text:
        raise UsageError(f"--project {text!r} is not a project ID", hint="give letters, digits, '_' and '-'")
    return template


def _label_template(text: str, option: str, places: Mapping[str, str]) -> Template:
    if not text.strip():
        raise UsageError(f"{option}: an empty label", hint="give a template, such as {PatientID}")
    template = Template.parse(text, option, places)
    if template.is_fixed:
        try:
            label_of(template.render({}))
        except UnroutableError as error:
            raise UsageError(
                f"{option} {text!r}: {error}", hint=f"give letters, digits, '_' and '-', {LONGEST_LABEL} at most"
            ) from None
    return template


def _rules(
    project: str, subject: str, session: str, paths: PathPattern | None, table: LookupTable | None
) -> Mapping[str, str]:
    """Return the rules as texts for the journal, with invalid bytes of the command line escaped."""
    rules = {"project": project, "subject": subject, "session": session}
    if paths is not None:
        rules["path pattern"] = paths.text
    if table is not None:
        rules["map"] = table.fingerprint
    return {name: text.encode("utf-8", "backslashreplace").decode() for name, text in rules.items()}
