"""`python -m bench`: list the scenarios, run some or all of them, write the report of runs."""

import argparse
import json
import os
import signal
import sys
from collections.abc import Callable, Iterator, Sequence
from contextlib import AbstractContextManager, ExitStack
from pathlib import Path
from tempfile import TemporaryDirectory
from typing import NoReturn

from bench.contenders import contenders
from bench.machine import CAVEATS, as_lines, machine
from bench.run import Options, Result, Run
from bench.scenarios import SCENARIOS, Scenario
from bench.servers import MODELS, Served
from bench.site import from_environment
from bench.tables import headline, table_of, targets_of, text
from bench.trees import ROOT, checkout
from bench.xnatctl import XNATCTL


def _parser() -> argparse.ArgumentParser:
    parser = argparse.ArgumentParser(prog="python -m bench", description=__doc__)
    commands = parser.add_subparsers(dest="command", required=True)
    commands.add_parser("list", help="the scenarios with their targets, the servers, the contenders")
    run = commands.add_parser("run", help="run scenarios: those named, or all")
    run.add_argument("scenarios", nargs="*", metavar="SCENARIO", help="default: all")
    run.add_argument("--quick", action="store_true", help="everything once, very small: shows that it works, no more")
    run.add_argument("--rounds", type=int, metavar="N", help="rounds of each scenario")
    run.add_argument("--scale", type=float, default=1.0, metavar="X", help="a part of the files: 0.05")
    run.add_argument("--model", action="append", default=[], choices=sorted(MODELS), help="only on this server")
    run.add_argument("--contender", action="append", default=[], metavar="NAME", help="only this one; may be repeated")
    run.add_argument("--against", metavar="REV", help="measure another revision beside this tree")
    run.add_argument("--json", type=Path, metavar="FILE", help="write all figures here")
    run.add_argument("--work", type=Path, metavar="DIR", help="where the files are written; default: the system's")
    run.add_argument("--longest", type=float, default=1800.0, metavar="S", help="seconds after which a run is given up")
    run.add_argument("--project", metavar="ID", help="a scratch project of the XNAT that XNAT_HOST names: move there")
    report = commands.add_parser("report", help="write the tables of one or several runs as Markdown, and a plot")
    report.add_argument("results", type=Path, nargs="+", metavar="FILE", help="what --json has written")
    report.add_argument("--markdown", type=Path, metavar="FILE", help="default: standard output")
    report.add_argument("--svg", type=Path, metavar="FILE", help="where the plot of rates goes")
    report.add_argument("--link-svg", type=Path, metavar="FILE", help="where the plot of time against link speed goes")
    return parser


def _list() -> None:
    for scenario in SCENARIOS.values():
        print(f"{scenario.name}: {scenario.what}")
        shapes = ", ".join(shape.name for shape in scenario.shapes)
        print(f"    {scenario.kind}; {shapes}{'; on ' if scenario.models else ''}{', '.join(scenario.models)}")
        for target in scenario.targets:
            print(f"    {target}{f' ({chr(44).join(target.models)})' if target.models else ''}")
    print("\nservers")
    for model in MODELS.values():
        lacks = model.lacks()
        print(f"    {model.name}: {model.what}{f' [not here: {lacks}]' if lacks else ''}")
    print("\ncontenders")
    for contender in contenders().values():
        print(f"    {contender.name}: {contender.what}")


def _show(result: Result) -> None:
    data = json.loads(json.dumps(result.as_json()))
    print(f"\n{headline(data)}")
    print(text(table_of(data)))
    for line in targets_of(data):
        print(f"  {line}")
    for note in result.notes:
        print(f"  note: {note}")
    print(flush=True)


def _run(options: argparse.Namespace, scenarios: Sequence[Scenario]) -> int:
    if not 0 < options.scale <= 1:
        raise SystemExit(f"--scale {options.scale:g} is no part of the files: more than 0, and at most 1")
    if not options.quick and not options.project:
        XNATCTL.install()
    described = machine(str(ROOT))
    print("\n".join(as_lines(described)))
    for caveat in CAVEATS:
        print(f"caveat: {caveat}")
    results: list[Result] = []
    with ExitStack() as stack:
        tree = stack.enter_context(checkout(options.against)) if options.against else None
        work = Path(stack.enter_context(TemporaryDirectory(prefix="bench-", dir=options.work)))
        chosen = Options(
            quick=options.quick,
            scale=options.scale,
            rounds=options.rounds,
            models=frozenset(options.model),
            only=frozenset(options.contender),
            longest=min(options.longest, 60.0) if options.quick else options.longest,
            revision=options.against or "",
            tree=tree,
            site=_site(options.project),
        )
        bench = Run(chosen, work, lambda line: print(line, file=sys.stderr, flush=True))
        for scenario in scenarios:
            print(f"{scenario.name}: {scenario.what}", file=sys.stderr, flush=True)
            if options.project and scenario.kind != "transfer":
                continue  # needs a server model, or none
            for result in bench.results(scenario):
                results.append(result)
                _show(result)
                if options.json:
                    _write(options.json, described, options, results)
    if not results:
        raise SystemExit("none of these scenarios runs on the chosen servers: see python -m bench list")
    failed = [name for one in results for name, runs in one.runs.items() if any(run.problem for run in runs)]
    ours = [name for name in failed if name.startswith("asyncimport") and "@" not in name]
    return 1 if ours else 0


def _write(path: Path, described: object, options: argparse.Namespace, results: Sequence[Result]) -> None:
    told = {
        "quick": options.quick,
        "scale": options.scale,
        "rounds": options.rounds,
        "against": options.against,
        "contenders": options.contender,
        "site": bool(options.project),
    }
    data = {
        "version": 1,
        "machine": described,
        "caveats": CAVEATS,
        "options": told,
        "results": [result.as_json() for result in results],
    }
    path.write_text(json.dumps(data, indent=1) + "\n")


def _site(project: str | None) -> Callable[[], AbstractContextManager[Served]] | None:
    if project is None:
        return None
    found = from_environment(os.environ, project)
    return found.visited


def _chosen(names: Sequence[str]) -> Iterator[Scenario]:
    for name in names or SCENARIOS:
        if name not in SCENARIOS:
            raise SystemExit(f"there is no scenario {name}: see python -m bench list")
        yield SCENARIOS[name]


def _stop(*_: object) -> NoReturn:
    """End as after Ctrl-C: servers stop, clients are killed, files are removed."""
    raise SystemExit(143)


def main(arguments: Sequence[str] | None = None) -> int:
    """Run the command line. The exit code is 1 if a run of asyncimport did not deliver everything."""
    options = _parser().parse_args(arguments)
    signal.signal(signal.SIGTERM, _stop)
    match options.command:
        case "list":
            _list()
            return 0
        case "report":
            from bench.report import write_report

            write_report(options.results, options.markdown, options.svg, options.link_svg)
            return 0
    try:
        return _run(options, list(_chosen(options.scenarios)))
    except ValueError as error:
        raise SystemExit(str(error)) from None


if __name__ == "__main__":
    sys.exit(main())
