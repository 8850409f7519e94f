"""Progress as a person sees it: on real terminals of several widths, resized, dumb, without colours, and off one."""

import io
import os
import re
import shutil
import sys
from pathlib import Path

import anyio
import anyio.lowlevel
import pytest
from conftest import Commands
from patience import COMMAND, in_time
from rich.console import Console

from asyncimport.cli.output import consoles
from asyncimport.cli.progress import progress
from asyncimport.model.events import Admitted, Scanned, ServerUnavailable
from asyncimport.reporting.progress import Totals
from asyncimport.testserver import Fault, Reset, Stall, Status, TestXnat
from asyncimport.testserver.samples import generated

pytestmark = [
    pytest.mark.anyio,
    pytest.mark.thorough,
    pytest.mark.skipif(sys.platform == "win32", reason="Windows has no pty"),
]
if sys.platform != "win32":
    from terminal import open_terminal

BAR = re.compile("[━─]{10,}")
UNITS = r"\d+(\.\d)? (of \d+\.\d )?k?B"


@pytest.fixture
def ready(ready: Commands) -> Commands:
    """Let the terminal decide on width and colours."""
    del ready.env["COLUMNS"], ready.env["NO_COLOR"]
    ready.env |= {"TERM": "xterm-256color", "PYTHONIOENCODING": "utf-8"}
    return ready


@pytest.fixture
def tree(tmp_path: Path) -> Path:
    """Write five sessions with 60 files."""
    generated(tmp_path / "tree", sessions=5, files=60, size=3_000, seed=4)
    return tmp_path / "tree"


def view(lines: list[str]) -> list[str]:
    """Return the live lines: the bar and what is below it."""
    bars = [place for place, line in enumerate(lines) if BAR.match(line)]
    assert len(bars) == 1, lines
    return lines[bars[0] :]


@pytest.mark.parametrize("columns", [60, 80, 120, 200])
async def test_an_upload(xnat: TestXnat, ready: Commands, tree: Path, columns: int) -> None:
    """It shows share, totals, sessions, uploads in flight and their limit, retries and their cause: in whole parts."""
    xnat.faults.add(Fault("import", Status(503, headers={"Server": "nginx"}), nth=30, times=2))
    xnat.faults.add(Fault("import", Status(422), nth=20))
    stalled = Fault("import", Stall(), nth=45, times=4)
    xnat.faults.add(stalled)
    words = ("upload", tree, "-P", "demo", "-w", "4", "--partial", "archive")
    async with open_terminal(*words, env=ready.env, columns=columns, lines=40) as terminal:
        # The last of what is recorded comes with the next commit, and what limits is told of the last seconds.
        ready_texts = ("4 uploads in flight", "--workers and the server", "41 of 60 files")
        lines = await terminal.wait_for(
            lambda text: len(stalled.gates) == 4 and all(one in text for one in ready_texts)
        )
        bar, *rest = view(lines)
        assert re.match(r"[━─]+ +[67]\d %", bar)
        parts = [part for line in rest for part in line.split(" · ")]
        for expected in (
            r"4\d of 60 files",
            r"1\d\d\.\d of 1\d\d\.\d kB",
            r"\d sessions? done, \d open",
            r"4 uploads in flight, limited by --workers and the server",
            r"files: 1 refused",
            r"2 retries, last: the server is overloaded or away( \(503\))?",
        ):
            assert any(re.fullmatch(expected, part) for part in parts), (expected, parts)
        assert max(map(len, lines)) <= columns
        assert sum(line.startswith("refused: ") for line in lines) == 1
        stalled.release()
        assert await terminal.end() == 8
        text = "\n".join(terminal.lines)
        assert not BAR.search(text)
        assert "in flight" not in text
        assert len(re.findall(r"^archived: demo / \S+ / \S+$", text, re.MULTILINE)) == 5
        assert re.search(r"^60 DICOM files, .*\n +59 +stored\n", text, re.MULTILINE)


async def test_a_quiet_wait(xnat: TestXnat, ready: Commands, tree: Path) -> None:
    """All is sent, and the run waits for what may still land: there is no time left, but that of the wait."""
    xnat.faults.add(Fault("import", Reset(), nth=59))
    words = ("upload", tree, "-P", "demo", "-w", "1", "--settle-time", "4s")
    async with open_terminal(*words, env=ready.env) as terminal:
        lines = await terminal.wait_for(lambda text: "in case an interrupted upload still lands" in text)
        bar, *rest = view(lines)
        assert re.fullmatch("━{50,} +100 %", bar)
        assert rest[0].startswith("60 of 60 files · ")
        assert re.search(r"\b\d sessions? done, \d to be archived", rest[-3])
        assert rest[-2].startswith("1 retry, last: the connection broke")
        assert re.match("waiting 0:0[1-4], in case", rest[-1])
        assert await terminal.end() == 0


