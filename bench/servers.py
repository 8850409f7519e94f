"""The server models. Each measured run has its own server process."""

import json
import subprocess
import sys
from collections.abc import Iterator, Mapping
from contextlib import contextmanager, suppress
from dataclasses import dataclass, field, replace
from pathlib import Path
from typing import IO, Any

from bench.corpus import Corpus
from bench.import_log import Phase, Received, read_log
from bench.instant_server import NGINX
from bench.trees import ROOT, python_path

_PATIENCE = 30.0
_REALISTIC: Mapping[str, Any] = {"serial": 0.002, "parallel": 0.020, "anonymising": 0.030, "cores": 8}
# A site that has been in use for years: 2,000 rows lie in its prearchive, and each file's look-up reads them (1 us a
# row); its ten archive workers are asked through a queue, and who waits for one looks twice a second.
_SITE_TIMING: Mapping[str, Any] = {
    "row_seconds": 1e-6,
    "other_rows": 2_000,
    "shadow_lock_seconds": 0.0001,
    "build_seconds": 0.1,
    "queue_seconds": 0.25,
    "poll_seconds": 0.5,
    "archive_workers": 10,
    "subject_seconds": 0.05,
    "subject_lock_seconds": 10.0,
}
_SITE: Mapping[str, Any] = {**_REALISTIC, "serial": 0.0005, "more": _SITE_TIMING}
_SITE_NFS: Mapping[str, Any] = {**_SITE, "more": {**_SITE_TIMING, "shadow_lock_seconds": 0.005}}
# One disk for all: two sessions in a second, however many at a time, and imports wait for them.
_SITE_DISK: Mapping[str, Any] = {**_SITE, "more": {**_SITE_TIMING, "archive_slowdown": 1.0}}
_FREE: Mapping[str, Any] = {"serial": 0.0, "parallel": 0.0, "anonymising": 0.0, "cores": 64}


@dataclass(frozen=True, slots=True)
class Model:
    """A kind of server: a description, and settings for `bench.serve`."""

    name: str
    what: str
    settings: Mapping[str, Any]
    phases: tuple[Mapping[str, Any], ...] = ()
    """Successive capacities of equal length."""
    needs: tuple[str, ...] = ()
    quick: Mapping[str, Any] = field(default_factory=dict)
    """Settings that differ in a quick run."""

    def lacks(self) -> str:
        """Return why it cannot run here, or an empty text."""
        if "nginx" in self.needs and NGINX is None:
            return "nginx is not installed"
        if "trustme" in self.needs:
            from importlib.util import find_spec

            if find_spec("trustme") is None:
                return "trustme, which makes the certificate, is not installed"
        if "netns" in self.needs:
            from bench.netns import lacks

            return lacks()
        return ""

    def with_phases(self, seconds: float) -> "Model":
        """Return it with phases of this many seconds, if it has phases."""
        if not self.phases:
            return self
        capacities = [{**phase, "seconds": seconds} for phase in self.phases]
        return replace(self, settings={**self.settings, "capacities": capacities})


_MODELS = (
    Model(
        "instant",
        "a real nginx reads each body and answers at once; the rest is answered by the test XNAT behind it",
        {"sink": True, "capacities": [_FREE]},
        needs=("nginx",),
    ),
    Model(
        "realistic",
        "test XNAT: 2 ms under one lock, 20 ms beside, 40 database connections, 200 threads, 30 ms/MB on 8 cores",
        {"capacities": [_REALISTIC]},
    ),
    Model(
        "slow-archive",
        "the realistic one, which takes 3 s to archive a session",
        {"capacities": [_REALISTIC], "archive_seconds": 3.0},
        quick={"archive_seconds": 0.5},
    ),
    Model(
        "site",
        "a busy site: the look-up of a row reads 2,000 old ones, archiving takes 2 s on one of ten workers",
        {"capacities": [_SITE], "archive_seconds": 1.5},
        quick={"archive_seconds": 0.1},
    ),
    Model(
        "site-nfs",
        "the same on a network file system: 5 ms for each lock file, 4 s for archiving",
        {"capacities": [_SITE_NFS], "archive_seconds": 3.5},
        quick={"archive_seconds": 0.1},
    ),
    Model(
        "site-disk",
        "the busy site with one slow disk: 0.5 s to archive a session, and all that goes on at a time shares it",
        {"capacities": [_SITE_DISK], "archive_seconds": 0.5},
        quick={"archive_seconds": 0.1},
    ),
    Model(
        "far",
        "the realistic one behind a relay that delays every byte: 100 ms round trip",
        {"capacities": [_REALISTIC], "round_trip": 0.1},
    ),
    Model(
        "changing",
        "the realistic one, whose capacity changes: 40 cores of 20 ms a file, then 4, then 64 of 60 ms",
        {"capacities": [_REALISTIC]},
        (
            {"name": "wide", "serial": 0.002, "parallel": 0.0, "working": 0.020, "anonymising": 0.0, "cores": 40},
            {"name": "narrow", "serial": 0.002, "parallel": 0.0, "working": 0.020, "anonymising": 0.0, "cores": 4},
            {"name": "long", "serial": 0.001, "parallel": 0.0, "working": 0.060, "anonymising": 0.0, "cores": 64},
        ),
    ),
    Model(
        "faults",
        "the realistic one; of 200 imports one gets 503 with Retry-After, one loses its reply",
        {"capacities": [_REALISTIC], "faults": 0.01},
        quick={"faults": 0.02},
    ),
    Model(
        "tls",
        "the instant one, over TLS",
        {"sink": True, "capacities": [_FREE], "tls": True},
        needs=("nginx", "trustme"),
    ),
    Model(
        "netns",
        "the realistic one in another network namespace, 100 ms of real TCP round trip away",
        {"capacities": [_REALISTIC], "link": {"round_trip": 0.1}},
        needs=("netns",),
    ),
    Model(
        "full-link",
        "the realistic one in another network namespace, behind a link of 6 MB/s and 30 ms of real TCP round trip",
        {"capacities": [_REALISTIC], "link": {"round_trip": 0.03, "rate": 6e6}},
        needs=("netns",),
    ),
)


