"""Profiles give the options of a command their defaults, so that --help shows them."""

import os
import sys
from collections.abc import Callable, Mapping
from pathlib import Path
from typing import TYPE_CHECKING, Any

import platformdirs
import typer
from typer.core import TyperCommand

from asyncimport.cli.examples import write_examples
from asyncimport.cli.options import ChosenProfile, Connection
from asyncimport.cli.output import consoles, failure_json, show_error, write_json
from asyncimport.cli.parameters import FORMER, replace_former
from asyncimport.cli.values import without_pydantic
from asyncimport.credentials.hosts import check_host, check_no_secret, same_server
from asyncimport.credentials.keyring_store import stored_login
from asyncimport.credentials.lookup import find_login
from asyncimport.credentials.profiles import Profile, read_profiles
from asyncimport.errors import AsyncimportError, InvalidOptionError, UsageError
from asyncimport.model.option import invalid
from asyncimport.model.texts import did_you_mean

if TYPE_CHECKING:
    from asyncimport.operations.server import Server

# Typer hides its parser. Only a base of BadParameter shows the class of all errors of the command line.
_ParsingError: type[Exception] = typer.BadParameter.__bases__[0]
_OF_SERVER = ("host", "user", "project", "ca_bundle", "insecure")


def profiles_path() -> Path:
    """Return the file of profiles."""
    named = os.environ.get("ASYNCIMPORT_CONFIG")
    return Path(named) if named else platformdirs.user_config_path("asyncimport", appauthor=False) / "config.toml"


def prompt() -> Callable[[str], str] | None:
    """Return a function that asks the person at the terminal; None without a terminal."""
    if not sys.stdin.isatty():
        return None
    return lambda text: str(typer.prompt(text, prompt_suffix="", hide_input="password" in text, err=True))


class ProfiledCommand(TyperCommand):
    """A command whose options come from a profile too, if it has --profile.

    A profile that is asked for goes before the environment, the default profile after it.
    """

    def get_params(self, ctx: Any) -> list[Any]:
        """Return the parameters, with values converted without pydantic."""
        return without_pydantic(super().get_params(ctx))

    def format_epilog(self, ctx: Any, formatter: Any) -> None:  # noqa: ARG002 - Typer's signature
        """Write the examples, whose lines are not wrapped."""
        write_examples(formatter, (self.epilog or "").splitlines())

    def shell_complete(self, ctx: Any, incomplete: str) -> Any:
        """Return the completions of a word: also options that only `--help-all` shows."""
        for parameter in self.params:
            parameter.hidden = False  # type: ignore[attr-defined]
        return super().shell_complete(ctx, incomplete)

    def parse_args(self, ctx: Any, args: list[str]) -> list[str]:
        """Parse the words, and take other values from the profile.

        Raises: UsageError when values contradict each other, or one holds a secret.
        """
        try:
            return self._parse(ctx, replace_former(args))
        except _ParsingError as error:
            error.ctx = error.ctx or ctx  # type: ignore[attr-defined]  # Typer hides its class
            raise

    def _parse(self, ctx: Any, args: list[str]) -> list[str]:
        if not ctx.resilient_parsing and any(parameter.name == "profile" for parameter in self.params):
            given, _, _ = self.make_parser(ctx).parse_args(args=list(args))
            try:
                ctx.obj = self._apply(ctx, given)
            except UsageError:
                # A fault in the file does not hide the help.
                if not {"help", "help_all"} & set(given):
                    raise
        try:
            rest = super().parse_args(ctx, args)
        except InvalidOptionError as error:
            raise self._with_origin(ctx, error) from None
        # Doctor reports a wrong address as a finding.
        if (host := ctx.params.get("host")) and self.name != "doctor":
            check_no_secret(host)
        if ctx.params.get("insecure") and ctx.params.get("ca_bundle"):
            raise UsageError(
                "--insecure trusts any certificate, and --ca-bundle those of one authority",
                hint="leave one of them out; the profile may have it",
            )
        return rest

    def invoke(self, ctx: Any) -> Any:
        """Run the command. An error of ours becomes a message, its JSON if that is asked for, and its exit code."""
        try:
            return super().invoke(ctx)
        except AsyncimportError as error:
            if isinstance(error, InvalidOptionError):
                error = self._with_origin(ctx, error)
            options = ctx.params
            if options.get("output") == "json":
                write_json(failure_json(self.name, error, error.exit_code, options.get("host")))
            show_error(consoles(no_color=options.get("no_color", False))[1], error)
            raise typer.Exit(error.exit_code) from None

    def _with_origin(self, ctx: Any, error: InvalidOptionError) -> UsageError:
        """Let the hint of an error say where the value comes from."""
        parameter: Any = next((one for one in self.params if error.option in one.opts), None)
        source = "COMMANDLINE" if parameter is None else ctx.get_parameter_source(parameter.name).name
        if source == "COMMANDLINE":
            error.hint = f"{ctx.command_path} --help-all describes {error.option}"
        elif source == "ENVIRONMENT":
            name = next(name for name in parameter.envvar if os.environ.get(name))
            error.hint = f"correct the environment variable {name}"
        elif ctx.obj is not None:
            error.hint = f"correct profile {ctx.obj.name} in {profiles_path()}"
        return error

    def _apply(self, ctx: Any, given: Mapping[str, Any]) -> ChosenProfile | None:
        """Make the values of the profile the defaults of the options.

        Raises: UsageError.
        """
        path = profiles_path()
        if self.name != "login" and os.environ.get("ASYNCIMPORT_CONFIG") and not path.exists():
            raise UsageError(
                f"there is no file {path}, which ASYNCIMPORT_CONFIG names",
                hint="correct the environment variable, or make the file with `asyncimport login`",
            )
        if given.get("profile") == "":
            raise invalid("--profile", "", "the name of a profile")
        profiles = read_profiles(path)
        defaults = {name: _defaults(ctx, profiles.path, name, profile) for name, profile in profiles.named.items()}
        explicit = bool(given.get("profile"))
        name = given.get("profile") or os.environ.get("ASYNCIMPORT_PROFILE") or profiles.default
        if not name:
            return None
        if self.name == "init" or (self.name == "login" and name not in profiles.named):
            return ChosenProfile(name, explicit)  # they write it; what it says of another server does not count
        profile = profiles.get(name)
        options: dict[str, Any] = {str(parameter.name): parameter for parameter in self.params}
        host = given.get("host") or (None if explicit and profile.host else options["host"].value_from_envvar(ctx))
        own = {} if host and profile.host and not same_server(host, profile.host) else _values_of_server(profile)
        # XNAT_USER goes before a default profile; `find_login` decides that.
        user = None if explicit else own.pop("user", None)
        for key, value in (defaults[name] | own).items():
            if key in options:
                options[key].default = value
                if explicit:
                    options[key].envvar = None
        return ChosenProfile(name, explicit, user)


