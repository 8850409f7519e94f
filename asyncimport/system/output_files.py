"""Files that we write or go by: used only where nobody else can have made them, and replaced only if they are files.

Directories are shared, and our names can be guessed. What stands under such a name may be another user's file, a link
of his to one of ours, or a file that anybody may write to. Links of one's own are followed, and so are root's. Windows
has neither owners nor modes in this sense: there, nothing is checked.
"""

import errno
import os
import stat
import tempfile
from collections.abc import Iterator
from contextlib import contextmanager, suppress
from pathlib import Path
from typing import IO

_FLAGS = getattr(os, "O_BINARY", 0) | getattr(os, "O_NOCTTY", 0)
_NO_FOLLOW = getattr(os, "O_NOFOLLOW", 0)
_ROOT = 0
# As many links as Linux follows one after the other.
_MOST_LINKS = 40
_GROUP_WRITES, _OTHERS_WRITE, _OTHERS_READ = 0o020, 0o002, 0o004
# What a process has been given open, by whoever started it, is its own: /dev/stdout, or >(command) of a shell.
_GIVEN = ("/proc/", "/dev/fd/")


class UntrustedError(OSError):
    """What stands there may be another's; `strerror` says why, `hint` what to do."""

    def __init__(self, reason: str, path: str, hint: str) -> None:
        super().__init__(errno.EPERM, reason, path)
        self.hint = hint


def advice(error: OSError, otherwise: str) -> str:
    """Return the hint of an error, or another where it has none."""
    return error.hint if isinstance(error, UntrustedError) else otherwise


def real_path(path: Path) -> Path:
    """Return where a file is, or is to be made: its last name may be a link, which is followed if it is trusted.

    Raises: UntrustedError, OSError.
    """
    return Path(_followed(path))


def open_output(path: Path, flags: int = os.O_WRONLY) -> int:
    """Open a file that is written to, for its owner only if it is new, and return its descriptor.

    A file of ours that others may read or write becomes its owner's only. Pipes and devices are as good as files.
    Raises: UntrustedError, OSError.
    """
    place = _followed(path)
    if place.startswith(_GIVEN):
        return os.open(place, flags | _FLAGS)
    if flags & os.O_CREAT:
        with suppress(FileExistsError):
            return os.open(place, flags | os.O_EXCL | _FLAGS, 0o600)
    # To open another's pipe would wait for him.
    _checked(os.lstat(place), place)
    file = os.open(place, flags & ~os.O_CREAT | _FLAGS | _NO_FOLLOW)
    try:
        _make_private(file, place, _checked(os.fstat(file), place))
    except BaseException:
        os.close(file)
        raise
    return file


def check_trusted(path: Path) -> None:
    """Refuse a file that we go by, if others can have written it; one that others can only read becomes private.

    One that does not exist is fine. The file is not opened: to close it would release the locks that this process has
    on it. Raises: UntrustedError, OSError.
    """
    place = _followed(path)
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
        # Where that cannot be, the disk is read-only, or knows no modes.
        with suppress(OSError):
            os.chmod(place, found.st_mode & 0o700)  # noqa: PTH101


def check_directory(path: Path) -> None:
    """Refuse a directory in which others can put, or exchange, the files that we go by.

    Root may use anybody's, as containers do; the files in it are looked at all the same.
    Raises: UntrustedError, OSError.
    """
    if not _has_owners():
        return
    found = os.stat(path)  # noqa: PTH116 - a link to a directory is followed
    if os.geteuid() != _ROOT:
        _check_owner(found, os.fspath(path), "its directory")
    if found.st_mode & _OTHERS_WRITE:
        hint = f"choose a directory of your own, such as a new one in it: {path}/asyncimport"
        # What has the sticky bit, as /tmp has, is shared on purpose.
        if found.st_uid == os.geteuid() and not found.st_mode & stat.S_ISVTX:
            hint += f"; or close it: chmod o-w {path}"
        raise UntrustedError("everybody may write to its directory", os.fspath(path), hint)


