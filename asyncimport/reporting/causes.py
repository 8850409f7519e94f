"""Problems by their cause: how many there are, one example, and what to do; the worst come first."""

import re
from collections import defaultdict
from collections.abc import Iterable, Sequence
from dataclasses import replace

from asyncimport.model.record import record
from asyncimport.model.summary import SessionReport, Summary, is_unverified
from asyncimport.model.texts import counted
from asyncimport.routing.patients import other_study_of
from asyncimport.routing.problems import PlanProblem, Severity

# A server can give each file a reason of its own. What is beyond this number is counted by its kind.
_MAX_CAUSES = 30
_ELLIPSIS = "..."
# What differs between two problems of one cause: UIDs, paths, quoted values, labels, numbers. A status of HTTP in
# brackets is the cause itself.
_DETAIL = re.compile(
    r"""(?P<status>\(\d{3}(?=[:)]))
    | (?<!\w)'[^']*'(?!\w) | "[^"]*"
    | (?<![\w/])/[^\s,;:)]+
    | (?<=\b(?:study|label)\ )[\w.-]*[A-Z\d_][\w.-]*
    | (?<=\b(?:subject|session|project)\ )[\w.-]*[A-Z\d_][\w.-]*
    | (?<![\w-])[\w-]*\d[\w-]*(?:[.,:]\d[\w-]*)*""",
    re.VERBOSE,
)
_DENIED = re.compile("permission denied|not permitted", re.IGNORECASE)
# The counts say how many studies there are.
_STUDY = re.compile(rf"^study {re.escape(_ELLIPSIS)}(?:, subject {re.escape(_ELLIPSIS)})?: ")

_RUN_AGAIN = "run the same command again"
_RETRY_HELD = "correct that, then run the same command with --retry held"
_TEMPLATES = "choose other templates, or write its labels into a plan"
_COMPARE = "compare the patients; if they are one person, use --allow-mixed-patients"
_ACCEPT = "compare the people; if they are one, accept this pair in a table with --accept-patients"
_LIFT = "once that is corrected, run the same command with --retry refused"
# What to do about a kind of problem whose reason has this text; the first that fits counts.
_ADVICE: Sequence[tuple[str, str, str]] = (
    ("skipped", "one PatientID with two", _ACCEPT),
    ("skipped", "two PatientIDs|another PatientID|two (issuers|names|birth)", _COMPARE),
    ("skipped", "session label .* belongs", "give it another label: another template, --on-collision suffix or a plan"),
    ("skipped", "same SOPInstanceUID|this instance", "find out which file is right, and remove or exclude the other"),
    ("skipped", "by this file's header|differ in", "use only fields that are the same in all files of a study"),
    ("skipped", "changed on disk", "--resend-changed --overwrite append sends the new bytes"),
    ("skipped", "not in --label-map", "add a line for it to that table"),
    ("skipped", "in the header|label|pattern|--path-pattern|not a date", _TEMPLATES),
    ("skipped", "project", "ask the project's owner, then run the same command again"),
    ("skipped", "", "correct the headers or the rules, then run the same command again"),
    ("excluded", "being written|appeared after", "nothing to do: a later run sends it"),
    ("excluded", "--max-sessions", "run the command without --max-sessions to send the rest"),
    ("excluded", "the plan", "change the plan to send it"),
    ("excluded", "", "change the filters to send it"),
    ("unreadable", _DENIED.pattern, "check permissions: this user must be able to read it"),
    ("unreadable", "truncated", "get an intact copy, or send it as it is with --truncated send"),
    (
        "unreadable",
        "input/output|stale|timed out",
        f"check the disk or the file server, then {_RUN_AGAIN}",
    ),
    ("unreadable", "no such file|not looked into|compared", f"make sure that it can be read, then {_RUN_AGAIN}"),
    ("unreadable", "", "get an intact copy: this one is not sent"),
    ("container", "", "unpack it, or use --ignore-archives"),
    ("link", "", "leave it out with --exclude, or use --follow-links"),
    ("inner link", "", "nothing to do: its target is scanned"),
    ("refused", "413", f"have the proxy's limit on uploads raised; {_LIFT}"),
    ("refused", "rejects it", "nothing to do, if the site should drop it"),
    ("refused", "", _LIFT),
    ("failed", "cannot be read|gone|changed|truncated", f"restore the file, then {_RUN_AGAIN}"),
    ("failed", "", f"{_RUN_AGAIN}; if it fails again, ask who runs the server"),
    ("attachment skipped", "", f"correct its name or place, then {_RUN_AGAIN}"),
    ("attachment refused", "", _LIFT),
    ("attachment renamed", "", "nothing to do"),
    ("attachment failed", "", _RUN_AGAIN),
    ("subject differs", "", "compare the values"),
    ("subject from headers", "", "nothing to do"),
    ("subject ", "", f"correct the table or the subject in XNAT, then {_RUN_AGAIN}"),
    # The reason says it all.
    ("held", "in XNAT's prearchive, then", ""),
    ("held", "of its files", "deal with these files, or --partial archive archives it without them"),
    ("held", "no part of it is sent", "correct these files or the rules, then run the same command again"),
    ("held", "", _RETRY_HELD),
    ("open", "--partial archive", "send these files too"),
    ("open", "", _RUN_AGAIN),
    ("not verified", "", f"{_RUN_AGAIN}, or asyncimport verify"),
)
_INFO = frozenset(
    {"excluded", "inner link", "attachment renamed", "subject from headers", "subject differs", "repeated"}
)
_WARNINGS = frozenset({"container", "link", "open", "not verified", "notice"})


