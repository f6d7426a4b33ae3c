"""Every known checkpoint format is recognized and loaded; other files raise a one-line error with the cause."""

from functools import partial

import pytest
import safetensors.torch
import timm
import torch
import torchvision
from checkpoint_toys import TinyBackbone, TinyDetector, filled, is_filled, message, own, save
from torch import nn

from chordate import build_model
from chordate.backbones import ResNet
from chordate.errors import CheckpointError
from chordate.registry import BACKBONES
from chordate.structures import DatasetMeta, Skeleton
from chordate.weights.checkpoint_sources import read_state
from chordate.weights.loading import load_checkpoint
from chordate.weights.state_dict_match import adapt_input_channels

# --- checkpoints of known formats -------------------------------------------------------------------------------


def wrapped_forms():
    state = filled(TinyDetector()).state_dict()
    return {
        "bare": state,
        "state_dict": {"state_dict": state, "meta": {"epoch": 3}},
        "model": {"model": state, "optimizer": {"lr": 0.1}},
        "nested": {"model": {"state_dict": state}},
        "data parallel": {f"module.{k}": v for k, v in state.items()},
        "compiled": {f"_orig_mod.{k}": v for k, v in state.items()},
        "lightning": {"state_dict": {f"model.{k}": v for k, v in state.items()}},
        "half": {k: v.half() if v.is_floating_point() else v for k, v in state.items()},
        "without counters": {k: v for k, v in state.items() if "num_batches" not in k},
    }


@pytest.mark.parametrize("form", wrapped_forms())
def test_a_state_dict_loads_bare_or_wrapped(form, tmp_path):
    model = TinyDetector()
    report = load_checkpoint(model, save(tmp_path / "x.pth", wrapped_forms()[form]))
    assert is_filled(model)
    assert report.format == "state dict"
    assert not report.missing
    assert not report.skipped


def test_checkpoints_load_into_data_parallel_and_compiled_models():
    for wrap in (nn.DataParallel, partial(torch.compile, backend="eager")):
        model = TinyDetector()
        load_checkpoint(wrap(model), filled(TinyDetector()).state_dict())
        assert is_filled(model)


def test_our_own_format_sets_the_models_classes(tmp_path):
    model = TinyDetector(classes=("class 0", "class 1"))
    report = load_checkpoint(model, save(tmp_path / "epoch_1.pth", own(filled(TinyDetector()))))
    assert report.format == "chordate"
    assert report.meta.classes == model.classes == ("cat", "dog")
    assert model.meta == report.meta
    assert is_filled(model)
    assert str(report) == f"{tmp_path}/epoch_1.pth (chordate): {len(report.loaded)} tensors loaded"


PEOPLE = DatasetMeta(("cat", "dog"), Skeleton(("nose", "tail")), palette=((1, 2, 3), (4, 5, 6)), extra={"bins": 8})


@pytest.mark.parametrize(
    ("ours", "is_taken"),
    [
        (DatasetMeta(("a", "b"), Skeleton(("x", "y")), extra={"bins": 8}), True),
        (DatasetMeta(("a", "b")), True),  # accepted, since the model has no keypoints
        (DatasetMeta(("a", "b"), Skeleton(("x", "y", "z"))), False),
        (DatasetMeta(("a", "b"), extra={"bands": 4}), False),
    ],
    ids=["other names", "no keypoints", "more keypoints", "other facts"],
)
def test_metadata_are_taken_from_the_checkpoint_if_they_fit_the_model(ours, is_taken):
    model = TinyDetector()
    model.meta = ours
    report = load_checkpoint(model, own(filled(TinyDetector()), PEOPLE))
    assert report.meta == PEOPLE
    assert model.meta == (PEOPLE if is_taken else ours)


def test_averaged_weights_are_preferred(tmp_path):
    model = TinyDetector()
    load_checkpoint(model, own(filled(TinyDetector(), 0.5), ema=filled(TinyDetector(), 0.25).state_dict()))
    assert is_filled(model, 0.25)


def test_a_loaded_state_dict_keeps_its_file_name_for_messages(tmp_path):
    state = read_state(save(tmp_path / "epoch_1.pth", own(TinyDetector())))
    assert state["meta"]["classes"] == ["cat", "dog"]
    assert "epoch_1.pth" in message(nn.Linear(2, 2), state)


def test_a_safetensors_file_loads_as_a_checkpoint(tmp_path):
    path = tmp_path / "x.safetensors"
    safetensors.torch.save_file(filled(TinyDetector()).state_dict(), path)
    model = TinyDetector()
    load_checkpoint(model, path)
    assert is_filled(model)


def test_a_torchvision_classifier_fills_our_resnet_and_reports_its_fc(tmp_path):
    theirs = torchvision.models.resnet18(weights=None)
    model = BACKBONES.build("resnet18")
    report = load_checkpoint(model, save(tmp_path / "r18.pth", theirs.state_dict()))
    assert report.format == "torchvision"
    assert report.skipped == ["fc.weight", "fc.bias"]
    assert not report.missing
    assert all(torch.equal(t, theirs.state_dict()[name]) for name, t in model.state_dict().items())
    assert str(report).endswith("(torchvision): 120 tensors loaded, 2 skipped (fc.weight, fc.bias)")


