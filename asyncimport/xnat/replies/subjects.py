"""Replies about subjects. Reasons name fields, never values, which are patients' data."""

import json
import re
from collections.abc import Collection, Mapping
from dataclasses import field
from typing import Any

from asyncimport.errors import RefusedError, TransientError
from asyncimport.model.record import record
from asyncimport.xnat.replies.response import Reply, check, parse_rows

# The type of XNAT's demographics; a site may have one of its own, for animals say.
_DEMOGRAPHICS = "xnat:demographicData"
# How XNAT's messages about a value end (XFTValidator); the value itself comes before.
_RULES = re.compile(r"must (?:match pre-defined values|be (?:a valid \w+|(?:less|more) than \S+))", re.IGNORECASE)
# What XNAT says of a label that another subject has, from before or since.
_TAKEN = ("subject already exists", "duplicate subject label")


@record
class ListedSubject:
    """A subject of a project: its accession ID, and its label there."""

    accession: str
    label: str


@record
class SubjectItem:
    """A subject as XNAT shows it. `project` owns it, and `label` is its label there. The repr shows no values."""

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
    """Return project and label by accession ID (SubjectListResource, ExperimentListResource); empty if not shown."""
    check(reply)
    if reply.status != 200:
        return {}
    return {row["ID"]: (row.get("project", ""), row.get("label", "")) for row in parse_rows(reply) if row.get("ID")}


def parse_subject(reply: Reply) -> SubjectItem | None:
    """Return a subject, if any (SubjectResource, ItemJSONBuilder). Raises: RefusedError for other demographics."""
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
        types = {one.get("meta", {}).get("xsi:type", _DEMOGRAPHICS) for one in found}
        fields = {name: value for one in (item, *found) for name, value in one["data_fields"].items()}
        values = {name: _text(value) for name, value in fields.items() if value is not None and value != ""}
    except (ValueError, RecursionError, KeyError, TypeError, AttributeError):
        raise TransientError(f"XNAT's answer is not a subject ({reply.status})") from None
    if types - {_DEMOGRAPHICS}:
        raise RefusedError("the subject's demographics are of a type that is not XNAT's own")
    if not values.get("ID"):
        raise TransientError("XNAT's answer names no subject")
    return SubjectItem(values["ID"], values.get("label", ""), values, values.get("project", ""))


def _current(listed: dict[str, Any]) -> list[dict[str, Any]]:
    """Return the current item, if any; its history may be listed too."""
    return [item for item in listed["items"] if not item.get("meta", {}).get("isHistory")][:1]


def _text(value: object) -> str:
    return str(value).lower() if isinstance(value, bool) else str(value)


def parse_saved_subject(reply: Reply, sent: Collection[str] = (), *, is_new: bool = False) -> str:
    """Return the accession ID in the reply to a PUT on a subject (SubjectResource).

    For an `is_new` one, which a POST on the list creates (ProjectSubjectList), the reply is an address. A refusal names
    those of the `sent` fields that XNAT complains of. Raises: RefusedError; `whole_session` means the whole project.
    """
    if reply.status == 403:
        what = next((word for word in ("create", "edit") if f"insufficient {word} " in reply.message), "change")
        raise RefusedError(
            f"XNAT does not let this user {what} subjects in this project, or this one is locked (403)",
            whole_session=True,
        )
    if reply.status == 400:
        raise RefusedError(_value_error(reply.message, sent))
    if reply.status == 409 and any(words in reply.message.lower() for words in _TAKEN):
        # Somebody else may be creating it: then it is there the next time.
        raise TransientError("XNAT has another subject of this label (409)", is_file_verdict=True)
    if reply.status == 500:
        # All that XNAT says of a missing reason (PersistentWorkflowUtils), or of a label that it cannot save.
        raise TransientError(
            "XNAT could not save the subject (500); a site that requires a reason needs --event-reason",
            is_file_verdict=True,
        )
    accession = reply.text.strip()
    if reply.status in {200, 201} and not accession:
        raise RefusedError(f"XNAT answered, but saved nothing (empty {reply.status})")
    check(reply)
    if reply.status not in {200, 201}:
        reasons = {404: "there is no such project or subject", 409: "the label or the project is not free"}
        reason = reasons.get(reply.status, "it does not say why")
        raise RefusedError(f"XNAT did not save the subject ({reply.status}: {reason})")
    if is_new:
        accession = accession.split("?")[0].rpartition("/")[2]
    if not re.fullmatch(r"[\w.-]+", accession):
        raise TransientError(f"XNAT's answer is not an accession ID ({reply.status})")
    return accession


def _value_error(message: str, sent: Collection[str]) -> str:
    names = [name for name in sent if re.search(rf"\b{re.escape(name)}\b", message)]
    rules = list(dict.fromkeys(found[0].lower() for found in _RULES.finditer(message)))
    reason = ", ".join(rules) or "it does not say why"
    return f"XNAT refused a value (400: {', '.join(names) or 'of some field'}: {reason})"
