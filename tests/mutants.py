"""Mutation tests: each piece of code that keeps data from being lost, if taken out, must turn a test red.

    python tests/mutants.py [NAME...] [--changed [COMMIT]] [--part N/M] [--tested] [-j JOBS]

Each worker has a copy of the checkout. It first runs all the tests that the mutants name, which must be green, and
then, mutant by mutant, edits one file, runs the mutant's tests and wants a failure. The exit code is 0 if all are red,
1 if one survived, is stale (its text or its test is no longer there) or broken (it fails, but not in a test).
"""

import argparse
import importlib.metadata
import os
import queue
import re
import shutil
import signal
import subprocess
import sys
import tempfile
from collections.abc import Callable, Iterator, Sequence
from concurrent.futures import ThreadPoolExecutor
from contextlib import ExitStack, suppress
from dataclasses import dataclass
from pathlib import Path
from time import monotonic
from typing import TypeVar

from _pytest.config import default_plugins
from fork_server import ForkServer, imported_by
from mutant_data import ROOT, Checkout, Located, Mutant, StaleError, all_mutants, changed_since

_T = TypeVar("_T")
_R = TypeVar("_R")
# The time limits of a test and of all tests of a mutant, which are shorter where it is expected to hang.
_TEST_SECONDS, _MUTANT_SECONDS = 60, 300
_HANGING_SECONDS, _ALL_HANGING_SECONDS = 2, 60
_TIMED_OUT = re.compile(r"^\++ Timeout \++$", re.MULTILINE)
# Elsewhere the libraries start threads, and a process with threads cannot be forked.
_CAN_FORK = sys.platform == "linux"


@dataclass(frozen=True, slots=True)
class Result:
    """The verdict on a mutant: red, SURVIVED, HANGS or BROKEN. `said` is the output of pytest if it is not red."""

    mutant: Mutant
    verdict: str
    seconds: float
    said: str = ""


@dataclass(frozen=True, slots=True)
class Ended:
    """The end of a run of pytest: exit code (None: it did not end in time) and output."""

    code: int | None
    out: str


