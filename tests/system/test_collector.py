"""How often Python's garbage collector runs."""

import gc
from collections.abc import Iterator

import pytest

from asyncimport.system.collector import resume, run_often, suspend


@pytest.fixture(autouse=True)
def as_before() -> Iterator[None]:
    """Restore the collector afterwards."""
    before = gc.get_threshold()
    yield
    gc.set_threshold(*before)
    gc.unfreeze()


def test_a_command_collects_more_often_step_by_step() -> None:
    """Hardly while it starts, then now and then, and often with a cluster."""
    thresholds = []
    for step in (suspend, resume, run_often):
        step()
        thresholds.append(gc.get_threshold()[0])
    assert thresholds == sorted(thresholds, reverse=True)
    assert len(set(thresholds)) == 3


def test_a_program_that_uses_the_library_keeps_its_own_collector() -> None:
    """Only commands suspend it, so only they change it."""
    gc.set_threshold(1_234)
    resume()
    run_often()
    assert gc.get_threshold()[0] == 1_234
