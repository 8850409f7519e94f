"""Where each byte of one resource ends, in any history of runs, edits, faults, kills and another writer.

An oracle knows what the other writer was told is stored, and what the journal has ever called stored. Whatever happens:
nothing of the other writer's is written over unless that is asked for; what is called stored is there, byte for byte;
what was once stored stays on the list of what must be there; `verify` tells what the archive has of that, and what it
calls safe to delete is there. A run that ends with 0 has at some time stored every file that there is.
"""

import hashlib
import os
import sqlite3
import subprocess
import sys
from contextlib import ExitStack, closing
from dataclasses import replace
from pathlib import Path
from random import Random, SystemRandom
from tempfile import TemporaryDirectory
from typing import Any

import anyio
import pytest
from anyio.from_thread import start_blocking_portal
from builders import image, write
from conftest import Ended
from histories import run_histories
from hypothesis import strategies as st
from hypothesis.stateful import RuleBasedStateMachine, rule
from typer.testing import CliRunner

from asyncimport.cli.app import app
from asyncimport.errors import UsageError
from asyncimport.journal import JournalReader
from asyncimport.testserver import (
    PROFILES,
    ArchivedSession,
    Fault,
    Gateway,
    Reset,
    Status,
    StoredFile,
    Tell,
    TestXnat,
    add_file,
    add_session,
    serve,
)

NAMES = ("a.bin", "b.bin", "c.bin")
# Some begin with others, and some are as long as others.
CONTENTS = (b"one", b"two", b"one and more", b"one and more of it", b"two and less", b"x" * 400)
TREES = ("first", "second")
RULE = ("--attach", "*.bin=R")
ACTS = ("store", "store", "delete", "cut", "lose a race", "lose the entry", "lose the file", "refresh")
BREAKS = (Reset(after_bytes=2), Reset(after_bytes=200), Reset(), Reset(effect=True), Status(500), Gateway(504))
RESENDING = ("--resend-changed", "--overwrite", "append")
LISTING = "files?format=json"


def md5(content: bytes) -> str:
    """Return the digest as XNAT and the journal write it."""
    return hashlib.md5(content, usedforsecurity=False).hexdigest()


