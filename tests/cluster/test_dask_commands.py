"""`plan --dask` and `upload --dask`, as somebody types them: with real workers."""

import json
import os
import re
import shutil
import signal
import subprocess
from collections.abc import Callable
from contextlib import suppress
from dataclasses import replace
from pathlib import Path

import anyio
import pytest
from conftest import Commands, Ended
from dask_processes import HOSTILE, DaskProcesses, can_mount, dask_processes
from distributed import Client
from forward_proxy import make_tls_context
from patience import RUN, in_time
from process_lines import Lines

from asyncimport import Credentials, Server, UploadRequest, rules_from, upload
from asyncimport.testserver import Fault, Stall, Tell, TestXnat, serve
from asyncimport.testserver.samples import generated

pytestmark = [pytest.mark.anyio, pytest.mark.thorough]


@pytest.fixture
def tree(tmp_path: Path) -> Path:
    """Write some sessions."""
    generated(tmp_path / "tree", sessions=4, files=80, size=2_000, seed=1)
    (tmp_path / "tree" / "note.txt").write_text("a note")
    return tmp_path / "tree"


async def until(is_right: Callable[[Ended], bool], commands: Commands, *words: str | Path) -> Ended:
    """Run a command until the workers that were started last take part."""
    while not is_right(ended := await commands(*words)):
        assert ended.code in {0, 2}, ended.err
    return ended


async def test_processes_of_this_machine_upload(
    xnat: TestXnat, url: str, commands: Commands, tree: Path, tmp_path: Path
) -> None:
    """All is archived. Events have the workers; the same command again, or one without workers, sends nothing."""
    commands.login(url)
    events = tmp_path / "events.jsonl"
    words = ("upload", tree, "-P", "demo", "-o", "json")
    done = await commands(*words, "--dask", "local:2", "--events", events)
    assert done.code == 0, done.err
    assert (done.json["files"]["stored"], done.json["files"]["not_dicom"]) == (80, 1)
    assert len(xnat.archived) == 4
    told = [*map(json.loads, events.read_text().splitlines())]
    assert told[0]["event"] == "run_began"
    assert {one["worker"] for one in told if one["event"] == "worker_joined"} == {"0", "1"}, done.err
    for more in (("--dask", "local:1"), ()):
        again = await commands(*words, *more)
        assert again.code == 0, again.err
        assert (again.json["files"]["already_stored"], xnat.count["import"]) == (80, 80)


async def test_nothing_in_the_current_directory_is_executed(tree: Path, tmp_path: Path) -> None:
    """Somebody may begin where the files lie that others have made: an interpreter that starts finds modules there."""
    (tmp_path / "home").mkdir()
    (tree / "multiprocessing.py").write_text(HOSTILE)
    commands = Commands(tmp_path / "home")
    commands.directory = tree
    done = await commands("plan", ".", "-P", "demo", "-q", "--dask", "local:1")
    assert not (tree / "executed").exists()
    assert done.code == 0, done.err


async def test_processes_that_do_not_start(tree: Path, tmp_path: Path) -> None:
    """Here because of what Dask's configuration says: an error with a hint, and no traceback."""
    commands = Commands(tmp_path)  # one that reads the configuration anew
    commands.env["DASK_DISTRIBUTED__NANNY__PRELOAD"] = '["no_such_module"]'
    done = await commands("plan", tree, "-P", "demo", "--dask", "local:2")
    assert (done.code, "Traceback" in done.err) == (4, False), done.err
    assert "the processes of local:2 do not start: No module named 'no_such_module'" in done.err


async def test_a_client_of_the_caller(url: str, dask: DaskProcesses, tree: Path, tmp_path: Path) -> None:
    """A program uploads by a cluster that it has, and goes on to use it."""
    dask.start_worker("a")
    request = UploadRequest(
        server=Server(url, Credentials("demo", "demo")),
        sources=[tree],
        project="demo",
        routes=rules_from("demo"),
        state_dir=tmp_path / "state",
    )
    async with Client(dask.when_ready(), asynchronous=True, direct_to_workers=True, set_as_default=False) as client:
        result = (await upload(request, dask_client=client)).raise_for_error()
        assert result.summary is not None
        assert result.summary.files.stored == 80
        assert list(result.totals.workers) == ["a"]
        assert await client.submit(sum, [1, 2]) == 3


