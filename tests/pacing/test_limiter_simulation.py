"""`-w auto` against the best fixed number, on servers of many kinds in a virtual time; and what it never does.

Each prints what it found for each seed: `pytest -s -n0 tests/pacing/test_limiter_simulation.py`.
"""

import sys
from collections.abc import Mapping, Sequence
from dataclasses import dataclass, field, replace
from math import inf
from random import Random
from statistics import median
from typing import Any

import pytest
from simulation import Client, Clock, Phase, Server

from asyncimport.pacing.adaptive import AdaptiveLimit
from asyncimport.pacing.concurrency import Throttle

CEILING = 64
SWEEP = (1, 2, 4, 8, 16, 32, 64)
SEEDS = tuple(range(1, 8))
# The best number is the least of the sweep whose rate is about the best; and what is to be reached.
AS_GOOD = 0.97
SHARE, SECONDS, AT_MOST = 0.95, 10.0, 1.5
PHASE = 20.0

TURNS = {"seconds": 0.00031, "turn": 0.00035}
REALISTIC = Phase(serial=0.002, parallel=0.020, anonymising=0.030, cores=8)
CHANGING = (
    Phase("wide", PHASE, serial=0.002, working=0.020, cores=40),
    Phase("narrow", PHASE, serial=0.002, working=0.020, cores=4),
    Phase("long", PHASE, serial=0.001, working=0.060, cores=64),
    Phase("wide again", PHASE, serial=0.002, working=0.020, cores=40),
)


def images(rng: Random) -> int:
    """Return the bytes of an image of 20 to 500 kB."""
    return rng.choices((20_000, 131_000, 526_000), (6, 3, 1))[0]


def images_and_films(rng: Random) -> int:
    """Return the bytes of an image, or, once in 2,000 times, of a film of 200 MB."""
    return 200_000_000 if rng.random() < 1 / 2_000 else images(rng)


def noisy(phases: Sequence[Phase], spread: float = 0.4) -> tuple[Phase, ...]:
    """Return phases in which a server's times vary."""
    return tuple(replace(phase, spread=spread) for phase in phases)


@dataclass(frozen=True, slots=True)
class Model:
    """A server, a client of it, and how long they are watched."""

    phases: tuple[Phase, ...]
    client: Mapping[str, Any] = field(default_factory=dict)
    connections: int = 40
    seconds: float = PHASE
    """Of each phase, of which what comes after the first ten counts."""
    fixed: float = 8.0
    """Seconds of a run with a fixed number."""

    def play(self, throttle: Throttle, clock: Clock, seed: int, phases: Sequence[Phase] = ()) -> Client:
        """Let a client begin to send to the server."""
        server = Server(clock, phases or self.phases, Random(seed), connections=self.connections)
        client = Client(clock, server, throttle, Random(1_000 + seed), **self.client)
        client.begin()
        return client


MODELS = {
    "realistic": Model((REALISTIC,)),
    "realistic, noisy": Model(noisy([REALISTIC], 0.5)),
    "far": Model((replace(REALISTIC, round_trip=0.1),), {"connecting": 0.1}),
    "far, noisy": Model(noisy([replace(REALISTIC, round_trip=0.1)]), {"connecting": 0.1}),
    "narrow link": Model(
        noisy([replace(REALISTIC, round_trip=0.02, per_megabyte=0.1)]), {"sizes": lambda _: 131_000}, fixed=30.0
    ),
    # As was measured with -w 2 to 64 and files of 20 kB: 2,055, 2,412, 2,798, 3,053, 2,985 and 3,033 files a second.
    "client": Model((Phase(parallel=0.0003),), TURNS, seconds=12.0, fixed=1.0),
    "client that reads": Model(
        (Phase(parallel=0.0005, spread=0.4),), {**TURNS, "between": 0.001}, seconds=12.0, fixed=2.0
    ),
    "changing": Model(CHANGING),
    "changing, noisy": Model(noisy(CHANGING)),
    "images": Model(noisy([REALISTIC]), {"sizes": images}),
    "images and films": Model(noisy([REALISTIC]), {"sizes": images_and_films}, seconds=40.0, fixed=40.0),
    "few connections": Model(noisy([Phase(serial=0.001, parallel=0.050)], 0.2), connections=12),
    "knee at 16": Model((Phase(serial=0.002, parallel=0.030),)),
    "knee at 8": Model((Phase(serial=0.005, parallel=0.035),)),
    "slow": Model((Phase(serial=0.010, working=0.2, cores=32, spread=0.2),), seconds=40.0, fixed=20.0),
}


def auto(model: Model, seed: int) -> tuple[Client, Throttle, Clock]:
    """Let a client begin that finds out how many should be in flight."""
    clock = Clock()
    throttle = Throttle(AdaptiveLimit(CEILING, clock=clock.time), clock=clock.time)
    return model.play(throttle, clock, seed), throttle, clock


def best_fixed(model: Model, phase: Phase) -> tuple[int, float]:
    """Return the best number of the sweep, and the rate that is the greatest of all."""
    rates = {}
    for number in SWEEP:
        clock = Clock()
        throttle = Throttle(number, clock=clock.time)
        client = model.play(throttle, clock, SEEDS[0], [replace(phase, seconds=inf)])
        clock.run(model.fixed)
        rates[number] = client.rate(model.fixed / 4, model.fixed)
    greatest = max(rates.values())
    return min(number for number, rate in rates.items() if rate >= AS_GOOD * greatest), greatest


