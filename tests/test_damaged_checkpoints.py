"""A damaged or malicious checkpoint of our own format raises a one-line error with file and field, and
nothing is loaded."""

from __future__ import annotations

from pathlib import Path
from typing import Any

import pytest
import torch
from checkpoint_toys import TinyDetector, message, own, save
from trainer_toy import ToyMetric, toy_loader, toy_trainer

import chordate
from chordate.arguments import PositiveFloat
from chordate.errors import CheckpointError, ChordateError
from chordate.heads import ClassificationHead
from chordate.registry import HEADS

WRONG_STATES = {
    "iteration": ["x", -1, None, 2.5, True],
    "steps_per_epoch": [0, "6"],
    "evaluated": ["now"],
    "evaluation_is_due": ["yes", 1],
    "losses": [[], {"sums": {"loss": 1.0}, "counts": {}}, {"sums": {"loss": "high"}, "counts": {"loss": 1}}],
    "losses.counts.loss": [0],
    "optimizer": ["SGD", None],
    "optimizer.type": [3],
    "optimizer.trained": ["head.weight", [3]],
    "optimizer.state": [[], {"head.weight": 3}, {"head.weight": {"momentum_buffer": "x"}}],
    "optimizer.groups": [None, {}, [3], [{"step": "x"}]],
    "best": ["toy_AP", {"metric": 5, "score": 1.0, "iteration": 1}, {"metric": "toy_AP"}],
    "files": ["epoch_1.pt", [1], None],
    "history": [{}, ["epoch 1"], [{"mode": "val"}], [{"mode": "both", "epoch": 1, "iteration": 1}]],
    "history.0.toy_AP": ["high"],
    "rng": [3, [None], [{"torch": 1}]],
    "scaler": [None, {"scale": "x"}],
}
CASES = [(field, value) for field, values in WRONG_STATES.items() for value in values]


@pytest.fixture(scope="module")
def whole(tmp_path_factory) -> dict[str, Any]:
    """A checkpoint after two iterations, each followed by an evaluation, so `best` and `history` are not empty."""
    folder = tmp_path_factory.mktemp("whole")
    options = {"val_loader": toy_loader(5, training=False), "metric": ToyMetric(), "save_best": "toy_AP"}
    toy_trainer(folder, iterations=2, log_every=3, eval_every=1, **options).train()
    return torch.load(folder / "iteration_2.pt", weights_only=True)


def changed(state: Any, keys: list[str], value: Any) -> Any:
    """A copy of `state` in which the value at the path `keys` is replaced."""
    if not keys:
        return value
    if isinstance(state, list):
        return [changed(item, keys[1:], value) if str(i) == keys[0] else item for i, item in enumerate(state)]
    return {**state, keys[0]: changed(state.get(keys[0], {}), keys[1:], value)}


def resume(folder: Path, state: Any) -> None:
    save(folder / "broken.pt", state)
    options = {"val_loader": toy_loader(5, training=False), "metric": ToyMetric()}
    toy_trainer(folder / "run", iterations=4, resume=folder / "broken.pt", **options).train()


def test_an_undamaged_checkpoint_resumes(whole: Any, tmp_path: Path) -> None:
    resume(tmp_path, whole)


@pytest.mark.parametrize(("field", "value"), CASES, ids=[f"{field}={value!r:.30}" for field, value in CASES])
def test_a_training_state_with_a_wrong_value_is_refused(whole: Any, tmp_path: Path, field: str, value: Any) -> None:
    with pytest.raises(CheckpointError) as caught:
        resume(tmp_path, changed(whole, ["train", *field.split(".")], value))
    line = str(caught.value)
    assert "broken.pt" in line and f"(train.{field.split('.')[0]}" in line and "\n" not in line


def test_a_momentum_of_another_shape_is_refused_before_a_step_writes_past_its_end(whole: Any, tmp_path: Path) -> None:
    field = next(iter(whole["train"]["optimizer"]["state"]))
    states = whole["train"]["optimizer"]["state"] | {field: {"momentum_buffer": torch.zeros(1)}}
    broken = changed(whole, ["train", "optimizer", "state"], states)
    with pytest.raises(
        CheckpointError, match=r"broken\.pt: train\.optimizer\.state\..*\.momentum_buffer must have shape \["
    ):
        resume(tmp_path, broken)


@pytest.mark.parametrize("form", ["2", 2.0, True, None, [2], "x\n" * 50])
def test_a_format_version_that_is_no_number_is_refused(form: Any, tmp_path: Path) -> None:
    file = save(tmp_path / "a.pth", {**own(TinyDetector()), "chordate": form})
    assert message(TinyDetector(), file).startswith(f"{file} is not a complete Chordate checkpoint: its format version")
    with pytest.raises(CheckpointError, match="its format version is"):
        resume(tmp_path, {**torch.load(file, weights_only=True), "train": {}})


