"""The cluster that a request names, and its source."""

import os
from collections.abc import AsyncIterator, Callable, Sequence
from contextlib import AbstractAsyncContextManager, asynccontextmanager
from pathlib import Path
from typing import TYPE_CHECKING, Any, Protocol

import anyio.to_thread

from asyncimport.errors import UsageError
from asyncimport.model.events import Event
from asyncimport.model.option import invalid
from asyncimport.model.texts import plain
from asyncimport.pacing.shutdown import Stop

if TYPE_CHECKING:
    from asyncimport.cluster.connect import Cluster
    from asyncimport.cluster.source import ClusterSource
    from asyncimport.source.folder import FileSource


class ClusterRequest(Protocol):
    """A request that may name a cluster, and what of a source it scans: see `ClusterOptions` and `ScanOptions`."""

    # They are properties, as requests are frozen.
    @property
    def sources(self) -> Sequence[Path]: ...  # noqa: D102 - see above
    @property
    def dask(self) -> str | None: ...  # noqa: D102 - see above
    @property
    def path_map(self) -> Sequence[str]: ...  # noqa: D102 - see above
    @property
    def ignore_archives(self) -> bool: ...  # noqa: D102 - see above
    @property
    def follow_links(self) -> bool: ...  # noqa: D102 - see above
    @property
    def exclude(self) -> Sequence[str]: ...  # noqa: D102 - see above


def check_cluster(request: ClusterRequest) -> None:
    """Refuse what names no cluster, and a map of paths without one. Raises: UsageError."""
    if request.dask is not None:
        from asyncimport.cluster.specs import parse_spec

        parse_spec(request.dask)
    elif request.path_map:
        raise UsageError("--path-map is for the workers of --dask", hint="add --dask, or leave it out")
    _path_map(request)


def _path_map(request: ClusterRequest) -> list[tuple[str, str]]:
    pairs = []
    for text in request.path_map:
        here, _, there = text.partition("=")
        if not (os.path.isabs(here) and os.path.isabs(there)):  # noqa: PTH117 - they are texts
            raise invalid("--path-map", text, "two absolute paths, such as /mnt/a=/data/a")
        pairs.append((os.path.normpath(here), os.path.normpath(there)))
    return pairs


def open_cluster(
    request: ClusterRequest, report: Callable[[Event], None], *, insecure: bool, stop: Stop, client: Any = None
) -> "AbstractAsyncContextManager[Cluster]":
    """Connect to the cluster of a request, or through a client of Dask.

    Raises: UsageError, UnavailableError, StoppedError.
    """
    from asyncimport.cluster.connect import connect
    from asyncimport.cluster.specs import parse_spec

    spec = client if client is not None else parse_spec(request.dask or "")
    return connect(spec, insecure=insecure, report=report, stop=stop)


@asynccontextmanager
async def open_cluster_source(
    cluster: "Cluster",
    request: ClusterRequest,
    report: Callable[[Event], None],
    *,
    stop: Stop,
    digests: bool = False,
    is_partial: bool = False,
) -> "AsyncIterator[ClusterSource]":
    """Yield the source of a request, as the workers see it.

    Raises: UsageError when none of them sees a part of it, or a map is for a part only.
    """
    from asyncimport.cluster.path_map import ScanSettings, below
    from asyncimport.cluster.source import open_source

    def settings() -> ScanSettings:
        places = [os.path.abspath(source) for source in request.sources]  # noqa: PTH100 - Path.resolve would follow links
        path_map = _path_map(request)
        for here, there in path_map:
            # The walk of a place would never meet what lies elsewhere on the worker.
            if any(below(place, here) for place in places):
                hint = "give the parts of SOURCE one by one, or mount them below each other"
                raise UsageError(f"--path-map {plain(here)}={plain(there)} is for a part of SOURCE", hint=hint)
        return ScanSettings(
            places=places,
            path_map=path_map,
            ignore_archives=request.ignore_archives,
            follow_links=request.follow_links,
            exclude=tuple(request.exclude),
            digests=digests,
        )

    found = await anyio.to_thread.run_sync(settings)
    async with open_source(cluster, found, report, is_partial=is_partial, stop=stop) as source:
        yield source


@asynccontextmanager
async def open_any_source(
    request: ClusterRequest,
    here: "Callable[[], FileSource]",
    report: Callable[[Event], None],
    *,
    insecure: bool,
    stop: Stop,
    is_partial: bool = False,
    client: Any = None,
) -> "AsyncIterator[FileSource | ClusterSource]":
    """Yield the source of a request as workers see it, or as this machine does: `here` returns that, and blocks.

    Raises: UsageError, UnavailableError, StoppedError.
    """
    if request.dask is None and client is None:
        yield await anyio.to_thread.run_sync(here)
        return
    async with (
        open_cluster(request, report, insecure=insecure, stop=stop, client=client) as cluster,
        open_cluster_source(cluster, request, report, stop=stop, is_partial=is_partial) as source,
    ):
        yield source
