"""The options that only the command line has. Those that a library call takes too are in `model/options.py`."""

from collections.abc import Sequence
from dataclasses import dataclass
from enum import StrEnum
from functools import cached_property
from pathlib import Path
from typing import TYPE_CHECKING, Annotated

import typer

from asyncimport.cli.output import consoles
from asyncimport.model.csv_table import check_encoding
from asyncimport.model.option import rare, setting
from asyncimport.model.record import record

if TYPE_CHECKING:
    from rich.console import Console

Sources = Annotated[
    list[Path], typer.Argument(metavar="SOURCE", help="Directories or files; everything below is scanned.")
]


class Output(StrEnum):
    """How a result is written to standard output."""

    TABLE = "table"
    JSON = "json"


@record
class ChosenProfile:
    """The profile that a command runs under; `is_explicit` if the command line asks for it.

    `user` is that of a default profile, which counts only if the environment names none.
    """

    name: str
    is_explicit: bool
    user: str | None = None


def _chosen(context: typer.Context) -> ChosenProfile | None:
    """Return what `ProfiledCommand` has chosen, as the value of --profile."""
    return context.obj  # type: ignore[no-any-return]


@dataclass(frozen=True, kw_only=True)
class ProjectOption:
    """The project."""

    project: str | None = setting("--project", "-P", metavar="ID", help="XNAT project.")


@dataclass(frozen=True, kw_only=True)
class Place(ProjectOption):
    """Which server and project are meant."""

    host: str | None = setting(
        "--host", metavar="URL", variables=("XNAT_HOST", "XNAT_URL"), help="XNAT's address, context path included."
    )
    profile: ChosenProfile | None = setting(
        "--profile",
        "-p",
        metavar="NAME",
        parser=str,
        callback=_chosen,
        help="Host, user, project and other options from the configuration.",
    )


@dataclass(frozen=True, kw_only=True)
class Trust:
    """Whether connections need no encryption."""

    insecure: bool = rare(
        "--insecure", default=False, help="Allow plain http, plain tcp of Dask, and untrusted certificates."
    )


@dataclass(frozen=True, kw_only=True)
class Connection(Trust, Place):
    """How to log in."""

    user: str | None = setting("--user", metavar="NAME", help="XNAT user; else XNAT_USER or netrc.")
    password_stdin: bool = rare("--password-stdin", default=False, help="Read the password from standard input.")
    ca_bundle: Path | None = rare("--ca-bundle", help="PEM file of the certificate authorities to trust.")


@dataclass(frozen=True, kw_only=True)
class Screen:
    """How the terminal is used."""

    no_color: bool = rare("--no-color", default=False, help="No colours; NO_COLOR does the same.")

    @property
    def as_json(self) -> bool:
        """Whether the result is written as JSON."""
        return False

    @cached_property
    def consoles(self) -> "tuple[Console, Console]":
        """Return the consoles of standard output and standard error."""
        return consoles(no_color=self.no_color)


@dataclass(frozen=True, kw_only=True)
class ResultScreen(Screen):
    """How a result is written."""

    output: Output = setting("--output", "-o", default=Output.TABLE, help="How to write the result to standard output.")

    @property
    def as_json(self) -> bool:
        """Whether the result is written as JSON."""
        return self.output is Output.JSON


@dataclass(frozen=True, kw_only=True)
class ProgressScreen(ResultScreen):
    """How progress and result are written."""

    quiet: bool = setting("--quiet", "-q", default=False, help="No progress; errors and the result only.")


@dataclass(frozen=True, kw_only=True)
class TableOptions:
    """How CSV files are read."""

    encoding: str = rare(
        "--encoding",
        default="",
        help="Encoding of the CSV files, such as cp1252; default: UTF-8, or by their byte order mark.",
    )

    def __post_init__(self) -> None:
        """Refuse what is no encoding. Raises: UsageError."""
        check_encoding(self.encoding)


@dataclass(frozen=True, kw_only=True)
class Routing(ProjectOption, TableOptions):
    """Templates, patterns and tables that give labels."""

    subject: str | None = setting(
        "--subject",
        "-S",
        metavar="TEMPLATE",
        help="Subject label: fields in braces, or a fixed text; default {PatientID}.",
    )
    session: str | None = setting(
        "--session",
        "--experiment",
        "-E",
        metavar="TEMPLATE",
        help="Session label, likewise; default {PatientID}_{StudyDate}.",
    )
    path_pattern: str | None = rare("--path-pattern", help="Fields from directories: '{subject}/{session}/**'.")
    label_map: Path | None = rare("--label-map", help="CSV that gives labels by fields: PatientID,subject.")
    accept_patients: Path | None = rare(
        "--accept-patients",
        metavar="FILE",
        help="CSV of pairs that are one person under one PatientID: patient_id,name_1,name_2.",
    )


@dataclass(frozen=True, kw_only=True)
class Filters:
    """Which studies are chosen."""

    include: Sequence[str] = rare(
        "--include",
        default=(),
        help="Only studies with a path below SOURCE that matches: '*/MR/*'; may be given again.",
    )
    modality: str | None = rare("--modality", help="Only studies with a series of these modalities: MR,PT.")
    study_since: str | None = rare("--study-since", help="Only studies from this date on: 2020-01-31.")
    partial_studies: bool = rare(
        "--partial-studies",
        default=False,
        help="--modality, --study-since and --include choose series, not studies; sessions stay open for the rest.",
    )


@dataclass(frozen=True, kw_only=True)
class LogOptions:
    """Where events are recorded."""

    events: Path | None = rare("--events", help="Append a line of JSON to this file for each event.")
    log_file: Path | None = rare(
        "--log-file", help="Append a log to this file, without names of people unless --verbose is given."
    )
    metrics: Path | None = rare(
        "--metrics", help="Write metrics for Prometheus to this file while the upload runs: asyncimport.prom."
    )
    page: str | None = rare(
        "--page",
        metavar="HOST:PORT",
        help="Show the upload while it runs to browsers on this machine: 127.0.0.1:0 takes a free port.",
    )
    verbose: bool = rare(
        "--verbose", "-v", default=False, help="Write the log to standard error too, with labels and paths."
    )
