"""Matching ends soon for any pattern and text, and means what `re` means."""

import re
from pathlib import Path
from time import process_time

import pytest
from builders import image, write
from conftest import Commands
from hypothesis import example, given
from hypothesis import strategies as st
from patience import COMMAND, in_time

from asyncimport.dicom import STUDY_FIELDS
from asyncimport.routing.attachments import AttachRule
from asyncimport.routing.filters import glob_pattern
from asyncimport.routing.labels import UnroutableError
from asyncimport.routing.paths import PathPattern
from asyncimport.routing.patterns import LONGEST_VALUE, BoundedPattern, SlowMatchError
from asyncimport.routing.router import Router
from asyncimport.testserver import SeriesFilter, TestXnat

MOST_SECONDS = 10.0

# Each takes `re` for ever on one of the texts.
EXPLODING = [
    r"^(a+)+$",
    r"^(a|a)*$",
    r"^(a|aa)+$",
    r"(a*)*b",
    r"^(\w+\s?)*$",
    r"(x+x+)+y",
    r"([a-z]+)*\d",
    r"^(([a-z])+.)+[A-Z]([a-z])+$",
    r"(?=(a+)+b)a",
    r"(a+)+\1b",
    r"(.*)(.*)(.*)(.*)(.*)(.*)(.*)b",
]
TEXTS = ["a" * 64 + "!", "a" * 1_024 + "!", "x" * 64, "ab" * 500 + "!", "a" * LONGEST_VALUE, "a " * 5_000 + "!"]


def route(router: Router, patient: str, path: str = "") -> str | None:
    """Return the subject of a file, or None."""
    try:
        return router.route("1.2.3", {"PatientID": patient, "StudyDate": "20200102"}, path).subject
    except UnroutableError:
        return None


@pytest.mark.parametrize("pattern", EXPLODING)
def test_no_value_delays_a_pattern(pattern: str) -> None:
    """A file whose value takes too long is not routed; other files are."""
    router = Router("demo", subject="S{PatientID:/" + pattern + "/}", keywords=frozenset(STUDY_FIELDS))
    began = process_time()
    for text in TEXTS:
        route(router, text)
    assert process_time() - began < MOST_SECONDS


def test_a_slow_value_is_not_tried_again() -> None:
    """A value that was too slow once is not tried again."""
    router = Router("demo", subject="{PatientID:/^(?:a|a)*$/}", keywords=frozenset(STUDY_FIELDS))
    began = process_time()
    for _ in range(1_000):
        assert route(router, "a" * 64 + "!") is None
    assert process_time() - began < MOST_SECONDS
    assert route(router, "aaa") == "aaa"
    with pytest.raises(UnroutableError, match="PatientID takes too long to match the pattern of --subject"):
        router.route("1.2.3", {"PatientID": "a" * 64 + "!", "StudyDate": "20200102"})


def test_a_value_that_is_too_long_for_dicom_is_not_matched() -> None:
    """Shorter values are matched, and without a pattern any length counts."""
    fields = {"PatientID": "W-1", "StudyDate": "20200102"}
    for template, length, subject in (
        ("{PatientComments:/^S-([0-9]+)/}", LONGEST_VALUE, "12"),
        ("{PatientComments:/^S-([0-9]+)/}", LONGEST_VALUE + 1, None),
        ("{PatientComments:.4}", LONGEST_VALUE + 1, "S-12"),
    ):
        router = Router("demo", subject=template, keywords=frozenset(STUDY_FIELDS))
        comments = "S-12 ".ljust(length, "x")
        if subject is None:
            with pytest.raises(UnroutableError):
                router.route("1.2.3", {**fields, "PatientComments": comments})
        else:
            assert router.route("1.2.3", {**fields, "PatientComments": comments}).subject == subject


# Of all kinds that people write, with what only Python's patterns can do.
PATTERNS = [
    r"^S-(\d+)$", r"(\d+)", r"^(.{3})", r"(?<=-)\w+", r"(?<!S)-(\w+)", r"^(?!S)(\w+)", r"(\w)\1", r"(?P<x>\d)(?P=x)",
    r"[^_\W]+", r"\b\d{2,3}\b", r"(?i)^s-?(\d+)", r"a{2}|b{,2}|c{1,}", r"x{y}", r"{", r"a{}", r"[{}]+", r"\{(\d)\}",
    r"\N{HYPHEN-MINUS}(\d)", r"(?:a|ab)(?:c|bcd)(d*)", r"^\s*(\S+)", r"(a)?(?(1)b|c)", r"(?>a+)b", r"a++b", r"$", r"\Z",
    r"(?s).+", r"(?x) a b # words", r"[\d\-]+", r"\x41|\u00e9|\101", r"(é|ü)+", r"[[a]+", r"a||b", r"[a-c--b]",
]  # fmt: skip


@pytest.mark.filterwarnings("ignore:Possible:FutureWarning")
@pytest.mark.parametrize("pattern", PATTERNS)
@given(st.text("Sabcd-_ 0123xyé{}[]A", max_size=12))
@example("S-12")
@example("aé--11{3}")
def test_patterns_mean_what_python_says(pattern: str, text: str) -> None:
    """The library `regex` gives the same groups as `re`."""
    theirs = re.search(pattern, text)
    ours = BoundedPattern(pattern).search(text)
    assert (ours and (ours[0], ours.groups())) == (theirs and (theirs[0], theirs.groups()))


@pytest.mark.parametrize("pattern", ["(", "*", "[a", r"\p{L}", "(?e)a", r"\h", "a{2,1}", "(?R)"])
def test_syntax_of_the_other_library_is_refused(pattern: str) -> None:
    """Syntax that only `regex` knows is refused."""
    with pytest.raises(re.error):
        BoundedPattern(pattern)


