"""Mistakes in configs and calls raise one-line errors with the file or option, the setting and the remedy."""

from __future__ import annotations

import re
from pathlib import Path
from typing import Any

import numpy as np
import pytest
import timm.optim
import torch
from torch import nn

import chordate
from chordate.arguments import Names, validate_arguments, validate_value
from chordate.cli.main import main
from chordate.config import check_plain, load_config, section
from chordate.errors import ConfigError
from chordate.head_contracts import InstanceHead, ProposalHead, RegionHead, RoIHead
from chordate.registry import HEADS, check_contract
from chordate.training.optimizer import UNSUITABLE, optimizer_class

DEMO = "mask-rcnn_r18_fpn_demo_shapes"
TRAIN = {"train.epochs": "None", "train.iterations": "1", "train.save_best": "None", "train.tensorboard": "False"}
PARTS = {
    "model.box.type=MaskHead": r'model\.box: "MaskHead" does not implement RoIHead: .*sample\(proposals, targets\)',
    "model.box.type=RPNHead": r'model\.box: "RPNHead" does not implement RoIHead: it has no detections_per_image',
    "model.mask.type=BoxHead": r'model\.mask: "BoxHead" does not implement InstanceHead: .*\(features, detections\)',
    "model.rpn.type=BoxHead": r'model\.rpn: "BoxHead" does not implement ProposalHead: it has no forward\(features\)',
    "model.rpn.type=RetinaHead": r'model\.rpn: "RetinaHead" does not implement ProposalHead: .*\(.*sizes, training\)',
    "model.backbone.type=FPN": r'model\.backbone: unknown backbone "FPN"',
    "model.type=None": r"model: type must be the name of a registered model, got None",
    "model.backbone.type=None": r"model\.backbone: type must be the name of a registered backbone, got None",
    "model.box.trunk.type=5": r"model\.box\.trunk: type must be the name of a registered head, got 5",
    "model.rpn=None": r"model\.rpn must be a string or a dict or a Module, got None",
    "model.backbone=resnet19": r'model\.backbone: unknown backbone "resnet19"',
    "model.backbone.norm=Bn": r'model\.backbone\.norm: unknown norm "Bn"',
    "model.backbone.pretrained=no.pth": r"model\.backbone\.pretrained: no checkpoint no\.pth",
    "model.rpn.anchors.ratios=[]": r"model\.rpn\.anchors\.ratios must be a list .* with at least 1 item",
    "model.rpn.iou_thresholds=[0.7,0.3]": r"model\.rpn\.iou_thresholds must be a list of 2 non-decreasing numbers",
    "model.neck.inputs=[]": r"model\.neck\.inputs must be a list of strings with at least 1 item or None, got \[\]",
    "model.rpn.anchors.sizes_per_stride=[]": r"model\.rpn\.anchors\.sizes_per_stride must be a list",
    "fallback_meta.classes=[a,a]": r"fallback_meta\.classes must be a list of one or more distinct names",
    "fallback_meta.classes=[]": r"fallback_meta\.classes must be",
}
SETTINGS = {
    "optimizer.type=Addam": r'optimizer.*: unknown optimizer "Addam"; did you mean "Adam"',
    "optimizer.type=LBFGS": r'optimizer.*: optimizer "LBFGS" is not supported: it needs a closure .*; choose another',
    "optimizer.betas=[1]": r"optimizer\.betas must be a list of 2 items, got \[1\]",
    "optimizer._delete_=yes": r'optimizer\._delete_ must be True or False, got "yes"',
    "metric.type=None": r"metric: type must be the name of a registered metric, got None",
    "callbacks=[EarlyStopping]": r"callbacks\.0: callback EarlyStopping needs monitor",
    "callbacks=[None]": r"callbacks\.0: type must be the name of a registered callback, got None",
    "train_data.dataset=None": r"train_data\.dataset must be a string or a dict or a Dataset, got None",
    "train_data.dataset.type=None": r"train_data\.dataset: type must be the name of a registered dataset, got None",
    "train_data.dataset.classes=[]": r"train_data\.dataset\.classes must be a list of one or more distinct names",
    "train_data.dataset.classes=[circle,circle]": r"train_data\.dataset\.classes must be .* distinct names",
    "train_data.pipeline=[None]": r"train_data\.pipeline\.0: type must be the name of a registered transform, got None",
    "train_data.pipeline=RandomHorizontalFlip": r"train_data\.pipeline must be a list",
    "train_data.class_balanced=2": r"train_data\.class_balanced must be > 0 and ≤ 1 or None, got 2",
    "train.save_best=nothing": r'train\.save_best: unknown metric "nothing"',
    "train.load_from=no.pth": r"train\.load_from: no checkpoint no\.pth",
    "train.seed=99999999999999999999": r"train\.seed must be",
    "train.amp=fp16": r"train\.amp: fp16",
    "model.type=ImageClassifier val_data=None": r"ImageClassifier trains on ClassTargets, but the dataset has",
}
# Mistakes that two settings cause together; the message names both settings, but no file or option.
WITHOUT_SOURCE = {"model.type=ImageClassifier val_data=None"}


