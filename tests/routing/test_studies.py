"""Labels that depend on whole studies: their modality, and their number among the studies of a subject."""

from datetime import date, time
from itertools import permutations
from random import Random

import pytest
from hypothesis import given
from hypothesis import strategies as st

from asyncimport.errors import UsageError
from asyncimport.model.files import Session
from asyncimport.routing.existing_sessions import ExistingSession, ExistingSessions
from asyncimport.routing.label_map import LookupTable
from asyncimport.routing.labels import UnroutableError
from asyncimport.routing.paths import PathPattern
from asyncimport.routing.router import Router
from asyncimport.routing.studies import Study, modality_of

KEYWORDS = frozenset({"PatientID", "StudyDate", "StudyTime", "StudyDescription"})


def router(session: str, subject: str = "{PatientID}") -> Router:
    """Make a router that knows a few fields."""
    return Router("P", subject, session, keywords=KEYWORDS, whole_studies=True)


def study(uid: str, day: str = "20000101", at: str = "", patient: str = "A", *modalities: str) -> Study:
    """Return a piece of a study."""
    return Study(uid, {"PatientID": patient, "StudyDate": day, "StudyTime": at}, frozenset(modalities))


def labels(rules: Router, *studies: Study) -> dict[str, str]:
    """Return label or reason of each study."""
    decided = rules.resolve(studies)
    return {uid: made.label if isinstance(made, Session) else f"! {made}" for uid, made in decided.items()}


@pytest.mark.parametrize(
    ("modalities", "expected"),
    [
        ("PT CT", "PT"),
        ("PT MR", "PT"),
        ("MR CT", "MR"),
        ("CT XA", "CT"),
        ("MR SC OT", "MR"),
        ("MR SR PR KO", "MR"),
        ("RTSTRUCT CT RTPLAN", "CT"),
        ("SR KO", "KO"),
        ("SR", "SR"),
        ("OT SR", "OT"),
        ("XX YY SR OT", "XX"),
        ("XX ES", "ES"),
        ("", ""),
    ],
)
def test_modality(modalities: str, expected: str) -> None:
    """One modality names a session, in XNAT's order; other objects count only without images."""
    for order in permutations(modalities.split()):
        assert modality_of([*order, ""]) == expected


def test_modality_in_a_label() -> None:
    """All files of a study count, in any pieces."""
    rules = router("{PatientID}_{Modality}")
    pieces = [study("1", "20000101", "", "A", modality) for modality in ("SR", "CT", "PT")]
    for order in permutations(pieces):
        assert labels(rules, *order) == {"1": "A_PT"}
    assert labels(rules, study("1")) == {"1": "! no Modality in the header"}
    assert labels(router("{Modality|'none'}"), study("1")) == {"1": "none"}


def test_index() -> None:
    """Studies of a subject are numbered by date and time, then by UID."""
    studies = [
        study("1", "20010101"),
        study("2", "1999.12.31", "23:59:59"),
        study("3", "20000101", "1000"),
        study("4", "20000101", "09:30:00.5"),
        study("6", "20000101", "093000.5"),
        study("5", "20000101", "0930"),
        study("7", "20000101", "", "B"),
    ]
    expected = {"2": "A-01", "5": "A-02", "4": "A-03", "6": "A-04", "3": "A-05", "1": "A-06", "7": "B-01"}
    assert labels(router("{PatientID}-{StudyIndex:02}"), *studies) == expected
    assert labels(router("{PatientID}-{StudyIndex:02}"), *reversed(studies)) == expected


def test_index_counts_by_label() -> None:
    """Two patients of one subject are counted together; the subject may depend on the modality."""
    rules = router("{StudyIndex}", subject="{Modality}")
    one, two = study("1", "20000101", "", "A", "MR"), study("2", "20000102", "", "B", "MR")
    assert labels(rules, one, two, study("3", "20000102", "", "B", "CT")) == {"1": "1", "2": "2", "3": "1"}


def test_index_counts_studies_without_a_label() -> None:
    """A study without a label keeps its number, so the others keep theirs."""
    decided = labels(router("{StudyDescription}_{StudyIndex}"), study("1"), study("2", "20000102"))
    assert decided == dict.fromkeys("12", "! no StudyDescription in the header")
    later = Study("2", {"PatientID": "A", "StudyDate": "20000102", "StudyDescription": "x"})
    assert labels(router("{StudyDescription}_{StudyIndex}"), study("1"), later)["2"] == "x_2"


@pytest.mark.parametrize(
    ("day", "reason"),
    [("", "no StudyDate in the header"), ("yesterday", "StudyDate is not a date"), ("2000", "StudyDate is not a date")],
)
def test_index_needs_a_date(day: str, reason: str) -> None:
    """A study without a date gets no number; the others do."""
    assert labels(router("{StudyIndex}"), study("1", day), study("2")) == {"1": f"! {reason}", "2": "1"}


