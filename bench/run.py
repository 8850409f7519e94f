"""Runs scenarios: for each server, rounds of all contenders in turn, with results."""

import json
import re
import shutil
import subprocess
import sys
from collections.abc import Callable, Iterator, Mapping, Sequence
from contextlib import AbstractContextManager, nullcontext
from dataclasses import dataclass, field, replace
from datetime import datetime
from pathlib import Path
from tempfile import TemporaryDirectory

from bench import dask_cluster
from bench.contenders import Contender, Job, contenders
from bench.corpus import Corpus, Shape, written
from bench.measure import Claim, Command, Ended, Measured, judged, run
from bench.opened import opens_below
from bench.rounds import interleaved
from bench.scenarios import Scenario
from bench.servers import MODELS, Model, Served, served
from bench.targets import Verdict, of_sweep, reached
from bench.trees import ROOT, python_path

_QUICK_SWEEP = 0.05
_LOOP_FILES = 500


@dataclass(frozen=True, slots=True)
class Options:
    """Settings of a run. `models` and `only` leave others out. `site` is a real XNAT in place of models."""

    quick: bool = False
    scale: float = 1.0
    rounds: int | None = None
    models: frozenset[str] = frozenset()
    only: frozenset[str] = frozenset()
    longest: float = 1800.0
    revision: str = ""
    tree: Path | None = None
    site: Callable[[], AbstractContextManager[Served]] | None = None

    @property
    def trees(self) -> Mapping[str, Path]:
        """The measured trees, by the prefix of their contenders."""
        others = {f"asyncimport@{self.revision}": self.tree} if self.tree is not None else {}
        return {"asyncimport": ROOT, **others}


@dataclass(slots=True)
class Result:
    """The result of a scenario on a server."""

    scenario: Scenario
    model: str
    what: str
    collection: str
    runs: dict[str, list[Measured]] = field(default_factory=dict)
    skipped: dict[str, str] = field(default_factory=dict)
    targets: list[Verdict] = field(default_factory=list)
    notes: list[str] = field(default_factory=list)

    def as_json(self) -> dict[str, object]:
        """Return it as plain values."""
        return {
            "scenario": self.scenario.name,
            "kind": self.scenario.kind,
            "what": self.scenario.what,
            "model": self.model,
            "server": self.what,
            "collection": self.collection,
            "reference": self.scenario.reference,
            "contenders": {name: [one.as_json() for one in runs] for name, runs in self.runs.items()},
            "skipped": self.skipped,
            "targets": self.targets,
            "notes": self.notes,
        }


