"""Run a state machine of hypothesis on seeded histories."""

import os
import sys

from hypothesis import HealthCheck, Phase, seed, settings
from hypothesis.stateful import RuleBasedStateMachine, run_state_machine_as_test


def run_histories(machine: type[RuleBasedStateMachine], *, histories: int, steps: int, number: int) -> None:
    """Run this many histories of this many steps, with the seed `number` or that of the environment.

    The seed is printed. Who names one has a history that failed, and wants the shortest one like it (minutes).
    """
    given = os.environ.get("ASYNCIMPORT_HISTORIES_SEED")
    number = int(given) if given else number
    sys.stdout.write(f"ASYNCIMPORT_HISTORIES_SEED={number}\n")
    run_state_machine_as_test(
        seed(number)(machine),
        settings=settings(
            max_examples=histories,
            stateful_step_count=steps,
            deadline=None,
            database=None,
            suppress_health_check=list(HealthCheck),
            phases=(Phase.generate, Phase.shrink) if given else (Phase.generate,),
        ),
    )