async def test_an_outage(xnat: TestXnat, ready: Commands, tree: Path) -> None:
    """It shows the cause, how long it has lasted, and how much longer the run waits; then the upload goes on."""
    outage = Fault("any", Status(502, headers={"Server": "nginx"}), nth=40, times=1000)
    xnat.faults.add(outage)
    words = ("upload", tree, "-P", "demo", "-w", "2", "--outage-timeout", "5m")
    async with open_terminal(*words, env=ready.env, columns=100) as terminal:
        lines = await terminal.wait_for(lambda text: re.search("no answer for 0:0[2-9]", text) is not None)
        bar, *rest = view(lines)
        assert re.fullmatch(r"[━─]+ +\d+ %", bar)
        away = r"no answer for 0:0\d: the server is overloaded or away \(502\) · gives up in 4:5\d"
        assert re.fullmatch(away, rest[-1])
        assert "/s" not in "\n".join(rest)
        assert "\x1b[31m" in terminal.raw.decode()
        outage.times = 0
        await terminal.wait_for(lambda text: "no answer" not in text)
        assert await terminal.end() == 0


async def test_a_paused_terminal(xnat: TestXnat, ready: Commands, tree: Path) -> None:
    """Ctrl-S stops what is shown, and not the upload; Ctrl-Q shows the rest."""
    stalled = Fault("import", Stall(), nth=2)
    xnat.faults.add(stalled)
    async with open_terminal("upload", tree, "-P", "demo", "-w", "2", env=ready.env) as terminal:
        await terminal.wait_for(lambda text: "in flight" in text and bool(stalled.gates))
        terminal.type(b"\x13")
        stalled.release()
        with in_time(COMMAND):
            while len(xnat.archived) < 5:
                await anyio.lowlevel.checkpoint()
        terminal.type(b"\x11")
        assert await terminal.end() == 0
    assert len([line for line in terminal.lines if line.startswith("archived: ")]) == 5
    assert "60 DICOM files" in "\n".join(terminal.lines)


async def test_ctrl_c(xnat: TestXnat, ready: Commands, tree: Path) -> None:
    """What it says appears above the live lines, while what is in flight may finish."""
    xnat.faults.add(Fault("import", Stall(), nth=30))
    async with open_terminal("upload", tree, "-P", "demo", "-w", "1", env=ready.env) as terminal:
        await terminal.wait_for(lambda text: "29 of 60 files" in text)
        terminal.interrupt()
        lines = await terminal.wait_for(lambda text: "stopping: what is in flight may finish" in text)
        stopping = next(place for place, line in enumerate(lines) if line.startswith("stopping: "))
        assert len(view(lines[stopping:])) > 2
        terminal.interrupt()
        assert await terminal.end() == 130
    assert terminal.lines[-1] == "stopped; the same command goes on from here"
    assert not BAR.search("\n".join(terminal.lines))


async def test_a_scan(ready: Commands, tree: Path) -> None:
    """A plan shows what the scan has found so far; there is no bar, as there is nothing to send."""
    async with open_terminal("plan", tree, "-P", "demo", env=ready.env) as terminal:
        assert await terminal.end() == 0
        shown = terminal.raw.decode()
    assert re.search(rf"scanning: \d+ files, {UNITS} so far", shown)
    assert not BAR.search(shown)
    assert "scanning" not in "\n".join(terminal.lines)


async def test_colours_are_left_out(xnat: TestXnat, ready: Commands, tree: Path) -> None:
    """With NO_COLOR the lines are the same, without colours."""
    stalled = Fault("import", Stall(), nth=40)
    xnat.faults.add(stalled)
    async with open_terminal("upload", tree, "-P", "demo", env=ready.env | {"NO_COLOR": "1"}) as terminal:
        await terminal.wait_for(lambda text: "of 60 files" in text and len(stalled.gates) == 1)
        stalled.release()
        assert await terminal.end() == 0
        shown = terminal.raw.decode()
    assert BAR.search(shown)
    assert set(re.findall(r"\x1b\[[\d;]*m", shown)) <= {"\x1b[1m", "\x1b[0m"}


@pytest.mark.parametrize("env", [{"TERM": "dumb"}, {"ASYNCIMPORT_QUIET": "1"}], ids=["dumb", "quiet"])
async def test_terminals_without_live_lines(ready: Commands, tree: Path, env: dict[str, str]) -> None:
    """A dumb terminal gets plain lines, and `-q` the result only."""
    async with open_terminal("upload", tree, "-P", "demo", env=ready.env | env) as terminal:
        assert await terminal.end() == 0
    begin, *_, last = terminal.lines
    assert begin.startswith("60 DICOM files, ")
    assert last == "5 sessions: 5 archived, 5 of them verified"
    assert b"\r\x1b" not in terminal.raw
    if "TERM" in env:
        assert b"\x1b" not in terminal.raw


