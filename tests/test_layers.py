"""The structure of the package: folders in one order, imports down only, no circle, each library in its place."""

import ast
from collections.abc import Iterator
from graphlib import CycleError, TopologicalSorter
from pathlib import Path

import pytest

PACKAGE = Path(__file__).parent.parent / "asyncimport"

LAYERS = (
    "cli",
    "operations",
    "cluster",
    "pipeline",
    "reporting",
    "xnat",
    "journal",
    "source",
    "routing",
    "demographics",
    "credentials",
    "pacing",
    "model",
    "system",
    "dicom",
    "errors",
)
"""From top to bottom: a folder imports only from those after it."""
APART = "testserver"
LAYERS_APART = ("", "recording", "http", "faults", "site")
"""The same of the test server; its root comes first."""
HOMES = {
    "aiohttp": {"xnat", "reporting", APART},
    "yarl": {"xnat", APART},
    "pydicom": {"dicom", APART},
    "aiofiles": {"xnat"},
    "sqlite3": {"journal"},
    "filelock": {"journal"},
    "dask": {"cluster"},
    "dask_jobqueue": {"cluster"},
    "distributed": {"cluster"},
    "psutil": {"system"},
    "xxhash": {"source"},
    "regex": {"routing"},
    "defusedxml": {APART},
    "typer": {"cli"},
    "keyring": {"credentials"},
    "tomlkit": {"credentials"},
    "rich": {"cli"},
    "jinja2": {"reporting", APART},
    "markupsafe": {"reporting", APART},
    "platformdirs": {"cli", "operations"},
}
MODULES = sorted(path for path in PACKAGE.rglob("*.py") if path.parent != PACKAGE or not path.stem.startswith("__"))
PUBLIC = [path for path in MODULES if "__all__" in path.read_text("utf-8")]


def _folder(path: Path) -> str:
    """Return the folder, or the module beside the folders, that a file belongs to."""
    return path.relative_to(PACKAGE).parts[0].removesuffix(".py")


def _name(path: Path) -> str:
    """Return the dotted name of a module."""
    return ".".join(path.relative_to(PACKAGE.parent).with_suffix("").parts).removesuffix(".__init__")


NAMES = {_name(path) for path in PACKAGE.rglob("*.py")}


def _imports(path: Path) -> Iterator[str]:
    """Yield the absolute names of all modules that a file imports, at its top or later."""
    package = _name(path).split(".") if path.stem == "__init__" else _name(path).split(".")[:-1]
    for node in ast.walk(ast.parse(path.read_text("utf-8"))):
        if isinstance(node, ast.Import):
            yield from (alias.name for alias in node.names)
        elif isinstance(node, ast.ImportFrom):
            base = package[: len(package) - node.level + 1] if node.level else []
            stem = ".".join([*base, *([node.module] if node.module else [])])
            # `from asyncimport.xnat import replies` imports a module, `from asyncimport.errors import X` a name of one.
            yield from {whole if (whole := f"{stem}.{alias.name}") in NAMES else stem for alias in node.names}


@pytest.mark.parametrize("path", MODULES, ids=lambda path: str(path.relative_to(PACKAGE)))
def test_a_module_imports_only_from_layers_below(path: Path) -> None:
    """One direction: a reader of a folder need not know those above it."""
    folder = _folder(path)
    for name in _imports(path):
        parts = name.split(".")
        if parts[0] != "asyncimport" or len(parts) < 2 or parts[1] == folder:
            continue
        other = parts[1]
        if folder == APART:
            pytest.fail(f"the test XNAT imports {name}: one misunderstanding could hide in both")
        if other == APART:
            assert folder == "cli", f"{folder} imports the test XNAT"
            continue
        assert LAYERS.index(folder) < LAYERS.index(other), f"{folder} imports {name}, which is not below it"


