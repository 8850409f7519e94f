"""What `asyncimport attach` does: gather files by resource, fill the resources, and tell what became of each file.

With `-o json` one object stands on standard output, also after failures:

    {"host": "...", "exit_code": 0, "error": null, "dry_run": false,
     "attachments": {"total": 0, "stored": 0, "sent": 0, "refused": 0, "failed": 0, "left": 0},
     "details": [{"path": "a.pdf", "project": "P", "subject": null, "session": "E", "study_uid": null, "scan": null,
                  "resource": "REPORTS", "name": "a.pdf", "bytes": 1, "state": "stored", "sent": true, "md5": "...",
                  "reason": null}],
     "flaws": [{"line": 3, "column": "path", "problem": "...", "hint": "...", "warning": false}]}

`stored` are those that the archive was seen to hold in the end, `sent` those of them that were not there before.
"""

import os
import stat
from collections import Counter
from collections.abc import Iterable, Iterator, Sequence
from contextlib import AsyncExitStack
from dataclasses import dataclass, field, replace
from pathlib import Path

import anyio
import anyio.to_thread
from rich.console import Console
from rich.text import Text

from asyncimport.cli.output import plain
from asyncimport.cli.running import stopped_by
from asyncimport.errors import (
    AsyncimportError,
    ProjectMissingError,
    ProjectReadOnlyError,
    RefusedError,
    TransientError,
    UnavailableError,
    UsageError,
    worst,
)
from asyncimport.model import Attachment, AttachmentState, Enclosure, File, Filed, Place, Resource
from asyncimport.model.csv_table import Flaw, label_flaw
from asyncimport.model.events import Enclosed, Event
from asyncimport.model.options import Options
from asyncimport.pipeline.attachments import Pile, enclose
from asyncimport.routing import check_resource, name_in_resource, unfit
from asyncimport.routing.attachment_file import AttachRow, read_attachments
from asyncimport.source.folder import Folder
from asyncimport.xnat.client import Client, Credentials, connect
from asyncimport.xnat.resources import Resources
from asyncimport.xnat.site import check_project

__all__ = ["AttachResult", "AttachTask", "as_json", "carry_out", "gathered", "given", "show"]

_SHOWN = 20
_STEP = 500
# How many places are looked up at a time.
_LOOK_UPS = 8


@dataclass(frozen=True, slots=True)
class AttachTask:
    """What is asked for, and where."""

    host: str
    credentials: Credentials
    ca_bundle: Path | None
    verify: bool
    dry_run: bool
    replace: bool
    zips: bool
    event_reason: str


@dataclass(slots=True)
class AttachResult:
    """What there is to tell: of what was given, and of each file that was come to."""

    enclosures: list[Enclosure] = field(default_factory=list)
    flaws: list[Flaw] = field(default_factory=list)
    filed: list[tuple[Resource, Filed]] = field(default_factory=list)
    signal: int | None = None
    error: AsyncimportError | None = None

    @property
    def total(self) -> int:
        """How many files there are to be attached."""
        return sum(len(one.attachments) for one in self.enclosures)

    @property
    def code(self) -> int:
        """The exit code."""
        if self.error is not None:
            return self.error.exit_code
        if self.signal is not None:
            return 128 + self.signal
        bad = {AttachmentState.REFUSED, AttachmentState.FAILED}
        return (
            8 if any(not one.is_warning for one in self.flaws) or any(one.state in bad for _, one in self.filed) else 0
        )


