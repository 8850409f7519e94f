"""The benchmark: its statistics, what it counts, and a small run of it from end to end."""

import io
import json
import re
import socket
import struct
import subprocess
import sys
import zlib
from collections.abc import Iterator
from http.server import BaseHTTPRequestHandler, ThreadingHTTPServer
from pathlib import Path
from threading import Thread
from time import monotonic
from typing import Any

import anyio
import defusedxml.ElementTree
import pydicom
import pytest
from pydicom.data import get_testdata_file

from asyncimport.dicom import identify
from bench import link_plot
from bench.corpus import Part, Shape, load, write
from bench.import_log import Import, Phase, Received, read_log
from bench.instant_server import NGINX, nginx
from bench.latency_relay import far
from bench.measure import Claim, Command, Ended, Measured, judged, run
from bench.modelled_server import Capacity, ModelledXnat
from bench.netns import ADDRESS, Link, joined, wire_bytes
from bench.netns import lacks as netns_lacks
from bench.plot import as_svg
from bench.profile import PLACES
from bench.report import as_markdown
from bench.rounds import Spread, interleaved, ratios, spread
from bench.scenarios import SCENARIOS, Target
from bench.servers import MODELS, Tally
from bench.site import Site, from_environment
from bench.targets import of_sweep, reached
from bench.trees import ROOT

# --- statistics


def test_a_spread_is_the_median_between_least_and_greatest() -> None:
    """The mean of the middle two of an even number of values; None without values."""
    assert spread([5.0, 1.0, 3.0]) == Spread(3.0, 1.0, 5.0, 3)
    assert spread([4.0, 1.0]) == Spread(2.5, 1.0, 4.0, 2)
    assert spread([]) is None


def test_ratios_are_taken_round_by_round() -> None:
    """A slow round does not change the ratio; a round with a failure does not count."""
    assert ratios([10.0, 5.0, 20.0], [20.0, 10.0, 40.0]) == Spread(0.5, 0.5, 0.5, 3)
    assert ratios([10.0, None, 30.0], [10.0, 7.0, None]) == Spread(1.0, 1.0, 1.0, 1)
    assert ratios([None], [1.0]) is None
    assert ratios([1.0], [0.0]) is None


def test_contenders_take_turns() -> None:
    """A, B, A, B: never all rounds of one contender in a row."""
    assert list(interleaved("AB", 2)) == [(0, "A"), (0, "B"), (1, "A"), (1, "B")]


# --- what the server received


def imports(*times: tuple[float, float]) -> Received:
    """Make the record of imports with these begins and ends."""
    return Received([Import(begin, end, 200, 10, "S") for begin, end in times])


@pytest.fixture
def log(tmp_path: Path) -> Path:
    """Write the log of three imports, one of them not kept."""
    path = tmp_path / "log"
    path.write_text("12.000 2.000 200 30 A\n13.500 0.500 200 20 B\n14.000 0.100 503 - A\n")
    return path


def test_a_log_tells_files_bytes_and_sessions(log: Path) -> None:
    """Only imports with the answer 200 count as received."""
    received = read_log(log)
    assert (received.files, received.bytes, received.first) == (2, 50, 10.0)
    assert received.of("A").files == 1
    assert received.span() == 3.5


def test_the_tail_is_the_share_of_time_that_the_last_twentieth_took() -> None:
    """Nineteen files in 19 s, and one that takes as long as all of them: half of the time."""
    steady = [(float(at), at + 1.0) for at in range(19)]
    assert imports(*steady, (19.0, 38.0)).tail() == 0.5
    assert imports(*steady, (19.0, 20.0)).tail() == 0.05


def test_the_most_in_flight_is_counted_at_ends_first() -> None:
    """An import that begins when another ends does not overlap it."""
    assert imports((0, 1), (1, 2)).most_in_flight() == 1
    assert imports((0, 2), (1, 3), (1.5, 1.7)).most_in_flight() == 3


