"""Metrics for Prometheus: what a run writes, for whom, when, and that it names nobody."""

import os
import re
import stat
from collections.abc import Mapping
from pathlib import Path
from typing import Any

import pytest
from conftest import Commands
from entries_of_a_run import EVERYTHING, SUMMARY
from prometheus_client.parser import text_string_to_metric_families

from asyncimport.errors import UsageError
from asyncimport.model.events import Scanned, ServerUnavailable
from asyncimport.reporting.entries import RunEnded
from asyncimport.reporting.metrics import METRICS, Metrics
from asyncimport.reporting.writer import Recorder
from asyncimport.testserver import Fault, Status, Tell, TestXnat

pytestmark = [pytest.mark.anyio, pytest.mark.thorough]

PAGE = Path(__file__).parent.parent.parent / "docs" / "operating.md"
LABELS = {"name": "work", "host": "https://xnat.test", "project": "P"}


def metrics_at(path: Path, now: float = 1_700_000_000.0) -> Metrics:
    """Return metrics whose clock stands."""
    return Metrics(path, host=LABELS["host"], project=LABELS["project"], clock=lambda: now)


def samples(text: str) -> Mapping[tuple[str, str], float]:
    """Return the samples by their names and the value of their own label, as Prometheus reads them."""
    found: dict[tuple[str, str], float] = {}
    for family in text_string_to_metric_families(text):
        assert family.documentation
        for sample in family.samples:
            own = {key: value for key, value in sample.labels.items() if key not in LABELS}
            assert sample.labels.keys() >= LABELS.keys()
            assert own.keys() <= {"version", "outcome", "state"}
            key = sample.name.removeprefix("asyncimport_"), next(iter(own.values()), "")
            assert key not in found
            found[key] = sample.value
    return found


def values(path: Path) -> Mapping[tuple[str, str], float]:
    """Return the samples of a file."""
    return samples(path.read_text("utf-8"))


