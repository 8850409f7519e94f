"""Every fault at every stage of a run; the table is in tests/support/fault_table.py."""

import asyncio
import selectors
from collections.abc import Iterator
from contextlib import nullcontext
from dataclasses import replace
from pathlib import Path
from random import Random
from typing import Any

import anyio
import pytest
from builders import QUICK, image, logged_in, upload, write
from fault_checks import check_faults, check_files, check_requests, check_summary, check_zips, requests_of, study
from fault_table import (
    ALONE,
    CELLS,
    FAULTS,
    MANY,
    PATIENT,
    ROWS_TAKEN,
    RUNS,
    SHORT,
    STAGES,
    STRUCK,
    TABLE,
    TOGETHER,
    ZIP_VERSIONS,
    Row,
    action_of,
)

from asyncimport.model.choices import Compress
from asyncimport.model.deliveries import Outcome
from asyncimport.model.events import Event, Notice, OutcomesRecorded, ServerUnavailable
from asyncimport.testserver import (
    PROFILES,
    ExpireLogins,
    Fault,
    Late,
    LoginPage,
    Project,
    Restart,
    Stall,
    TestXnat,
    serve,
)
from asyncimport.testserver.faults.actions import STRIKES
from asyncimport.xnat.site import check_project

pytestmark = [pytest.mark.anyio, pytest.mark.thorough]


class _IdleSelector(selectors.DefaultSelector):
    """Adds up the idle time."""

    idle_seconds = 0.0

    def select(self, timeout: float | None = None) -> list[tuple[selectors.SelectorKey, int]]:
        """Wait for events, and add up the timeouts that passed without any."""
        ready = super().select(timeout)
        if not ready and timeout is not None and timeout > 0:
            self.idle_seconds += timeout
        return ready


class IdleLoop(asyncio.SelectorEventLoop):
    """An event loop whose clock runs only while it is idle: on a busy machine only stalls time out."""

    def __init__(self) -> None:
        self._idle = _IdleSelector()
        super().__init__(self._idle)

    def time(self) -> float:
        """Return the idle seconds."""
        return self._idle.idle_seconds


@pytest.fixture
def anyio_backend(request: pytest.FixtureRequest) -> tuple[str, dict[str, Any]]:
    """Run stalls on a clock that does not depend on the speed of the machine."""
    parameters = request.node.callspec.params if hasattr(request.node, "callspec") else {}
    is_stall = isinstance(FAULTS.get(parameters.get("fault", "")), Stall)
    return "asyncio", {"loop_factory": IdleLoop} if is_stall else {}


def can_strike(fault: str, stage: str) -> bool:
    """Return whether the test XNAT accepts this fault."""
    try:
        Fault(STAGES[stage].kind, action_of(fault, stage))
    except ValueError:
        return False
    return True


def test_the_table_has_no_holes() -> None:
    """Each fault has a row or a reason at each stage, and no row where it cannot strike."""
    assert {type(action) for action in FAULTS.values()} == set(STRIKES)
    assert set(TABLE) == set(STAGES)
    for stage, column in TABLE.items():
        assert set(column) == set(FAULTS), stage
        rows = {fault for fault, cell in column.items() if isinstance(cell, Row)}
        assert {fault for fault in rows if not can_strike(fault, stage)} == set(), stage
        assert all(cell.count(" ") > 3 for cell in column.values() if isinstance(cell, str)), stage


def strikes(stage: str, fault: str, cell: Row, *, alone: bool) -> Iterator[Fault]:
    """Yield the faults that strike each session or login."""
    place, action = STAGES[stage], action_of(fault, stage)
    if place.path and stage in RUNS:
        for number in range(1, STRUCK + 1):
            yield Fault(place.kind, action, place.nth, path=place.path.format(number))
    elif alone:
        each = requests_of(stage, cell)[place.kind].start
        for number in range(STRUCK):
            yield Fault(place.kind, action, place.nth + number * each, cell.times)
    else:
        yield Fault(place.kind, action, place.nth, STRUCK)