@pytest.mark.parametrize("norm", ["FrozenBN", "SyncBN"])
def test_batch_norm_weights_load_into_other_norms(norm):
    model = ResNet(18, norm=norm)
    report = load_checkpoint(model, torchvision.models.resnet18(weights=None).state_dict())
    assert not report.missing
    assert report.skipped == ["fc.weight", "fc.bias"]


def test_torchvisions_weights_in_a_caffe_style_network_are_warned_of():
    """Every tensor fits, but was trained with the stride in another convolution, so features would be wrong."""
    state = torchvision.models.resnet50(weights=None).state_dict()
    with pytest.warns(UserWarning, match=r"set --cfg-options model\.backbone\.style=pytorch"):
        load_checkpoint(BACKBONES.build("resnet50_caffe"), state)


def test_stages_that_were_not_built_are_skipped():
    report = load_checkpoint(ResNet(18, out=["c4"]), torchvision.models.resnet18(weights=None).state_dict())
    assert {name.split(".")[0] for name in report.skipped} == {"layer4", "fc"}


def test_a_backbone_loads_its_tensors_from_a_full_model():
    model = TinyBackbone()
    report = load_checkpoint(model, own(filled(TinyDetector())))
    assert is_filled(model)
    assert report.skipped == ["box.weight", "box.bias"]


# --- another number of input channels ---------------------------------------------------------------------------


@pytest.mark.parametrize("channels", [1, 2, 4, 6, 7])
def test_a_stem_is_adapted_to_input_channels_as_in_timm(channels):
    weight = torch.randn(8, 3, 7, 7)
    expected = timm.models.adapt_input_conv(channels, weight)
    torch.testing.assert_close(adapt_input_channels(weight, channels), expected)


def test_a_gray_stem_responds_to_gray_images_as_the_rgb_stem():
    weight, gray = torch.randn(8, 3, 7, 7, dtype=torch.float64), torch.randn(1, 1, 16, 16, dtype=torch.float64)
    expected = nn.functional.conv2d(gray.expand(-1, 3, -1, -1), weight)
    torch.testing.assert_close(nn.functional.conv2d(gray, adapt_input_channels(weight, 1)), expected)


def test_weights_for_rgb_load_into_a_backbone_for_other_channels():
    theirs = torchvision.models.resnet18(weights=None).state_dict()
    model = ResNet(18, in_channels=4)
    report = load_checkpoint(model, theirs)
    assert report.adapted == ["conv1.weight"]
    torch.testing.assert_close(model.conv1.weight, adapt_input_channels(theirs["conv1.weight"], 4))

    detector = TinyDetector(in_channels=1)
    assert load_checkpoint(detector, TinyDetector().state_dict()).adapted == ["backbone.conv1.weight"]


# --- checkpoints of another model -------------------------------------------------------------------------------


def test_a_checkpoint_of_another_model_is_refused_with_its_tensors_names(tmp_path):
    path = save(tmp_path / "x.pth", torchvision.models.squeezenet1_1(weights=None).state_dict())
    error = message(TinyDetector(), path)
    assert f"{path} belongs to another model: none of its tensors fits TinyDetector" in error
    assert "features.0.weight" in error
    known = error.partition("(known formats: ")[2].removesuffix(")").split(", ")
    assert known[:2] == ["chordate", "state dict"] and {"timm", "torchvision"} <= {*known}


@pytest.mark.parametrize(
    ("theirs", "ours"), [("resnet34", "resnet18"), ("resnet101", "resnet50"), ("resnet18", "resnet34")]
)
def test_weights_of_another_depth_are_refused(theirs, ours):
    """ResNet-101 has all tensors of ResNet-50 with the same shapes, but is a different network."""
    state = torchvision.models.get_model(theirs, weights=None).state_dict()
    error = message(BACKBONES.build(ours), state)
    assert "layer" in error
    assert "does not fit ResNet-" in error


def test_weights_of_a_network_with_another_norm_are_refused():
    error = message(ResNet(18, norm="GN"), torchvision.models.resnet18(weights=None).state_dict())
    assert "not in the model: bn1.running_mean" in error


@pytest.mark.parametrize("dtype", [torch.int8, torch.uint8, torch.int64, torch.bool, torch.complex64])
def test_weights_that_are_not_real_numbers_are_refused(dtype):
    """Quantized weights without their scales would load as meaningless numbers."""
    state = {name: tensor.to(dtype) for name, tensor in filled(TinyDetector(), 3).state_dict().items()}
    kind = str(dtype).removeprefix("torch.")
    assert f"backbone.conv1.weight {kind} [4, 3, 3, 3] for the model's float32 [4, 3, 3, 3]" in message(
        TinyDetector(), state
    )
    del state["backbone.bn1.num_batches_tracked"]
    assert f"0 of 10 tensors fit; mismatched: backbone.conv1.weight {kind} [4, 3, 3, 3]" in message(
        TinyDetector(), state
    )


