"""`asyncimport init`: ask for what a first migration needs, check each answer, keep it, and make a first plan."""

import shlex
from collections.abc import Callable
from dataclasses import replace
from functools import partial
from itertools import count
from pathlib import Path
from typing import TYPE_CHECKING, Annotated, TypeVar

import typer
from rich.text import Text

from asyncimport.cli.doctor import show_findings
from asyncimport.cli.login import NewLogin, check_same_server, keep_login, read_password, with_login
from asyncimport.cli.options import Connection, ProgressScreen
from asyncimport.cli.output import show_error
from asyncimport.cli.parameters import command
from asyncimport.cli.plan import show_plan
from asyncimport.cli.profiles import profiles_path, prompt
from asyncimport.cli.running import run_operation
from asyncimport.cli.uploading import Display
from asyncimport.credentials.hosts import check_host, with_scheme
from asyncimport.credentials.profiles import Profiles, read_profiles
from asyncimport.errors import LoginRefusedError, UsageError
from asyncimport.model.record import record
from asyncimport.model.texts import plain

if TYPE_CHECKING:
    from asyncimport.operations.result import Result

R = TypeVar("R", bound="Result")

# XNAT locks an account after twenty refusals.
_LOGINS = 3
_SHOWN = 20
_Directory = Annotated[
    Path | None, typer.Argument(metavar="[SOURCE]", help="A directory with DICOM files, for the first plan.")
]


@record
class _Dialogue:
    """Asks a person, and writes what was found. Without a terminal, what is known is the answer."""

    screen: ProgressScreen
    ask: Callable[..., str] | None

    def answer(self, text: str, option: str, known: str | None = None) -> str:
        """Return the answer; Enter takes what is known. Raises: UsageError without a terminal, if nothing is."""
        if self.ask is not None:
            return self.ask(text, known).strip()
        if known is None:
            raise UsageError(f"{option} is missing", hint="there is no terminal to ask at")
        return known

    def write(self, text: str, style: str = "") -> None:
        """Write a line."""
        self.screen.consoles[0].print(Text(plain(text), style=style))

    def begin(self, title: str) -> None:
        """Write the title of a step."""
        self.screen.consoles[0].print()
        self.write(title, "bold")

    def show_or_raise(self, error: Exception) -> None:
        """Show an error, after which the question is asked again; raise it if nobody can answer."""
        if self.ask is None or not isinstance(error, UsageError | LoginRefusedError):
            raise error
        show_error(self.screen.consoles[1], error)


@command(omit={"output"})
def init(source: _Directory = None, *, connection: Connection, screen: ProgressScreen) -> None:
    """Set up a first migration: ask for server, login and project, check them, and keep them in a profile.

    Then scan a directory and write a first plan. XNAT is only asked: nothing is sent or changed there.
    """
    talk = _Dialogue(screen, None if connection.password_stdin else _ask())
    if talk.ask is not None:
        talk.write("Enter takes what is in brackets. Nothing is sent to XNAT. Ctrl-C ends this.", "dim")
    profiles = read_profiles(profiles_path())
    talk.begin("1. The server")
    host = _choose_server(talk, connection)
    talk.begin("2. The login")
    user, password, projects = _log_in(talk, host, connection)
    talk.begin("3. The project")
    code, project = _choose_project(talk, host, (user, password), connection, projects)
    talk.begin("4. The profile")
    name = _choose_profile(talk, profiles, host, connection)
    connection = replace(connection, project=project)
    keep_login(profiles, NewLogin(profile=name, host=host, user=user, secret=password, connection=connection), screen)
    talk.begin("5. A first plan")
    directory, plan = _make_plan(talk, source, project)
    _say_what_is_next(talk, directory, plan, name)
    raise typer.Exit(code)


def _ask() -> Callable[..., str] | None:
    if prompt() is None:
        return None

    def ask(text: str, known: str | None) -> str:
        hidden = text.startswith("password")
        return str(typer.prompt(text, default=known, show_default=bool(known), hide_input=hidden, err=True))

    return ask


def _choose_server(talk: _Dialogue, connection: Connection) -> str:
    from asyncimport.operations.doctor import DoctorRequest, doctor
    from asyncimport.operations.server_checks import Status

    while True:
        answer = talk.answer("XNAT address", "--host", connection.host)
        try:
            host = check_host(with_scheme(answer), insecure=connection.insecure)
        except UsageError as error:
            talk.show_or_raise(error)
            continue
        request = DoctorRequest(host=host, ca_bundle=connection.ca_bundle, insecure=connection.insecure)
        result = _unless_stopped(run_operation(partial(doctor, request)))
        found = {one.code: one.found for one in result.findings if one.status is Status.OK}
        if not result.exit_code:
            talk.write("; ".join(found[code] for code in ("address", "version") if code in found))
            return host
        show_findings(talk.screen.consoles[0], [one for one in result.findings if one.status is Status.ERROR])
        if talk.ask is None:
            raise typer.Exit(result.exit_code)