def test_what_a_client_has_settled_at_is_the_rate_of_a_phase_s_second_half() -> None:
    """Ten files in the first ten seconds, forty in the others: 4 files/s."""
    slow = [(float(at), at + 0.9) for at in range(10)]
    quick = [(10 + at / 4, 10 + at / 4 + 0.1) for at in range(40)]
    received = imports(*slow, *quick)
    assert received.settled_rate(Phase("one", 0.0, 20.0)) == pytest.approx(4.0, rel=0.05)
    assert received.most_in_flight_during(Phase("one", 0.0, 20.0)) == 1


# --- verdicts


def ended(code: int = 0, out: str = "") -> Ended:
    """Make the result of a client that took a second."""
    return Ended(code=code, out=out, err="", began=100.0, seconds=1.0, cpu=0.5, rss=10, gave_up=False)


def command(files: int, size: int, claim: Claim) -> Command:
    """Make a command that should deliver this many files, and that claims this."""
    return Command(["true"], {}, files, size, lambda _: claim)


def tally(files: int, held: int | None) -> Tally:
    """Make the tally of a server that received this many files of ten bytes."""
    return Tally(imports(*((100.0 + at, 101.0 + at) for at in range(files))), held, 0.1, (), {})


@pytest.mark.parametrize(
    ("files", "size", "claim", "server", "problem"),
    [
        (3, 30, Claim(3), tally(3, None), ""),
        (3, 30, Claim(), tally(3, 3), ""),
        (3, 30, Claim(3), tally(2, None), "2 of 3 files arrived"),
        (3, 31, Claim(3), tally(3, None), "30 of 31 bytes arrived"),
        (3, 30, Claim(2), tally(3, None), "it claims 2 files, and the server has 3"),
        (3, 30, Claim(3), tally(5, 2), "2 of 3 files arrived"),
        (3, 30, Claim(problem="exit code 1"), tally(3, None), "exit code 1"),
        (3, 30, Claim(2), None, "2 of 3 files arrived"),
    ],
)
def test_what_has_not_arrived_does_not_count(
    files: int, size: int, claim: Claim, server: Tally | None, problem: str
) -> None:
    """Files, bytes and the client's own claim are compared with what the server counted."""
    measured = judged("one", 0, command(files, size, claim), ended(), server)
    assert measured.problem == problem
    assert (measured.values.get("rate") == 3.0) is (not problem)


def test_a_client_that_sends_fewer_bytes_has_a_ratio() -> None:
    """It says so itself, and the server's count is compared with that."""
    smaller = judged("one", 0, command(3, 60, Claim(3, bytes=30)), ended(), tally(3, None))
    assert (smaller.problem, smaller.values["ratio"]) == ("", 2.0)
    assert "ratio" not in judged("one", 0, command(3, 30, Claim(3, bytes=30)), ended(), tally(3, None)).values


def measured(name: str, rates: list[float], phases: dict[str, dict[str, float]] | None = None) -> list[Measured]:
    """Make runs with these rates."""
    return [Measured(name, at, 1 / rate, 1, 0.1, 10, phases=phases or {}) for at, rate in enumerate(rates)]


def test_a_target_is_reached_by_the_median_of_ratios() -> None:
    """A target without a measurement is neither reached nor missed."""
    runs = {"ours": measured("ours", [90.0, 60.0, 80.0]), "theirs": measured("theirs", [100.0, 100.0, 100.0])}
    assert reached(Target("rate", "ours", ">=", 0.8, over="theirs"), runs)["reached"] is True
    assert reached(Target("rate", "ours", ">=", 0.81, over="theirs"), runs)["reached"] is False
    assert reached(Target("rate", "ours", "<=", 79.0), runs)["reached"] is False
    assert reached(Target("rate", "ours", ">=", 1.0, over="nobody"), runs)["reached"] is None
    assert reached(Target("rate", "theirs", "<=", 21.0, less="ours"), runs)["value"] == pytest.approx([20, 10, 40])
    per = Target("rate", "ours", ">=", 8.0, over="theirs", per="rss_mb")
    assert reached(per, runs)["value"] == pytest.approx([8e6, 6e6, 9e6])
    assert str(per) == "rate: ours / rss_mb of theirs >= 8"


