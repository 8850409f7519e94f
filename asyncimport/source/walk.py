"""The sorted walk of directories, and what links in them lead to."""

import os
import stat
import sys
from collections.abc import Iterator, Sequence
from contextlib import suppress
from functools import partial

from asyncimport.model import File, FileKind, Ignored
from asyncimport.source.headers import (
    each,
)
from asyncimport.system.mounts import DeviceCache

# The first batch is small, so that the first file is on its way at once; then a thread hop serves many files.
FIRST_BATCH = 32
# What os.fsencode goes by, at half its price.
_ENCODING, _ERRORS = sys.getfilesystemencoding(), sys.getfilesystemencodeerrors()


def _identity(directory: str) -> tuple[int, int] | str:
    """Tell one directory from another: by its real path where a file system has no numbers. Raises: OSError."""
    found = os.stat(directory)  # noqa: PTH116 - the path need not be text
    return (found.st_dev, found.st_ino) if found.st_ino else os.path.realpath(directory)


def _identities(places: Sequence[str]) -> Iterator[tuple[int, int] | str]:
    for place in places:
        with suppress(OSError):
            yield _identity(place)


class Links:
    """Which links one walk follows: those to files of the source, and with `follow` those that lead out of it too.

    Links to directories of the source are not followed, as all that is there is met in its place. No directory is
    walked twice, so that links that lead round in circles, or to one place, do no harm, and neither do places that lie
    in each other, or are one by several names.
    """

    def __init__(self, places: Sequence[str], *, follow: bool) -> None:
        self.follow = follow
        self._homes = [os.path.realpath(place) for place in places]
        self._walked: set[tuple[int, int] | str] = set()
        # Without links two walks meet in the place where one of them begins, or not at all.
        self._meeting = set(_identities(self._homes)) if len(places) > 1 else set()

    def enter(self, directory: str) -> bool:
        """Note that a directory is walked; whether it is for the first time. Raises: OSError."""
        if not (self.follow or self._meeting):
            return True
        identity = _identity(directory)
        if identity in self._walked:
            return False
        if self.follow or identity in self._meeting:
            self._walked.add(identity)
        return True

    def refuse(self, path: str, found: os.stat_result) -> Ignored | None:
        """Say why a link is not followed to what was `found` there; None when it is."""
        real = os.path.realpath(path)
        is_directory = stat.S_ISDIR(found.st_mode)
        what = "directory" if is_directory else "file"
        if any(real == home or real.startswith(os.path.join(home, "")) for home in self._homes):  # noqa: PTH118
            text = "a link to a directory of the source, where all that is in it is met"
            return Ignored(File(path, 0, 0), FileKind.INNER_LINK, text) if is_directory else None
        if self.follow or not (is_directory or stat.S_ISREG(found.st_mode)):
            return None
        return Ignored(
            File(path, 0, 0), FileKind.LINK, f"a link to a {what} outside the source; --follow-links follows it"
        )


def walk(root: str, devices: DeviceCache, links: Links) -> Iterator[File | Ignored]:
    """Pass everything below `root`, directories depth first, names in sorted order. `links` says which it follows."""
    try:
        found = os.stat(root)  # noqa: PTH116 - the path need not be text
    except OSError as error:
        yield _unreadable(root, error)
        return
    if not stat.S_ISDIR(found.st_mode):
        yield _look(root, found, devices)
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
        # Taken from the list, as each keeps what was found out about it, half a kilobyte.
        while some := [left.pop() for _ in range(min(FIRST_BATCH * together, len(left)))]:
            every, together = each(partial(_met, devices=devices, links=links), some, together)
            for entry, met in zip(some, every, strict=True):
                if met is None:
                    below.append(entry.path)
                else:
                    yield met
        directories.extend(reversed(below))


def _met(entry: os.DirEntry[str], devices: DeviceCache, links: Links) -> File | Ignored | None:
    """Return what stands in a directory, or None for a directory to be walked."""
    try:
        if entry.is_dir(follow_symlinks=False):
            return None
        found = entry.stat()
        if entry.is_symlink():
            if (refused := links.refuse(entry.path, found)) is not None:
                return refused
            if stat.S_ISDIR(found.st_mode):
                return None
        return _look(entry.path, found, devices)
    except OSError as error:
        return _unreadable(entry.path, error)


def _look(path: str, found: os.stat_result, devices: DeviceCache) -> File | Ignored:
    if stat.S_ISREG(found.st_mode):
        return File.of(path, found, has_stable_inodes=devices.keeps_inodes(path, found))
    return Ignored(File(path, 0, 0), FileKind.NOT_DICOM, "a pipe, socket or device")


def _unreadable(path: str, error: OSError) -> Ignored:
    reason = (error.strerror or "cannot be read").lower()
    return Ignored(File(path, 0, 0), FileKind.UNREADABLE, reason, damaged=True)
