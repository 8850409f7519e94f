"""Where journals lie, and which one is meant."""

import hashlib
import re
from pathlib import Path
from urllib.parse import urlsplit

import platformdirs

from asyncimport.errors import UsageError

__all__ = ["existing_journal", "journal_path", "state_directory"]


def state_directory(state_dir: Path | None) -> Path:
    """Return where journals lie."""
    return state_dir or platformdirs.user_state_path("asyncimport", appauthor=False)


def journal_path(host: str, project: str, state_dir: Path | None) -> Path:
    """Return the journal for this server and this value of -P. The name tells them to people, the digest apart."""
    readable = _readable(f"{urlsplit(host).netloc}-{project}")[:80]
    digest = hashlib.sha256(f"{host}\n{project}".encode()).hexdigest()[:8]
    return state_directory(state_dir) / f"{readable}-{digest}.journal"


def _readable(text: str) -> str:
    return re.sub(r"[^A-Za-z0-9.-]+", "_", text)


def existing_journal(host: str | None, project: str | None, state_dir: Path | None, journal: Path | None) -> Path:
    """Return the journal that is meant: the one named, that of server and project, or the only one there is.

    Raises: UsageError.
    """
    if journal is not None:
        return journal
    if host and project:
        return journal_path(host.rstrip("/"), project, state_dir)
    server = f"{_readable(urlsplit(host).netloc)}-" if host else ""
    found = sorted(state_directory(state_dir).glob(f"{server}*.journal"))
    if len(found) == 1:
        return found[0]
    if not found:
        raise UsageError(
            f"there is no journal in {state_directory(state_dir)}", hint="nothing was uploaded from here yet"
        )
    raise UsageError(
        f"there are {len(found)} journals",
        hint="name server and project with --host and -P, or one of these with --journal: "
        + ", ".join(str(path) for path in found),
    )
