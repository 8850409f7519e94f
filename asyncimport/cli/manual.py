"""The manual page, made of the help: `python -m asyncimport.cli.manual > docs/asyncimport.1`."""

import re
import sys
from collections.abc import Iterator
from typing import Any

import typer
from typer.main import get_command

from asyncimport.cli.app import COMMANDS, app
from asyncimport.cli.examples import EXAMPLES

_EXIT_CODES = (
    ("0", "all done"),
    ("1", "an unexpected error, or a journal that cannot be used"),
    ("2", "wrong usage, no DICOM, nothing that a filter selects, or errors in a plan"),
    ("3", "the login was refused"),
    ("4", "the server, the network or a cluster is not available"),
    ("5", "no such project, or not for this user"),
    ("6", "the project may be read, but not edited"),
    ("7", "another run holds the journal"),
    ("8", "finished, but some files were skipped, refused, unreadable or failed"),
    ("9", "finished, but some session is held, or could not be verified"),
    ("130, 143", "stopped by a signal; the same command resumes"),
)

_VARIABLES = (
    ("XNAT_HOST, XNAT_URL", "XNAT's address"),
    ("XNAT_USER, XNAT_PASS", "the login"),
    ("XNAT_TOKEN", "a token in its place: alias:secret"),
    ("ASYNCIMPORT_CONFIG", "the file of profiles"),
    ("HTTPS_PROXY, HTTP_PROXY, ALL_PROXY, NO_PROXY", "proxies"),
    ("SSL_CERT_FILE, REQUESTS_CA_BUNDLE, CURL_CA_BUNDLE", "certificate authorities; the first that is set counts"),
    ("NO_COLOR", "no colours"),
)
_FILES = (
    ("~/.config/asyncimport/config.toml", "profiles"),
    ("~/.local/state/asyncimport", "journals, unless --state-dir says otherwise"),
    ("~/.netrc", "logins, closed to others"),
)


def manual() -> str:
    """Return the manual page, in the language of man(7)."""
    return "\n".join(_page()) + "\n"


def _page() -> Iterator[str]:
    group: Any = get_command(app)
    yield '.TH ASYNCIMPORT 1 "" asyncimport "User Commands"'  # a date would differ from day to day
    yield from (".SH NAME", r"asyncimport \- move large DICOM collections from disk into an XNAT archive")
    yield from (".SH SYNOPSIS", r"\fBasyncimport\fR \fICOMMAND\fR [\fIOPTIONS\fR] ...")
    yield from (".SH DESCRIPTION", _text(group.help))
    yield from _list(COMMANDS.items())
    for name in COMMANDS:
        command = group.commands[name]
        context = typer.Context(command, info_name=f"asyncimport {name}")
        yield f".SH {name.upper()}"
        yield rf"\fBasyncimport {name}\fR {_text(' '.join(command.collect_usage_pieces(context)))}"
        for paragraph in command.help.split("\n\n"):
            yield from (".PP", _text(paragraph))
        records = [(one, one.get_help_record(context)) for one in _visible(command)]
        yield from _list((record[0], record[1]) for _, record in records if record)
        yield from _examples(name)
    yield ".SH EXIT STATUS"
    yield from _list(_EXIT_CODES)
    yield ".SH ENVIRONMENT"
    yield from _list(_VARIABLES)
    yield ".SH FILES"
    yield from _list(_FILES)
    yield ".SH EXAMPLES"
    yield from _examples("")


def _visible(command: Any) -> Iterator[Any]:
    for parameter in command.params:
        parameter.hidden = False
        yield parameter


def _list(items: Any) -> Iterator[str]:
    for name, text in items:
        yield from (".TP", rf"\fB{_text(name)}\fR", _text(text))


def _examples(name: str) -> Iterator[str]:
    yield from ([".PP", "Examples:", ".PP"] if name else [])
    yield from (".nf", ".RS")
    yield from map(_text, EXAMPLES[name])
    yield from (".RE", ".fi")


def _text(text: str) -> str:
    """Return a text as man(7) writes it: in one line, with no character that it would take for a request."""
    line = re.sub(r"\s+", " ", text).strip().replace("\\", r"\e").replace("-", r"\-").replace("'", r"\(aq")
    return rf"\&{line}" if line.startswith(".") else line


if __name__ == "__main__":
    sys.stdout.write(manual())
