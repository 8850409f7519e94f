"""Paths of the machine that runs the command, and where they are on a worker."""

import os
from collections.abc import Iterable, Sequence

from asyncimport.model.files import File
from asyncimport.model.record import record


@record
class ScanSettings:
    """What is scanned, and how. `path_map` has pairs: a directory of the command's machine, and one of a worker's."""

    places: Sequence[str]
    path_map: Sequence[tuple[str, str]] = ()
    ignore_archives: bool = False
    follow_links: bool = False
    exclude: Sequence[str] = ()
    digests: bool = False


def below(directory: str, path: str) -> str | None:
    """Return the rest of a path below a directory, with its separator; "" for the directory, None for others."""
    if path == directory:
        return ""
    rest = path.removeprefix(directory.rstrip(os.sep))
    return rest if len(rest) < len(path) + (directory == os.sep) and rest.startswith(os.sep) else None


def map_path(path: str, pairs: Iterable[tuple[str, str]]) -> str:
    """Return a path below the first directory of a pair that it is in, as it is below the second; else as it is."""
    for old, new in pairs:
        if (rest := below(old, path)) is not None:
            return f"{new.rstrip(os.sep)}{rest}" or os.sep
    return path


class PathMap:
    """Paths of the command's machine, and where they are on this one: the longest directory that fits decides.

    If several places are given for a directory, it is the first that this machine has.
    """

    def __init__(self, settings: ScanSettings) -> None:
        pairs: dict[str, str] = {}
        for there, here in settings.path_map:
            if there not in pairs or (not os.path.lexists(pairs[there]) and os.path.lexists(here)):
                pairs[there] = here
        self._pairs = sorted(pairs.items(), key=lambda pair: len(pair[0]), reverse=True)
        self.places = {place: map_path(place, self._pairs) for place in settings.places}

    def here(self, path: str) -> str:
        """Return a path of this machine."""
        # What is below a place is where the walk of the place has found it.
        return map_path(path, [*self.places.items(), *self._pairs]) if self._pairs else path

    def here_file(self, file: File) -> File:
        """Return a file with its path of this machine."""
        if not self._pairs:
            return file
        return File(self.here(file.path), file.size, file.mtime_ns, file.inode, file.ctime_ns)
