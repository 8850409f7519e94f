"""The benchmark of clusters: the disk of each worker, what is opened, and a small run from end to end."""

import json
import os
import subprocess
import sys
from pathlib import Path

import pytest

from bench import dask_cluster
from bench.opened import opens_below
from bench.slow_disk import DISK, Disk
from bench.trees import ROOT, python_path

_READ = """
import os, sys, time
from asyncimport.model.files import File
from asyncimport.source.bytes_on_disk import read_piece
from asyncimport.source.headers import identify_file
from bench import slow_disk
slow_disk.dask_setup(None)
path = sys.argv[1]
identify_file(path, ignore_archives=True)
found, began = os.stat(path), time.monotonic()
for _ in range(int(sys.argv[2])):
    assert len(read_piece(File(path, found.st_size, found.st_mtime_ns), 0, 100)) == 100
print(time.monotonic() - began)
"""


@pytest.mark.parametrize(("rate", "times", "least"), [(100_000, 2, 0.6), (0.01, 0, 0.0)])
def test_a_worker_waits_for_the_bytes_of_its_disk(tmp_path: Path, rate: float, times: int, least: float) -> None:
    """Twice 30 kB at 100 kB/s take 0.6 s. Who reads the header only does not wait: it would take 35 days."""
    path = tmp_path / "one"
    path.write_bytes(bytes(30_000))
    env = {**python_path(ROOT), DISK: json.dumps([str(tmp_path), *Disk(rate=rate)])}
    words = [sys.executable, "-c", _READ, str(path), str(times)]
    done = subprocess.run(words, env=env, capture_output=True, text=True, check=True)
    assert float(done.stdout) >= least


@pytest.mark.skipif(sys.platform != "linux", reason="inotify is Linux's")
def test_opens_of_files_are_counted_whoever_opens_them(tmp_path: Path) -> None:
    """By this process and by another; what is only looked at, or is a directory, does not count."""
    inner = tmp_path / "a" / "b"
    inner.mkdir(parents=True)
    (inner / "one").write_bytes(b"1")
    (inner / "two").write_bytes(b"2")
    with opens_below(tmp_path) as opens:
        list(os.walk(tmp_path))
        (inner / "one").stat()
        (inner / "one").read_bytes()
        subprocess.run(["cat", inner / "two"], check=True, capture_output=True)
    assert opens.files == 2


@pytest.mark.thorough
@pytest.mark.skipif(bool(dask_cluster.lacks()), reason=dask_cluster.lacks())
def test_a_quick_run_of_a_cluster_delivers(tmp_path: Path) -> None:
    """Workers of a cluster that runs send all files, and a second run opens none."""
    results = tmp_path / "results.json"
    words = ["run", "cluster", "cluster-resume", "--quick", "--contender", "asyncimport dask 4"]
    done = subprocess.run(
        [sys.executable, "-m", "bench", *words, "--json", results, "--work", tmp_path],
        cwd=ROOT, capture_output=True, text=True, check=False,
    )  # fmt: skip
    assert done.returncode == 0, done.stdout + done.stderr
    first, again = (one["contenders"]["asyncimport dask 4"][0] for one in json.loads(results.read_bytes())["results"])
    assert (first["problem"], again["problem"]) == ("", "")
    assert first["values"]["in_flight"] >= 1
    assert again["values"]["opens"] == 0
    assert 0 < again["values"]["running"] < again["seconds"]
