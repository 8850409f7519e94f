"""Where journals are, and which one a command uses."""

import hashlib
import re
from collections.abc import Iterator
from contextlib import ExitStack, contextmanager, suppress
from pathlib import Path
from urllib.parse import urlsplit

import platformdirs

from asyncimport.errors import JournalError, UsageError
from asyncimport.journal import JournalReader


def state_directory(state_dir: Path | None) -> Path:
    """Return the directory of journals."""
    return state_dir or platformdirs.user_state_path("asyncimport", appauthor=False)


def journal_path(host: str, project: str, state_dir: Path | None) -> Path:
    """Return the journal for this server and this value of -P. People read its name; the digest makes it unique."""
    readable = _readable(f"{urlsplit(host).netloc}-{project}")[:80]
    digest = hashlib.sha256(f"{host}\n{project}".encode()).hexdigest()[:8]
    return state_directory(state_dir) / f"{readable}-{digest}.journal"


def run_journal(host: str, named: str, project: str, state_dir: Path | None, journal: Path | None) -> tuple[Path, str]:
    """Return the journal of a run into a project, and the project that it is bound to.

    An alias shares the journal of its project, unless an older version of this program began one for the alias.
    """
    if journal is not None:
        return journal, project
    path, old = journal_path(host, project, state_dir), journal_path(host, named, state_dir)
    return (old, named) if named != project and old.exists() and not path.exists() else (path, project)


@contextmanager
def readable_journal(path: Path) -> Iterator[JournalReader | None]:
    """Open a journal to read; None if it does not exist, or cannot be read: the run itself reports that."""
    with ExitStack() as stack:
        reader = None
        if path.exists():
            with suppress(JournalError, UsageError):
                opened = stack.enter_context(JournalReader.open(path))
                opened.metadata()
                reader = opened
        yield reader


def journal_server(journal: Path) -> str:
    """Return the address of the server that a journal belongs to. Raises: JournalError."""
    with JournalReader.open(journal) as reader:
        return reader.metadata()["destination"]


def _readable(text: str) -> str:
    return re.sub(r"[^A-Za-z0-9.-]+", "_", text)


def select_journal(
    host: str | None, project: str | None, state_dir: Path | None, journal: Path | None
) -> tuple[Path, str | None, list[Path]]:
    """Return the journal, the project if it is a part, and others that have it. Raises: UsageError, JournalError."""
    path = find_journal(host, project, state_dir, journal)
    if not project:
        return path, None, []
    with JournalReader.open(path) as reader:
        about = reader.metadata()
        is_whole = project == about["rule project"] or f"alias {project}" in about
        is_part = not is_whole and reader.has_project(project)
    others = []
    if journal is None:
        server = about["destination"]
        if not (is_whole or is_part):
            raise _nothing_uploaded(project, server, [path])
        # The project may be named by an alias.
        names = {project, about["rule project"]} if is_whole else {project}
        found = (one for one in _journals(path.parent) if one != path)
        others = [one for one in found if any(_has_project(one, server, name) for name in names)]
    return path, project if is_part else None, others


def find_journal(host: str | None, project: str | None, state_dir: Path | None, journal: Path | None) -> Path:
    """Return the given journal, or that of server and project, or the only one that exists. Raises: UsageError."""
    if journal is not None:
        return journal
    directory = state_directory(state_dir)
    if host and project:
        path = journal_path(host.rstrip("/"), project, state_dir)
        others = [] if path.exists() else _journals(directory)
        found = [other for other in others if _has_project(other, host.rstrip("/"), project)]
        if len(found) == 1:
            return found[0]
        if found:
            raise UsageError(
                f"{len(found)} journals have sessions of project {project}",
                hint=f"name one of them with --journal: {_listed(found)}",
            )
        if others:
            raise _nothing_uploaded(project, host, others)
        return path
    server = f"{_readable(urlsplit(host).netloc)}-" if host else ""
    found = _journals(directory, server)
    if len(found) == 1:
        return found[0]
    if not found:
        raise UsageError(f"there is no journal in {directory}", hint="upload first, or check --state-dir")
    raise UsageError(
        f"there are {len(found)} journals",
        hint=f"name server and project with --host and -P, or one of these with --journal: {_listed(found)}",
    )


def _nothing_uploaded(project: str, host: str, others: list[Path]) -> UsageError:
    return UsageError(
        f"nothing was uploaded to project {project} on {host} from here",
        hint=f"check --host, -P and --profile, or name one of these journals with --journal: {_listed(others)}",
    )


def _has_project(path: Path, host: str, project: str) -> bool:
    """Whether a journal of this server has this project: under an alias, or as one of several."""
    try:
        with JournalReader.open(path) as reader:
            about = reader.metadata()
            return about["destination"] == host and (f"alias {project}" in about or reader.has_project(project))
    except (JournalError, UsageError):
        return False


def _journals(directory: Path, beginning: str = "") -> list[Path]:
    return sorted(directory.glob(f"{beginning}*.journal"))


def _listed(paths: list[Path]) -> str:
    return ", ".join(str(path) for path in paths)