class TestText:
    """What is counted, and how it is written."""

    def test_everything_is_counted_and_nobody_is_named(self, tmp_path: Path) -> None:
        """Each metric has a value after one entry of each kind, and the type that the table says."""
        metrics = metrics_at(tmp_path / "work.prom")
        for entry in (*EVERYTHING.values(), RunEnded("1", 0, None, SUMMARY)):
            list(metrics.note(1_700_000_000.5, entry))
        text = metrics.text()
        found = samples(text)
        assert {name for name, _ in found} == set(METRICS)
        assert dict(re.findall(r"^# TYPE asyncimport_(\w+) (\w+)$", text, re.MULTILINE)) == {
            name: kind for name, (kind, _) in METRICS.items()
        }
        assert "LABEL1" not in text
        assert "1.2.3" not in text
        for outcome in ("stored", "refused", "failed", "withheld"):
            assert found["files_total", outcome] == 1
        assert found["files_total", "found"] == 3
        for outcome in ("archived", "built", "held", "deleted", "postponed", "incomplete"):
            assert found["sessions_total", outcome] == 1
        for name in ("attachments_total", "subjects_total"):
            assert {found[name, outcome] for outcome in ("stored", "refused", "failed")} == {1}
        assert found["scanned_files_total", ""] == found["admitted_files_total", ""] == 3
        assert found["scanned_bytes_total", ""] == 3_000
        assert found["stored_bytes_total", ""] == 1_000
        assert found["outages_total", ""] == found["retries_total", ""] == found["notices_total", ""] == 1
        assert (found["server_available", ""], found["running", ""], found["orphans", ""]) == (1, 0, 1)
        assert found["summary_files", "found"] == 3
        assert (found["summary_bytes", "found"], found["summary_bytes", "stored"]) == (3_000, 2_000)
        assert found["last_success_timestamp_seconds", ""] == found["end_timestamp_seconds", ""] == 1_700_000_000.5

    def test_counters_begin_at_zero(self, tmp_path: Path) -> None:
        """So their first increase is seen; what only an end knows is absent."""
        found = samples(metrics_at(tmp_path / "work.prom").text())
        assert {number for (name, _), number in found.items() if METRICS[name][0] == "counter"} == {0}
        assert {name for name, _ in found} == {name for name, (kind, _) in METRICS.items() if kind == "counter"} | {
            "info", "running", "server_available", "updated_timestamp_seconds"
        }  # fmt: skip

    def test_a_run_that_starts_forgets_the_end_of_the_last_one(self, tmp_path: Path) -> None:
        """But not its success, and not what was counted."""
        metrics = metrics_at(tmp_path / "work.prom")
        for entry in (*EVERYTHING.values(), RunEnded("1", 0, None, SUMMARY), EVERYTHING["run_began"]):
            list(metrics.note(5.0, entry))
        found = samples(metrics.text())
        assert not {"exit_code", "end_timestamp_seconds", "orphans", "summary_files"} & {name for name, _ in found}
        assert found["running", ""] == 1
        assert found["last_success_timestamp_seconds", ""] == 5
        assert found["files_total", "stored"] == 1

    @pytest.mark.parametrize("text", ['a"b', "a\\b", "a\nb", "a} 1\nasyncimport_x 2", "\udcff", "é✓", ""])
    def test_labels_are_escaped(self, tmp_path: Path, text: str) -> None:
        """Whatever the address and -P are, the labels say so, and nothing else."""
        page = Metrics(tmp_path / "x.prom", host=text, project=text).text()
        (info,) = (family for family in text_string_to_metric_families(page) if family.name == "asyncimport_info")
        expected = text.replace("\udcff", "?")
        assert (info.samples[0].labels["host"], info.samples[0].labels["project"]) == (expected, expected)
        assert "asyncimport_x" not in {family.name for family in text_string_to_metric_families(page)}

    def test_the_page_has_each_metric(self) -> None:
        """With its labels, and no other."""
        _, _, rest = PAGE.read_text("utf-8").partition("\n## Metrics\n")
        rows = re.findall(r"^\| (`.*?) \|", re.split(r"\n## ", rest)[0], re.MULTILINE)
        named = [name for row in rows for name in re.findall(r"`asyncimport_(\w+)`", row)]
        assert sorted(named) == sorted(METRICS)


class TestFile:
    """When it is written, for whom, and what stays of an earlier one."""

    def test_it_is_written_at_once_or_after_a_while(self, tmp_path: Path) -> None:
        """Start, end and an outage are news; anything else waits for ten seconds since the last writing."""
        metrics = metrics_at(tmp_path / "work.prom")
        entries: list[tuple[float, Any, bool]] = [
            (0.0, EVERYTHING["run_began"], True),
            (1.0, Scanned(1, 1), False),
            (9.9, Scanned(1, 1), False),
            (10.0, Scanned(1, 1), True),
            (10.1, Scanned(1, 1), False),
            (10.2, ServerUnavailable("away"), True),
            (20.1, Scanned(1, 1), False),
            (20.3, Scanned(1, 1), True),
            (20.4, RunEnded("1", 4, None, None), True),
        ]
        assert [bool(list(metrics.note(now, entry))) for now, entry, _ in entries] == [due for _, _, due in entries]

    @pytest.mark.skipif(os.name != "posix", reason="Windows has no modes")
    def test_everybody_may_read_it(self, tmp_path: Path) -> None:
        """node_exporter is another user. Nobody sees half a file, nor the name of another one."""
        path = tmp_path / "work.prom"
        for _ in range(2):
            metrics = metrics_at(path)
            with Recorder(metrics.note, metrics.write, pytest.fail) as recorder:
                recorder.note(EVERYTHING["run_began"])
            assert stat.S_IMODE(path.stat().st_mode) == 0o644
        assert values(path)["running", ""] == 1
        assert os.listdir(tmp_path) == ["work.prom"]

    @pytest.mark.parametrize(
        ("before", "kept"),
        [
            ('asyncimport_last_success_timestamp_seconds{name="x"} 1700000000.250\n', 1_700_000_000.25),
            ('asyncimport_last_success_timestamp_seconds{name="a} 5"} 17\n', 17),
            ("asyncimport_last_success_timestamp_seconds{} NaN\n", None),
            (f"asyncimport_last_success_timestamp_seconds{{}} {'9' * 400}\n", None),
            ("\x00\xff garbage", None),
            ("", None),
        ],
    )
    def test_the_last_success_of_an_earlier_file_is_kept(self, tmp_path: Path, before: str, kept: float | None) -> None:
        """A run that fails takes nothing away from it."""
        path = tmp_path / "work.prom"
        path.write_text(before, "utf-8")
        metrics = metrics_at(path)
        list(metrics.note(5.0, RunEnded(None, 4, None, None)))
        found = samples(metrics.text())
        assert found.get(("last_success_timestamp_seconds", "")) == kept
        assert (found["exit_code", ""], found["server_available", ""]) == (4, 0)

    @pytest.mark.parametrize("name", [".", "none/work.prom"])
    def test_a_place_that_cannot_be_written_is_reported_first(self, tmp_path: Path, name: str) -> None:
        """It is a usage error, which names the option."""
        with pytest.raises(UsageError, match="--metrics"):
            metrics_at(tmp_path / name)