class Histories(RuleBasedStateMachine):
    """All events of one resource, in any order."""

    def __init__(self) -> None:
        super().__init__()
        self._stack = ExitStack()
        self._place = Path(self._stack.enter_context(TemporaryDirectory()))
        self.xnat = TestXnat(self._place / "xnat", anonymise=False, archive_seconds=0.0)
        self._portal = self._stack.enter_context(start_blocking_portal())
        url = self._stack.enter_context(self._portal.wrap_async_context_manager(serve(self.xnat)))
        self._env: dict[str, str | None] = {
            **{name: None for name in os.environ if name.startswith(("XNAT", "ASYNCIMPORT", "XDG", "NETRC"))},
            "HOME": str(self._place),
            "COLUMNS": "200",
            "NO_COLOR": "1",
            "ASYNCIMPORT_SETTLE_TIME": "0s",
            "ASYNCIMPORT_OUTAGE_TIMEOUT": "0s",
            "XNAT_HOST": url,
            "XNAT_USER": "demo",
            "XNAT_PASS": "demo",
        }
        for tree in TREES:
            write(self._place / tree / "1.dcm", image(1, StudyInstanceUID="1.2.1", SOPInstanceUID="1.2.1.1"))
            write(self._place / tree / "a.bin", CONTENTS[TREES.index(tree)])
        write(self._place / "first" / "b.bin", CONTENTS[2])
        self.theirs: dict[str, bytes] = {}
        """Files that the other writer has stored and that nobody has replaced or lost since."""
        self.scheduled: list[Fault] = []
        """The faults of the next command."""
        self.must: dict[str, str] = {}
        """The MD5 of everything that the journal has ever recorded as stored, by name."""
        self.ever: set[tuple[str, bytes]] = set()
        self.touched: set[str] = set()
        """Names that the other writer, or a disk, changed while a command ran."""
        self.history: list[str] = []
        other = add_session(self.xnat, "S9", "E9")
        self._sample: StoredFile = self._portal.call(add_file, self.xnat, other, "R", "a", b"1")
        assert self._run("upload", self._place / "first", "-P", "demo", *RULE).code == 0
        self.session: ArchivedSession = self.xnat.archived[-1]
        self._look_into_the_journal()

    def teardown(self) -> None:
        """End the server."""
        self._stack.close()

    # --- files on disks

    def _path(self, name: str) -> Path:
        path = self.xnat.storage.path((*self.session.path, "RESOURCES", "R", name))
        assert path is not None
        return path

    def _there(self, name: str) -> bytes | None:
        """Return the files on XNAT's disk, listed in a catalog or not."""
        return self._path(name).read_bytes() if self._path(name).is_file() else None

    def _catalog(self) -> dict[str, StoredFile]:
        resource = self.session.own_resources.get("R")
        return {} if resource is None else resource.files

    def _local(self, tree: str) -> dict[str, bytes]:
        return {name: path.read_bytes() for name in NAMES if (path := self._place / tree / name).is_file()}

    def a_file_is_written(self, tree: str, name: str, content: bytes | None) -> None:
        """Write a file into a tree, change it, or delete it."""
        self.history.append(f"write {tree}/{name}: {content and content[:20]!r}")
        path = self._place / tree / name
        if content is None:
            path.unlink(missing_ok=True)
            return
        path.write_bytes(content)
        # The clock of a file system may stand still for a moment.
        os.utime(path, ns=(len(self.history) * 10**9, len(self.history) * 10**9))

    # --- the other writer, and disks

    def _others_act(self, act: str, name: str, content: bytes) -> None:
        """Let the other writer, or XNAT's disk, act. It runs in the server's thread, or between commands."""
        self.history.append(f"  {act} {name}: {content[:20]!r}")
        self.touched.add(name)
        resource = self.session.own_resources.get("R")
        path = self._path(name)
        if resource is None or (act not in {"store", "lose a race"} and not path.exists()):
            return
        match act:
            case "store":
                path.parent.mkdir(parents=True, exist_ok=True)
                path.write_bytes(content)
                resource.uncatalogued.pop(name, None)
                resource.files[name] = self._stored(name, content)
                self.theirs[name] = content
            case "delete":
                path.unlink()
                resource.files.pop(name, None)
                resource.uncatalogued.pop(name, None)
                self.theirs.pop(name, None)
            case "cut":
                # A transfer over it broke off: nothing was acknowledged.
                path.write_bytes(content)
                if (old := resource.files.get(name)) and not self.xnat.profile.catalog_has_sizes:
                    resource.files[name] = replace(old, size=len(content))
                self.theirs.pop(name, None)
            case "lose a race":
                if not path.exists():
                    path.parent.mkdir(parents=True, exist_ok=True)
                    path.write_bytes(content)
                    resource.uncatalogued[name] = self._stored(name, content)
                    resource.files.pop(name, None)
            case "lose the entry":
                if name in resource.files:
                    resource.uncatalogued[name] = resource.files.pop(name)
            case "lose the file":
                path.unlink()
                self.theirs.pop(name, None)
            case "refresh":
                for found in [*resource.files, *resource.uncatalogued]:
                    if self._path(found).is_file():
                        resource.files[found] = self._stored(found, self._path(found).read_bytes())
                        resource.uncatalogued.pop(found, None)
        resource.version += 1

    def _stored(self, name: str, content: bytes) -> StoredFile:
        digest = hashlib.md5(content, usedforsecurity=False).digest() if self.xnat.storage.checksums else None
        return replace(self._sample, name=name, size=len(content), digest=digest)

    def somebody_else_will_store(self, name: str, content: bytes, nth: int) -> None:
        """Act during the next command, before it lists the resource again."""
        fault = Fault("listing", Tell(lambda: self._others_act("store", name, content)), nth=nth, path=LISTING)
        self.xnat.faults.add(fault)
        self.history.append(f"at listing {nth}: store {name}: {content[:20]!r}")

    def transfers_will_break(self, action: Any, nth: int, times: int) -> None:
        """Break requests of the next command."""
        self.scheduled.append(self.xnat.faults.add(Fault("file", action, nth=nth, times=times)))
        self.history.append(f"at file {nth}, {times} times: {action}")

    def xnat_will_refuse(self, status: int, kind: str) -> None:
        """Refuse two requests of a kind."""
        self.xnat.faults.add(Fault(kind, Status(status, "<h3>no</h3>"), times=2))
        self.history.append(f"twice at {kind}: {status}")

    def the_site_changes(self, checksums: bool, version: str) -> None:
        """Keep checksums or not, and answer as another version."""
        self.xnat.storage.checksums = checksums
        self.xnat.profile = PROFILES[version]
        self.history.append(f"checksums {checksums}, {version}")

    # --- our commands

    def _run(self, *words: str | Path) -> Ended:
        result = CliRunner().invoke(app, [str(word) for word in words], env=self._env)
        self.history.append(f"{result.exit_code}: {' '.join(map(str, words))}")
        code = result.exit_code
        if isinstance(result.exception, UsageError):
            code = result.exception.exit_code
        elif result.exception is not None and not isinstance(result.exception, SystemExit):
            raise result.exception
        return Ended(code, result.stdout, result.stderr)

    def _command(self, *words: str | Path, kill: tuple[str, int] | None = None) -> Ended | None:
        """Run a command, perhaps until it is killed, and check that it overwrites no file of others."""
        self.touched.clear()
        listed, begun = set(self._catalog()), self._begun()
        # A transfer that breaks makes the beginning of our file ours for the rest of the run.
        breaks = any(isinstance(fault.action, Reset | Status | Gateway) for fault in self.scheduled)
        self.scheduled.clear()
        if kill is None:
            ended: Ended | None = self._run(*words)
        else:
            ended = None
            self._killed(words, *kill)
        self.xnat.faults.clear()
        is_asked = "--replace" in words
        for name, content in list(self.theirs.items()):
            there = self._there(name)
            if is_asked and there != content:
                del self.theirs[name]
                continue
            hidden = name not in listed or name in begun or breaks
            local = [files[name] for tree in TREES if name in (files := self._local(tree))]
            # The beginning of our file is ours to complete, if no catalog lists it, or we have begun to send the file.
            if there is not None and there != content and hidden and there in local and there.startswith(content):
                del self.theirs[name]
                continue
            assert there == content, self._told(f"{name} of somebody else was written over: {content!r} by {there!r}")
        self._look_into_the_journal()
        return ended

    def _killed(self, words: tuple[str | Path, ...], kind: str, nth: int) -> None:
        env = {name: value for name, value in {**os.environ, **self._env}.items() if value is not None}
        command = [sys.executable, "-m", "asyncimport", *map(str, words)]
        with subprocess.Popen(command, env=env, stdout=subprocess.DEVNULL, stderr=subprocess.DEVNULL) as process:
            path = LISTING if kind == "listing" else ""
            self.xnat.faults.add(Fault(kind, Tell(process.kill), nth=nth, path=path))
            process.wait()
        self.history.append(f"killed at {kind} {nth}: {' '.join(map(str, words))}")
        # XNAT may be at work on what it was sent.
        self._portal.call(anyio.sleep, 0.05)

    def _journal(self) -> Path:
        (path,) = (self._place / ".local" / "state" / "asyncimport").glob("*.journal")
        return path

    def _begun(self) -> set[str]:
        """Return the names under which, by the journal, an earlier run may have left the beginning of a file."""
        with closing(sqlite3.connect(self._journal())) as database:
            return {name for (name,) in database.execute("SELECT name FROM attachment WHERE started = 1")}

    def _look_into_the_journal(self) -> None:
        """Compare what is reported as stored with what was there before and what is there now."""
        with JournalReader.open(self._journal()) as reader:
            listed = {
                one.name: one.previous
                for enclosure in reader.stored_attachment_batches()
                for one in enclosure.attachments
            }
        assert self.must.keys() <= listed.keys(), self._told(f"forgotten: {self.must.keys() - listed.keys()}")
        for name, digest in listed.items():
            assert digest is not None
            there = self._there(name)
            if self.must.get(name) != digest:
                is_there = there is not None and md5(there) == digest and name in self._catalog()
                assert is_there or name in self.touched, self._told(f"{name} is called stored, and is {there!r}")
                self.must[name] = digest
                self.ever |= {(name, content) for content in CONTENTS if md5(content) == digest}

    def _upload(self, tree: str, options: tuple[str, ...], kill: tuple[str, int] | None = None) -> None:
        before = dict(self.must)
        words: tuple[str | Path, ...] = (
            "upload",
            self._place / tree,
            "-P",
            "demo",
            "-q",
            "-o",
            "json",
            *RULE,
            *options,
        )
        ended = self._command(*words, kill=kill)
        if "--resend-changed" not in options:
            changed = {name for name, digest in before.items() if self.must[name] != digest}
            local = self._local(tree)
            # Somebody may have put the very bytes of ours there, or an earlier run that was to resend it had begun.
            assert all(md5(local.get(name, b"")) == self.must[name] for name in changed), self._told(f"{changed}")
        if ended is not None and ended.code == 0:
            lacking = {name for name, content in self._local(tree).items() if (name, content) not in self.ever}
            assert not lacking, self._told(f"0, and never stored: {lacking}\n{ended.out}")

    def attach(self, tree: str, options: tuple[str, ...], kill: tuple[str, int] | None) -> None:
        """Attach the files of a tree, without a journal."""
        files = [self._place / tree / name for name in self._local(tree)]
        if not files:
            return
        label = self.session.label
        words: tuple[str | Path, ...] = (
            "attach",
            *files,
            "-P",
            "demo",
            "-E",
            label,
            "--resource",
            "R",
            "-o",
            "json",
            "-q",
            *options,
        )
        ended = self._command(*words, kill=kill)
        for one in [] if ended is None else ended.json["details"]:
            if one["state"] == "stored" and one["name"] not in self.touched:
                content = self._local(tree)[one["name"]]
                listed = self._catalog().get(one["name"])
                # For files that were there before, the listing counts.
                is_there = self._there(one["name"]) == content
                assert is_there or not one["sent"], self._told(f"{one} is {self._there(one['name'])!r}, {listed}")

    def _verify(self, *, reads_all: bool, repair: bool = False) -> None:
        safe = self._place / "safe"
        safe.unlink(missing_ok=True)
        words: list[str | Path] = ["verify", "-P", "demo", "-o", "json", "--safe-to-delete", safe]
        words += ["--repair"] if repair else []
        words += ["--attachments-bytes"] if reads_all else []
        is_listed = bool(self.must)
        ended = self._command(*words)
        assert ended is not None
        if self.touched or "attachments" not in ended.json:
            return
        told: dict[str, str] = {}
        for one in ended.json["attachments"]:
            assert one["files"] == len(self.must), self._told(f"{one['files']} of {self.must}")
            told |= {**dict.fromkeys(one["missing"], "missing"), **dict.fromkeys(one["altered"], "altered")}
        assert bool(ended.json["attachments"]) == is_listed or repair
        for name, digest in self.must.items():
            there = self._there(name)
            if there is None or name not in self._catalog():
                truth = "missing"
            else:
                truth = "" if md5(there) == digest else "altered"
            sizes = {len(content) for content in CONTENTS if md5(content) == digest}
            if truth == "altered" and not told.get(name) and not reads_all and there is not None:
                # Under the old MD5, with the old size: only all the bytes would tell.
                assert len(there) in sizes, self._told(f"{name} has another size")
                continue
            assert told.get(name, "") == truth, self._told(f"{name} is {truth!r}, and told as {told.get(name, '')!r}")
        assert (ended.code == 0) == (not told) or ended.json["unrepaired"], self._told(f"{ended.code}: {ended.out}")
        for line in safe.read_text().splitlines() if safe.exists() else ():
            path = Path(line)
            if path.name in NAMES:
                there = self._there(path.name)
                same = there == path.read_bytes()
                assert same or (not reads_all and there is not None and len(there) == path.stat().st_size), self._told(
                    f"{path} is called safe to delete, and XNAT has {there!r}"
                )

    # --- the next event

    @rule(number=st.integers(0, 2**64 - 1))
    def something_happens(self, number: int) -> None:
        """Draw each event from one number, so that the other writer acts as often as we do."""
        draw = Random(number)
        name, content, tree = draw.choice(NAMES), draw.choice(CONTENTS), draw.choice(TREES)
        kill = draw.choice(["file", "file", "listing", "resource"]), draw.randint(1, 3)
        options = draw.choice([(), RESENDING])
        match draw.choices(range(13), [3, 6, 3, 3, 1, 1, 4, 2, 1, 3, 2, 2, 1])[0]:
            case 0:
                self.a_file_is_written(tree, name, draw.choice([content, content, None]))
            case 1:
                self._others_act(draw.choice(ACTS), name, content)
            case 2:
                self.somebody_else_will_store(name, content, draw.randint(1, 4))
            case 3:
                self.transfers_will_break(draw.choice(BREAKS), draw.randint(1, 3), draw.randint(1, 3))
            case 4:
                self.xnat_will_refuse(draw.choice([403, 404]), draw.choice(["resource", "file", "refresh"]))
            case 5:
                self.the_site_changes(draw.random() < 0.6, draw.choice(["1.7", "1.8"]))
            case 6:
                self._upload(tree, draw.choice([(), ("--retry", "refused")]))
            case 7:
                self._upload(tree, RESENDING)
            case 8:
                self._upload(tree, options, kill)
            case 9:
                is_killed = draw.random() < 0.3
                self.attach(tree, draw.choice([(), (), ("--no-zip",), ("--replace",)]), kill if is_killed else None)
            case 10:
                self._verify(reads_all=draw.random() < 0.5)
            case 11:
                self._verify(reads_all=draw.random() < 0.5, repair=True)
            case 12:
                self._command("verify", "-P", "demo", "--repair", kill=kill)

    def _told(self, what: str) -> str:
        return "\n".join([what, *self.history[-40:]])


@pytest.fixture
def blockbuster() -> None:
    """Let the other writer write in the server's thread."""


@pytest.mark.thorough
@pytest.mark.skipif(sys.platform == "win32", reason="what is open there cannot be replaced beneath it")
def test_some_histories() -> None:
    """A few histories, the same each time."""
    run_histories(Histories, histories=8, steps=14, number=1)


@pytest.mark.endurance
@pytest.mark.timeout(0)
def test_many_histories() -> None:
    """As many histories as there is time for."""
    run_histories(
        Histories,
        histories=int(os.environ.get("ASYNCIMPORT_HISTORIES", "1000")),
        steps=20,
        number=SystemRandom().randrange(1 << 32),
    )