@pytest.mark.parametrize(("project", "subject"), [("{StudyIndex}", "S"), ("P", "{StudyIndex|PatientID}")])
def test_index_only_in_sessions(project: str, subject: str) -> None:
    """{StudyIndex} is refused in other templates."""
    option = "project" if "Study" in project else "subject"
    with pytest.raises(UsageError, match=f"^--{option}: {{StudyIndex}} counts the studies of a subject$"):
        Router(project, subject, keywords=KEYWORDS, whole_studies=True)


def test_files_that_differ() -> None:
    """A study whose files differ in a deciding field has no session; other fields may differ or be missing."""
    other = Study("1", {"PatientID": "B", "StudyTime": "12"})
    assert labels(router("{StudyDate}_{Modality|'x'}"), study("1"), other) == {"1": "! its files differ in PatientID"}
    assert labels(router("{StudyDate}_{Modality|'x'}", "S"), study("1"), other) == {"1": "20000101_x"}
    by_table = Router("P", "S", "{a}", keywords=KEYWORDS, table=LookupTable.parse("PatientID,a\nA,1\n", KEYWORDS))
    assert labels(by_table, study("1"), other) == {"1": "! its files differ in PatientID"}


def test_two_steps() -> None:
    """Pieces of a study are collected; then header, path and table decide together."""
    paths = PathPattern.parse("{site}/{session}/**", separator="/")
    table = LookupTable.parse("site,PatientID,subject\nx,A,S1\n", KEYWORDS | {"site"})
    template = "{subject}_{session}_{Modality}_{StudyIndex}"
    rules = Router("P", None, template, keywords=KEYWORDS, paths=paths, table=table, whole_studies=True)
    assert rules.needs_whole_study
    fields = {"PatientID": "A", "StudyDate": "20000101", "Modality": "MR", "StudyDescription": "not asked for"}
    known = rules.study("1", fields, "x/e/f")
    assert known == Study(
        "1", {"PatientID": "A", "StudyDate": "20000101", "site": "x", "session": "e"}, frozenset({"MR"})
    )
    assert known.merge(rules.study("1", {}, "x/e/g")).modalities == {"MR"}
    assert rules.resolve([known, rules.study("1", {}, "x/e/g")]) == {"1": Session("P", "S1", "S1_e_MR_1", "1")}
    assert labels(rules, rules.study("1", fields, "x/e/f"), rules.study("1", fields, "x/f/f")) == {
        "1": "! its files differ in session"
    }
    assert labels(rules, rules.study("1", fields, "y/e/f")) == {"1": "! its site and PatientID are not in --label-map"}
    with pytest.raises(UnroutableError, match=r"^its path does not match --path-pattern$"):
        rules.study("1", fields, "f")
    with pytest.raises(TypeError):
        rules.route("1", fields, "x/e/f")


def test_resolve_works_for_all_templates() -> None:
    """`resolve` also works for labels that a file decides."""
    rules = router("{PatientID}_{StudyDate}")
    assert not rules.needs_whole_study
    fields = {"PatientID": "A", "StudyDate": "20000101"}
    assert rules.resolve([rules.study("1", fields)]) == {"1": rules.route("1", fields)}
    assert labels(rules, Study("1", {"PatientID": "A"})) == {"1": "! no StudyDate in the header"}


DATES = st.dates(min_value=date(1895, 11, 8))
STUDIES = st.builds(
    Study,
    st.just("1"),
    st.dictionaries(st.sampled_from("abc"), st.sampled_from(["", "x", "y", "z"])),
    st.frozensets(st.sampled_from("MC")),
)


@given(st.lists(STUDIES, min_size=1, max_size=5), st.randoms(use_true_random=False))
def test_pieces_may_come_in_any_order(pieces: list[Study], random: Random) -> None:
    """The order of files does not matter."""

    def together(studies: list[Study]) -> tuple[dict[str, str], frozenset[str], frozenset[str]]:
        whole = studies[0]
        for other in studies[1:]:
            whole = whole.merge(other)
        return {name: value for name, value in whole.fields.items() if value}, whole.modalities, whole.disputed

    expected = together(pieces)
    random.shuffle(pieces)
    assert together(pieces) == expected


@given(st.lists(st.tuples(st.sampled_from("AB"), DATES, st.times()), max_size=8))
def test_indices_have_no_gaps(found: list[tuple[str, date, time]]) -> None:
    """The studies of a subject are numbered from 1 without gaps."""
    studies = [study(str(n), f"{day:%Y%m%d}", f"{at:%H%M%S}", who) for n, (who, day, at) in enumerate(found)]
    decided = labels(router("{PatientID}_{StudyIndex}"), *studies)
    for who in "AB":
        count = sum(patient == who for patient, _, _ in found)
        assert {label for label in decided.values() if label[0] == who} == {f"{who}_{n + 1}" for n in range(count)}


def there(label: str, uid: str = "", day: str = "", subject: str = "A") -> ExistingSession:
    """Return a session of the journal or the archive."""
    return ExistingSession(Session("P", subject, label, uid), day)


