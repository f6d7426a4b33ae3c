"""Custom datasets, metrics and backbones are validated when a run starts; violations raise one-line errors."""

from __future__ import annotations

import inspect
import re
import shutil
from pathlib import Path
from typing import Any

import pytest
import torch
from torch.utils.data import DataLoader
from trainer_toy import ToyMetric, toy_loader, toy_trainer

import chordate
from chordate import head_contracts
from chordate.cli.main import main
from chordate.config import load_config
from chordate.contracts import Backbone, FeatureSpec, offered
from chordate.errors import ConfigError
from chordate.pixel_contracts import PixelHead
from chordate.registry import HEADS, check_contract
from chordate.training.callbacks import Callback, EarlyStopping, ValidationLoss

CONFIG = """
custom_imports = dict(imports=["broken_plugs"])
model = dict(type="Guesser")
train_data = dict(dataset=dict(type="{train}"), batch_size=2, workers=0)
val_data = dict(dataset=dict(type="{val}"), batch_size=2, workers=0)
metric = {metric}
optimizer = dict(type="SGD", lr=0.1)
train = dict(epochs=1, tensorboard=False)
"""
DATASETS = {
    "InfoIsADict": "sample['info'] must be an ImageInfo, got dict",
    "InfoHasAText": "sample['info']: image_id must be",
    "MetaIsADict": "MetaIsADict.meta must be a DatasetMeta, got dict",
    "NoValue": "its samples have no 'value'; the fields of Brightness are value [N] float32",
    "WholeNumbers": "Brightness.value must be [N] float32, got [1] int64",
    "TwoValues": "Brightness.value must be [N] float32, got [1, 2] float32",
    "TextValue": "cannot be collated (TypeError: expected Tensor as element 0 in argument 0, but got str)",
    "ArrayImage": "sample['image'] must be a tensor [C, H, W], got ndarray [16, 16, 3] uint8",
    "WideImage": "images must be [N, C, H, W] uint8 (or float32, 0 … 255), got Tensor [1, 3, 16, 16] int64",
    "ScaledImage": "ScaledImage: images must have values of 0 … 255, got at most 0.749; remove the scaling to 0 … 1",
    "LastNoValue": "the fields of Brightness are value [N] float32 (image 3.png) (sample 3)",
    "OtherTargets": "targets must be InstanceTargets (its target_type), got Brightness",
    "Empty": "Empty has no samples; there is nothing to load",
    "FloatLength": "FloatLength.__len__ must return the number of samples, an int ≥ 0: 'float' object",
    "TupleSample": "TupleSample.read must return a dict with image, info and the targets' fields, got tuple",
    "NoIndex": "NoIndex.read must take (index), but takes ()",
    "ThirdClass": "ThirdClass: ClassTargets.labels has the label 2, but the dataset's 2 classes have the labels 0 … 1",
    "NegativeClass": "NegativeClass: ClassTargets.labels has the label -7, but",
    "NoRead": "NoRead does not implement Dataset.read, which is required",
    "NoDataset": "NoDataset is not a subclass of Dataset: derive it from chordate.data.dataset.Dataset",
}  # fmt: skip
METRICS = {
    "TextNumbers": "TextNumbers.compute must return numbers, but error is a str",
    "OneNumber": "OneNumber.compute must return a dict of numbers, got float",
    "NumberedNumbers": "NumberedNumbers.compute must return a dict from names to numbers, but its key 1 is not a str",
    "OneArgument": "OneArgument.update must take (predictions, batch), but takes (predictions)",
    "NoCompute": "NoCompute does not implement Metric.compute, which is required",
    "NoMetric": "NoMetric is not a subclass of Metric: derive it from chordate.model_contracts.Metric",
    "CocoMetric": "CocoMetric needs a dataset with COCO annotations",
    "SemanticMetric": "SemanticMetric needs a dataset with meta, labels_of; Gray has no labels_of",
    "PanopticMetric": "Gray has no category_ids, segments_of",
    "AccuracyMetric": "AccuracyMetric evaluates Classifications; the model predicts Guess",
}


def train(folder: Path, **changed: Any) -> int:
    shutil.copy(Path(__file__).parent / "outside/broken_plugs.py", folder)
    values = {"train": "Gray", "val": "Gray", "metric": None, **changed}
    (folder / "config.py").write_text(CONFIG.format(**values))
    return main(["train", str(folder / "config.py"), "--work-dir", str(folder / "run")])