async def test_each_worker_has_a_line(xnat: TestXnat, url: str, commands: Commands, tree: Path, tmp_path: Path) -> None:
    """While it is at work, `status` of another process has it; afterwards `status`, report and events have all."""
    commands.login(url)
    stalled = xnat.faults.add(Fault("import", Stall(), nth=40))
    events, report = tmp_path / "events.jsonl", tmp_path / "report.html"
    words = ("upload", tree, "-P", "demo", "-q", "-w", "2", "--dask", "local:2", "--events", events)
    async with commands.start(*words) as process:
        seen = await until(
            lambda ended: ended.code == 0 and any(one["in_flight"] for one in ended.json["workers"]),
            *(commands, "status", "-P", "demo", "-o", "json"),
        )
        assert seen.json["at_work"]
        assert {one["worker"] for one in seen.json["workers"]} <= {"0", "1"}
        shown = await commands("status", "-P", "demo")
        assert re.search(r"^    worker [01]: .* files?, .*B, .*[12] in flight", shown.out, re.MULTILINE), shown.out
        stalled.release()
        with in_time(RUN):
            assert await process.wait() == 0
    told = [one for one in map(json.loads, events.read_text().splitlines()) if one["event"] == "worker_progress"]
    ended = {one["worker"]: one for one in told}
    made = await commands("report", "-P", "demo", "-o", "json")
    for workers in (ended.values(), made.json["workers"], (await commands("status", "-o", "json")).json["workers"]):
        assert sum(one["files"] for one in workers) == 80
        assert sum(one["bytes"] for one in workers) == made.json["bytes"]["stored"]
        assert all(one["in_flight"] == 0 and one["files_per_second"] > 0 for one in workers)
    assert (await commands("report", "-P", "demo", "--out", report, "--anonymous")).code == 0
    assert re.search(r"<td>worker-[0-9a-f]{12}</td>", report.read_text("utf-8"))
    assert not re.search(r"<td>worker-[01]<", report.read_text("utf-8"))


async def test_processes_of_this_machine_inherit_no_secret(
    xnat: TestXnat, url: str, commands: Commands, tree: Path
) -> None:
    """The password is in the environment of the command, and not in that of any process that it starts."""
    if not Path("/proc/self/environ").exists():
        pytest.skip("only Linux shows the environment of a process")
    commands.login(url)
    secret = "tell-nobody-4711"
    xnat.users["demo"] = replace(xnat.users["demo"], password=secret)
    commands.env["XNAT_PASS"] = secret
    is_sending = anyio.Event()
    xnat.faults.add(Fault("import", Tell(is_sending.set), nth=40))
    held = xnat.faults.add(Fault("import", Stall(), nth=41, times=1000))
    async with commands.start("upload", tree, "-P", "demo", "-q", "--dask", "local:2") as process:
        with in_time(RUN):
            await is_sending.wait()
            environments = await anyio.to_thread.run_sync(environments_below, process.pid)
            xnat.faults.clear()
            held.release()
            assert await process.wait() == 0
    # The workers and their readers of headers.
    assert len(environments) >= 4
    assert not any(b"XNAT" in environment for environment in environments.values())


def environments_below(parent: int) -> dict[int, bytes]:
    """Return the environments of all processes that a process has started, and those that they have."""
    parents = {}
    for stat in Path("/proc").glob("[0-9]*/stat"):
        with suppress(FileNotFoundError, ProcessLookupError):
            parents[int(stat.parent.name)] = int(stat.read_text().rpartition(")")[2].split()[1])
    below = {parent}
    while more := {child for child, of in parents.items() if of in below} - below:
        below |= more
    found = {}
    for one in below - {parent}:
        with suppress(FileNotFoundError, ProcessLookupError):
            found[one] = Path(f"/proc/{one}/environ").read_bytes()
    return found


async def test_workers_trust_whom_the_command_trusts(
    xnat: TestXnat, commands: Commands, dask: DaskProcesses, tree: Path, tmp_path: Path
) -> None:
    """They need not have the file of --ca-bundle, nor that of the command's environment."""
    context = await anyio.to_thread.run_sync(make_tls_context, tmp_path / "ours.pem", "127.0.0.1")
    dask.start_worker("a")
    commands.directory = tmp_path
    async with serve(xnat, ssl_context=context) as url:
        commands.login(url)
        words = ("upload", tree, "-P", "demo", "--dask", dask.when_ready(), "-o", "json")
        refused = await commands(*words)
        assert refused.code == 4, refused.err
        # A path that only this directory has.
        done = await commands(*words, "--ca-bundle", "ours.pem", "--max-sessions", "2")
        assert done.code == 0, done.err
        commands.env["SSL_CERT_FILE"] = "ours.pem"
        done = await commands(*words)
        assert done.code == 0, done.err
    assert len(xnat.archived) == 4


