"""One upload by workers that are there already, as a process of its own: it can be killed.

python cluster_driver.py URL TREE JOURNAL SCHEDULER LEASE_SECONDS SETTLE_SECONDS ADDRESS...

It prints lines of JSON: the SOPInstanceUIDs of files right before they are `given` to a worker, and of those that were
with a worker that was lost, and are `queued` again.
"""

import json
import re
import sys
from collections.abc import AsyncIterator, Callable, Iterable
from dataclasses import dataclass, field
from functools import partial
from pathlib import Path

import anyio
from builders import upload
from distributed import Client
from local_cluster import CountingLink

from asyncimport.cluster.messages import Order, Reply
from asyncimport.model.events import Event, Notice
from asyncimport.model.options import Options
from asyncimport.model.ports import FileReader
from asyncimport.source.folder import FileSource

_QUEUED_AGAIN = re.compile(r"[\d,]+ files? of the worker (.*) (?:is|are) sent again by others")


def tell(what: str, uids: Iterable[str]) -> None:
    """Print a line."""
    print(json.dumps({what: [*uids]}), flush=True)  # noqa: T201 - it is a script


class TellingLink(CountingLink):
    """Tells what it gives to its worker."""

    async def exchange(self, order: Order) -> Reply:
        """Tell first: this process may be killed at any time."""
        tell("given", (sop_uid for _, _, sop_uid, *_ in order.files))
        return await super().exchange(order)


@dataclass
class KnownWorkers:
    """Workers by their addresses."""

    client: Client
    addresses: list[str]
    lease_seconds: float
    open_files: Callable[[], FileReader]
    links: dict[str, TellingLink] = field(default_factory=dict)

    async def joined(self) -> AsyncIterator[TellingLink]:
        """Yield each; nobody joins later."""
        for number, address in enumerate(self.addresses, 1):
            link = TellingLink(self.client, address, f"worker {number}")
            self.links[link.name] = link
            yield link
        await anyio.sleep_forever()

    def note(self, event: Event) -> None:
        """Tell which files are queued again."""
        if isinstance(event, Notice) and (found := _QUEUED_AGAIN.fullmatch(event.reason)):
            tell("queued", self.links[found[1]].unanswered.values())


async def main(*words: str) -> None:
    """Upload."""
    url, tree, journal, scheduler, lease, settle, *addresses = words
    async with Client(scheduler, asynchronous=True, direct_to_workers=True) as client:
        workers = KnownWorkers(client, addresses, float(lease), partial(FileSource, [tree]))
        options = Options(workers=6, finalizers=2)
        await upload(
            url,
            [Path(tree)],
            Path(journal),
            options=options,
            settle_seconds=float(settle),
            report=workers.note,
            workers=workers,
        )


if __name__ == "__main__":
    anyio.run(main, *sys.argv[1:])