def _log_in(talk: _Dialogue, host: str, connection: Connection) -> tuple[str, str, frozenset[str] | None]:
    """Return user, password, and the projects that this user may fill, None if XNAT does not show them."""
    from asyncimport.xnat.inspection import fillable_projects

    for number in count(1):
        user = talk.answer("XNAT user name", "--user", connection.user)
        password = read_password() if talk.ask is None else talk.answer(f"password of {user}", "--password-stdin")
        try:
            projects = with_login(host, user, password, connection, fillable_projects)
        except LoginRefusedError as error:
            if number == _LOGINS:
                raise
            talk.show_or_raise(error)
        else:
            talk.write(f"XNAT accepts the login of {user}")
            return user, password, projects
    raise AssertionError


def _choose_project(
    talk: _Dialogue, host: str, login: tuple[str, str], connection: Connection, projects: frozenset[str] | None
) -> tuple[int, str]:
    """Return the exit code of the checks, and the project."""
    from asyncimport.operations.doctor import DoctorRequest, doctor
    from asyncimport.operations.server_checks import Status
    from asyncimport.xnat.login import Credentials

    known, refused = connection.project, ""
    if projects is not None:
        names = ", ".join(sorted(projects)[:_SHOWN]) or "none"
        more = f" and {len(projects) - _SHOWN:,} more" if len(projects) > _SHOWN else ""
        talk.write(f"projects in which this user may make sessions: {names}{more}")
        known = known or (next(iter(projects)) if len(projects) == 1 else None)
    while True:
        project = talk.answer("XNAT project", "--project", known)
        request = DoctorRequest(
            host=host,
            credentials=Credentials(*login),
            projects=[project],
            ca_bundle=connection.ca_bundle,
            insecure=connection.insecure,
        )
        result = _unless_stopped(run_operation(partial(doctor, request)))
        ok = [one for one in result.findings if one.status is Status.OK]
        show_findings(
            talk.screen.consoles[0], [one for one in result.findings if one.status in {Status.WARNING, Status.ERROR}]
        )
        talk.write(f"{len(ok)} of {len(result.findings)} checks are ok; `asyncimport doctor` shows them all")
        is_closed = any(one.about and one.status is Status.ERROR for one in result.findings)
        if talk.ask is None or not is_closed or project == refused:
            return result.exit_code, project
        talk.write("name another project, or this one again to go on with it")
        known, refused = None, project


def _choose_profile(talk: _Dialogue, profiles: Profiles, host: str, connection: Connection) -> str:
    profile = connection.profile
    if profile and profile.is_explicit:
        return profile.name
    name = profile.name if profile else "default"
    while True:
        try:
            check_same_server(profiles, name, host)
        except UsageError as error:
            talk.show_or_raise(error)
            name = talk.answer("name of the new profile", "--profile")
        else:
            return name


def _make_plan(talk: _Dialogue, source: Path | None, project: str) -> tuple[Path | None, Path | None]:
    """Scan a directory, and return it and the file with its plan; None if nobody names one."""
    from asyncimport.operations.planning import PlanRequest, PlanResult, plan
    from asyncimport.operations.rules import rules_from

    target = next(path for number in count(1) if not (path := Path(f"plan{f'-{number}' * (number > 1)}.csv")).exists())
    display = Display(talk.screen, lambda _: None)
    while True:
        answer = talk.answer("directory with DICOM files (Enter: not now)", "SOURCE", str(source or ""))
        if not answer:
            return None, None
        directory = Path(answer).expanduser()
        request = PlanRequest(sources=[directory], routes=rules_from(project), out_file=target)
        result = _unless_stopped(run_operation(partial(plan, request, report=display), empty=PlanResult()))
        if result.plan is not None:
            show_plan(talk.screen.consoles[0], result.plan)
            talk.write(f"written: {target}")
            return directory, target
        if result.error is not None:
            talk.show_or_raise(result.error)


def _say_what_is_next(talk: _Dialogue, directory: Path | None, plan: Path | None, profile: str) -> None:
    chosen = "" if read_profiles(profiles_path()).default == profile else f" --profile {shlex.quote(profile)}"
    source = shlex.quote(str(directory or "/data/dicom"))
    upload = f"asyncimport upload {source} --plan {plan or 'plan.csv'}{chosen}"
    steps = {
        "What would go where? Read the plan, and change what you like:": f"asyncimport plan {source} --out plan.csv",
        "What does the server say of the plan?": f"{upload} --dry-run",
        "A pilot of three sessions:": f"{upload} --receipts receipts.jsonl --max-sessions 3",
        "The rest; the same command goes on after a stop:": f"{upload} --receipts receipts.jsonl",
    }
    talk.begin("Next")
    for text, words in list(steps.items())[plan is not None :]:
        talk.write(text)
        talk.write(f"  {words}")


def _unless_stopped(result: R) -> R:
    """Return a result. Exit if a signal has stopped the operation."""
    if result.signal is not None:
        raise typer.Exit(result.exit_code)
    return result