class Run:
    """One run of the bench."""

    def __init__(self, options: Options, work: Path, tell: Callable[[str], None]) -> None:
        self._options = options
        self._work = work
        self._tell = tell
        self._contenders = contenders(options.tree, options.revision)
        self._number = 0
        self._left: list[str] = []
        self._kept: dict[object, Corpus] = {}

    def results(self, scenario: Scenario) -> Iterator[Result]:
        """Run a scenario on each of its servers."""
        kinds: Mapping[str, Callable[[Scenario], Iterator[Result]]] = {
            "transfer": self._transfers,
            "sweep": self._transfers,
            "profile": self._transfers,
            "memory": self._memory,
            "scan": self._scan,
            "again": self._transfers,
            "resume": self._resume,
            "start-up": self._start_up,
        }
        if self._options.quick and scenario.quick_models == ():
            return
        with TemporaryDirectory(prefix=f"{scenario.name}-", dir=self._work) as place:
            self._place = Path(place)
            for result in kinds[scenario.kind](scenario):
                result.notes += [*scenario.notes, *self._left]
                self._left.clear()
                yield result

    @property
    def _phase(self) -> float:
        """Seconds in which a client settles, and again as many in which it is measured."""
        return 0.5 if self._options.quick else 20.0 * max(0.1, min(1.0, self._options.scale))

    def _rounds(self, scenario: Scenario) -> int:
        return self._options.rounds or (1 if self._options.quick else scenario.rounds)

    def _models(self, scenario: Scenario) -> Iterator[tuple[Model, str]]:
        """Yield the servers of a scenario, or why one cannot run."""
        names: Sequence[str] = scenario.models
        if self._options.quick and scenario.quick_models is not None:
            names = scenario.quick_models
        for name in names:
            if not self._options.models or name in self._options.models:
                yield MODELS[name], MODELS[name].lacks()

    def _names(self, scenario: Scenario, result: Result) -> list[Contender]:
        """Return the contenders, with those of the other tree."""
        chosen: list[Contender] = []
        for name in scenario.quick if self._options.quick else scenario.contenders:
            if self._options.only and name not in self._options.only:
                continue
            names = [name.replace("asyncimport", tree, 1) for tree in self._options.trees]
            for one in dict.fromkeys(names):
                contender = self._contenders[one]
                if lacks := contender.lacks():
                    result.skipped[one] = lacks
                else:
                    chosen.append(contender)
        return chosen

    def _scaled(self, scenario: Scenario, shape: Shape) -> Shape:
        if not self._options.quick:
            return shape.scaled(self._options.scale)
        return shape.scaled(_QUICK_SWEEP) if scenario.kind == "sweep" else shape.quick()

    def _corpus(self, scenario: Scenario, shape: Shape) -> Corpus:
        """Write a collection. A quick run keeps it for scenarios with the same shape."""
        scaled = self._scaled(scenario, shape)
        key = (scaled.parts, scaled.layout, scaled.listed)
        if key in self._kept:
            return self._kept[key]
        self._tell(f"  writing {scaled.files:,} files ({shape.name}{'' if scaled == shape else ', scaled down'})")
        where = self._work if self._options.quick else self._place
        corpus = written(scaled, where / re.sub(r"\W+", "-", f"{scenario.name} {shape.name}"))
        if self._options.quick:
            self._kept[key] = corpus
        return corpus

    # ---- files to a server

    def _transfers(self, scenario: Scenario) -> Iterator[Result]:
        models = list(self._models(scenario))
        if self._options.site is not None:
            models = [(Model("site", "the XNAT that XNAT_HOST names", {}), "")]
        without = scenario.shapes[0].lacks()
        corpus: Corpus | None = None
        for model, lacks in models:
            if lacks or without:
                yield Result(scenario, model.name, model.what, "", skipped={"all": lacks or without})
                continue
            corpus = corpus or self._corpus(scenario, scenario.shapes[0])
            result = Result(scenario, model.name, model.what, _described(corpus))
            if self._options.quick:
                model = replace(model, settings={**model.settings, **model.quick})
            boxed = self._boxed(scenario, model)
            model = model.with_phases(boxed[1])
            for number, contender in interleaved(self._names(scenario, result), self._rounds(scenario)):
                runs = result.runs.setdefault(contender.name, [])
                if number and runs[0].problem:
                    continue  # it would fail again
                runs.append(self._measured(scenario, model, contender, number, corpus, boxed[0]))
                self._tell(f"    {model.name}, round {number + 1}: {_in_short(runs[-1])}")
            result.targets = self._judged(scenario, result)
            self._sink(scenario, result, model, corpus)
            yield result

    def _judged(self, scenario: Scenario, result: Result) -> list[Verdict]:
        """Judge the targets for this server. A quick run is too small to judge."""
        verdicts = of_sweep(result.runs) if scenario.kind == "sweep" else []
        for target in scenario.targets:
            if not target.models or result.model in target.models:
                verdicts.append(reached(target, result.runs))
        return [{**one, "reached": None} for one in verdicts] if self._options.quick else verdicts

    def _boxed(self, scenario: Scenario, model: Model) -> tuple[float | None, float]:
        """Return the seconds after which a client is stopped, or None, and the length of a phase of the server."""
        if scenario.kind != "sweep":
            return None, float("inf")
        start_up = 1.0
        return self._phase * max(1, len(model.phases)) + start_up, self._phase

    def _measured(
        self, scenario: Scenario, model: Model, contender: Contender, number: int, corpus: Corpus, boxed: float | None
    ) -> Measured:
        self._number += 1
        place = self._place / f"run{self._number}"
        try:
            with (
                self._server(model, corpus, place / "server") as server,
                self._cluster(scenario, contender, corpus, place / "cluster") as cluster,
            ):
                most = _LOOP_FILES if contender.slow else None
                sampled = place / "samples" if scenario.kind == "profile" else None
                events = place / "events.jsonl" if scenario.kind == "again" else None
                options = (*scenario.options, *(("--events", str(events)) if events else ()))
                job = Job(corpus, server, place / "client", boxed, options, most, scenario.disk, sampled, cluster)
                command = contender.make(job)
                ended = run(command, job.place, longest=self._options.longest, within=server.within)
                more = {}
                if events and not ended.code:
                    with opens_below(corpus.root) as opens:
                        ended = run(command, job.place, longest=self._options.longest, within=server.within)
                    more = {"opens": opens.files / corpus.files, "running": _running(events, ended)}
            self._left += [server.left] if server.left else []
            measured = judged(contender.name, number, command, ended, server.tally, boxed=boxed)
            measured.more.update(more)
            if sampled and not measured.problem:
                spent = json.loads(sampled.read_bytes())
                measured.more.update((name, 1e6 * seconds / measured.files) for name, seconds in spent.items())
            if not measured.problem:
                measured.more.update(_of_link(model, command, measured))
        except (RuntimeError, OSError, subprocess.CalledProcessError) as error:
            return Measured(contender.name, number, 0.0, 0, 0.0, 0, problem=f"it could not be run: {error}")
        else:
            return measured
        finally:
            shutil.rmtree(place, ignore_errors=True)

    def _server(self, model: Model, corpus: Corpus, home: Path) -> AbstractContextManager[Served]:
        return self._options.site() if self._options.site is not None else served(model, corpus, home)

    def _cluster(
        self, scenario: Scenario, contender: Contender, corpus: Corpus, home: Path
    ) -> AbstractContextManager[tuple[str, Mapping[str, str]] | None]:
        if not contender.workers:
            return nullcontext()
        return dask_cluster.running(contender.tree, contender.workers, home, corpus.root, scenario.disk)

    def _sink(self, scenario: Scenario, result: Result, model: Model, corpus: Corpus) -> None:
        """Compare the capacity of the instant server with the ceiling: it must limit no contender."""
        ceilings = [one for name, runs in result.runs.items() if name.startswith("ceiling ") for one in runs]
        rates = [found for one in ceilings if (found := one.values.get("rate"))]
        size = max(1, corpus.bytes // max(1, corpus.files))
        if model.name != "instant" or scenario.disk or not rates or size > 1 << 20:
            return
        seconds = "0.5" if self._options.quick else "3"
        with served(model, corpus, self._place / "flooded") as server:
            words = [sys.executable, "-P", "-m", "bench.capacity", server.url, "--query", "EXPT_LABEL=flood"]
            words += ["--size", str(size), "--seconds", seconds]
            done = subprocess.run(words, check=True, capture_output=True, text=True, env=python_path(ROOT))
        shutil.rmtree(self._place / "flooded")
        rate = json.loads(done.stdout)["rate"]
        share = rate / max(rates)
        result.notes.append(f"the sink takes {rate:,.0f} files/s of {size:,} bytes from two processes that only write")
        verdict: Verdict = {"what": "the sink / the best ceiling >= 2", "value": [share] * 3, "reached": share >= 2}
        result.targets.append({**verdict, "reached": None} if self._options.quick else verdict)

    # ---- memory by size of the work

    def _memory(self, scenario: Scenario) -> Iterator[Result]:
        for model, lacks in self._models(scenario):
            result = Result(scenario, model.name, model.what, "several")
            if lacks:
                result.skipped["all"] = lacks
                yield result
                continue
            for shape in scenario.shapes[:: len(scenario.shapes) - 1] if self._options.quick else scenario.shapes:
                corpus = self._corpus(scenario, shape)
                for number in range(self._rounds(scenario)):
                    one = self._measured(
                        scenario, model, self._contenders[scenario.contenders[0]], number, corpus, None
                    )
                    one.contender = shape.name
                    result.runs.setdefault(shape.name, []).append(one)
                    self._tell(f"    {model.name}: {_in_short(one)}")
                if not self._options.quick:
                    shutil.rmtree(corpus.directory)
            result.targets = self._judged(scenario, result)
            yield result

    # ---- without a server

    def _scan(self, scenario: Scenario) -> Iterator[Result]:
        corpus = self._corpus(scenario, scenario.shapes[0])
        yield self._probed(scenario, _described(corpus), lambda tree: self._probe(tree, "scan", corpus.root))

    def _resume(self, scenario: Scenario) -> Iterator[Result]:
        files = self._scaled(scenario, scenario.shapes[0]).files
        root = self._place / "empty"
        self._tell(f"  making {files:,} empty files, and the journal of a run that has sent them")
        self._probe(ROOT, "empty-files", root, str(files))
        journals: dict[Path, Path] = {}

        def probe(tree: Path) -> Ended:
            if tree not in journals:
                journals[tree] = self._place / f"journal{len(journals)}"
                self._probe(tree, "finish", root, journals[tree])
            return self._probe(tree, "resume", root, journals[tree])

        yield self._probed(scenario, f"{files:,} empty files", probe)

    def _start_up(self, scenario: Scenario) -> Iterator[Result]:
        def probe(tree: Path) -> Ended:
            words = [sys.executable, "-P", "-m", "asyncimport", "--help"]
            command = Command(words, python_path(tree), 1, 0, lambda _: Claim())
            return run(command, self._place / "client", longest=self._options.longest)

        for tree in self._options.trees.values():
            probe(tree)  # Python compiles it
        yield self._probed(scenario, "", probe)

    def _probed(self, scenario: Scenario, collection: str, probe: Callable[[Path], Ended]) -> Result:
        """Measure what needs no server, of each tree in turn."""
        result = Result(scenario, "", "", collection)
        for number, (name, tree) in interleaved(list(self._options.trees.items()), self._rounds(scenario)):
            ended = probe(tree)
            one = Measured(name, number, ended.seconds, 1, ended.cpu, ended.rss)
            if ended.code:
                one.problem = f"exit code {ended.code}: {ended.err.strip().splitlines()[-1:]}"
            elif ended.out.startswith("{"):
                told = json.loads(ended.out)
                one.files, one.seconds, one.cpu = int(told["files"]), told["seconds"], told["cpu"]
                one.more = {"opens": told["opens"]}
            result.runs.setdefault(name, []).append(one)
            self._tell(f"    round {number + 1}: {_in_short(one)}")
        result.targets = self._judged(scenario, result)
        return result

    def _probe(self, tree: Path, name: str, *arguments: str | Path) -> Ended:
        words = [sys.executable, "-P", "-m", "bench.probe", name, *arguments]
        command = Command(words, python_path(tree), 1, 0, lambda _: Claim())
        ended = run(command, self._place / "client", longest=self._options.longest)
        if ended.code and name in {"empty-files", "finish"}:
            raise RuntimeError(f"{name}: {ended.err}")
        return ended


def _running(events: Path, ended: Ended) -> float:
    """Return the seconds from the beginning of the last run, as its events tell it, to the end of its process."""
    began = [one for line in events.open() if (one := json.loads(line))["event"] == "run_began"][-1]["ts"]
    return ended.began + ended.seconds - datetime.fromisoformat(began).timestamp()


def _of_link(model: Model, command: Command, measured: Measured) -> Mapping[str, float]:
    """Return how much of the link the files took, and how many megabytes a second a core sends over TLS."""
    found = {}
    if rate := model.settings.get("link", {}).get("rate"):
        found["times_link"] = command.bytes / measured.seconds / rate
    if model.settings.get("tls"):
        found["mb_per_core"] = command.bytes / 1e6 / measured.cpu
    return found


def _described(corpus: Corpus) -> str:
    return f"{corpus.files:,} files, {corpus.bytes / 1e6:,.1f} MB, {corpus.sessions:,} sessions"


def _in_short(one: Measured) -> str:
    if one.problem:
        return f"{one.contender}: FAILED, {one.problem}"
    rate = one.values.get("rate") or 0.0
    return f"{one.contender}: {one.seconds:.2f} s, {rate:,.0f} files/s, peak {one.rss / 1e6:.0f} MB"
