"""What commands write with `-o json`: one schema, by which programs can read all of them, also after errors."""

import json
from pathlib import Path
from typing import Any

import jsonschema
import pytest
from conftest import Commands, Ended
from results_schema import RESULTS, check_result

from asyncimport.cli.app import COMMANDS
from asyncimport.testserver import TestXnat

pytestmark = [pytest.mark.anyio, pytest.mark.thorough]


def result_of(ended: Ended, command: str) -> dict[str, Any]:
    """Return the result of a command, which must be as the schema says, with no key that it does not name."""
    found: dict[str, Any] = ended.json
    check_result(found)
    assert (found["command"], found["exit_code"]) == (command, ended.code)
    defined = RESULTS["$defs"][command]
    if "if" in defined:
        defined = defined["then" if "session" in found else "else"]
    assert found.keys() <= RESULTS["properties"].keys() | defined["properties"].keys()
    return found


def test_the_schema_is_one_and_has_every_command() -> None:
    """It is a valid schema."""
    jsonschema.Draft202012Validator.check_schema(RESULTS)
    assert set(RESULTS["properties"]["command"]["enum"]) == {*COMMANDS, None}


async def test_each_command(url: str, commands: Commands, tree: Path, tmp_path: Path) -> None:
    """A dry run has the keys of an upload, and says that nothing is sent."""
    commands.login(url)
    commands.env["ASYNCIMPORT_OUTPUT"] = "json"
    words = ("upload", tree, "-P", "demo")
    rehearsed = result_of(await commands(*words, "--dry-run"), "upload")
    uploaded = result_of(await commands(*words), "upload")
    assert uploaded.keys() <= rehearsed.keys()
    assert (rehearsed["dry_run"], rehearsed["files"]["stored"], rehearsed["files"]["left"]) == (True, 0, 12)
    assert (rehearsed["bytes"], rehearsed["sessions"]["open"]) == (
        {"found": uploaded["bytes"]["found"], "stored": 0, "sent": 0},
        2,
    )
    assert {one["session"] for one in rehearsed["details"]} == {one["session"] for one in uploaded["details"]}
    again = result_of(await commands(*words, "--dry-run"), "upload")
    assert (again["files"]["already_stored"], again["sessions"]["archived"]) == (12, 2)

    label = uploaded["details"][0]["session"]
    assert result_of(await commands("plan", tree, "-P", "demo"), "plan")["files"] == 12
    assert result_of(await commands("status"), "status")["files"]["stored"] == 12
    assert result_of(await commands("status", label), "status")["host"] == url
    assert result_of(await commands("report"), "report")["sessions"]["archived"] == 2
    assert result_of(await commands("verify", "--orphans"), "verify")["sessions"]["verified"] == 2
    assert result_of(await commands("forget", "--gone", "--yes"), "forget")["found"] == []
    assert result_of(await commands("doctor", "-P", "demo"), "doctor")["host"] == url
    note = tmp_path / "note.txt"
    note.write_text("a note")
    attached = await commands("attach", note, "-P", "demo", "--session", label, "--resource", "NOTES")
    assert result_of(attached, "attach")["host"] == url
    table = tmp_path / "subjects.csv"
    table.write_text(f"subject_label,gender\n{uploaded['details'][0]['subject']},M\n")
    assert result_of(await commands("subjects", table, "-P", "demo"), "subjects")["error"] is None


async def test_login(url: str, commands: Commands) -> None:
    """It names the profile and what the keyring keeps, and no secret."""
    commands.use_keyring()
    ended = await commands("login", "--host", url, "--user", "demo", "--password-stdin", "-o", "json", stdin=b"demo\n")
    found = result_of(ended, "login")
    assert (found["profile"], found["kept"], "demo\n" in ended.out) == ("default", "password", False)
    assert result_of(await commands("login", "--forget", "default", "-o", "json"), "login")["removed"]


async def test_testserver(commands: Commands, tmp_path: Path) -> None:
    """It writes its address in one line when it listens, and an error like other commands."""
    async with commands.start("testserver", "--port", "0", "-o", "json") as process:
        assert process.stdout is not None
        line = await process.stdout.receive()
        found = json.loads(line)
    check_result(found)
    assert (line.count(b"\n"), found["host"], found["exit_code"]) == (1, found["url"], None)
    broken = tmp_path / "faults.json"
    broken.write_text('[{"kind": "import"}, {"action": "empty"}]')
    ended = await commands("testserver", "--faults", broken, "-o", "json")
    assert "fault 2: kind is missing" in result_of(ended, "testserver")["error"]["message"]


async def test_demo(commands: Commands) -> None:
    """Its steps go to standard error."""
    ended = await commands("demo", "-o", "json")
    assert result_of(ended, "demo")["exit_code"] == 0
    assert "1. Sample files" in ended.err


@pytest.mark.parametrize(
    ("words", "command"),
    [(("uplod", "-o", "json"), None), (("status", "-ojson"), "status"), (("plan", "--output=json"), "plan")],
)
async def test_an_error_of_any_command(commands: Commands, words: tuple[str, ...], command: str | None) -> None:
    """Also if the command line names no command."""
    ended = await commands(*words)
    check_result(ended.json)
    assert (ended.json["command"], ended.json["exit_code"]) == (command, ended.code)
    assert f"error: {ended.json['error']['message']}" in ended.err


async def test_a_result_after_a_stop(xnat: TestXnat, url: str, commands: Commands, tree: Path) -> None:
    """An upload that is stopped has all keys too."""
    commands.login(url)
    ended = await commands("upload", tree, "-P", "demo", "--max-duration", "0.001s", "-o", "json")
    assert result_of(ended, "upload")["exit_code"] == 130
    assert xnat.count["import"] < 12
