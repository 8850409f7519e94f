"""Verdicts on targets. Pure: it works on figures."""

from collections.abc import Mapping, Sequence
from statistics import median

from bench.measure import Measured
from bench.rounds import Spread, ratios, spread
from bench.scenarios import AUTO, SWEEP, Target

Runs = Mapping[str, Sequence[Measured]]
Verdict = dict[str, object]
_AS_GOOD = 0.97


def values(runs: Sequence[Measured], metric: str) -> list[float | None]:
    """Return a figure for each round; None if the round failed or lacks it."""
    return [run.values.get(metric) for run in runs]


def reached(target: Target, runs: Runs) -> Verdict:
    """Judge a target. `reached` is None if it was not measured."""
    ours = values(runs.get(target.ours, ()), target.metric)
    found: Spread | None
    if target.over:
        found = ratios(ours, values(runs.get(target.over, ()), target.per or target.metric))
    else:
        found = spread([value for value in ours if value is not None])
        if target.less:
            other = spread([value for value in values(runs.get(target.less, ()), target.metric) if value is not None])
            found = _less(found, other)
    return _verdict(str(target), found, target.op, target.bound)


def _less(found: Spread | None, other: Spread | None) -> Spread | None:
    if found is None or other is None:
        return None
    least, greatest = found.least - other.greatest, found.greatest - other.least
    return Spread(found.median - other.median, least, greatest, min(found.count, other.count))


def _verdict(what: str, found: Spread | None, op: str, bound: float) -> Verdict:
    verdict: Verdict = {"what": what, "value": None, "reached": None}
    if found is not None:
        verdict["value"] = [found.median, found.least, found.greatest]
        verdict["reached"] = found.median >= bound if op == ">=" else found.median <= bound
    return verdict


def of_sweep(runs: Runs, revision: str = "") -> list[Verdict]:
    """Judge `-w auto` against the fixed numbers: at least 0.95 of the best, and never 1.5 times as many in flight.

    The best N is the least one that does about as well as any.
    """
    verdicts: list[Verdict] = []
    auto = runs.get(AUTO if not revision else f"asyncimport@{revision} auto", ())
    for phase in dict.fromkeys(name for run in auto for name in run.phases):
        rates = {
            number: median(found)
            for number in SWEEP
            if (found := _of_phase(runs.get(f"asyncimport {number}", ()), phase, "settled"))
        }
        if not rates or not max(rates.values()):
            continue
        most = max(rates.values())
        best = min(number for number, rate in rates.items() if rate >= _AS_GOOD * most)
        shares = spread([rate / most for rate in _of_phase(auto, phase, "settled")])
        flights = spread([number / best for number in _of_phase(auto, phase, "in_flight")])
        verdicts.append(_verdict(f"settled, {phase}: auto / the best N (-w {best}) >= 0.95", shares, ">=", 0.95))
        verdicts.append(_verdict(f"in flight, {phase}: auto / the best N (-w {best}) <= 1.5", flights, "<=", 1.5))
    return verdicts


def _of_phase(runs: Sequence[Measured], phase: str, figure: str) -> list[float]:
    phases = [run.phases.get(phase, {}) for run in runs if not run.problem]
    return [figures[figure] for figures in phases if figure in figures]