@pytest.mark.parametrize("option", PARTS)
def test_a_part_that_does_not_fit_names_its_setting(option: str) -> None:
    key, _, text = option.partition("=")
    value = {"None": None, "5": 5, "[]": [], "[a,a]": ["a", "a"], "[0.7,0.3]": [0.7, 0.3]}.get(text, text)
    config = load_config(DEMO, {key: value})
    with pytest.raises(chordate.ChordateError) as error:
        chordate.build_model(config, num_classes=2)
    assert re.match(rf"--cfg-options: {PARTS[option]}", str(error.value)), str(error.value)
    assert "\n" not in str(error.value)


@pytest.mark.parametrize("option", SETTINGS)
def test_training_reports_a_mistake_in_one_line(
    option: str, shapes: Path, tmp_path: Path, capsys: pytest.CaptureFixture[str]
) -> None:
    if option == "train.amp=fp16" and torch.cuda.is_available():
        pytest.skip("fp16 is an error only without a GPU")
    options = {**TRAIN, **dict(one.split("=", 1) for one in option.split())}
    arguments = ["--data-root", str(shapes), "--work-dir", str(tmp_path), "--cfg-options"]
    assert main(["train", DEMO, *arguments, *(f"{key}={value}" for key, value in options.items())]) == 2
    lines = [line for line in capsys.readouterr().err.splitlines() if line.startswith("chordate train: ")]
    assert len(lines) == 1
    source = "" if option in WITHOUT_SOURCE else "--cfg-options: "
    assert re.match(rf"chordate train: {source}{SETTINGS[option]}", lines[0]), lines[0]


def test_save_best_needs_an_evaluation(shapes: Path, tmp_path: Path) -> None:
    config = load_config(DEMO, {"val_data": None, "train.save_best": "bbox_AP"})
    with pytest.raises(ConfigError, match=r"^--cfg-options: train\.save_best needs val_data"):
        chordate.train(config, data_root=shapes, work_dir=tmp_path)


@pytest.mark.parametrize(
    ("name", "contract"),
    [("RPNHead", ProposalHead), ("BoxHead", RegionHead), ("CascadeHead", RoIHead), ("MaskHead", InstanceHead)],
)
def test_a_head_fulfills_its_own_contract_and_no_other(name: str, contract: type) -> None:
    cls = HEADS.get(name)
    part = cls.__new__(cls)
    nn.Module.__init__(part)
    part.nms_threshold = part.detections_per_image = 1
    check_contract(part, contract)
    for other in {ProposalHead, RegionHead, InstanceHead} - {contract, RegionHead if contract is RoIHead else None}:
        with pytest.raises(ConfigError, match=f"does not implement {other.__name__}"):
            check_contract(part, other)


def test_additional_arguments_are_allowed_if_they_have_defaults() -> None:
    class Lenient:
        def loss(self, features: Any, rois: Any, targets: Any, weight: float = 1.0) -> None: ...
        def predict(self, *args: Any) -> None: ...

    class Demanding(Lenient):
        def loss(self, features: Any, rois: Any, targets: Any, weight: float) -> None: ...  # type: ignore[override]

    check_contract(Lenient(), InstanceHead)
    with pytest.raises(
        ConfigError, match=r"does not implement InstanceHead: it has no loss\(features, rois, targets\)"
    ):
        check_contract(Demanding(), InstanceHead)


