"""Former spellings of options: on the command line, in the environment, in profiles."""

from pathlib import Path

import pytest
from conftest import Commands
from hypothesis import given
from hypothesis import strategies as st

from asyncimport.cli.parameters import FORMER, replace_former, variables_of

pytestmark = pytest.mark.anyio


def test_each_former_spelling_has_a_present_one() -> None:
    """No spelling is both."""
    assert not set(FORMER) & set(FORMER.values())
    assert len(set(FORMER.values())) == len(FORMER) == 11


def test_only_options_are_replaced() -> None:
    """Values, short options and what comes after `--` stay."""
    assert replace_former(["upload", "x", "--limit", "3", "--map=a=b.csv"]) == [
        *("upload", "x", "--max-sessions", "3", "--label-map=a=b.csv")
    ]
    assert replace_former(["-E", "limit", "--", "--limit"]) == ["-E", "limit", "--", "--limit"]
    assert replace_former(["--limits", "--maps", "--settle-time"]) == ["--limits", "--maps", "--settle-time"]


@given(st.lists(st.text(alphabet="-=abc", max_size=6)))
def test_other_words_stay(words: list[str]) -> None:
    """Only known spellings change."""
    assert replace_former(words) == words


def test_variables_have_both_names() -> None:
    """The present one counts first."""
    assert variables_of("--min-age") == ["ASYNCIMPORT_MIN_AGE", "ASYNCIMPORT_QUIET_TIME"]
    assert variables_of("--workers") == ["ASYNCIMPORT_WORKERS"]


async def test_help_shows_present_spellings_only(commands: Commands) -> None:
    """It shows all of them."""
    shown = (await commands("upload", "--help-all")).out + (await commands("verify", "--help")).out
    words = set(shown.replace(",", " ").split())
    hidden = {"--orphans", "--delete-orphans"} - words
    assert set(FORMER.values()) <= words, hidden
    assert not set(FORMER) & words


@pytest.mark.parametrize("way", ["option", "environment", "profile"])
async def test_former_spellings_work(commands: Commands, tmp_path: Path, way: str) -> None:
    """Old scripts work; errors use the present name."""
    words = ["upload", str(tmp_path), "-P", "demo", "--host", "http://127.0.0.1:1", "--user", "a"]
    commands.env["XNAT_PASS"] = "b"
    if way == "option":
        words += ["--max-outage", "soon"]
    elif way == "environment":
        commands.env["ASYNCIMPORT_MAX_OUTAGE"] = "soon"
    else:
        config = tmp_path / "config.toml"
        config.write_text('default_profile = "x"\n[profiles.x.defaults]\nmax_outage = "soon"\n')
        commands.env["ASYNCIMPORT_CONFIG"] = str(config)
    ended = await commands(*words)
    assert ended.code == 2
    assert "invalid --outage-timeout 'soon'" in ended.err
