"""The structure of the package: one import direction, and each library in its place."""

import ast
from collections.abc import Iterator
from pathlib import Path

import pytest

PACKAGE = Path(__file__).parent.parent / "asyncimport"

LAYERS = {
    "errors": 0,
    "interpreter": 0,
    "model": 0,
    "dicom": 0,
    "disks": 0,
    "digests": 1,
    "outputs": 1,
    "tables": 1,
    "texts": 1,
    "containers": 1,
    "credentials": 2,
    "demographics": 2,
    "ends": 2,
    "events": 2,
    "headers": 2,
    "limits": 2,
    "manifest": 2,
    "binding": 3,
    "replies": 2,
    "retry": 2,
    "routing": 2,
    "settings": 2,
    "stop": 2,
    "attachments": 3,
    "journal": 3,
    "source": 3,
    "xnat": 3,
    "describing": 4,
    "doctor": 4,
    "enclosing": 4,
    "eventlog": 4,
    "pipeline": 4,
    "plan": 4,
    "progress": 4,
    "receipts": 4,
    "verification": 4,
    "cli": 5,
}
APART = "testserver"
HOMES = {
    "aiohttp": {"xnat", APART},
    "yarl": {"xnat"},
    "pydicom": {"dicom", APART},
    "aiofiles": {"source", APART},
    "sqlite3": {"journal"},
    "filelock": {"journal"},
    "psutil": {"disks"},
    "xxhash": {"digests"},
    "regex": {"routing"},
    "defusedxml": {"replies", APART},
    "typer": {"cli"},
    "keyring": {"credentials"},
    "tomlkit": {"credentials"},
    "rich": {"cli"},
    "platformdirs": {"cli"},
}
MODULES = sorted(path for path in PACKAGE.rglob("*.py") if path.parent != PACKAGE or not path.stem.startswith("__"))


def _room(path: Path) -> str:
    """Return the module or subpackage that a file belongs to."""
    return path.relative_to(PACKAGE).parts[0].removesuffix(".py")


def _imports(path: Path) -> Iterator[str]:
    """Yield the absolute names of all modules that a file imports."""
    package = ["asyncimport", *path.relative_to(PACKAGE).parts[:-1]]
    for node in ast.walk(ast.parse(path.read_text("utf-8"))):
        if isinstance(node, ast.Import):
            yield from (alias.name for alias in node.names)
        elif isinstance(node, ast.ImportFrom):
            base = package[: len(package) - node.level + 1] if node.level else []
            stem = ".".join([*base, *([node.module] if node.module else [])])
            # `from asyncimport import replies` imports a module, `from asyncimport.errors import X` does not.
            yield from (f"{stem}.{alias.name}" for alias in node.names) if stem == "asyncimport" else (stem,)


@pytest.mark.parametrize("path", MODULES, ids=lambda path: str(path.relative_to(PACKAGE)))
def test_a_module_imports_only_from_layers_below(path: Path) -> None:
    """One direction: whoever reads a module need not know those above it, and siblings can change alone."""
    room = _room(path)
    for name in _imports(path):
        parts = name.split(".")
        if parts[0] != "asyncimport" or len(parts) < 2 or parts[1] in {room, "__version__"}:
            continue
        other = parts[1]
        if room == APART:
            pytest.fail(f"the test XNAT imports {name}: one misunderstanding could hide in both")
        if other == APART:
            assert room == "cli", f"{room} imports the test XNAT"
            continue
        below = LAYERS[other] < LAYERS[room]
        assert below, f"{room} (layer {LAYERS[room]}) imports {name} (layer {LAYERS[other]})"


@pytest.mark.parametrize("path", MODULES, ids=lambda path: str(path.relative_to(PACKAGE)))
def test_a_library_is_used_in_one_place(path: Path) -> None:
    """A library that is confined to its place can be changed, upgraded and read about there."""
    for name in _imports(path):
        homes = HOMES.get(name.split(".")[0])
        assert homes is None or _room(path) in homes, f"{_room(path)} imports {name}, whose place is {homes}"


def test_every_module_has_a_layer() -> None:
    """A new module is put into the picture when it is made."""
    assert {_room(path) for path in MODULES} == set(LAYERS) | {APART}


@pytest.mark.parametrize("path", MODULES, ids=lambda path: str(path.relative_to(PACKAGE)))
def test_what_a_module_offers_exists(path: Path) -> None:
    """`__all__` names what is public, and only what is there."""
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