def config_of(folder: Path, settings: dict[str, Any]) -> Any:
    (folder / "broken_plugs.py").write_text((Path(__file__).parent / "outside/broken_plugs.py").read_text())
    (folder / "config.py").write_text(CONFIG.format(train="Gray", val="Gray", metric=None))
    return load_config(folder / "config.py", settings)


def test_valid_custom_components_can_be_trained(tmp_path: Path) -> None:
    assert train(tmp_path) == 0
    assert list((tmp_path / "run").glob("epoch_1.pt"))


@pytest.mark.parametrize("role", ["train", "val"])
@pytest.mark.parametrize("name", DATASETS)
def test_a_dataset_that_breaks_its_contract_is_refused_before_training(tmp_path: Path, capsys, name, role) -> None:
    assert train(tmp_path, **{role: name}) == 2
    line = capsys.readouterr().err
    assert name in line and DATASETS[name] in line and line.count("\n") == 1
    assert not list((tmp_path / "run").glob("*.pt"))


@pytest.mark.parametrize("name", METRICS)
def test_a_metric_that_breaks_its_contract_is_refused_before_training(tmp_path: Path, capsys, name) -> None:
    assert train(tmp_path, metric=f'dict(type="{name}")') == 2
    line = capsys.readouterr().err
    assert METRICS[name] in line and line.count("\n") == 1
    assert not list((tmp_path / "run").glob("*.pt"))


def test_annotations_of_another_type_are_refused_before_training(tmp_path: Path, capsys) -> None:
    assert train(tmp_path, train="HalfAnnotated", val="HalfAnnotated", metric='dict(type="CocoMetric")') == 2
    assert "HalfAnnotated.coco must be a hotcoco.COCO, got object" in capsys.readouterr().err


@pytest.mark.parametrize(("channels", "stride", "wrong"), [(0, 4, "channels"), (8, 0, "stride"), (8, -4, "stride")])
def test_a_backbones_channels_and_strides_must_be_positive(channels: int, stride: int, wrong: str) -> None:
    backbone = Backbone()
    backbone.out_features = {"c2": FeatureSpec(channels, stride)}
    message = rf"Backbone.out_features\['c2'\]: {wrong} must be ≥ 1, got {min(channels, stride)}"
    with pytest.raises(ConfigError, match=message):
        offered(backbone)


def test_a_plain_data_loader_is_refused_by_the_trainer(tmp_path: Path) -> None:
    plain: Any = DataLoader(torch.zeros(4, 1))
    for loaders in ({"loader": plain}, {"val_loader": plain, "metric": ToyMetric()}):
        with pytest.raises(ConfigError, match="DataLoader is not a subclass of Loader: .* from chordate.data.loader"):
            toy_trainer(tmp_path, **loaders)
    toy_trainer(tmp_path, loader=toy_loader())


def test_different_metadata_of_training_and_validation_data_is_an_error(tmp_path: Path, capsys) -> None:
    """The message compares the validation data with the training data, not with a model or checkpoint."""
    (tmp_path / "named.py").write_text(
        "from broken_plugs import DATASETS, DatasetMeta, Gray\n"
        "@DATASETS.register_module(force=True)\n"
        "class Inches(Gray):\n    meta = DatasetMeta(extra={'unit': 'inch'})\n"
    )
    (tmp_path / "broken_plugs.py").write_text((Path(__file__).parent / "outside/broken_plugs.py").read_text())
    config = CONFIG.format(train="Gray", val="Inches", metric=None).replace('"broken_plugs"', '"broken_plugs", "named"')
    (tmp_path / "config.py").write_text(config)
    assert main(["train", str(tmp_path / "config.py"), "--work-dir", str(tmp_path / "run")]) == 2
    line = capsys.readouterr().err
    assert "val_data: Inches does not fit the training data: it has unit='inch' instead of 'share'" in line