@pytest.mark.parametrize("part", ["model", "ema"])
def test_a_weight_that_is_no_tensor_is_refused(part: str, tmp_path: Path) -> None:
    state = own(TinyDetector())
    file = save(tmp_path / "a.pth", {**state, part: {**state["model"], "box.bias": "zeros"}})
    assert f"its {part}['box.bias'] must be a tensor, but has the type str" in message(TinyDetector(), file)


@pytest.mark.parametrize("classes", [{}, [], [1, 2], ["cat", None], "cat", 3, None])
def test_class_names_other_than_the_models_are_refused(classes: Any, tmp_path: Path) -> None:
    state = own(TinyDetector())
    file = save(tmp_path / "a.pth", {**state, "meta": {**state["meta"], "classes": classes}})
    line = message(TinyDetector(), file)
    assert str(file) in line and "classes" in line


@pytest.mark.parametrize(
    ("field", "value"),
    [
        ("skeleton", {"names": ["a", "b"], "bones": [[0, 2]]}),
        ("skeleton", ["a"]),
        ("stuff", 3),
        ("palette", [[1, 2]]),
        ("ignore_label", "void"),
        ("extra", {"x": torch.zeros(1)}),
        ("extra", {"num_classes": 3}),
    ],
)
def test_metadata_of_a_wrong_type_are_refused(field: str, value: Any, tmp_path: Path) -> None:
    state = own(TinyDetector())
    file = save(tmp_path / "a.pth", {**state, "meta": {**state["meta"], field: value}})
    line = message(TinyDetector(), file)
    assert line.startswith(f"{file}: broken dataset metadata (") and field in line.lower()


def test_the_error_for_a_checkpoint_without_the_classes_that_a_head_needs_names_it(tmp_path: Path) -> None:
    config = {"model": {"type": "ImageClassifier", "backbone": "resnet20_cifar"}}
    model = chordate.build_model(config, num_classes=2)
    file = save(tmp_path / "a.pth", {**own(model), "meta": {}})
    with pytest.raises(CheckpointError, match=r"a\.pth: its metadata does not fit the config's model: .* num_classes"):
        chordate.build_model(config, checkpoint=file)


def test_a_model_with_configured_classes_refuses_a_checkpoint_without_classes(tmp_path: Path) -> None:
    model = chordate.build_model("resnet20_cifar10", pretrained=False)
    file = save(tmp_path / "a.pth", {**own(model, model.meta), "meta": {"classes": []}})
    with pytest.raises(ChordateError, match=r"a\.pth: its meta\.classes is empty"):
        chordate.build_model("resnet20_cifar10", checkpoint=file)


@HEADS.register_module()
class ScaledHead(ClassificationHead):
    """A head with a setting that comes from the metadata."""

    def __init__(self, in_features: Any, num_classes: int, scale: PositiveFloat = 1.0):
        super().__init__(in_features, num_classes)
        self.scale = scale


@pytest.mark.parametrize(
    ("extra", "message"),
    [
        ({"scale": "x"}, 'head ScaledHead: scale must be a number > 0, got "x"'),
        ({"scale": -1.0}, "head ScaledHead: scale must be > 0, got -1"),
        ({"scale": [1.0]}, "head ScaledHead: scale must be a number"),
        ({"scale": None}, "head ScaledHead: scale must be a number > 0, got None"),
        ({"scale": float("inf")}, "head ScaledHead: scale must be"),
    ],
)
def test_metadata_for_a_head_are_checked_like_a_config(extra: Any, message: str, tmp_path: Path) -> None:
    config = {"model": {"type": "ImageClassifier", "backbone": "resnet20_cifar", "head": {"type": "ScaledHead"}}}
    model = chordate.build_model(config, num_classes=2)
    state = own(model)
    good = save(tmp_path / "good.pth", {**state, "meta": {**state["meta"], "extra": {"scale": 2, "unused": "x"}}})
    assert chordate.build_model(config, checkpoint=good).head.scale == 2
    file = save(tmp_path / "a.pth", {**state, "meta": {**state["meta"], "extra": extra}})
    with pytest.raises(CheckpointError) as error:
        chordate.build_model(config, checkpoint=file)
    line = str(error.value)
    assert line.startswith(f"{file}: its metadata does not fit the config's model: ") and "\n" not in line
    assert message in line


def test_metadata_cannot_replace_the_features_of_a_head(tmp_path: Path) -> None:
    config = {"model": {"type": "ImageClassifier", "backbone": "resnet20_cifar", "head": {"type": "ScaledHead"}}}
    state = own(chordate.build_model(config, num_classes=2))
    file = save(tmp_path / "a.pth", {**state, "meta": {**state["meta"], "extra": {"in_features": 3}}})
    assert chordate.build_model(config, checkpoint=file).head.scale == 1
