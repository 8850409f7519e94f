"""Only files that a rule of the site provably drops may be missing from a session: any other may be a loss."""

from collections.abc import Callable
from pathlib import Path
from typing import Any

import pytest
from builders import image, sop, write
from conftest import Commands, Ended

from asyncimport.testserver import Empty, Fault, Script, SeriesFilter, Tell, TestXnat

pytestmark = pytest.mark.anyio

FOUR = {sop(number) for number in range(1, 5)}


@pytest.fixture
def visit(tmp_path: Path) -> Path:
    """Write a session of four instances, and one of a series called "noise"."""
    place = tmp_path / "visit"
    for number in range(1, 5):
        write(place / str(number), image(number, SeriesDescription="T1"))
    write(place / "5", image(5, SeriesDescription="noise", SeriesInstanceUID="1.2.3.5", SeriesNumber=2))
    return place


def of_site(name: str, rule: object) -> Callable[[TestXnat], None]:
    """Give the site a filter or a script."""
    return lambda xnat: setattr(xnat, name, rule)


def of_project(name: str, rule: object) -> Callable[[TestXnat], None]:
    """Give the project a filter or a script."""
    return lambda xnat: setattr(xnat.project("demo"), name, rule)


def is_noise(header: Any) -> bool:
    """Reject a series."""
    return bool(header.series_description == "noise")


async def sent(commands: Commands, visit: Path, *more: str) -> Ended:
    """Upload the session, at one file at a time."""
    return await commands("upload", visit, "-P", "demo", "-w", "1", "-o", "json", *more)


def told(ended: Ended) -> tuple[int, str, str | None, str | None]:
    """Return the exit code, and the end of the one session."""
    (detail,) = ended.json["details"]
    return ended.code, detail["state"], detail["verified"], detail["reason"]


# What drops nothing of this session, and what an empty answer is then.
BESIDE: dict[str, Callable[[TestXnat], None]] = {
    "site denies others": of_site("series_filter", SeriesFilter(("localizer", "[Modality]", "CT"))),
    "project denies others": of_project("series_filter", SeriesFilter(("localizer",))),
    "site allows": of_site("series_filter", SeriesFilter(("T1", "noise"), "allowlist")),
    "site rejects others": of_site(
        "script", Script(reject=lambda header: header.modality == "CT", condition='(0008,0060) = "CT"')
    ),
    "project rejects": of_project("script", Script(reject=lambda header: header.modality == "CT")),
}


@pytest.mark.parametrize("rule", BESIDE.values(), ids=BESIDE.keys())
async def test_a_rule_that_does_not_apply_is_no_excuse_for_an_empty_answer(
    xnat: TestXnat, url: str, commands: Commands, visit: Path, rule: Callable[[TestXnat], None]
) -> None:
    """An empty answer of a proxy is retried. The session is held in each run until the file is sent or accepted."""
    rule(xnat)
    commands.login(url)
    fault = xnat.faults.add(Fault("import", Empty(), nth=2))
    ended = await sent(commands, visit)
    assert (fault.hits, told(ended)) == (1, (0, "archived", "uids", None))
    assert xnat.sop_uids() == FOUR | {sop(5)}


async def test_an_empty_answer_that_stays_holds_the_session_in_each_run(
    xnat: TestXnat, url: str, commands: Commands, visit: Path
) -> None:
    """Even with a filter in force. `--retry refused` sends the lost file."""
    xnat.series_filter = SeriesFilter(("localizer",))
    commands.login(url)
    fault = xnat.faults.add(Fault("import", Empty(), nth=5, times=99))
    for _ in range(2):
        assert told(await sent(commands, visit)) == (8, "held", None, "1 of its files was refused")
    fault.times = 0
    assert told(await sent(commands, visit, "--retry", "refused")) == (0, "archived", "uids", None)
    assert xnat.sop_uids() == FOUR | {sop(5)}


# Rules that provably drop the series.
SEEN: dict[str, tuple[Callable[[TestXnat], None], str]] = {
    "site denies": (of_site("series_filter", SeriesFilter(("NOI",))), "the site's series import filter"),
    "site allows others": (
        of_site("series_filter", SeriesFilter(("T1",), "allowlist")),
        "the site's series import filter",
    ),
    "project denies": (
        of_project("series_filter", SeriesFilter(("# no", "[Modality]", "CT", "[SeriesDescription]", "noise"))),
        "the project's series import filter",
    ),
    "site rejects": (
        of_site("script", Script(reject=is_noise, condition='(0008,103E) ~ "noi.*"')),
        "the site's anonymisation script",
    ),
    "project rejects": (
        of_project("script", Script(reject=is_noise, condition='(0008,103E) = "noise"')),
        "the project's anonymisation script",
    ),
    "site rejects one instance": (
        of_site("script", Script(reject=is_noise, condition=f'(0008,0018) = "{sop(5)}"')),
        "the site's anonymisation script",
    ),
}


