"""Paths that the encoding of an output lacks, or that are no text: escaped in every command, and never a traceback."""

import csv
import json
import os
import sys
from pathlib import Path

import anyio
import pytest
from builders import image, sop, write
from conftest import Commands, Ended

from asyncimport.testserver import Fault, Status, TestXnat

pytestmark = [
    pytest.mark.anyio,
    pytest.mark.thorough,
    pytest.mark.skipif(sys.platform != "linux", reason="only Linux has names that are no text"),
]

SESSION = "P1_20200101"


@pytest.fixture
def odd(tmp_path: Path) -> Path:
    """Write a session below long names with letters; one file is broken, and the name of another is no text."""
    root = tmp_path / "Müller-漢字"
    place = root / ("deep " * 20) / ("deeper" * 20)
    for number in range(1, 4):
        write(place / f"{number}.dcm", image(number, PatientID="P1", StudyInstanceUID="1.2.1", StudyDate="20200101"))
    write(place / "brökén.dcm", image(9, PatientID="P1", StudyInstanceUID="1.2.1", StudyDate="20200101")[:300])
    os.rename(place / "3.dcm", os.fsencode(place) + b"/r\xf6ntgen.dcm")  # noqa: PTH104 - no text
    return root


async def run(commands: Commands, *words: str | os.PathLike[str], encoding: str) -> Ended:
    """Run a command whose outputs have this encoding, and few columns; there is no traceback."""
    env = commands.env | {"PYTHONIOENCODING": encoding, "COLUMNS": "40"}
    done = await anyio.run_process(
        [sys.executable, "-m", "asyncimport", *(os.fspath(word) for word in words)], env=env, check=False
    )
    ended = Ended(done.returncode, done.stdout.decode(encoding), done.stderr.decode(encoding))
    assert "Traceback" not in ended.err, ended.err
    assert "Error:" not in ended.err, ended.err
    return ended


@pytest.mark.parametrize("encoding", ["ascii", "latin-1"])
async def test_commands_show_odd_paths(
    xnat: TestXnat, ready: Commands, odd: Path, tmp_path: Path, encoding: str
) -> None:
    """Tables, JSON, CSV, logs and events have whole paths and UIDs, whatever the encoding and the columns."""
    xnat.faults.add(Fault("import", Status(422), times=1))
    safe, log, events = tmp_path / "safe é.txt", tmp_path / "log é", tmp_path / "events é.jsonl"
    planned = await run(ready, "plan", odd, "-P", "demo", "--out", tmp_path / "plan é.csv", encoding=encoding)
    broken = str(odd / ("deep " * 20) / ("deeper" * 20) / "brökén.dcm")
    assert broken.encode(encoding, "backslashreplace").decode(encoding) in planned.out
    files = ("--events", events, "--log-file", log, "-v")
    sent = await run(ready, "upload", odd, "-P", "demo", "--partial", "archive", *files, encoding=encoding)
    assert sent.code == 8, sent.err
    shown = await run(ready, "status", SESSION, encoding=encoding)
    lines = [line for line in shown.out.splitlines() if ".dcm" in line]
    for number, name in ((1, "1.dcm"), (2, "2.dcm"), (3, r"r\xf6ntgen.dcm")):
        whole = str(odd / ("deep " * 20) / ("deeper" * 20) / name)
        line = next(line for line in lines if sop(number) in line)
        assert whole.encode(encoding, "backslashreplace").decode(encoding) in line
        assert {"stored", "1"} <= set(line.split()) or "refused" in line
    asked = await run(ready, "status", SESSION, "-o", "json", encoding=encoding)
    assert {Path(one["path"]).name for one in asked.json["files"]} >= {"1.dcm", "2.dcm", r"r\xf6ntgen.dcm"}
    written = await run(ready, "status", SESSION, "-o", "csv", encoding="utf-8")
    assert {Path(row["path"]).name for row in csv.DictReader(written.out.splitlines())} >= {r"r\xf6ntgen.dcm"}
    await run(ready, "verify", "--safe-to-delete", safe, encoding=encoding)
    assert safe.read_bytes().count(os.fsencode(odd)) == 2
    noted = [json.loads(line) for line in events.read_text().splitlines()]
    refused = next(one["path"] for one in noted if one["event"] == "file_refused")
    assert refused in log.read_text()
    assert refused.encode(encoding, "backslashreplace").decode(encoding) in sent.err


@pytest.mark.parametrize(
    ("words", "code"),
    [
        (("attach", "{odd}/nothing é", "-P", "demo", "--session", "é", "--resource", "R"), 2),
        (("subjects", "{odd}/nothing é.csv", "-P", "demo"), 2),
        (("upload", "{odd}/nothing é", "-P", "demo"), 2),
        (("doctor", "-P", "é"), 5),
        (("é",), 2),
        (("upload", "--é"), 2),
    ],
)
async def test_errors_show_odd_words(ready: Commands, odd: Path, words: tuple[str, ...], code: int) -> None:
    """Errors and hints are escaped too."""
    ended = await run(ready, *(word.format(odd=odd) for word in words), encoding="ascii")
    assert r"\xe9" in ended.out + ended.err
    assert ended.code == code, ended.out + ended.err
