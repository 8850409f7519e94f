"""Two people with one PatientID, for the eyes of who decides: names are shown on a terminal, and nowhere else."""

import csv
import io
from collections.abc import Sequence

from rich.console import Console
from rich.text import Text

from asyncimport.dicom import Identity
from asyncimport.model.csv_table import escape_cell
from asyncimport.model.texts import plain
from asyncimport.reporting.causes import TwoPeople
from asyncimport.routing.accepted_patients import COLUMNS
from asyncimport.source.headers import identify_file

_MAX_ROWS = 20
# Studies of the same two people make one row.
_MAX_READ = 200


def show_people(console: Console, pairs: Sequence[TwoPeople]) -> None:
    """Write people as rows for --accept-patients, if this is a terminal. It reads their files."""
    if not console.is_terminal:
        return
    rows = dict.fromkeys(row for pair in pairs[:_MAX_READ] if (row := _row(pair)) is not None)
    if not rows:
        return
    console.print(Text("      to accept them, write these lines into a file for --accept-patients:"))
    for row in [",".join(COLUMNS), *rows][: _MAX_ROWS + 1]:
        console.print(Text(f"      {row}"))
    if len(rows) > _MAX_ROWS or len(pairs) > _MAX_READ:
        console.print(Text("      and more, which the next run shows when these are decided"))


def _row(pair: TwoPeople) -> str | None:
    paths = (pair.other_example, pair.example)
    one, other = (identify_file(path, ignore_archives=True) for path in paths)
    if not (isinstance(one, Identity) and isinstance(other, Identity)):
        return None
    values = [one.fields.get("PatientID", "")]
    for found in (one, other):
        values += [found.fields.get(name, "") for name in ("PatientName", "PatientBirthDate")]
    values.append(one.fields.get("IssuerOfPatientID", "") or other.fields.get("IssuerOfPatientID", ""))
    text = io.StringIO()
    csv.writer(text, lineterminator="").writerow([escape_cell(plain(value.strip())) for value in values])
    return text.getvalue()
