"""A new type of a component drops the inherited settings that it does not accept, and logs their names."""

from __future__ import annotations

from pathlib import Path

import pytest
from doc_pages import files, page

from chordate.config import load_config, section
from chordate.errors import ConfigError
from chordate.registry import BACKBONES

R50 = "faster-rcnn_r50_fpn_1x_coco"


@pytest.fixture
def written(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> Path:
    monkeypatch.chdir(tmp_path)
    return tmp_path


@pytest.mark.parametrize("how", ["file", "base", "options", "dict"])
def test_a_new_type_drops_the_inherited_settings_that_it_does_not_take(
    how: str, written: Path, caplog: pytest.LogCaptureFixture
) -> None:
    (written / "convnext.py").write_text(f'base = "{R50}"\nmodel = dict(backbone=dict(type="convnext_tiny"))\n')
    (written / "user.py").write_text('_base_ = ["convnext.py"]\ntrain = dict(epochs=1)\n')
    option = {"model.backbone.type": "convnext_tiny"}
    config, source = {
        "file": lambda: (load_config("convnext.py"), "convnext.py"),
        "base": lambda: (load_config("user.py"), "convnext.py"),
        "options": lambda: (load_config(R50, option), "--cfg-options"),
        "dict": lambda: (load_config({"base": R50, "model": {"backbone": {"type": "convnext_tiny"}}}), "config"),
    }[how]()
    assert config.model.backbone == {"type": "convnext_tiny", "frozen_stages": 1, "pretrained": True}
    (message,) = [record.getMessage() for record in caplog.records if record.name == "chordate"]
    assert message == (
        f"{source}: model.backbone.type=convnext_tiny does not accept norm; dropped the settings inherited from "
        "configs/_base_/models/faster-rcnn_fpn.py"
    )
    assert (
        BACKBONES.build(section(config, "model")["backbone"] | {"pretrained": False}).out_features["c2"].channels == 96
    )


def test_a_setting_in_the_same_dict_as_the_new_type_is_not_dropped(written: Path) -> None:
    (written / "a.py").write_text(f'base = "{R50}"\nmodel = dict(backbone=dict(type="convnext_tiny", out_nrm=True))\n')
    with pytest.raises(
        ConfigError, match=r'^a\.py: model\.backbone: unknown setting .*"out_nrm"; did you mean "out_norm"'
    ):
        BACKBONES.build(section(load_config("a.py"), "model")["backbone"])
    options = {"model.backbone.type": "convnext_tiny", "model.backbone.norm.eps": 1}
    with pytest.raises(
        ConfigError, match=r'^--cfg-options: model\.backbone: unknown setting of backbone ConvNeXt "norm"'
    ):
        BACKBONES.build(section(load_config(R50, options), "model")["backbone"])


def test_a_voc_dataset_over_a_coco_base(caplog: pytest.LogCaptureFixture) -> None:
    options = {"train_data.dataset.type": "VocDataset", "train_data.dataset.folder": "VOC2007"}
    own = {"type": "VocDataset", "folder": "VOC2007"}
    # VocDataset passes `filter_empty` on to CocoDataset.
    assert load_config(R50, options).train_data.dataset == {**own, "filter_empty": True}
    assert not caplog.records  # no message, since a packaged config sets the paths of COCO's files


@pytest.mark.parametrize("name", ["my_voc.py", "my_yolo.py", "my_ultralytics.py"])
def test_the_configs_of_own_data_drop_the_paths_of_coco_without_a_message(
    name: str, written: Path, caplog: pytest.LogCaptureFixture
) -> None:
    (written / name).write_text(files(page("docs/own_data.md"))[name], encoding="utf-8")
    cfg = load_config(name)
    assert not caplog.records
    for data in (cfg.train_data, cfg.val_data):
        assert "annotations" not in data.dataset and "2017" not in str(data.dataset.to_dict())


def test_own_settings_that_a_new_type_drops_are_always_named(written: Path, caplog: pytest.LogCaptureFixture) -> None:
    own = 'train_data = dict(dataset=dict(images="photos"))'
    (written / "own.py").write_text(f'base = "{R50}"\n{own}\n')
    (written / "voc.py").write_text('_base_ = "own.py"\ntrain_data = dict(dataset=dict(type="VocDataset"))\n')
    assert "images" not in load_config("voc.py").train_data.dataset
    what = "train_data.dataset.type=VocDataset does not accept images"
    assert caplog.messages == [f"voc.py: {what}; dropped the settings inherited from own.py"]


def test_another_variant_of_the_same_class_keeps_all_settings(caplog: pytest.LogCaptureFixture) -> None:
    backbone = load_config(R50, {"model.backbone.type": "resnet101"}).model.backbone
    assert backbone == {**load_config(R50).model.backbone, "type": "resnet101"}
    assert not caplog.records


def test_an_unknown_type_drops_nothing() -> None:
    assert "norm" in load_config(R50, {"model.backbone.type": "Resnet50"}).model.backbone


def test_optimizers_and_schedules_drop_what_a_new_type_does_not_take() -> None:
    config = load_config(R50, {"optimizer.type": "AdamW", "schedule.type": "cosine", "schedule.min_factor": 0.1})
    assert "momentum" not in config.optimizer
    assert {"type", "lr", "weight_decay", "base_batch_size"} <= set(config.optimizer)
    assert {"milestones", "gamma"}.isdisjoint(config.schedule)
    assert {"type", "min_factor", "warmup_iters"} <= set(config.schedule)
