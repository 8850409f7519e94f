"""Which files become attachments, in which resource, and under which name. Pure."""

import fnmatch
import re
import unicodedata
from collections.abc import Sequence
from dataclasses import field

from asyncimport.errors import UsageError
from asyncimport.model.record import record
from asyncimport.model.texts import nfc

_LABEL = re.compile(r"[A-Za-z0-9_-]+")
_STRANGE = re.compile(r"[^A-Za-z0-9._-]")
# bytes, on the disks of servers; each character of a clean name has one
_LONGEST_NAME = 255


@record
class AttachRule:
    """Files that match `pattern` in any case go into `resource`: `*.pdf=REPORTS`.

    A pattern without a slash is compared with the name of a file, one with a slash with the path below the source.
    """

    pattern: str
    resource: str
    _compiled: re.Pattern[str] = field(repr=False, compare=False)

    @classmethod
    def parse(cls, text: str) -> "AttachRule":
        """Read a rule. Raises: UsageError."""
        pattern, equals, resource = text.rpartition("=")
        if not equals or not pattern:
            raise UsageError(f"invalid --attach {text!r}", hint="give PATTERN=RESOURCE, such as '*.pdf=REPORTS'")
        check_resource(resource, f"--attach {text}")
        return cls(pattern, resource, re.compile(fnmatch.translate(nfc(pattern)), re.IGNORECASE))

    def matches(self, path: str) -> bool:
        """Whether it matches this path below the source, with `/` between its parts."""
        name = path if "/" in self.pattern else path.rpartition("/")[2]
        return self._compiled.match(nfc(name)) is not None


def resource_of(rules: Sequence[AttachRule], path: str) -> str | None:
    """Return the resource of a path by the first rule that matches it; None: it is not an attachment."""
    return next((rule.resource for rule in rules if rule.matches(path)), None)


def check_resource(label: str, option: str) -> None:
    """Check a label of a resource. XNAT takes a number for the key of a resource (FileList, ResourceModifierA).

    Raises: UsageError.
    """
    if not _LABEL.fullmatch(label):
        raise UsageError(f"{option}: {label!r} is not a label of a resource", hint="use letters, digits, '_' and '-'")
    if label.isdecimal():
        raise UsageError(
            f"{option}: XNAT takes {label} for the number of some resource of the site", hint="add a letter to it"
        )


def name_in_resource(path: str) -> str:
    """Return the path under which a file is stored: accents are removed, and unsafe characters become `_`.

    XNAT decodes some characters of an address and not others. Letters, digits, dots, `_` and `-` are safe.
    """
    return "/".join(_plain(part) for part in path.split("/") if part not in {"", ".", ".."})


def _plain(part: str) -> str:
    letters = "".join(one for one in unicodedata.normalize("NFKD", part) if not unicodedata.combining(one))
    # Some characters decompose into dots, slashes or nothing: a part must stay one part.
    return _STRANGE.sub("_", letters) if letters.strip(".") else "_" * max(len(letters), 1)


def name_problem(name: str, size: int) -> str | None:
    """Return why XNAT cannot store a file of this name and size in a resource; None if it can."""
    if not name:
        return "its path has no usable name"
    if any(len(part) > _LONGEST_NAME for part in name.split("/")):
        return f"its name has more than {_LONGEST_NAME} characters"
    if not size:
        return "it is empty, and XNAT stores no empty files"
    if name.lower().endswith("_catalog.xml"):
        return "XNAT takes a file of this name for its own catalog, and does not show it"
    return None
