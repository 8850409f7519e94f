"""Where journals lie, and which one is meant."""

import hashlib
import re
from pathlib import Path
from urllib.parse import urlsplit

import platformdirs

from asyncimport.errors import JournalError, UsageError
from asyncimport.journal import JournalReader


def state_directory(state_dir: Path | None) -> Path:
    """Return where journals lie."""
    return state_dir or platformdirs.user_state_path("asyncimport", appauthor=False)


def journal_path(host: str, project: str, state_dir: Path | None) -> Path:
    """Return the journal for this server and this value of -P. The name tells them to people, the digest apart."""
    readable = _readable(f"{urlsplit(host).netloc}-{project}")[:80]
    digest = hashlib.sha256(f"{host}\n{project}".encode()).hexdigest()[:8]
    return state_directory(state_dir) / f"{readable}-{digest}.journal"


def journal_of(host: str, named: str, project: str, state_dir: Path | None, journal: Path | None) -> tuple[Path, str]:
    """Return the journal of a run into a project, and the project that it is bound to.

    An alias has the journal of its project, but where an older version of this program has begun one for the alias.
    """
    if journal is not None:
        return journal, project
    path, old = journal_path(host, project, state_dir), journal_path(host, named, state_dir)
    return (old, named) if named != project and old.exists() and not path.exists() else (path, project)


def server_of(journal: Path) -> str:
    """Return the address of the server that a journal is of. Raises: JournalError."""
    with JournalReader.open(journal) as reader:
        return reader.metadata()["destination"]


def _readable(text: str) -> str:
    return re.sub(r"[^A-Za-z0-9.-]+", "_", text)


def select_journal(
    host: str | None, project: str | None, state_dir: Path | None, journal: Path | None
) -> tuple[Path, str | None, list[Path]]:
    """Return the journal that is meant, the project if that is one of several of it, and others that have a part of it.

    Raises: UsageError, JournalError.
    """
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
            raise _nothing_of(project, server, [path])
        # The project may be named by an alias.
        names = {project, about["rule project"]} if is_whole else {project}
        found = (one for one in _journals(path.parent) if one != path)
        others = [one for one in found if any(_is_of(one, server, name) for name in names)]
    return path, project if is_part else None, others


def find_journal(host: str | None, project: str | None, state_dir: Path | None, journal: Path | None) -> Path:
    """Return the journal that is meant: the one named, that of server and project, or the only one there is.

    Raises: UsageError.
    """
    if journal is not None:
        return journal
    directory = state_directory(state_dir)
    if host and project:
        path = journal_path(host.rstrip("/"), project, state_dir)
        others = [] if path.exists() else _journals(directory)
        found = [other for other in others if _is_of(other, host.rstrip("/"), project)]
        if len(found) == 1:
            return found[0]
        if found:
            raise UsageError(
                f"there are {len(found)} journals with sessions of project {project}",
                hint=f"name one of them with --journal: {_listed(found)}",
            )
        if others:
            raise _nothing_of(project, host, others)
        return path
    server = f"{_readable(urlsplit(host).netloc)}-" if host else ""
    found = _journals(directory, server)
    if len(found) == 1:
        return found[0]
    if not found:
        raise UsageError(f"there is no journal in {directory}", hint="nothing was uploaded from here yet")
    raise UsageError(
        f"there are {len(found)} journals",
        hint=f"name server and project with --host and -P, or one of these with --journal: {_listed(found)}",
    )


def _nothing_of(project: str, host: str, others: list[Path]) -> UsageError:
    return UsageError(
        f"nothing was uploaded to project {project} on {host} from here",
        hint=f"check --host, -P and --profile, or name one of these journals with --journal: {_listed(others)}",
    )


def _is_of(path: Path, host: str, project: str) -> bool:
    """Whether a journal, of that server, is of a project: by another name of that, or as one of several."""
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
