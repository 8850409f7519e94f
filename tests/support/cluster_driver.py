"""One upload by workers that are there already, as a process of its own: it can be killed.

python cluster_driver.py URL TREE JOURNAL SCHEDULER LEASE_SECONDS SETTLE_SECONDS ADDRESS...
"""

import sys
from collections.abc import AsyncIterator, Callable
from dataclasses import dataclass
from functools import partial
from pathlib import Path

import anyio
from builders import upload
from distributed import Client

from asyncimport.cluster.actor import ActorLink
from asyncimport.model.events import Event, Notice
from asyncimport.model.options import Options
from asyncimport.model.ports import FileReader
from asyncimport.source.folder import FileSource


@dataclass
class KnownWorkers:
    """Workers by their addresses."""

    client: Client
    addresses: list[str]
    lease_seconds: float
    open_files: Callable[[], FileReader]

    async def joined(self) -> AsyncIterator[ActorLink]:
        """Yield each; nobody joins later."""
        for number, address in enumerate(self.addresses, 1):
            yield ActorLink(self.client, address, f"worker {number}")
        await anyio.sleep_forever()


async def main(*words: str) -> None:
    """Upload, and print notices."""
    url, tree, journal, scheduler, lease, settle, *addresses = words

    def note(event: Event) -> None:
        if isinstance(event, Notice):
            print(event.reason, flush=True)  # noqa: T201 - it is a script

    async with Client(scheduler, asynchronous=True, direct_to_workers=True) as client:
        workers = KnownWorkers(client, addresses, float(lease), partial(FileSource, [tree]))
        options = Options(workers=6, finalizers=2)
        seconds = float(settle)
        await upload(
            url, [Path(tree)], Path(journal), options=options, settle_seconds=seconds, report=note, workers=workers
        )


if __name__ == "__main__":
    anyio.run(main, *sys.argv[1:])