async def test_a_plan_of_workers_is_that_of_this_machine(commands: Commands, tree: Path, dask: DaskProcesses) -> None:
    """Row for row; a path that only workers have is planned too."""
    dask.start_worker("a")
    dask.start_worker("b")
    words = ("plan", "-P", "demo", "-o", "json")
    here = await commands(*words, tree, "--state-dir", tree.parent / "here")
    there = await commands(*words, tree, "--state-dir", tree.parent / "there", "--dask", dask.when_ready())
    assert here.code == there.code == 0, there.err
    assert here.json["rows"] == there.json["rows"]
    assert here.json["not_dicom"] == there.json["not_dicom"]
    maps = ("--path-map", f"/nowhere={tree.parent}")
    mapped = await commands(*words, "/nowhere/tree", "--dask", dask.when_ready(), *maps)
    assert mapped.code == 0, mapped.err
    assert [row["files"] for row in mapped.json["rows"]] == [row["files"] for row in here.json["rows"]]
    assert mapped.json["rows"][0]["source"].startswith("/nowhere/tree/")
    # The walk of the source would not meet what is elsewhere.
    more = (*maps, "--path-map", f"/nowhere/b={tree}")
    part = await commands(*words, "/nowhere", "--dask", dask.when_ready(), *more)
    assert (part.code, f"/nowhere/b={tree} is for a part of SOURCE" in part.err) == (2, True), part.err


async def test_a_dry_run_of_workers_is_that_of_this_machine(
    xnat: TestXnat, url: str, commands: Commands, tree: Path, dask: DaskProcesses
) -> None:
    """Problem for problem, before the run and after it, and nothing is sent."""
    commands.login(url)
    dask.start_worker("a")
    dask.start_worker("b")
    words = ("upload", "-P", "demo", "-o", "json")
    elsewhere = ("/nowhere/tree", "--dask", dask.when_ready(), "--path-map", f"/nowhere={tree.parent}")

    async def compare() -> Ended:
        here = await commands(*words, tree, "--dry-run")
        there = await commands(*words, *elsewhere, "--dry-run")
        assert here.code == there.code, there.err
        assert [one["kind"] for one in here.json["problems"]] == [one["kind"] for one in there.json["problems"]]
        assert here.json["files"] == there.json["files"]
        return there

    before = await compare()
    assert (before.code, before.json["files"]["left"]) == (0, 80), before.err
    assert not xnat.imports
    done = await commands(*words, *elsewhere)
    assert (done.code, len(xnat.archived)) == (0, 4), done.err
    after = await commands(*words, *elsewhere, "--dry-run")
    assert (after.code, after.json["files"]["left"]) == (0, 0), after.err


async def test_workers_watch(xnat: TestXnat, url: str, commands: Commands, tmp_path: Path, unused_port: int) -> None:
    """Each look asks the cluster anew: one that is away is told once, and the watch goes on under the same login."""
    commands.login(url)
    drop = tmp_path / "drop"
    generated(drop / "a", sessions=1, files=10, size=2_000, seed=1)
    archived = anyio.Event()
    xnat.faults.add(Fault("archive", Tell(archived.set), nth=2))
    (tmp_path / "dask").mkdir()
    # Nobody else gets it while the scheduler is away.
    port = ["--port", str(unused_port)]
    with dask_processes(tmp_path / "dask", port) as dask:
        dask.start_worker("a")
        words = ("upload", drop, "-P", "demo", "--watch", "0.1s", "--min-age", "0s", "--dask", dask.when_ready())
        async with commands.start(*words) as process:
            assert process.stderr is not None
            assert process.stdout is not None
            err = Lines(process.stderr)
            with in_time(RUN):
                await Lines(process.stdout).until("1 session")
                assert dask.scheduler is not None
                end(dask.scheduler)
                await err.until("error: ")
                generated(drop / "b", sessions=1, files=10, size=2_000, seed=2)
                dask.begin(port)
                dask.start_worker("b")
                await archived.wait()
                process.send_signal(signal.SIGINT)
                assert await process.wait() == 130
    assert "cheduler" in err.lines[-1], err.lines
    assert (len(xnat.archived), xnat.count["import"], xnat.count["login"]) == (2, 20, 3), "the driver, and each worker"
    assert xnat.live_logins("demo") == 0


