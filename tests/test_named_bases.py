"""Config files inherit from config names, also from names of backbones that their own modules register."""

import json
import sys
from pathlib import Path

import pytest

from chordate.config import load_config
from chordate.errors import ConfigError
from chordate.registry import BACKBONES


@pytest.mark.parametrize("route", ["base", "option"])
def test_a_users_backbone_composes_once_its_module_is_imported(route, tmp_path, monkeypatch):
    module = f"my_backbones_of_{route}"  # no other test imports this module
    (tmp_path / f"{module}.py").write_text(
        "from chordate import BACKBONES\n"
        f"BACKBONES.register_variants({{'{route}_net': {{'type': 'ResNet', 'depth': 50, 'base_channels': 16}}}})\n"
    )
    name, imports = f"mask-rcnn_{route}_net_fpn_1x_coco", {"imports": [module]}
    (tmp_path / "mine.py").write_text(f'custom_imports = {imports}\nbase = "{name}"\n')
    monkeypatch.chdir(tmp_path)
    monkeypatch.syspath_prepend(tmp_path)
    assert module not in sys.modules
    try:
        config = load_config("mine.py") if route == "base" else load_config(name, {"custom_imports": imports})
        assert config.model.backbone.type == f"{route}_net"
    finally:
        BACKBONES.variants.pop(f"{route}_net", None)


@pytest.mark.parametrize("key", ["base", "_base_"])
@pytest.mark.parametrize("suffix", ["py", "json"])
def test_a_base_is_a_composed_name_wherever_the_config_is_addressed_from(key, suffix, tmp_path, monkeypatch):
    name = "mask-rcnn_convnext_tiny_fpn_1x_coco"
    file = tmp_path / "folder" / f"mine.{suffix}"
    file.parent.mkdir()
    file.write_text(f'{key} = "{name}"\n' if suffix == "py" else json.dumps({key: name}))
    found = {}
    for cwd, address in {file.parent: file.name, tmp_path: f"folder/{file.name}", Path.cwd(): file}.items():
        monkeypatch.chdir(cwd)
        found[cwd] = load_config(address).model.backbone.type
    assert set(found.values()) == {"convnext_tiny"} and len(found) == 3


def test_a_file_of_a_composed_name_may_inherit_from_the_name(tmp_path, monkeypatch):
    """A name without a suffix means the packaged or composed config, even if the current folder, or the folder of the
    inheriting config, contains a file or folder of this name."""
    name = "mask-rcnn_convnext_tiny_fpn_1x_coco"
    monkeypatch.chdir(tmp_path)
    for key in ("base", "_base_"):
        Path(f"{name}.py").write_text(f'{key} = "{name}"\ntrain = dict(seed=5)\n')
        Path(name).mkdir(exist_ok=True)
        assert load_config(name).train.get("seed", 0) == 0
        for address in (f"{name}.py", f"./{name}.py", tmp_path / f"{name}.py"):
            config = load_config(address)
            assert (config.model.backbone.type, config.train.seed) == ("convnext_tiny", 5)


@pytest.mark.parametrize(
    "text",
    [
        '_base_ = "imports.py"\nbase = "{}"\n',
        '_base_ = ["imports.py", "{}"]\n',
        '_base_ = "{}"\ncustom_imports = dict(imports=["MODULE"])\n',
        '{{"_base_": "{}", "custom_imports": {{"imports": ["MODULE"]}}}}',
    ],
    ids=["base", "_base_", "same_file", "same_json"],
)
def test_custom_imports_come_before_a_name_that_needs_them(text, tmp_path):
    module = tmp_path.name.replace("-", "_")
    (tmp_path / f"{module}.py").write_text(
        "from chordate import BACKBONES\n"
        f"BACKBONES.register_variants({{'{module}_net': {{'type': 'ResNet', 'depth': 50}}}})\n"
    )
    (tmp_path / "imports.py").write_text(f'custom_imports = dict(imports=["{module}"])\n')
    file = tmp_path / ("mine.json" if text.startswith("{{") else "mine.py")
    file.write_text(text.format(f"retinanet_{module}_net_fpn_1x_coco").replace("MODULE", module))
    try:
        assert load_config(file).model.backbone.type == f"{module}_net"
    finally:
        del BACKBONES.variants[f"{module}_net"]


@pytest.mark.parametrize("key", ["base", "_base_"])
def test_an_error_in_custom_imports_names_the_file_once(key, tmp_path, monkeypatch):
    monkeypatch.chdir(tmp_path)
    Path("mine.py").write_text(f'{key} = "retinanet_r50_fpn_1x_coco"\ncustom_imports = dict(imports=["no_such"])\n')
    with pytest.raises(ConfigError, match="^mine.py: custom_imports: no_such: ModuleNotFoundError") as error:
        load_config("mine.py")
    assert str(error.value).count("mine.py") == 1
