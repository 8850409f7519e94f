"""Whether a rule of the site drops a file is answered only if certain; else a loss could look like a rule."""

from time import process_time

import pytest

from asyncimport.routing.drop_rules import filter_drops, script_rejects

MR = {"SeriesDescription": "T1 scout 3", "Modality": "MR"}
UNNAMED = {"Modality": "MR"}


@pytest.mark.parametrize(
    ("expressions", "is_found"),
    [
        ("scout", True),
        ("SCOUT", True),
        ("^scout", False),
        ("(?i)scout", True),
        (".*scout.*", True),
        ("loc.*", False),
        (" scout ", True),
        ("# scout", False),
        (r"T\d\sscout", True),
        ("loc\nscout", True),
        ("[Modality]\nCT", False),
        ("[Modality]\nMR", True),
        ("[(0008,0060)]\nMR", True),
        ("[00080060]\nMR", None),
        ("[BurnedInAnnotation]\nYES", None),
        ("[BurnedInAnnotation]\nYES\n[Modality]\nMR", True),
        ("EXISTS", True),
        ("!EXISTS", False),
        (r"\Qscout\E", None),
        (r"\p{Alpha}+ scout", None),
        ("[a-z&&[^s]]cout", None),
        ("(?<name>scout)", None),
        ("sc(out", None),
        ("(x+x+)+y", False),
    ],
)
def test_what_a_filter_drops(expressions: str, is_found: bool | None) -> None:
    """An expression of Java is found anywhere in any case, in the attribute of the line above."""
    lines = expressions.splitlines()
    assert filter_drops("blacklist", lines, MR) is is_found
    assert filter_drops("whitelist", lines, MR) is (None if is_found is None else not is_found)
    assert filter_drops("modalityMap", lines, MR) is None


@pytest.mark.parametrize(
    ("expression", "is_found"), [("scout", False), (".*", None), ("EXISTS", None), ("!EXISTS", None), ("^$", None)]
)
def test_a_file_without_the_attribute(expression: str, is_found: bool | None) -> None:
    """An absent attribute never matches, but it may also be empty."""
    assert filter_drops("blacklist", [expression], UNNAMED) is is_found


@pytest.mark.parametrize("text", ["x" * 301, "T1 Schädel"])
def test_values_that_java_may_see_otherwise(text: str) -> None:
    """Java cuts long values, and some versions treat other letters differently."""
    assert filter_drops("blacklist", [r"\w+"], {"SeriesDescription": text}) is None


def test_a_slow_expression_gives_no_answer() -> None:
    """An expression that takes too long gives no answer."""
    began = process_time()
    assert filter_drops("blacklist", ["^(a|a)*$"], {"SeriesDescription": "a" * 200 + "!"}) is None
    assert process_time() - began < 5


@pytest.mark.parametrize(
    ("script", "rejects"),
    [
        ("", False),
        ("reject", True),
        ("reject[]", True),
        ("// reject", False),
        ('echo "// reject"', False),
        ('version "6.3"\n(0008,1030) := project // not reject\n- (0010,0010)\nreject', True),
        ('(0008,0060) = "MR" ? reject', True),
        ('(0008,0060)="MR"?reject[]', True),
        ('(0008,0060) = "CT" ? reject', False),
        ('(0008,0060) = "mr" ? reject', None),
        ('(0008,0060) != "MR" ? reject', False),
        ('(0008,0060) != "CT" ? reject', True),
        ('(0008,103E) ~ ".*scout.*" ? reject', True),
        ('(0008,103E) ~ "scout" ? reject', None),
        ('(0008,103e) ~ "loc.*" ? reject', False),
        ('(0008,103E) !~ "loc.*" ? reject', True),
        ('(0008,103E) !~ "scout" ? reject', None),
        ('(0008,103E) ~ "\\\\w+" ? reject', None),
        ('(0008,0060) = "CT" ? reject\n(0008,0060) = "MR" ? reject', True),
        ('(0008,0060) := "MR"\n(0008,0060) = "MR" ? reject', None),
        ('- (0008,0060)\n(0008,0060) = "CT" ? reject', None),
        ('(0008,103E) := "x"\n(0008,0060) = "MR" ? reject', True),
        ('blankValues["a"]\n(0008,0060) = "MR" ? reject', None),
        ("blankValues[]\nreject", True),
        ('(0028,0301) = "YES" ? reject\n(0008,0060) = "MR" ? reject', True),
        ('(0028,0301) = "YES" ? reject', None),
        ('(0018,1030) = "" ? reject', None),
        ("isSecret[] ? reject", None),
        ('(0008,0060) = "CT" ? echo "x" : reject', None),
        ('if ((0008,0060) = "CT") {\n  reject\n}', None),
    ],
)
def test_what_a_script_rejects(script: str, rejects: bool | None) -> None:
    """Only simple statements count, for attributes that no earlier statement may have changed."""
    assert script_rejects(script, MR) is rejects
