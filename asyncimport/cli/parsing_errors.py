"""Turns errors of the parser of the command line into ours: what is wrong, and what to write instead."""

import re
from collections.abc import Iterator, Mapping, Sequence
from difflib import get_close_matches
from typing import Any

from asyncimport.errors import UsageError
from asyncimport.model.texts import plain


def unknown_command(word: str, commands: Sequence[str]) -> UsageError:
    """Return the error for a word that is no command."""
    hint = "asyncimport --help lists the commands"
    if "/" in word or "\\" in word or word in {".", ".."}:
        hint = f"to upload it, write asyncimport upload {word}"
    elif near := get_close_matches(word.lower(), commands, n=1):
        hint = f"did you mean {near[0]}? {hint}"
    return UsageError(f"there is no command '{word}'", hint=hint)


def usage_error(error: Any, commands: Mapping[str, Any]) -> UsageError:
    """Return our error for an error of the parser."""
    context = error.ctx
    help_text = f"{context.command_path if context else 'asyncimport'} --help"
    name = getattr(error, "option_name", None)
    if name is not None and context is not None:
        if type(error).__name__ == "NoSuchOption":
            return UsageError(f"there is no option {name}", hint=_unknown_option_hint(name, context, commands))
        return _wrong_use(name, context)
    message = getattr(error, "message", "") or error.format_message()
    if extra := re.search(r"unexpected extra argument.*\((.*)\)$", message, re.DOTALL):
        # The first word may be a password that somebody gave without its option.
        what = "an argument that it does not take" if context.info_name == "login" else f"'{plain(extra[1])}'"
        takes = next((one.metavar for one in context.command.params if one.param_type_name == "argument"), None)
        takes = f"{takes} and options" if takes else "options only"
        return UsageError(f"too many arguments: {what}", hint=f"{context.command_path} takes {takes}; see {help_text}")
    return UsageError(plain(message), hint=f"see {help_text}")


def _unknown_option_hint(name: str, context: Any, commands: Mapping[str, Any]) -> str:
    own = set(_spellings(context.command))
    if context.parent is None:
        for command in ("upload", *commands):
            if name in _spellings(commands[command]):
                return f"options go after the command: asyncimport {command} {name} ..."
        near = get_close_matches(name, list(_spellings(commands["upload"])), n=1)
        did_you_mean = f"did you mean {near[0]}? " if near else ""
        return f"{did_you_mean}options go after the command: asyncimport upload {near[0] if near else '--help'}"
    path = context.command_path
    others = [command for command in commands if name in _spellings(commands[command])]
    if others:
        return f"{name} is an option of {' and '.join(others)}; {path} --help-all lists those of {context.info_name}"
    near = get_close_matches(name, own, n=1)
    did_you_mean = f"did you mean {near[0]}? " if near else ""
    return f"{did_you_mean}{path} --help-all lists the options"


def _wrong_use(name: str, context: Any) -> UsageError:
    """Return the error for an option that lacks its value, or has one that it does not take."""
    parameter = next(one for one in context.command.params if name in {*one.opts, *one.secondary_opts})
    help_text = f"{context.command_path} --help-all"
    if getattr(parameter, "is_flag", False):
        other = f" or {parameter.secondary_opts[0]}" if parameter.secondary_opts else ""
        return UsageError(f"{name} takes no value", hint=f"write {parameter.opts[0]}{other} alone; see {help_text}")
    value = parameter.metavar or "VALUE"
    return UsageError(f"{name} needs a value", hint=f"write {name} {value}; see {help_text}")


def _spellings(command: Any) -> Iterator[str]:
    for parameter in command.params:
        if parameter.param_type_name == "option":
            yield from (*parameter.opts, *parameter.secondary_opts)
