"""Make the rules of a run of the options of the command line."""

import re
import shlex
from collections.abc import Sequence
from contextlib import suppress
from datetime import datetime
from pathlib import Path

from asyncimport.dicom import STUDY_FIELDS
from asyncimport.errors import UsageError
from asyncimport.model.csv_table import text_of
from asyncimport.model.option import check_globs, invalid
from asyncimport.routing.accepted_patients import MAX_BYTES, NOBODY, OPTION, AcceptedPatients
from asyncimport.routing.filters import EVERYTHING, StudyFilter, glob_pattern
from asyncimport.routing.label_map import LookupTable
from asyncimport.routing.paths import PathPattern
from asyncimport.routing.plan_file import PlanRow
from asyncimport.routing.plan_reader import read_plan
from asyncimport.routing.router import Router


def rules_from(
    project: str | None,
    subject: str | None = None,
    session: str | None = None,
    path_pattern: str | None = None,
    table: Path | None = None,
    *,
    no_project: str | None = None,
    encoding: str = "",
) -> Router:
    """Make rules; `no_project` is the default project. Raises: UsageError."""
    keywords = frozenset(STUDY_FIELDS)
    paths = None if path_pattern is None else PathPattern.parse(path_pattern)
    fields = set() if paths is None else set(paths.fields)
    found = None if table is None else LookupTable.parse(_text(table, "--label-map", encoding), keywords | fields)
    if not project:
        is_named = "project" in fields or (found is not None and found.column("project") is not None)
        project = None if is_named else no_project
    return Router(project, subject, session, keywords=keywords, paths=paths, table=found, whole_studies=True)


def study_filter_from(
    modality: str | None, since: str | None, include: Sequence[str] | None, *, parts: bool
) -> StudyFilter:
    """Make a filter. Raises: UsageError."""
    day = "" if since is None else _day_of(since)
    codes = [one.strip().upper() for one in (modality or "").split(",")]
    if modality is not None and not all(re.fullmatch(r"[A-Z0-9_ ]{1,16}", one) for one in codes):
        raise invalid("--modality", modality, "codes such as MR or MR,PT")
    check_globs("--include", include or ())
    named = (("--modality", modality), ("--study-since", since), *(("--include", one) for one in include or ()))
    study_filter = StudyFilter(
        frozenset(filter(None, codes)),
        day,
        glob_pattern(include or ()),
        parts,
        text=" ".join(f"{name} {shlex.quote(value)}" for name, value in named if value),
    )
    if parts and study_filter.is_everything:
        raise UsageError(
            "--partial-studies needs a filter", hint="select series with --modality, --study-since or --include"
        )
    return study_filter


def _day_of(text: str) -> str:
    """Return the day of --study-since as headers write it: 20200131. Raises: UsageError."""
    for form in ("%Y-%m-%d", "%Y%m%d", "%Y.%m.%d"):
        with suppress(ValueError):
            return datetime.strptime(text, form).strftime("%Y%m%d")  # noqa: DTZ007 - a day of no time zone
    raise invalid("--study-since", text, "a day such as 2020-01-31")


def choice_text(modality: str | None, since: str | None, include: Sequence[str] | None) -> str:
    """Return filters as the text that a row of a plan carries."""
    named = [("modality", modality), ("since", since), *(("include", one) for one in include or ())]
    return shlex.join(f"{name}={value}" for name, value in named if value)


def study_filter_for(rows: Sequence[PlanRow], study_filter: StudyFilter) -> StudyFilter:
    """Return the filter of parts of studies that a plan was made with, or else this run's. Raises: UsageError."""
    lines = {row.choice.strip(): row.line for row in rows if not row.skip}
    if not any(lines):
        return study_filter
    if len(lines) > 1:
        raise UsageError(
            f"--plan, lines {' and '.join(map(str, sorted(lines.values())[:2]))}: two filters of parts of studies",
            hint="a run has one filter: split the plan, or make a new one",
        )
    ((text, line),) = lines.items()
    named: dict[str, list[str]] = {"modality": [], "since": [], "include": []}
    try:
        for word in shlex.split(text):
            name, _, value = word.partition("=")
            named[name].append(value)
        modality, since = ",".join(named["modality"]) or None, next(iter(named["since"]), None)
        carried = study_filter_from(modality, since, named["include"], parts=True)
    except (KeyError, ValueError, UsageError):
        raise UsageError(f"--plan, line {line}: the column choice cannot be read", hint="make a new plan") from None
    if study_filter != EVERYTHING and study_filter != carried:
        raise UsageError(
            f"--plan was made with other filters of parts ({text})",
            hint="leave out --modality, --study-since, --include and --partial-studies: the plan carries its own",
        )
    return carried


def accepted_from(table: Path | None, encoding: str = "") -> AcceptedPatients:
    """Read pairs of people that are one. Raises: UsageError."""
    if table is None:
        return NOBODY
    try:
        with table.open("rb") as file:
            return AcceptedPatients.parse(file.read(MAX_BYTES + 1), encoding)
    except OSError as error:
        raise UsageError(f"{OPTION} {table} cannot be read: {error.strerror}", hint="check the path") from error


def plan_from(path: Path, project: str | None, encoding: str = "") -> list[PlanRow]:
    """Read a plan. Raises: UsageError."""
    try:
        return read_plan(path.read_bytes(), project=project or "", encoding=encoding)
    except OSError as error:
        raise UsageError(f"--plan {path} cannot be read: {error.strerror}", hint="check the path") from error
    except UsageError as error:
        raise UsageError(f"--plan {path}: {error}", hint=error.hint) from None


def _text(table: Path, option: str, encoding: str) -> str:
    try:
        return text_of(table.read_bytes(), encoding)
    except OSError as error:
        raise UsageError(f"{option} {table} cannot be read: {error.strerror}", hint="check the path") from error
    except UsageError as error:
        raise UsageError(f"{option} {table}: {error}", hint=error.hint) from None
