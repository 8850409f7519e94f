"""The sorted walk of directories, and what happens with links in them."""

import os
import stat
import sys
from collections.abc import Iterator, Sequence
from contextlib import suppress
from functools import partial

from asyncimport.model.files import File, Ignored
from asyncimport.model.states import FileKind
from asyncimport.source.headers import map_together
from asyncimport.system.mounts import DeviceCache

# The first batch is small, so that the first file is sent at once; later, one thread hop serves many files.
FIRST_BATCH = 32
# Encoding with these costs half as much as os.fsencode.
_ENCODING, _ERRORS = sys.getfilesystemencoding(), sys.getfilesystemencodeerrors()


def _identity(directory: str) -> tuple[int, int] | str:
    """Return what identifies a directory: its real path where a file system has no inodes. Raises: OSError."""
    found = os.stat(directory)  # noqa: PTH116 - the path need not be text
    return (found.st_dev, found.st_ino) if found.st_ino else os.path.realpath(directory)


def _identities(places: Sequence[str]) -> Iterator[tuple[int, int] | str]:
    for place in places:
        with suppress(OSError):
            yield _identity(place)


class LinkPolicy:
    """Which links a walk follows: those to files of the source and, with `follow`, those that lead out of it too.

    It does not follow links to directories of the source, which the walk visits anyway. It walks no directory twice, so
    circular links do no harm, nor do places that contain each other or are one by several names.
    """

    def __init__(self, places: Sequence[str], *, follow: bool) -> None:
        self.follow = follow
        self._homes = [os.path.realpath(place) for place in places]
        self._walked: set[tuple[int, int] | str] = set()
        # Without links, two walks can meet only where one of them begins.
        self._start_points = set(_identities(self._homes)) if len(places) > 1 else set()

    def enter(self, directory: str) -> bool:
        """Note that a directory is walked; whether it is for the first time. Raises: OSError."""
        if not (self.follow or self._start_points):
            return True
        identity = _identity(directory)
        if identity in self._walked:
            return False
        if self.follow or identity in self._start_points:
            self._walked.add(identity)
        return True

    def refusal(self, path: str, found: os.stat_result) -> Ignored | None:
        """Return why a link to `found` is not followed; None if it is."""
        real = os.path.realpath(path)
        is_directory = stat.S_ISDIR(found.st_mode)
        what = "directory" if is_directory else "file"
        if any(real == home or real.startswith(os.path.join(home, "")) for home in self._homes):  # noqa: PTH118
            text = "a link to a directory of the source, whose files are found there"
            return Ignored(File(path, 0, 0), FileKind.INNER_LINK, text) if is_directory else None
        if self.follow or not (is_directory or stat.S_ISREG(found.st_mode)):
            return None
        return Ignored(
            File(path, 0, 0), FileKind.LINK, f"a link to a {what} outside the source; --follow-links follows it"
        )


def walk(root: str, devices: DeviceCache, links: LinkPolicy) -> Iterator[File | Ignored]:
    """Yield everything below `root`, directories depth first, names in sorted order."""
    try:
        found = os.stat(root)  # noqa: PTH116 - the path need not be text
    except OSError as error:
        yield _unreadable(root, error)
        return
    if not stat.S_ISDIR(found.st_mode):
        yield _inspect_file(root, found, devices)
        return
    directories, together = [root], 1
    while directories:
        path = directories.pop()
        try:
            if not links.enter(path):
                continue
            with os.scandir(path) as entries:
                left = sorted(entries, key=lambda entry: entry.name.encode(_ENCODING, _ERRORS), reverse=True)
        except OSError as error:
            yield _unreadable(path, error)
            continue
        below = []
        # Entries leave the list early, as each keeps half a kilobyte of cached data.
        while some := [left.pop() for _ in range(min(FIRST_BATCH * together, len(left)))]:
            every, together = map_together(partial(_inspect_entry, devices=devices, links=links), some, together)
            for entry, met in zip(some, every, strict=True):
                if met is None:
                    below.append(entry.path)
                else:
                    yield met
        directories.extend(reversed(below))


def _inspect_entry(entry: os.DirEntry[str], devices: DeviceCache, links: LinkPolicy) -> File | Ignored | None:
    try:
        if entry.is_dir(follow_symlinks=False):
            return None
        found = entry.stat()
        if entry.is_symlink():
            if (refused := links.refusal(entry.path, found)) is not None:
                return refused
            if stat.S_ISDIR(found.st_mode):
                return None
        return _inspect_file(entry.path, found, devices)
    except OSError as error:
        return _unreadable(entry.path, error)


def _inspect_file(path: str, found: os.stat_result, devices: DeviceCache) -> File | Ignored:
    if stat.S_ISREG(found.st_mode):
        return File.of(path, found, has_stable_inodes=devices.keeps_inodes(path, found))
    return Ignored(File(path, 0, 0), FileKind.NOT_DICOM, "a pipe, socket or device")


def _unreadable(path: str, error: OSError) -> Ignored:
    reason = (error.strerror or "cannot be read").lower()
    if isinstance(error, PermissionError):
        reason += ": check its permissions"
    return Ignored(File(path, 0, 0), FileKind.UNREADABLE, reason, damaged=True)