def test_auto_is_judged_by_the_least_number_that_is_as_good_as_any() -> None:
    """In each phase: 95 of 100 files/s, with 9 in flight where 8 do."""

    def figures(rate: float, flight: float) -> dict[str, dict[str, float]]:
        return {"wide": {"settled": rate, "in_flight": flight}}

    runs = {
        "asyncimport 4": measured("asyncimport 4", [1.0], figures(60, 4)),
        "asyncimport 8": measured("asyncimport 8", [1.0], figures(98, 8)),
        "asyncimport 16": measured("asyncimport 16", [1.0], figures(100, 16)),
        "asyncimport auto": measured("asyncimport auto", [1.0], figures(95, 9)),
    }
    share, flight = of_sweep(runs)
    assert (share["value"], share["reached"]) == ([0.95] * 3, True)
    assert (flight["value"], flight["reached"]) == ([9 / 8] * 3, True)


def test_scenarios_name_only_what_there_is() -> None:
    """All names that scenarios use exist: servers, references, targets and quick contenders."""
    for scenario in SCENARIOS.values():
        names = {shape.name for shape in scenario.shapes} if scenario.kind == "memory" else {*scenario.contenders}
        assert {*scenario.models, *(scenario.quick_models or ())} <= MODELS.keys()
        assert not scenario.reference or scenario.reference in scenario.contenders
        for target in scenario.targets:
            assert {target.ours, target.over or target.ours, target.less or target.ours} <= names, scenario.name


def test_figures_have_names_of_their_own() -> None:
    """The figures of a profile have keys of their own, and replace none of a run."""
    assert not {*PLACES} & Measured("asyncimport 16", 0, 1.0, 1, 1.0, 1).values.keys()


# --- files


@pytest.mark.parametrize("layout", ["wide", "deep", "flat"])
def test_a_collection_is_what_its_manifest_says(tmp_path: Path, layout: Any) -> None:
    """Each file is whole DICOM for pydicom and for asyncimport, with the reported size and UID."""
    shape = Shape("some", (Part(10, 3_000, 2), Part(1, 3_000_000, 1, sparse=True)), layout)
    corpus = write(shape, tmp_path)
    assert load(tmp_path) == corpus
    sessions = corpus.listed()
    entries = [(session, entry) for session in sessions for entry in session.entries]
    assert len({entry.sop_uid for _, entry in entries}) == len(entries) == corpus.files == 11
    for session, entry in entries:
        path = corpus.root / entry.path
        data, identity = pydicom.dcmread(path), identify(str(path))
        assert (data.SOPInstanceUID, data.StudyInstanceUID) == (entry.sop_uid, session.study_uid)
        assert len(data.PixelData) == 2 * data.Rows * data.Columns
        assert (identity.sop_uid, identity.truncated) == (entry.sop_uid, "")
        assert f"{data.PatientID}_{data.StudyDate}" == session.label
        assert path.stat().st_size == entry.size
    assert sum(path.stat().st_size for path in corpus.root.rglob("*.dcm")) == corpus.bytes


@pytest.mark.parametrize(
    ("name", "least", "most"),
    [("693_UNCI.dcm", 1.5, 2.4), ("examples_overlay.dcm", 1.5, 2.4), ("MR2_J2KI.dcm", 1, 1.1)],
)
def test_a_collection_may_have_the_pixels_of_real_images(tmp_path: Path, name: str, least: float, most: float) -> None:
    """Each file has all of them, and deflates as they do; files have the reported size and a UID each."""
    corpus = write(Shape("real", (Part(5, 1, 1, image=name),)), tmp_path)
    real = pydicom.dcmread(str(get_testdata_file(name, download=False)))
    entries = [entry for session in corpus.listed() for entry in session.entries]
    assert len({entry.sop_uid for entry in entries}) == corpus.files == 5
    for entry in entries:
        path = corpus.root / entry.path
        data, identity = pydicom.dcmread(path), identify(str(path))
        assert (data.PixelData, data.Modality, data.Rows) == (real.PixelData, real.Modality, real.Rows)
        assert data.file_meta.TransferSyntaxUID == real.file_meta.TransferSyntaxUID
        assert (data.SOPInstanceUID, identity.sop_uid, identity.truncated) == (entry.sop_uid, entry.sop_uid, "")
        assert path.stat().st_size == entry.size
        assert least < entry.size / len(zlib.compress(path.read_bytes(), 1)) < most


