"""Which XNAT, which login, and the IDs of the projects that a command names."""

from collections.abc import Awaitable, Callable, Collection, Mapping
from contextlib import AbstractAsyncContextManager
from pathlib import Path

from asyncimport.errors import AsyncimportError, ProjectMissingError, ProjectReadOnlyError
from asyncimport.model.record import record
from asyncimport.pacing.load import Load
from asyncimport.pacing.monitor import OutageMonitor
from asyncimport.xnat.client import Client, connect
from asyncimport.xnat.login import Credentials
from asyncimport.xnat.transport import Timeouts


@record
class Server:
    """An XNAT: its address with the context path, a login, and how to check its certificate.

    `ca_bundle` is a PEM file of the authorities to trust. Without `verify_certificate`, any certificate is accepted.
    """

    host: str
    credentials: Credentials
    ca_bundle: Path | None = None
    verify_certificate: bool = True

    def connect(
        self,
        *,
        connections: int = 16,
        timeouts: Timeouts | None = None,
        max_rate: float | None = None,
        times_link: bool = False,
        monitor: OutageMonitor | None = None,
        load: Load | None = None,
    ) -> AbstractAsyncContextManager[Client]:
        """Log in, and out at the end. Raises: LoginRefusedError, UnavailableError, UsageError."""
        return connect(
            self.host,
            self.credentials,
            connections=connections,
            timeouts=timeouts,
            max_rate=max_rate,
            times_link=times_link,
            monitor=monitor,
            load=load,
            ca_bundle=self.ca_bundle,
            verify=self.verify_certificate,
        )


ProjectIds = Mapping[str, str | AsyncimportError]
"""The ID of each project, or why it is closed to this user, by the name that it was given."""


async def find_project_ids(names: Collection[str], find: Callable[[str], Awaitable[str]]) -> ProjectIds:
    """Return the ID of each project, or why it is closed.

    Raises: ProjectMissingError, ProjectReadOnlyError when the only project is closed, UnavailableError.
    """
    ids: dict[str, str | AsyncimportError] = {}
    for name in names:
        try:
            ids[name] = await find(name)
        except (ProjectMissingError, ProjectReadOnlyError) as error:
            if len(names) == 1:
                raise
            ids[name] = error
    return ids
