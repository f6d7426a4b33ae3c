"""The layers of the package: each imports only lower layers; backbones, necks and heads never import each other."""

import ast
from pathlib import Path

import pytest

ROOT = Path(__file__).parents[1]
FLOORS = [
    [
        *("text", "errors", "allowed_values", "composition", "arguments", "registry", "published"),
        *(
            "config_templates",
            "unknown_names",
            "config_names",
            "custom_imports",
            "config_files",
            "config",
            "section_names",
            "libraries",
            "distributed",
            "launch",
        ),
        *("progress", "log_once"),
    ],
    ["structures", "contracts", "head_contracts", "model_contracts"],
    ["ops"],
    ["backbones", "necks", "heads"],
    ["models", "data", "evaluation", "weights"],
    ["training", "visualization"],
    ["api", "integrations"],
    ["cli", "tools", "__main__"],
]
FLOOR = {name: number for number, names in enumerate(FLOORS) for name in names}
PLUGS = {"backbones", "necks", "heads"}


def room_of(path: Path) -> str:
    parts = path.relative_to(ROOT).parts
    return Path(parts[1] if parts[0] == "chordate" else parts[0]).stem


def imports_of(path: Path) -> list[str]:
    """The subpackages and modules of Chordate that a file imports, anywhere in the file."""
    found = []
    for node in ast.walk(ast.parse(path.read_text())):
        names = [alias.name for alias in node.names] if isinstance(node, ast.Import) else []
        if isinstance(node, ast.ImportFrom):
            assert node.level == 0, f"{path}: relative import"
            module = node.module or ""
            names = [f"chordate.{alias.name}" for alias in node.names] if module == "chordate" else [module]
        found += [name.split(".")[1] for name in names if name.startswith("chordate.")]
    return found


SOURCES = [
    path
    for folder in ("chordate", "backbones", "necks", "heads", "tools")
    for path in sorted((ROOT / folder).rglob("*.py"))
    if path != ROOT / "chordate/__init__.py"
]


@pytest.mark.parametrize("path", SOURCES, ids=lambda path: str(path.relative_to(ROOT)))
def test_imports_only_go_down(path):
    room = room_of(path)
    for imported in imports_of(path):
        if imported == "__version__" or imported[0].isupper():
            continue
        assert FLOOR[imported] <= FLOOR[room], f"{room} (floor {FLOOR[room]}) imports {imported} above it"
        if room in PLUGS:
            assert imported == room or imported not in PLUGS, f"{room} imports {imported}; they must be independent"
    if room == "models":
        assert not PLUGS & set(imports_of(path)), "models reach parts only through the registry"


def test_every_room_has_a_floor():
    assert {room_of(path) for path in SOURCES} <= set(FLOOR)


def test_no_file_name_stands_twice():
    names = [path.name for path in SOURCES if path.parts[-2] != "tools" and path.name != "__init__.py"]
    assert sorted(names) == sorted(set(names))


def test_no_file_is_empty():
    assert not [path for path in SOURCES if not path.read_text().strip()]