@pytest.fixture
def written(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> Path:
    monkeypatch.chdir(tmp_path)
    return tmp_path


def test_numpy_and_torch_numbers_become_python_numbers_and_the_config_can_be_saved(written: Path) -> None:
    (written / "a.py").write_text(
        "import numpy as np, torch, pathlib\n"
        "_rng = np.random.default_rng(0)  # the file's own\n"
        "optimizer = dict(lr=np.float32(0.5), betas=(np.float64(0.25), torch.tensor(0.5)))\n"
        "train = dict(epochs=np.int64(3), tensorboard=np.bool_(True), load_from=pathlib.Path('x') / 'y.pt')\n"
        "model = dict(rpn=dict(anchors=dict(ratios=np.array([0.5, 1.0]))))\n"
    )
    config = load_config("a.py")
    assert config.optimizer == {"lr": 0.5, "betas": (0.25, 0.5)}
    assert config.train == {"epochs": 3, "tensorboard": True, "load_from": "x/y.pt"}
    assert config.model.rpn.anchors.ratios == [0.5, 1.0]
    assert {type(value) for value in config.train.values()} == {int, bool, str}
    config.dump("b.py")
    assert load_config("b.py").to_dict() == config.to_dict()


@pytest.mark.parametrize(
    ("line", "message"),
    [
        ("optimizer = dict(lr=object())", r"a\.py: optimizer\.lr is <object object at .*; a config may contain only"),
        ("train_data = dict(pipeline=[dict(f=lambda x: x)])", r"a\.py: train_data\.pipeline\.0\.f is <function"),
        ("class Mine: pass\nmodel = dict(type=Mine)", r'a\.py: model\.type is .*register .*, model\.type="Mine"'),
        ("fallback_meta = dict(extra=dict(a={1, 2}))", r"a\.py: fallback_meta\.extra\.a is \{1, 2\}"),
    ],
)
def test_other_objects_in_a_config_file_are_refused(line: str, message: str, written: Path) -> None:
    (written / "a.py").write_text(line + "\n")
    with pytest.raises(ConfigError, match=rf"^{message}"):
        load_config("a.py")


def test_a_config_of_objects_is_built_but_not_trained() -> None:
    """Training saves its config to the log folder, and a config that contains a module cannot be saved."""
    config = load_config({"model": {"type": "ImageClassifier", "backbone": chordate.build_backbone("resnet20_cifar")}})
    assert chordate.build_model(config, num_classes=2).classes == ("class 0", "class 1")
    with pytest.raises(ConfigError, match=r"^config: model\.backbone is .*; a config may contain only"):
        check_plain(config)


@pytest.mark.parametrize(
    ("text", "message"),
    [
        (b"# \xff\n", "not UTF-8 text"),
        (b"import sys; sys.exit('no GPU')", "SystemExit: no GPU"),
        (b"1 / 0", "ZeroDivisionError"),
        (b"base = 5", "base must name a packaged config or a file, got 5"),
        (b"base = ''", 'base must name a packaged config or a file, got ""'),
        (b"base = ['x']", "base must name"),
        (b"base = '..'", r"\.\. is a folder; name a config file"),
        (b"base = 'x' * 5000", 'unknown config "xxx'),
        (b"_base_ = 5", "_base_ must name one or more config files or packaged configs, got 5"),
        (b"_base_ = [None]", "_base_ must name .*, got None"),
        (b"_base_ = ''", "_base_ must name"),
        (b"_base_ = '.'", "a folder; name a config file"),
        (b"_base_ = 2 * 'x'", "_base_ must be a string or list of strings, not an expression"),
        (b"train = dict()\ntrain['x'] = train", "a setting contains itself"),
        (b"custom_imports = dict(imports=5)", r"write custom_imports = dict\(imports=\[.*got \{'imports': 5\}"),
        (b"custom_imports = dict(imports=[5])", "write custom_imports"),
        (b"custom_imports = dict(imports=['no_such'])", "custom_imports: no_such: ModuleNotFoundError"),
        (b"custom_imports = dict(imports=['leaves_at_once'])", "custom_imports: leaves_at_once: SystemExit: 3"),
        (b"custom_imports = dict(imports=['fails'])", "custom_imports: fails: ValueError: bad luck"),
    ],
)
def test_a_config_file_that_cannot_be_read_is_a_one_line_error(text: bytes, message: str, written: Path) -> None:
    (written / "leaves_at_once.py").write_text("raise SystemExit(3)\n")
    (written / "fails.py").write_text("raise ValueError('bad\\nluck')\n")
    (written / "a.py").write_bytes(text)
    with pytest.raises(ConfigError) as error:
        load_config("a.py")
    assert re.match(rf"a\.py: .*{message}", str(error.value)), str(error.value)
    assert "\n" not in str(error.value)


@pytest.mark.parametrize(
    ("call", "arguments", "message"),
    [
        (chordate.build_model, {"config": 5}, "build_model: config must be .*, got 5"),
        (chordate.build_model, {"config": {}}, "section `model` is None"),
        (chordate.build_model, {"config": DEMO, "checkpoint": [1]}, r"build_model: checkpoint must be .*, got \[1\]"),
        (
            chordate.build_model,
            {"config": DEMO, "classes": ["a", "a"]},
            "build_model: classes must be .* distinct names",
        ),
        (chordate.build_model, {"config": DEMO, "meta": 5}, "build_model: meta must be a DatasetMeta or None, got 5"),
        (chordate.build_backbone, {"backbone": 5}, "build_backbone: backbone must be a string or a dict, got 5"),
        (chordate.build_backbone, {"backbone": "resnet50", "norm": 5}, "backbone ResNet: norm must be"),
        (chordate.build_backbone, {"backbone": {"type": None}}, "must be the name of a registered backbone, got None"),
        (chordate.load_config, {"config": 5}, "load_config: config must be"),
        (chordate.load_config, {"config": DEMO, "options": ["a=1"]}, "load_config: options must be a dict"),
        (chordate.train, {"config": 5}, "train: config must be"),
        (chordate.train, {"config": DEMO, "callbacks": 5}, "train: callbacks must be a list"),
        (chordate.train, {"config": DEMO, "resume": 5}, "train: resume must be"),
        (chordate.predict, {"model": 5, "images": "x.jpg"}, "predict: model must be a Model, got 5"),
    ],
    ids=lambda value: str(value)[:40] if isinstance(value, dict) else "",
)
def test_invalid_arguments_are_one_line_errors(call: Any, arguments: dict[str, Any], message: str) -> None:
    with pytest.raises(ConfigError, match=message) as error:
        call(**arguments)
    assert "\n" not in str(error.value)


def test_several_misspelled_settings_list_the_known_ones_once() -> None:
    def plug(convs: int = 1, levels: int = 2) -> None: ...

    with pytest.raises(ConfigError) as error:
        validate_arguments(plug, {"cons": 1, "xyz": 2}, "plug")
    assert str(error.value).count("Known: convs, levels") == 1
    assert '"cons"; did you mean "convs"?' in str(error.value) and '"xyz"' in str(error.value)


def test_an_annotation_may_be_a_class_and_text_is_no_list() -> None:
    def plug(part: str | nn.Module = "x", shape: Any = None, names: Names = ("a",)) -> None: ...

    module = nn.Identity()
    assert validate_arguments(plug, {"part": module}, "plug")["part"] is module
    with pytest.raises(ConfigError, match="part must be a string or a Module, got 5"):
        validate_arguments(plug, {"part": 5}, "plug")
    with pytest.raises(ConfigError, match='must be a list, got "abc"'):
        validate_value(list[Any], "abc", "it")
    assert validate_value(Names, np.array(["a", "b"]), "it") == ["a", "b"]


def test_every_optimizer_in_timms_list_is_available_or_has_torchs_name() -> None:
    for name in timm.optim.list_optimizers():
        try:
            optimizer_class(str(name))
        except ConfigError as error:
            own = {key for key in vars(torch.optim) if key.lower() == name}
            needs_gpu = "CUDA" in str(error) or "install" in str(error)
            assert name in UNSUITABLE or needs_gpu or any(f'did you mean "{key}"' in str(error) for key in own), name
    assert optimizer_class("adafactor") is timm.optim.Adafactor


def test_dropped_settings_are_reported_once_and_only_if_the_config_loads(
    written: Path, caplog: pytest.LogCaptureFixture
) -> None:
    options = {"optimizer.type": "SGD", "model.backbone.type": "convnext_tiny"}
    config = load_config(DEMO, options)
    load_config(config)
    lines = [record.getMessage() for record in caplog.records]
    assert len([line for line in lines if "model.backbone.type=convnext_tiny does not accept" in line]) == 1
    caplog.clear()
    with pytest.raises(ConfigError):
        load_config(DEMO, {**options, "modle": 1})
    assert not caplog.records
    assert section(config, "model")["backbone"]["type"] == "convnext_tiny"


def test_one_option_can_name_a_component_and_another_set_its_settings() -> None:
    options = {"model.backbone": "resnet34", "model.backbone.frozen_stages": 2}
    assert load_config(DEMO, options).model.backbone == {"type": "resnet34", "frozen_stages": 2}