def link_name(megabits: int, milliseconds: int, *, loses: bool = False) -> str:
    """Return the name of a server behind a link."""
    return f"link-{megabits}-{milliseconds}{'-loss' if loses else ''}"


def _behind_link(megabits: int, milliseconds: int, *, loses: bool) -> Model:
    # At 1 Gbit/s the test XNAT would be the limit, so nginx takes what comes.
    instant = megabits >= 1000
    link = {"round_trip": milliseconds / 1000, "rate": megabits * 125e3, "loss": 0.001 if loses else 0.0}
    return Model(
        link_name(megabits, milliseconds, loses=loses),
        f"the {'instant' if instant else 'realistic'} one over TLS, in another network namespace: {megabits:,} Mbit/s, "
        f"{milliseconds} ms of round trip{', 0.1 % of packets lost' if loses else ''}",
        {"sink": instant, "capacities": [_FREE if instant else _REALISTIC], "tls": True, "link": link},
        needs=("nginx", "trustme", "netns"),
    )


LINKS = tuple((megabits, milliseconds) for megabits in (20, 100, 1000) for milliseconds in (2, 30, 150))
MODELS = {
    model.name: model
    for model in (*_MODELS, *(_behind_link(*link, loses=loses) for link in LINKS for loses in (False, True)))
}


@dataclass(frozen=True, slots=True)
class Tally:
    """The count of the server: imports, distinct instances (None: it keeps none), CPU seconds."""

    received: Received
    held: int | None
    cpu: float
    phases: tuple[Phase, ...]
    archived_at: Mapping[str, float]


@dataclass(slots=True)
class Served:
    """A running server; after the block, with its tally."""

    url: str
    bundle: str
    user: str = "demo"
    password: str = "demo"  # noqa: S105 - the test XNAT's
    project: str = "demo"
    within: tuple[str, ...] = ()
    """Words before the command of a client, which run it where it reaches the server."""
    prefix: str = ""
    """The prefix of labels."""
    tally: Tally | None = None
    left: str = ""
    """Objects that could not be deleted from a real site."""


@contextmanager
def served(model: Model, corpus: Corpus, home: Path) -> Iterator[Served]:
    """Run a server for one client. Raises RuntimeError if it does not start or stop."""
    home.mkdir(parents=True)
    if "link" in model.settings:
        from bench.netns import ADDRESS, Link, joined

        with (
            joined(Link(**model.settings["link"])) as (near, there),
            _process(model, corpus, home, there, {"address": ADDRESS}) as one,
        ):
            one.within = near
            yield one
        return
    with _process(model, corpus, home, (), {}) as one:
        yield one


@contextmanager
def _process(
    model: Model, corpus: Corpus, home: Path, within: tuple[str, ...], more: Mapping[str, Any]
) -> Iterator[Served]:
    settings = {**model.settings, **more, "home": str(home), "corpus": str(corpus.directory)}
    process = subprocess.Popen(
        [*within, sys.executable, "-P", "-m", "bench.serve", json.dumps(settings)],
        stdin=subprocess.PIPE,
        stdout=subprocess.PIPE,
        env=python_path(ROOT),
        text=True,
        start_new_session=True,  # Ctrl-C is for us; a server ends when its standard input does
    )
    assert process.stdin is not None  # noqa: S101 - for the type checker
    assert process.stdout is not None  # noqa: S101 - for the type checker
    with process:
        try:
            ready = _told(process.stdout, model)
            one = Served(ready["url"], ready["bundle"])
            yield one
            process.stdin.close()
            result = _told(process.stdout, model)
        finally:
            process.stdin.close()
            with suppress(subprocess.TimeoutExpired):
                process.wait(_PATIENCE)
            process.kill()
    one.tally = Tally(
        read_log(Path(result["log"])),
        result["held"],
        result["cpu"],
        tuple(Phase(*phase) for phase in result["phases"]),
        result["archived_at"],
    )


def _told(out: IO[str], model: Model) -> Any:
    line = out.readline()
    if not line:
        raise RuntimeError(f"the server {model.name} has ended before its time")
    return json.loads(line)