def _values_of_server(profile: Profile) -> dict[str, Any]:
    """Return the values of a profile that are for its own server only."""
    return {key: value for key in _OF_SERVER if (value := getattr(profile, key)) is not None}


def _defaults(ctx: Any, path: Path, name: str, profile: Profile) -> dict[str, Any]:
    """Return the defaults of a profile by parameter. Each must be an option of `upload`. Raises: UsageError."""
    options = {
        spelling.removeprefix("--").replace("-", "_"): parameter
        for parameter in ctx.parent.command.commands["upload"].get_params(ctx)
        for spelling in parameter.opts
        if spelling.startswith("--") and not parameter.is_eager and spelling != "--profile"
    }
    keys = {old: now[2:].replace("-", "_") for old, now in FORMER.items()}
    options |= {old[2:].replace("-", "_"): options[now] for old, now in keys.items() if now in options}
    defaults = {}
    for key, value in profile.defaults.items():
        where = f"{path}: profiles.{name}.defaults.{key}"
        if key in _OF_SERVER:
            raise UsageError(f"{where} is not a default", hint=f"write {key} before the table of defaults")
        if key not in options:
            near = did_you_mean(key, options)
            raise UsageError(f"{where} is unknown", hint=f"{near}asyncimport upload --help-all shows the options")
        try:
            options[key].process_value(ctx, value)
        except UsageError as error:
            raise UsageError(f"{where}: {error}", hint="correct the file") from None
        defaults[options[key].name] = value
    return defaults


def login_from(connection: Connection) -> tuple[str, str, str]:
    """Return host, user and password from options, profile, environment, keyring, netrc or a person.

    Raises: UsageError.
    """
    host = check_host(connection.host or "", insecure=connection.insecure)
    profile = connection.profile
    password = sys.stdin.readline().rstrip("\r\n") if connection.password_stdin else None
    name, password = find_login(
        host,
        connection.user,
        environ=os.environ,
        password=password,
        default_user=profile.user if profile else None,
        keyring=stored_login,
        keyring_first=profile is not None and profile.is_explicit,
        prompt=None if connection.password_stdin else prompt(),
    )
    return host, name, password


def server_from(connection: Connection) -> "Server":
    """Return the server and the login. Raises: UsageError."""
    from asyncimport.operations.server import Server
    from asyncimport.xnat.login import Credentials

    host, name, password = login_from(connection)
    return Server(host, Credentials(name, password), connection.ca_bundle, not connection.insecure)