V = "{PatientID}_v{StudyIndex}"
UNKNOWN_STUDY = "its subject has sessions of unknown studies, because a script gives them new UIDs"
GIVEN: dict[str, tuple[str, list[ExistingSession], list[Study], dict[str, str]]] = {
    "the rest is elsewhere": (V, [there("A_v1", "1"), there("A_v2", "2")], [study("3", "20030101")], {"3": "A_v3"}),
    "of another case": (V, [there("a_V1", "1", subject="a")], [study("3", "20030101")], {"3": "A_v2"}),
    "another subject": (V, [there("B_v1", "1", subject="B")], [study("3", "20030101")], {"3": "A_v1"}),
    "it is there itself": (V, [there("A_v4", "4")], [study("4", "20040101")], {"4": "A_v4"}),
    "under another name": (
        V,
        [there("baseline", "4")],
        [study("4"), study("5", "20050101")],
        {"4": "baseline", "5": "A_v1"},
    ),
    "earlier ones come later": (
        V,
        [there("A_v3", "3")],
        [study("1", "20010101"), study("2", "20020101"), study("3", "20030101")],
        {"1": "A_v1", "2": "A_v2", "3": "A_v3"},
    ),
    "an earlier one is late": (
        V,
        [there("A_v1", "1", "20010101"), there("A_v2", "3", "20030101")],
        [study("2", "20020101"), study("4", "20040101")],
        {"2": "A_v3", "4": "A_v4"},
    ),
    "one was taken out": (V, [there("A_v2", "2", "20020101")], [study("3", "20030101")], {"3": "A_v3"}),
    "padded": ("{PatientID}-{StudyIndex:03}", [there("A-009", "9")], [study("3")], {"3": "A-010"}),
    "no separator": ("{PatientID}{StudyIndex}", [there("A1", "1")], [study("3")], {"3": "A2"}),
    "of its date": (
        "{StudyDate}_v{StudyIndex}",
        [there("20010101_v1", "1"), there("20020101_v7", "7")],
        [study("8", "20080101")],
        {"8": "20080101_v8"},
    ),
    "a label of somebody else": (V, [there("A_v1", "9", subject="B")], [study("1")], {"1": "A_v2"}),
    "a mapped study": (
        V,
        [there("A_v1"), there("A_v2", "2")],
        [study("1"), study("2")],
        {"1": UNKNOWN_STUDY, "2": "A_v2"},
    ),
    "a mapped one by hand": (V, [there("baseline")], [study("1")], {"1": "A_v1"}),
    "no index": (
        "{PatientID}_{Modality}",
        [there("A_SR", "1")],
        [study("1", "20000101", "", "A", "MR")],
        {"1": "A_SR"},
    ),
    "no whole study": ("{PatientID}", [there("X", "1")], [study("1")], {"1": "A"}),
}


@pytest.mark.parametrize(("session", "given_sessions", "studies", "expected"), GIVEN.values(), ids=GIVEN)
def test_a_session_keeps_its_label(
    session: str, given_sessions: list[ExistingSession], studies: list[Study], expected: dict[str, str]
) -> None:
    """A study keeps its session, and new studies get the next numbers by their dates."""
    for order in (studies, studies[::-1]):
        decided = router(session).resolve(order, ExistingSessions.of(given_sessions))
        assert {
            uid: made.label if isinstance(made, Session) else str(made) for uid, made in decided.items()
        } == expected


def test_late_studies_are_reported() -> None:
    """Only a study with a higher number than a later one is reported."""
    given_sessions = ExistingSessions.of([there("A_v1", "1", "20010101"), there("A_v2", "3", "20030101")])
    told: list[tuple[str, str]] = []
    studies = [study("2", "20020101"), study("4", "20040101"), study("3", "20030101")]
    router(V).resolve(studies, given_sessions, lambda *words: told.append(words))
    assert told == [("2", "it is earlier than session A_v2, which keeps its label: it gets A_v3")]


@given(
    st.permutations(range(8)),
    st.lists(st.integers(1, 8), min_size=1, max_size=5),
    st.integers(0, 3),
)
def test_labels_never_move(days: list[int], sizes: list[int], forgotten: int) -> None:
    """In any sequence of runs, no study changes its label, and no two share one."""
    labels_of: dict[str, str] = {}
    left = [study(f"{day}", f"200{day}0101") for day in days]
    seen: list[Study] = []
    for size in sizes:
        seen, left = seen + left[:size], left[size:]
        archived = [
            there(label, uid, f"200{uid}0101" if int(uid) > forgotten else "") for uid, label in labels_of.items()
        ]
        for uid, made in router(V).resolve(seen[-size - 1 :], ExistingSessions.of(archived)).items():
            assert isinstance(made, Session)
            assert labels_of.setdefault(uid, made.label) == made.label
        assert len(set(labels_of.values())) == len(labels_of)
    if len(sizes) == 1 and sizes[0] == 8:
        assert labels_of == {f"{day}": f"A_v{day + 1}" for day in range(8)}
