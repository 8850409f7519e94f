"""Which files go beside images into which resource, and under which name. Pure."""

import fnmatch
import re
import unicodedata
from collections.abc import Sequence
from dataclasses import dataclass, field

from asyncimport.errors import UsageError
from asyncimport.model.texts import nfc

_LABEL = re.compile(r"[A-Za-z0-9_-]+")
_STRANGE = re.compile(r"[^A-Za-z0-9._-]")
# Of a file or directory on the disks of servers, in bytes, and all characters of a clean name have one.
_LONGEST_NAME = 255


@dataclass(frozen=True, slots=True)
class AttachRule:
    """Files that match `pattern` go into `resource`: `*.pdf=REPORTS`, case aside.

    A pattern without a slash is compared with the file's name, one with it with the path below the source.
    """

    pattern: str
    resource: str
    _compiled: re.Pattern[str] = field(repr=False, compare=False)

    @classmethod
    def parse(cls, text: str) -> "AttachRule":
        """Read a rule. Raises: UsageError."""
        pattern, equals, resource = text.rpartition("=")
        if not equals or not pattern:
            raise UsageError(f"--attach {text} cannot be", hint="give PATTERN=RESOURCE, as in '*.pdf=REPORTS'")
        check_resource(resource, f"--attach {text}")
        return cls(pattern, resource, re.compile(fnmatch.translate(nfc(pattern)), re.IGNORECASE))

    def matches(self, path: str) -> bool:
        """Whether it is about this path, relative to the source and with `/` between its parts."""
        name = path if "/" in self.pattern else path.rpartition("/")[2]
        return self._compiled.match(nfc(name)) is not None


def resource_of(rules: Sequence[AttachRule], path: str) -> str | None:
    """Return the resource of a path by the first rule that is about it; None: it stays where it is."""
    return next((rule.resource for rule in rules if rule.matches(path)), None)


def check_resource(label: str, option: str) -> None:
    """Refuse labels of resources that XNAT reads as something else.

    A number is taken for the key of any resource of the site (FileList, ResourceModifierA). Raises: UsageError.
    """
    if not _LABEL.fullmatch(label):
        raise UsageError(f"{option}: {label!r} is no label of a resource", hint="take letters, digits, '_' and '-'")
    if label.isdecimal():
        raise UsageError(
            f"{option}: XNAT takes {label} for the number of some resource of the site", hint="add a letter to it"
        )


def name_in_resource(path: str) -> str:
    """Return the path under which a file is stored: XNAT decodes some characters of an address and leaves others.

    Letters lose their accents, anything else but letters, digits, dots, `_` and `-` becomes `_`.
    """
    return "/".join(_plain(part) for part in path.split("/") if part not in {"", ".", ".."})


def _plain(part: str) -> str:
    letters = "".join(one for one in unicodedata.normalize("NFKD", part) if not unicodedata.combining(one))
    # Some characters come apart into dots or slashes, or into nothing: each part stays one, and leads nowhere else.
    return _STRANGE.sub("_", letters) if letters.strip(".") else "_" * max(len(letters), 1)


def name_problem(name: str, size: int) -> str | None:
    """Say why XNAT cannot store a file of this name and size in a resource; None: it can."""
    if not name:
        return "nothing of its path is a name"
    if any(len(part) > _LONGEST_NAME for part in name.split("/")):
        return f"a name of more than {_LONGEST_NAME} characters fits no disk: XNAT's names have no accents"
    if not size:
        return "it is empty, and XNAT stores no file without bytes"
    if name.lower().endswith("_catalog.xml"):
        return "XNAT takes a file of this name for a catalog of its own, and does not show it"
    return None
