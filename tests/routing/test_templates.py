"""Templates: the result of each form, and each mistake with its position."""

import re
import string
import unicodedata
from functools import partial

import pytest
from hypothesis import assume, example, given
from hypothesis import strategies as st

from asyncimport.errors import UsageError
from asyncimport.routing.labels import UnroutableError
from asyncimport.routing.templates import Template

HEADER = dict.fromkeys(["PatientID", "AccessionNumber", "StudyID", "StudyDescription"], "the header")
PLACES = {**HEADER, "subject": "the path", "Arm of trial": "--label-map"}
FIELDS = {"PatientID": "Site-42", "StudyID": "  7 ", "StudyDescription": "MR {Brain}: a|b/c 'x'", "subject": "s1"}


def rendered(template: str, fields: dict[str, str] = FIELDS) -> str:
    """Return the text of a template before cleaning."""
    return Template.parse(template, "--session", PLACES).render(fields)


@pytest.mark.parametrize(
    ("template", "expected"),
    [
        # Text and fields.
        ("a b", "a b"),
        ("{PatientID}", "Site-42"),
        ("{StudyID}", "7"),
        ("x{PatientID}-{StudyID}y", "xSite-42-7y"),
        ("{ PatientID }", "Site-42"),
        ("{subject}", "s1"),
        ("{PatientID:}", "Site-42"),
        # Braces.
        ("{{PatientID}}", "{PatientID}"),
        ("{{{PatientID}}}", "{Site-42}"),
        ("{{}}{StudyID}{{{{", "{}7{{"),
        # Alternatives.
        ("{AccessionNumber|StudyID}", "7"),
        ("{AccessionNumber | StudyID | PatientID}", "7"),
        ("{StudyID|AccessionNumber}", "7"),
        ("{Arm of trial|subject}", "s1"),
        ("{AccessionNumber|'none'}", "none"),
        ('{AccessionNumber|"none"}', "none"),
        ("{AccessionNumber | 'none' }", "none"),
        ("{AccessionNumber|'it''s'}", "it's"),
        ('{AccessionNumber|"say ""no""\'\'"}', "say \"no\"''"),
        ("{AccessionNumber|'a}b|c:d{e\"'}", 'a}b|c:d{e"'),
        ("{AccessionNumber|''}x", "x"),
        ("{StudyID|'none'}", "7"),
        # Letter case; a text in quotes stays as it is.
        ("{PatientID:upper}", "SITE-42"),
        ("{PatientID:lower}", "site-42"),
        ("{PatientID: upper }", "SITE-42"),
        ("{AccessionNumber|'None':upper}", "None"),
        # Padding.
        ("{StudyID:03}", "007"),
        ("{StudyID:01}", "7"),
        ("{PatientID:08}", "Site-42"),
        # Cutting.
        ("{PatientID:.4}", "Site"),
        ("{PatientID:.99}", "Site-42"),
        ("{StudyDescription:.3}", "MR"),
        # Patterns.
        (r"{PatientID:/^Site-(\d+)$/}", "42"),
        (r"{PatientID:/\d+/}", "42"),
        (r"{PatientID:/(?i)SITE/}", "Site"),
        (r"{PatientID:/(\w+)-(\d+)/}", "Site"),
        (r"{PatientID:/(?:x|(Site))/}", "Site"),
        (r"{PatientID:/\d{2}/}", "42"),
        (r"{StudyDescription:/\{(.*)\}: a\|b/}", "Brain"),
        (r"{StudyDescription:/: (a|z)\|/}", "a"),
        (r"{StudyDescription:/b\/(.)/}", "c"),
        (r"{StudyDescription:/[\/]c '(x)'/}", "x"),
        (r"{StudyDescription:/MR /}", "MR"),
        # One after the other, from left to right.
        (r"{PatientID:/(\d+)/:06}", "000042"),
        (r"{PatientID:lower:/site/:upper:.2}", "SI"),
        (r"{AccessionNumber|PatientID:/(\d+)/:04}-{StudyID:02}", "0042-07"),
    ],
)
def test_forms_of_templates(template: str, expected: str) -> None:
    """Examples of each form."""
    assert rendered(template) == expected


