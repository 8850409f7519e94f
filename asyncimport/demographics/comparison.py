"""Compare values with those that XNAT has: what to write, what to keep, and whether it has arrived."""

import html
import math
from collections.abc import Mapping
from dataclasses import field

from asyncimport.demographics.fields import BIRTH, FIELDS, NULL, Kind
from asyncimport.model.record import record

Values = Mapping[str, str]


@record
class Difference:
    """A field with another value in XNAT, or with another field in its place (`instead`). The repr shows no values."""

    name: str
    ours: str = field(repr=False)
    theirs: str = field(repr=False)
    instead: str = ""


@record
class Changes:
    """The values to send (NULL clears a field), and the fields that are kept, replaced and unchanged."""

    write: Values = field(repr=False)
    kept: tuple[Difference, ...] = ()
    replaced: tuple[Difference, ...] = ()
    unchanged: tuple[str, ...] = ()

    @property
    def written(self) -> tuple[str, ...]:
        """Return the fields that are sent, without those that are only cleared to make room for them."""
        cleared = {one.instead for one in self.replaced}
        return tuple(name for name in self.write if name not in cleared)


def compute_changes(given: Values, existing: Values, *, overwrite: bool) -> Changes:
    """Decide about each given field; `existing` are the values in XNAT.

    A subject has one of dob, yob and age: another of these in XNAT counts as another value, and is cleared when
    replaced.
    """
    write: dict[str, str] = {}
    kept: list[Difference] = []
    replaced: list[Difference] = []
    unchanged: list[str] = []
    for name, value in given.items():
        if same_value(name, value, existing.get(name, "")):
            unchanged.append(name)
            continue
        differing = [Difference(name, value, existing[name])] if existing.get(name) else []
        if name in BIRTH and value != NULL:
            differing += [
                Difference(name, value, existing[other], other)
                for other in BIRTH
                if other != name and existing.get(other)
            ]
        if differing and not overwrite:
            kept += differing
            continue
        write[name] = value
        write |= {one.instead: NULL for one in differing if one.instead}
        replaced += differing
    return Changes(write, tuple(kept), tuple(replaced), tuple(unchanged))


def missing_values(written: Values, existing: Values) -> tuple[str, ...]:
    """Return the fields that were sent and that XNAT does not show with these values."""
    return tuple(name for name, value in written.items() if not same_value(name, value, existing.get(name, "")))


def same_value(name: str, ours: str, theirs: str) -> bool:
    """Whether two values of a field mean the same: 70 and 70.0, M and male, NULL and "".

    XNAT escapes values as XML (SecureResource.getQueryVariable), which is undone here. Ours contain no such escapes
    (`has_reference`).
    """
    ours, theirs = ("" if value == NULL else value.strip() for value in (ours, html.unescape(theirs)))
    if ours == theirs or not ours or not theirs:
        return ours == theirs
    one = FIELDS[name]
    match one.kind:
        case Kind.WORD:
            return one.words.get(ours.casefold(), ours) == one.words.get(theirs.casefold(), theirs)
        case Kind.INTEGER | Kind.FLOAT:
            try:
                # XNAT's numbers have the precision of a float.
                return math.isclose(float(ours), float(theirs), rel_tol=1e-6)
            except ValueError:
                return False
        case Kind.DATE:
            # XNAT's JSON shows a day, or its midnight.
            return ours == theirs.split(" ")[0].split("T")[0]
        case Kind.TEXT:
            return False
