"""The options that several commands share, under one name and with one meaning each."""

import enum
from pathlib import Path
from typing import Annotated

import typer

from asyncimport.cli.profiles import Chosen, chosen
from asyncimport.cli.spellings import variables_of


class Output(enum.StrEnum):
    """How a result is written to standard output."""

    TABLE = "table"
    JSON = "json"


def _show_all(context: typer.Context, wanted: bool) -> None:
    if wanted:
        for parameter in context.command.params:
            parameter.hidden = False  # type: ignore[attr-defined]
        typer.echo(context.get_help())
        raise typer.Exit


def hidden(*names: str, help: str) -> typer.models.OptionInfo:  # noqa: A002 - as Typer names it
    """Make an option that only --help-all shows."""
    return typer.Option(*names, help=help, envvar=variable(names[0]), hidden=True)  # type: ignore[no-any-return]


def variable(name: str) -> list[str]:
    """Return the environment variables of an option: ASYNCIMPORT_CA_BUNDLE for --ca-bundle."""
    return variables_of(name)


Host = Annotated[
    str | None,
    typer.Option(
        "--host",
        metavar="URL",
        envvar=["ASYNCIMPORT_HOST", "XNAT_HOST", "XNAT_URL"],
        help="XNAT's address, context path included.",
    ),
]
User = Annotated[
    str | None,
    typer.Option("--user", metavar="NAME", envvar="ASYNCIMPORT_USER", help="XNAT user; else XNAT_USER or netrc."),
]
Profile = Annotated[
    Chosen | None,
    typer.Option(
        "--profile",
        "-p",
        metavar="NAME",
        envvar="ASYNCIMPORT_PROFILE",
        parser=str,
        callback=chosen,
        help="Host, user, project and other options from the configuration.",
    ),
]
PasswordStdin = Annotated[
    bool,
    hidden("--password-stdin", help="Read the password from standard input."),
]
Project = Annotated[
    str | None,
    typer.Option("--project", "-P", metavar="ID", envvar="ASYNCIMPORT_PROJECT", help="XNAT project."),
]
OutputOption = Annotated[
    Output,
    typer.Option("--output", "-o", envvar="ASYNCIMPORT_OUTPUT", help="How to write the result to standard output."),
]
Quiet = Annotated[
    bool, typer.Option("--quiet", "-q", envvar=variable("--quiet"), help="No progress; errors and the result only.")
]
NoColor = Annotated[bool, hidden("--no-color", help="No colours; NO_COLOR does the same.")]
StateDir = Annotated[
    Path | None,
    hidden("--state-dir", help="Directory of the journals."),
]
JournalFile = Annotated[
    Path | None,
    hidden("--journal", help="Use this journal file."),
]
CaBundle = Annotated[
    Path | None,
    hidden("--ca-bundle", help="PEM file of the certificate authorities to trust."),
]
Insecure = Annotated[bool, hidden("--insecure", help="Allow plain http and untrusted certificates.")]
HelpAll = Annotated[
    bool, typer.Option("--help-all", is_eager=True, callback=_show_all, help="Show all options and exit.")
]
Sources = Annotated[
    list[Path],
    typer.Argument(metavar="SOURCE...", help="Directories or files; everything below is looked at."),
]
Subject = Annotated[
    str | None,
    typer.Option(
        "--subject",
        "-S",
        metavar="TEMPLATE",
        envvar="ASYNCIMPORT_SUBJECT",
        help="Subject label: fields in braces, or a fixed text; default {PatientID}.",
    ),
]
Experiment = Annotated[
    str | None,
    typer.Option(
        "--session",
        "--experiment",
        "-E",
        metavar="TEMPLATE",
        envvar="ASYNCIMPORT_SESSION",
        help="Session label, likewise; default {PatientID}_{StudyDate}.",
    ),
]
PathPatternOption = Annotated[
    str | None,
    hidden("--path-pattern", help="Fields from directories: '{subject}/{session}/**'."),
]
Map = Annotated[
    Path | None,
    hidden("--label-map", help="CSV that gives labels by fields: PatientID,subject."),
]
Encoding = Annotated[
    str,
    hidden(
        "--encoding", help="Encoding of the CSV files, such as cp1252, where it is neither UTF-8 nor told by a mark."
    ),
]
OnCollision = Annotated[
    str,
    hidden("--on-collision", help="error, or suffix: a label that another study has gets _2, _3 ..."),
]
MergePatients = Annotated[bool, hidden("--allow-mixed-patients", help="Let several patients share a subject label.")]
Truncated = Annotated[str, hidden("--truncated", help="skip or send files whose data set ends before it should.")]
IgnoreArchives = Annotated[
    bool, hidden("--ignore-archives", help="Do not report zip, tar and gz files that hold DICOM.")
]
FollowLinks = Annotated[
    bool,
    hidden("--follow-links", help="Follow links that lead out of SOURCE, to directories and to files; else only told."),
]
Include = Annotated[
    list[str] | None,
    hidden("--include", help="Only studies with a path below SOURCE that matches: '*/MR/*'; may be given again."),
]
Exclude = Annotated[
    list[str] | None,
    hidden("--exclude", help="No paths below SOURCE that match; may be given again."),
]
Modality = Annotated[
    str | None,
    hidden("--modality", help="Only studies with a series of these modalities: MR,PT."),
]
Since = Annotated[
    str | None,
    hidden("--study-since", help="Only studies from this date on: 2020-01-31."),
]
PartialStudies = Annotated[
    bool,
    hidden(
        "--partial-studies",
        help="--modality, --study-since and --include choose series, not studies; sessions stay open for the rest.",
    ),
]
Limit = Annotated[
    int | None,
    hidden("--max-sessions", help="Only the first N sessions, for a pilot."),
]
