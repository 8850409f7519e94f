"""Which XNAT, and which login."""

from contextlib import AbstractAsyncContextManager
from dataclasses import dataclass
from pathlib import Path

from asyncimport.pacing.monitor import OutageMonitor
from asyncimport.xnat.client import Client, connect
from asyncimport.xnat.login import Credentials
from asyncimport.xnat.transport import Timeouts


@dataclass(frozen=True, slots=True)
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
        monitor: OutageMonitor | None = None,
    ) -> AbstractAsyncContextManager[Client]:
        """Log in, and out at the end; see `xnat.client.connect`.

        Raises: LoginRefusedError, UnavailableError, UsageError.
        """
        return connect(
            self.host,
            self.credentials,
            connections=connections,
            timeouts=timeouts,
            max_rate=max_rate,
            monitor=monitor,
            ca_bundle=self.ca_bundle,
            verify=self.verify_certificate,
        )
