"""The rules of XNAT that the test XNAT obeys are numbered, and each of them has a test that names it.

`import_01` to `import_35` are of imports, prearchive and archiving, `archive_01` to `archive_50` of all else: logins,
projects, subjects, listings, files, errors, connections.
"""

import re
from pathlib import Path

import pytest

HERE = Path(__file__).parent
RULES = [f"import_{number:02}" for number in range(1, 36)] + [f"archive_{number:02}" for number in range(1, 51)]
SAME = {"import_01": "archive_01"}
"""Rules that say the same as another one."""


def named() -> set[str]:
    """Return the rules that names of tests have; one test may name several, as in test_archive_26_27_a_file."""
    found = set()
    for file in HERE.glob("test_*.py"):
        for area, numbers in re.findall(r"def test_(import|archive)((?:_\d\d)+)_", file.read_text("utf-8")):
            found |= {f"{area}_{number}" for number in numbers.strip("_").split("_")}
    return found


NAMED = named()


@pytest.mark.parametrize("rule", RULES)
def test_every_rule_has_a_test(rule: str) -> None:
    """So nobody takes for granted what no test holds."""
    assert SAME.get(rule, rule) in NAMED


def test_no_test_names_a_rule_that_does_not_exist() -> None:
    """A wrong number would hide that a rule has no test."""
    assert set(RULES) >= NAMED
