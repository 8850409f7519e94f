"""Studies that wait or are beyond a limit are checked too: their problems are reported and change the exit code."""

from pathlib import Path
from typing import Any

import pytest
from builders import image, write
from conftest import Commands, Ended

from asyncimport.testserver import TestXnat

pytestmark = pytest.mark.anyio

FIRST: dict[str, Any] = {
    "StudyInstanceUID": "1.2.1",
    "PatientID": "P1",
    "PatientName": "Doe^John",
    "StudyDate": "20200101",
}
# What stands in the way of a second study.
PROBLEMS: dict[str, dict[str, Any]] = {
    "collision": {"StudyInstanceUID": "1.2.2", "PatientID": "P1", "PatientName": "Doe^John", "StudyDate": "20200101"},
    "two names": {"StudyInstanceUID": "1.2.2", "PatientID": "P1", "PatientName": "Roe^Jane", "StudyDate": "20200102"},
    "two patients": {"StudyInstanceUID": "1.2.2", "PatientID": "p1", "StudyDate": "20200102"},
    "no patient": {"StudyInstanceUID": "1.2.2", "PatientID": None, "StudyDate": "20200102"},
}
WAYS: dict[str, tuple[str, ...]] = {
    "limit": ("--max-sessions", "1"),
    # Nothing of it has been seen unchanged for so long.
    "quiet time": ("--min-age", "1h"),
    "both": ("--max-sessions", "1", "--min-age", "0.01s"),
    "limit and suffix": ("--max-sessions", "1", "--on-collision", "suffix"),
    "limit and whole studies": ("--max-sessions", "1", "-E", "{PatientID}_{Modality}_{StudyDate}"),
}


async def upload(commands: Commands, source: Path, *words: str) -> Ended:
    """Upload with JSON output."""
    return await commands("upload", source, "-P", "demo", "-q", "-o", "json", *words)


# To a collision a suffix is the answer.
CASES = [(problem, way) for problem in PROBLEMS for way in WAYS if (problem, way) != ("collision", "limit and suffix")]


@pytest.mark.parametrize(("problem", "way"), CASES)
async def test_neither_limit_nor_pause_hides_a_problem(
    xnat: TestXnat, url: str, commands: Commands, tmp_path: Path, problem: str, way: str
) -> None:
    """The second study is not sent, the reason is reported, and neither run nor dry run ends with 0."""
    write(tmp_path / "source" / "a" / "1", image(1, **FIRST))
    write(tmp_path / "source" / "b" / "2", image(2, **PROBLEMS[problem]))
    commands.login(url)
    rehearsed = await upload(commands, tmp_path / "source", *WAYS[way], "--dry-run")
    assert "error" in {one["severity"] for one in rehearsed.json["problems"]}
    ended = await upload(commands, tmp_path / "source", *WAYS[way])
    assert ended.code in {2, 8}, ended.err
    assert rehearsed.code == ended.code
    assert "1.2.2" in ended.err + ended.out
    assert "beyond --max-sessions" not in ended.out
    assert {session.study_uid for session in xnat.archived} <= {"1.2.1"}
    if "quiet time" not in way and ended.code == 8:
        assert {session.study_uid for session in xnat.archived} == {"1.2.1"}