@pytest.mark.parametrize(("stage", "fault", "cell"), [cell for cell in CELLS if cell.values[0] in RUNS])
async def test_a_fault_in_a_run(xnat: TestXnat, url: str, tmp_path: Path, stage: str, fault: str, cell: Row) -> None:
    """Summary, archive and requests of a run of five struck sessions are as the row says."""
    place, action = STAGES[stage], FAULTS[fault]
    xnat.add_project(Project("other"))
    # One after another where requests are struck by their number, and where a fault has to do with other requests; but
    # five stalls at a time take no longer than one.
    alone = not place.path or isinstance(action, Late | LoginPage | ExpireLogins | Restart)
    if isinstance(action, Stall) and place.nth == 1:
        alone = False
    faults = [xnat.faults.add(one) for one in strikes(stage, fault, cell, alone=alone)]

    outcomes: list[Outcome] = []

    def report(event: Event) -> None:
        if isinstance(event, OutcomesRecorded):
            outcomes.extend(event.outcomes)
        # A server that restarts is back when the run has begun to wait for it.
        if isinstance(event, ServerUnavailable) and event.reason is not None and isinstance(action, Restart):
            for one in faults:
                one.release()

    sent = study(tmp_path / "tree", place.files)
    summary = await upload(
        url,
        [tmp_path / "tree"],
        tmp_path / "journal.db",
        options=replace(ALONE if alone else TOGETHER, archive=stage != "build alone"),
        policy=PATIENT,
        report=report,
        timeouts=SHORT if isinstance(action, Stall) else QUICK,
    )
    await check_faults(faults, cell)
    check_summary(summary, place, cell)
    check_files(xnat, sent, place, cell)
    # The prearchive is listed before each attempt at a first file, once for those that are made at the same moment.
    # (Where a concurrent send is struck in place of the next file, that may be a first one.)
    again = stage == "first file" or fault == "gateway at once" or fault in ROWS_TAKEN
    firsts = xnat.count["import"] if again else STRUCK
    # Four settings and the site's script tell what filters and scripts there are, before the first file.
    rules = 5
    # Once in a run: the login is checked and the project looked up, the archived sessions of the project are listed
    # before the first file, to see whose they are, and both prearchive and archive are searched for orphans at the end.
    once = {"login": 1, "listing": 5 + rules + cell.once, "logout": 1}
    check_requests(xnat, stage, cell, once, range(1, firsts + 1))
    assert xnat.live_logins("demo") == STRUCK * cell.logins
    uncertain = sum(outcome.may_have_taken_effect for outcome in outcomes)
    # What XNAT calls a concurrent send may be struck in place of the next file.
    if fault == "gateway at once" and cell.may_have_taken_effect:
        assert 0 < uncertain <= STRUCK
    else:
        assert uncertain == STRUCK * cell.may_have_taken_effect


@pytest.mark.parametrize(("stage", "fault", "cell"), [cell for cell in CELLS if cell.values[0] not in [*RUNS, "zip"]])
async def test_a_fault_at_a_login(xnat: TestXnat, url: str, stage: str, fault: str, cell: Row) -> None:
    """Each of five struck logins succeeds, or ends with the error of the row."""
    place, action = STAGES[stage], action_of(fault, stage)
    faults: list[Fault] = []

    async def visit() -> None:
        async with logged_in(url, policy=MANY, timeouts=SHORT if isinstance(action, Stall) else QUICK) as client:
            if stage.startswith("preflight"):
                await check_project(client, "demo", MANY)

    if isinstance(action, Stall) and place.nth == 1:
        # Five at a time take no longer than one.
        faults.append(xnat.faults.add(Fault(place.kind, action, times=STRUCK, path=place.path)))
        async with anyio.create_task_group() as tasks:
            for _ in range(STRUCK):
                tasks.start_soon(visit)
    else:
        for _ in range(STRUCK):
            faults.append(xnat.faults.add(Fault(place.kind, action, place.nth, path=place.path)))
            with pytest.raises(cell.end, match=cell.why) if isinstance(cell.end, type) else nullcontext():
                await visit()
    await check_faults(faults, cell)
    check_requests(xnat, stage, cell, {}, range(1))
    assert xnat.live_logins("demo") == STRUCK * cell.logins


@pytest.mark.parametrize("version", ZIP_VERSIONS)
@pytest.mark.parametrize(("stage", "fault", "cell"), [cell for cell in CELLS if cell.values[0] == "zip"])
async def test_a_fault_in_a_zip(tmp_path: Path, stage: str, fault: str, cell: Row, version: str) -> None:
    """The archive has each file once, as it is on disk; journal, report and exit code tell the same."""
    place, action = STAGES[stage], FAULTS[fault]
    xnat = TestXnat(tmp_path / "xnat", profile=PROFILES[version])
    xnat.script = None
    xnat.add_project(Project("other"))
    struck = xnat.faults.add(Fault(place.kind, action_of(fault, stage), place.nth, cell.times, path=place.path))
    noise = Random(1).randbytes(20_000)
    for number in range(1, place.files + 1):
        write(tmp_path / "tree" / f"{number}", image(number, PixelData=bytes(one % 8 for one in noise), pixels=20_000))
    outcomes: list[Outcome] = []
    notices: list[str] = []

    def report(event: Event) -> None:
        if isinstance(event, OutcomesRecorded):
            outcomes.extend(event.outcomes)
        if isinstance(event, Notice):
            notices.append(event.reason)
        if isinstance(event, ServerUnavailable) and event.reason is not None and isinstance(action, Restart):
            struck.release()

    async with serve(xnat) as url:
        summary = await upload(
            url,
            [tmp_path / "tree"],
            tmp_path / "journal.db",
            options=replace(ALONE, compress=Compress.ALWAYS),
            policy=PATIENT,
            report=report,
            timeouts=SHORT if isinstance(action, Stall) else QUICK,
        )
        await struck.settled()
    assert struck.hits == cell.times
    each = requests_of(stage, cell)
    assert {kind: xnat.count[kind] for kind in each if xnat.count[kind] not in each[kind]} == {}
    assert sum(outcome.may_have_taken_effect for outcome in outcomes) == cell.may_have_taken_effect
    # Fewer zips than that without an end are those of a row that is gone.
    has_ended = cell.zips < place.files - 2 and fault not in ROWS_TAKEN
    assert [one.partition(": ")[0] for one in notices] == has_ended * ["images are sent as they are from now on"]
    await check_zips(xnat, tmp_path, summary, cell)