def test_a_shape_whose_images_are_not_there_says_what_lacks() -> None:
    """Its scenario is skipped then, and says why."""
    assert "pydicom-data" in Shape("real", (Part(1, 1, image="no such image.dcm"),)).lacks()
    assert SCENARIOS["links-20"].shapes[0].lacks() == ""


# --- processes and servers


def test_a_parcel_of_segments_takes_headers_for_each() -> None:
    """Three segments of 1,000 bytes and a rest have four headers of 66; a packet on its own has one."""
    head = struct.pack("<BBHHHH", 1, 1, 66, 1_000, 34, 16)
    assert wire_bytes(head + bytes(66 + 3_500)) == 3_500 + 4 * 66
    assert wire_bytes(head + bytes(66 + 3_000)) == 3_000 + 3 * 66
    assert wire_bytes(bytes(10) + bytes(1_514)) == 1_514


_FAR_ECHO = """
import socket, sys
with socket.create_server((sys.argv[1], 0)) as server:
    print(server.getsockname()[1], flush=True)
    stream, _ = server.accept()
    with stream:
        while data := stream.recv(1 << 16):
            stream.sendall(data)
"""
_NEAR_END = """
import json, socket, sys, time
began = time.monotonic()
with socket.create_connection((sys.argv[1], int(sys.argv[2]))) as stream:
    connected = time.monotonic()
    data, back = bytes(range(256)) * 2_000, b""
    for at in range(0, len(data), 64_000):
        piece = data[at : at + 64_000]
        stream.sendall(piece)
        while len(back) < at + len(piece):
            back += stream.recv(1 << 16)
    print(json.dumps([connected - began, time.monotonic() - connected, back == data]))
"""


@pytest.mark.skipif(bool(netns_lacks()), reason=netns_lacks())
@pytest.mark.parametrize("loss", [0.0, 0.01])
def test_a_link_delays_and_limits_what_crosses_it(loss: float) -> None:
    """Connecting takes a round trip; half a megabyte at 2 MB/s a quarter of a second. No byte is lost with a packet."""
    with (
        joined(Link(0.04, 2e6, loss)) as (near, there),
        subprocess.Popen([*there, sys.executable, "-c", _FAR_ECHO, ADDRESS], stdout=subprocess.PIPE, text=True) as far,
    ):
        assert far.stdout is not None
        port = far.stdout.readline().strip()
        words = [*near, sys.executable, "-c", _NEAR_END, ADDRESS, port]
        done = subprocess.run(words, capture_output=True, text=True, check=True)
    connected, moved, is_same = json.loads(done.stdout)
    assert is_same
    assert connected >= 0.04
    assert moved >= 512_000 / 2e6


def test_a_command_is_counted_with_its_children(tmp_path: Path) -> None:
    """CPU time includes children. Output and exit code are reported."""
    burn = "import time\nwhile time.process_time() < 0.25: pass"
    script = f"import subprocess, sys; subprocess.run([sys.executable, '-c', {burn!r}]); print('done'); sys.exit(3)"
    found = run(Command([sys.executable, "-c", script], {}, 1, 1, lambda _: Claim()), tmp_path, longest=30)
    assert (found.code, found.out, found.gave_up) == (3, "done\n", False)
    assert found.cpu >= 0.25
    assert found.rss > 1_000_000


def test_a_command_that_takes_too_long_is_given_up_with_its_children(tmp_path: Path) -> None:
    """The shell is killed with its child."""
    found = run(
        Command(["sh", "-c", "sleep 60; true"], {"PATH": "/bin:/usr/bin"}, 1, 1, lambda _: Claim()),
        tmp_path,
        longest=0.2,
    )
    assert found.gave_up
    assert found.seconds < 30