def given(
    files: Sequence[Path], said: AttachRow, table: Path | None, *, whole_project: bool, encoding: str = ""
) -> tuple[list[AttachRow], list[Flaw]]:
    """Return what is to be attached, of a table or of the command line, and what of it cannot be.

    Rows of a table take the project and the resource of the command line where they name none. All else stands in it.

    Raises: UsageError.
    """
    place = said.place
    if (table is None) == (not files):
        raise UsageError("give files, or a table of files", hint="FILE... with --session, or --table FILE.csv")
    if table is not None:
        _check_beside_table(said, whole_project=whole_project)
        try:
            data = table.read_bytes()
        except OSError as error:
            raise UsageError(f"{table} cannot be read: {error.strerror}", hint="check the path") from error
        try:
            rows, flaws = read_attachments(data, project=place.project, resource=said.resource, encoding=encoding)
        except UsageError as error:
            raise UsageError(f"{table}: {error}", hint=error.hint) from None
        return [replace(row, path=str(table.parent / row.path)) for row in rows], flaws
    if not place.project:
        raise UsageError("no project", hint="name it with -P")
    if not said.resource:
        raise UsageError("no resource", hint="name it with --resource, as in --resource REPORTS")
    check_resource(said.resource, "--resource")
    for option, label in (("-P", place.project), ("--subject", place.subject), ("--session", place.session)):
        if flaw := label_flaw(label):
            raise UsageError(f"{option}: {flaw} is in no label of XNAT's", hint="copy it as XNAT shows it")
    if place.scan and not place.session:
        raise UsageError("--scan without a session", hint="name it with --session")
    if whole_project == bool(place.session or place.subject):
        raise UsageError(
            "--to-project goes with no other level" if whole_project else "nothing says what the files belong to",
            hint="give --session, or --session with --scan, or --subject, or --to-project",
        )
    return [replace(said, path=str(path)) for path in files], []


def _check_beside_table(said: AttachRow, *, whole_project: bool) -> None:
    """Refuse options that say of files what a table says of each row. Raises: UsageError."""
    place = said.place
    options = {
        "--session": (place.session, "session_label"),
        "--subject": (place.subject, "subject_label"),
        "--scan": (place.scan, "scan"),
        "--to-project": ("project" if whole_project else "", "level"),
        "--format": (said.format, "format"),
        "--content": (said.content, "content"),
        "--tags": (said.tags, "tags"),
    }
    for option, (value, column) in options.items():
        if value:
            raise UsageError(f"{option} goes with files, not with --table", hint=f"name it in the column {column}")


def gathered(rows: Sequence[AttachRow], flaws: list[Flaw]) -> list[Enclosure]:
    """Look at the files, and gather them by resource; what cannot be sent is added to `flaws`."""
    found: dict[tuple[Place, str], tuple[list[str], dict[str, Attachment]]] = {}
    key = 0
    for row in rows:
        for one in _files(row):
            if isinstance(one, Flaw):
                flaws.append(one)
                continue
            file, path = one
            name = name_in_resource(row.name or path.replace(os.sep, "/"))
            tags, names = found.setdefault((row.place, row.resource), ([], {}))
            tags += [row.tags] if row.tags and row.tags not in tags else []
            if why := unfit(name, file.size):
                flaws.append(Flaw(row.line, "path", f"{plain(file.path)}: {why}", "leave it out"))
            elif name in names and names[name].file == file:
                continue
            elif name in names:
                what = f"{plain(file.path)} and {plain(names[name].file.path)} would both be {name} there"
                flaws.append(Flaw(row.line, "name", what, "give one of them another name, in the column name"))
            else:
                key += 1
                names[name] = Attachment(key, file, name, row.format, row.content)
    return [
        Enclosure(Resource(place, label, ",".join(tags)), tuple(names.values()))
        for (place, label), (tags, names) in found.items()
        if names
    ]


def _files(row: AttachRow) -> Iterator[tuple[File, str] | Flaw]:
    """Yield the files of a row, a directory's all below it, each with its name relative to that, and what is none.

    Links below a directory are followed to files in it only: whoever may write there could name any file.
    """
    unread: list[str] = []
    paths = [row.path]
    # As elsewhere: pathlib would change what was given.
    is_directory = os.path.isdir(row.path)  # noqa: PTH112
    if is_directory:
        walk = os.walk(row.path, onerror=lambda error: unread.append(error.filename))
        names = ((directory, name) for directory, below, files in walk for name in (*files, *_links(directory, below)))
        paths = sorted(os.path.join(directory, name) for directory, name in names)  # noqa: PTH118
    for path in paths:
        if is_directory and (flaw := _link(row, path)) is not None:
            yield flaw
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
        yield Flaw(row.line, "path", f"{plain(path)} is no file, or cannot be read", "check the path")


def _links(directory: str, below: Iterable[str]) -> Iterator[str]:
    """Yield the links among the directories in a directory, which os.walk does not follow."""
    return (name for name in below if os.path.islink(os.path.join(directory, name)))  # noqa: PTH114, PTH118


