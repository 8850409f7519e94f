"""The rules of one run, put together."""

from collections import defaultdict
from collections.abc import Callable, Iterable, Mapping
from copy import copy
from functools import lru_cache, partial

from asyncimport.errors import UsageError
from asyncimport.model import Session
from asyncimport.model.texts import nfc
from asyncimport.routing.existing_sessions import NO_SESSIONS, ExistingSessions
from asyncimport.routing.label_map import LookupTable
from asyncimport.routing.labels import (
    LONGEST_LABEL,
    DisputedError,
    UnroutableError,
    is_project_id,
    label_of,
)
from asyncimport.routing.numbering import Member, Numbering
from asyncimport.routing.paths import PathPattern
from asyncimport.routing.studies import WHOLE_STUDY, Study, in_order, is_dated, modality_of
from asyncimport.routing.templates import Template

DEFAULT_SUBJECT = "{PatientID}"
DEFAULT_SESSION = "{PatientID}_{StudyDate}"

# Files of a session mostly come one after the other, those of a few sessions in turns.
_REMEMBERED = 1024


class Router:
    """The rules of one run: which session a file belongs to.

    `keywords` are the DICOM keywords that templates may use: those that are the same for a whole study. A template that
    is None is taken from the lookup table, or else from the path pattern, or else is the default. The table's fields
    must be these keywords and those of the path pattern. `whole_studies` offers the fields that only `resolve` decides.
    Raises: UsageError for what no file could satisfy.
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
                    f"--path-pattern: {{{name}}} is a field of the study already", hint="give it another name"
                )
        offered = keywords.union(WHOLE_STUDY) if whole_studies else keywords
        places = {
            **dict.fromkeys(offered, "the header"),
            **dict.fromkeys(self._path_fields, "the path"),
            **dict.fromkeys(columns, "--label-map"),
        }
        if project is None and (project := self._given_elsewhere("project")) is None:
            raise UsageError("no project", hint="name it with -P")
        subject = self._given_elsewhere("subject") or DEFAULT_SUBJECT if subject is None else subject
        session = self._given_elsewhere("session") or DEFAULT_SESSION if session is None else session
        self._project = _project_template(project, places)
        self._subject = _label_template(subject, "--subject", places)
        self._session = _label_template(session, "--session", places)
        for option, template in (("--project", self._project), ("--subject", self._subject)):
            if "StudyIndex" in template.names:
                raise UsageError(
                    f"{option}: {{StudyIndex}} counts the studies of a subject", hint="only --session can have it"
                )
        self._used = self._project.names | self._subject.names | self._session.names
        self._beside = self._project_beside()
        self._counts = "StudyIndex" in self._session.names
        needed = self._used if table is None else self._used | set(table.keys)
        self._decisive = needed - set(columns) - set(WHOLE_STUDY)
        self._keywords = tuple(sorted(self._decisive & keywords))
        self.rules = _rules(project, subject, session, paths, table)
        self._remembered = lru_cache(maxsize=_REMEMBERED)(self._session_of)

    def _given_elsewhere(self, label: str) -> str | None:
        if self._table is not None and (column := self._table.column(label)) is not None:
            return f"{{{column}}}"
        return f"{{{label}}}" if label in self._path_fields else None

    def _project_beside(self) -> str | None:
        """Return the table's column of projects if it is to be compared with what the header gives, file by file.

        Raises: UsageError when it says something else than the one project that is named.
        """
        column = None if self._table is None else self._table.column("project")
        if self._table is None or column is None or column in self._project.names:
            return None
        if (project := self.project) is not None:
            # Once for all, and before an alias of it may become its ID.
            line = next((line for line, value in self._table.values(column) if value != project), None)
            if line is not None:
                raise UsageError(
                    f"the project is {project!r} by -P, ASYNCIMPORT_PROJECT or a profile, and another one by line "
                    f"{line} of --label-map",
                    hint=f"leave one of them out; -P '{{{column}}}' goes by --label-map, whatever else names a project",
                )
            return None
        return column

    @property
    def project(self) -> str | None:
        """The project, if it is the same for all files."""
        return self._project.render({}) if self._project.is_fixed else None

    def with_project(self, project: str) -> "Router":
        """Return these rules with another name for the project: its ID in place of an alias."""
        other = copy(self)
        other.rules = {**self.rules, "project": project}
        other._project = Template.parse(project, "--project", {})  # noqa: SLF001 - a copy of itself
        other._remembered = lru_cache(maxsize=_REMEMBERED)(other._session_of)  # noqa: SLF001 - as above
        return other

    @property
    def one_session(self) -> bool:
        """Whether every file would get the same session label, so that two studies are bound to collide."""
        return self._session.is_fixed

    @property
    def needs_path(self) -> bool:
        """Whether a file cannot be routed without its path."""
        return self._paths is not None

    @property
    def needs_name(self) -> bool:
        """Whether files of one directory may go to different sessions for their names."""
        return self._paths is not None and self._paths.needs_name

    @property
    def needs_whole_study(self) -> bool:
        """Whether some label is not decided before all studies are known: `route` cannot be called then."""
        return not self._used.isdisjoint(WHOLE_STUDY)

    @property
    def counts_studies(self) -> bool:
        """Whether labels count the studies of a subject."""
        return self._counts

    @property
    def session_depth(self) -> int | None:
        """How many directories below the source root decide the session label, so that none other has the same session.

        None if it takes more than directories to decide, or if two of them may give the same; see `PathPattern.depth`.
        """
        verbatim = self._session.verbatim
        if self._paths is None or not self._session.names <= verbatim & set(self._path_fields):
            return None
        return self._paths.depth(verbatim, verbatim | self._subject.verbatim | self._project.verbatim)

    def route(self, study_uid: str, fields: Mapping[str, str], path: str = "") -> Session:
        """Return the session of a file with these header fields, and this path relative to the source root.

        Raises: UnroutableError when a field is missing or nothing usable is left of a label, or when the path or the
        table does not know the file.
        """
        if self._paths is None:
            return self._remembered(study_uid, *map(fields.get, self._keywords))
        return self._remembered(study_uid, *map(fields.get, self._keywords), *self._paths.match(path))

    def study(self, study_uid: str, fields: Mapping[str, str], path: str = "") -> Study:
        """Return what a file with these header fields, and this path, tells of its study.

        Raises: UnroutableError when the path does not match; all else is for `resolve` to say.
        """
        values = () if self._paths is None else self._paths.match(path)
        names = {*self._keywords, "StudyDate", "StudyTime"}
        known = {name: nfc(value) for name in names if (value := fields.get(name, ""))}
        # What differs in each name, such as a number, and decides nothing, would make each file a fact of its own.
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
        given: ExistingSessions = NO_SESSIONS,
        tell: Callable[[str, str], None] = lambda _, __: None,
    ) -> dict[str, Session | UnroutableError]:
        """Decide all studies: return the session of each by its UID, or why it has none.

        A study may come in any number of pieces, in any order. For labels that whole studies decide, what has a session
        already (`given`) keeps its label, and `{StudyIndex}` goes on from there; whose place in the order of dates is
        taken by then is told (`tell`, by UID). All studies of a subject must be among them, as each counts, also one
        whose label cannot be made.
        """
        whole: dict[str, Study] = {}
        for study in studies:
            known = whole.get(study.uid)
            whole[study.uid] = study if known is None else known.joined(study)
        decided: dict[str, Session | UnroutableError] = {}
        subjects: dict[tuple[str, str], list[tuple[str, Member]]] = defaultdict(list)
        for uid, study in whole.items():
            try:
                fields = self._fields_of(study)
                project, subject = self._project_of(fields), label_of(self._subject.render(fields))
                has = given.session_of(project, uid) if self.needs_whole_study else None
                if has is not None:
                    decided[uid] = Session(project, subject, has.label, uid)
                elif not self._counts:
                    decided[uid] = Session(project, subject, self._label(fields, 0), uid)
                if self._counts:
                    order = ("", "", uid) if has is not None and not is_dated(study) else in_order(study)
                    subjects[project, subject.lower()].append((subject, Member(order, fields)))
            except UnroutableError as error:
                decided[uid] = error
        for (project, subject), members in subjects.items():
            numbering = Numbering(project, given, self._label, partial(self._session.number_in, "StudyIndex"), tell)
            new = [member for _, member in members if member.study_uid not in decided]
            kept = [member for _, member in members if member.study_uid in decided]
            labels = numbering.labels(new, kept, given.of_subject(project, subject))
            for spelt, member in members:
                made = labels.get(member.study_uid)
                if made is not None:
                    uid = member.study_uid
                    decided[uid] = Session(project, spelt, made, uid) if isinstance(made, str) else made
        return decided

    def _label(self, fields: Mapping[str, str], number: int) -> str:
        return label_of(self._session.render({**fields, "StudyIndex": str(number)}))

    def _session_of(self, study_uid: str, *values: str | None) -> Session:
        if self.needs_whole_study:
            raise TypeError("these labels need whole studies: gather them with `study`, and `resolve` them")
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
            raise UnroutableError("what is named as its project is not a project ID")
        if self._beside is not None and fields.get(self._beside, "") not in {"", project}:
            raise UnroutableError("-P and --label-map name two projects for it")
        return project


def _project_template(text: str, places: Mapping[str, str]) -> Template:
    template = Template.parse(text, "--project", places)
    # What stands fast must be right as it is written: an ID becomes part of addresses.
    if not all(is_project_id(literal) for literal in template.literals if literal) or not text:
        raise UsageError(
            f"{text!r} is not a project ID", hint="XNAT's project IDs consist of letters, digits, '_' and '-'"
        )
    return template


def _label_template(text: str, option: str, places: Mapping[str, str]) -> Template:
    if not text.strip():
        raise UsageError(f"{option}: an empty label")
    template = Template.parse(text, option, places)
    if template.is_fixed:
        try:
            label_of(template.render({}))
        except UnroutableError as error:
            raise UsageError(
                f"{option} {text!r}: {error}",
                hint=f"labels are letters, digits, '_' and '-', {LONGEST_LABEL} at most",
            ) from None
    return template


def _rules(
    project: str, subject: str, session: str, paths: PathPattern | None, table: LookupTable | None
) -> Mapping[str, str]:
    """Return everything that decides, as texts that a journal can keep: odd bytes of a command line are escaped."""
    rules = {"project": project, "subject": subject, "session": session}
    if paths is not None:
        rules["path pattern"] = paths.text
    if table is not None:
        rules["map"] = table.fingerprint
    return {name: text.encode("utf-8", "backslashreplace").decode() for name, text in rules.items()}