# Paths


def meaning(pattern: str) -> re.Pattern[str]:
    """Return a simple pattern with the same meaning: each part as short as possible, with backtracking."""
    form = ""
    names = pattern.split("/")
    for position, name in enumerate(names):
        last = position == len(names) - 1
        if name == "**":
            form += ".+" if last else "(?:[^/]+/)*?"
            continue
        seen: set[str] = set(re.findall(r"\?P<(\w+)>", form))
        part = "[^/]+" if name == "*" else ""
        for token in re.findall(r"\{\w+\}|\*|[^{}*]+", name if name != "*" else ""):
            if token[0] == "{":
                part += f"(?P={token[1:-1]})" if token[1:-1] in seen else f"(?P<{token[1:-1]}>[^/]+?)"
                seen.add(token[1:-1])
            else:
                part += "[^/]*?" if token == "*" else re.escape(token)
        form += part + ("" if last else "/")
    return re.compile(form, re.DOTALL)


LITERALS = st.text("ab_", min_size=1, max_size=2)


@st.composite
def path_patterns(draw: st.DrawFn) -> str:
    """Draw a path pattern whose fields are separated."""
    names: list[str] = []
    count = 0
    for _ in range(draw(st.integers(1, 5))):
        kind = draw(st.sampled_from(["**", "*", "name", "name", "name"]))
        if kind == "**" and names and names[-1] == "**":
            continue
        if kind == "name":
            kind = draw(st.sampled_from(["", draw(LITERALS)]))
            for _ in range(draw(st.integers(1, 3))):
                count += 1
                wild = draw(st.sampled_from(["*", f"{{f{count}}}", f"{{f{draw(st.integers(1, count))}}}"]))
                kind += wild + draw(LITERALS)
            kind = kind[: draw(st.sampled_from([-1, len(kind)]))] if kind[-1] in "ab_" and kind[-2] in "ab_" else kind
        names.append(kind)
    return "/".join([*names, "{last}"]) if draw(st.booleans()) else "/".join(["{first}", *names])


@given(path_patterns(), st.lists(st.text("ab_x", min_size=1, max_size=6), min_size=1, max_size=6).map("/".join))
@example("{s}_{t}/{s}/**", "a_b_c/a_b/x")
@example("**/{a}/**/{b}_x", "a/b/c/d_x")
@example("{a}_x{b}_x", "1_x2_x3_x")
def test_atomic_groups_match_the_same_paths(pattern: str, path: str) -> None:
    """Atomic groups lose no match, and change no value."""
    try:
        got: tuple[str, ...] | None = PathPattern.parse(pattern, separator="/").match(path)
    except UnroutableError:
        got = None
    match = meaning(pattern).fullmatch(path)
    assert got == (match and match.groups())


SLOW_PATHS = [
    ("{a}_{b}_{c}_{d}_{e}_{f}_{g}_{h}/x", "_" * 255 + "/y"),
    ("*_*_*_*_*_*_*_*_{h}!", "_" * 255),
    ("**/{a}/**/{b}/**/{c}/**/{d}/z", "d/" * 1_000 + "y"),
    ("**/*_{a}/**/*_{b}/**/*_{c}/z", "d_d/" * 800 + "y"),
    ("{a}_{b}_{c}_{d}_{e}/{a}{e}/x", "_" * 255 + "/" + "_" * 255),
    ("**/{a}/**/{b}/**/{a}/**/{b}/z", "d/" * 1_000 + "y"),
]


@pytest.mark.parametrize(("pattern", "path"), SLOW_PATHS)
def test_no_path_delays_a_pattern(pattern: str, path: str) -> None:
    """Long names and deep directories match quickly."""
    parsed = PathPattern.parse(pattern.replace("}{", "}-{"), separator="/")
    began = process_time()
    with pytest.raises(UnroutableError, match="its path"):
        parsed.match(path)
    assert process_time() - began < MOST_SECONDS


def test_no_path_delays_a_filter() -> None:
    """Globs of the standard library do not backtrack."""
    glob = "*a" * 40 + "*b"
    path = "a/" * 2_000
    filters = glob_pattern([glob, "*.dcm"])
    assert filters is not None
    began = process_time()
    assert not filters.fullmatch(path)
    assert not AttachRule.parse(f"{glob}/=REPORTS").matches(path)
    assert process_time() - began < MOST_SECONDS


def test_a_sensible_match_is_far_below_the_limit() -> None:
    """The limit is many times the duration of a sensible match."""
    assert BoundedPattern(r"(\d+)").search("x" * LONGEST_VALUE + "12") is not None
    with pytest.raises(SlowMatchError):
        BoundedPattern("^(a|a)*$").fullmatch("a" * 64 + "!")


@pytest.mark.anyio
async def test_no_filter_of_a_site_delays_a_dry_run(
    url: str, xnat: TestXnat, commands: Commands, tmp_path: Path
) -> None:
    """A dry run does not wait for slow patterns of a filter."""
    for number, description in enumerate(("a" * 60 + "!", "aaa", "b"), start=1):
        content = image(number, SeriesDescription=description, SeriesInstanceUID=f"1.2.{number}", SeriesNumber=number)
        write(tmp_path / "visit" / f"{number}", content)
    xnat.project("demo").series_filter = SeriesFilter(("^(a|a)*$",))
    commands.login(url)
    with in_time(COMMAND):
        ended = await commands("upload", tmp_path / "visit", "-P", "demo", "--dry-run", "-o", "json")
    assert ended.code == 8
    assert [(one["code"], one["files"]) for one in ended.json["problems"]] == [("series-dropped", 1)]