def until_reached(client: Client, begin: float, end: float, rate: float) -> float:
    """Return the seconds after which a rate is reached: as the mean of two seconds from then on."""
    moments = [begin + step / 4 for step in range(int(4 * (end - begin - 2)))]
    return next((moment - begin for moment in moments if client.rate(moment, moment + 2) >= rate), inf)


@pytest.mark.parametrize("name", MODELS)
def test_as_good_as_the_best_fixed_number(name: str) -> None:
    """It has 0.95 of the throughput of the best number, within 10 s, and never 1.5 times as many in flight."""
    model = MODELS[name]
    runs = []
    for seed in SEEDS:
        run, _, clock = auto(model, seed)
        clock.run(model.seconds * len(model.phases))
        runs.append(run)
    for number, phase in enumerate(model.phases):
        best, greatest = best_fixed(model, phase)
        begin, end = number * model.seconds, (number + 1) * model.seconds
        shares = [run.rate(begin + SECONDS, end) / greatest for run in runs]
        reached = [until_reached(run, begin, end, SHARE * greatest) for run in runs]
        # What was right for the phase before may be too many at first.
        flights = [run.most(begin if number == 0 else begin + SECONDS, end) for run in runs]
        sys.stdout.write(
            f"{name} {phase.name}: best {best} with {greatest:.0f}/s; seeds {SEEDS[0]} to {SEEDS[-1]}: share "
            f"{median(shares):.3f} (least {min(shares):.3f}), after {median(reached)} s (most {max(reached)}), "
            f"in flight {max(flights) / best:.2f} x best\n"
        )
        assert median(shares) >= SHARE
        assert median(reached) <= SECONDS
        assert max(flights) <= AT_MOST * best


@pytest.mark.parametrize(
    ("round_trip", "megabytes", "share"), [(0.03, 6.0, 0.98), (0.03, 12.5, 0.98), (0.15, 2.5, 0.95)]
)
def test_a_full_link_stays_full(round_trip: float, megabytes: float, share: float) -> None:
    """Measuring must not empty it: the share is that of the first minute, start and probes included."""
    link = replace(REALISTIC, round_trip=round_trip, per_megabyte=1 / megabytes)
    model = Model(noisy([link]), {"sizes": lambda _: 131_000, "connecting": round_trip})
    shares = []
    for seed in SEEDS:
        run, _, clock = auto(model, seed)
        clock.run(60.0)
        shares.append(run.rate(0, 60) * 0.131 / megabytes)
    sys.stdout.write(f"{megabytes} MB/s: share {median(shares):.3f} (least {min(shares):.3f})\n")
    assert median(shares) >= share


@pytest.mark.parametrize("seed", SEEDS)
@pytest.mark.parametrize("rate", [20, 100])
def test_a_limit_that_is_not_used_does_not_grow(rate: int, seed: int) -> None:
    """Where the scan is slower than the server, there is no reason to allow more than it brings.

    At 100 files/s that is two or three. What has piled up while a probe allowed for fewer is a reason for more, as
    long as it is there.
    """
    run, throttle, clock = auto(Model(noisy([REALISTIC]), {"sourced": rate}), seed)
    most, step = throttle.limit, 0.01
    for number in range(6_000):
        waiting = run.waiting
        clock.run(step * (number + 1))
        assert throttle.limit <= max(most, 5) or waiting > 1
        most = max(most, throttle.limit)
    sys.stdout.write(f"seed {seed}: {rate} files/s: limit {throttle.limit}, most in flight {run.most(0, 60)}\n")
    assert run.rate(10, 60) == pytest.approx(rate, rel=0.02)
    assert most == 3 or rate == 100


@pytest.mark.parametrize("seed", SEEDS)
def test_it_comes_back_after_an_outage(seed: int) -> None:
    """While nobody gets through one call at a time is tried; then it is soon as before."""
    away = replace(REALISTIC, seconds=600.0, most=0)
    model = Model((replace(REALISTIC, seconds=PHASE), away, REALISTIC))
    run, throttle, clock = auto(model, seed)
    clock.run(PHASE + 300)
    assert throttle.limit == 1
    refused = run.refused
    clock.run(PHASE + 600)
    assert run.refused - refused <= 300 * CEILING
    clock.run(PHASE + 620)
    share = run.rate(PHASE + 605, PHASE + 620) / run.rate(5, PHASE)
    sys.stdout.write(f"seed {seed}: {share:.3f} of the throughput from 5 s after the outage on\n")
    assert share >= SHARE
    assert run.most(PHASE + 600, PHASE + 620) <= AT_MOST * 16


@pytest.mark.parametrize("seed", SEEDS)
def test_a_server_that_refuses_the_many_is_not_flooded(seed: int) -> None:
    """A server that takes ten calls is not sent many more, though its latency would allow for them."""
    run, _, clock = auto(Model(noisy([replace(REALISTIC, most=10)])), seed)
    clock.run(60.0)
    sys.stdout.write(f"seed {seed}: {run.refused / 60:.0f} refused/s, {run.rate(10, 60):.0f} files/s\n")
    assert run.most(5, 60) <= AT_MOST * 10
    # A worker that was refused waits for half a second at least.
    assert run.refused / 60 <= CEILING
    assert run.rate(10, 60) >= 300