async def test_an_absent_worker_makes_no_file_look_deleted(
    xnat: TestXnat, url: str, commands: Commands, dask: DaskProcesses, tmp_path: Path
) -> None:
    """Of two servers at one path, one is absent: its files are as they were. With both, a deleted one is gone."""
    if not can_mount(tmp_path / "dask"):
        pytest.skip("nothing may be mounted here")
    commands.login(url)
    (tmp_path / "data").mkdir()
    for number in (1, 2):
        generated(tmp_path / f"server {number}", sessions=1, files=10, size=2_000, seed=number)
    workers = {
        number: dask.start_worker(f"w{number}", mounts={tmp_path / f"server {number}": tmp_path / "data"})
        for number in (1, 2)
    }
    words = ("upload", tmp_path / "data", "-P", "demo", "-o", "json", "--dask", dask.when_ready())
    done = await until(lambda ended: ended.json["files"]["found"] == 20, commands, *words)
    assert done.code == 0, done.err
    end(workers[2])
    victim = next((tmp_path / "server 1").rglob("*.dcm"))
    victim.unlink()
    alone = await commands(*words)
    assert (alone.code, alone.json["files"]["found"]) == (0, 9), alone.err
    assert "not taken for deleted" in alone.err
    assert "no longer exist" not in alone.err
    rehearsed = await commands(*words, "--dry-run")
    assert (rehearsed.code, rehearsed.json["files"]["found"]) == (0, 9), rehearsed.err
    dask.start_worker("w3", mounts={tmp_path / "server 2": tmp_path / "data"})
    both = await until(lambda ended: "not taken for deleted" not in ended.err, commands, *words)
    assert "files of an earlier run that no longer exist: 1," in both.err, both.err
    assert xnat.count["import"] == 20
    (tmp_path / "data" / "here.txt").write_text("seen by this machine only")
    here = await commands(*words[:-2])
    assert "not taken for deleted" in here.err


async def test_workers_with_copies_of_their_own_send_all(
    url: str, commands: Commands, dask: DaskProcesses, tmp_path: Path
) -> None:
    """A file has other numbers in the copy of the worker that has not scanned it: that one leaves it to the other."""
    if not can_mount(tmp_path / "dask"):
        pytest.skip("nothing may be mounted here")
    commands.login(url)
    (tmp_path / "data").mkdir()
    generated(tmp_path / "server 1", sessions=3, files=60, size=2_000, seed=1)
    shutil.copytree(tmp_path / "server 1", tmp_path / "server 2")
    for number in (1, 2):
        dask.start_worker(f"w{number}", mounts={tmp_path / f"server {number}": tmp_path / "data"})
    async with Client(dask.address, asynchronous=True) as client:
        await client.wait_for_workers(2)
    done = await commands("upload", tmp_path / "data", "-P", "demo", "-o", "json", "--dask", dask.when_ready())
    assert (done.code, done.json["files"]["stored"]) == (0, 60), done.err


def end(process: "subprocess.Popen[bytes]") -> None:
    """End a worker, and wait until it has ended."""
    process.send_signal(signal.SIGTERM)
    process.wait(30)


async def test_a_worker_with_another_version_is_not_used(
    commands: Commands, tree: Path, dask: DaskProcesses, tmp_path: Path
) -> None:
    """It is named. If it is the only one, nothing is done."""
    other = tmp_path / "other" / "asyncimport"
    other.mkdir(parents=True)
    (other / "__init__.py").write_text('__version__ = "0.0.7"\n')
    dask.start_worker("old", env={"PYTHONPATH": str(other.parent)})
    words = ("plan", tree, "-P", "demo", "--dask", dask.when_ready())
    alone = await commands(*words)
    assert alone.code == 2, alone.err
    assert "worker old: it has asyncimport 0.0.7, and this is" in alone.err
    dask.start_worker("new")
    await until(lambda ended: ended.code == 0, commands, *words)


async def test_no_secret_leaves_the_processes(
    xnat: TestXnat, url: str, commands: Commands, tree: Path, dask: DaskProcesses
) -> None:
    """The password and names of patients are in no log of Dask, however much it tells, and no directory of a worker."""
    commands.login(url)
    secret = "tell-nobody-4711"
    xnat.users["demo"] = replace(xnat.users["demo"], password=secret)
    commands.env["XNAT_PASS"] = secret
    dask.start_worker("a", env={"DASK_LOGGING__DISTRIBUTED": "debug"})
    done = await commands("upload", tree, "-P", "demo", "--dask", dask.when_ready(), "-q")
    assert done.code == 0, done.err
    assert b" DEBUG - Message from " in dask.log.read_bytes()
    files = [path for path in dask.log.parent.rglob("*") if path.is_file()]
    assert dask.log in files
    for path in files:
        content = path.read_bytes()
        assert secret.encode() not in content, path
        assert os.fsencode(tree) not in content, path