@record
class TwoPeople:
    """Two studies whose people share a PatientID: what is reported of them, and a file of each ("" if unknown)."""

    text: str
    example: str
    other_example: str


@record
class Cause:
    """A cause of problems: what it hit (numbers with their nouns), one example, and what to do.

    `people` are the pairs of people with one PatientID, as each is a decision of its own.
    """

    severity: Severity
    kind: str
    reason: str
    advice: str
    counts: tuple[tuple[int, str], ...]
    example: str
    people: tuple[TwoPeople, ...] = ()

    @property
    def hit(self) -> str:
        """Return what it hit: `2 studies, 12 files`."""
        return ", ".join(counted(number, noun) for number, noun in self.counts if number)


def advice_for(kind: str, reason: str) -> str:
    """Return what to do about a problem of a summary, or a session that is held or open; "" if nothing is known."""
    for start, text, advice in _ADVICE:
        if kind.replace("_", " ").startswith(start) and re.search(text, reason, re.IGNORECASE):
            # Some reasons end with what to do.
            return "" if advice and advice in reason else advice
    return ""


def summary_causes(summary: Summary) -> list[Cause]:
    """Return why files and sessions of a run did not arrive."""
    found = []
    for one in summary.problems:
        noun = "subject" if one.kind.startswith("subject") else "file"
        cause = cause_of(one.kind, one.reason, (one.files, noun), one.example, "")
        if other_study_of(one.reason):
            text = one.reason.partition(";")[0]
            cause = replace(cause, people=(TwoPeople(text, one.example, one.other_example),))
        found.append(cause)
    for report in summary.sessions:
        if kind := _kind_of(report):
            session = report.session
            example = f"{session.project} / {session.subject} / {session.label}"
            reason = report.reason or ("could not be verified" if kind == "not verified" else "")
            found.append(cause_of(kind, reason, (1, "session"), example, ""))
    return [replace(one, advice=advice_for(one.kind, one.reason)) for one in group_by_cause(found)]


def plan_causes(problems: Iterable[PlanProblem]) -> list[Cause]:
    """Return what is wrong in a plan; a problem with a study counts it too."""
    found = []
    for one in problems:
        study = f"study {one.study_uid}: " if one.study_uid else ""
        counts = (1 if one.study_uid else 0, "study"), (one.files, "file")
        text = f"{study}{one.text}"
        people = (TwoPeople(text, one.example, one.other_example),) if one.other_study else ()
        found.append(Cause(one.severity, one.code, text, one.advice, counts, one.example, people))
    return group_by_cause(found)


def _kind_of(report: SessionReport) -> str:
    if report.state in {"held", "open"}:
        return report.state
    return "not verified" if is_unverified(report) else ""


def cause_of(kind: str, reason: str, count: tuple[int, str], example: str, advice: str | None = None) -> Cause:
    """Return the cause of a problem by its kind; without an advice, it is the one for that kind and reason."""
    kind = kind.replace("_", " ")
    severity = Severity.INFO if kind in _INFO else Severity.WARNING if kind in _WARNINGS else Severity.ERROR
    return Cause(severity, kind, reason, advice_for(kind, reason) if advice is None else advice, (count,), example)


def group_by_cause(problems: Iterable[Cause]) -> list[Cause]:
    """Add up problems that differ in details only; these become an ellipsis. The worst come first."""
    groups: dict[object, list[Cause]] = defaultdict(list)
    for one in problems:
        groups[one.severity, one.kind, _DETAIL.sub(_without_detail, one.reason)].append(one)
    found = sorted(map(_sum, groups.values()), key=_rank)
    if len(found) <= _MAX_CAUSES:
        return found
    kinds: dict[object, list[Cause]] = defaultdict(list)
    for one in found[_MAX_CAUSES:]:
        kinds[one.severity, one.kind].append(one)
    others = [_others(each) for each in kinds.values()]
    return sorted([*found[:_MAX_CAUSES], *others], key=lambda one: list(Severity).index(one.severity))


def _others(causes: Sequence[Cause]) -> Cause:
    if len(causes) == 1:
        return causes[0]
    return replace(_sum(causes), reason=f"{len(causes):,} other reasons, of which one is: {causes[0].reason}")


def _sum(causes: Sequence[Cause]) -> Cause:
    first = causes[0]
    numbers: dict[str, int] = defaultdict(int)
    for one in causes:
        for number, noun in one.counts:
            numbers[noun] += number
    counts = tuple((number, noun) for noun, number in numbers.items())
    is_one_text = all(one.reason == first.reason for one in causes)
    reason = first.reason
    if not is_one_text:
        reason = _STUDY.sub("", _DETAIL.sub(_without_detail, reason))
    people = tuple(pair for one in causes for pair in one.people)
    return replace(first, reason=reason, counts=counts, people=people)


def _without_detail(found: re.Match[str]) -> str:
    return found["status"] or _ELLIPSIS


def _rank(cause: Cause) -> tuple[int, bool, int]:
    """Sort by severity; what this user may not read comes first, as that is easy to mend and may hide much."""
    most = max((number for number, _ in cause.counts), default=0)
    return list(Severity).index(cause.severity), _DENIED.search(cause.reason) is None, -most
