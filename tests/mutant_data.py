"""The mutants as data: the edit, the tests that notice it, and the places of both.

They stand in tests/mutants/*.toml, one file for each package of asyncimport. They name no paths, so that modules and
tests can be moved: the file is found by the text that is edited, a test by its name.
"""

import ast
import subprocess
import tomllib
from collections import Counter, defaultdict
from collections.abc import Iterable, Iterator, Sequence
from dataclasses import dataclass
from pathlib import Path, PurePath

ROOT = Path(__file__).resolve().parent.parent
_FOLDER = "tests/mutants"


class StaleError(Exception):
    """A mutant no longer fits the code or the tests."""


@dataclass(frozen=True, slots=True)
class Mutant:
    """An edit of one file of asyncimport/ from `old` to `new`, why it would cost data, and the tests that notice it.

    `old` occurs once in the package, or once in the files whose path ends as `file` says (a pattern of Path.match). A
    test is named as pytest names it, but without a path: `test_x`, `test_x[id]`, `TestA::test_x`, `TestA`, or
    `test_file.py` for all tests of a file; `test_file.py::test_x` where two tests have one name. With `hang`, a test
    that does not end has noticed the edit too.
    """

    name: str
    why: str
    old: str
    new: str
    tests: Sequence[str]
    file: str = "*"
    hang: bool = False


@dataclass(frozen=True, slots=True)
class Located:
    """A mutant with the file that it edits and the tests that notice it, as paths below the root."""

    mutant: Mutant
    file: str
    tests: Sequence[str]


def parsed(texts: Iterable[str]) -> list[Mutant]:
    """Make mutants of the texts of TOML files.

    Raises: TypeError for a key that a mutant does not have, or lacks; StaleError if two have one name.
    """
    entries = [entry for text in texts for entry in tomllib.loads(text).items()]
    counted = Counter(name for name, _ in entries)
    if twice := sorted(name for name, times in counted.items() if times > 1):
        raise StaleError(f"two mutants have one name: {', '.join(twice)}")
    return [Mutant(name=name, **values) for name, values in entries]


def all_mutants() -> list[Mutant]:
    """Return the mutants of this checkout."""
    return parsed(file.read_text("utf-8") for file in sorted((ROOT / _FOLDER).glob("*.toml")))


class Checkout:
    """Finds the files and tests of mutants in this checkout."""

    def __init__(self) -> None:
        package = ROOT / "asyncimport"
        self._sources = {
            _path(file): file.read_text("utf-8")
            for file in package.rglob("*")
            if file.suffix in {".py", ".sql"} and "testserver" not in file.relative_to(package).parts
        }
        self._tests: defaultdict[str, list[str]] = defaultdict(list)
        for file in (ROOT / "tests").rglob("test_*.py"):
            self._tests[file.name].append(_path(file))
            for name in _names(ast.parse(file.read_text("utf-8"))):
                for spelling in (name, f"{file.name}::{name}"):
                    self._tests[spelling].append(f"{_path(file)}::{name}")

    def locate_all(self, mutants: Iterable[Mutant]) -> list[Located]:
        """Find the files and the tests of mutants.

        Raises: StaleError, which names all that are stale.
        """
        located, stale = [], []
        for mutant in mutants:
            try:
                located.append(self.locate(mutant))
            except StaleError as error:
                stale.append(str(error))
        if stale:
            raise StaleError("\n".join(stale))
        return located

    def locate(self, mutant: Mutant) -> Located:
        """Find the file and the tests of a mutant.

        Raises: StaleError if there are none, or several.
        """
        files = [
            path
            for path, text in self._sources.items()
            if PurePath(path).match(mutant.file)
            for _ in range(text.count(mutant.old))
        ]
        return Located(
            mutant,
            _only(files, f"{mutant.name}: its `old` text"),
            [self._located(test, mutant) for test in mutant.tests],
        )

    def _located(self, test: str, mutant: Mutant) -> str:
        name, bracket, parameters = test.partition("[")
        return _only(self._tests.get(name, []), f"{mutant.name}: {name}") + bracket + parameters


def _path(file: Path) -> str:
    return file.relative_to(ROOT).as_posix()


def _names(tree: ast.Module | ast.ClassDef, before: str = "") -> Iterator[str]:
    for node in tree.body:
        if isinstance(node, ast.ClassDef):
            yield before + node.name
            yield from _names(node, f"{before}{node.name}::")
        elif isinstance(node, ast.FunctionDef | ast.AsyncFunctionDef) and node.name.startswith("test"):
            yield before + node.name


def _only(found: Sequence[str], what: str) -> str:
    if len(found) != 1:
        raise StaleError(f"{what} must be in one place, and is in {', '.join(found) or 'none'}")
    return found[0]


def changed_since(commit: str, mutants: Iterable[Located]) -> list[Located]:
    """Return the mutants that are new since a commit, or whose file or test files have changed since.

    A file that was only moved has not. Raises: subprocess.CalledProcessError if git knows no such commit.
    """
    changes = [line.split("\t") for line in _git("diff", "--name-status", "--find-renames", commit)]
    changed = {paths[-1] for status, *paths in changes if status != "R100"}
    changed.update(_git("ls-files", "--others", "--exclude-standard"))
    files = [path for path in _git("ls-tree", "--name-only", commit, f"{_FOLDER}/") if path.endswith(".toml")]
    known = {mutant.name: mutant for mutant in parsed("\n".join(_git("show", f"{commit}:{file}")) for file in files)}
    return [
        one
        for one in mutants
        if known.get(one.mutant.name) != one.mutant
        or changed & {one.file, *(test.split("::")[0] for test in one.tests)}
    ]


def _git(*words: str) -> list[str]:
    done = subprocess.run(["git", *words], cwd=ROOT, stdout=subprocess.PIPE, encoding="utf-8", check=True)
    return done.stdout.splitlines()