@pytest.mark.skipif(NGINX is None, reason="nginx is not installed")
def test_the_sink_answers_when_it_has_the_whole_body(tmp_path: Path) -> None:
    """Not before, and with the prearchive address of the session that the request names; it writes a line of it."""
    log = tmp_path / "log"
    head = b"POST /data/services/import?PROJECT_ID=P&EXPT_LABEL=E HTTP/1.1\r\nHost: x\r\nContent-Length: 200000\r\n\r\n"
    with nginx(tmp_path / "nginx", "http://127.0.0.1:1", log=log) as url:
        host, port = url.removeprefix("http://").split(":")
        with socket.create_connection((host, int(port)), timeout=30) as connection:
            connection.sendall(head + bytes(199_999))
            connection.settimeout(0.3)
            with pytest.raises(TimeoutError):
                connection.recv(1)
            connection.settimeout(30)
            connection.sendall(b"\0")
            reply = connection.recv(4096)
    assert reply.startswith(b"HTTP/1.1 200 ")
    assert reply.endswith(b"/data/prearchive/projects/P/20260101_000000000/E\r\n")
    assert [(one.status, one.size, one.label) for one in read_log(log).imports] == [(200, 200_000, "E")]


@pytest.mark.anyio
async def test_a_relay_makes_a_server_far_away() -> None:
    """The first answer takes two round trips, one for the connection; a later one takes one. No byte is lost."""
    data = bytes(range(256)) * 4_000

    async def echo(stream: anyio.abc.SocketStream) -> None:
        async with stream:
            async for piece in stream:
                await stream.send(piece)

    async with await anyio.create_tcp_listener(local_host="127.0.0.1") as listener, anyio.create_task_group() as tasks:
        tasks.start_soon(listener.serve, echo)
        port = listener.extra(anyio.abc.SocketAttribute.local_port)  # noqa: S610 - anyio's, no database's
        began = monotonic()
        async with far("127.0.0.1", port, 0.1) as near, await anyio.connect_tcp("127.0.0.1", near) as stream:
            for least in (0.2, 0.1):
                await stream.send(b"?")
                assert await stream.receive() == b"?"
                assert monotonic() - began >= least
                began = monotonic()
            tasks.start_soon(stream.send, data)
            back = b""
            while len(back) < len(data):
                back += await stream.receive()
            assert back == data
        tasks.cancel_scope.cancel()


class _Pieces:
    """A body that arrives in pieces."""

    def __init__(self, data: bytes) -> None:
        self._left = [data[at : at + 100_000] for at in range(0, len(data), 100_000)]

    async def readany(self) -> bytes:
        """Return the next piece, or none at the end."""
        return self._left.pop(0) if self._left else b""


@pytest.mark.anyio
@pytest.mark.parametrize(("begin", "is_kept"), [(b"PK\x03\x04", True), (b"DICM", False)])
async def test_the_modelled_server_keeps_zips_until_they_are_unpacked(begin: bytes, is_kept: bool) -> None:
    """A zip of many files is larger than what the test XNAT keeps of a file."""
    data = begin + bytes(20 << 20)
    body = await ModelledXnat([Capacity()], io.StringIO()).storage.receive(_Pieces(data))
    assert body.size == len(data)
    assert body.content == (data if is_kept else None)


class _Scratch(BaseHTTPRequestHandler):
    """A site with subjects and prearchive rows of ours and of others; notes what is deleted."""

    deleted: list[str]
    rows: dict[str, list[dict[str, str]]]

    def do_GET(self) -> None:
        """Answer a listing request."""
        found = next((rows for path, rows in self.rows.items() if path in self.path), [])
        body = json.dumps({"ResultSet": {"Result": found}}).encode()
        self.send_response(200)
        self.send_header("Content-Length", str(len(body)))
        self.end_headers()
        self.wfile.write(body)

    def do_DELETE(self) -> None:
        """Note a deletion."""
        self.deleted.append(self.path)
        self.send_response(200)
        self.send_header("Content-Length", "0")
        self.end_headers()

    def log_message(self, format: str, *arguments: object) -> None:  # noqa: A002 - as it is named there
        """Say nothing."""


@pytest.fixture
def scratch() -> Iterator[tuple[Site, list[str]]]:
    """Serve a site that holds things of ours, of others, and of another project."""

    class Handler(_Scratch):
        deleted: list[str] = []  # noqa: RUF012 - one for each test
        rows = {  # noqa: RUF012 - as above
            "/subjects": [{"label": "bench1-S1"}, {"label": "S1"}, {"label": "bench2-S1"}],
            "/prearchive/": [
                {"name": "bench1-S1_1", "project": "P", "url": "/prearchive/projects/P/1/bench1-S1_1"},
                {"name": "bench1-S1_1", "project": "Q", "url": "/prearchive/projects/Q/1/bench1-S1_1"},
                {"name": "mine", "project": "P", "url": "/prearchive/projects/P/1/mine"},
            ],
        }

    with ThreadingHTTPServer(("127.0.0.1", 0), Handler) as server:
        thread = Thread(target=server.serve_forever)
        thread.start()
        yield Site(f"http://127.0.0.1:{server.server_port}", "me", "secret", "P"), Handler.deleted
        server.shutdown()
        thread.join()


