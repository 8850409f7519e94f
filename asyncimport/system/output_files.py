"""Files that we write or trust: used only if nobody else can have made them, replaced only if they are files.

Directories are shared, and our names can be guessed. A path may be another user's file, another's link to one of our
files, or a file that anybody may write to. Links of this user and of root are followed. Windows has no owners or modes
in this sense: there, nothing is checked.
"""

import errno
import os
import stat
import tempfile
from collections.abc import Iterator
from contextlib import contextmanager, suppress
from pathlib import Path
from typing import IO

from asyncimport.errors import UsageError

_FLAGS = getattr(os, "O_BINARY", 0) | getattr(os, "O_NOCTTY", 0)
_NO_FOLLOW = getattr(os, "O_NOFOLLOW", 0)
_ROOT = 0
# As many links as Linux follows one after the other.
_MAX_LINKS = 40
_GROUP_WRITES, _OTHERS_WRITE, _OTHERS_READ = 0o020, 0o002, 0o004
# Files that the parent process opened are our own: /dev/stdout, or >(command) of a shell.
_INHERITED = ("/proc/", "/dev/fd/")


class UntrustedError(OSError):
    """The file may be another user's; `strerror` says why, `hint` what to do."""

    def __init__(self, reason: str, path: str, hint: str) -> None:
        super().__init__(errno.EPERM, reason, path)
        self.hint = hint


@contextmanager
def output_errors(option: str, path: Path) -> Iterator[None]:
    """Report that the file of an option cannot be written. Raises: UsageError for an OSError of the block."""
    try:
        yield
    except OSError as error:
        hint = error.hint if isinstance(error, UntrustedError) else "give a file in a directory that you may write to"
        raise UsageError(f"{option} {path} cannot be written: {error.strerror}", hint=hint) from error


def real_path(path: Path) -> Path:
    """Return where a file is, or will be, behind a trusted link. Raises: UntrustedError, OSError."""
    return Path(_follow_links(path))


def open_output(path: Path, flags: int = os.O_WRONLY, *, is_public: bool = False) -> int:
    """Open a file to write to, and return its descriptor; a new file is for its owner only.

    A file of ours that others may read or write becomes private, unless it is to be public. Pipes and devices work
    too. Raises: UntrustedError, OSError.
    """
    place = _follow_links(path)
    if place.startswith(_INHERITED):
        return os.open(place, flags | _FLAGS)
    if flags & os.O_CREAT:
        with suppress(FileExistsError):
            return os.open(place, flags | os.O_EXCL | _FLAGS, 0o600)
    # Opening another user's pipe would wait for that user.
    _check_ours(os.lstat(place), place)
    file = os.open(place, flags & ~os.O_CREAT | _FLAGS | _NO_FOLLOW)
    try:
        found = _check_ours(os.fstat(file), place)
        if not is_public:
            _make_private(file, place, found)
    except BaseException:
        os.close(file)
        raise
    return file


def check_trusted(path: Path) -> None:
    """Refuse a file that others can have written; make one private that others can only read.

    A missing file is fine. It does not open the file: closing it would release this process's locks on it. Raises:
    UntrustedError, OSError.
    """
    place = _follow_links(path)
    try:
        found = os.lstat(place)
    except FileNotFoundError:
        return
    if stat.S_ISDIR(found.st_mode):
        raise IsADirectoryError(errno.EISDIR, os.strerror(errno.EISDIR), place)
    if not stat.S_ISREG(found.st_mode):
        raise UntrustedError("it is no regular file", place, "name another file")
    if not _has_owners():
        return
    _check_owner(found, place, "it")
    if found.st_nlink > 1:
        raise UntrustedError("it has another name too", place, f"give it a name of its own: cp {place} NEW")
    if found.st_mode & (_GROUP_WRITES | _OTHERS_WRITE):
        hint = f"if nobody but you has written to it: chmod go-rwx {place}"
        raise UntrustedError("others may write to it", place, hint)
    if found.st_mode & _OTHERS_READ:
        # This fails on a read-only disk, or one without modes.
        with suppress(OSError):
            os.chmod(place, found.st_mode & 0o700)  # noqa: PTH101


def check_directory(path: Path) -> None:
    """Refuse a directory in which others can create or replace the files that we trust.

    Root may use anybody's directory, as containers do; its files are checked all the same. Raises: UntrustedError,
    OSError.
    """
    if not _has_owners():
        return
    found = os.stat(path)  # noqa: PTH116 - a link to a directory is followed
    if os.geteuid() != _ROOT:
        _check_owner(found, os.fspath(path), "its directory")
    if found.st_mode & _OTHERS_WRITE:
        hint = f"choose a directory of your own, such as a new one in it: {path}/asyncimport"
        # A directory with the sticky bit, such as /tmp, is shared on purpose.
        if found.st_uid == os.geteuid() and not found.st_mode & stat.S_ISVTX:
            hint += f"; or close it: chmod o-w {path}"
        raise UntrustedError("everybody may write to its directory", os.fspath(path), hint)