def _link(row: AttachRow, path: str) -> Flaw | None:
    """Say why a link in a directory is not followed; None when it is, or leads nowhere, or is none."""
    if not os.path.islink(path) or not os.path.exists(path):  # noqa: PTH110, PTH114
        return None
    real, home = os.path.realpath(path), os.path.realpath(row.path)
    what = "directory" if os.path.isdir(path) else "file"  # noqa: PTH112
    if not real.startswith(os.path.join(home, "")) and real != home:  # noqa: PTH118
        text = f"{plain(path)} is a link to a {what} outside {plain(row.path)}"
        return Flaw(row.line, "path", text, "name it itself, or leave it out")
    if what == "directory":
        text = f"{plain(path)} is a link to a directory that is met in its place"
        return Flaw(row.line, "path", text, is_warning=True)
    return None


async def carry_out(task: AttachTask, result: AttachResult, err: Console | None) -> None:
    """Log in, see that the projects are open, and fill the resources."""

    def report(event: Event) -> None:
        if isinstance(event, Enclosed):
            before = len(result.filed) // _STEP
            result.filed += [(event.resource, one) for one in event.filed]
            if err is not None and len(result.filed) // _STEP > before:
                err.print(Text(f"{len(result.filed):,} of {result.total:,} files"))

    with stopped_by(result) as stop:
        async with AsyncExitStack() as stack:
            with stop.at_once():
                there = connect(
                    task.host, task.credentials, connections=16, ca_bundle=task.ca_bundle, verify=task.verify
                )
                client = await stack.enter_async_context(there)
                cabinet = Resources(
                    client,
                    replace=task.replace,
                    zips=task.zips,
                    event_reason=task.event_reason,
                    dry_run=task.dry_run,
                )
                waiting = await _located(cabinet, await _open(client, result), result)
            if stop.requested:
                return
            source = await anyio.to_thread.run_sync(Folder, [])
            await enclose(source, cabinet, Pile(waiting), options=Options(), report=report, stop=stop)


async def _open(client: Client, result: AttachResult) -> list[Enclosure]:
    """Return what goes into projects that are open to this user, under their IDs; the others refuse theirs.

    Raises: ProjectMissingError, ProjectReadOnlyError when there is one project only, UnavailableError.
    """
    projects = list(dict.fromkeys(one.resource.place.project for one in result.enclosures))
    names: dict[str, str] = {}
    closed: dict[str, str] = {}
    for project in projects:
        try:
            names[project] = await check_project(client, project)
        except (ProjectMissingError, ProjectReadOnlyError) as error:
            if len(projects) == 1:
                raise
            closed[project] = str(error)
    waiting = []
    for one in result.enclosures:
        resource = one.resource
        if why := closed.get(resource.place.project):
            result.filed += [(resource, Filed(each, AttachmentState.REFUSED, why)) for each in one.attachments]
        else:
            place = replace(resource.place, project=names[resource.place.project])
            waiting.append(replace(one, resource=replace(resource, place=place)))
    return waiting


async def _located(cabinet: Resources, waiting: Sequence[Enclosure], result: AttachResult) -> list[Enclosure]:
    """Look up what the resources belong to, and return what can be sent; the rest is refused, or fails.

    A place may be named in several ways, as a session with its subject or without: of two files that would go to one
    address under one name the first goes, and the other is refused, whatever may be replaced there.
    Raises: UnavailableError.
    """
    places = iter(dict.fromkeys(one.resource.place for one in waiting))
    found: dict[Place, str | RefusedError | TransientError] = {}

    async def look() -> None:
        for place in places:
            try:
                found[place] = await cabinet.locate(place)
            except RefusedError as error:
                found[place] = error
            except TransientError as error:
                if error.unreachable:
                    raise UnavailableError(str(error), hint="run the command again when the server is back") from error
                found[place] = error

    try:
        async with anyio.create_task_group() as tasks:
            for _ in range(_LOOK_UPS):
                tasks.start_soon(look)
    except BaseExceptionGroup as errors:
        raise worst(errors) from None
    taken: dict[tuple[str, str, str], File] = {}
    left = []
    for one in waiting:
        resource, address = one.resource, found[one.resource.place]
        if not isinstance(address, str):
            state = AttachmentState.REFUSED if isinstance(address, RefusedError) else AttachmentState.FAILED
            result.filed += [(resource, Filed(each, state, str(address))) for each in one.attachments]
            continue
        sound = []
        for each in one.attachments:
            first = taken.setdefault((address, resource.label, each.name), each.file)
            if first == each.file:
                sound.append(each)
            else:
                why = f"{plain(first.path)} goes there under this name"
                result.filed.append((resource, Filed(each, AttachmentState.REFUSED, why)))
        if sound:
            left.append(replace(one, attachments=tuple(sound)))
    return left


