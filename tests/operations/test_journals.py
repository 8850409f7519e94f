"""Where journals lie, and which one is meant."""

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
    """A journal's name tells server and project to people, and is the same tomorrow."""
    path = journal_path(HOST, "P", tmp_path)
    assert path == journal_path(HOST, "P", tmp_path)
    assert path.parent == tmp_path
    assert re.fullmatch(r"xnat\.example\.org-P-[0-9a-f]{8}\.journal", path.name)


def test_default_directory() -> None:
    """Without a directory given, journals lie where the platform keeps the state of a user's programs."""
    assert journal_path(HOST, "P", None).parent == platformdirs.user_state_path("asyncimport", appauthor=False)


def test_one_for_each_server_and_project() -> None:
    """Port, context path, scheme and project tell journals apart, also where their readable parts are the same."""
    hosts = [HOST, f"{HOST}:8443", f"{HOST}/xnat", "http://xnat.example.org", f"{HOST}-P"]
    paths = {journal_path(host, project, Path("x")) for host in hosts for project in ("P", "P-P", "p")}
    assert len({str(path).lower() for path in paths}) == 15


@given(st.text(), st.text())
def test_name_is_always_a_name(host: str, project: str) -> None:
    """Whatever server and project are called, the journal is a file of that directory, and its name is not too long."""
    path = journal_path(f"https://{host.translate(dict.fromkeys(map(ord, '[]')))}", project, Path("x"))
    assert path.parent == Path("x")
    assert re.fullmatch(r"[A-Za-z0-9._-]{1,100}\.journal", path.name)


class TestExisting:
    """The journal that `status` and `verify` are about."""

    def test_named(self, tmp_path: Path) -> None:
        """A journal that is named is meant, whatever else is given."""
        named = tmp_path / "elsewhere"
        assert find_journal(HOST, "P", tmp_path, named) == named

    @pytest.mark.parametrize("host", [HOST, f"{HOST}/"])
    def test_of_server_and_project(self, tmp_path: Path, host: str) -> None:
        """Server and project name the journal that `upload` wrote for them, with a slash at the end or without."""
        own = journal_path(HOST, "P", tmp_path)
        for path in (own, tmp_path / "other.journal"):
            path.touch()
        assert find_journal(host, "P", tmp_path, None) == own

    def test_none_of_server_and_project(self, tmp_path: Path) -> None:
        """Where there are only others they are shown: nobody is told that nothing was ever uploaded."""
        others = [journal_path(HOST, name, tmp_path) for name in ("Q", "R")]
        for path in others:
            path.touch()
        with pytest.raises(UsageError, match=f"nothing was uploaded to project P on {HOST} from here") as caught:
            find_journal(HOST, "P", tmp_path, None)
        assert caught.value.hint.endswith(", ".join(map(str, sorted(others))))

    @pytest.mark.parametrize(("host", "project"), [(None, None), (HOST, None), (None, "P")])
    def test_the_only_one(self, tmp_path: Path, host: str | None, project: str | None) -> None:
        """Where there is only one journal, nothing needs to be named; other files are no journals."""
        only = journal_path(HOST, "P", tmp_path)
        only.touch()
        only.with_name(f"{only.name}-wal").touch()
        assert find_journal(host, project, tmp_path, None) == only

    def test_another_servers(self, tmp_path: Path) -> None:
        """The only journal of another server is not taken for the one of the server that was named."""
        journal_path("https://other.example.org", "P", tmp_path).touch()
        with pytest.raises(UsageError, match="there is no journal"):
            find_journal(HOST, None, tmp_path, None)

    @pytest.mark.parametrize("directory", [".", "not there"])
    def test_none(self, tmp_path: Path, directory: str) -> None:
        """Before the first upload there is none, and the error says where it was looked for."""
        with pytest.raises(UsageError, match="there is no journal") as caught:
            find_journal(None, None, tmp_path / directory, None)
        assert str(tmp_path / directory) in str(caught.value)
        assert caught.value.hint

    def test_several(self, tmp_path: Path) -> None:
        """Among several the user must choose, and is shown them in order."""
        paths = [tmp_path / f"{name}.journal" for name in "cab"]
        for path in paths:
            path.touch()
        with pytest.raises(UsageError, match="there are 3 journals") as caught:
            find_journal(None, None, tmp_path, None)
        assert caught.value.hint.endswith(", ".join(map(str, sorted(paths))))