@pytest.mark.parametrize("value", ["٣", "²", "1.5", "-1", "1 2", "12345678901"])
def test_only_numbers_are_padded(value: str) -> None:
    """Values with other characters, or with enough digits, do not change."""
    assert rendered("{PatientID:08}", {"PatientID": value}) == value


@pytest.mark.parametrize(
    ("template", "reason"),
    [
        ("{AccessionNumber}", "no AccessionNumber in the header"),
        ("{AccessionNumber:upper}", "no AccessionNumber in the header"),
        ("{AccessionNumber|PatientID}", "no AccessionNumber or PatientID in the header"),
        (
            "{Arm of trial|PatientID|subject}",
            "no Arm of trial in --label-map and no PatientID in the header and no subject in",
        ),
        ("{StudyID:/^x/}", "StudyID does not match the pattern of --session"),
        ("{PatientID|StudyID:/^x/}", "StudyID does not match the pattern of --session"),
        ("{StudyID|'none':/^x/}", "StudyID does not match the pattern of --session"),
        ("{StudyID:/(x)?/}", "StudyID does not match the pattern of --session"),
        ("{StudyID:/ */}", "StudyID does not match the pattern of --session"),
    ],
)
def test_missing_values_and_matches(template: str, reason: str) -> None:
    """The reason names the field of a missing value, or of one that does not match; an empty match is none."""
    with pytest.raises(UnroutableError) as caught:
        rendered(template, {"StudyID": "secret", "PatientID": "  ", "subject": ""})
    assert str(caught.value).startswith(reason)


@pytest.mark.parametrize(
    ("template", "words", "place", "hint"),
    [
        ("{PatientID", "a brace that is not closed", 1, "close it, as in {PatientID}; double a literal brace: {{"),
        ("x{", "{} is not a field of the study", 3, "use one of these: "),
        ("ab}", "a closing brace without an opening one", 3, "}}"),
        ("{PatientID}}", "a closing brace without an opening one", 12, "}}"),
        ("{}", "{} is not a field of the study", 2, "use one of these: "),
        ("{0}", "{0} is not a field of the study", 2, "use one of these: "),
        ("a{patientid}", "{patientid} is not a field of the study", 3, "use one of these: "),
        ("{PatientID.real}", "{PatientID.real} is not a field of the study", 2, "use one of these: "),
        ("{PatientID[0]}", "{PatientID[0]} is not a field of the study", 2, "use one of these: "),
        ("{PatientID!r}", "{PatientID!r} is not a field of the study", 2, "use one of these: "),
        ("{PatientID|}", "{} is not a field of the study", 12, "use one of these: "),
        ("{|PatientID}", "{} is not a field of the study", 2, "use one of these: "),
        ("{PatientID{", "'{' is not expected here", 11, "end a field with a brace"),
        ("{PatientID:{StudyID}}", "'{' is not expected here", 12, "end a field with a brace"),
        ("{'none'}", "a text in quotes is not the last alternative", 2, "write it last"),
        ("{'none'|PatientID}", "a text in quotes is not the last alternative", 2, "write it last"),
        ("{PatientID|'a'|StudyID}", "a text in quotes is not the last alternative", 12, "write it last"),
        ("{PatientID|'a'b}", "'b' is not expected here", 15, "end a field with a brace"),
        ("{PatientID|'a}", "a misplaced quote, or one that is not closed", 12, "as in {StudyID|'none'}"),
        ("{PatientID'a'}", "a misplaced quote, or one that is not closed", 11, "as in {StudyID|'none'}"),
        ("{PatientID:>8}", "'>8' is not a change of a field", 12, "write upper, lower"),
        ("{PatientID:8}", "'8' is not a change of a field", 12, "write upper, lower"),
        ("{PatientID:00}", "'00' is not a change of a field", 12, "write upper, lower"),
        ("{PatientID:0256}", "'0256' is not a change of a field", 12, "write upper, lower"),
        ("{PatientID:.0}", "'.0' is not a change of a field", 12, "write upper, lower"),
        ("{PatientID:.256}", "'.256' is not a change of a field", 12, "write upper, lower"),
        ("{PatientID:.٣}", "'.٣' is not a change of a field", 12, "write upper, lower"),
        ("{PatientID:UPPER}", "'UPPER' is not a change of a field", 12, "write upper, lower"),
        ("{PatientID:upper|StudyID}", "an alternative after a colon", 17, "{StudyID|PatientID:upper}"),
        ("{PatientID://}", "a pattern that is empty or has no end", 12, "as in "),
        ("{PatientID:/abc}", "a pattern that is empty or has no end", 12, "as in "),
        (r"{PatientID:/abc\/}", "a pattern that is empty or has no end", 12, "as in "),
        ("{PatientID:/a/i}", "'i' is not expected here", 15, "end a field with a brace"),
        (
            "{PatientID:/a(b/}",
            "the pattern is malformed: missing ), unterminated subpattern",
            14,
            "write a pattern of Python",
        ),
        ("{PatientID:/a{99999999999}/}", "the pattern is too large", 13, ""),
    ],
)
def test_mistakes(template: str, words: str, place: int, hint: str) -> None:
    """The error names option, problem and position, and a hint says what to do."""
    with pytest.raises(UsageError) as caught:
        Template.parse(template, "--session", PLACES)
    assert str(caught.value) == f"--session: the template {template!r} is malformed at character {place}: {words}"
    assert hint in caught.value.hint


