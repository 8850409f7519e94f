"""The server of a measured run, in its own process.

It takes a description as JSON, prints one line of JSON when it is ready, and when its standard input ends it stops
and prints another line: what it holds, and what it took.
"""

import json
import os
import resource
import sys
from collections.abc import AsyncIterator, Mapping
from contextlib import AsyncExitStack, asynccontextmanager
from datetime import datetime
from pathlib import Path
from typing import Any

import anyio
import anyio.to_thread
from yarl import URL

from asyncimport.testserver import Fault, PrearchiveRow, StoredFile, TestXnat, serve
from asyncimport.testserver.faults.actions import Reset, Status
from asyncimport.testserver.site.resources import Series
from bench.corpus import SessionEntry, load
from bench.instant_server import TIMESTAMP, nginx
from bench.latency_relay import far
from bench.modelled_server import Capacity, ModelledXnat

_MR = "1.2.840.10008.5.1.4.1.1.4"


def expect(xnat: TestXnat, sessions: list[SessionEntry], prefix: str = "") -> None:
    """Fill the prearchive of the site with the files that go to the instant server before it."""
    for session in sessions:
        label = prefix + session.label
        row = PrearchiveRow(
            project="demo",
            timestamp=TIMESTAMP,
            folder=label,
            name=label,
            study_uid=session.study_uid,
            subject=prefix + session.subject,
            patient_name="",
            scan_date="",
            autoarchive="Manual",
            prevent_anon=False,
            prevent_auto_commit=True,
            source="uploader",
            visit="",
            protocol="",
            timezone="",
            uploaded=datetime.now(),  # noqa: DTZ005 - as XNAT stores it
            lastmod=datetime.now(),  # noqa: DTZ005 - as XNAT stores it
            touched=xnat.clock(),
        )
        for number, (uid, entries) in enumerate(session.series.items(), 1):
            series = Series(uid, str(number), "MR", "t1")
            row.series[uid] = series
            row.scans[str(number)] = {
                f"{entry.sop_uid}.dcm": StoredFile(
                    f"{entry.sop_uid}.dcm", entry.size, None, entry.sop_uid, series, complete=True, sop_class=_MR
                )
                for entry in entries
            }
        xnat.add_row(row)


@asynccontextmanager
async def _front(settings: Mapping[str, Any], home: Path, behind: str, log: Path) -> AsyncIterator[tuple[str, str]]:
    """Put nginx before the test XNAT if the model has it. Yields URL and certificate authority."""
    if not settings.get("sink") and not settings.get("tls"):
        yield behind, ""
        return
    address = settings.get("address", "127.0.0.1")
    certificate, bundle = _certificate(home, address) if settings.get("tls") else (None, "")
    kept = log if settings.get("sink") else None
    with nginx(home / "nginx", behind, log=kept, certificate=certificate, address=address) as url:
        yield url, bundle


def _certificate(home: Path, address: str) -> tuple[Path, str]:
    import trustme

    authority = trustme.CA()
    certificate, bundle = home / "certificate.pem", home / "ca.pem"
    authority.issue_cert(address).private_key_and_cert_chain_pem.write_to_path(certificate)
    authority.cert_pem.write_to_path(bundle)
    return certificate, str(bundle)


def _cpu() -> float:
    """Return the CPU seconds of this process and its ended children."""
    own, children = resource.getrusage(resource.RUSAGE_SELF), resource.getrusage(resource.RUSAGE_CHILDREN)
    return own.ru_utime + own.ru_stime + children.ru_utime + children.ru_stime


def _make(settings: Mapping[str, Any], log: Any) -> ModelledXnat:
    capacities = [Capacity(**one) for one in settings["capacities"]]
    xnat = ModelledXnat(capacities, log, archive_seconds=settings.get("archive_seconds", 0.0))
    if share := settings.get("faults", 0.0):
        xnat.faults.add(Fault("import", Status(503, headers={"Retry-After": "1"}), share=share / 2, seed=1))
        xnat.faults.add(Fault("import", Reset(effect=True), share=share / 2, seed=2))
    return xnat


async def _serve(settings: Mapping[str, Any], home: Path, log: Path) -> None:
    result: dict[str, Any] = {"log": str(log)}
    # nginx writes its log itself; the test XNAT behind it receives no imports then.
    with Path(os.devnull if settings.get("sink") else log).open("w") as writing:  # noqa: ASYNC230 - a file of lines
        xnat = _make(settings, writing)
        async with AsyncExitStack() as stack:
            tasks = await stack.enter_async_context(anyio.create_task_group())
            tasks.start_soon(xnat.live)
            if settings.get("sink"):
                expect(xnat, load(Path(settings["corpus"])).listed(), settings.get("prefix", ""))
            own = "127.0.0.1" if settings.get("tls") else settings.get("address", "127.0.0.1")
            url = await stack.enter_async_context(serve(xnat, own))
            url, bundle = await stack.enter_async_context(_front(settings, home, url, log))
            if settings.get("round_trip"):
                port = await stack.enter_async_context(far("127.0.0.1", URL(url).port or 0, settings["round_trip"]))
                url = str(URL(url).with_port(port))
            began = _cpu()
            _tell({"url": url.rstrip("/"), "bundle": bundle})
            await anyio.to_thread.run_sync(sys.stdin.buffer.read)
            tasks.cancel_scope.cancel()
        result["cpu"] = _cpu() - began
    result["held"] = None if settings.get("sink") else xnat.held()
    result["phases"] = [[phase.name, phase.begin, phase.end] for phase in xnat.phases]
    result["archived_at"] = xnat.archived_at
    _tell(result)


def _tell(value: Mapping[str, Any]) -> None:
    sys.stdout.write(json.dumps(value) + "\n")
    sys.stdout.flush()


def main() -> None:
    """Serve the model of the command line."""
    settings = json.loads(sys.argv[1])
    home = Path(settings["home"])
    anyio.run(_serve, settings, home, home / "received.log")


if __name__ == "__main__":
    main()