def test_a_real_site_is_left_as_it_was(scratch: tuple[Site, list[str]]) -> None:
    """It deletes only names with the prefix of the run, in the given project."""
    site, deleted = scratch
    site.clean("bench1-")
    assert deleted == [
        "/data/prearchive/projects/P/1/bench1-S1_1",
        "/data/projects/P/subjects/bench1-S1?removeFiles=true",
    ]


def test_a_real_site_that_cannot_be_cleaned_is_told() -> None:
    """The figures count, and what was not deleted is named."""
    with Site("http://127.0.0.1:1", "me", "secret", "P").visited() as served:
        assert served.prefix.startswith("bench")
    assert served.prefix in served.left


def test_a_real_site_takes_an_address_and_a_login() -> None:
    """A project alone sends nothing. The password is not shown."""
    with pytest.raises(ValueError, match="XNAT_USER, XNAT_PASS"):
        from_environment({"XNAT_HOST": "https://x"}, "P")
    assert "secret" not in repr(from_environment({"XNAT_HOST": "h", "XNAT_USER": "me", "XNAT_PASS": "secret"}, "P"))


def test_the_package_knows_nothing_of_its_benchmark() -> None:
    """No module of it imports `bench`, which is not installed with it."""
    for path in (ROOT / "asyncimport").rglob("*.py"):
        assert not re.search(r"^\s*(from|import)\s+bench\b", path.read_text(), re.MULTILINE), path


# --- a run, from end to end


def bench(*words: str | Path) -> subprocess.CompletedProcess[str]:
    """Run the benchmark as people do."""
    return subprocess.run(
        [sys.executable, "-m", "bench", *words], cwd=ROOT, capture_output=True, text=True, check=False
    )


@pytest.mark.thorough
def test_a_quick_run_measures_what_it_says(tmp_path: Path) -> None:
    """Every kind of scenario runs once, each contender delivers, and the report can be made."""
    results = tmp_path / "results.json"
    scenarios = ["small", "mr", "start-up", "scan", "resume", "profile-small"]
    only = ["asyncimport auto", "ceiling 4", "ceiling memory 4", "curl data 4", "curl -T 4", "curl loop"]
    only += ["asyncimport 16", "ceiling 16"]
    options = [word for name in only for word in ("--contender", name)]
    done = bench("run", *scenarios, "--quick", *options, "--json", results, "--work", tmp_path)
    assert done.returncode == 0, done.stdout + done.stderr
    assert [path.name for path in tmp_path.iterdir()] == ["results.json"]
    data = json.loads(results.read_bytes())
    assert {"cores", "kernel", "python", "aiohttp", "load"} <= data["machine"].keys()
    assert data["caveats"]
    assert [result["scenario"] for result in data["results"]] == scenarios
    for result in data["results"]:
        assert result["contenders"] or result["skipped"]
        for name, runs in result["contenders"].items():
            for one in runs:
                assert one["problem"] == "", (result["scenario"], name)
                assert one["seconds"] > 0
                assert one["cpu"] > 0
                assert one["rss"] > 0
        for target in result["targets"]:
            assert target.keys() == {"what", "value", "reached"}
            assert target["reached"] is None  # it is too small to be judged
    realistic = data["results"][1]["contenders"]["asyncimport auto"][0]["values"]
    assert realistic["rate"] > 0
    assert 1 <= realistic["in_flight"] <= 16
    assert 0 <= realistic["tail"] <= 1
    assert data["results"][4]["contenders"]["asyncimport"][0]["values"]["opens"] == 0
    for one in (runs[0] for runs in data["results"][5]["contenders"].values()):
        spent = {name: one["files"] * one["values"][name] / 1e6 for name in PLACES}
        assert 0.3 < sum(spent.values()) / one["seconds"] < 1.05
        assert spent["starting"] > 0.05
        assert spent["aiohttp"] + spent["writing"] > 0
        assert one["values"]["loop_cpu"] > 0
    both = as_markdown([data, data])
    assert both.count("| asyncimport auto |") == 2 * as_markdown([data]).count("| asyncimport auto |") > 0
    assert both.count(data["caveats"][0]) == 1
    if NGINX is not None:
        assert ">asyncimport -w auto<" in as_svg(as_markdown([data]))


