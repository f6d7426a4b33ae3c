"""Configs are found by name or path, composed and overridden; errors suggest a remedy."""

import pytest

from chordate.config import list_configs, load_config, packaged_configs
from chordate.errors import ConfigError

R50 = "faster-rcnn_r50_fpn_1x_coco"


def test_a_packaged_config_is_found_by_name_from_any_folder(tmp_path, monkeypatch):
    monkeypatch.chdir(tmp_path)
    assert load_config(R50).model.type == "TwoStageDetector"
    assert R50 in list_configs("faster-rcnn_r50*")


def test_base_files_are_not_listed_as_models():
    assert not any("_base_" in str(path.parent.name) for path in packaged_configs().values())
    assert "runtime" not in packaged_configs()


def test_a_users_config_inherits_from_a_packaged_one(tmp_path):
    file = tmp_path / "mine.py"
    file.write_text(f'base = "{R50}"\noptimizer = dict(lr=0.123)\n')
    mine = load_config(file)
    assert mine.optimizer.lr == 0.123
    assert mine.optimizer.momentum == load_config(R50).optimizer.momentum
    assert "base" not in mine


def test_options_override():
    cfg = load_config(R50, {"optimizer.lr": 0.5, "model.backbone.type": "resnet18"})
    assert cfg.optimizer.lr == 0.5
    assert cfg.model.backbone.type == "resnet18"


def test_a_misspelled_config_name_suggests_similar_names():
    with pytest.raises(ConfigError, match=f'"faster-rcnn_r50_fpn_1x": the name is incomplete; did you mean .*"{R50}"'):
        load_config("faster-rcnn_r50_fpn_1x")


@pytest.mark.parametrize("family", ["fasterrcnn", "maskrcnn", "keypointrcnn", "retinanet"])
def test_torchvisions_name_of_a_detector_suggests_its_config(family):
    near = f"{family.replace('rcnn', '-rcnn')}_r(esnet)?50_fpn_torchvision"
    with pytest.raises(ConfigError, match=f'did you mean .*"{near}"'):
        load_config(f"{family}_resnet50_fpn")


def test_a_misspelled_file_suggests_files_of_its_folder(tmp_path):
    (tmp_path / "mine.py").write_text("")
    with pytest.raises(ConfigError, match=r'no such config file; did you mean ".*/mine\.py"\?$'):
        load_config(tmp_path / "mime.py")


def test_misspelled_section_of_an_override_is_an_error():
    with pytest.raises(ConfigError, match='unknown section "optimiser"; did you mean "optimizer"'):
        load_config(R50, {"optimiser.lr": 0.1})


@pytest.mark.parametrize(
    ("option", "expected"),
    [
        ("lr", r"`lr` is a setting, not a section: write optimizer\.lr$"),
        ("epochs", r"write train\.epochs$"),
        ("train_cfg.max_epochs", r"`train_cfg\.max_epochs` is called `train\.epochs` here"),
        ("optim_wrapper.optimizer.lr", r"`optim_wrapper\.optimizer\.lr` is called `optimizer\.lr` here"),
        ("train_dataloader.batch_size", r"`train_dataloader` is called `train_data` here"),
    ],
)
def test_a_setting_in_the_wrong_place_names_the_right_place(option, expected):
    with pytest.raises(ConfigError, match=expected):
        load_config(R50, {option: 1})


def test_a_missing_file_whose_name_resembles_a_packaged_one_names_that_one(tmp_path):
    with pytest.raises(ConfigError, match=f'no such config file; did you mean "{R50}"'):
        load_config(tmp_path / f"{R50}x.py")


def test_a_config_that_does_not_run_is_named(tmp_path):
    file = tmp_path / "mine.py"
    file.write_text("model = dict(type=)\n")
    with pytest.raises(ConfigError, match=r"mine\.py: SyntaxError"):
        load_config(file)


def test_custom_imports_find_modules_beside_the_config(tmp_path):
    (tmp_path / "beside_the_config.py").write_text("imported = True\n")
    file = tmp_path / "mine.py"
    file.write_text('custom_imports = dict(imports=["beside_the_config"])\n')
    load_config(file)
    import sys

    assert sys.modules["beside_the_config"].imported


def test_a_missing_custom_import_is_named(tmp_path):
    file = tmp_path / "mine.py"
    file.write_text('custom_imports = dict(imports=["no_such_module_anywhere"])\n')
    with pytest.raises(ConfigError, match="no_such_module_anywhere"):
        load_config(file)


@pytest.mark.parametrize("given", ['["a_module"]', 'dict(modules=["a_module"])'])
def test_malformed_custom_imports_are_an_error_with_the_right_form(tmp_path, given):
    file = tmp_path / "mine.py"
    file.write_text(f"custom_imports = {given}\n")
    with pytest.raises(ConfigError, match=r"mine\.py: write custom_imports = dict\(imports="):
        load_config(file)


def test_a_misspelled_section_of_a_file_is_an_error(tmp_path):
    """If the section were ignored, training would use the defaults."""
    file = tmp_path / "mine.py"
    file.write_text(f'base = "{R50}"\n_side = 640  # names with an underscore belong to the file\nmodle = dict()\n')
    with pytest.raises(ConfigError, match=r'mine\.py: unknown section "modle"; did you mean "model"'):
        load_config(file)