@pytest.mark.parametrize(
    ("head", "contract"),
    [
        ("ClassificationHead", head_contracts.ImageHead),
        ("ConvFC", head_contracts.RoITrunk),
        ("StageTrunk", head_contracts.RoITrunk),
        ("RPNHead", head_contracts.ProposalHead),
        ("BoxHead", head_contracts.RegionHead),
        ("CascadeHead", head_contracts.RoIHead),
        ("MaskHead", head_contracts.InstanceHead),
        ("CascadeMaskHead", head_contracts.InstanceHead),
        ("KeypointHead", head_contracts.InstanceHead),
        ("RetinaHead", head_contracts.DenseHead),
    ],
)
def test_our_heads_have_the_methods_of_their_contract(head: str, contract: type) -> None:
    """Implementations have the methods and arguments of their protocol; further arguments have defaults."""
    cls = HEADS.get(HEADS.expand(head)["type"])
    methods = {name: m for base in contract.__mro__ for name, m in vars(base).items() if inspect.isfunction(m)}
    methods = {name: m for name, m in methods.items() if not name.startswith("_") or name == "__call__"}
    assert methods
    for name, method in methods.items():
        wanted = list(inspect.signature(method).parameters.values())
        ours = list(inspect.signature(getattr(cls, "forward" if name == "__call__" else name)).parameters.values())
        assert [p.name for p in ours[1 : len(wanted)]] == [p.name for p in wanted[1:]], name
        assert all(p.default is not p.empty for p in ours[len(wanted) :]), name


class WrongName:
    """A head whose `loss` has as many arguments as PixelHead's, but with other names."""

    def __call__(self, maps: Any) -> None: ...
    def loss(self, scores: Any, truth: Any) -> None: ...


def test_a_head_with_other_argument_names_is_told_the_names() -> None:
    message = r'"WrongName" does not implement PixelHead: arguments must be named as in loss\(logits, labels\); rename'
    with pytest.raises(ConfigError, match=message):
        check_contract(WrongName(), PixelHead)


class NoCallback: ...


class NoArguments(Callback):
    def on_step_end(self) -> None: ...  # type: ignore[override]


class ExtraArgument(Callback):
    def on_train_start(self, trainer: Any, extra: Any) -> None: ...  # type: ignore[override]


class NoMetrics(Callback):
    def on_evaluation_end(self, trainer: Any) -> None: ...  # type: ignore[override]


class UnknownHook(Callback):
    def on_step_ends(self, trainer: Any) -> None: ...


class OtherNames(Callback):
    on_cpu = True

    def on_log(self, run: Any, entry: Any, verbose: bool = False) -> None: ...


@pytest.mark.parametrize(
    ("kind", "message"),
    [
        (NoCallback, "NoCallback is not a subclass of Callback: derive it from chordate.training.callbacks.Callback"),
        (NoArguments, "NoArguments.on_step_end must take (trainer, losses), but takes ()"),
        (ExtraArgument, "ExtraArgument.on_train_start must take (trainer), but takes (trainer, extra)"),
        (NoMetrics, "NoMetrics.on_evaluation_end must take (trainer, metrics), but takes (trainer)"),
        (UnknownHook, 'UnknownHook: unknown method of Callback "on_step_ends"; did you mean "on_step_end"'),
    ],
)
def test_a_callback_that_breaks_its_contract_is_refused_by_the_trainer(tmp_path: Path, kind, message) -> None:
    with pytest.raises(ConfigError, match=re.escape(message)):
        toy_trainer(tmp_path, callbacks=[kind()])


def test_a_callbacks_arguments_may_have_other_names(tmp_path: Path) -> None:
    toy_trainer(tmp_path, callbacks=[OtherNames()])


@pytest.mark.parametrize(
    ("setting", "callbacks", "message"),
    [
        ({"train.save_best": "erorr"}, [], 'train.save_best: unknown metric "erorr"; did you mean "error"'),
        ({}, [EarlyStopping("erorr")], 'callbacks: EarlyStopping: unknown metric "erorr"; did you mean "error"'),
        ({}, [EarlyStopping("erorr"), ValidationLoss()], 'unknown metric "erorr"; did you mean "error"'),
    ],
)
def test_a_misspelled_metric_is_refused_before_training(tmp_path: Path, setting, callbacks, message) -> None:
    with pytest.raises(ConfigError, match=re.escape(message)):
        chordate.train(config_of(tmp_path, setting), work_dir=tmp_path / "run", callbacks=callbacks)
    assert not list((tmp_path / "run").rglob("*.pt"))


def test_metrics_of_the_metric_and_of_callbacks_can_be_monitored(tmp_path: Path) -> None:
    class Adds(Callback):
        def on_evaluation_end(self, trainer: Any, metrics: dict[str, float]) -> None:
            metrics["mine"] = 1.0

    for setting, callbacks in (
        ({"train.save_best": "error"}, [EarlyStopping("val_value"), ValidationLoss()]),
        ({"train.save_best": "mine"}, [Adds()]),
    ):
        run = chordate.train(config_of(tmp_path, setting), work_dir=tmp_path / "run", callbacks=callbacks)
        assert run.best["metric"] == setting["train.save_best"]
