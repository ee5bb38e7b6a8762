"""The plan of the house holds: arrows point down, no circles, nothing heavy at the door, nothing forbidden inside."""

from __future__ import annotations

import ast
from pathlib import Path

import pytest

import medgen

ROOT = Path(medgen.__file__).parent
FLOORS = {
    "cli": 9,
    "report": 8, "feedback": 8,
    "training": 7, "inference": 7, "evaluation": 7,
    "phantoms": 6,
    "imaging": 5,
    "models": 4,
    "artifacts": 3,
    "nets": 2, "diffusion": 2,
    "prompts": 2,
    "presets": 1, "config": 1,
    "errors": 0, "memory": 0, "reporting": 0, "processors": 0, "read_ahead": 0, "spelling": 0, "structs": 0,
    "visible": 0, "": 0,
}  # fmt: skip
ROOMY = {"medgen/cli"}
"""Folders without a limit of files: the door has one a command."""
DOOR = {"cli", "config", "errors", "memory", "processors", "reporting", "read_ahead", "structs", "visible"}
HEAVY = {"torch", "numpy", "h5py", "pydicom", "skimage", "scipy", "nibabel", "PIL", "safetensors"}
MODULES = sorted(path for path in ROOT.rglob("*.py"))


def module_name(path: Path) -> str:
    parts = path.relative_to(ROOT.parent).with_suffix("").parts
    return ".".join(parts[:-1] if parts[-1] == "__init__" else parts)


def imports_of(path: Path, *, only_at_module_level: bool = False) -> set[str]:
    tree = ast.parse(path.read_text(encoding="utf-8"))
    found: set[str] = set()
    nodes = list(ast.walk(tree)) if not only_at_module_level else _module_level(tree)
    for node in nodes:
        if isinstance(node, ast.Import):
            found |= {alias.name for alias in node.names}
        elif isinstance(node, ast.ImportFrom) and node.module:
            found.add(node.module)
            found |= {f"{node.module}.{alias.name}" for alias in node.names}
    return found


def _module_level(tree: ast.Module) -> list[ast.AST]:
    """Statements that run on import; not what stands under `if TYPE_CHECKING`."""
    nodes: list[ast.AST] = []
    for statement in tree.body:
        if isinstance(statement, ast.If) and "TYPE_CHECKING" in ast.dump(statement.test):
            continue
        nodes.append(statement)
    return nodes


def room_of(name: str) -> str:
    parts = name.split(".")
    return parts[1] if len(parts) > 1 else ""


PATHS = {module_name(path): path for path in MODULES}
GRAPH = {module_name(path): {name for name in imports_of(path) if name.startswith("medgen")} for path in MODULES}
GRAPH = {name: {other for other in found if other in GRAPH and other != name} for name, found in GRAPH.items()}


@pytest.mark.parametrize("name", sorted(GRAPH))
def test_arrows_point_down(name: str) -> None:
    room = room_of(name)
    assert room in FLOORS, f"{name}: a room that the plan does not know"
    for other in GRAPH[name]:
        there = room_of(other)
        if there == room:
            continue
        assert FLOORS[there] < FLOORS[room], f"{name} imports {other}: an arrow that does not point down"


def test_no_circles() -> None:
    done: set[str] = set()

    def visit(name: str, path: tuple[str, ...]) -> None:
        assert name not in path, " -> ".join([*path[path.index(name) :], name])
        if name in done:
            return
        for other in sorted(GRAPH[name]):
            if not name.startswith(f"{other}."):  # a package's own __init__
                visit(other, (*path, name))
        done.add(name)

    for name in sorted(GRAPH):
        visit(name, ())


@pytest.mark.parametrize("path", [p for p in MODULES if room_of(module_name(p)) in DOOR], ids=str)
def test_nothing_heavy_at_the_door(path: Path) -> None:
    at_import = imports_of(path, only_at_module_level=True)
    assert not {name.split(".")[0] for name in at_import} & HEAVY
    rooms = {room_of(name) for name in at_import if name in GRAPH and not is_options(name)}
    assert rooms <= DOOR | {""}, "rooms are entered inside the command"


def is_options(name: str) -> bool:
    """Modules of options structs, which commands are built from."""
    return name.rpartition(".")[2].endswith("options")


AT_THE_DOOR = {
    name
    for path in MODULES
    if room_of(module_name(path)) == "cli"
    for name in imports_of(path, only_at_module_level=True)
    if name in GRAPH and is_options(name)
}


@pytest.mark.parametrize("name", sorted(AT_THE_DOOR))
def test_options_are_light(name: str) -> None:
    """What a command file imports of a room at its top loads nothing heavy, directly or not."""
    waiting, seen = [name], set()
    while waiting:
        one = waiting.pop()
        seen.add(one)
        at_import = imports_of(PATHS[one], only_at_module_level=True)
        assert not {imported.split(".")[0] for imported in at_import} & HEAVY, one
        waiting += [imported for imported in at_import if imported in GRAPH and imported not in seen]


def test_one_function_says_did_you_mean() -> None:
    assert [name for name, path in PATHS.items() if "difflib" in imports_of(path)] == ["medgen.config"]


@pytest.mark.parametrize("path", MODULES, ids=str)
def test_nothing_unpickles(path: Path) -> None:
    names = imports_of(path)
    assert not names & {"pickle", "dill", "joblib", "cloudpickle", "shelve", "marshal"}
    for node in ast.walk(ast.parse(path.read_text(encoding="utf-8"))):
        if isinstance(node, ast.Call) and isinstance(node.func, ast.Attribute):
            target = ast.unparse(node.func)
            assert target != "torch.load"
            assert not any(keyword.arg == "allow_pickle" for keyword in node.keywords)


@pytest.mark.parametrize("path", MODULES, ids=str)
def test_files_stay_readable(path: Path) -> None:
    assert len(path.read_text(encoding="utf-8").splitlines()) <= 320, "split it: a module's name says what is in it"


@pytest.mark.parametrize("folder", sorted({path.parent for path in MODULES}), ids=str)
def test_folders_stay_one_house(folder: Path) -> None:
    if folder.relative_to(ROOT.parent).as_posix() in ROOMY:
        return
    files = [path.name for path in folder.glob("*.py") if path.name != "__init__.py"]
    assert len(files) <= 16, "two houses in one folder: part them by what they are about"


def test_folders_of_a_room_have_no_circles() -> None:
    folders: dict[str, set[str]] = {}
    for name, found in GRAPH.items():
        here = name.rpartition(".")[0]
        if room_of(name) not in ("imaging", "training", "phantoms"):
            continue
        for other in found:
            there = other.rpartition(".")[0]
            if there != here and room_of(other) == room_of(name) and there.count(".") > 1 and here.count(".") > 1:
                folders.setdefault(here, set()).add(there)
    for here, found in folders.items():
        for there in found:
            assert here not in folders.get(there, set()), f"{here} and {there} import each other"