async def test_a_whole_run(xnat: TestXnat, url: str, commands: Commands, tree: Path, tmp_path: Path) -> None:
    """The file has the numbers of the summary, and was there while the run was at work; another run goes on with it."""
    path = tmp_path / "work.prom"
    commands.login(url)
    seen: list[int] = []
    # What is opened stays as it was: the file is replaced, not written to.
    xnat.faults.add(Fault("import", Tell(lambda: seen.append(os.open(path, os.O_RDONLY))), nth=6))
    xnat.faults.add(Fault("import", Status(400, "<h3>no SOP Class</h3>"), nth=9))
    ended = await commands("upload", tree, "-P", "demo", "-o", "json", "--metrics", path)
    assert ended.code == 8, ended.err
    with os.fdopen(seen[0], encoding="utf-8") as earlier:
        found = samples(earlier.read())
    assert (found["running", ""], ("exit_code", "") in found) == (1, False)
    found = values(path)
    assert (found["running", ""], found["exit_code", ""]) == (0, 8)
    assert ("last_success_timestamp_seconds", "") not in found
    assert {name: found["summary_files", name] for name in ended.json["files"]} == ended.json["files"]
    assert found["files_total", "stored"] == 11
    assert found["files_total", "refused"] == 1
    assert found["sessions_total", "archived"] == ended.json["sessions"]["archived"]
    assert found["start_timestamp_seconds", ""] <= found["end_timestamp_seconds", ""]
    again = await commands("upload", tree, "-P", "demo", "-q", "--metrics", path, "--retry", "refused,held")
    assert again.code == 0, again.err
    succeeded = values(path)["last_success_timestamp_seconds", ""]
    xnat.faults.add(Fault("login", Status(401), times=1))
    assert (await commands("upload", tree, "-P", "demo", "-q", "--metrics", path)).code == 3
    found = values(path)
    assert (found["exit_code", ""], found["last_success_timestamp_seconds", ""]) == (3, succeeded)
    text = path.read_text("utf-8")
    assert f'{{name="work",host="{url}",project="demo"}}' in text
    assert not [one for one in (tmp_path / "tree").rglob("*") if one.is_dir() and one.name in text]
    assert not [uid for uid in xnat.sop_uids() if uid in text]


@pytest.mark.skipif(not Path("/dev/full").exists(), reason="only Linux has a disk that is always full")
async def test_a_full_disk_stops_no_upload(xnat: TestXnat, url: str, commands: Commands, tree: Path) -> None:
    """Standard error says it once, and all files arrive."""
    commands.login(url)
    ended = await commands("upload", tree, "-P", "demo", "--metrics", "/dev/full")
    assert ended.code == 0
    assert ended.err.count("--metrics /dev/full cannot be written (no space left on device); the upload goes on") == 1
    assert len(xnat.sop_uids()) == 12
