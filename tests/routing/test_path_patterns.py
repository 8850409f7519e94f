"""Path patterns: what they match, and the depth of the session."""

import unicodedata

import pytest
from hypothesis import example, given
from hypothesis import strategies as st

from asyncimport.errors import UsageError
from asyncimport.routing.labels import UnroutableError
from asyncimport.routing.paths import PathPattern


def found(pattern: str, path: str, separator: str = "/") -> dict[str, str] | None:
    """Return the fields of a path, or None if it does not match."""
    parsed = PathPattern.parse(pattern, separator=separator)
    try:
        return dict(zip(parsed.fields, parsed.match(path), strict=True))
    except UnroutableError:
        return None


@pytest.mark.parametrize(
    ("pattern", "path", "expected"),
    [
        ("{project}/{subject}/{session}/**", "p/s/e/f", {"project": "p", "subject": "s", "session": "e"}),
        ("{project}/{subject}/{session}/**", "p/s/e/1/DICOM/f", {"project": "p", "subject": "s", "session": "e"}),
        ("{project}/{subject}/{session}/**", "p/s/f", None),
        ("{subject}/{session}/", "s/e/1/f", {"subject": "s", "session": "e"}),
        ("{subject}/*", "s/f", {"subject": "s"}),
        ("{subject}/*", "s/1/f", None),
        ("{subject}/*/{session}/*", "s/x/e/f", {"subject": "s", "session": "e"}),
        ("{subject}", "f", {"subject": "f"}),
        # Parts of names.
        ("sub-{subject}/ses-{session}/**", "sub-01/ses-02/f", {"subject": "01", "session": "02"}),
        ("sub-{subject}/**", "01/f", None),
        ("sub-{subject}/**", "sub-/f", None),
        ("{subject}_{session}/**", "a_b_c/f", {"subject": "a", "session": "b_c"}),
        ("{subject}_*/**", "a_b_c/f", {"subject": "a"}),
        ("{subject}_*/**", "a_/f", {"subject": "a"}),
        ("scan*-{n}.dcm", "scan-7.dcm", {"n": "7"}),
        ("scan*-{n}.dcm", "scan12-7.dcm", {"n": "7"}),
        ("scan*-{n}.dcm", "scan12-7xdcm", None),
        # Any depth.
        ("**/{session}/DICOM/*", "e/DICOM/f", {"session": "e"}),
        ("**/{session}/DICOM/*", "a/b/e/DICOM/f", {"session": "e"}),
        ("{subject}/**/{session}.d/**", "s/e.d/f", {"subject": "s", "session": "e"}),
        ("{subject}/**/{session}.d/**", "s/x/e.d/y.d/f", {"subject": "s", "session": "e"}),
        ("**/{a}/**", "x/y/f", {"a": "x"}),
        # The same twice.
        ("{s}/{s}_{e}/**", "01/01_b/f", {"s": "01", "e": "b"}),
        ("{s}/{s}_{e}/**", "01/02_b/f", None),
        # Nothing else is special.
        ("{{{a}}}/b.c?[x]/*", "{1}/b.c?[x]/f", {"a": "1"}),
        ("{a}/b.c/*", "1/bxc/f", None),
        # Odd bytes and line breaks.
        ("{a}/\udcff/**", "\udce4\n/\udcff/\n", {"a": "\udce4\n"}),
    ],
)
def test_matches(pattern: str, path: str, expected: dict[str, str] | None) -> None:
    """Examples of each form of a pattern; the whole path must match."""
    assert found(pattern, path) == expected


@pytest.mark.parametrize(
    ("pattern", "needs_name"),
    [
        ("{subject}/**", False),
        ("{subject}/", False),
        ("{subject}/*", False),
        ("{subject}/*.dcm", True),
        ("{subject}", True),
        ("flat/{subject}_{n}", True),
        ("{subject}/IM*", True),
    ],
)
def test_needs_name(pattern: str, needs_name: bool) -> None:
    """Names decide unless the last part of a pattern matches any name."""
    assert PathPattern.parse(pattern).needs_name is needs_name