def test_an_averaged_counter_loads():
    """Some EMA implementations also average BatchNorm's counter, which makes it a floating-point number."""
    counter = {"backbone.bn1.num_batches_tracked": torch.tensor(2.5)}
    assert not load_checkpoint(TinyDetector(), {**TinyDetector().state_dict(), **counter}).missing


def test_a_detector_checkpoint_with_other_classes_names_both_counts():
    error = message(TinyDetector(classes=("a", "b", "c")), own(TinyDetector()))
    assert "trained on 2 classes, the model has 3" in error
    assert "box.weight [3, 4] for the model's [4, 4]" in error


def test_an_error_about_other_settings_names_the_config_that_the_run_saved(tmp_path):
    trained = TinyDetector(blocks=2)
    error = message(TinyDetector(), own(trained))
    assert "if it was trained with --cfg-options, repeat them, or use the config in the folder of its run" in error
    for start in ("20260130_235959", "20260131_120000", "tensorboard"):
        (tmp_path / start).mkdir()
        (tmp_path / start / "x.py").write_text("")
    error = message(TinyDetector(), save(tmp_path / "best.pt", own(trained)))
    assert error.endswith(f"repeat them, or use {tmp_path / '20260131_120000/x.py'}")
    assert "cfg-options" not in message(TinyDetector(), save(tmp_path / "bare.pt", trained.state_dict()))


@pytest.mark.parametrize("name", ["fc", "classifier", "head", "linear"])
def test_a_bare_classifiers_weights_fill_the_whole_model(name):
    trained, fresh = (build_model("resnet20_cifar10") for _ in range(2))
    theirs = {key.removeprefix("backbone."): value for key, value in trained.state_dict().items()}
    theirs = {f"module.{key.replace('head.fc', name)}": value for key, value in theirs.items()}
    report = load_checkpoint(fresh, {"state_dict": theirs})
    assert not report.missing and not report.skipped
    assert all(torch.equal(value, trained.state_dict()[key]) for key, value in fresh.state_dict().items())
    theirs[f"module.{name}.weight"] = torch.zeros(7, 64)
    assert "head.fc.weight [7, 64] for the model's [10, 64]" in message(fresh, theirs)
    theirs[f"module.{name}.bias"] = torch.zeros(7)
    assert "head.fc.weight [7, 64] for the model's [10, 64]" in message(fresh, theirs)


def test_not_strict_keeps_the_predictor_and_the_classes_of_the_model():
    model = filled(TinyDetector(classes=("a", "b", "c")), 0.75)
    report = load_checkpoint(model, own(filled(TinyDetector())), strict=False)
    assert report.skipped == report.missing == ["box.weight", "box.bias"]
    assert model.classes == ("a", "b", "c")
    assert is_filled(model.backbone, 0.5)
    assert is_filled(model.box, 0.75)


def test_not_strict_still_needs_a_tensor_that_fits():
    assert "belongs to another model" in message(TinyDetector(), nn.Linear(2, 2).state_dict(), strict=False)


def test_backbone_weights_do_not_load_as_a_full_model():
    error = message(TinyDetector(), filled(TinyBackbone()).state_dict())
    assert "only for the backbone of TinyDetector" in error
    assert "load_checkpoint(model.backbone, …)" in error


def test_weights_that_are_not_finite_are_warned_of():
    state = TinyDetector().state_dict()
    state["box.bias"][1] = float("nan")
    with pytest.warns(UserWarning, match=r"the state dict has NaN or infinite values in 1 tensor: box.bias"):
        load_checkpoint(TinyDetector(), state)


OWN = {"chordate": 2, "model": {}, "meta": {}}


@pytest.mark.parametrize(
    "wrong", [{"model": 3}, {"meta": None}, {"ema": 3}, {"meta": 5}, {"config": {}}, {"train": [1]}]
)
def test_a_checkpoint_of_ours_with_foreign_entries_is_a_one_line_error(tmp_path, wrong):
    file = save(tmp_path / "a.pth", {**OWN, **wrong})
    with pytest.raises(CheckpointError, match=r"a\.pth is not a complete Chordate checkpoint: its (\w+) has") as caught:
        load_checkpoint(TinyDetector(), file)
    assert f"its {next(iter(wrong))} has the type" in str(caught.value)


@pytest.mark.parametrize(
    ("meta", "field"),
    [({"classes": 5}, "classes"), ({"skeleton": {"names": [3]}}, "skeleton"), ({"extra": []}, "extra")],
)
def test_broken_metadata_names_the_file_and_the_field(tmp_path, meta, field):
    file = save(tmp_path / "a.pth", {**own(TinyDetector()), "meta": meta})
    text = message(TinyDetector(), file)
    assert text.startswith(f"{file}: broken dataset metadata ({field}")