@pytest.mark.parametrize(
    "path", [path for path in MODULES if _folder(path) == APART], ids=lambda path: str(path.relative_to(PACKAGE))
)
def test_a_module_of_the_test_server_imports_only_from_layers_below(path: Path) -> None:
    """`http` serves a `site`, with `faults` on the way; a site knows neither of them, nor the web framework."""
    folder = _folder_apart(_name(path))
    for name in _imports(path):
        if name.split(".")[0] == "aiohttp":
            assert folder in {"http", "recording"}, f"{folder} imports {name}"
        if name.startswith(f"asyncimport.{APART}."):
            below = LAYERS_APART.index(folder) <= LAYERS_APART.index(_folder_apart(name))
            assert below, f"{folder} imports {name}, which is above it"


def test_no_module_of_the_test_server_is_longer_than_400_lines() -> None:
    """A longer module has two subjects, and a newcomer cannot tell where to look."""
    lengths = {path: len(path.read_text("utf-8").splitlines()) for path in MODULES if _folder(path) == APART}
    assert {path for path, lines in lengths.items() if lines > 400} == set()


def _folder_apart(name: str) -> str:
    """Return the folder of the test server that a module is in; empty for its root."""
    parts = name.split(".")[2:]
    return parts[0] if parts and parts[0] in LAYERS_APART else ""


@pytest.mark.parametrize("folder", [*LAYERS, APART])
def test_no_circle_in_a_folder(folder: str) -> None:
    """The modules of a folder have an order too, also for imports inside functions."""
    paths = [path for path in MODULES if _folder(path) == folder]
    # A folder's __init__ collects what its modules offer; they name each other.
    graph = {_name(path): set(_imports(path)) & NAMES for path in paths if path.stem != "__init__"}
    try:
        TopologicalSorter(graph).prepare()
    except CycleError as error:
        pytest.fail(f"a circle: {' <- '.join(error.args[1])}")


@pytest.mark.parametrize("path", MODULES, ids=lambda path: str(path.relative_to(PACKAGE)))
def test_a_library_is_used_in_one_place(path: Path) -> None:
    """A library that is confined to its place can be changed, upgraded and read about there."""
    for name in _imports(path):
        homes = HOMES.get(name.split(".")[0])
        assert homes is None or _folder(path) in homes, f"{_folder(path)} imports {name}, whose place is {homes}"


def test_every_module_stands_in_a_layer() -> None:
    """A new folder must be put into the order."""
    assert {_folder(path) for path in MODULES} == {*LAYERS, APART}


@pytest.mark.parametrize("path", PUBLIC, ids=lambda path: str(path.relative_to(PACKAGE)))
def test_what_a_package_offers_exists(path: Path) -> None:
    """`__all__` names what a package offers, and only existing names."""
    tree = ast.parse(path.read_text("utf-8"))
    offered: list[str] = []
    defined: set[str] = set()
    for node in tree.body:
        match node:
            case ast.Assign(targets=[ast.Name(id="__all__")], value=value):
                offered = ast.literal_eval(value)
            case ast.Assign(targets=targets):
                defined |= {target.id for target in targets if isinstance(target, ast.Name)}
            case ast.AnnAssign(target=ast.Name(id=name)) | ast.FunctionDef(name=name) | ast.ClassDef(name=name):
                defined.add(name)
            case ast.AsyncFunctionDef(name=name):
                defined.add(name)
            case ast.ImportFrom(names=names) | ast.Import(names=names):
                defined |= {alias.asname or alias.name for alias in names}
    assert sorted(offered) == sorted(set(offered))
    assert set(offered) <= defined


@pytest.mark.parametrize("path", MODULES, ids=lambda path: str(path.relative_to(PACKAGE)))
def test_values_are_records(path: Path) -> None:
    """A frozen dataclass compiles eight methods at each start, and its instances take four times as long to make."""
    if _folder(path) not in {"system", "dicom", "errors", APART}:  # those below the module of `record`
        assert "@dataclass(frozen=True, slots=True" not in path.read_text("utf-8")