def check_output(path: Path) -> None:
    """See that `replacing` will find a place that it can write to, as far as that can be told before.

    Raises: UntrustedError, OSError.
    """
    place = _followed(path)
    try:
        found = os.stat(place)  # noqa: PTH116 - what is given to the process is a link
    except FileNotFoundError:
        _check_writable(os.path.dirname(place) or ".")  # noqa: PTH120 - as the rest of it
        return
    if stat.S_ISREG(found.st_mode):
        os.close(open_output(path))
        if not place.startswith(_GIVEN):
            _check_writable(os.path.dirname(place) or ".")  # noqa: PTH120
    elif stat.S_ISDIR(found.st_mode):
        raise OSError(errno.EISDIR, "Is a directory", place)


def _check_writable(directory: str) -> None:
    if not os.path.isdir(directory):  # noqa: PTH112
        raise OSError(errno.ENOENT, "there is no such directory", directory)
    if not os.access(directory, os.W_OK):
        raise OSError(errno.EACCES, "its directory cannot be written to", directory)


@contextmanager
def replacing(path: Path) -> Iterator[IO[bytes]]:
    """Give a file to write that takes the place of `path` when the block has ended well, for its owner only.

    Whoever reads meanwhile, or after a failure, sees the old one whole. A pipe or a device is written to as it is.
    Raises: UntrustedError, OSError.
    """
    place = _followed(path)
    old = None
    with suppress(FileNotFoundError):
        old = os.stat(place)  # noqa: PTH116
    if old is not None and (place.startswith(_GIVEN) or not stat.S_ISREG(old.st_mode)):
        with os.fdopen(open_output(path), "wb") as stream:
            yield stream
        return
    mode = 0o600
    if old is not None:
        # It is not for us to replace what we may not write to. What its owner lets his group read stays so.
        file = open_output(path)
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


def _followed(path: Path) -> str:
    """Return the name that a path leads to, past links that we, or root, have made."""
    place = os.fspath(path)
    for _ in range(_MOST_LINKS):
        if place.startswith(_GIVEN):
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


def _checked(found: os.stat_result, place: str) -> os.stat_result:
    """Refuse what is another's."""
    if not _has_owners():
        return found
    _check_owner(found, place, "it")
    if stat.S_ISREG(found.st_mode) and found.st_nlink > 1:
        # Another may have given a file of ours this name.
        around = os.stat(os.path.dirname(place) or ".")  # noqa: PTH116, PTH120
        if around.st_uid not in {os.geteuid(), _ROOT} or around.st_mode & (_GROUP_WRITES | _OTHERS_WRITE):
            hint = "name another file, or remove this name of it"
            raise UntrustedError("it has another name too, and others may write to its directory", place, hint)
    return found


def _make_private(file: int, place: str, found: os.stat_result) -> None:
    """Take from others what they may do with a file; what its owner lets his group read stays so."""
    exposed = found.st_mode & (_GROUP_WRITES | _OTHERS_WRITE | _OTHERS_READ)
    if not _has_owners() or not stat.S_ISREG(found.st_mode) or not exposed:
        return
    if found.st_uid == os.geteuid():
        # A disk without modes, such as a FAT, refuses; whoever mounted it decided who may do what.
        with suppress(OSError):
            os.fchmod(file, found.st_mode & 0o700)
    elif exposed & (_OTHERS_WRITE | _OTHERS_READ):
        raise UntrustedError("it is root's, and open to everybody", place, "name another file")


def _has_owners() -> bool:
    return hasattr(os, "geteuid")


def _check_owner(found: os.stat_result, place: str, what: str) -> None:
    """Refuse what is neither ours nor root's, who may do what he likes anyway."""
    if found.st_uid in {os.geteuid(), _ROOT}:
        return
    import pwd  # which Windows does not have

    try:
        owner = pwd.getpwuid(found.st_uid).pw_name
    except KeyError:
        owner = f"user {found.st_uid}"
    raise UntrustedError(f"{what} belongs to {owner}", place, "name another file, in a directory of your own")
