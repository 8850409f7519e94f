"""The files that a worker sees, by the paths of the machine that runs the command."""

import os
from collections.abc import Sequence
from functools import partial

from asyncimport.cluster.path_map import PathMap, ScanSettings
from asyncimport.dicom import Identity
from asyncimport.errors import SourceError
from asyncimport.model.files import Body, File, Ignored
from asyncimport.source.folder import FileSource


class WorkerReader:
    """Reads files for the stage that sends, on a worker. Making it blocks."""

    def __init__(self, settings: ScanSettings) -> None:
        self.paths = PathMap(settings)
        self.seen = {place: here for place, here in self.paths.places.items() if os.path.lexists(here)}
        make = partial(
            FileSource,
            list(self.seen.values()),
            ignore_archives=settings.ignore_archives,
            follow_links=settings.follow_links,
            digests=settings.digests,
            exclude=settings.exclude,
        )
        # A process reads headers from the first file on: a file that kills it must not kill this one. It would end with
        # the walk, so the walk is that of another source.
        self.source, self.walked = make(files_before_worker=0), make()

    @property
    def read_ahead(self) -> int:
        """Bytes of bodies that are worth reading at once; 0 for one file at a time."""
        return self.source.read_ahead

    async def read(self, files: Sequence[File]) -> list[Body | SourceError]:
        """Read bodies as `FileSource.read` does."""
        return await self.source.read([self.paths.here_file(file) for file in files])

    def identify(self, file: File) -> Identity | Ignored:
        """Identify one file. It blocks."""
        found = self.source.identify(self.paths.here_file(file))
        return found if isinstance(found, Identity) else Ignored(file, found.kind, found.reason, damaged=found.damaged)
