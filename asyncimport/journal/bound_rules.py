"""The destination and the rules that a journal is bound to."""

import sqlite3
from collections.abc import Mapping, Sequence
from pathlib import Path

from asyncimport.errors import JournalError, UsageError

_OPTION_OF = {
    "rule project": "--project",
    "rule subject": "--subject",
    "rule session": "--session",
    "rule path pattern": "--path-pattern",
    "rule map": "--label-map",
}


def bind(connection: sqlite3.Connection, path: Path, destination: str, rules: Mapping[str, str]) -> None:
    """Record destination and rules in a journal that has none; otherwise compare them, as `check_rules` does."""
    stored = dict(connection.execute("SELECT key, value FROM metadata"))
    check_rules(stored, path, destination, rules)
    if not _has_rules(stored):
        wanted = {"destination": destination, **_rule_rows(rules)}
        connection.executemany("INSERT OR IGNORE INTO metadata VALUES (?, ?)", wanted.items())


def check_rules(stored: Mapping[str, str], path: Path, destination: str, rules: Mapping[str, str]) -> None:
    """Compare with those stored. Raises: JournalError for another destination, UsageError for other rules."""
    wanted = _rule_rows(rules)
    if stored.get("destination", destination) != destination:
        raise JournalError(
            f"the journal {path} belongs to {stored['destination']}, not to {destination}",
            hint="leave out --journal, or name another: each server has a journal of its own",
        )
    if not _has_rules(stored):
        return
    # Each row of a plan is a rule for one study, so a run may continue with a part of the plan, or a longer one.
    fixed = [name for name in wanted if name != "rule plan" or name not in stored]
    if changed := [name for name in fixed if stored.get(name) != wanted[name]]:
        raise UsageError(
            f"this journal was begun with other rules: {_rule_difference(stored, wanted, changed)}",
            hint="give the same options again; --relabel applies the new ones to what is not archived yet; another "
            "source with rules of its own needs a journal of its own: --journal FILE",
        )


def _rule_difference(stored: Mapping[str, str], wanted: Mapping[str, str], changed: Sequence[str]) -> str:
    """Return what differs, by the names of the options."""
    if "rule plan" in stored and "rule plan" not in wanted:
        return "with --plan, and this run has none"
    if "rule plan" in changed:
        begun = (f"{_OPTION_OF[name]} {stored[name]!r}" for name in ("rule subject", "rule session") if name in stored)
        return f"by {' and '.join(begun)}, and this run has --plan"
    parts = []
    for name in changed:
        option, was = _OPTION_OF.get(name, name.removeprefix("rule ")), stored.get(name)
        if name == "rule map":
            # The journal has its digest.
            parts.append(f"{'no' if was is None else 'another'} {option}")
        else:
            parts.append(f"no {option}" if was is None else f"{option} {was!r}, not {wanted[name]!r}")
    return ", ".join(parts)


def _has_rules(stored: Mapping[str, str]) -> bool:
    return any(name.startswith("rule ") for name in stored)


def _rule_rows(rules: Mapping[str, str]) -> dict[str, str]:
    return {f"rule {name}": rule for name, rule in rules.items()}
