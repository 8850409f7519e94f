"""Turns errors of the parser of the command line into ours: what is wrong, and what to write instead."""

import os
import re
from collections.abc import Iterator, Mapping, Sequence
from typing import Any

from asyncimport.errors import UsageError
from asyncimport.model.texts import did_you_mean, plain


def unknown_command(word: str, commands: Sequence[str]) -> UsageError:
    """Return the error for a word that is no command."""
    hint = f"{did_you_mean(word, commands)}asyncimport --help lists the commands"
    if "/" in word or "\\" in word or os.path.lexists(word):
        hint = f"to upload it, write asyncimport upload {word}"
    return UsageError(f"there is no command '{word}'", hint=hint)


def usage_error(error: Any, commands: Mapping[str, Any], words: Sequence[str]) -> UsageError:
    """Return our error for an error of the parser; `words` are those of the command line."""
    context = error.ctx
    help_text = f"{context.command_path if context else 'asyncimport'} --help"
    name = getattr(error, "option_name", None)
    if name is not None and context is not None:
        if type(error).__name__ == "NoSuchOption":
            return UsageError(f"there is no option {name}", hint=_unknown_option_hint(name, context, commands, words))
        return _wrong_use(name, context)
    message = getattr(error, "message", "") or error.format_message()
    if extra := re.search(r"unexpected extra argument.*\((.*)\)$", message, re.DOTALL):
        # The first word may be a password that somebody gave without its option.
        what = "an argument that it does not take" if context.info_name == "login" else f"'{plain(extra[1])}'"
        takes = next((one.metavar for one in context.command.params if one.param_type_name == "argument"), None)
        takes = f"{takes} and options" if takes else "options only"
        return UsageError(f"too many arguments: {what}", hint=f"{context.command_path} takes {takes}; see {help_text}")
    return UsageError(plain(message), hint=f"see {help_text}")


def _unknown_option_hint(name: str, context: Any, commands: Mapping[str, Any], words: Sequence[str]) -> str:
    path = context.command_path
    if context.parent is None:
        if near := did_you_mean(name.lstrip("-"), commands):
            return f"{near}{path} --help lists the commands"
        for command in (*(word for word in words if word in commands), "upload"):
            spellings = list(_spellings(commands[command]))
            if name in spellings:
                return f"options go after the command: {path} {command} {name} ..."
            if near := did_you_mean(name, spellings):
                return f"{near}options go after the command: {path} {command} ..."
        return f"{path} --help lists the commands, which have options of their own"
    others = [command for command in commands if name in _spellings(commands[command])]
    if others:
        return f"it is an option of {', '.join(others)}; {path} --help-all lists those of {context.info_name}"
    return f"{did_you_mean(name, _spellings(context.command))}{path} --help-all lists the options"


def _wrong_use(name: str, context: Any) -> UsageError:
    """Return the error for an option that lacks its value, or has one that it does not take."""
    named = (one for one in context.command.params if name in {*one.opts, *one.secondary_opts})
    parameter = next(named, None)  # --help is none of them
    help_text = f"{context.command_path} {'--help' if context.parent is None else '--help-all'}"
    if parameter is None or getattr(parameter, "is_flag", False):
        return UsageError(f"{name} takes no value", hint=f"write {name} alone; see {help_text}")
    value = parameter.metavar or "VALUE"
    return UsageError(f"{name} needs a value", hint=f"write {name} {value}; see {help_text}")


def _spellings(command: Any) -> Iterator[str]:
    for parameter in command.params:
        if parameter.param_type_name == "option":
            yield from (*parameter.opts, *parameter.secondary_opts)
