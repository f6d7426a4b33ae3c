"""Layered imports: modules import only their own or lower layers; backbones, necks and heads are independent."""

import ast
from pathlib import Path

import pytest

ROOT = Path(__file__).parents[1]
LAYERS = [
    [
        *(
            "text",
            "literals",
            "errors",
            "allowed_values",
            "composition",
            "signatures",
            "arguments",
            "plugins",
            "registry",
        ),
        *(
            "published",
            "config_templates",
            "unknown_names",
            "config_names",
            "custom_imports",
            "foreign_configs",
            "config_files",
            "config",
            "section_names",
            "libraries",
            "distributed",
            "launch",
        ),
        *("progress", "log_once", "failures", "signals", "work_dir_lock"),
    ],
    ["structures", "contracts", "head_contracts", "model_contracts", "pixel_contracts"],
    ["ops"],
    ["backbones", "necks", "heads"],
    ["models", "data", "evaluation", "weights"],
    ["training", "visualization"],
    ["api", "drawing", "integrations", "migration", "deployment"],
    ["cli", "tools", "__main__"],
]
LAYER = {name: number for number, names in enumerate(LAYERS) for name in names}
PLUGS = {"backbones", "necks", "heads"}


def package_of(path: Path) -> str:
    parts = path.relative_to(ROOT).parts
    return Path(parts[1] if parts[0] == "chordate" else parts[0]).stem


def imports_of(path: Path) -> list[str]:
    """Names of Chordate's subpackages and modules that a file imports, also inside functions."""
    imported = []
    for node in ast.walk(ast.parse(path.read_text())):
        names = [alias.name for alias in node.names] if isinstance(node, ast.Import) else []
        if isinstance(node, ast.ImportFrom):
            assert node.level == 0, f"{path}: relative import"
            module = node.module or ""
            names = [f"chordate.{alias.name}" for alias in node.names] if module == "chordate" else [module]
        imported += [name.split(".")[1] for name in names if name.startswith("chordate.")]
    return imported


SOURCES = [
    path
    for folder in ("chordate", "backbones", "necks", "heads", "tools")
    for path in sorted((ROOT / folder).rglob("*.py"))
    if path != ROOT / "chordate/__init__.py"
]


@pytest.mark.parametrize("path", SOURCES, ids=lambda path: str(path.relative_to(ROOT)))
def test_imports_only_go_down(path):
    package = package_of(path)
    for imported in imports_of(path):
        if imported == "__version__" or imported[0].isupper():
            continue
        assert LAYER[imported] <= LAYER[package], (
            f"{package} (layer {LAYER[package]}) imports {imported} from a higher layer"
        )
        if package in PLUGS:
            assert imported == package or imported not in PLUGS, (
                f"{package} imports {imported}; they must be independent"
            )
    if package == "models":
        assert not PLUGS & set(imports_of(path)), "models build their parts only through the registry"


def test_every_subpackage_has_a_layer():
    assert {package_of(path) for path in SOURCES} <= set(LAYER)


def test_file_names_are_unique():
    """Files in tools/ (named after commands) and integrations/ (named after libraries, as in formats/) are exempt."""
    folders = ("tools", "integrations")
    names = [path.name for path in SOURCES if path.parts[-2] not in folders and path.name != "__init__.py"]
    assert sorted(names) == sorted(set(names))


def test_no_file_is_empty():
    assert not [path for path in SOURCES if not path.read_text().strip()]