def _counts(result: AttachResult, *, dry_run: bool) -> dict[str, int]:
    states = Counter(one.state for _, one in result.filed)
    pending = states[AttachmentState.PENDING]
    return {
        "total": result.total,
        "stored": states[AttachmentState.STORED],
        "sent": sum(one.sent for _, one in result.filed),
        "refused": states[AttachmentState.REFUSED],
        "failed": states[AttachmentState.FAILED],
        "left": result.total - len(result.filed) + (pending if dry_run else 0),
    }


def as_json(host: str | None, result: AttachResult, *, dry_run: bool) -> dict[str, object]:
    """Return the object of `-o json`."""
    error = result.error
    return {
        "host": host,
        "exit_code": result.code,
        "error": None if error is None else {"message": str(error), "hint": error.hint or None},
        "dry_run": dry_run,
        "attachments": _counts(result, dry_run=dry_run),
        "details": [_detail(resource, one) for resource, one in result.filed],
        "flaws": [
            {
                "line": flaw.line or None,
                "column": plain(flaw.column) or None,
                "problem": flaw.text,
                "hint": flaw.hint or None,
                "warning": flaw.is_warning,
            }
            for flaw in result.flaws
        ],
    }


def _detail(resource: Resource, filed: Filed) -> dict[str, object]:
    place, file = resource.place, filed.attachment.file
    return {
        "path": plain(file.path),
        "project": place.project,
        "subject": place.subject or None,
        "session": place.session or None,
        "study_uid": place.study_uid or None,
        "scan": place.scan or None,
        "resource": resource.label,
        "name": filed.attachment.name,
        "bytes": file.size,
        "state": filed.state.value.lower(),
        "sent": filed.sent,
        "md5": filed.md5,
        "reason": filed.reason,
    }


def show(out: Console, result: AttachResult, *, dry_run: bool) -> None:
    """Write what became of the files, for people."""
    for flaw in result.flaws[:_SHOWN]:
        column = f", {plain(flaw.column)}" if flaw.column else ""
        line = f"line {flaw.line}{column}: " if flaw.line else ""
        out.print(Text(f"  {'warning' if flaw.is_warning else 'not sent'}: {line}{flaw.text} ({flaw.hint})"))
    if len(result.flaws) > _SHOWN:
        out.print(Text(f"  and {len(result.flaws) - _SHOWN:,} more: see -o json"))
    if not result.enclosures:
        return
    counts = _counts(result, dry_run=dry_run)
    there = counts["stored"] - counts["sent"]
    words = {"sent": counts["sent"], "there already": there, "refused": counts["refused"], "failed": counts["failed"]}
    words["would be sent" if dry_run else "left"] = counts["left"]
    told = ", ".join(f"{count:,} {word}" for word, count in words.items() if count)
    out.print(Text(f"{counts['total']:,} files: {told}", style="bold"))
    pending = {resource: None for resource, one in result.filed if one.reason and one.state is AttachmentState.PENDING}
    lines = [f"would be made: {plain(_where(resource))}" for resource in pending]
    lines += [
        f"{one.state.value.lower()}: {plain(f'{_where(resource)} / {one.attachment.name}')}: {plain(one.reason)}"
        for resource, one in result.filed
        if one.reason and one.state is not AttachmentState.PENDING
    ]
    for line in lines[:_SHOWN]:
        out.print(Text(f"  {line}"))
    if len(lines) > _SHOWN:
        out.print(Text(f"  and {len(lines) - _SHOWN:,} more: see -o json"))
    pairs = [(os.path.basename(one.attachment.file.path), one.attachment.name) for _, one in result.filed]  # noqa: PTH119
    renamed = [(own, name) for own, name in pairs if name.rpartition("/")[2] != own]
    if renamed:
        names = f"{plain(renamed[0][0])} is {renamed[0][1]} there"
        out.print(Text(f"  renamed: {len(renamed):,} names, as XNAT changes some characters of them: {names}"))


def _where(resource: Resource) -> str:
    place = resource.place
    labels = [place.project, place.subject, place.session or place.study_uid, place.scan, resource.label]
    return " / ".join(label for label in labels if label)