@pytest.mark.parametrize(("rule", "name"), SEEN.values(), ids=SEEN.keys())
async def test_what_a_rule_is_seen_to_drop_is_left_out(
    xnat: TestXnat, url: str, commands: Commands, visit: Path, rule: Callable[[TestXnat], None], name: str
) -> None:
    """It is sent once and reported with the name of the rule. The next run does not count it again."""
    rule(xnat)
    commands.login(url)
    ended = await sent(commands, visit)
    assert told(ended) == (8, "archived", "uids", None)
    assert name in ended.json["problems"][0]["reason"]
    assert (xnat.sop_uids(), xnat.count["import"]) == (FOUR, 5)
    again = await sent(commands, visit)
    assert (again.code, again.json["files"]["already_refused"], xnat.count["import"]) == (0, 1, 5)


# What drops the series, and cannot be seen to, with how often it is sent, and whether the journal has it as stored.
UNSEEN: dict[str, tuple[Callable[[TestXnat], None], str, int]] = {
    "site maps modalities": (
        of_site("series_filter", SeriesFilter(("MR: true",), "modality map", excludes=is_noise)),
        "the site's series import filter",
        6,
    ),
    "project denies as java knows": (
        of_project("series_filter", SeriesFilter((r"(?:noise)(?#\Q)",))),
        "the project's series import filter",
        6,
    ),
    "site rejects": (of_site("script", Script(reject=is_noise)), "the site's anonymisation script", 6),
    "project rejects": (of_project("script", Script(reject=is_noise)), "the project's anonymisation script", 5),
}


@pytest.mark.parametrize(("rule", "name", "imports"), UNSEEN.values(), ids=UNSEEN.keys())
async def test_what_a_rule_may_have_dropped_is_told_until_somebody_decides(
    xnat: TestXnat, url: str, commands: Commands, visit: Path, rule: Callable[[TestXnat], None], name: str, imports: int
) -> None:
    """The session lacks it in each run, with the same exit code. `--partial archive` archives it without the file."""
    rule(xnat)
    commands.login(url)
    for _ in range(2):
        ended = await sent(commands, visit)
        assert told(ended) == (8, "held", None, "1 of its files was refused")
        (problem,) = ended.json["problems"]
        assert f"{name} may have rejected it, which cannot be tried here" in problem["reason"]
        assert (ended.json["files"]["refused"], xnat.count["import"]) == (1, imports)
    taken = await sent(commands, visit, "--partial", "archive")
    assert told(taken) == (8, "archived", "uids", "1 of its files was refused")
    assert told(await sent(commands, visit)) == (8, "archived", "uids", "1 of its files was refused")
    assert (xnat.sop_uids(), xnat.count["import"]) == (FOUR, imports)


def losing(xnat: TestXnat, number: int) -> None:
    """Let the archive lose an instance before it is compared."""

    def lose() -> None:
        for session in xnat.archived:
            for _, resource in session.resources:
                for name in [name for name, file in resource.files.items() if file.sop_uid == sop(number)]:
                    del resource.files[name]

    xnat.faults.add(Fault("listing", Tell(lose), path="/resources?all"))


async def test_what_the_archive_has_lost_is_sent_again_beside_what_a_script_rejects(
    xnat: TestXnat, url: str, commands: Commands, visit: Path
) -> None:
    """The script says what it rejects. Any other missing file is lost."""
    xnat.project("demo").script = Script(reject=is_noise, condition='(0008,103E) = "noise"')
    losing(xnat, 2)
    commands.login(url)
    ended = await sent(commands, visit)
    assert told(ended) == (8, "archived", "uids", None)
    assert (xnat.sop_uids(), xnat.count["import"]) == (FOUR, 6)
    assert [problem["files"] for problem in ended.json["problems"]] == [1]


async def test_what_a_script_may_have_rejected_stays_on_the_list_of_verify(
    xnat: TestXnat, url: str, commands: Commands, visit: Path
) -> None:
    """XNAT had acknowledged it, and no known rule drops it."""
    xnat.project("demo").script = Script(reject=is_noise)
    commands.login(url)
    assert (await sent(commands, visit, "--partial", "archive")).code == 8
    ended = await commands("verify", "-P", "demo")
    assert (ended.code, "1 of 5 instances is missing" in ended.err + ended.out) == (9, True), ended


@pytest.mark.parametrize("is_changed", [False, True], ids=["row deleted", "script changed"])
async def test_what_a_script_rejects_again_is_told_with_the_ways_out(
    xnat: TestXnat, url: str, commands: Commands, visit: Path, is_changed: bool
) -> None:
    """A row that holds only rejected files fails in XNAT. The session is held until the user decides."""
    xnat.project("demo").script = Script(reject=is_noise, condition='(0008,103E) = "noise"')
    commands.login(url)
    assert told(await sent(commands, visit)) == (8, "archived", "uids", None)
    code, state, _, reason = told(await sent(commands, visit, "--retry", "refused"))
    (row,) = xnat.prearchive
    assert (code, state, reason is not None) == (9, "held", True)
    for words in ("the project's anonymisation script", f"delete {row.uri} in XNAT's prearchive", "`--retry held`"):
        assert words in str(reason)
    if is_changed:
        xnat.project("demo").script = None
    else:
        xnat.remove_row(row)
    ended = await sent(commands, visit, "--retry", "held")
    assert told(ended)[:2] == ((0, "archived") if is_changed else (8, "archived")), ended
    assert xnat.sop_uids() == (FOUR | {sop(5)} if is_changed else FOUR)
    assert xnat.prearchive == []
    assert (await sent(commands, visit)).code == 0
