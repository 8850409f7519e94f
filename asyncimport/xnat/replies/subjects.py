"""Answers about subjects: listed, shown, described. Reasons name fields, never values: those are patients' data."""

import json
import re
from collections.abc import Collection, Mapping
from dataclasses import dataclass, field
from typing import Any

from asyncimport.errors import RefusedError, TransientError
from asyncimport.xnat.replies.response import Reply, check, parse_rows

# What XNAT's demographics are of, unless the site has a type of its own for animals, say.
_DEMOGRAPHICS = "xnat:demographicData"
# The ends of what XNAT says of a value (XFTValidator); before them stands the value.
_RULES = re.compile(r"must (?:match pre-defined values|be (?:a valid \w+|(?:less|more) than \S+))", re.IGNORECASE)

# What XNAT says of a label that another subject has: one that was there before, one that came in meanwhile.
_TAKEN = ("subject already exists", "duplicate subject label")


@dataclass(frozen=True, slots=True)
class ListedSubject:
    """A subject of a project: its accession ID, and its label there."""

    accession: str
    label: str


@dataclass(frozen=True, slots=True)
class SubjectItem:
    """A subject as XNAT shows it: accession ID, label, and the values of its fields as text. Its repr tells none.

    `project` is the one that it belongs to, and `label` its label there: those that share it may call it otherwise.
    """

    accession: str
    label: str
    values: Mapping[str, str] = field(default_factory=dict, repr=False, hash=False)
    project: str = ""


def parse_subjects(reply: Reply) -> list[ListedSubject]:
    """Return the subjects of a project (SubjectListResource). Raises: TransientError, RefusedError."""
    if reply.status == 500:
        raise TransientError("XNAT could not list the subjects (500)")
    check(reply)
    if reply.status != 200:
        raise RefusedError(f"XNAT does not list the subjects ({reply.status})", whole_session=True)
    return [ListedSubject(row.get("ID", ""), row.get("label", "")) for row in parse_rows(reply) if row.get("ID")]


def parse_owners(reply: Reply) -> dict[str, tuple[str, str]]:
    """Return project and label by accession ID of a listing of the site (SubjectListResource, ExperimentListResource).

    What is not shown is nobody's for all that this user can tell. Raises: TransientError.
    """
    check(reply)
    if reply.status != 200:
        return {}
    return {row["ID"]: (row.get("project", ""), row.get("label", "")) for row in parse_rows(reply) if row.get("ID")}


def parse_subject(reply: Reply) -> SubjectItem | None:
    """Return a subject (SubjectResource, ItemJSONBuilder); None when there is none, or none for this user.

    Raises: TransientError, RefusedError when its demographics are of another kind.
    """
    if reply.status == 500:
        raise TransientError("XNAT could not show the subject (500)")
    check(reply)
    if reply.status in {403, 404}:
        return None
    if reply.status != 200:
        raise RefusedError(f"XNAT does not show the subject ({reply.status})")
    try:
        (item,) = _current(json.loads(reply.text))
        children = [child for child in item.get("children", ()) if child["field"] == "demographics"]
        found = [one for child in children for one in _current(child)]
        kinds = {one.get("meta", {}).get("xsi:type", _DEMOGRAPHICS) for one in found}
        fields = {name: value for one in (item, *found) for name, value in one["data_fields"].items()}
        values = {name: _text(value) for name, value in fields.items() if value is not None and value != ""}
    except (ValueError, RecursionError, KeyError, TypeError, AttributeError):
        raise TransientError(f"XNAT's answer is not a subject ({reply.status})") from None
    if kinds - {_DEMOGRAPHICS}:
        raise RefusedError("the subject's demographics are of a type that is not XNAT's own")
    if not values.get("ID"):
        raise TransientError("XNAT's answer names no subject")
    return SubjectItem(values["ID"], values.get("label", ""), values, values.get("project", ""))


def _current(listed: dict[str, Any]) -> list[dict[str, Any]]:
    """Return the one item itself, if any, which may stand among its history."""
    return [item for item in listed["items"] if not item.get("meta", {}).get("isHistory")][:1]


def _text(value: object) -> str:
    return str(value).lower() if isinstance(value, bool) else str(value)


def parse_saved_subject(reply: Reply, sent: Collection[str] = (), *, is_new: bool = False) -> str:
    """Judge the answer to a PUT on a subject (SubjectResource), and return its accession ID.

    Of one that `is_new`, made by a POST on the list of subjects (ProjectSubjectList), the answer is the address. `sent`
    are the names of the fields in it, of which a refusal names those that XNAT complains of.
    Raises: TransientError, RefusedError; `whole_session` is all of the project.
    """
    if reply.status == 403:
        what = next((word for word in ("create", "edit") if f"insufficient {word} " in reply.message), "change")
        raise RefusedError(
            f"XNAT does not let this user {what} subjects in this project, or this one is locked (403)",
            whole_session=True,
        )
    if reply.status == 400:
        raise RefusedError(_invalid(reply.message, sent))
    if reply.status == 409 and any(words in reply.message.lower() for words in _TAKEN):
        # Somebody else makes it at the same time, it may be: then it is there at the next look.
        raise TransientError("XNAT has another subject of this label (409)", is_file_verdict=True)
    if reply.status == 500:
        # XNAT says no more to a missing reason (PersistentWorkflowUtils), or to a label that it cannot save.
        raise TransientError(
            "XNAT could not save the subject (500); sites that ask for reasons say so without --event-reason",
            is_file_verdict=True,
        )
    accession = reply.text.strip()
    if reply.status in {200, 201} and not accession:
        raise RefusedError(f"XNAT answered, but saved nothing (empty {reply.status})")
    check(reply)
    if reply.status not in {200, 201}:
        why = {404: "there is no such project or subject", 409: "the label or the project is not free"}
        said = why.get(reply.status, "it does not say why")
        raise RefusedError(f"XNAT did not save the subject ({reply.status}: {said})")
    if is_new:
        accession = accession.split("?")[0].rpartition("/")[2]
    if not re.fullmatch(r"[\w.-]+", accession):
        raise TransientError(f"XNAT's answer is not an accession ID ({reply.status})")
    return accession


def _invalid(message: str, sent: Collection[str]) -> str:
    names = [name for name in sent if re.search(rf"\b{re.escape(name)}\b", message)]
    rules = list(dict.fromkeys(found[0].lower() for found in _RULES.finditer(message)))
    said = ", ".join(rules) or "it does not say why"
    return f"XNAT refused a value (400: {', '.join(names) or 'of some field'}: {said})"