class Copy:
    """A copy of the checkout, or of another copy, in which one mutant at a time is tested."""

    def __init__(self, place: Path, source: Path = ROOT) -> None:
        self.place = place
        place.mkdir()
        unwanted = shutil.ignore_patterns(*["__pycache__"] if source == ROOT else [])
        for name in ("asyncimport", "tests", "docs"):
            shutil.copytree(source / name, place / name, ignore=unwanted)
        for name in ("pyproject.toml", "README.md"):
            shutil.copy2(source / name, place / name)
        self._env = {**os.environ, "PYTHONPATH": str(place)}
        self._env.pop("PYTEST_ADDOPTS", None)
        if source == ROOT:
            # Bytecode is checked by the digest of its source: an edit may keep size and second.
            self._python("-m", "compileall", "-q", "--invalidation-mode", "checked-hash", "asyncimport")
        where = self._python("-c", "import asyncimport; print(asyncimport.__file__)").out.strip()
        if not Path(where).is_relative_to(place):
            raise SystemExit(f"the tests would not test the copy, but {where}")
        self._server = ForkServer(_imported_from_elsewhere(), self._env, place) if _CAN_FORK else None

    def test(
        self, tests: Sequence[str], *, seconds: int = _TEST_SECONDS, in_all: int | None = _MUTANT_SECONDS
    ) -> Ended:
        """Run tests up to the first failure, each for `seconds` at most, all for `in_all` (None: without a limit)."""
        words = [
            *("-n0", "-x", "-q", "--tb=short", f"--timeout={seconds}"),
            # Hypothesis works without its plugin, whose import would slow down every test.
            *("-p", "no:cacheprovider", "-p", "no:hypothesispytest"),
            # Its own directory: parallel runs of pytest delete old directories, and may choose the same name.
            f"--basetemp={self.place}-files",
            *tests,
        ]
        if self._server is None:
            return self._python("-m", "pytest", *words, seconds=in_all)
        with tempfile.TemporaryFile() as out, Path(os.devnull).open("rb") as nothing:
            files = [nothing.fileno(), out.fileno(), out.fileno()]
            # Plugins are imported already. Their assertions need no rewriting.
            words += ["-W", "ignore::pytest.PytestAssertRewriteWarning"]
            process = self._server.start("pytest", words, files, new_session=True)
            process.report.settimeout(in_all)
            try:
                code = process.exit_code()
            except TimeoutError:
                code = None
            with suppress(ProcessLookupError):
                os.killpg(process.pid, signal.SIGKILL)
            out.seek(0)
            return Ended(code, out.read().decode(errors="replace"))

    def try_out(self, located: Located) -> Result:
        """Edit, test, and undo the edit."""
        began = monotonic()
        mutant, file = located.mutant, self.place / located.file
        source = file.read_text("utf-8")
        try:
            file.write_text(source.replace(mutant.old, mutant.new), "utf-8")
            seconds, in_all = (
                (_HANGING_SECONDS, _ALL_HANGING_SECONDS) if mutant.hang else (_TEST_SECONDS, _MUTANT_SECONDS)
            )
            ended = self.test(located.tests, seconds=seconds, in_all=in_all)
        finally:
            file.write_text(source, "utf-8")
        verdict = _judge(mutant, ended)
        return Result(mutant, verdict, monotonic() - began, "" if verdict == "red" else ended.out)

    def close(self) -> None:
        """End its server."""
        if self._server is not None:
            self._server.close()

    def _python(self, *words: str, seconds: int | None = _MUTANT_SECONDS) -> Ended:
        """Run Python in the copy."""
        with suppress(subprocess.TimeoutExpired):
            done = subprocess.run(
                [sys.executable, *words],
                cwd=self.place,
                env=self._env,
                stdout=subprocess.PIPE,
                stderr=subprocess.STDOUT,
                encoding="utf-8",
                errors="replace",
                timeout=seconds,
                check=False,
            )
            return Ended(done.returncode, done.stdout)
        return Ended(None, "")


def _imported_from_elsewhere() -> list[str]:
    """Return the modules of others that the code and its tests import, and pytest with its plugins."""
    files = [file for folder in ("asyncimport", "tests") for file in (ROOT / folder).rglob("*.py")]
    ours = {"asyncimport", "bench", *(file.stem for file in files)}
    elsewhere = [name for name in imported_by(files) if name.partition(".")[0] not in ours]
    plugins = [plugin.module for plugin in importlib.metadata.entry_points(group="pytest11")]
    return [*(f"_pytest.{name}" for name in default_plugins), *plugins, *elsewhere]


def _judge(mutant: Mutant, ended: Ended) -> str:
    if ended.code is None:
        return "red" if mutant.hang else "HANGS"
    if ended.code == 0:
        return "SURVIVED"
    if mutant.hang and _TIMED_OUT.search(ended.out):
        # Its process has ended at once, and has told no result.
        return "red"
    # Red means that a test failed, not that it could not be collected or set up, or found the edit invalid.
    if (
        ended.code != 1
        or not re.search(r"^FAILED ", ended.out, re.MULTILINE)
        or re.search(r"^E +(Name|Type)Error:", ended.out, re.MULTILINE)
    ):
        return "BROKEN"
    if "from pytest-timeout" in ended.out and not mutant.hang:
        return "HANGS"
    return "red"


class Copies:
    """A copy for each worker, and the workers."""

    def __init__(self, place: Path, jobs: int) -> None:
        self._pool = ThreadPoolExecutor(jobs)
        first = Copy(place / "0")
        self._copies = [first, *(Copy(place / str(number), first.place) for number in range(1, jobs))]
        self._free: queue.SimpleQueue[Copy] = queue.SimpleQueue()
        for copy in self._copies:
            self._free.put(copy)

    def map(self, function: Callable[[Copy, _T], _R], values: Sequence[_T]) -> Iterator[_R]:
        """Call a function with each value, each worker on a copy of its own."""

        def call(value: _T) -> _R:
            copy = self._free.get()
            try:
                return function(copy, value)
            finally:
                self._free.put(copy)

        return self._pool.map(call, values)

    def close(self) -> None:
        """End all."""
        self._pool.shutdown(cancel_futures=True)
        for copy in self._copies:
            copy.close()