def test_unknown_field_gets_the_list() -> None:
    """The hint lists the fields in order."""
    with pytest.raises(UsageError) as caught:
        Template.parse("{Modality}", "--session", HEADER)
    assert caught.value.hint == "use one of these: AccessionNumber, PatientID, StudyDescription, StudyID"


@pytest.mark.parametrize(
    ("template", "names", "verbatim", "literals"),
    [
        ("a", set(), set(), ["a"]),
        ("{PatientID}", {"PatientID"}, {"PatientID"}, []),
        ("a{PatientID|StudyID|'b'}{{", {"PatientID", "StudyID"}, set(), ["a", "b", "{"]),
        ("{PatientID:upper}{PatientID}", {"PatientID"}, {"PatientID"}, []),
    ],
)
def test_parts_of_a_template(template: str, names: set[str], verbatim: set[str], literals: list[str]) -> None:
    """A template knows its fields, those without changes, and its literal texts."""
    parsed = Template.parse(template, "--session", PLACES)
    assert parsed.names == names
    assert parsed.verbatim == verbatim
    assert parsed.literals == literals
    assert parsed.is_fixed is not bool(names)


PIECES = st.one_of(
    st.sampled_from([f"{{{name}}}" for name in HEADER]),
    st.sampled_from(["{{", "}}", "{PatientID:}"]),
    st.text(st.characters(exclude_characters="{}", exclude_categories=["Cs"])),
)


@given(st.lists(PIECES), st.lists(st.text(min_size=1), min_size=4, max_size=4))
def test_old_templates_mean_what_they_meant(pieces: list[str], values: list[str]) -> None:
    """Templates of str.format without formats mean the same."""
    template = "".join(pieces)
    fields = {name: value.strip() for name, value in zip(HEADER, values, strict=True)}
    assume(all(fields.values()))
    # But for the Unicode form: that of templates is one now.
    nfc = partial(unicodedata.normalize, "NFC")
    assert nfc(rendered(template, fields)) == nfc(string.Formatter().vformat(template, (), fields))


@given(st.text(st.sampled_from("{}|:'\"/\\ 0.8aPatientID"), max_size=30))
def test_any_text_is_a_template_or_a_mistake(text: str) -> None:
    """Any text is a template or a mistake with its position."""
    try:
        template = Template.parse(text, "--subject", PLACES)
    except UsageError as error:
        found = re.fullmatch(r"--subject: the template .+ is malformed at character (\d+): .+", str(error))
        assert found
        assert 1 <= int(found[1]) <= len(text) + 1
    else:
        assert isinstance(template.render({**FIELDS, "AccessionNumber": "1"}), str)


@given(st.text(), st.text())
@example("", "\uf900")
def test_any_text_can_be_written(before: str, last_resort: str) -> None:
    """With doubled braces and quotes, a template can give any text in NFC."""
    quoted = last_resort.replace("'", "''")
    doubled = before.replace("{", "{{").replace("}", "}}")
    expected = unicodedata.normalize("NFC", before + last_resort)
    assert unicodedata.normalize("NFC", rendered(f"{doubled}{{AccessionNumber|'{quoted}'}}")) == expected
