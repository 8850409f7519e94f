"""Where journals are, and which one a command uses."""

import re
from pathlib import Path

import platformdirs
import pytest
from hypothesis import given
from hypothesis import strategies as st

from asyncimport.errors import UsageError
from asyncimport.operations.journals import find_journal, journal_path

HOST = "https://xnat.example.org"


def test_path_is_readable_and_stable(tmp_path: Path) -> None:
    """The name shows server and project, and never changes."""
    path = journal_path(HOST, "P", tmp_path)
    assert path == journal_path(HOST, "P", tmp_path)
    assert path.parent == tmp_path
    assert re.fullmatch(r"xnat\.example\.org-P-[0-9a-f]{8}\.journal", path.name)


def test_default_state_directory() -> None:
    """Without --state-dir, journals are in the platform's directory for user state."""
    assert journal_path(HOST, "P", None).parent == platformdirs.user_state_path("asyncimport", appauthor=False)


def test_one_for_each_server_and_project() -> None:
    """Port, context path, scheme and project distinguish journals with equal readable parts."""
    hosts = [HOST, f"{HOST}:8443", f"{HOST}/xnat", "http://xnat.example.org", f"{HOST}-P"]
    paths = {journal_path(host, project, Path("x")) for host in hosts for project in ("P", "P-P", "p")}
    assert len({str(path).lower() for path in paths}) == 15


@given(st.text(), st.text())
def test_name_is_always_valid(host: str, project: str) -> None:
    """For any server and project, the journal is a file in the directory with a short enough name."""
    path = journal_path(f"https://{host.translate(dict.fromkeys(map(ord, '[]')))}", project, Path("x"))
    assert path.parent == Path("x")
    assert re.fullmatch(r"[A-Za-z0-9._-]{1,100}\.journal", path.name)


class TestExisting:
    """The journal that `status` and `verify` use."""

    def test_journal_option(self, tmp_path: Path) -> None:
        """--journal overrides everything else."""
        named = tmp_path / "elsewhere"
        assert find_journal(HOST, "P", tmp_path, named) == named

    @pytest.mark.parametrize("host", [HOST, f"{HOST}/"])
    def test_by_server_and_project(self, tmp_path: Path, host: str) -> None:
        """Server and project select their journal, with or without a trailing slash."""
        own = journal_path(HOST, "P", tmp_path)
        for path in (own, tmp_path / "other.journal"):
            path.touch()
        assert find_journal(host, "P", tmp_path, None) == own

    def test_no_journal_of_server_and_project(self, tmp_path: Path) -> None:
        """If there are only other journals, the error lists them."""
        others = [journal_path(HOST, name, tmp_path) for name in ("Q", "R")]
        for path in others:
            path.touch()
        with pytest.raises(UsageError, match=f"nothing was uploaded to project P on {HOST} from here") as caught:
            find_journal(HOST, "P", tmp_path, None)
        assert caught.value.hint.endswith(", ".join(map(str, sorted(others))))

    @pytest.mark.parametrize(("host", "project"), [(None, None), (HOST, None), (None, "P")])
    def test_the_only_journal(self, tmp_path: Path, host: str | None, project: str | None) -> None:
        """The only journal needs no options; other files do not count."""
        only = journal_path(HOST, "P", tmp_path)
        only.touch()
        only.with_name(f"{only.name}-wal").touch()
        assert find_journal(host, project, tmp_path, None) == only

    def test_the_only_journal_of_another_server(self, tmp_path: Path) -> None:
        """The only journal is not used if it belongs to another server."""
        journal_path("https://other.example.org", "P", tmp_path).touch()
        with pytest.raises(UsageError, match="there is no journal"):
            find_journal(HOST, None, tmp_path, None)

    @pytest.mark.parametrize("directory", [".", "not there"])
    def test_none(self, tmp_path: Path, directory: str) -> None:
        """Without a journal, the error names the directory."""
        with pytest.raises(UsageError, match="there is no journal") as caught:
            find_journal(None, None, tmp_path / directory, None)
        assert str(tmp_path / directory) in str(caught.value)
        assert caught.value.hint

    def test_several(self, tmp_path: Path) -> None:
        """With several journals, the error lists them in order."""
        paths = [tmp_path / f"{name}.journal" for name in "cab"]
        for path in paths:
            path.touch()
        with pytest.raises(UsageError, match="there are 3 journals") as caught:
            find_journal(None, None, tmp_path, None)
        assert caught.value.hint.endswith(", ".join(map(str, sorted(paths))))