def test_the_reason_does_not_show_the_path() -> None:
    """The message does not show the path."""
    with pytest.raises(UnroutableError, match=r"^its path does not match --path-pattern$"):
        PathPattern.parse("{subject}/x/**").match("Doe/y/f")


def test_separators() -> None:
    """A backslash in a path separates names only on Windows; in a pattern it always does."""
    assert found(r"{subject}\{session}\**", "s/e/f") == {"subject": "s", "session": "e"}
    assert found("{subject}/{session}/**", r"s\e\f", separator="\\") == {"subject": "s", "session": "e"}
    assert found("{subject}/**", "\udc95\\/f") == {"subject": "\udc95\\"}


@pytest.mark.parametrize(
    ("pattern", "words"),
    [
        ("", "'' is not the name of a directory"),
        ("/data/{subject}/**", "'' is not the name of a directory"),
        ("{subject}//**", "'' is not the name of a directory"),
        ("./{subject}/**", "'.' is not the name of a directory"),
        ("{subject}/../**", "'..' is not the name of a directory"),
        ("**", "no field in it"),
        ("a/b", "no field in it"),
        ("{subject}/**/**", "'**' twice in a row"),
        ("{subject}/**x", "'**' is not alone in '**x'"),
        ("{subject}/***", "'**' is not alone in '***'"),
        ("{}/**", "{} is not a name"),
        ("{a-b}/**", "{a-b} is not a name"),
        ("{ä}/**", "{ä} is not a name"),
        ("{1}/**", "{1} is not a name"),
        ("{a", "an unpaired brace in '{a'"),
        ("{a/b}", "an unpaired brace in '{a'"),
        ("a}/{b}", "an unpaired brace in 'a}'"),
        ("{a}{b}/**", "nothing between two fields in '{a}{b}'"),
        ("{a}*/**", "nothing between two fields in '{a}*'"),
        ("*{a}/**", "nothing between two fields in '*{a}'"),
    ],
)
def test_mistakes(pattern: str, words: str) -> None:
    """An invalid or ambiguous pattern is a usage error."""
    with pytest.raises(UsageError) as caught:
        PathPattern.parse(pattern)
    assert str(caught.value) == f"--path-pattern {pattern!r}: {words}"
    assert caught.value.hint


@pytest.mark.parametrize(
    ("pattern", "expected"),
    [
        ("{session}/**", 1),
        ("{project}/{subject}/{session}/**", 3),
        ("{session}/{subject}/**", 1),
        ("sub-{subject}/ses-{session}/{session}_{n}.dcm", 2),
        ("data/{session}/*", 2),
        ("{subject}/{session}", None),
        ("{subject}/{session}.dcm", None),
        ("{subject}/**", None),
        ("**/{session}/*", None),
        ("*/{session}/*", None),
        ("{session}_*/**", None),
        ("{site}/{session}/**", None),
    ],
)
def test_session_depth(pattern: str, expected: int | None) -> None:
    """The depth is known if directories decide, and no two give the same session."""
    assert PathPattern.parse(pattern).depth({"session"}, {"project", "subject", "session"}) == expected


COMPONENT = st.text(st.characters(exclude_characters="/"), min_size=1)


@given(COMPONENT, COMPONENT, st.lists(COMPONENT, min_size=1))
@example("\udcff", "\uf900", ["0"])
def test_any_name_of_a_directory(subject: str, session: str, below: list[str]) -> None:
    """Names of directories are returned in NFC and otherwise unchanged, with surrogates for invalid bytes."""
    path = "/".join([subject, session, *below])
    fields = {"subject": subject, "session": session}
    assert found("{subject}/{session}/**", path) == {
        name: unicodedata.normalize("NFC", text) for name, text in fields.items()
    }


@given(st.text(st.sampled_from("{}*/\\ab._")))
def test_any_text_is_a_pattern_or_a_mistake(text: str) -> None:
    """Any text is a pattern or a usage error."""
    try:
        pattern = PathPattern.parse(text, separator="/")
    except UsageError:
        return
    assert pattern.fields
    found(text, "a/b/c")
