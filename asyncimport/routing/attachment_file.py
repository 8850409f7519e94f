"""Tables of attachments, as CSV. Pure: no disk.

A row names a file and the owner of its resource: a session (by its label or its StudyInstanceUID), a scan of it, a
subject, or, with `level` project, the project. If a row has a `level`, its other columns must fit.
"""

from collections.abc import Mapping

from asyncimport.errors import UsageError
from asyncimport.model.attachments import ResourceOwner
from asyncimport.model.csv_table import TableIssue, normalized, records, text_of, unescape_cell
from asyncimport.model.label_syntax import label_problem
from asyncimport.model.record import record
from asyncimport.routing.attachments import check_resource

_COLUMNS: Mapping[str, tuple[str, ...]] = {
    "path": ("file", "fpath", "filename"),
    "project_id": ("project",),
    "subject_label": ("subject",),
    "session_label": ("session", "experiment_label", "experiment"),
    "study_uid": ("StudyInstanceUID",),
    "scan": ("scan_id",),
    "level": (),
    "resource": ("resource_label",),
    "name": (),
    "format": ("file_format",),
    "content": ("file_content",),
    "tags": ("file_tags",),
}
_COLUMN_OF = {normalized(name): column for column, others in _COLUMNS.items() for name in (column, *others)}
_LABELS = ("project_id", "subject_label", "session_label")
_LEVELS = frozenset({"project", "subject", "session", "scan"})
_WHERE = "give session_label or study_uid, or subject_label, or `project` in the column level"


@record
class AttachRow:
    """A file (`path` as in the table), its resource, and its metadata; with `name` "" it keeps its name."""

    line: int
    path: str
    owner: ResourceOwner
    resource: str
    name: str = ""
    format: str = ""
    content: str = ""
    tags: str = ""


def read_attachments(
    data: bytes, *, project: str = "", resource: str = "", encoding: str = ""
) -> tuple[list[AttachRow], list[TableIssue]]:
    """Return the valid rows, and the issues of the others; `project` and `resource` are those of rows without one.

    Raises: UsageError without a header that has a column path.
    """
    table = records(text_of(data, encoding), _COLUMN_OF, "the table")
    _, names = next(table, (0, []))
    columns = [_COLUMN_OF.get(normalized(name), "") for name in names]
    if "path" not in columns:
        raise UsageError(
            "the table has no column path", hint="name the columns in its first line: " + ", ".join(_COLUMNS)
        )
    if doubled := [name for name, column in zip(names, columns, strict=True) if column and columns.count(column) > 1]:
        raise UsageError(f"the table has several columns for one thing: {', '.join(doubled)}", hint="keep one of them")
    issues = [
        TableIssue(1, name, "an unknown column", "its values are not sent", is_warning=True)
        for name, column in zip(names, columns, strict=True)
        if name.strip() and not column
    ]
    named = max((place for place, name in enumerate(names, 1) if name.strip()), default=0)
    rows: list[AttachRow] = []
    for line, cells in table:
        if len(cells) > len(names) or any(cell.strip() for cell in cells[named:]):
            # A delimiter in a cell has split it, and the cells after it are one column further on.
            text = f"{len(cells)} cells, but the header names {named}"
            issues.append(TableIssue(line, "", text, "put cells with a delimiter into quotes"))
            continue
        values = {column: unescape_cell(cell).strip() for column, cell in zip(columns, cells, strict=False) if column}
        values["project_id"] = values.get("project_id") or project
        values["resource"] = values.get("resource") or resource
        row = _row(line, values)
        (issues if isinstance(row, TableIssue) else rows).append(row)  # type: ignore[arg-type]
    return rows, issues


def _row(line: int, values: Mapping[str, str]) -> AttachRow | TableIssue:
    value = {column: values.get(column, "") for column in _COLUMNS}
    for column in ("path", "project_id", "resource"):
        if not value[column]:
            return TableIssue(line, column, "is empty", "give path, project_id and resource in each row")
    for column in _LABELS:
        if issue := label_problem(value[column]):
            return TableIssue(line, column, f"{issue} is not allowed in labels", "copy the label as XNAT shows it")
    try:
        check_resource(value["resource"], "resource")
    except UsageError as error:
        return TableIssue(line, "resource", str(error), error.hint)
    level = value["level"].casefold()
    of_session = bool(value["session_label"] or value["study_uid"])
    if level and level not in _LEVELS:
        return TableIssue(line, "level", "is not a level", "give project, subject, session or scan, or nothing")
    if level == "project" and (of_session or value["subject_label"] or value["scan"]):
        return TableIssue(line, "level", "a file of the project has no subject, session or scan", _WHERE)
    if not of_session and not value["subject_label"] and level != "project":
        return TableIssue(line, "session_label", "no owner of the file", _WHERE)
    if value["scan"] and not of_session:
        return TableIssue(line, "scan", "a scan belongs to a session", _WHERE)
    named_level = "scan" if value["scan"] else "session" if of_session else "subject"
    if level not in {"", "project", named_level}:
        text = f"is {level}, but the other columns name a {named_level}"
        return TableIssue(line, "level", text, "clear the level, or the columns that do not belong to it")
    place = ResourceOwner(
        *(value[name] for name in ("project_id", "subject_label", "session_label", "study_uid", "scan"))
    )
    said = {name: value[name] for name in ("name", "format", "content", "tags")}
    return AttachRow(line, value["path"], place, value["resource"], **said)
