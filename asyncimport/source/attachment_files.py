"""Files to attach, as a table or a command line names them: found on disk and grouped by resource."""

import os
import stat
from collections.abc import Iterable, Iterator, Sequence
from dataclasses import replace
from pathlib import Path

from asyncimport.errors import UsageError
from asyncimport.model.attachments import Attachment, AttachmentBatch, Resource, ResourceOwner
from asyncimport.model.csv_table import TableIssue
from asyncimport.model.files import File
from asyncimport.model.label_syntax import label_problem
from asyncimport.model.texts import plain
from asyncimport.routing.attachment_file import AttachRow, read_attachments
from asyncimport.routing.attachments import check_resource, name_in_resource, name_problem


def read_attach_rows(
    files: Sequence[Path], options: AttachRow, table: Path | None, *, whole_project: bool, encoding: str = ""
) -> tuple[list[AttachRow], list[TableIssue]]:
    """Return the rows to attach, of a table or the command line, and the table's issues. Raises: UsageError."""
    owner = options.owner
    if (table is None) == (not files):
        raise UsageError("give files, or a table of files", hint="give FILE... with --session, or --table FILE.csv")
    if table is not None:
        _check_options_with_table(options, whole_project=whole_project)
        try:
            data = table.read_bytes()
        except OSError as error:
            raise UsageError(f"--table {table} cannot be read: {error.strerror}", hint="check the path") from error
        try:
            rows, issues = read_attachments(data, project=owner.project, resource=options.resource, encoding=encoding)
        except UsageError as error:
            raise UsageError(f"--table {table}: {error}", hint=error.hint) from None
        return [replace(row, path=str(table.parent / row.path)) for row in rows], issues
    if not owner.project:
        raise UsageError("no project", hint="name it with -P")
    if not options.resource:
        raise UsageError("no resource", hint="name it with --resource, as in --resource REPORTS")
    check_resource(options.resource, "--resource")
    for option, label in (("-P", owner.project), ("--subject", owner.subject), ("--session", owner.session)):
        if issue := label_problem(label):
            raise UsageError(f"invalid {option} {label!r}: {issue}", hint="copy the label as XNAT shows it")
    if owner.scan and not owner.session:
        raise UsageError("--scan without a session", hint="name it with --session")
    if whole_project == bool(owner.session or owner.subject):
        raise UsageError(
            "--to-project goes with no other level" if whole_project else "nothing says what the files belong to",
            hint="give --session, or --session with --scan, or --subject, or --to-project",
        )
    return [replace(options, path=str(path)) for path in files], []


def _check_options_with_table(options: AttachRow, *, whole_project: bool) -> None:
    columns = {
        "--session": (options.owner.session, "session_label"),
        "--subject": (options.owner.subject, "subject_label"),
        "--scan": (options.owner.scan, "scan"),
        "--to-project": ("project" if whole_project else "", "level"),
        "--format": (options.format, "format"),
        "--content": (options.content, "content"),
        "--tags": (options.tags, "tags"),
    }
    for option, (value, column) in columns.items():
        if value:
            raise UsageError(f"{option} goes with files, not with --table", hint=f"name it in the column {column}")


def group_by_resource(rows: Sequence[AttachRow], issues: list[TableIssue]) -> list[AttachmentBatch]:
    """Find the files, by resource; add those not to be sent to `issues`. Raises: UsageError when none is left."""
    found: dict[tuple[ResourceOwner, str], tuple[list[str], dict[str, Attachment]]] = {}
    key = 0
    for row in rows:
        for one in _find_files(row):
            if isinstance(one, TableIssue):
                issues.append(one)
                continue
            file, path = one
            name = name_in_resource(row.name or path.replace(os.sep, "/"))
            tags, names = found.setdefault((row.owner, row.resource), ([], {}))
            tags += [row.tags] if row.tags and row.tags not in tags else []
            if why := name_problem(name, file.size):
                issues.append(TableIssue(row.line, "path", f"{plain(file.path)}: {why}", "leave it out"))
            elif name in names and names[name].file == file:
                continue
            elif name in names:
                what = f"{plain(file.path)} and {plain(names[name].file.path)} would both be {name} there"
                issues.append(TableIssue(row.line, "name", what, "give one of them another name, in the column name"))
            else:
                key += 1
                names[name] = Attachment(key, file, name, row.format, row.content)
    batches = [
        AttachmentBatch(Resource(place, label, ",".join(tags)), tuple(names.values()))
        for (place, label), (tags, names) in found.items()
        if names
    ]
    if not batches:
        hint = next((issue.hint for issue in issues if issue.hint), "check the paths")
        raise UsageError("no file can be attached", hint=hint)
    return batches


def _find_files(row: AttachRow) -> Iterator[tuple[File, str] | TableIssue]:
    """Yield the files of a row, or an issue; links in a directory only if they stay in it: others may make links."""
    unread: list[str] = []
    paths = [row.path]
    # pathlib would change the path as given.
    is_directory = os.path.isdir(row.path)  # noqa: PTH112
    if is_directory:
        walk = os.walk(row.path, onerror=lambda error: unread.append(error.filename))
        names = (
            (directory, name)
            for directory, below, files in walk
            for name in (*files, *_directory_links(directory, below))
        )
        paths = sorted(os.path.join(directory, name) for directory, name in names)  # noqa: PTH118
    for path in paths:
        if is_directory and (issue := _link_issue(row, path)) is not None:
            yield issue
            continue
        try:
            found = os.stat(path)  # noqa: PTH116
            if not stat.S_ISREG(found.st_mode):
                raise OSError  # noqa: TRY301
        except (OSError, ValueError):
            unread.append(path)
            continue
        name = os.path.relpath(path, row.path) if path != row.path else os.path.basename(path)  # noqa: PTH119
        yield File(os.path.abspath(path), found.st_size, found.st_mtime_ns), name  # noqa: PTH100
    for path in unread or ([] if paths else [row.path]):
        yield TableIssue(row.line, "path", f"{plain(path)} is no file, or cannot be read", "check the path")


def _directory_links(directory: str, below: Iterable[str]) -> Iterator[str]:
    """Yield the links among the subdirectories of a directory, which os.walk does not follow."""
    return (name for name in below if os.path.islink(os.path.join(directory, name)))  # noqa: PTH114, PTH118


def _link_issue(row: AttachRow, path: str) -> TableIssue | None:
    """Return why a link in a directory is not followed; None if it is followed, broken, or no link."""
    if not os.path.islink(path) or not os.path.exists(path):  # noqa: PTH110, PTH114
        return None
    real, home = os.path.realpath(path), os.path.realpath(row.path)
    what = "directory" if os.path.isdir(path) else "file"  # noqa: PTH112
    if not real.startswith(os.path.join(home, "")) and real != home:  # noqa: PTH118
        text = f"{plain(path)} is a link to a {what} outside {plain(row.path)}"
        return TableIssue(row.line, "path", text, "name it itself, or leave it out")
    if what == "directory":
        text = f"{plain(path)} is a link to a directory that is met in its place"
        return TableIssue(row.line, "path", text, is_warning=True)
    return None