async def test_letters_that_the_terminal_lacks(xnat: TestXnat, ready: Commands, tree: Path) -> None:
    """Bar and separators are in ASCII."""
    stalled = Fault("import", Stall(), nth=40)
    xnat.faults.add(stalled)
    env = ready.env | {"PYTHONIOENCODING": "ascii"}
    async with open_terminal("upload", tree, "-P", "demo", env=env) as terminal:
        await terminal.wait_for(lambda text: "of 60 files" in text and len(stalled.gates) == 1)
        stalled.release()
        assert await terminal.end() == 0
    shown = terminal.raw.decode("ascii")
    assert re.search(r"##+-* +\d+ %|-{20,} +\d+ %", re.sub(r"\x1b\[[\d;]*m", "", shown))
    assert " files | " in shown
    assert "\\x" not in shown


@pytest.mark.skipif(shutil.which("tmux") is None, reason="tmux is not installed")
async def test_a_terminal_that_is_resized(xnat: TestXnat, ready: Commands, tree: Path, tmp_path: Path) -> None:
    """The terminal wraps what is on the screen anew. Nothing of the live lines stays, and nothing above them goes."""
    stalled = [Fault("import", Stall(), nth=nth) for nth in (20, 40, 60)]
    for fault in stalled:
        xnat.faults.add(fault)
    tmux = ["tmux", "-f", os.devnull, "-S", str(tmp_path / "tmux")]

    async def control(*words: str) -> str:
        done = await anyio.run_process([*tmux, *words], env=ready.env | {"LANG": "C.UTF-8"})
        return done.stdout.decode()

    async def wait_for(pattern: str) -> str:
        with in_time(COMMAND):
            while not re.search(pattern, text := await control("capture-pane", "-p", "-S", "-", "-t", "it")):
                pass
        return text

    # The screen is full, as it mostly is: tmux moves the first lines of another out of reach.
    command = f"seq 30; {sys.executable} -m asyncimport upload {tree} -P demo -w 1; echo it ended with $?; cat"
    await control("new-session", "-d", "-s", "it", "-x", "120", "-y", "20", command)
    name = (await control("display-message", "-p", "-t", "it", "#{pane_tty}")).strip()
    device = os.open(name, os.O_RDONLY | os.O_NOCTTY)
    try:
        for fault, columns, files in zip(stalled, (50, 90, 35), (19, 38, 57), strict=True):
            await wait_for(rf"\b{files} of 60 files")
            while not fault.gates:
                await anyio.lowlevel.checkpoint()
            await control("resize-window", "-t", "it", "-x", str(columns))
            # After several of them, tmux is slow to tell the terminal.
            with in_time(COMMAND):
                while os.get_terminal_size(device).columns != columns:
                    await anyio.lowlevel.checkpoint()
            fault.release()
        text = await wait_for("it ended with 0")
    finally:
        os.close(device)
        await control("kill-server")
    assert not BAR.search(text)
    assert "files ·" not in text
    assert len(re.findall("^archived: ", text, re.MULTILINE)) == 5
    assert "60 DICOM files" in text


@pytest.mark.parametrize("encoding", ["utf-8", "ascii"])
async def test_a_plain_line_is_whole(encoding: str) -> None:
    """Off a terminal there is a line now and then, as long as it takes, whatever the columns are."""
    written = io.BytesIO()
    file = io.TextIOWrapper(written, encoding=encoding, write_through=True)
    console = Console(file=file, width=20, soft_wrap=True, highlight=False)
    totals = Totals()
    for event in (Scanned(3, 3000), Admitted(3, 3000), ServerUnavailable("XNAT is not there (404)")):
        totals.note(event)
    async with progress(totals, console, quiet=False, plain_seconds=0.001):
        with in_time():
            while written.getvalue().count(b"\n") < 2:
                await anyio.wait_all_tasks_blocked()
    line = written.getvalue().decode(encoding).splitlines()[0]
    parts = line.split(" · " if encoding == "utf-8" else " | ")
    assert parts[:3] == ["0 %", "scanning: 3 files, 3.0 kB so far", "0 of 3 files"]
    assert parts[-1] == "no answer for 0:00: XNAT is not there (404)"


async def test_nothing_is_shown_quietly() -> None:
    """With --quiet there are no lines at all."""
    _, err = consoles(no_color=True)
    async with progress(Totals(), err, quiet=True, plain_seconds=0.0) as shown:
        assert shown is None