@pytest.mark.thorough
@pytest.mark.skipif(bool(MODELS["link-100-30"].lacks()), reason=MODELS["link-100-30"].lacks())
def test_a_quick_run_crosses_a_link(tmp_path: Path) -> None:
    """Real images go over TLS through a link of two namespaces, and the table says what share of it they took."""
    results = tmp_path / "results.json"
    done = bench(
        "run", "links-100", "--quick", "--contender", "asyncimport compress", "--json", results, "--work", tmp_path
    )
    assert done.returncode == 0, done.stdout + done.stderr
    ((one,),) = json.loads(results.read_bytes())["results"][0]["contenders"].values()
    assert one["problem"] == ""
    assert 0 < one["values"]["times_link"] < 1
    assert one["values"]["mb_per_core"] > 0
    assert "x link" in done.stdout


def test_the_plot_says_what_the_tables_say() -> None:
    """It is drawn from them, servers like XNAT first, and is an image with a title for those who do not see it."""
    folder = Path(__file__).parent.parent / "bench"
    plot = (folder / "plot.svg").read_text("utf-8")
    assert plot == as_svg((folder / "README.md").read_text("utf-8"))
    image = defusedxml.ElementTree.fromstring(plot)
    space = "{http://www.w3.org/2000/svg}"
    assert image.get("role") == "img"
    assert image.get("aria-labelledby") == "title desc"
    assert [image[0].tag, image[1].tag] == [f"{space}title", f"{space}desc"]
    titles = [text.text for text in image.iter(f"{space}text") if text.get("class") == "title"]
    assert titles == [
        "Files a second",
        "Servers like XNAT: the server is the limit",
        "A server that answers at once (nginx): the client is the limit",
    ]
    assert plot.count(">asyncimport -w auto<") == 7


def test_the_plot_of_links_says_what_the_tables_say() -> None:
    """It has a line for each contender, and is an image with a title for those who do not see it."""
    folder = Path(__file__).parent.parent / "bench"
    plot = (folder / "links.svg").read_text("utf-8")
    assert plot == link_plot.as_svg((folder / "README.md").read_text("utf-8"))
    image = defusedxml.ElementTree.fromstring(plot)
    space = "{http://www.w3.org/2000/svg}"
    assert (image.get("role"), image.get("aria-labelledby")) == ("img", "title desc")
    assert [image[0].tag, image[1].tag] == [f"{space}title", f"{space}desc"]
    texts = [text.text for text in image.iter(f"{space}text")]
    for name in ("20 Mbit/s", "100 Mbit/s", "1,000 Mbit/s", "asyncimport, auto", "asyncimport, no zips", "curl -T, 16"):
        assert texts.count(name) == 1
    assert link_plot.as_svg("no tables") == ""


def test_a_list_tells_scenarios_servers_and_contenders() -> None:
    """It lists the names to run them by."""
    done = bench("list")
    assert done.returncode == 0, done.stderr
    for name in (*SCENARIOS, *MODELS, "curl loop", "xnatctl 16"):
        assert f"{name}: " in done.stdout


@pytest.mark.parametrize(
    ("words", "why"),
    [
        (["nosuch"], "there is no scenario nosuch"),
        (["small", "--scale", "5"], "--scale 5 is no part of the files"),
        (["small", "--against", "no such revision"], "--against no such revision"),
        (["small", "--model", "site"], "none of these scenarios runs on the chosen servers"),
    ],
)
def test_a_mistake_is_told_in_a_line(words: list[str], why: str) -> None:
    """It is an error before any measurement."""
    done = bench("run", "--quick", *words)
    assert done.returncode == 1
    assert done.stderr.splitlines()[-1].startswith(why)