def check_output(path: Path, *, is_public: bool = False) -> None:
    """Check that `replacing` will be able to write, as far as can be known before. Raises: UntrustedError, OSError."""
    place = _follow_links(path)
    try:
        found = os.stat(place)  # noqa: PTH116 - inherited files are links
    except FileNotFoundError:
        _check_writable(os.path.dirname(place) or ".")  # noqa: PTH120 - as the rest of it
        return
    if stat.S_ISREG(found.st_mode):
        os.close(open_output(path, is_public=is_public))
        if not place.startswith(_INHERITED):
            _check_writable(os.path.dirname(place) or ".")  # noqa: PTH120
    elif stat.S_ISDIR(found.st_mode):
        raise OSError(errno.EISDIR, "Is a directory", place)


def _check_writable(directory: str) -> None:
    if not os.path.isdir(directory):  # noqa: PTH112
        raise OSError(errno.ENOENT, "there is no such directory", directory)
    if not os.access(directory, os.W_OK):
        raise OSError(errno.EACCES, "its directory cannot be written to", directory)


def check_option(option: str, path: Path, *, is_public: bool = False) -> None:
    """Check, before anything else, that the file of an option can be written. Raises: UsageError."""
    with output_errors(option, path):
        check_output(path, is_public=is_public)


@contextmanager
def replacing(path: Path, *, is_public: bool = False) -> Iterator[IO[bytes]]:
    """Yield a file that replaces `path` if the block succeeds; everybody may read a public one, only its owner another.

    Readers see the old file until then, or after a failure. A pipe or a device is written to directly. Raises:
    UntrustedError, OSError.
    """
    place = _follow_links(path)
    old = None
    with suppress(FileNotFoundError):
        old = os.stat(place)  # noqa: PTH116
    if old is not None and (place.startswith(_INHERITED) or not stat.S_ISREG(old.st_mode)):
        with os.fdopen(open_output(path), "wb") as stream:
            yield stream
        return
    mode = 0o644 if is_public else 0o600
    if old is not None:
        # Do not replace a file that we may not write to. Its group may still read it if it could before.
        file = open_output(path, is_public=is_public)
        try:
            mode |= os.fstat(file).st_mode & 0o040
        finally:
            os.close(file)
    directory, name = os.path.split(place)
    number, temporary = tempfile.mkstemp(dir=directory or ".", prefix=f".{name[:100]}.")
    try:
        with os.fdopen(number, "wb") as new:
            yield new
            new.flush()
            os.fsync(new.fileno())
            if mode != 0o600 and _has_owners():
                os.fchmod(new.fileno(), mode)
        os.replace(temporary, place)  # noqa: PTH105
    except BaseException:
        with suppress(OSError):
            os.unlink(temporary)  # noqa: PTH108
        raise


def _follow_links(path: Path) -> str:
    """Return the path behind links that this user or root has made."""
    place = os.fspath(path)
    for _ in range(_MAX_LINKS):
        if place.startswith(_INHERITED):
            return place
        try:
            found = os.lstat(place)
            if not stat.S_ISLNK(found.st_mode):
                return place
            target = os.readlink(place)  # noqa: PTH115
            again = os.lstat(place)
        except FileNotFoundError:
            return place
        if (found.st_ino, found.st_ctime_ns) != (again.st_ino, again.st_ctime_ns):
            continue
        if _has_owners():
            _check_owner(found, place, "the link")
        place = os.path.join(os.path.dirname(place), target)  # noqa: PTH118, PTH120
    raise OSError(errno.ELOOP, os.strerror(errno.ELOOP), place)


def _check_ours(found: os.stat_result, place: str) -> os.stat_result:
    if not _has_owners():
        return found
    _check_owner(found, place, "it")
    if stat.S_ISREG(found.st_mode) and found.st_nlink > 1:
        # Another user may have linked a file of ours here.
        around = os.stat(os.path.dirname(place) or ".")  # noqa: PTH116, PTH120
        if around.st_uid not in {os.geteuid(), _ROOT} or around.st_mode & (_GROUP_WRITES | _OTHERS_WRITE):
            hint = "name another file, or remove this name of it"
            raise UntrustedError("it has another name too, and others may write to its directory", place, hint)
    return found


def _make_private(file: int, place: str, found: os.stat_result) -> None:
    exposed = found.st_mode & (_GROUP_WRITES | _OTHERS_WRITE | _OTHERS_READ)
    if not _has_owners() or not stat.S_ISREG(found.st_mode) or not exposed:
        return
    if found.st_uid == os.geteuid():
        # A disk without modes, such as FAT, refuses; its mount decides about access.
        with suppress(OSError):
            os.fchmod(file, found.st_mode & 0o700)
    elif exposed & (_OTHERS_WRITE | _OTHERS_READ):
        raise UntrustedError("it is root's, and open to everybody", place, "name another file")


def _has_owners() -> bool:
    return hasattr(os, "geteuid")


def _check_owner(found: os.stat_result, place: str, what: str) -> None:
    """Refuse what belongs neither to this user nor to root, who may do anything anyway."""
    if found.st_uid in {os.geteuid(), _ROOT}:
        return
    import pwd  # which Windows does not have

    try:
        owner = pwd.getpwuid(found.st_uid).pw_name
    except KeyError:
        owner = f"user {found.st_uid}"
    raise UntrustedError(f"{what} belongs to {owner}", place, "name another file, in a directory of your own")
