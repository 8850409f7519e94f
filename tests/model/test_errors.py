"""The tree of errors, its exit codes, and which of several errors is shown."""

import ast
import re
from itertools import permutations
from pathlib import Path

import pytest

from asyncimport import errors
from asyncimport.errors import (
    AsyncimportError,
    FatalError,
    InvalidOptionError,
    JournalBusyError,
    JournalError,
    LoginExpiredError,
    LoginRefusedError,
    ProjectMissingError,
    ProjectReadOnlyError,
    RefusedError,
    SourceError,
    TransientError,
    UnavailableError,
    UsageError,
    primary_error,
)

FATAL: dict[type[AsyncimportError], int] = {
    UsageError: 2,
    InvalidOptionError: 2,
    LoginRefusedError: 3,
    UnavailableError: 4,
    ProjectMissingError: 5,
    ProjectReadOnlyError: 6,
    JournalBusyError: 7,
    JournalError: 1,
}
CLASSES: list[type[AsyncimportError]] = [getattr(errors, name) for name in vars(errors) if name.endswith("Error")]


@pytest.mark.parametrize("kind", CLASSES)
def test_exit_codes(kind: type[AsyncimportError]) -> None:
    """Fatal errors have the exit codes of the contract; all others, which should not get so far, have 1."""
    assert issubclass(kind, AsyncimportError)
    assert kind.exit_code == FATAL.get(kind, 1)
    assert issubclass(kind, FatalError) == (kind in FATAL or kind is FatalError)


def test_tree_is_the_docstring() -> None:
    """The tree in the docstring is the real one, exit codes included."""
    shown: dict[str, tuple[str, int | None]] = {}
    above = ["Exception"]
    for stem, name, code in re.findall(r"^([│ ]*[├└]── |)(\w+Error) +(\d )?", errors.__doc__ or "", re.MULTILINE):
        depth = len(stem) // 4
        shown[name] = above[depth], int(code) if code else None
        above[depth + 1 :] = [name]
    real = {kind.__name__: (kind.__bases__[0].__name__, FATAL.get(kind)) for kind in CLASSES}
    assert shown == real


@pytest.mark.parametrize(
    ("error", "hint"),
    [
        (AsyncimportError("message"), ""),
        (UsageError("message", hint="do this"), "do this"),
        (TransientError("message", retry_after=3.0), ""),
        (RefusedError("message", whole_session=True), ""),
        (SourceError("message"), ""),
    ],
)
def test_message_and_hint(error: AsyncimportError, hint: str) -> None:
    """The text of an error is its message only; the hint is separate."""
    assert str(error) == "message"
    assert error.hint == hint


def test_flags_are_off_unless_given() -> None:
    """By default a transient error blames nobody and asks for nothing."""
    for error in (TransientError("x"), LoginExpiredError("x")):
        assert (error.retry_after, error.overload, error.unreachable, error.blames_file) == (None, False, False, False)
    assert not RefusedError("x").whole_session


UNAVAILABLE, USAGE, TRANSIENT, BUG = UnavailableError("u"), UsageError("g"), TransientError("t"), KeyError("k")


@pytest.mark.parametrize(
    ("found", "expected"),
    [
        ([UNAVAILABLE], UNAVAILABLE),
        ([UNAVAILABLE, USAGE, TRANSIENT, BUG], UNAVAILABLE),
        ([UNAVAILABLE, BUG], UNAVAILABLE),
        ([USAGE, TRANSIENT, BUG], USAGE),
        ([TRANSIENT, BUG], TRANSIENT),
        ([BUG], BUG),
    ],
)
def test_the_primary_error_of_several(found: list[Exception], expected: Exception) -> None:
    """Fatal errors come before usage errors, those before our others, in whatever order they were raised."""
    for order in permutations(found):
        assert primary_error(ExceptionGroup("", order)) is expected


def test_the_primary_error_of_equals_is_the_first() -> None:
    """Of two errors of one rank the first is shown."""
    first, second = LoginRefusedError("a"), UnavailableError("b")
    assert primary_error(ExceptionGroup("", [first, second])) is first
    assert primary_error(ExceptionGroup("", [second, first])) is second
    assert primary_error(ExceptionGroup("", [ValueError("c"), BUG])).args == ("c",)


def test_the_primary_error_of_nested_groups() -> None:
    """It is found in task groups within task groups."""
    inner = ExceptionGroup("", [TRANSIENT, ExceptionGroup("", [UNAVAILABLE])])
    assert primary_error(ExceptionGroup("", [BUG, inner, USAGE])) is UNAVAILABLE


def test_the_primary_error_may_be_a_base_exception() -> None:
    """An interrupt in a group is shown if there is no error of ours."""
    interrupt = KeyboardInterrupt()
    assert primary_error(BaseExceptionGroup("", [interrupt])) is interrupt
    assert primary_error(BaseExceptionGroup("", [interrupt, USAGE])) is USAGE


def test_errors_that_end_a_run_say_what_to_do() -> None:
    """Each is raised with a hint."""
    fatal = {kind.__name__ for kind in FATAL}
    without = []
    for file in Path(errors.__file__).parent.rglob("*.py"):
        for call in ast.walk(ast.parse(file.read_text("utf-8"))):
            if (
                isinstance(call, ast.Call)
                and isinstance(call.func, ast.Name)
                and call.func.id in fatal - {"InvalidOptionError"}
            ):
                named = {keyword.arg: ast.unparse(keyword.value) for keyword in call.keywords}
                if named.get("hint", "''") == "''":
                    without.append(f"{file.name}:{call.lineno}")
    assert without == []