def _want_green(copies: Copies, tests: list[str], jobs: int) -> None:
    """Run the tests without any mutant: a test that is always red notices nothing."""

    def test(copy: Copy, some: list[str]) -> str:
        # Each test has its time limit. All together have none, for slow machines.
        ended = copy.test(some, seconds=_MUTANT_SECONDS, in_all=None)
        return "" if ended.code == 0 else ended.out

    shares = [share for start in range(jobs) if (share := tests[start::jobs])]
    if said := "\n".join(filter(None, copies.map(test, shares))):
        raise SystemExit(f"{said}\nwithout any mutant these tests must be green")


def run(mutants: Sequence[Located], jobs: int, *, tested: bool) -> list[Result]:
    """Try all mutants in parallel, and write a line for each."""
    width = max(len(one.mutant.name) for one in mutants)
    results = []
    with ExitStack() as stack:
        place = stack.enter_context(tempfile.TemporaryDirectory(prefix="asyncimport-mutants-"))
        copies = Copies(Path(place).resolve(), jobs)
        stack.callback(copies.close)
        if not tested:
            _want_green(copies, sorted({test for one in mutants for test in one.tests}), jobs)
        for result in copies.map(Copy.try_out, mutants):
            results.append(result)
            sys.stdout.write(f"{result.mutant.name:<{width}}  {result.verdict:<8}  {result.seconds:5.1f} s\n")
            sys.stdout.flush()
    return results


def _chosen(arguments: argparse.Namespace) -> list[Located]:
    """Return the chosen mutants. Raises: ValueError, StaleError."""
    mutants = all_mutants()
    if unknown := set(arguments.names) - {mutant.name for mutant in mutants}:
        raise ValueError(f"no such mutant: {', '.join(sorted(unknown))}")
    located = Checkout().locate_all([one for one in mutants if not arguments.names or one.name in arguments.names])
    if arguments.changed is None and arguments.part is None:
        return located
    number, parts = map(int, (arguments.part or "0/1").split("/"))
    changed = changed_since(arguments.changed, located) if arguments.changed else []
    some = located[number::parts] if arguments.part else []
    return [one for one in located if one in changed or one in some]


def main() -> int:
    """Try the chosen mutants, or all, and write a table."""
    parser = argparse.ArgumentParser(description="Take handlings out, and see whether a test turns red.")
    parser.add_argument("names", nargs="*", metavar="NAME", help="mutants to try; all, if none is named")
    parser.add_argument(
        "--changed",
        nargs="?",
        const="HEAD",
        metavar="COMMIT",
        help="only mutants that are new since a commit (HEAD), or whose file or tests have changed",
    )
    parser.add_argument(
        "--part", metavar="N/M", help="every Mth from the Nth on (0/10 to 9/10 are all); with --changed: also"
    )
    parser.add_argument("--tested", action="store_true", help="the tests have just been green: do not run them first")
    parser.add_argument("-j", "--jobs", type=int, default=2, help="how many to try at a time (2)")
    arguments = parser.parse_args()
    began = monotonic()
    try:
        mutants = _chosen(arguments)
    except StaleError as error:
        raise SystemExit(str(error)) from None
    except ValueError as error:
        parser.error(str(error))
    if not mutants:
        sys.stdout.write("nothing has changed\n")
        return 0
    results = run(mutants, arguments.jobs, tested=arguments.tested)
    bad = [result for result in results if result.verdict != "red"]
    for result in bad:
        mutant = result.mutant
        sys.stdout.write(f"\n{mutant.name}: {result.verdict}. {mutant.why}\n{result.said}\n")
    sys.stdout.write(f"\n{len(results) - len(bad)} of {len(results)} are red, in {monotonic() - began:.0f} s\n")
    return 1 if bad else 0


if __name__ == "__main__":
    sys.exit(main())
